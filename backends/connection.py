"""One connection to an upstream: HTTP/1.1 framing by llhttp, no task, no queue.

A `Receiver` is called as bytes come. A pooled connection that closes before any byte of its answer is retried once, on a fresh
connection; never after one byte. Redirects are not followed: a 3xx is an answer. An answer that equals the one before it but for its length
and body comes around the parser (see `backends.heads`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING

import httptools

from backends.dial import Dial, unmade
from backends.heads import PAUSE, Known, learn
from backends.origin import unreachable
from backends.sent import Sent
from backends.splice import CHUNK, LINES, LONGEST, QUOTE, Splice
from backends.types import Fault, Receiver

if TYPE_CHECKING:
    from backends.http import Pool

log = logging.getLogger("pointsman.upstream")
MAX_HEAD = 64 * 1024  # bytes of an answer's head, and of framing between two bytes of its body
_lower = bytes.lower


class Connection(asyncio.Protocol):
    """One pooled connection: llhttp framing, lent to one `Sent` at a time."""

    __slots__ = (
        "answered", "between", "clients", "complete", "dial", "extra", "fields", "flight", "head", "head_told", "headers", "idle_since",
        "interim", "known", "last", "on_body", "on_header", "overhead", "parser", "parts", "pool", "reused", "splice", "taught",
        "transport",
    )  # fmt: skip

    def __init__(self, pool: Pool) -> None:
        self.pool, self.clients = pool, pool.clients
        self.flight: Sent | None = None
        self.headers: dict[bytes, bytes] = {}
        self.fields: dict[bytes, bytes] = {}  # the answer's headers, names in lower case
        self.parts: list[bytes] = []
        self.on_header = self.headers.__setitem__  # C callables: the parser fills these without a Python frame
        self.on_body = self.parts.append
        self.parser = httptools.HttpResponseParser(self)
        self.reused = False
        self.dial: Dial | None = None  # what opened it, where that was no task
        self.idle_since = 0.0
        self.known: Known | None = None  # the head of the last whole answer
        self.taught = -PAUSE  # when a head was learned last
        self.last = 0.0  # when something was read last of an answer
        self._reset()

    def _reset(self) -> None:
        self.head = 0  # status, once the head is complete
        # between: the parser stands between two chunks of a body
        self.head_told = self.complete = self.interim = self.extra = self.answered = self.between = False
        self.overhead = 0
        self.splice: Splice | None = None  # of the flight; set only while `between`

    # --- asyncio's side
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.Transport = transport  # type: ignore[assignment]
        if self.dial is not None:
            self.transport.pause_reading()  # until `dialled`: a loop that closed it sooner would lose track of its socket

    def dialled(self) -> None:
        """The transport is all there: off it goes, unless the flight was given up in the meantime."""
        flight = self.flight
        if flight is None:
            self.transport.abort()
            return
        flight.task = None
        self.transport.resume_reading()
        self.opened(flight)

    def opened(self, flight: Sent) -> None:
        """The connection is there, for `flight`."""
        self.pool.opened += 1
        self.begin(flight)
        if flight.paused:
            self.transport.pause_reading()

    def begin(self, flight: Sent) -> None:
        """Writes the flight's request. The connection must be idle."""
        self.flight, flight.conn = flight, self
        head, body = flight.payload
        self.transport.write(head)
        if body:
            self.transport.write(body)

    def data_received(self, data: bytes) -> None:
        splice = self.splice
        if splice is not None:
            length = len(data)
            line = LINES[length] if length < LONGEST else None
            if line is not None:
                # All is built again and compared: cheaper than three searches, and nothing can overlap.
                text = data[len(line) + splice.begin : splice.end]
                if b"".join((line, splice.before, text, splice.after)) == data and QUOTE not in text:
                    splice.passed += CHUNK + len(text)
                    self.last = self.clients.now
                    writes = splice.writes
                    if writes:  # as `Outbox.put`, without its frame
                        writes.append((splice.transport, data))
                    else:
                        splice.outbox.put(splice.transport, data)
                    return
            if splice.several(data):
                self.last = self.clients.now
                return
            self.splice = None
        flight = self.flight
        if flight is None:  # bytes that nobody asked for: whatever they are, they must not reach the next request
            self.transport.abort()
        elif self.between:
            length = len(data)
            line = LINES[length] if length < LONGEST else None
            if line is not None and data.startswith(line) and data.endswith(b"\r\n"):
                # One whole chunk, as most reads of a stream are: the parser need not see it, it ends where it began.
                self.last = self.clients.now
                flight.receiver.on_data(data[len(line) : -2])  # type: ignore[union-attr]
            else:
                self._parse(flight, data)
        elif not self.answered and (known := self.known) is not None and (body := known.body(data)) is not None:
            self._again(flight, known, body)
        else:
            self._parse(flight, data)

    def _parse(self, flight: Sent, data: bytes) -> None:
        self.answered = True
        self.splice = None  # the relay must see what is not one whole chunk, and may set another
        self.last = self.clients.now
        broken = None
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError as e:
            broken = str(e) or type(e).__name__
        except httptools.HttpParserUpgrade:
            broken = "it switched protocols"
        if self.between:
            self.between = not self.complete and broken is None and data.endswith(b"\r\n")
        parts = self.parts
        if parts:
            body = parts[0] if len(parts) == 1 else b"".join(parts)
            parts.clear()
            self.overhead = 0
        else:
            body = b""
            self.overhead += len(data)
        if self.complete and not self.head_told and not self.extra:
            receiver = flight.receiver
            if receiver is not None:
                status, self.head_told = self.head, True
                if status == 200 and self.reused and broken is None and self.pool.clients.now - self.taught >= PAUSE:
                    self._learn(data, len(body))
                self._retire(flight, broken is None)
                _tell(receiver, status, self.fields, body)
            return
        if self.extra:
            broken, self.complete, body = "it sent a second answer", False, b""  # none of that one may pass as part of the first
        elif self.overhead > MAX_HEAD and not self.complete:
            broken = f"its headers exceed {MAX_HEAD} bytes"
        self._deliver(flight, body, broken)

    def _learn(self, data: bytes, size: int) -> None:
        """Keeps the head of a whole answer that came in one read."""
        self.taught = self.pool.clients.now
        head = data[: len(data) - size]
        if data.find(b"\r\n\r\n") + 4 == len(head) and b"content-length" in self.fields:
            self.known = learn(head, self.fields)

    def _again(self, flight: Sent, known: Known, body: bytes) -> None:
        """A whole answer with a head that is known: status 200, and the connection stays open. The parser is left where it was,
        between two messages."""
        receiver = flight.receiver
        flight.receiver = flight.conn = self.flight = None
        pool = self.pool
        pool.busy.discard(flight)
        transport, idle = self.transport, pool.idle
        if flight.paused:
            transport.resume_reading()
        # An early answer may have overtaken our request: then the rest of its body is still on its way.
        if not transport.get_write_buffer_size() and len(idle) < pool.keep:
            self.idle_since = self.clients.now
            idle.append(self)
        else:
            self._shut()
        if receiver is not None:
            try:  # as `_tell`, without its frame
                receiver.on_whole(200, known.fields, body)
            except Exception:
                log.exception("a bug: a whole answer")
                receiver.on_fault(_bug())

    def _deliver(self, flight: Sent, body: bytes, broken: str | None) -> None:
        """Hands on what one read brought, in order; any callback may end the flight."""
        receiver = flight.receiver
        if receiver is None:
            return
        if self.head and not self.head_told and not self.extra:
            self.head_told = True
            receiver.on_head(self.head, self.fields)
            if flight.receiver is None:
                return
        if body and self.head_told:
            receiver.on_data(body)
            if flight.receiver is None:
                return
        if self.complete:
            self._finish(flight, reusable=broken is None)
        elif broken is not None:
            flight.fail(_upstream(f"Backend {self.pool.name} broke HTTP: {broken}.", "bad_framing"))

    def on_message_begin(self) -> None:
        if self.complete:  # the beginning of what nobody asked for: the next request must not find it in the parser
            self.reused = False

    def on_headers_complete(self) -> None:
        if self.complete:
            self.extra = True
            return
        status = self.parser.get_status_code()
        if 100 <= status < 200:
            self.interim = True
            return
        self.head = status
        headers = self.headers
        self.fields = dict(zip(map(_lower, headers), headers.values(), strict=True))
        headers.clear()

    def on_chunk_header(self) -> None:
        self.between = False

    def on_chunk_complete(self) -> None:
        self.between = True

    def on_message_complete(self) -> None:
        if self.interim:
            self.interim = False
            self.headers.clear()
            return
        self.complete = True
        if self.headers:
            self.headers.clear()  # trailers
        # Only inside this callback does llhttp know whether the connection may stay open.
        self.reused = self.parser.should_keep_alive()

    def _finish(self, flight: Sent, reusable: bool) -> None:
        receiver = flight.receiver
        self._retire(flight, reusable)
        assert receiver is not None
        receiver.on_end()

    def _retire(self, flight: Sent, reusable: bool) -> None:
        """The flight is over and the connection goes back to the pool, or is closed."""
        flight.receiver = flight.conn = self.flight = None
        self.pool.busy.discard(flight)
        # An early answer may have overtaken our request: then the rest of its body is still on its way.
        keep = reusable and self.reused and self.transport.get_write_buffer_size() == 0
        self._reset()
        if keep and not self.transport.is_closing():
            if flight.paused:
                self.transport.resume_reading()
            self.pool.put(self)
        else:
            self._shut()

    def _shut(self) -> None:
        if self.transport.get_write_buffer_size():
            self.transport.abort()  # who has answered need not read the rest of our request, and closing would wait for that
        else:
            self.transport.close()

    def eof_received(self) -> None:
        flight, fields = self.flight, self.fields
        framed = b"content-length" in fields or b"chunked" in fields.get(b"transfer-encoding", b"").lower()
        if flight is not None and self.head and not framed and not self.complete:
            self._finish(flight, reusable=False)  # the end of such an answer is the end of the connection (RFC 9112, 6.3)

    def connection_lost(self, exc: Exception | None) -> None:
        pool, dial = self.pool, self.dial
        pool.forget(self)
        if dial is not None:
            pool.dialing.drop(dial)
        flight, self.flight, self.dial, self.splice = self.flight, None, None, None
        # The parser holds this object and this object the parser's callbacks: break the cycle so that memory goes at once.
        self.parser = self.on_header = self.on_body = None  # type: ignore[assignment]
        if flight is None or flight.receiver is None:
            return
        flight.conn = None
        if dial is not None and not self.reused and not self.answered and unmade(exc):
            assert exc is not None
            pool.opened -= 1
            flight.fail(unreachable(pool.name, exc, flight.timeouts.connect, pool.origin.authority))
        elif self.reused and not self.answered:
            pool.stale += 1
            flight.pool.connect(flight)  # closed while idle, most likely: one fresh connection, once
        else:
            what = "closed the connection in the middle of its answer" if self.answered else "closed the connection without an answer"
            flight.fail(_upstream(f"Backend {pool.name} {what}.", "connection_lost"))


def _tell(receiver: Receiver, status: int, headers: Mapping[bytes, bytes], body: bytes) -> None:
    """Hands a whole answer on. Its flight is over: what a bug there leaves undone nobody else would end."""
    try:
        receiver.on_whole(status, headers, body)
    except Exception:
        log.exception("a bug: a whole answer")
        receiver.on_fault(_bug())


def _bug() -> Fault:
    return Fault("upstream", "The gateway failed; its log says why.", status=500, code="internal_error")


def _upstream(message: str, code: str) -> Fault:
    return Fault("upstream", message, origin="backend", code=code, retry=True)
