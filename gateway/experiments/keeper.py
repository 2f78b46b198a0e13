"""What is kept of a call that may be mirrored: the request as it came, and the answer as its client gets it."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING

from backends import wire
from backends.wire import Doc
from gateway.asgi import AsgiSink
from gateway.front import Front
from gateway.surface import SurfaceExchange

if TYPE_CHECKING:
    from gateway.exchange import Exchange

# What is a user's or an account's own, or changes the price, and no part of the question.
_LEFT_OUT = ("user", "metadata", "store", "safety_identifier", "prompt_cache_key", "service_tier", "n", "priority")


class Keeper:
    """A `Sink` around a client's own, which passes all on at once and keeps up to `limit` bytes of it. When a good answer is out, whole, it
    calls `answered`; of any other end it says nothing. Owned by its exchange; `release` lets go of that."""

    raw = None  # all must pass here
    __slots__ = (
        "answered", "api", "doc", "ended", "exchange", "experiment", "id", "inner", "limit", "parts", "seconds", "size", "stream",
        "tail",
    )  # fmt: skip

    def __init__(self, exchange: Exchange, experiment: str, limit: int, answered: Callable[[Keeper], None]) -> None:
        self.experiment, self.limit, self.answered = experiment, limit, answered
        self.id, self.api, self.stream = exchange.id, exchange.api, exchange.stream
        self.doc: Doc = exchange.call.doc
        self.exchange: Exchange | None = exchange
        self.inner = exchange.sink
        self.parts: list[bytes] = []
        self.size = 0
        self.seconds = 0.0  # to the whole answer
        self.tail: bytes | None = None  # its usage, which a stream's client may not have asked for
        self.ended = 0.0  # when its exchange was first seen to have ended without a word here (monotonic seconds)
        if isinstance(exchange, SurfaceExchange):  # as the client gets it, behind the translation
            self.inner, exchange.out.inner = exchange.out.inner, self
        else:
            exchange.sink = self

    # --- Sink
    def respond(self, status: int, lines: bytes, body: bytes) -> None:
        self.inner.respond(status, lines, body)
        if status == 200:
            self._keep(body)
            self._out()

    def begin(self, status: int, lines: bytes, first: bytes) -> None:
        self.inner.begin(status, lines, first)
        self._keep(first)

    def send(self, data: bytes) -> None:
        self.inner.send(data)
        self._keep(data)

    def finish(self, last: bytes) -> None:
        self.inner.finish(last)
        self._keep(last)
        self._out()

    def break_off(self) -> None:
        self.inner.break_off()

    def _keep(self, data: bytes) -> None:
        self.size += len(data)
        if self.size <= self.limit:
            self.parts.append(data)
        else:
            self.parts.clear()

    def _out(self) -> None:
        exchange = self.exchange
        if exchange is not None and exchange.last_fault is None:
            self.seconds, self.tail = monotonic() - exchange.received, exchange.tail
            self.answered(self)

    # --- afterwards
    @property
    def large(self) -> bool:
        """Whether the answer was more than is kept."""
        return self.size > self.limit

    @property
    def unsent(self) -> int:
        """Bytes of answers on this connection that its client has not taken yet."""
        inner = self.inner
        if isinstance(inner, Keeper):  # of another experiment
            return inner.unsent
        if isinstance(inner, Front):
            return inner.transport.get_write_buffer_size()
        return inner.waiting if isinstance(inner, AsgiSink) else 0

    def chat(self) -> Doc:
        """The request as a chat document, without what is its user's own. Raises Fault where it cannot be one."""
        exchange, doc = self.exchange, self.doc
        if isinstance(exchange, SurfaceExchange):
            doc = exchange.as_chat(doc)
        return wire.drop(doc, _LEFT_OUT)

    def release(self) -> None:
        """Lets the exchange go."""
        self.exchange = None


def size_of(doc: Doc) -> int:
    """Bytes of a document's values."""
    return sum(len(memoryview(raw)) for raw in doc.values())
