"""Baseline: asyncio protocols on both sides, httptools parsers, uvloop; about the least that Python can spend on a request.

The request is parsed (head and body), its `model` rewritten, and sent on with a fixed head. The answer is relayed as the bytes that came
(status line, headers, chunk framing), while an httptools parser follows it to know when the message ends and the connection may go back
to the pool. Back-pressure goes both ways; a client that leaves stops the generation.
usage: protocol_relay.py PORT UPSTREAM_HOST UPSTREAM_PORT
"""

from __future__ import annotations

import asyncio
import gc
import socket
import sys
from typing import Any

import httptools
import uvloop
from rewrite import rewrite  # type: ignore[import-not-found,unused-ignore]  # this folder is the path when it runs

BAD_REQUEST = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
BAD_GATEWAY = b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n"


def _no_delay(transport: Any) -> None:
    transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


class Relay:
    """What the connections share: the upstream's address and the pool of idle connections to it."""

    def __init__(self, host: str, port: int) -> None:
        self.host, self.port = host, port
        self.head = f"Host: {host}:{port}\r\nContent-Type: application/json\r\nContent-Length: ".encode()
        self.pool: list[Upstream] = []
        self.loop = asyncio.get_running_loop()


class Upstream(asyncio.Protocol):
    """One connection to the upstream; `client` is whose answer it carries, None while it is idle."""

    __slots__ = ("client", "parser", "relay", "transport")

    def __init__(self, relay: Relay) -> None:
        self.relay = relay
        self.client: Client | None = None
        self.parser: Any = None
        self.transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio: connected."""
        self.transport = transport
        _no_delay(transport)

    def begin(self, client: Client, data: bytes) -> None:
        """Sends one request on behalf of `client`."""
        self.client = client
        self.parser = httptools.HttpResponseParser(self)
        self.transport.write(data)

    def data_received(self, data: bytes) -> None:
        """asyncio: bytes of the answer go to the client as they are."""
        if self.client is None:  # bytes outside of an answer
            self.transport.abort()
            return
        self.client.transport.write(data)
        self.parser.feed_data(data)

    def on_message_complete(self) -> None:
        """httptools: the answer is whole."""
        client, self.client = self.client, None
        keep = self.parser.should_keep_alive()
        self.parser = None
        if keep:
            self.relay.pool.append(self)
        else:
            self.transport.close()
        if client is not None:
            client.answered(keep)

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio: cut in the middle of an answer, the client is cut too."""
        if self.client is not None:
            self.client.transport.abort()
            self.client = None
        elif self in self.relay.pool:
            self.relay.pool.remove(self)


class Client(asyncio.Protocol):
    """One connection of a client."""

    __slots__ = ("body", "parser", "relay", "task", "transport", "upstream", "url")

    def __init__(self, relay: Relay) -> None:
        self.relay = relay
        self.upstream: Upstream | None = None
        self.task: asyncio.Task[None] | None = None
        self.body = self.url = b""
        self.parser: Any = None
        self.transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio: connected."""
        self.transport = transport
        _no_delay(transport)
        self.parser = httptools.HttpRequestParser(self)

    def data_received(self, data: bytes) -> None:
        """asyncio: bytes of a request."""
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError:
            self.transport.write(BAD_REQUEST)
            self.transport.close()

    def on_message_begin(self) -> None:
        """httptools: a new request."""
        self.body = b""

    def on_url(self, url: bytes) -> None:
        """httptools: its target."""
        self.url = url

    def on_body(self, body: bytes) -> None:
        """httptools: some of its body."""
        self.body = self.body + body if self.body else body

    def on_message_complete(self) -> None:
        """httptools: the request is whole; goes out on an idle connection or a new one."""
        body = rewrite(self.body)
        data = b"%b %b HTTP/1.1\r\n%b%d\r\n\r\n%b" % (self.parser.get_method(), self.url, self.relay.head, len(body), body)
        while self.relay.pool:
            upstream = self.relay.pool.pop()
            if not upstream.transport.is_closing():
                self.upstream = upstream
                upstream.begin(self, data)
                return
        self.task = self.relay.loop.create_task(self._connect(data))

    async def _connect(self, data: bytes) -> None:
        relay = self.relay
        try:
            _, upstream = await relay.loop.create_connection(lambda: Upstream(relay), relay.host, relay.port)
        except OSError:
            self.transport.write(BAD_GATEWAY)
            return
        if self.transport.is_closing():
            upstream.transport.close()
            return
        self.upstream = upstream
        upstream.begin(self, data)

    def answered(self, keep: bool) -> None:
        """The answer is whole; `keep`: the framing allows a next one."""
        self.upstream = None
        if not keep:
            self.transport.close()

    def pause_writing(self) -> None:
        """asyncio: the client reads too slowly."""
        if self.upstream is not None:
            self.upstream.transport.pause_reading()

    def resume_writing(self) -> None:
        """asyncio: it has caught up."""
        if self.upstream is not None:
            self.upstream.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio: the client went away, the generation stops."""
        if self.upstream is not None:
            upstream, self.upstream = self.upstream, None
            upstream.client = None
            upstream.transport.abort()


async def main(port: int, host: str, upstream_port: int) -> None:
    """Serves until it is ended."""
    relay = Relay(host, upstream_port)
    server = await relay.loop.create_server(lambda: Client(relay), "127.0.0.1", port, backlog=4096)
    gc.freeze()
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3])))
