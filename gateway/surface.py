"""A request whose client speaks Messages or Responses: an `Exchange` in chat, between two translations.

The document is read into chat once, and the sink writes chat answers as the client's dialect, so the exchange itself, its retries and
its content commit, know of chat only. Where the target of an attempt speaks the client's dialect (`backends.native`), that attempt
carries the document as it came and the sink passes its answer through. Each attempt decides for itself: nothing has been sent before the
content commit, and after it no other dialect follows.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, cast

import msgspec

from backends import sse, wire
from backends.dialects.types import Context, Note, Surface, SurfaceStream
from backends.native import SurfaceCall, speaks
from backends.report import HEADER, parameters
from backends.types import Call, Fault, Target
from backends.wire import Doc
from gateway.exchange import Exchange
from gateway.relay import StreamRelay
from gateway.relay_events import EventRelay
from gateway.sink import Sink

if TYPE_CHECKING:
    from gateway.experiments.entry import Part
    from gateway.serve import Core

Later = Callable[[Callable[[], None]], None]  # runs what is left of an answer now, or when something else is done


def at_once(act: Callable[[], None]) -> None:
    """A `Later` that waits for nothing."""
    act()


class SurfaceSink:
    """The client's side of a surface: chat bytes in, the surface's out. `native`: the answer's bytes are the surface's already; asked of
    `relays` with the first event, since what goes out after it is of one kind.

    `stream` is the translator of a streamed answer. `fault` is how the answer ends when that is set before `finish`. `ended` is called
    with the end of a good stream before it is sent; `later` sends it. `report` makes the event of a fault in a native stream.
    """

    raw = None  # each event is translated, or kept as the last one
    __slots__ = ("begun", "ended", "fault", "inner", "last", "later", "native", "relays", "report", "stream")

    def __init__(self, inner: Sink, relays: Callable[[], bool], report: Callable[[Fault, bytes], bytes]) -> None:
        self.inner, self.relays, self.report = inner, relays, report
        self.stream: SurfaceStream | None = None
        self.begun = self.native = False
        self.fault: Fault | None = None
        self.last = b""  # of a native stream: what was sent last
        self.ended: Callable[[], None] | None = None
        self.later: Later = at_once

    def _out(self, data: bytes) -> bytes:
        if not self.begun and data and not data.startswith(b":"):
            self.begun, self.native = True, self.relays()
        if self.native:
            self.last = data
            return data
        return self.stream.feed(data) if self.stream is not None and data else data

    def respond(self, status: int, lines: bytes, body: bytes) -> None:
        if status != 200:
            self.inner.respond(status, lines, body)
            return
        self.later(lambda: self.inner.respond(status, lines, body))

    def begin(self, status: int, lines: bytes, first: bytes) -> None:
        self.inner.begin(status, lines, self._out(first))

    def send(self, data: bytes) -> None:
        if out := self._out(data):
            self.inner.send(out)

    def finish(self, last: bytes) -> None:
        if self.fault is not None:
            self.inner.finish(self._failed(self.fault))
            return
        out = self._out(last)
        if not self.native and self.stream is not None:
            out += self.stream.close()
        if self.ended is not None:
            self.ended()
        self.later(lambda: self.inner.finish(out))

    def _failed(self, fault: Fault) -> bytes:
        if self.native or self.stream is None:
            return self.report(fault, self.last)
        return self.stream.fail(fault)

    def break_off(self) -> None:
        self.inner.break_off()


class SurfaceExchange(Exchange):
    """One request of a surface. A subclass names its dialect: the translator, the native relay, the native error event."""

    __slots__ = ("asked", "context", "notes", "out", "surface", "unread", "usage")

    def __init__(self, core: Core, sink: Sink, api: str, headers: Mapping[bytes, bytes]) -> None:
        self.out = SurfaceSink(sink, self._relays, self._event)
        super().__init__(core, self.out, api, headers)
        self.tapped = True
        self.surface = self._surface(True)
        self.asked: Doc = {}
        self.notes: tuple[Note, ...] = ()
        self.unread: Fault | None = None  # why the document cannot be chat; targets that speak the surface may take it all the same
        self.usage: bytes | None = None  # of a whole answer: what the recorder reads
        own = self.id if b"x-request-id" not in headers else next(core.ids)
        self.context = Context(own.decode("latin-1"), int(time.time()), "")

    # --- a dialect's own
    def _surface(self, strict: bool) -> Surface:
        raise NotImplementedError

    def _native_relay(self, where: str, limit: int) -> EventRelay:
        raise NotImplementedError

    def _usage_of(self, body: bytes) -> bytes | None:
        """The counts of a whole native answer, as a chat usage document."""
        raise NotImplementedError

    def _event(self, fault: Fault, last: bytes) -> bytes:
        """The event of an error in a native stream. `last`: what was sent before it."""
        raise NotImplementedError

    def _chat(self, raw: Doc) -> Doc:
        """The document that is read into chat."""
        return raw

    def _translated(self, doc: Doc) -> tuple[Doc, tuple[Note, ...]]:
        """The chat document of what `_chat` gave, and what became of its parameters. Raises `Fault`."""
        return self.surface.request(doc)

    def as_chat(self, raw: Doc) -> Doc:
        """What this exchange's client wrote as a chat document, for whoever sends it once more. Raises `Fault`."""
        return self._translated(self._chat(raw))[0]

    def _raw(self, raw: Doc) -> Doc:
        """The document for targets that speak the surface."""
        return raw

    async def prepare(self, body: bytes) -> None:
        """What must be waited for before `start`. Raises `Fault`."""

    # --- in
    def _read(self, body: bytes) -> None:
        super()._read(body)
        call, route = self.call, self.route
        self.asked = raw = call.doc
        self.surface = self._surface(not route.drop)
        self.context = msgspec.structs.replace(self.context, model=call.model, stream=call.stream)
        replicas = route.replicas
        natives = [r for r in replicas if self.speaks(r.link)]
        doc: Doc = {"model": raw["model"]}
        # Only a route that always relays spares the reading: another may come to a target that needs it.
        if len(natives) < len(replicas) or not natives or route.plan is not None:
            try:
                doc, self.notes = self._translated(self._chat(raw))
            except Fault as fault:
                if self.trial is not None and self.trial.changes is not None:  # who could be answered is: as the document came
                    self.trial.own(self).changes = None
                    natives = [r for r in replicas if self.speaks(r.link)]
                if not natives:
                    raise
                self.unread = fault
        trial = self.trial
        if trial is not None and b'"json_schema"' in bytes(doc.get("response_format", b"")):
            trial.own(self).must_fit(self.api, bytes(doc["response_format"]))
        if trial is not None and trial.changes is not None:  # as chat alone: nobody may be sent what the client wrote
            doc = trial.changes.apply({**doc, "model": raw["model"]})
            self.call = msgspec.structs.replace(call, doc=doc, api="chat", surface=self.api)
        else:
            self.call = SurfaceCall(
                call.id, "chat", call.model, call.stream, {**doc, "model": raw["model"]}, call.tenant, call.headers, call.received,
                surface=self.api, raw=self._raw(raw) if natives else raw,
            )  # fmt: skip
        if call.stream:
            self.out.stream = self.surface.stream(self.asked, self.context)
            self.out.ended = self._streamed

    def dispatch(self) -> None:
        if self.unread is not None:  # of whatever route it has come to
            self.excluded = {*self.excluded, *(r for r in self.route.replicas if not self.speaks(r.link))}
        try:
            super().dispatch()
        except Fault as fault:
            if self.unread is not None and fault.code == "no_replica":  # whoever could take it is away: say why no other can
                raise self.unread from None
            raise

    @property
    def native(self) -> bool:
        """Whether the present attempt's target speaks the client's dialect."""
        return self.speaks(self.decision.replica.link)

    def speaks(self, link: object) -> bool:
        """Whether this request goes over `link` as its client wrote it: never where the arm of an experiment changes it."""
        return (self.trial is None or self.trial.changes is None) and speaks(link, self.api)

    def tried(self, part: Part) -> None:
        self.out.inner = part.own(self).tapped(self.out.inner)

    def _relays(self) -> bool:
        return isinstance(self.relay, EventRelay)

    def fitted(self, call: Call, target: Target) -> tuple[Call, bytes]:
        """As `Exchange.fitted`; what goes out as it came is not fitted."""
        if any(self.speaks(r.link) for r in self.route.replicas if r.backend == target.backend):
            return call, b""
        return super().fitted(call, target)

    # --- out
    def on_head(self, status: int, headers: Mapping[bytes, bytes]) -> None:
        if self.notes and not self.native:  # what became of parameters on the way into chat, before what became of them behind it
            told = b",".join(filter(None, (parameters(self.notes), headers.get(HEADER))))
            headers = {**headers, HEADER: told}
        super().on_head(status, headers)

    def on_whole(self, status: int, headers: Mapping[bytes, bytes], body: bytes) -> None:
        self._whole(status, headers, body)

    def new_relay(self, where: str, limit: int) -> StreamRelay:
        if self.native:
            return cast(StreamRelay, self._native_relay(where, limit))  # the same to whoever feeds it
        return super().new_relay(where, limit)

    def _wants_usage(self) -> bool:
        return True  # both surfaces tell the counts always

    def _respond(self, body: bytes) -> None:
        if self.native:
            out, self.usage = body, self._usage_of(body)
        else:
            try:
                out = self.surface.reply(body, self.asked, self.context)
            except Fault as fault:
                self._failed(fault)
                return
            self.usage = wire.usage_tail(body)
        self._kept(out)
        super()._respond(out)

    def _streamed(self) -> None:
        """A stream has come to its good end and its end event is about to be sent."""

    def _kept(self, answer: bytes) -> None:
        """A whole good answer, in the surface's form, is about to be sent."""

    def _end(self, status: int) -> None:
        if self.usage is not None:
            self.tail = self.usage
        super()._end(status)

    def envelope(self, fault: Fault) -> bytes:
        """The error object of the surface; in a stream that has begun, its error event follows by the sink."""
        if self.begun:
            self.out.fault = fault
        return self.surface.fault(fault, self.id.decode("latin-1"))


_any = msgspec.json.Decoder()


def last_event(data: bytes) -> Mapping[str, Any]:
    """The JSON object of the last whole event in `data`; empty when it has none."""
    for event in reversed(sse.events(sse.split(data)[0])):
        try:
            found = _any.decode(sse.payload(event)[1])
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
            continue
        if isinstance(found, dict):
            return found
    return {}
