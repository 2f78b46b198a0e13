"""n choices from a target that gives one at a time: n flights whose answers become one. No clock, no I/O of its own.

Whole answers are joined when all are there. Streams are interleaved as they come, each event with its choice's number, with one usage
event and one `[DONE]` at the end. What ends one badly ends all: the others are cancelled.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from backends import sse, wire
from backends.dialects.types import Note
from backends.types import Fault, Flight, Receiver

MAX_CHOICES = 16
_doc = msgspec.json.Decoder(dict[str, msgspec.Raw])
_choices = msgspec.json.Decoder(list[dict[str, msgspec.Raw]])
_any = msgspec.json.Decoder(dict[str, Any])
_OUTPUT = "completion_tokens_details"


class Leg:
    """One of the flights, and the `Receiver` of its chat answer. `done` is set when it has given all."""

    __slots__ = ("body", "done", "ended", "fan", "flight", "index", "usage")

    def __init__(self, fan: Fan, index: int) -> None:
        self.fan, self.index = fan, index
        self.flight: Flight | None = None
        self.body = b""
        self.done = self.ended = False
        self.usage: dict[str, Any] | None = None

    def on_whole(self, status: int, headers: Mapping[bytes, bytes], body: bytes) -> None:
        if status != 200 or headers.get(b"content-type", b"").startswith(b"text/event-stream"):
            self.on_head(status, headers)
            if body:
                self.on_data(body)
            self.on_end()
            return
        self.body, self.done = body, True
        self.fan.whole(headers)

    def on_head(self, status: int, headers: Mapping[bytes, bytes]) -> None:
        self.fan.head(self, status, headers)

    def on_data(self, data: bytes) -> None:
        self.fan.data(self, data)

    def on_end(self) -> None:
        self.fan.end(self)

    def on_fault(self, fault: Fault) -> None:
        self.fan.fail(fault)


class Fan:
    """The flights of one call, as one `Flight`. `notes` as of any translated flight."""

    __slots__ = ("begun", "id", "legs", "notes", "only", "over", "receiver", "where")

    def __init__(self, n: int, receiver: Receiver, notes: tuple[Note, ...], where: str) -> None:
        self.receiver, self.notes, self.where = receiver, notes, where
        self.legs = [Leg(self, i) for i in range(n)]
        self.begun = self.over = False
        self.id: msgspec.Raw | None = None  # of the first choice: the client sees one answer
        self.only: Leg | None = None  # the one whose error answer goes on

    # --- Flight
    def pause(self) -> None:
        """Stops reading all answers."""
        for leg in self.legs:
            if leg.flight is not None:
                leg.flight.pause()

    def resume(self) -> None:
        """Reads on."""
        for leg in self.legs:
            if leg.flight is not None:
                leg.flight.resume()

    def cancel(self) -> None:
        """Gives all answers up. Idempotent."""
        self.over = True
        self._stop(None)

    def _stop(self, but: Leg | None) -> None:
        for leg in self.legs:
            if leg is not but and leg.flight is not None:
                leg.flight.cancel()

    # --- from the legs
    def fail(self, fault: Fault) -> None:
        """One flight failed: all are over."""
        if not self.over:
            self.cancel()
            self.receiver.on_fault(fault)

    def whole(self, headers: Mapping[bytes, bytes]) -> None:
        """One whole answer is there; with the last one they are joined."""
        if self.over:
            return
        if self.begun:
            self.fail(_cut(f"Backend '{self.where}' streamed one answer and not another.", "choice_failed"))
            return
        if not all(leg.done for leg in self.legs):
            return
        self.over = True
        self.receiver.on_whole(200, headers, joined([leg.body for leg in self.legs]))

    def head(self, leg: Leg, status: int, headers: Mapping[bytes, bytes]) -> None:
        """A stream or an error answer begins."""
        if self.over or self.only is not None:
            return
        if status == 200:
            if any(one.body for one in self.legs):
                self.fail(_cut(f"Backend '{self.where}' streamed one answer and not another.", "choice_failed"))
            elif not self.begun:
                self.begun = True
                self.receiver.on_head(200, headers)
        elif self.begun:
            self.fail(_cut(f"Backend '{self.where}' answered one of {len(self.legs)} requests with status {status}.", "choice_failed"))
        else:
            self.only = leg
            self._stop(leg)
            self.receiver.on_head(status, headers)

    def data(self, leg: Leg, data: bytes) -> None:
        """Whole events of one choice, or a part of the error answer that goes on."""
        if self.over:
            return
        if self.only is leg:
            self.receiver.on_data(data)
            return
        out = []
        for event in sse.events(data):
            seen = self._event(leg, event)
            if seen is None:  # an error: what follows it is nothing
                out.append(event)
                self._stop(leg)
                break
            out.append(seen)
        if whole := b"".join(out):
            self.receiver.on_data(whole)

    def _event(self, leg: Leg, event: bytes) -> bytes | None:
        """What goes on of one event, under its choice's number; None when it is an error."""
        data = sse.payload(event)[1]
        if data == b"[DONE]":
            leg.done = True
            return b""
        if not data:
            return event
        doc = _doc.decode(data)
        if "error" in doc:
            return None
        found = _choices.decode(doc.get("choices", b"[]"))
        if not found and "usage" in doc:
            leg.usage = _any.decode(data)
            return b""
        self.id = self.id or doc.get("id", wire.NULL)
        index = msgspec.Raw(b"%d" % leg.index)
        return b"data: " + wire.encode({**doc, "id": self.id, "choices": [{**choice, "index": index} for choice in found]}) + b"\n\n"

    def end(self, leg: Leg) -> None:
        """One answer ended. A stream that ended before its `[DONE]` was cut, and with it all."""
        if self.over:
            return
        leg.ended = True
        if self.only is leg:
            self.over = True
            self.receiver.on_end()
        elif not leg.done:
            self.fail(_cut(f"Backend '{self.where}' ended one of {len(self.legs)} answers before it was finished.", "stream_cut"))
        elif all(one.ended for one in self.legs):
            self.receiver.on_data(_tail([one.usage for one in self.legs if one.usage is not None]))
            if not self.over:
                self.over = True
                self.receiver.on_end()


