"""ZMQ sockets that hear an engine's KV-cache events (wire format: `routing.kvformat`) on our own loop. Needs `pyzmq`, the extra `kv`.

A socket of ZMQ shows by one file descriptor that *something* happened to it. It is watched with `add_reader`, and each time the socket is
read until it has nothing more: what is left over would not show again. We do that by hand because the other ways cost more: measured on
uvloop with batches of 2 kB, CPU a batch in a burst and at one a millisecond, 15 and 81 us by hand, 54 and 174 us through `zmq.asyncio`
(a future and a task switch each), 30 and 70 us through a thread that hands over (which also runs beside the loop, at its cost).

All sockets of a `Hub` share one slice of 2 ms in a turn of the loop. What they cannot read in it waits in ZMQ's queues, which are bounded:
beyond that the engine drops, which shows as a gap in the numbers.
"""

from __future__ import annotations

import asyncio
import re
import struct
import time
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import zmq

SLICE_SECONDS = 0.002  # of work in one turn of the loop
REPLAY_SECONDS = 10.0  # for a whole replay
QUEUE = 1000  # batches that wait unread, here
REPLAY_QUEUE = 20_000  # likewise of a replay, which comes all at once: vLLM and SGLang keep 10,000 unless told otherwise
PAYLOAD_MAX = 16 << 20  # bytes; a publisher that sends more in a batch is disconnected
HEARTBEAT_MS, HEARTBEAT_LIMIT_MS = 5000, 15_000  # a peer that says nothing for so long is gone
RECONNECT_MS, RECONNECT_MAX_MS = 100, 3000
TOPIC_MAX = 1024
_END = b"\xff" * 8
_EVENT = struct.Struct("=HI")
_ENDPOINT = re.compile(r"tcp://(?!\*)[^\s/]+:[1-9][0-9]{0,4}|ipc://[^\s*]+")


class NoZmq(RuntimeError):
    """KV events are asked for, and pyzmq is not installed."""


class Sink(Protocol):
    """Who hears: plain calls on the loop, which neither block nor raise. After `Subscriber.fetch` come `part`s and one `filled`, and no
    `message` before that one. Where there is a replay, what was published before `connected` does not come as `message`s."""

    def connected(self) -> None: ...

    def disconnected(self) -> None: ...

    def message(self, seq: int, payload: bytes) -> None: ...

    def part(self, seq: int, payload: bytes) -> None: ...

    def filled(self, whole: bool) -> None: ...

    def bad(self, why: str) -> None: ...


def endpoint_problem(endpoint: str) -> str:
    """What is wrong with a publisher's endpoint, as half a sentence; empty when it can be connected to."""
    if _ENDPOINT.fullmatch(endpoint) and (endpoint.startswith("ipc") or int(endpoint.rpartition(":")[2]) < 1 << 16):
        return ""
    if endpoint.startswith("tcp://*"):
        return "is where the engine listens; write the host to connect to in place of *"
    return "is no endpoint; write tcp://HOST:PORT or ipc:///PATH"


def rank_endpoint(endpoint: str, rank: int) -> str:
    """Where data-parallel rank `rank` publishes when rank 0 publishes at `endpoint`: a port for each, or a file with a suffix. As vLLM's
    and SGLang's `offset_endpoint_port`."""
    if not rank or not endpoint:
        return endpoint
    if endpoint.startswith("tcp://"):
        base, _, port = endpoint.rpartition(":")
        return f"{base}:{int(port) + rank}"
    return f"{endpoint}_dp{rank}"


