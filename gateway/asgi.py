"""The second way into the same core: one ASGI request drives one `Exchange` through a small adapter. Used for every surface that the
connection protocol does not answer itself, and for all of them on other servers (`pointsman serve --asgi`)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

from backends import wire
from backends.types import Fault
from gateway.exchange import Exchange
from gateway.limits import too_large, too_slow
from gateway.logs import conceal
from gateway.serve import Core
from gateway.surface import SurfaceExchange

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
HIGH_WATER = 256 * 1024  # bytes that may wait for a slow client before the engine is slowed down


class Gone(Exception):
    """The client left while its request was being read."""


def headers_of(scope: Scope) -> dict[bytes, bytes]:
    """Headers by lower-case name; of a repeated one the last."""
    return dict(scope["headers"])


def pairs(lines: bytes) -> list[tuple[bytes, bytes]]:
    """Header lines as the list of pairs that ASGI wants."""
    out = []
    for line in lines.split(b"\r\n"):
        if line:
            name, _, value = line.partition(b": ")
            out.append((name, value))
    return out


async def read_body(core: Core, headers: Mapping[bytes, bytes], receive: Receive) -> bytes:
    """The whole body, under the caps of size and time. Raises `Fault`, or `Gone`."""
    limits = core.limits
    length = headers.get(b"content-length", b"")
    if length.isdigit() and int(length) > limits.body_bytes:
        raise too_large(limits.body_bytes)
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(limits.body_seconds):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise Gone
                part = message.get("body", b"")
                size += len(part)
                if size > limits.body_bytes:
                    raise too_large(limits.body_bytes)
                parts.append(part)
                if not message.get("more_body"):
                    return b"".join(parts)
    except TimeoutError:
        raise too_slow("body", limits.body_seconds) from None


class AsgiSink:
    """The client's side of an exchange as a short list of ASGI messages that one coroutine sends on."""

    raw = None  # framing is the server's

    def __init__(self, *, whole: bool = False) -> None:
        """`whole`: the client speaks HTTP/1.0, which knows no chunks: a stream is gathered and sent as one answer."""
        self.whole = whole
        self.closing = False  # the request was not read to its end: its connection cannot be used again
        self.head: tuple[int, bytes] | None = None
        self.gathered: list[bytes] = []
        self.messages: list[Message] = []
        self.waiting = 0  # bytes in `messages`
        self.wake = asyncio.Event()
        self.over = self.broken = self.paused = False
        self.exchange: Exchange | None = None

    def _put(self, message: Message) -> None:
        self.messages.append(message)
        self.waiting += len(message.get("body", b""))
        self.wake.set()
        if self.waiting > HIGH_WATER and not self.paused and not self.over and self.exchange is not None:
            self.paused = True
            self.exchange.pause()

    def sent(self, message: Message) -> None:
        """One message has gone out; when nothing waits any more the engine may go on."""
        self.waiting -= len(message.get("body", b""))
        if self.paused and not self.waiting and self.exchange is not None:
            self.paused = False
            self.exchange.resume()

    def respond(self, status: int, lines: bytes, body: bytes) -> None:
        self.over = True
        headers = [*pairs(lines), (b"content-length", b"%d" % len(body))]
        if self.closing:
            headers.append((b"connection", b"close"))
        self._put({"type": "http.response.start", "status": status, "headers": headers})
        self._put({"type": "http.response.body", "body": body})

    def begin(self, status: int, lines: bytes, first: bytes) -> None:
        if self.whole:
            self.head = (status, lines)
            self._gather(first)
            return
        self._put({"type": "http.response.start", "status": status, "headers": pairs(lines)})
        if first:
            self.send(first)

    def _gather(self, data: bytes) -> None:
        self.gathered.append(data)
        self.waiting += len(data)
        if self.exchange is not None and self.waiting > self.exchange.core.limits.answer_bytes:
            self.break_off()
            self.exchange.gone()

    def send(self, data: bytes) -> None:
        if self.whole:
            self._gather(data)
            return
        self._put({"type": "http.response.body", "body": data, "more_body": True})

    def finish(self, last: bytes) -> None:
        if self.head is not None:
            self.waiting = 0
            self.respond(*self.head, b"".join([*self.gathered, last]))
            return
        self.over = True
        self._put({"type": "http.response.body", "body": last})

    def break_off(self) -> None:
        self.over = self.broken = True
        self.wake.set()


