"""A small real HTTP/2 server on h2: answers every request as told, and remembers what came and what was given up."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import h2.config
import h2.connection
import h2.events

Headers = list[tuple[str, str]]
Answer = Callable[["Http2", int], None]


class Http2(asyncio.Protocol):
    """One connection. `answer` is called with the stream's number when a request is whole."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
        self.bodies: dict[int, bytes] = {}
        self.headers: dict[int, dict[str, str]] = {}
        self.lost = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.Transport = transport  # type: ignore[assignment]
        self.server.connections.append(self)
        self.h2.initiate_connection()
        self.flush()

    def data_received(self, data: bytes) -> None:
        for event in self.h2.receive_data(data):
            if isinstance(event, h2.events.RequestReceived):
                self.headers[event.stream_id] = {str(_text(k)): str(_text(v)) for k, v in event.headers}
                self.bodies[event.stream_id] = b""
            elif isinstance(event, h2.events.DataReceived):
                self.bodies[event.stream_id] += event.data
                self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            elif isinstance(event, h2.events.StreamEnded):
                self.server.requests.append((self.headers[event.stream_id], self.bodies[event.stream_id]))
                self.server.answer(self, event.stream_id)
        self.flush()

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set()

    def flush(self) -> None:
        if data := self.h2.data_to_send():
            self.transport.write(data)

    def head(self, stream: int, status: int = 200, headers: Headers | None = None, end: bool = False) -> None:
        self.h2.send_headers(stream, [(":status", str(status)), *(headers or [("content-type", "application/json")])], end_stream=end)
        self.flush()

    def data(self, stream: int, data: bytes, end: bool = False) -> None:
        self.h2.send_data(stream, data, end_stream=end)
        self.flush()

    def reset(self, stream: int) -> None:
        self.h2.reset_stream(stream, error_code=2)
        self.flush()


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value


class Server:
    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.connections: list[Http2] = []
        self.requests: list[tuple[dict[str, str], bytes]] = []
        self.port = 0


@asynccontextmanager
async def serving(answer: Answer, tls: ssl.SSLContext | None = None) -> AsyncIterator[Server]:
    """The server on a free port; with `tls` it offers h2 alone."""
    made = Server(answer)
    if tls is not None:
        tls.set_alpn_protocols(["h2"])
    server = await asyncio.get_running_loop().create_server(lambda: Http2(made), "127.0.0.1", 0, ssl=tls)
    made.port = server.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        server.close()
        for connection in made.connections:
            connection.transport.abort()
            await connection.lost.wait()
