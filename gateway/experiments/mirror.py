"""One mirrored request towards one replica: what is sent, and the `Receiver` of what comes back. It marks nobody's health, is never sent
again, and holds a slot only while it is under way."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from time import monotonic
from typing import TYPE_CHECKING

import msgspec

from backends import wire
from backends.faults import from_answer
from backends.types import Call, Fault, Flight, Timeouts
from backends.wire import Doc
from gateway.logs import conceal
from gateway.record import Record
from gateway.relay import StreamRelay, WholeAnswer, check_whole
from routing.lease import give
from routing.types import Decision

if TYPE_CHECKING:
    from gateway.serve import Core

TENANT = "shadow"
MAX_ERROR = 64 * 1024
_SSE = b"text/event-stream"


class Sent(msgspec.Struct):
    """What became of one mirrored request. `seconds`: to its end. `gave_way`: it was ended for a user's call."""

    body: bytes = b""
    stream: bool = False
    fault: Fault | None = None
    status: int = 0
    seconds: float = 0.0
    gave_way: bool = False
    large: bool = False
    tail: bytes | None = None  # what the usage is read from


class Mirror:
    """The `Receiver`. `done` is resolved once, however it ends."""

    __slots__ = ("answer", "done", "flight", "headers", "limit", "parts", "relay", "sent", "size", "where")

    def __init__(self, where: str, limit: int, done: asyncio.Future[None]) -> None:
        self.where, self.limit, self.done = where, limit, done
        self.sent = Sent()
        self.flight: Flight | None = None
        self.headers: Mapping[bytes, bytes] = {}
        self.relay: StreamRelay | None = None
        self.answer: WholeAnswer | None = None
        self.parts: list[bytes] = []
        self.size = 0

    # --- Receiver
    def on_whole(self, status: int, headers: Mapping[bytes, bytes], body: bytes) -> None:
        self.on_head(status, headers)
        if body:
            self.on_data(body)
        if not self.done.done():
            self.on_end()

    def on_head(self, status: int, headers: Mapping[bytes, bytes]) -> None:
        self.sent.status, self.headers = status, headers
        if status == 200 and headers.get(b"content-type", b"")[:17].lower() == _SSE:
            self.relay, self.sent.stream = StreamRelay(self.where, False, self.limit), True
        else:
            good = 200 <= status < 300
            self.answer = WholeAnswer(self.where, self.limit if good else MAX_ERROR, good)

    def on_data(self, data: bytes) -> None:
        self.size += len(data)
        if self.relay is not None:
            if out := self.relay.feed(data):
                self.parts.append(out)
            if self.relay.fault is not None:
                self.end(self.relay.fault)
        elif self.answer is not None and self.answer.size < self.answer.limit:
            self.answer.feed(data)
        if self.size > self.limit and self.sent.status == 200:
            self.sent.large = True
            self.end(Fault("too_large", f"The answer of backend '{self.where}' exceeds {self.limit} bytes.", origin="backend"))

    def on_end(self) -> None:
        if self.relay is not None:
            self.parts.append(self.relay.close())
            self.sent.body, self.sent.tail = b"".join(self.parts), self.relay.usage_event
            self.end(self.relay.fault)
            return
        assert self.answer is not None
        body, status = self.answer.body(), self.sent.status
        if not 200 <= status < 300:
            self.end(from_answer(status, self.headers, body, self.where, 0.0))
            return
        self.sent.body, self.sent.tail = body, wire.usage_tail(body)
        self.end(self.answer.cut(self.headers) or check_whole(body, self.where))

    def on_fault(self, fault: Fault) -> None:
        self.flight = None
        self.end(fault)

    # --- the end
    def end(self, fault: Fault | None) -> None:
        """Ends it here, whatever is still under way. Idempotent."""
        if self.done.done():
            return
        self.sent.fault = fault
        flight, self.flight = self.flight, None
        if fault is not None and flight is not None:
            flight.cancel()
        self.done.set_result(None)

    def give_way(self) -> None:
        """Ends it for a user's call, which needs its slot. The slot is given back in the loop's next turn."""
        if not self.done.done():
            self.sent.gave_way = True
            self.end(Fault("cancelled", "A user's call needed the slot."))


async def ask(core: Core, mirror: Mirror, decision: Decision, call: Call, timeouts: Timeouts) -> Sent:
    """Sends `call` where `decision` says and waits for its end, `timeouts.total` seconds at most. What it holds is given back when this
    returns, or is cancelled. Never raises a Fault."""
    replica, start = decision.replica, monotonic()
    replica.inflight += 1  # not `lease.take`: its total counts against failures, which mirrored calls do not tell of
    try:
        mirror.flight = replica.link.send(call, decision.target, timeouts, mirror)
        await asyncio.wait({mirror.done}, timeout=timeouts.total + 1.0)
        mirror.end(Fault("timeout", f"It took more than {timeouts.total:g} s.", origin="backend"))
    except Fault as fault:
        mirror.end(fault)
    finally:
        if mirror.flight is not None:
            mirror.flight.cancel()
        give(replica)
        core.freed(replica)
    mirror.sent.seconds = monotonic() - start
    return mirror.sent


def call_for(request: bytes, arm: str, doc: Doc, stream: bool, received: float) -> Call:
    """The call that is sent: in our own name, without a header of the user's."""
    id = b"shadow-%b-%b" % (request, _plain(arm))
    return Call(id, "chat", arm, stream, doc, TENANT, {}, received)


def recorded(call: Call, route: str, decision: Decision, sent: Sent, unix: float) -> Record:
    """The record of a mirrored request that ends now (`unix`). `route`: under what name it is counted."""
    record = Record(
        call.id.decode("latin-1"), unix - sent.seconds, call.api, route, decision.target.backend, decision.replica.name,
        TENANT, call.stream, sent.status if sent.fault is None else sent.fault.status, sent.seconds, attempts=1, bytes_out=len(sent.body),
    )  # fmt: skip
    record.reason = "mirrored"
    if sent.fault is not None:
        record.fault, record.origin, record.message = sent.fault.kind, sent.fault.origin, conceal(sent.fault.message)
    return record


def _plain(name: str) -> bytes:
    return "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in name).encode()
