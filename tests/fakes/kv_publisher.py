"""A publisher of KV-cache events over real ZMQ sockets, as vLLM and SGLang have it.

Strict: a replay request that is not [identity, empty, 8 bytes] is a violation, which `close` raises. A thread answers replays; everything
else happens in the caller's. `XPUB` in place of `PUB` shows when a subscriber has arrived.
"""

from __future__ import annotations

import tempfile
import threading
from collections import deque
from collections.abc import Iterable
from types import TracebackType
from typing import Any, Self

import zmq

from tests.fakes.kv_events import Encoding, Hashes, Speech

DEADLINE_MS = 30_000
END = b"\xff" * 8


class Publisher(Speech):
    """One engine's publisher at `endpoint`, with the last `ring` batches at `replay`. Restarting it keeps both addresses."""

    def __init__(
        self,
        *,
        topic: str = "",
        encoding: Encoding = "maps",
        hashes: Hashes = "unsigned",
        ring: int = 10_000,
        queue: int = 100_000,
        beside: Publisher | None = None,
        tcp: bool = False,
    ) -> None:
        """`beside`: it is rank 1 of the engine whose rank 0 that one is. `tcp`: on loopback ports instead of in files."""
        self._folder = tempfile.TemporaryDirectory(prefix="kv-")
        self.endpoint, self.replay = f"ipc://{self._folder.name}/events", f"ipc://{self._folder.name}/replay"
        if beside is not None:
            self.endpoint, self.replay = beside.endpoint + "_dp1", beside.replay + "_dp1"
        if tcp:
            self.endpoint, self.replay = "tcp://127.0.0.1:*", "tcp://127.0.0.1:*"  # becomes the port that was free
        super().__init__(encoding, hashes)
        self.topic = topic.encode()
        self.asked: list[int] = []  # starts of replays
        self.violations: list[str] = []
        self.mute = False  # replays are taken and never answered
        self.drop_in_replay: set[int] = set()  # numbers that the next replay leaves out
        self.clock = 1000.0
        self._ring_size, self._queue = ring, queue
        self._context = zmq.Context()
        self._up = False
        self.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    # --- its life
    def start(self, seq: int = 0, ring: Iterable[tuple[int, bytes]] = ()) -> None:
        """Listens: as a new engine, or as the one that had come so far."""
        self.seq = seq
        self.ring: deque[tuple[int, bytes]] = deque(ring, maxlen=self._ring_size)
        self._pub = self._context.socket(zmq.XPUB)
        self._pub.setsockopt(zmq.XPUB_VERBOSER, 1)
        self._pub.setsockopt(zmq.SNDHWM, self._queue)
        self._pub.bind(self.endpoint)
        self.endpoint = self._pub.getsockopt_string(zmq.LAST_ENDPOINT)
        self._stop = threading.Event()
        bound = threading.Event()
        self._thread = threading.Thread(target=self._replays, args=(bound,), name="fake replays", daemon=True)
        self._thread.start()
        bound.wait()
        self._up = True

    def stop(self) -> None:
        """The engine is gone: connections close."""
        if self._up:
            self._up = False
            self._stop.set()
            self._thread.join()
            self._pub.close(0)

    def restart(self) -> None:
        """Another engine listens where this one did."""
        self.stop()
        self.start()

    def close(self) -> None:
        """Raises AssertionError for what a client did wrong."""
        self.stop()
        self._context.destroy(0)
        self._folder.cleanup()
        assert not self.violations, self.violations

    def subscribed(self, count: int = 1) -> None:
        """Blocks until so many more subscriptions have come."""
        for _ in range(count):
            while True:
                assert self._pub.poll(DEADLINE_MS), "nobody subscribes"
                if self._pub.recv().startswith(b"\x01"):
                    break

    # --- what it says
    def publish(self, *events: Any, ts: float | None = None) -> int:
        """One batch of these events, in its number. Returns that."""
        self.clock += 1.0
        return self.send(self.batch(*events, ts=self.clock if ts is None else ts))

    def send(self, payload: bytes, lose: bool = False) -> int:
        """Publishes any bytes as a batch; `lose`: it reaches nobody but the ring."""
        seq, self.seq = self.seq, self.seq + 1
        self.ring.append((seq, payload))
        if not lose:
            self.frames(self.topic, seq.to_bytes(8, "big"), payload)
        return seq

    def offer(self, payload: bytes) -> bool:
        """Publishes any bytes as a batch if the queues have room. Returns whether they had."""
        self._pub.setsockopt(zmq.XPUB_NODROP, 1)
        try:
            self._pub.send_multipart([self.topic, self.seq.to_bytes(8, "big"), payload], zmq.NOBLOCK)
        except zmq.Again:
            return False
        self.seq += 1
        return True

    def frames(self, *frames: bytes) -> None:
        """Any message at all."""
        self._pub.send_multipart(frames)

    # --- replays
    def _replays(self, bound: threading.Event) -> None:
        router = self._context.socket(zmq.ROUTER)
        router.setsockopt(zmq.SNDHWM, 0)
        router.bind(self.replay)
        self.replay = router.getsockopt_string(zmq.LAST_ENDPOINT)
        bound.set()
        while not self._stop.is_set():
            if router.poll(20):
                self._answer(router)
        router.close(0)

    def _answer(self, router: zmq.Socket[bytes]) -> None:
        frames = router.recv_multipart()
        if len(frames) != 3 or frames[1] or len(frames[2]) != 8:
            self.violations.append(f"a replay request of {frames}")
            return
        start = int.from_bytes(frames[2], "big")
        self.asked.append(start)
        if self.mute:
            return
        lost, self.drop_in_replay = self.drop_in_replay, set()
        for seq, payload in list(self.ring):
            if seq >= start and seq not in lost:
                router.send_multipart([frames[0], b"", self.topic, seq.to_bytes(8, "big"), payload])
        router.send_multipart([frames[0], b"", b"", END, b""])
