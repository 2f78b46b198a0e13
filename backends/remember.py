"""Between a translated target and who asked it: what the answer carries of the provider's own state is kept in the sidecar, and written
into the ids of tool calls where that is wanted."""

from __future__ import annotations

from typing import Any

import msgspec

from backends import sse, wire
from backends.dialects import sidecar_wire as form
from backends.dialects.sidecar import Sidecar
from backends.dialects.types import Headers
from backends.types import Fault, Receiver

MOST = 8 << 20  # bytes of a streamed answer; the state of a longer one is not kept
_object = msgspec.json.Decoder(dict[str, Any])


class Remembering:
    """A `Receiver` that looks at chat answers on their way to `receiver`. Streams are only gathered, and read once, at their end, when
    they carried any state."""

    __slots__ = ("family", "ids", "partial", "parts", "place", "receiver", "seen", "sidecar", "size", "streams", "tenant")

    def __init__(self, receiver: Receiver, sidecar: Sidecar, tenant: str, family: str, place: str) -> None:
        self.receiver, self.sidecar, self.tenant, self.family, self.place = receiver, sidecar, tenant, family, place
        self.ids = sidecar.mode != "sidecar"
        self.parts: list[bytes] = []
        self.size = 0
        self.seen = self.streams = False
        self.partial: dict[object, dict[str, Any]] = {}  # messages so far, as far as ids need them

    def on_whole(self, status: int, headers: Headers, body: bytes) -> None:
        if status == 200:
            if headers.get(b"content-type", b"").startswith(b"text/event-stream"):
                self.streams = True
                body = self._streamed(body)
                self._keep()
            elif form.carries(body):
                body = self._whole(body)
        self.receiver.on_whole(status, headers, body)

    def on_head(self, status: int, headers: Headers) -> None:
        self.streams = status == 200
        self.receiver.on_head(status, headers)

    def on_data(self, data: bytes) -> None:
        self.receiver.on_data(self._streamed(data) if self.streams else data)

    def on_end(self) -> None:
        self._keep()
        self.receiver.on_end()

    def on_fault(self, fault: Fault) -> None:
        self.receiver.on_fault(fault)

    def _whole(self, body: bytes) -> bytes:
        for message in form.whole(body):
            self.sidecar.keep(self.tenant, self.family, self.place, message)
        if not self.ids:
            return body
        doc = _object.decode(body)
        for choice in doc["choices"]:
            message = choice["message"]
            for i, call in enumerate(form.calls_of(message)):
                self._sign(call, message if i == 0 else {})
        return wire.encode(doc)

    def _sign(self, call: dict[str, Any], message: dict[str, Any]) -> None:
        """Puts state into a call's id: the call's own, and the message's where that is given. Mutates `call`."""
        state = form.id_state(message, call, self.family)
        if state is not None and isinstance(call.get("id"), str):
            call["id"] = form.with_state(call["id"], state)

    def _streamed(self, data: bytes) -> bytes:
        self.size += len(data)
        if self.size <= MOST:
            self.parts.append(data)
            self.seen = self.seen or form.carries(data)
        if self.ids and (form.carries(data) or data.find(b'"tool_calls"') >= 0):
            return b"".join([self._event(event) for event in sse.events(data)])
        return data

    def _keep(self) -> None:
        if self.streams and self.seen and self.size <= MOST:
            for message in form.streamed(b"".join(self.parts)):
                self.sidecar.keep(self.tenant, self.family, self.place, message)
        self.parts.clear()

    def _event(self, event: bytes) -> bytes:
        """An event of a stream whose tool-call ids carry state: that of the message up to the first call is in the first call's id, and
        each later call's own in its own."""
        data = sse.payload(event)[1]
        if not (form.carries(event) or b'"tool_calls"' in event) or data == b"[DONE]":
            return event
        try:
            doc = _object.decode(data)
        except (msgspec.MsgspecError, RecursionError):
            return event
        for choice in doc.get("choices") or ():
            self._choice(choice)
        return b"data: %b\n\n" % wire.encode(doc)

    def _choice(self, choice: dict[str, Any]) -> None:
        delta = choice.get("delta")
        if not isinstance(delta, dict):
            return
        message = self.partial.setdefault(choice.get("index"), {})
        form.merge(message, {key: value for key, value in delta.items() if key in ("thinking_blocks", "extra_content")})
        for call in form.calls_of(delta):
            if isinstance(call.get("id"), str):
                self._sign(call, message)
                message.clear()