def joined(bodies: list[bytes]) -> bytes:
    """One `chat.completion` with the choices of all; tokens of the prompt count once."""
    docs = [_any.decode(body) for body in bodies]
    found = [choice for doc in docs for choice in doc.get("choices", ())]
    out = {**docs[0], "choices": [{**choice, "index": i} for i, choice in enumerate(found)]}
    if counted := [doc["usage"] for doc in docs if isinstance(doc.get("usage"), dict)]:
        out["usage"] = summed(counted)
    return wire.encode(out)


def summed(usages: list[dict[str, Any]]) -> dict[str, Any]:
    """Token counts of several answers to one prompt: the prompt's once, the answers' added up."""
    out = dict(usages[0])
    out["completion_tokens"] = sum(u.get("completion_tokens", 0) for u in usages)
    out["total_tokens"] = out.get("prompt_tokens", 0) + out["completion_tokens"]
    details: dict[str, int] = {}
    for usage in usages:
        for key, value in (usage.get(_OUTPUT) or {}).items():
            details[key] = details.get(key, 0) + (value or 0)
    if details:
        out[_OUTPUT] = details
    return out


def _tail(events: list[dict[str, Any]]) -> bytes:
    """The usage event of all, when they told any, and the end."""
    if not events:
        return b"data: [DONE]\n\n"
    event = {**events[0], "usage": summed([e["usage"] for e in events])}
    return b"data: " + wire.encode(event) + b"\n\ndata: [DONE]\n\n"


def _cut(message: str, code: str) -> Fault:
    return Fault("upstream", message, origin="backend", code=code, retry=True)
