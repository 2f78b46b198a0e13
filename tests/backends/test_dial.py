"""Connections that are opened without a task, over real sockets, on both event loops."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import pytest
import uvloop

from backends.connection import Connection
from backends.dial import Dial, Dialing, address, unmade
from backends.http import Clients, Pool
from backends.origin import Origin
from backends.types import Timeouts
from tests.backends.seen import Seen

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"
REQUEST = (b"POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 2\r\n\r\n", b"{}")
LOOPS = [asyncio.new_event_loop, uvloop.new_event_loop]


def run(work: Callable[[Clients], Awaitable[None]], make: Callable[[], asyncio.AbstractEventLoop]) -> None:
    async def main() -> None:
        clients = Clients(asyncio.get_running_loop())
        await work(clients)
        clients.close()
        for _ in range(3):  # closing a transport takes turns of the loop
            await asyncio.sleep(0)

    with asyncio.Runner(loop_factory=make) as runner:
        runner.run(main())


def pool_of(clients: Clients, port: int, host: str = "127.0.0.1") -> Pool:
    pool = clients.pool(f"http://{host}:{port}", "gpu")
    assert pool.near is not None
    return pool


@contextlib.asynccontextmanager
async def serving(answer: bytes, host: str = "127.0.0.1") -> AsyncIterator[int]:
    """The port of a server that answers each request on a connection so; nothing: it closes when one has come. At the end every
    connection must be closed by its client."""
    serving: set[asyncio.Task[None] | None] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving.add(asyncio.current_task())
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while answer:
                await reader.readuntil(b"\r\n\r\n{}")
                writer.write(answer)
            await reader.readuntil(b"\r\n\r\n{}")
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    server = await asyncio.start_server(serve, host, 0)
    yield server.sockets[0].getsockname()[1]
    server.close()
    if waiting := [task for task in serving if task is not None]:
        await asyncio.wait(waiting)


@pytest.fixture
def full() -> Iterator[int]:
    """The port of a server that takes no more connections, and says nothing to that."""
    with socket.socket() as listening, contextlib.ExitStack() as kept:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        for _ in range(8):
            waiting = kept.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listening.getsockname())
        yield listening.getsockname()[1]


@pytest.mark.parametrize("make", LOOPS)
@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]"])
def test_many_at_once_and_again(make: Callable[[], asyncio.AbstractEventLoop], host: str) -> None:
    async def work(clients: Clients) -> None:
        async with serving(OK, host.strip("[]")) as port:
            pool = pool_of(clients, port, host)
            for count in (100, 30):
                asked = [Seen() for _ in range(count)]
                for seen in asked:
                    pool.send(REQUEST, seen, Timeouts())
                    assert not seen.calls
                for seen in asked:
                    assert (await seen.whole()).outcome == "ok"
            assert (pool.opened, pool.hits, len(pool.idle)) == (100, 30, 100) and not pool.busy
            pool.dialing._look()
            assert not pool.dialing.until  # all were made
            clients.close()

    run(work, make)


@pytest.mark.parametrize("make", LOOPS)
def test_nobody_there(make: Callable[[], asyncio.AbstractEventLoop]) -> None:
    async def work(clients: Clients) -> None:
        async with serving(b"") as port:
            pass
        pool, seen = pool_of(clients, port), Seen()
        pool.send(REQUEST, seen, Timeouts())
        assert not seen.calls
        await seen.whole()
        assert seen.fault is not None and (seen.fault.code, seen.fault.status, seen.fault.retry) == ("connect_failed", 502, True)
        assert "refused" in seen.fault.message.lower() and not pool.busy and not pool.dialing.until
        assert pool.opened == 0

    run(work, make)


@pytest.mark.parametrize("make", LOOPS)
def test_closed_without_an_answer(make: Callable[[], asyncio.AbstractEventLoop]) -> None:
    async def work(clients: Clients) -> None:
        async with serving(b"") as port:
            seen = Seen()
            pool_of(clients, port).send(REQUEST, seen, Timeouts())
            assert (await seen.whole()).outcome == "connection_lost"

    run(work, make)


@pytest.mark.parametrize("make", LOOPS)
def test_who_takes_too_long(make: Callable[[], asyncio.AbstractEventLoop], full: int) -> None:
    async def work(clients: Clients) -> None:
        pool = pool_of(clients, full)
        late, later, given_up = Seen(), Seen(), Seen()
        pool.send(REQUEST, later, Timeouts(connect=0.2))
        pool.send(REQUEST, late, Timeouts(connect=0.05))
        flight = pool.send(REQUEST, given_up, Timeouts(connect=0.05))
        flight.pause()
        await asyncio.sleep(0)
        flight.cancel()
        await late.whole()
        assert late.fault is not None and late.fault.code == "connect_timeout" and "within 0.05 s" in late.fault.message
        assert not later.over
        assert (await later.whole()).outcome == "connect_timeout"
        assert not pool.busy and not given_up.calls

    run(work, make)


@pytest.mark.parametrize("make", LOOPS)
@pytest.mark.parametrize("turns", [0, 1, 2])
def test_given_up_at_any_moment(make: Callable[[], asyncio.AbstractEventLoop], turns: int) -> None:
    async def work(clients: Clients) -> None:
        async with serving(OK) as port:
            pool = pool_of(clients, port)
            seen, paused = Seen(), Seen()
            flight = pool.send(REQUEST, seen, Timeouts())
            other = pool.send(REQUEST, paused, Timeouts())
            other.pause()
            for _ in range(turns):
                await asyncio.sleep(0)
            flight.cancel()
            flight.cancel()
            other.resume()
            assert (await paused.whole()).outcome == "ok"
            assert not seen.calls and not pool.busy and len(pool.idle) == 1
            clients.close()

    run(work, make)


def test_what_is_dialled_and_what_is_not() -> None:
    assert address(Origin("http://127.0.0.1:8/v1")) == (socket.AF_INET, ("127.0.0.1", 8), True)
    assert address(Origin("http://192.0.2.1:8/v1")) == (socket.AF_INET, ("192.0.2.1", 8), False)
    assert address(Origin("http://[::1]:8")) == (socket.AF_INET6, ("::1", 8), True)
    for url in ("http://localhost:8", "https://127.0.0.1", "unix:///tmp/s", "http://[fe80::1%25eth0]:8"):
        assert address(Origin(url)) is None
    assert unmade(ConnectionRefusedError(111, "x")) and not unmade(ConnectionResetError(104, "x")) and not unmade(None)


def test_what_fails_at_once_is_told_later() -> None:
    async def work(clients: Clients) -> None:
        pool = clients.pool("http://255.255.255.255:9", "gpu")  # no stream goes to everybody
        seen = Seen()
        pool.send(REQUEST, seen, Timeouts())
        assert not seen.calls
        assert (await seen.whole()).outcome == "connect_failed" and not pool.busy

    run(work, asyncio.new_event_loop)


def test_one_timer_for_all() -> None:
    async def work(clients: Clients) -> None:
        async with serving(OK) as port:
            told: list[Dial] = []
            dialing = Dialing(clients.loop, told.append)
            to = int(socket.AF_INET), ("127.0.0.1", port), True
            dials = [Dial(clients.loop, Connection(pool_of(clients, port)), to) for _ in range(3)]
            dialing.add(dials[0], 50.0)
            first = dialing.timer
            dialing.add(dials[1], 60.0)
            assert dialing.timer is first
            dialing.add(dials[2], 0.0)  # sooner
            assert dialing.timer is not first and first is not None and first.cancelled()
            for dial in dials:
                dialing.drop(dial)
                dialing.drop(dial)
                dial.cancel()
            dialing._look()
            assert not told and dialing.timer is None
            for _ in range(9):
                await asyncio.sleep(0)
            assert all(dial.sock.fileno() < 0 for dial in dials)

    run(work, asyncio.new_event_loop)