class Hub:
    """The context and the reading turn that a loop's subscribers share. Belongs to the running loop; makes nothing before it is used."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.loop = asyncio.get_running_loop()
        self._clock = clock
        self._context: zmq.Context[zmq.Socket[bytes]] | None = None
        self._ready: dict[Subscriber, None] = {}  # an ordered set
        self._turn: asyncio.Handle | None = None
        self.subscribers: set[Subscriber] = set()

    def subscribe(self, endpoint: str, sink: Sink, topic: str = "", replay: str = "") -> Subscriber:
        """Begins to hear the publisher at `endpoint`, and goes on until it is closed, over lost connections too. Returns at once.

        `topic`: what the topics of its messages begin with. `replay`: the endpoint of its replay, "" when it has none.
        Raises ValueError for an endpoint that cannot be, NoZmq.
        """
        for each in (endpoint, replay):
            if each and (wrong := endpoint_problem(each)):
                raise ValueError(f"the KV-event endpoint {each} {wrong}")
        if self._context is None:
            self._context = _zmq().Context(io_threads=1)
        subscriber = Subscriber(self, self._context, endpoint, sink, topic.encode(), replay)
        self.subscribers.add(subscriber)
        self.wake(subscriber)  # what came between connecting and watching would not show
        return subscriber

    def wake(self, subscriber: Subscriber) -> None:
        """One of its sockets has something to read."""
        self._ready[subscriber] = None
        if self._turn is None:
            self._turn = self.loop.call_soon(self._read)

    def forget(self, subscriber: Subscriber) -> None:
        """It is closed."""
        self.subscribers.discard(subscriber)
        self._ready.pop(subscriber, None)

    def _read(self) -> None:
        """One slice of reading, a batch of each in turn."""
        self._turn = None
        ready, end = self._ready, self._clock() + SLICE_SECONDS
        try:
            while ready:
                one = next(iter(ready))
                del ready[one]
                if one.read():
                    ready[one] = None  # behind the others
                if self._clock() >= end:
                    break
        finally:
            if ready and self._turn is None:
                self._turn = self.loop.call_soon(self._read)

    def close(self) -> None:
        """Closes all. Idempotent; waits for ZMQ's own thread, which has nothing left to send."""
        for subscriber in list(self.subscribers):
            subscriber.close()
        if self._turn is not None:
            self._turn.cancel()
            self._turn = None
        if self._context is not None:
            self._context.destroy(linger=0)
            self._context = None


