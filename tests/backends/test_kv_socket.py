"""KV-event sockets against a real ZMQ publisher, on both loops: what arrives and is refused, lost connections, replays, slices, bounds."""

from __future__ import annotations

import asyncio
import builtins
import socket
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import uvloop

from backends import kv_socket
from backends.kv_socket import Hub, NoZmq
from tests.fakes.kv_publisher import END, Publisher

DEADLINE = 30.0
Runner = Callable[[Coroutine[Any, Any, None]], None]


@pytest.fixture(params=["asyncio", "uvloop"])
def go(request: pytest.FixtureRequest) -> Runner:
    """Runs a test's coroutine on either loop."""
    return asyncio.run if request.param == "asyncio" else uvloop.run


class Heard:
    """A sink that notes what it hears, and wakes whoever waits for it."""

    def __init__(self) -> None:
        self.told: list[Any] = []
        self._news = asyncio.Event()

    def _note(self, *what: Any) -> None:
        self.told.append(what)
        self._news.set()

    def connected(self) -> None:
        self._note("connected")

    def disconnected(self) -> None:
        self._note("disconnected")

    def message(self, seq: int, payload: bytes) -> None:
        self._note("message", seq, payload)

    def part(self, seq: int, payload: bytes) -> None:
        self._note("part", seq, payload)

    def filled(self, whole: bool) -> None:
        self._note("filled", whole)

    def bad(self, why: str) -> None:
        self._note("bad", why)

    def of(self, kind: str) -> list[Any]:
        return [x for x in self.told if x[0] == kind]

    async def until(self, holds: Callable[[], bool]) -> None:
        """Waits until `holds()`, looking after each thing heard."""
        async with asyncio.timeout(DEADLINE):
            while not holds():
                self._news.clear()
                await self._news.wait()


async def joined(hub: Hub, publisher: Publisher, heard: Heard, topic: str = "") -> kv_socket.Subscriber:
    subscriber = hub.subscribe(publisher.endpoint, heard, topic, publisher.replay)
    await asyncio.to_thread(publisher.subscribed)
    await heard.until(lambda: bool(heard.of("connected")))
    return subscriber


def test_batches_arrive_in_order_and_nothing_after_close(go: Runner) -> None:
    async def run() -> None:
        hub, heard = Hub(), Heard()
        with Publisher(topic="kv@a@m") as publisher:
            subscriber = await joined(hub, publisher, heard, "kv@")
            for k in range(300):
                publisher.send(b"%d" % k)
            await heard.until(lambda: len(heard.of("message")) == 300)
            assert heard.of("message") == [("message", k, b"%d" % k) for k in range(300)]
            subscriber.close()
            subscriber.close()
            assert not hub.subscribers
            publisher.send(b"late")
            hub.close()
            hub.close()
        assert len(heard.told) == 301

    go(run())


def test_what_is_no_batch_is_told_and_the_next_one_arrives(go: Runner) -> None:
    async def run() -> None:
        hub, heard = Hub(), Heard()
        with Publisher(topic="t") as publisher:
            await joined(hub, publisher, heard)
            number = (0).to_bytes(8, "big")
            for frames in ((b"t",), (b"t", number), (b"t", b"1234", b"x"), (b"t", number, b"x", b"y"), (b"t", END, b"")):
                publisher.frames(*frames)
            publisher.send(b"good")
            publisher.frames(b"other", (1).to_bytes(8, "big"), b"of another")
            await heard.until(lambda: len(heard.of("bad")) == 6)
            assert heard.of("message") == [("message", 0, b"good")]
            assert "3 frames that are not topic" in heard.of("bad")[2][1]
            assert "two publishers, of the topics 't' and 'other'" in heard.of("bad")[-1][1]
            hub.close()

    go(run())


@pytest.mark.parametrize("tcp", [False, True], ids=["ipc", "tcp"])
def test_a_lost_connection_is_told_and_made_again(go: Runner, tcp: bool) -> None:
    async def run() -> None:
        hub, heard = Hub(), Heard()
        with Publisher(tcp=tcp) as publisher:
            await joined(hub, publisher, heard)
            publisher.send(b"a")
            await heard.until(lambda: bool(heard.of("message")))
            publisher.stop()
            await heard.until(lambda: bool(heard.of("disconnected")))
            publisher.start()
            await heard.until(lambda: len(heard.of("connected")) == 2)
            await asyncio.to_thread(publisher.subscribed)
            publisher.send(b"b")
            await heard.until(lambda: len(heard.of("message")) == 2)
            assert [x[0] for x in heard.told] == ["connected", "message", "disconnected", "connected", "message"]
            hub.close()

    go(run())


