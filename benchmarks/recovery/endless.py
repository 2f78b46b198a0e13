"""An upstream whose streams never end: one event every 20 ms on each, and the time at which each connection was lost."""

from __future__ import annotations

import asyncio
import threading
import time

PACE = 0.02  # seconds between two events
EVENT = (
    b'data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"m","choices":'
    b'[{"index":0,"delta":{"content":"word "},"finish_reason":null}]}\n\n'
)
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
CHUNK = b"%x\r\n%b\r\n" % (len(EVENT), EVENT)


class _Stream(asyncio.Protocol):
    def __init__(self, upstream: Endless) -> None:
        self.upstream = upstream
        self.transport: asyncio.Transport
        self.data = b""
        self.timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.data += data
        if self.timer is None and b"\r\n\r\n" in self.data:
            self.transport.write(HEAD)
            self._next()

    def _next(self) -> None:
        self.transport.write(CHUNK)
        self.timer = asyncio.get_running_loop().call_later(PACE, self._next)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.upstream.lost.append(time.monotonic())
            self.upstream.changed.release()


class Endless:
    """The upstream as a context, in a thread of its own. `lost`: monotonic seconds at which a stream's connection ended, in order."""

    def __init__(self) -> None:
        self.lost: list[float] = []
        self.changed = threading.Semaphore(0)
        self.port = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="endless", daemon=True)

    def __enter__(self) -> Endless:
        self._thread.start()
        server = asyncio.run_coroutine_threadsafe(self._serve(), self._loop).result(10)
        self.port = server.sockets[0].getsockname()[1]
        self._server = server
        return self

    async def _serve(self) -> asyncio.Server:
        return await asyncio.get_running_loop().create_server(lambda: _Stream(self), "127.0.0.1", 0)

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._server.close)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()