Make = Callable[[Core, AsgiSink, Mapping[bytes, bytes]], SurfaceExchange]


async def run_exchange(core: Core, api: str, scope: Scope, receive: Receive, send: Send) -> None:
    """Serves one request through an `Exchange`. Returns when the answer is out or the client has left."""
    headers = headers_of(scope)
    sink = AsgiSink(whole=scope.get("http_version") == "1.0")
    exchange = sink.exchange = Exchange(core, sink, api, headers)
    try:
        core.door.identify(headers)  # before the body is read
        exchange.start(await read_body(core, headers, receive))
    except Fault as fault:
        sink.closing = True
        exchange.refuse(fault)
    except Gone:
        return
    await _answered(exchange, sink, receive, send)


async def run_surface(core: Core, make: Make, scope: Scope, receive: Receive, send: Send) -> None:
    """The same for a request of another dialect, whose exchange `make` gives."""
    headers = headers_of(scope)
    sink = AsgiSink(whole=scope.get("http_version") == "1.0")
    exchange = make(core, sink, headers)
    sink.exchange = exchange
    try:
        sink.closing = True
        core.door.identify(headers)  # before the body is read
        body = await read_body(core, headers, receive)
        sink.closing = False
        await exchange.prepare(body)
        exchange.start(body)
    except Fault as fault:
        exchange.refuse(fault)
    except Gone:
        return
    await _answered(exchange, sink, receive, send)


async def _answered(exchange: Exchange, sink: AsgiSink, receive: Receive, send: Send) -> None:
    """Sends what comes of a started exchange."""
    watch = asyncio.ensure_future(until_gone(exchange, sink, receive))
    try:
        await pump(sink, send)
    finally:
        watch.cancel()
        exchange.gone()  # nothing, unless sending failed


async def until_gone(exchange: Exchange, sink: AsgiSink, receive: Receive) -> None:
    """Waits for the client to leave, and ends the exchange then."""
    while (await receive())["type"] != "http.disconnect":
        pass
    exchange.gone()
    sink.break_off()


async def pump(sink: AsgiSink, send: Send) -> None:
    """Sends what the sink gets, until it is over."""
    while True:
        messages, sink.messages = sink.messages, []
        for message in messages:
            if sink.broken:
                return
            await send(message)
            sink.sent(message)
        if sink.messages:
            continue
        if sink.over:
            return
        sink.wake.clear()
        await sink.wake.wait()


async def reply(send: Send, status: int, body: bytes, lines: bytes = b"", kind: bytes = b"application/json") -> None:
    """Sends one whole answer."""
    headers = [(b"content-type", kind), *pairs(lines), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def reply_fault(core: Core, headers: Mapping[bytes, bytes], send: Send, fault: Fault) -> None:
    """Sends a fault as an OpenAI error."""
    if fault.origin == "backend":
        fault.message = conceal(fault.message)  # a server may quote the key that it was sent
    lines = b"x-request-id: %b\r\n" % core.request_id(headers) + core.door.cors(headers)
    if fault.retry_after is not None:
        lines += b"retry-after: %d\r\n" % max(1, round(fault.retry_after + 0.49))
    if fault.kind == "auth":
        lines += b"www-authenticate: Bearer\r\n"
    if fault.status in (408, 413, 431):  # the request was not read to its end
        lines += b"connection: close\r\n"
    await reply(send, fault.status, wire.envelope(fault), lines)