@pytest.mark.parametrize("replay", [True, False])
def test_what_an_engine_said_last_is_not_taken_for_the_next_one_s(go: Runner, replay: bool) -> None:
    """The loop is held up from before the engine's end until the next one is there, so that all of it waits at once."""

    async def run() -> None:
        hub, heard = Hub(), Heard()
        with Publisher() as publisher:
            subscriber = hub.subscribe(publisher.endpoint, heard, "", publisher.replay if replay else "")
            await asyncio.to_thread(publisher.subscribed)
            await heard.until(lambda: bool(heard.of("connected")))
            for k in range(50):
                publisher.send(b"%d" % k)
            assert subscriber._sub.poll(30_000)
            publisher.restart()
            with ThreadPoolExecutor(1) as threads:
                there = threads.submit(publisher.subscribed)
                while not there.done():
                    subscriber._sub.poll(10)  # ZMQ subscribes anew when the socket is looked at
            there.result()
            await heard.until(lambda: len(heard.of("connected")) == 2)
            publisher.send(b"new")
            await heard.until(lambda: ("message", 0, b"new") in heard.told)
            old = heard.of("message")[:-1]
            assert old == ([] if replay else [("message", k, b"%d" % k) for k in range(len(old))]) and bool(old) != replay
            hub.close()

    go(run())


def test_a_publisher_that_comes_later_is_found(go: Runner) -> None:
    async def run() -> None:
        hub, heard = Hub(), Heard()
        with Publisher() as publisher:
            publisher.stop()
            hub.subscribe(publisher.endpoint, heard)
            publisher.start()
            await asyncio.to_thread(publisher.subscribed)
            publisher.send(b"a")
            await heard.until(lambda: bool(heard.of("message")))
            hub.close()

    go(run())


@pytest.mark.parametrize("tcp", [False, True], ids=["ipc", "tcp"])
def test_a_replay_comes_before_what_is_published_meanwhile(go: Runner, tcp: bool) -> None:
    async def run() -> None:
        hub, heard = Hub(), Heard()
        with Publisher(tcp=tcp) as publisher:
            for k in range(2000):
                publisher.send(b"%d" % k, lose=True)
            subscriber = await joined(hub, publisher, heard)
            subscriber.fetch(500)
            publisher.send(b"new")
            await heard.until(lambda: bool(heard.of("message")))
            kinds = [x[0] for x in heard.told]
            assert kinds[:2] == ["connected", "part"] and kinds[-2:] == ["filled", "message"]
            assert [x[1] for x in heard.of("part")][:1500] == list(range(500, 2000))
            assert heard.of("filled") == [("filled", True)] and publisher.asked == [500]
            hub.close()

    go(run())


def test_a_replay_that_never_ends_is_given_up(go: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kv_socket, "REPLAY_SECONDS", 0.0)

    async def run() -> None:
        hub, heard = Hub(), Heard()
        with Publisher() as publisher:
            publisher.mute = True
            subscriber = await joined(hub, publisher, heard)
            subscriber.fetch(0)
            publisher.send(b"new")
            await heard.until(lambda: bool(heard.of("message")))
            assert [x[0] for x in heard.told] == ["connected", "filled", "message"] and heard.of("filled") == [("filled", False)]
            subscriber.fetch(0)
            subscriber.close()
            subscriber.fetch(0)
            hub.close()
        assert len(heard.of("filled")) == 1

    go(run())


