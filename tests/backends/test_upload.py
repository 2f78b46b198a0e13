"""Uploads over real sockets: framing, back-pressure, answers that come early, backends that take nothing or go away."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import pytest

from backends.http import Clients, Pool
from backends.types import Fault, Timeouts
from backends.upload import HIGH_WATER, Upload
from tests.fakes import certs

HEAD = b"POST /v1/files HTTP/1.1\r\nhost: x\r\n"
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Got:
    """A `Receiver` that waits."""

    def __init__(self) -> None:
        self.over = asyncio.Event()
        self.status, self.body = 0, b""
        self.fault: Fault | None = None

    def on_whole(self, status: int, headers: Mapping[bytes, bytes], body: bytes) -> None:
        self.on_head(status, headers)
        self.on_data(body)
        self.on_end()

    def on_head(self, status: int, headers: Mapping[bytes, bytes]) -> None:
        self.status = status

    def on_data(self, data: bytes) -> None:
        self.body += data

    def on_end(self) -> None:
        self.over.set()

    def on_fault(self, fault: Fault) -> None:
        self.fault = fault
        self.over.set()


def against(serve: Serve, use: Callable[[Pool, Got], Awaitable[None]], *, tls: ssl.SSLContext | None = None, unix: Path | None = None,
            url: str = "http://127.0.0.1:{port}/v1") -> None:  # fmt: skip
    """Runs `use` against a server that handles each connection with `serve`."""

    async def main() -> None:
        clients = Clients(asyncio.get_running_loop())
        served: list[asyncio.Event] = []

        async def whole(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            served.append(asyncio.Event())
            over = served[-1]
            await serve(reader, writer)
            with contextlib.suppress(OSError):
                await writer.wait_closed()
            over.set()

        if unix is not None:
            server = await asyncio.start_unix_server(whole, unix)
            where = f"unix://{unix}:/v1"
        else:
            server = await asyncio.start_server(whole, "127.0.0.1", 0, ssl=tls, limit=1 << 16)
            where = url.format(port=server.sockets[0].getsockname()[1])
        pool = clients.pool(where, "b", tls is None)
        async with asyncio.timeout(30):
            await use(pool, Got())
            for over in served:
                await over.wait()
        assert not clients.leaving or not any(p.busy for p in clients.leaving)
        clients.close()
        server.close()

    asyncio.run(main())


async def taken(reader: asyncio.StreamReader, length: int) -> tuple[bytes, bytes]:
    head = await reader.readuntil(b"\r\n\r\n")
    return head, await reader.readexactly(length)


def test_a_body_of_known_length() -> None:
    seen: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.extend(await taken(reader, 10))
        writer.write(OK)
        seen.append(await reader.read())  # nothing follows: the connection is closed, not used again
        writer.close()

    async def use(pool: Pool, got: Got) -> None:
        upload = Upload.to(pool, HEAD, 10, got, Timeouts())
        assert await upload.write(b"01234") and await upload.write(b"") and await upload.write(b"56789")
        assert upload.whole and await upload.finish()
        await got.over.wait()
        assert (got.status, got.body, got.fault) == (200, b"{}", None)
        assert not await upload.write(b"") and not pool.idle and "whole" in repr(upload)
        upload.cancel()

    against(serve, use)
    assert seen[0] == HEAD + b"content-length: 10\r\n\r\n" and seen[1] == b"0123456789"


def test_a_body_in_chunks_over_a_unix_socket(tmp_path: Path) -> None:
    seen: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await reader.readuntil(b"\r\n\r\n"))
        seen.append(await reader.readuntil(b"\r\n0\r\n\r\n"))
        writer.write(OK)
        writer.close()

    async def use(pool: Pool, got: Got) -> None:
        upload = Upload.to(pool, HEAD, None, got, Timeouts())
        assert await upload.write(b"hello") and await upload.write(b"x" * 20)
        assert not upload.whole and await upload.finish() and upload.whole
        await got.over.wait()
        assert got.status == 200

    against(serve, use, unix=tmp_path / "s")
    assert seen == [HEAD + b"transfer-encoding: chunked\r\n\r\n", b"5\r\nhello\r\n14\r\n" + b"x" * 20 + b"\r\n0\r\n\r\n"]


def test_over_tls(tmp_path: Path) -> None:
    made = certs.make(tmp_path)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await taken(reader, 5)
        writer.write(OK)
        writer.close()

    async def use(pool: Pool, got: Got) -> None:
        upload = Upload.to(pool, HEAD, 5, got, Timeouts())
        assert await upload.write(b"hello") and await upload.finish()
        await got.over.wait()
        assert got.status == 200

    against(serve, use, tls=made.server, url="https://localhost:{port}/v1")


def test_a_slow_backend_holds_the_sender_back() -> None:
    total, piece = 24 << 20, b"x" * (64 << 10)
    go = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await go.wait()
        left = total
        while left:
            left -= len(await reader.read(1 << 16))
        writer.write(OK)
        writer.close()

    async def use(pool: Pool, got: Got) -> None:
        upload = Upload.to(pool, HEAD, total, got, Timeouts())
        written = 0
        while upload.blocked is None:
            assert await upload.write(piece)
            written += len(piece)
        assert written < total
        assert upload.conn is not None and upload.conn.transport.get_write_buffer_size() <= HIGH_WATER + len(piece)
        assert upload.overdue(pool.clients.now) is None
        late = upload.overdue(pool.clients.now + Timeouts().idle + 1)
        assert late is not None and "took nothing" in late.message and late.code == "idle_timeout"
        go.set()
        while written < total:
            assert await upload.write(piece)
            written += len(piece)
        assert await upload.finish()
        await got.over.wait()
        assert got.status == 200

    against(serve, use)


@pytest.mark.parametrize("ends", ["answer", "cut"])
def test_a_backend_that_wants_no_more(ends: str) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        if ends == "answer":
            writer.write(b"HTTP/1.1 413 Too Large\r\ncontent-length: 0\r\n\r\n")
            await reader.read()
        writer.transport.abort()

    async def use(pool: Pool, got: Got) -> None:
        upload = Upload.to(pool, HEAD, 1 << 30, got, Timeouts())
        piece = b"x" * (1 << 16)
        while await upload.write(piece):  # waits at a full buffer; the end wakes it
            pass
        assert got.over.is_set() and not await upload.write(b"x")
        if ends == "answer":
            assert (got.status, got.fault) == (413, None)
        else:
            assert got.fault is not None and got.fault.code == "connection_lost"
        with pytest.raises(ValueError, match="shorter"):
            await upload.finish()

    against(serve, use)


def test_nobody_there() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async def use(pool: Pool, got: Got) -> None:
        pool.origin.port = 1  # nothing listens there
        upload = Upload.to(pool, HEAD, None, got, Timeouts())
        assert not await upload.write(b"x") and not await upload.finish()
        assert got.fault is not None and got.fault.code == "connect_failed"

    against(serve, use)


def test_cancel_and_limits() -> None:
    closed = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()
        closed.set()

    async def use(pool: Pool, got: Got) -> None:
        upload = Upload.to(pool, HEAD, 3, got, Timeouts(first_byte=5, total=50))
        with pytest.raises(ValueError, match="longer"):
            await upload.write(b"1234")
        assert await upload.write(b"12")
        with pytest.raises(ValueError, match="shorter"):
            await upload.finish()
        now = pool.clients.now
        assert upload.overdue(now + 40) is None  # the client's time, not the backend's
        total = upload.overdue(now + 51)
        assert total is not None and total.code == "total_timeout"
        assert await upload.write(b"3")
        first = upload.overdue(now + 6)
        assert first is not None and first.code == "first_byte_timeout"
        assert upload.pool in pool.clients.leaving  # its limits are watched
        upload.cancel()
        upload.cancel()
        assert not await upload.write(b"") and not upload.pool.busy
        await closed.wait()
        assert got.fault is None

    against(serve, use)