class Subscriber:
    """One publisher: its messages, what becomes of the connection, and replays one at a time. Made by `Hub.subscribe`."""

    def __init__(self, hub: Hub, context: zmq.Context[zmq.Socket[bytes]], endpoint: str, sink: Sink, topic: bytes, replay: str) -> None:
        z = _zmq()
        self.endpoint, self.sink, self.topic, self.replay = endpoint, sink, topic, replay
        self._hub, self._context = hub, context
        self._again, self._noblock = z.Again, z.NOBLOCK
        self._seen: bytes | None = None  # the topic of all messages so far
        self._closed = False
        self._source: zmq.Socket[bytes] | None = None  # of a replay under way
        self._limit: asyncio.TimerHandle | None = None
        self._sub = self._socket(z.SUB, QUEUE)
        self._sub.setsockopt(z.SUBSCRIBE, topic)
        events = z.EVENT_HANDSHAKE_SUCCEEDED | z.EVENT_DISCONNECTED | z.EVENT_HANDSHAKE_FAILED_PROTOCOL
        self._up, self._gone = int(z.EVENT_HANDSHAKE_SUCCEEDED), int(z.EVENT_DISCONNECTED)
        self._monitor: zmq.Socket[bytes] = self._sub.get_monitor_socket(events)
        self._sub.connect(endpoint)
        self._watch(self._monitor)
        self._watch(self._sub)

    def fetch(self, start: int) -> None:
        """Asks for all batches from number `start` on that the publisher still has. `part` and `filled` tell the sink; until then published
        batches wait. A replay under way is given up without a word."""
        self._end_replay()
        if self._closed:
            return
        self._unwatch(self._sub)
        source = self._source = self._socket(_zmq().DEALER, REPLAY_QUEUE)
        source.connect(self.replay)
        source.send_multipart([b"", start.to_bytes(8, "big")], self._noblock)
        self._limit = self._hub.loop.call_later(REPLAY_SECONDS, self._filled, False)
        self._watch(source)
        self._hub.wake(self)

    def read(self) -> bool:
        """Reads and hands over one thing. False when nothing is there. Called by the hub."""
        if self._closed:
            return False
        if (frames := self._one(self._monitor)) is not None:
            self._changed(frames)
        elif self._source is not None:
            if (frames := self._one(self._source)) is None:
                return False
            self._part(frames)
        elif (frames := self._one(self._sub)) is not None:
            self._message(frames)
        else:
            return False
        return True

    def close(self) -> None:
        """Ends it; the sink hears nothing more. Idempotent."""
        if self._closed:
            return
        self._closed = True
        self._end_replay()
        for socket in (self._sub, self._monitor):
            self._unwatch(socket)
        self._sub.disable_monitor()
        self._monitor.close(0)
        self._sub.close(0)
        self._hub.forget(self)

    def _socket(self, kind: int, queue: int) -> zmq.Socket[bytes]:
        z = _zmq()
        socket = self._context.socket(kind)
        for option, value in (
            (z.LINGER, 0), (z.RCVHWM, queue), (z.MAXMSGSIZE, PAYLOAD_MAX), (z.IPV6, 1),
            (z.HEARTBEAT_IVL, HEARTBEAT_MS), (z.HEARTBEAT_TIMEOUT, HEARTBEAT_LIMIT_MS),
            (z.RECONNECT_IVL, RECONNECT_MS), (z.RECONNECT_IVL_MAX, RECONNECT_MAX_MS),
        ):  # fmt: skip
            socket.setsockopt(option, value)
        return socket

    def _watch(self, socket: zmq.Socket[bytes]) -> None:
        self._hub.loop.add_reader(socket.fileno(), self._hub.wake, self)

    def _unwatch(self, socket: zmq.Socket[bytes]) -> None:
        self._hub.loop.remove_reader(socket.fileno())

    def _one(self, socket: zmq.Socket[bytes]) -> list[bytes] | None:
        try:
            return socket.recv_multipart(self._noblock)
        except self._again:
            return None

    def _changed(self, frames: Sequence[bytes]) -> None:
        event, _ = _EVENT.unpack(frames[0][: _EVENT.size])
        if event == self._up:
            self._seen = None  # another engine may listen there now
            if self.replay:  # what is queued may be of the one before; what is of this one, its replay has too
                for _ in range(10 * QUEUE):
                    if self._one(self._sub) is None:
                        break
            self.sink.connected()
        elif event == self._gone:
            self._end_replay()
            self._watch(self._sub)
            self.sink.disconnected()
        else:
            self.sink.bad(f"what listens at {self.endpoint} is no ZMQ publisher")

    def _message(self, frames: Sequence[bytes]) -> None:
        if len(frames) != 3 or len(frames[1]) != 8 or frames[1] == _END:
            self.sink.bad(f"a message of {len(frames)} frames that are not topic, 8-byte sequence number and batch")
        elif self._known(frames[0]):
            self.sink.message(int.from_bytes(frames[1], "big"), frames[2])

    def _part(self, frames: Sequence[bytes]) -> None:
        """Older engines send no topic here."""
        if len(frames) not in (3, 4) or frames[0] or len(frames[-2]) != 8:
            self.sink.bad(f"a replay of {len(frames)} frames that are not an empty one, topic, 8-byte sequence number and batch")
            self._filled(False)
        elif frames[-2] == _END:
            self._filled(True)
        elif len(frames) == 3 or self._known(frames[1]):
            self.sink.part(int.from_bytes(frames[-2], "big"), frames[-1])

    def _known(self, topic: bytes) -> bool:
        """Whether it is of the one publisher that we hear: each counts for itself, so two cannot be told apart by their numbers."""
        if self._seen is None and len(topic) <= TOPIC_MAX and topic.startswith(self.topic):
            self._seen = topic
        if topic == self._seen:
            return True
        first, other = (t[:80].decode("utf-8", "replace") for t in (self._seen or b"", topic))
        self.sink.bad(f"two publishers, of the topics {first!r} and {other!r}, are behind {self.endpoint}; name one by `topic`")
        return False

    def _filled(self, whole: bool) -> None:
        self._end_replay()
        self._watch(self._sub)
        self._hub.wake(self)
        self.sink.filled(whole)

    def _end_replay(self) -> None:
        if self._limit is not None:
            self._limit.cancel()
            self._limit = None
        if self._source is not None:
            self._unwatch(self._source)
            self._source.close(0)
            self._source = None


def _zmq() -> ModuleType:
    try:
        import zmq
    except ImportError:
        raise NoZmq("KV events need pyzmq, which is not installed: pip install 'pointsman[kv]'") from None
    return zmq
