"""`POST /v1/messages` as an exchange: Anthropic's SDK and Claude Code on every backend."""

from __future__ import annotations

from backends.dialects.messages import Messages
from backends.dialects.messages_late import settled
from backends.dialects.types import Note, Surface
from backends.types import Fault
from backends.wire import Doc
from gateway.relay_events import EventRelay
from gateway.relay_messages import MessagesRelay, usage_of
from gateway.surface import SurfaceExchange


class MessagesExchange(SurfaceExchange):
    """A `SurfaceExchange` of Anthropic Messages."""

    __slots__ = ()

    def _surface(self, strict: bool) -> Surface:
        return Messages(strict)

    def _translated(self, doc: Doc) -> tuple[Doc, tuple[Note, ...]]:
        chat, notes = super()._translated(doc)
        chat, more = settled(chat)
        return chat, notes + more

    def _native_relay(self, where: str, limit: int) -> EventRelay:
        return MessagesRelay(where, limit)

    def _usage_of(self, body: bytes) -> bytes | None:
        return usage_of(body)

    def _event(self, fault: Fault, last: bytes) -> bytes:
        return b"event: error\ndata: %b\n\n" % self.surface.fault(fault, self.id.decode("latin-1"))

    def _lines(self, first: bytes) -> bytes:
        return super()._lines(first) + b"request-id: %b\r\n" % self.id  # where Anthropic's SDK looks for it
