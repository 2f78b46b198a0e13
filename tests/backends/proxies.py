"""A small real HTTP proxy: CONNECT tunnels and absolute-form requests, with or without a password."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit


class Proxy:
    """What was asked of it stands in `asked`, as request lines; `tunnels` counts connections made onwards."""

    def __init__(self, password: str = "", refuse: bytes = b"") -> None:
        self.password, self.refuse = password, refuse
        self.asked: list[bytes] = []
        self.tunnels = 0
        self.port = 0
        self.tasks: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.tasks.add(task)
        try:
            await self._serve(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.transport.abort()
            self.tasks.discard(task)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        line = head.partition(b"\r\n")[0]
        self.asked.append(line)
        token = base64.b64encode(self.password.encode())
        if self.refuse or (self.password and b"proxy-authorization: basic " + token.lower() not in head.lower()):
            writer.write(self.refuse or b"HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\n\r\n")
            await writer.drain()
            return
        method, target, _ = line.split(b" ")
        if method == b"CONNECT":
            host, _, port = target.decode().rpartition(":")
            first = b""
        else:
            url = urlsplit(target.decode())
            host, port = url.hostname or "", str(url.port or 80)
            self.asked.pop()
            first = self._onwards(head)
        far_reader, far_writer = await asyncio.open_connection(host, int(port))
        self.tunnels += 1
        far_writer.write(first)
        if method == b"CONNECT":
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._copy(reader, far_writer, method != b"CONNECT"))
                group.create_task(self._copy(far_reader, writer, False))
        except* ConnectionError:
            pass
        finally:
            far_writer.transport.abort()

    def _onwards(self, data: bytes) -> bytes:
        """A request in absolute form as its server wants it. Clients begin each request with a read of its own."""
        line = data.partition(b"\r\n")[0]
        if b" http://" not in line:
            return data
        self.asked.append(line)
        target = line.split(b" ")[1]
        return data.replace(target, b"/" + target.split(b"/", 3)[3], 1)

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, requests: bool) -> None:
        while data := await reader.read(65536):
            writer.write(self._onwards(data) if requests else data)
            await writer.drain()
        raise ConnectionResetError  # one side has closed: so does the other


@asynccontextmanager
async def proxy(password: str = "", refuse: bytes = b"") -> AsyncIterator[Proxy]:
    """A running proxy on a free port."""
    made = Proxy(password, refuse)
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.port = server.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        server.close()
        for task in [*made.tasks]:
            task.cancel()
        await asyncio.gather(*made.tasks, return_exceptions=True)
