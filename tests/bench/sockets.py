"""Servers on real sockets that do what a test says, byte for byte."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable

from benchmarks.bench.client import Client
from benchmarks.bench.words import Ask, Target, Timed

Act = Callable[["Peer"], Awaitable[None]]
CHUNK = b'data: {"choices":[{"index":0,"delta":{"content":"a"},"finish_reason":null}]}\n\n'
FINISH = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
DONE = b"data: [DONE]\n\n"
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
END = b"0\r\n\r\n"


def framed(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


GOOD = HEAD + framed(CHUNK + FINISH + DONE) + END


class Peer:
    """One connection as the server has it."""

    def __init__(self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.number, self.reader, self.writer = number, reader, writer
        self.requests: list[tuple[str, dict[str, str], bytes]] = []

    async def request(self) -> bool:
        """Reads the next request; False: the client has left."""
        try:
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        except (asyncio.IncompleteReadError, ConnectionError):
            return False
        first, *lines = head.rstrip("\r\n").split("\r\n")
        pairs = [line.split(": ", 1) for line in lines]
        assert len({name for name, _ in pairs}) == len(pairs), lines
        headers = {name: value for name, value in pairs}
        self.requests.append((first, headers, await self.reader.readexactly(int(headers["content-length"]))))
        return True

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()


class Scripted:
    """A server, the connections that it had, and where it is."""

    def __init__(self) -> None:
        self.peers: list[Peer] = []
        self.port = 0
        self.scheme = "http"

    @property
    def requests(self) -> list[tuple[str, dict[str, str], bytes]]:
        return [each for peer in self.peers for each in peer.requests]

    def target(self, **more: object) -> Target:
        return Target(f"{self.scheme}://localhost:{self.port}/v1", "m", **more)  # type: ignore[arg-type]


@contextlib.asynccontextmanager
async def scripted(act: Act, tls: ssl.SSLContext | None = None) -> AsyncIterator[Scripted]:
    """Serves each connection by `act`, then closes it; waits for all of them at the end."""
    found = Scripted()
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        peer = Peer(len(found.peers) + 1, reader, writer)
        found.peers.append(peer)
        try:
            with contextlib.suppress(ConnectionError):
                await act(peer)
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError, ssl.SSLError):
                await writer.wait_closed()
            tasks.discard(task)

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    found.port, found.scheme = server.sockets[0].getsockname()[1], "https" if tls else "http"
    try:
        yield found
    finally:
        server.close()
        if tasks:
            await asyncio.wait(tasks, timeout=10)


def says(*answers: bytes) -> Act:
    """Each request of a connection gets the next of `answers`; then the connection is closed."""

    async def act(peer: Peer) -> None:
        for answer in answers:
            if not await peer.request():
                return
            await peer.send(answer)

    return act


async def always(peer: Peer) -> None:
    """A good answer to every request."""
    while await peer.request():
        await peer.send(GOOD)


def ask(index: int = 0, **more: object) -> Ask:
    return Ask(index, json.dumps({"n": index}).encode(), 3, 4, **more)  # type: ignore[arg-type]


@contextlib.asynccontextmanager
async def client(target: Target, **more: object) -> AsyncIterator[Client]:
    made = Client(target, **more)  # type: ignore[arg-type]
    try:
        yield made
    finally:
        await made.close()


async def sent(made: Client, request: Ask | None = None) -> Timed:
    """One request, and what was seen of it."""
    request = request or ask()
    timed = Timed(request.index, request.due)
    await made.send(request, timed)
    return timed
