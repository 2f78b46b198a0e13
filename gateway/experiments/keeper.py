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


class Room:
    """The bytes that all keepers of a process may hold together."""

    __slots__ = ("limit", "used")

    def __init__(self, limit: int) -> None:
        self.limit, self.used = limit, 0

    @property
    def full(self) -> bool:
        """Whether no more should be kept."""
        return self.used > self.limit


class Keeper:
    """A `Sink` around a client's own, which passes all on at once and keeps up to `limit` bytes of it. When a good answer is out, whole, it
    calls `answered`; of any other end it says nothing. Owned by its exchange; `release` lets go of that, and of what is kept.

    `jobs`: who still needs what is kept. `lost`: why the answer was not kept, `large` or `queue` (there was no room).
    """

    raw = None  # all must pass here
    __slots__ = (
        "answered", "api", "doc", "ended", "exchange", "experiment", "id", "inner", "jobs", "limit", "lost", "parts", "room", "seconds",
        "size", "stream", "tail",
    )  # fmt: skip

    def __init__(self, exchange: Exchange, experiment: str, limit: int, room: Room, answered: Callable[[Keeper], None]) -> None:
        self.experiment, self.limit, self.room, self.answered = experiment, limit, room, answered
        self.id, self.api, self.stream = exchange.id, exchange.api, exchange.stream
        self.doc: Doc = exchange.call.doc
        self.exchange: Exchange | None = exchange
        self.inner = exchange.sink
        self.parts: list[bytes] = []
        self.size = size_of(self.doc)  # bytes held: the request, and what is kept of the answer
        room.used += self.size
        self.limit += self.size
        self.jobs = 0
        self.lost = ""
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
        if self.lost or self.exchange is None:
            return
        self.size += len(data)
        self.room.used += len(data)
        self.parts.append(data)
        if self.size > self.limit:
            self._lose("large")
        elif self.room.full:
            self._lose("queue")

    def _lose(self, why: str) -> None:
        self.lost = why
        self.parts.clear()
        self._free()

    def _free(self) -> None:
        self.room.used -= self.size
        self.size = 0

    def _out(self) -> None:
        exchange = self.exchange
        if exchange is not None and exchange.last_fault is None:
            self.seconds, self.tail = monotonic() - exchange.received, exchange.tail
            self.answered(self)

    # --- afterwards
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
        """Lets all go. Idempotent."""
        self.exchange = None
        self.parts.clear()
        self._free()


def size_of(doc: Doc) -> int:
    """Bytes of a document's values."""
    return sum(len(memoryview(raw)) for raw in doc.values())
