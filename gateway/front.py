"""Our connection protocol, given to uvicorn as its `http=` class: hot requests are answered on the connection itself, everything
else goes to an inner, unmodified uvicorn protocol and the ASGI app.

Per connection one state: IDLE (at a message boundary), READING (a hot request is coming in), BUSY (its exchange is under way) or
COLD (the inner protocol has the connection); LINGER reads a refused request to nowhere, for a while, so that its sender gets to
read the refusal instead of a reset; CLOSING waits for the client to take the last bytes. The head is gathered whole before any
parser sees it, so that its size is bounded, a request line decides the way once, and `Upgrade: h2c` can be taken out whatever way it
was split. While an exchange is under way early bytes are kept (bounded) and reading goes on, so that a client that leaves is noticed
at once. A connection returns from COLD only at a certain message boundary; where that cannot be told it stays cold.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from backends.heads import DECIMAL, DECIMALS, PAUSE, Known, learn
from backends.types import Fault
from gateway.answers import CLOSE, refusal
from gateway.auth import Door, Tenant
from gateway.cold import at_boundary, begun, within_head
from gateway.exchange import Exchange
from gateway.heads import lowered, status_line, without_h2c
from gateway.limits import bad_request, check_length, head_fault, headers_too_large, too_large, too_slow

if TYPE_CHECKING:
    from gateway.serve import Core

IDLE, READING, BUSY, COLD, LINGER, CLOSING = range(6)
HOT = {
    b"POST /v1/chat/completions HTTP/1.1\r\n": "chat",
    b"POST /v1/completions HTTP/1.1\r\n": "completions",
    b"POST /v1/embeddings HTTP/1.1\r\n": "embeddings",
}
MAX_EARLY = _JOIN = 64 * 1024
MAX_LINGER, LINGER_SECONDS, NEVER = 64 << 20, 5.0, float("inf")


class Front(asyncio.Protocol):
    """One client connection. Construct as uvicorn does; `config.app_core` is the `Core` (see `gateway.wiring`)."""

    __slots__ = (
        "api", "body", "buffer", "config", "core", "door", "exchange", "extra", "fed", "fields", "headers", "inner", "inner_args", "keep",
        "known", "on_body", "on_header", "parser", "parts", "paused", "raw", "server_state", "since", "spare", "state", "taught", "tenant",
        "transport", "write",
    )  # fmt: skip

    def __init__(
        self, config: Config, server_state: ServerState, app_state: dict[str, Any], _loop: asyncio.AbstractEventLoop | None = None
    ) -> None:
        self.config = config
        self.core: Core = config.app_core  # type: ignore[attr-defined]
        self.server_state = server_state
        self.inner_args = (config, server_state, app_state, _loop)
        self.inner: HttpToolsProtocol | None = None
        self.state = IDLE
        self.buffer = self.body = b""
        self.headers: dict[bytes, bytes] = {}
        self.fields: dict[bytes, bytes] = {}  # the same, names in lower case
        self.parts: list[bytes] = []
        self.exchange: Exchange | None = None
        self.spare: Exchange | None = None  # of an earlier request, for the next with the head that is known
        self.parser: httptools.HttpRequestParser | None = None
        self.on_header = self.on_body = cast(Any, None)
        self.paused = self.keep = self.extra = False
        self.fed = 0
        self.known: Known | None = None  # the head of an earlier request, for `api`
        self.tenant: Tenant | None = None  # who `door` said sent that head
        self.door: Door | None = None
        self.taught = NEVER  # when a head was learned last; `-PAUSE`: the next one will be

    # --- asyncio's side
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.Transport = transport  # type: ignore[assignment]
        self.raw = self.transport
        self.write = partial(self.core.clients.outbox.put, self.transport)  # at the end of this turn of the loop
        self.since = self.core.clients.now
        connections: set[Any] = self.server_state.connections
        if len(connections) >= self.core.limits.connections:
            self._reply(Fault("overloaded", "Too many connections.", retry_after=1.0, code="too_many_connections"))
            asyncio.get_running_loop().call_later(LINGER_SECONDS, self.transport.abort)  # nobody ticks this one
            return
        connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.server_state.connections.discard(self)
        inner, self.inner = self.inner, None
        if inner is not None:
            inner.connection_lost(exc)
        exchange, self.exchange = self.exchange, None
        if exchange is not None:
            exchange.gone()
        self.parser = self.on_header = self.on_body = self.spare = None

    def data_received(self, data: bytes) -> None:
        known = self.known
        if known is None or self.state != IDLE or self.buffer or (body := known.body(data)) is None:
            self._data(data)
            return
        # A whole request with a head that is known. The parser is left where it was, between two messages.
        core = self.core
        if self.door is not core.door:
            self.door, self.tenant = core.door, core.door.knows(known.fields)
        if len(body) > core.limits.body_bytes:
            self._reply(too_large(core.limits.body_bytes))
            return
        self.state = BUSY
        exchange = self.spare
        if exchange is None:
            exchange = Exchange(core, self, self.api, known.fields)
        else:
            exchange.anew(known.fields)
        self.exchange = exchange
        exchange.start(body, self.tenant)
        if self.paused:  # the client has not read the answer before this one
            exchange.pause()

    def _data(self, data: bytes) -> None:
        if self.state == IDLE:
            self._head(data)
        elif self.state == READING:
            self._feed(data)
        elif self.state == COLD:
            self._cold(data)
        elif self.state == LINGER:
            self.fed += len(data)
            if self.fed > MAX_LINGER:
                self.transport.abort()
        else:
            self.buffer += data
            if len(self.buffer) > MAX_EARLY:
                self.transport.abort()  # a client that floods instead of waiting

    def eof_received(self) -> None:
        if self.inner is not None:
            self.inner.eof_received()

    def pause_writing(self) -> None:
        if self.state == COLD and self.inner is not None:
            self.inner.pause_writing()
        self.paused = True
        if self.exchange is not None:
            self.exchange.pause()

    def resume_writing(self) -> None:
        if self.inner is not None:
            self.inner.resume_writing()
        self.paused = False
        if self.exchange is not None:
            self.exchange.resume()

    # --- the head decides
    def _head(self, data: bytes) -> None:
        if self.buffer:
            data = self.buffer + data
            self.buffer = b""
        else:
            self.since = self.core.clients.now
        end = data.find(b"\r\n\r\n")
        if end <= 0 or end > self.core.limits.header_bytes:
            self._incomplete(data, end)
            return
        if b"upgrade" in data[:end].lower():
            head = without_h2c(data[: end + 4])
            data, end = head + data[end + 4 :], len(head) - 4
        api = HOT.get(data[: data.find(b"\n") + 1])
        if api is not None:
            self.api, self.known, self.spare = api, None, None
            self._hot(data)
            if self.state == READING:  # the body is still to come: what the head says can be checked before
                self._early()
            elif self.state in (BUSY, IDLE) and self.keep:
                self._learn(data, end + 4)
            return
        self.state, self.fed = COLD, 0
        self.core.clients.outbox.flush()  # what it writes comes after
        inner = self._inner()
        if self.paused:  # the client has not read the answer before this one
            inner.pause_writing()
        inner.data_received(data)

    def _incomplete(self, data: bytes, end: int) -> None:
        if data[:2] == b"\r\n":  # an empty line before a request is allowed (RFC 9112, 2.2)
            data = data.lstrip(b"\r\n")
            if data:
                self._head(data)
            return
        fault = head_fault(data, end, self.core.limits.header_bytes)
        if fault is not None:
            self._reply(fault)
        else:
            self.buffer = data

    def _hot(self, data: bytes) -> None:
        if self.parser is None:
            # C callables: no Python frame a header or a piece of the body
            self.on_header, self.on_body = self.headers.__setitem__, self.parts.append
            self.parser = httptools.HttpRequestParser(self)
        self.state = READING
        self.fed, self.fields = 0, {}
        self._feed(data)

    def _learn(self, data: bytes, size: int) -> None:
        """Keeps the head of a request that came whole, and who sent it; not a connection's first, which may be its only one."""
        now = self.core.clients.now
        if now - self.taught >= PAUSE:
            self.taught, self.known, self.door = now, learn(data[:size], self.fields), None
        elif self.taught == NEVER:
            self.taught = -PAUSE

    def _early(self) -> None:
        headers = lowered(self.headers)
        try:
            self.core.door.identify(headers)
            check_length(headers, self.core.limits.body_bytes)
        except Fault as fault:
            self._reply(fault)
            return
        if headers.get(b"expect", b"").lower() == b"100-continue" and not self.parts:
            self.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _feed(self, data: bytes) -> None:
        parser, limits = self.parser, self.core.limits
        assert parser is not None
        self.fed += len(data)
        if self.fed > limits.body_bytes + limits.header_bytes:
            self._reply(too_large(limits.body_bytes))
            return
        try:
            parser.feed_data(data)
        except httptools.HttpParserError as e:
            if self.state == READING:
                self._reply(bad_request(f"The request is not valid HTTP: {e}."))
                return
            self.extra = True  # rubbish after a whole request: answer that one, then close
        except httptools.HttpParserUpgrade:
            if not self.extra:  # of this request, and not of one behind it
                self._reply(bad_request("This server does not switch protocols."))
                return
        if self.state == BUSY and self.exchange is None:
            self._begin()

    def on_message_begin(self) -> None:
        if self.state == BUSY:
            self.extra = True  # (part of) a second request in the same read: httptools cannot pause, so answer one, then close

    def on_chunk_header(self) -> None:
        if not self.fields:  # what comes after the chunks are trailers; they say nothing of who calls
            self.fields = lowered(self.headers)

    def on_message_complete(self) -> None:
        # Called inside feed_data; only here does the parser know whether the connection may stay open.
        if self.state == BUSY:
            return
        self.state = BUSY
        self.keep = self.parser.should_keep_alive() and not self.core.leaving  # type: ignore[union-attr]
        self.body = self.parts[0] if len(self.parts) == 1 else b"".join(self.parts)
        if not self.fields:
            self.fields = lowered(self.headers)

    def _begin(self) -> None:
        body, self.body = self.body, b""
        self.parts.clear()
        self.headers.clear()
        self.keep = self.keep and not self.extra
        if len(body) > self.core.limits.body_bytes:
            self._reply(too_large(self.core.limits.body_bytes))
            return
        exchange = self.exchange = Exchange(self.core, self, self.api, self.fields)
        exchange.start(body)
        if self.paused:  # the client has not read the answer before this one
            exchange.pause()

    # --- Sink
    def respond(self, status: int, lines: bytes, body: bytes) -> None:
        core, length = self.core, len(body)
        if status == 200 and self.keep and length < _JOIN:
            number = DECIMAL[length] if length < DECIMALS else b"%d" % length
            self.write(b"".join((core.ok, lines, b"content-length: ", number, b"\r\n\r\n", body)))
            if core.idle and not self.buffer:  # as `_done`, without its frame
                exchange, self.exchange = self.exchange, None
                self.spare = exchange if exchange is not None and exchange.clean else None
                self.state, self.since = IDLE, core.clients.now
                return
        else:
            keep = b"" if self.keep else CLOSE
            self.write(b"%b%b%b%bcontent-length: %d\r\n\r\n" % (status_line(status), core.date, lines, keep, length))
            self.write(body)
        self._done()

    def begin(self, status: int, lines: bytes, first: bytes) -> None:
        keep = b"" if self.keep else CLOSE
        chunk = b"%x\r\n%b\r\n" % (len(first), first) if first else b""
        self.write(b"%b%b%b%btransfer-encoding: chunked\r\n\r\n%b" % (status_line(status), self.core.date, lines, keep, chunk))

    def send(self, data: bytes) -> None:
        self.write(b"%x\r\n%b\r\n" % (len(data), data))

    def finish(self, last: bytes) -> None:
        self.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(last), last) if last else b"0\r\n\r\n")
        self._done()

    def break_off(self) -> None:
        self.exchange = None
        self.core.clients.outbox.flush()  # what came before the break is the client's
        self.transport.abort()

    def _done(self) -> None:
        """The answer is out: back to the boundary, and to whatever came early."""
        exchange, self.exchange = self.exchange, None
        self.spare = exchange if exchange is not None and exchange.clean else None
        if not self.keep or not self.core.idle:
            self._close()
            return
        self.state = IDLE
        self.since = self.core.clients.now
        if self.buffer:
            # Not from within the exchange's last call: a chain of pipelined requests must not become a recursion.
            asyncio.get_running_loop().call_soon(self._early_bytes)

    def _early_bytes(self) -> None:
        if self.state == IDLE and self.buffer and not self.transport.is_closing():
            data, self.buffer = self.buffer, b""
            self._head(data)

    def _reply(self, fault: Fault) -> None:
        """An answer to what never became an exchange."""
        core = self.core
        core.clients.outbox.flush()
        self.transport.write(status_line(fault.status) + core.date + refusal(fault, core.request_id({})))
        self.state, self.fed, self.since = LINGER, 0, core.clients.now
        (self.transport.write_eof if self.transport.can_write_eof() else self.transport.close)()

    # --- everything else
    def _close(self) -> None:
        self.core.clients.outbox.flush()
        self.transport.close()

    def _inner(self) -> HttpToolsProtocol:
        if self.inner is None:
            self.inner = begun(HttpToolsProtocol(*self.inner_args), self.transport)
        return self.inner

    def _cold(self, data: bytes) -> None:
        inner = self._inner()
        if at_boundary(inner):
            inner._unset_keepalive_if_required()  # its timer must not close what comes next
            self.state = IDLE
            self._head(data)
            return
        inner.data_received(data)
        if not self.fed:
            self.since = self.core.clients.now
        self.fed = self.fed + len(data) if within_head(inner) else 0
        if self.fed > self.core.limits.header_bytes:
            self._reply(headers_too_large(self.core.limits.header_bytes))

    # --- uvicorn's and the tick's
    def shutdown(self) -> None:
        """Called by uvicorn when it listens no more: idle connections close, now or as `core.idle` says, others after their answer."""
        if self.core.idle:
            return
        if self.state == COLD and self.inner is not None and not at_boundary(self.inner):
            if not within_head(self.inner):
                self.inner.shutdown()
        elif self.state == BUSY and self.exchange is not None:
            self.keep = False
        elif self.state != READING and not self.buffer:
            self._close()

    def tick(self, now: float) -> None:
        """Closes connections that idle too long or bring their request too slowly."""
        limits, age = self.core.limits, now - self.since
        if self.state != LINGER and self.transport.is_closing():
            self._closing(now)
        elif self.state == READING:
            if age > limits.body_seconds:
                self._reply(too_slow("body", limits.body_seconds))
        elif self.state == IDLE and not self.buffer:
            if age > min(limits.keep_alive_seconds, self.core.idle):
                self._close()
        elif self.state == IDLE or (self.state == COLD and self.fed):
            if age > limits.header_seconds:
                self._reply(too_slow("headers", limits.header_seconds))
        elif self.state == LINGER and age > LINGER_SECONDS:
            self.transport.abort()

    def _closing(self, now: float) -> None:
        """A transport closes when all is written; a client that reads no more must not keep it for ever."""
        left = self.transport.get_write_buffer_size()
        if self.state != CLOSING or left != self.fed:
            self.state, self.fed, self.since = CLOSING, left, now
        elif now - self.since > self.core.limits.client_stall_seconds:
            self.transport.abort()
