"""One connection to the server under test: HTTP/1.1 on a plain protocol, made to say when things happened.

Stamps are taken by the monotonic clock when `data_received` is called, before anything is parsed; a request is sent when it is handed to
the kernel, or, where the kernel does not take it at once, when it has taken the last of it. (Not by the loop's `time()`: uvloop's is
whole milliseconds, as of the turn's beginning.) Chunked bodies, bodies of a length and bodies that the connection's end ends are read
(RFC 9112, sections 6.3 and 7); interim answers are passed over; an upgrade or a compressed answer, neither of which was asked for, fails.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

import httptools

from benchmarks.bench.answers import Answer

_EARLY = "the connection was closed before an answer"
_BROKEN = "the connection was closed before the answer was whole"


class Connection(asyncio.Protocol):
    """One connection. It sends one request at a time; whoever calls sees to that.

    `number`: the client's count of them; `exchanges`: answers that were read whole; `usable`: another request may be sent.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self.exchanges = 0
        self.usable = False
        self.gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._transport: Any = None  # asyncio's or uvloop's, plain or TLS
        self._parser: Any = None
        self._answer: Answer | None = None
        self._over: asyncio.Future[bool] | None = None
        self._origin = self._now = 0.0
        self._full = False  # the kernel did not take all that was written
        self._kind = ""
        self._framed = self._interim = self._begun = False

    def __repr__(self) -> str:
        state = "busy" if self._answer is not None else "idle" if self.usable else "closed"
        return f"<Connection {self.number} {state}, {self.exchanges} answers>"

    async def exchange(self, data: bytes, answer: Answer, origin: float, deadline: float, limit: str) -> bool:
        """Sends `data`, one whole request, and reads what comes until the answer is whole or has failed; all is noted in the answer's
        `Timed`. Stamps count from `origin`; both it and `deadline` are monotonic times, `limit` says what passed at the deadline.

        False: the connection had served before and was closed without one byte of an answer, as servers do with idle ones; then only
        `sent` is noted, and the request may be sent again. Cancelled: the connection is closed, since the rest of an answer is on its way.
        """
        loop = asyncio.get_running_loop()
        self._answer, self._origin, self._over = answer, origin, loop.create_future()
        self._begun = False
        answer.timed.connection = self.number
        if self._parser is None:
            self._parser = httptools.HttpResponseParser(self)
        timer = loop.call_later(max(0.0, deadline - time.monotonic()), self._late, limit)
        try:
            self._write(data)
            return await self._over
        except asyncio.CancelledError:
            self.close()
            raise
        finally:
            timer.cancel()
            self._answer = self._over = None

    def _write(self, data: bytes) -> None:
        # The kernel may run the server before `write` returns: a stamp from after it can be later than the answer's first byte was there.
        before = time.monotonic()
        self._transport.write(data)
        if not self._full:
            self._sent(before)

    def _sent(self, at: float) -> None:
        """The last byte of the request is the kernel's. Sent once more (see `exchange`), a request keeps its first time."""
        if self._answer is not None and not self._answer.timed.sent:
            self._answer.timed.sent = at - self._origin

    def close(self) -> None:
        """Closes it at once; `gone` is done soon. What is under way ends as if the server had closed. May be called again."""
        self.usable = False
        if self._transport is not None:
            self._transport.abort()

    # What the transport calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It is there, TLS and all. Buffers have no room, so that `pause_writing` says whether the kernel took all. (TLS transports pause
        at their limit, plain ones above it.)"""
        self._transport = transport
        self._transport.set_write_buffer_limits(high=0 if transport.get_extra_info("sslcontext") is None else 1)
        self.usable = True

    def pause_writing(self) -> None:
        """The kernel's buffer is full."""
        self._full = True

    def resume_writing(self) -> None:
        """The kernel has taken the rest."""
        self._full = False
        self._sent(time.monotonic())

    def data_received(self, data: bytes) -> None:
        """A read: stamped, then parsed."""
        self._now = time.monotonic() - self._origin
        answer = self._answer
        if answer is None:
            self.close()  # bytes that nobody asked for: what follows would be another's answer
            return
        answer.timed.bytes_in += len(data)
        self._begun = True
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserCallbackError:
            raise
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._fail(f"what came is no HTTP/1.1 answer: {str(error)[:100] or type(error).__name__}")
            return
        if answer.over:
            self._end(False)

    def connection_lost(self, error: Exception | None) -> None:
        """It is gone, by the server, by us or by an accident."""
        self.usable = False
        self._parser = None  # it holds us as we hold it
        if not self.gone.done():
            self.gone.set_result(None)
        if self._answer is None or self._over is None or self._over.done():
            return
        self._now = time.monotonic() - self._origin
        if self._answer.timed.head and not self._framed and error is None:
            self._end(True)  # the body ends with the connection
        elif self.exchanges and not self._begun:
            self._over.set_result(False)
        else:
            why = f" ({error.strerror or error})" if isinstance(error, OSError) else ""
            self._fail((_BROKEN if self._answer.timed.head else _EARLY) + why)

    # What the parser calls.

    def on_message_begin(self) -> None:
        """A status line begins. One that follows an answer which is whole belongs to no request."""
        self._kind, self._framed, self._interim = "", False, False
        if self._answer is None:
            self.close()

    def on_header(self, name: bytes, value: bytes) -> None:
        """A field of the head (or of a trailer, which says nothing to us)."""
        name = name.lower()
        if name == b"content-type":
            self._kind = value.decode("latin-1").lower()
        elif name in (b"content-length", b"transfer-encoding"):
            self._framed = True
        elif name == b"content-encoding" and value.lower() not in (b"", b"identity"):
            self._fail(f"the answer is compressed ({value[:40].decode('latin-1')}), which was not asked for")

    def on_headers_complete(self) -> None:
        """The head is whole."""
        status = self._parser.get_status_code()
        self._interim = 100 <= status < 200
        if self._answer is not None and not self._interim:
            self._answer.begin(status, self._kind, self._now)

    def on_body(self, data: bytes) -> None:
        """A piece of the body, without its framing."""
        if self._answer is not None:
            self._answer.feed(data, self._now)

    def on_message_complete(self) -> None:
        """The answer is whole, and the connection can be used again where the server lets it."""
        if self._interim:
            return
        self._end(self._parser.should_keep_alive())

    # Ends.

    def _late(self, limit: str) -> None:
        self._now = time.monotonic() - self._origin
        self._fail(limit)

    def _fail(self, error: str) -> None:
        if self._answer is not None:
            self._answer.fail(error)
        self._end(False)

    def _end(self, reuse: bool) -> None:
        answer, over = self._answer, self._over
        if answer is None or over is None or over.done():
            return
        answer.timed.sent = answer.timed.sent or self._now  # answered before the request was out
        answer.end(self._now)
        self._answer = None
        self.exchanges += 1
        if not reuse or self._full:
            self.close()
        over.set_result(True)