def test_a_replay_of_other_frames_ends_as_failed(go: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        hub, heard = Hub(), Heard()
        with Publisher() as publisher:

            def nonsense(router: Any) -> None:
                who = router.recv_multipart()[0]
                router.send_multipart([who, b"", b"1", b"2", b"3", b"4"])

            monkeypatch.setattr(publisher, "_answer", nonsense)
            (await joined(hub, publisher, heard)).fetch(0)
            await heard.until(lambda: bool(heard.of("filled")))
            assert heard.of("filled") == [("filled", False)] and "a replay of 5 frames" in heard.of("bad")[0][1]
            hub.close()

    go(run())


def test_older_engines_replay_without_a_topic(go: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        hub, heard = Hub(), Heard()
        with Publisher() as publisher:

            def old(router: Any) -> None:
                who = router.recv_multipart()[0]
                router.send_multipart([who, b"", (7).to_bytes(8, "big"), b"x"])
                router.send_multipart([who, b"", END, b""])

            monkeypatch.setattr(publisher, "_answer", old)
            (await joined(hub, publisher, heard)).fetch(0)
            await heard.until(lambda: bool(heard.of("filled")))
            assert heard.told[-2:] == [("part", 7, b"x"), ("filled", True)]
            hub.close()

    go(run())


def test_a_connection_lost_in_a_replay_ends_it(go: Runner) -> None:
    async def run() -> None:
        hub, heard = Hub(), Heard()
        with Publisher() as publisher:
            publisher.mute = True
            (await joined(hub, publisher, heard)).fetch(0)
            publisher.stop()
            await heard.until(lambda: bool(heard.of("disconnected")))
            publisher.start()
            await heard.until(lambda: len(heard.of("connected")) == 2)
            await asyncio.to_thread(publisher.subscribed)
            publisher.send(b"a")
            await heard.until(lambda: bool(heard.of("message")))
            assert not heard.of("filled")
            hub.close()

    go(run())


def test_a_turn_of_the_loop_takes_one_slice_shared_by_all(go: Runner) -> None:
    """The clock gains a millisecond with each look, so that two things fit into a slice of two."""

    async def run() -> None:
        now = [0.0]

        def clock() -> float:
            now[0] += 0.001
            return now[0]

        hub, heard = Hub(clock), [Heard(), Heard()]
        with Publisher() as one, Publisher() as two:
            await joined(hub, one, heard[0])
            await joined(hub, two, heard[1])
            turns: list[int] = []
            while len(heard[0].told) + len(heard[1].told) < 42:
                if not turns:  # all of it is there before the next turn
                    for k in range(20):
                        one.send(b"%d" % k)
                        two.send(b"%d" % k)
                before = len(heard[0].told) + len(heard[1].told)
                await asyncio.sleep(0)
                turns.append(len(heard[0].told) + len(heard[1].told) - before)
            assert max(turns) <= 2
            assert [x[1] for x in heard[0].of("message")] == [x[1] for x in heard[1].of("message")] == list(range(20))
            hub.close()

    go(run())


def test_a_sink_that_raises_stops_nobody_else() -> None:
    async def run() -> None:
        caught: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: caught.append(context["exception"]))
        hub, broken, fine = Hub(), Heard(), Heard()
        with Publisher() as one, Publisher() as two:
            await joined(hub, one, broken)
            await joined(hub, two, fine)

            def raising(seq: int, payload: bytes) -> None:
                raise KeyError(seq)

            broken.message = raising  # type: ignore[method-assign]
            for k in range(20):
                one.send(b"%d" % k)
                two.send(b"%d" % k)
            await fine.until(lambda: len(fine.of("message")) == 20)
            assert all(isinstance(e, KeyError) for e in caught)
            hub.close()

    asyncio.run(run())


def test_what_nobody_reads_is_bounded_by_the_queues() -> None:
    """A loop that is held up by something else: soon nothing more is taken, and all that was taken arrives."""

    async def run() -> None:
        hub, heard = Hub(), Heard()
        with Publisher(queue=100) as publisher:
            await joined(hub, publisher, heard)
            taken = sum(publisher.offer(b"x" * 10_000) for _ in range(20_000))
            assert taken < 5000
            await heard.until(lambda: len(heard.of("message")) == taken)
            hub.close()

    asyncio.run(run())


def test_without_pyzmq_a_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def missing(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "zmq":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    async def run() -> None:
        hub = Hub()
        monkeypatch.setattr(builtins, "__import__", missing)
        with pytest.raises(NoZmq, match=r"pointsman\[kv\]"):
            hub.subscribe("tcp://127.0.0.1:9", Heard())
        hub.close()

    asyncio.run(run())


def test_a_server_that_speaks_no_zmq_does_no_harm() -> None:
    async def run() -> None:
        hub, heard, came = Hub(), Heard(), asyncio.Event()

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(10)
            writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n" * 4)
            writer.close()
            came.set()

        with socket.socket() as listening:
            listening.bind(("127.0.0.1", 0))
            server = await asyncio.start_server(answer, sock=listening)
            hub.subscribe(f"tcp://127.0.0.1:{listening.getsockname()[1]}", heard)
            await came.wait()
            await heard.until(lambda: bool(heard.told))
            assert not heard.of("message")
            hub.close()
            server.close()
            await server.wait_closed()

    asyncio.run(run())
