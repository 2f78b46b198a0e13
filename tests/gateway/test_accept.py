"""Who waits for a connection is taken in the turn of the loop in which the others are, however many they are."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import pytest
import uvloop

from gateway.accept import AT_ONCE, Accepting
from gateway.config import ServerConfig
from gateway.server import Server, listen, settings
from tests.fakes.certs import make

TURNS = 8  # of the loop: enough for each step that one connection takes


class Made(asyncio.Protocol):
    """A connection that was taken."""

    def __init__(self, all: list[asyncio.Transport]) -> None:
        self.all = all

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.all.append(cast(asyncio.Transport, transport))
        self.all[-1].write(b"hello")


@contextlib.asynccontextmanager
async def taking(tls: ssl.SSLContext | None = None) -> AsyncIterator[tuple[Accepting, int, list[asyncio.Transport]]]:
    """Who takes connections, alone on a socket of its own; its port; what it took."""
    made: list[asyncio.Transport] = []
    with listen("127.0.0.1", 0) as sock:
        accepting = Accepting(sock, lambda: Made(made), tls)
        try:
            yield accepting, sock.getsockname()[1], made
        finally:
            accepting.close()
            accepting.cut()
            for transport in made:
                transport.abort()


def waiting(port: int, count: int) -> list[socket.socket]:
    """Clients whose connections the kernel has made, and nobody has taken."""
    return [socket.create_connection(("127.0.0.1", port)) for _ in range(count)]


async def turns(count: int = TURNS) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def ended(client: socket.socket) -> bool:
    """When the other side has ended it, whatever it said before."""
    client.setblocking(False)
    with contextlib.suppress(ConnectionResetError):
        async with asyncio.timeout(10.0):
            while await asyncio.get_running_loop().sock_recv(client, 99):
                pass
    return True


async def app(scope: Any, receive: Any, send: Any) -> None:
    raise AssertionError("nobody asks for anything")


def test_a_server_takes_all_who_wait_within_a_few_turns() -> None:
    async def run() -> None:
        server = Server(settings(ServerConfig(), app), listen("127.0.0.1", 0))
        clients = waiting(server.port, 50)
        await server.start()
        await turns()
        assert len(server.connections) == 50
        assert await server.stop(5.0) and not server.connections
        for client in clients:
            assert client.recv(1) == b""
            client.close()

    uvloop.run(run())


def test_after_it_was_closed_nobody_is_taken() -> None:
    async def run() -> None:
        async with taking() as (accepting, port, made):
            (first,) = waiting(port, 1)
            await turns()
            assert len(made) == 1
            accepting.close()
            accepting.close()
            (second,) = waiting(port, 1)
            await turns()
            assert len(made) == 1
            first.close()
            second.close()

    uvloop.run(run())


def test_more_than_are_taken_at_once_come_in_the_next_turn() -> None:
    async def run() -> None:
        async with taking() as (_, port, made):
            clients = waiting(port, AT_ONCE + 9)
            await turns()
            assert len(made) == AT_ONCE + 9
            for client in clients:
                client.close()

    uvloop.run(run())


def test_no_packet_of_theirs_waits_for_another() -> None:
    async def run() -> None:
        async with taking() as (_, port, made):
            (client,) = waiting(port, 1)
            await turns()
            taken = made[0].get_extra_info("socket")
            assert taken.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            assert made[0].get_extra_info("peername") == client.getsockname()
            client.close()

    uvloop.run(run())


def test_they_may_speak_tls(tmp_path: Path) -> None:
    certificates = make(tmp_path)

    async def run() -> None:
        async with taking(certificates.server) as (accepting, port, made):
            (silent,) = waiting(port, 1)  # who never shakes hands holds up nobody
            trusted = ssl.create_default_context(cafile=certificates.authority)
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trusted, server_hostname="localhost")
            assert await reader.readexactly(5) == b"hello"
            (odd,) = waiting(port, 1)
            odd.sendall(b"GET / HTTP/1.1\r\n\r\n")
            assert await ended(odd) and len(made) == 1
            accepting.close()
            accepting.cut()
            assert await ended(silent)
            writer.close()
            odd.close()
            silent.close()

    uvloop.run(run())


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ECONNABORTED])
def test_what_goes_wrong_with_one_is_told_to_nobody(code: int) -> None:
    class Odd:
        """A listening socket with one that goes wrong before the others."""

        def __init__(self, inner: socket.socket) -> None:
            self.inner, self.failed = inner, False

        def __getattr__(self, name: str) -> Any:
            return getattr(self.inner, name)

        def accept(self) -> Any:
            if not self.failed:
                self.failed = True
                raise OSError(code, "odd")
            return self.inner.accept()

    async def run() -> None:
        async with taking() as (accepting, port, made):
            odd = Odd(accepting._sock)
            accepting._sock = cast(socket.socket, odd)
            clients = waiting(port, 3)
            await turns()
            assert odd.failed and len(made) == 3
            for client in clients:
                client.close()

    uvloop.run(run())
