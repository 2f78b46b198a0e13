"""What an upstream's answer does to a request: the `Receiver` half of an `Exchange`, and the state that both halves share.

A whole good answer goes straight out; a stream goes through its relay, which holds it until the content commit. What is no good answer is
handed to the other half as a `Fault`, which may send the call elsewhere.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from time import monotonic
from time import time as unix_time
from typing import TYPE_CHECKING

from backends import wire
from backends.faults import from_answer
from backends.sent import Sent
from backends.splice import Splice
from backends.types import Call, Fault, Flight
from gateway.answers import JSON_HEAD, PASSED, SSE_HEAD, header_lines
from gateway.auth import ANYONE, Tenant
from gateway.record import PLAIN_SECONDS
from gateway.relay import StreamRelay, WholeAnswer, check_whole
from gateway.sink import Sink
from routing import health
from routing.types import NO_ROUTE, UNDECIDED, Decision, Pilot, Replica, Route

if TYPE_CHECKING:
    from gateway.experiments.entry import Part
    from gateway.experiments.plain import Marks
    from gateway.guide import Guide
    from gateway.serve import Core

MAX_ERROR = 64 * 1024  # bytes read of an upstream's error body
_BRACE, _BRACE_END = b"{}"
CHOICES = b'"choices":['
_nothing_to_pass = PASSED.isdisjoint  # called as a method, it is looked up the long way
TRIES = 64  # answers of a replica that are looked at for where their choices begin
NO_MARKS: int | Marks = ()
_SSE = b"text/event-stream"
NOTHING: Mapping[bytes, bytes] = {}
NO_CALL = Call(b"", "", "", False, {}, "", {}, 0.0)


class Answering:
    """The state of one request under way, and what its upstream's answer makes of it. `tapped`: experiments see each answer on its
    way to the client."""

    __slots__ = (
        "answer", "api", "attempts", "begun", "bytes_out", "call", "chunks", "clean", "comment_at", "core", "cors", "decision", "dropped",
        "ended", "excluded", "flight", "guide", "headers", "held", "id", "last_fault", "parked_at", "paused_at", "pilot", "received",
        "relay", "route", "running", "sink", "splice", "status", "stream", "tail", "tapped", "tenant", "trial", "ttft", "upstream_headers",
        "watched",
    )  # fmt: skip

    def __init__(self, core: Core, sink: Sink, api: str, headers: Mapping[bytes, bytes]) -> None:
        self.core, self.sink, self.api, self.headers = core, sink, api, headers
        self.id = core.request_id(headers) if b"x-request-id" in headers else next(core.ids)
        self.received = monotonic()
        self.tenant: Tenant = ANYONE
        self.route: Route = NO_ROUTE
        self.call: Call = NO_CALL
        self.decision: Decision = UNDECIDED
        self.held: Replica | None = None  # where a slot is taken for this call; see `routing.lease`
        self.flight: Flight | None = None
        self.relay: StreamRelay | None = None
        self.answer: WholeAnswer | None = None
        self.splice: Splice | None = None
        self.excluded: set[Replica] | tuple[()] = ()
        self.last_fault: Fault | None = None
        self.upstream_headers: Mapping[bytes, bytes] = NOTHING
        self.attempts = self.status = self.chunks = self.bytes_out = 0
        # watched: its answer takes more than the shortest way, as of a stream, of one with a guide, or that failed before
        self.stream = self.begun = self.ended = self.watched = self.tapped = self.running = False
        self.clean = False  # it is over, and nobody else knows of it: `anew` may be called
        self.guide: Guide | None = None  # where its route has a plan
        self.pilot: Pilot | None = None  # where its route has a policy
        self.trial: Part | None = None  # where it is in an experiment
        self.ttft: float | None = None  # seconds from arrival to the first content
        self.parked_at: float | None = None
        self.paused_at: float | None = None
        self.comment_at = 0.0  # when a silent stream gets its next comment; 0: as the server's head commit says
        self.tail: bytes | None = None  # what the recorder reads the usage from
        self.cors = self.dropped = b""

    def anew(self, headers: Mapping[bytes, bytes]) -> None:
        """Makes a `clean` one the next request of the same client's for the same `api`: what is not set here is as it was at first."""
        core = self.core
        self.headers = headers
        self.id = core.request_id(headers) if b"x-request-id" in headers else next(core.ids)
        self.received = monotonic()
        self.tenant = ANYONE
        self.attempts = 0
        self.paused_at = self.flight = None
        self.ended = self.clean = False

    # --- Receiver
    def on_whole(self, status: int, headers: Mapping[bytes, bytes], body: bytes) -> None:
        seconds, size = monotonic() - self.received, len(body)
        core, pilot = self.core, self.pilot
        # An event stream does not begin with a brace.
        if status != 200 or not size or body[0] != _BRACE or body[-1] != _BRACE_END:
            self._whole(status, headers, body)
            return
        if self.watched or seconds > PLAIN_SECONDS or size > core.limits.answer_bytes:
            self._whole(status, headers, body)
            return
        decision, part = self.decision, self.trial
        replica = decision.replica
        at = body.rfind(b',"usage":{', -1024)
        left = None if part is None else part.cut(body, at)
        # One like the good ones before it, or whose choices begin where theirs did, is no error.
        odd = left is None and body[replica.opened] != CHOICES and is_odd(body, replica)
        if odd or not _nothing_to_pass(headers) or (pilot is not None and pilot.told):
            # There is more to tell, in the answer's head and in the record.
            self._whole(status, headers, body)
            return
        # The usual case in one piece: each call here would cost as much as what it does.
        route, kind, unit = self.route, None, NO_MARKS
        if replica.failures:
            health.good(replica)
        self.ended, self.held, self.flight = True, None, None
        replica.inflight -= 1
        route.inflight -= 1
        core.inflight.discard(self)
        tail = b"{" + body[at + 1 :] if at > 0 else wire.usage_tail(body)
        free = True
        if part is not None:
            free = core.shadows is None
            if left is not None:
                kind, unit = part.kind, part.unit
            else:
                kind, unit, left = part.whole(self, seconds, tail, body, at)
                free = free and part.tap is None
        if pilot is not None:
            pilot.whole(tail)
        told = (decision, route.name, self.tenant.name, self.api, self.id, self.received, seconds, size, tail, kind, unit, left)
        core.recorder.put_plain(told)
        if free:
            # Nothing that waits for a next request holds this one's body, or a generation that has been replaced.
            self.call, self.decision, self.route, self.trial, self.pilot = NO_CALL, UNDECIDED, NO_ROUTE, None, None
            self.clean = True
        if core.parked or replica.on_idle is not None:
            core.freed(replica)
        self.sink.respond(200, b"".join((JSON_HEAD, self.id, replica.line)), body)

    def _whole(self, status: int, headers: Mapping[bytes, bytes], body: bytes) -> None:
        """The same as its parts one after the other; its flight is over already."""
        attempt, decision, self.flight = self.attempts, self.decision, None
        self.on_head(status, headers)
        if body:
            self.on_data(body)
        if self.attempts == attempt and self.decision is decision and self.held is not None:  # not over by what it held
            self.on_end()

    def on_head(self, status: int, headers: Mapping[bytes, bytes]) -> None:
        self.status = status
        self.upstream_headers = headers
        decision = self.decision
        where, limits = decision.target.backend, self.core.limits
        if status == 200 and headers.get(b"content-type", b"")[:17].lower() == _SSE:
            self.relay = self.new_relay(where, limits.event_bytes)
        else:
            good = 200 <= status < 300
            self.answer = WholeAnswer(where, limits.answer_bytes if good else MAX_ERROR, good)

    def new_relay(self, where: str, limit: int) -> StreamRelay:
        """What reads a stream of this request's dialect. `limit`: bytes of one event."""
        if self.guide is not None:
            return self.guide.relay(where, not self._wants_usage(), limit)
        return StreamRelay(where, not self._wants_usage(), limit)

    def _wants_usage(self) -> bool:
        call = self.call
        options = call.doc.get("stream_options")
        if options is None:
            return False
        if b'"include_usage":true' in bytes(options):
            return True
        with contextlib.suppress(Fault):  # an answer that has come is no place to refuse a request
            return wire.flag(wire.sub(call.doc, "stream_options"), "include_usage")
        return False

    def on_data(self, data: bytes) -> None:
        relay = self.relay
        if relay is None:
            answer = self.answer
            assert answer is not None
            if answer.size < answer.limit and (fault := answer.feed(data)) is not None:
                self._over(fault)
            return
        out = relay.feed(data)
        if out and self.ttft is not None:
            self.chunks += 1
            self.bytes_out += len(out)
            self.sink.send(out)
            if relay.before:
                self._splice(relay)
        elif out:
            self._send(out)
        if relay.fault is not None:
            self._over(relay.fault)

    def _splice(self, relay: StreamRelay) -> None:
        """Lets what is like the last event pass without us, where nobody else needs to see it."""
        flight, transport = self.flight, self.sink.raw
        if transport is None or self.guide is not None or not isinstance(flight, Sent) or flight.receiver is not self:
            return
        if self.splice is None:
            self.splice = Splice(transport, self.core.clients.outbox)
        self.splice.teach(relay.before, relay.after)
        flight.let_pass(self.splice)

    def _over(self, fault: Fault) -> None:
        """The answer is over before its end, by what it holds: the connection is of no more use."""
        if self.flight is not None:
            self.flight.cancel()
        if 200 <= self.status < 300:
            self._failed(fault)
        else:
            self.on_end()  # an endless error body: what there is suffices

    def _send(self, out: bytes) -> None:
        self.chunks += 1
        self.bytes_out += len(out)
        if self.ttft is None:
            self.ttft = monotonic() - self.received
            self.running = True
            self.core.starts.spare -= 1
            if self.guide is not None:
                self.guide.committed(self.ttft)
            if self.pilot is not None:
                self.pilot.answered()
            if self.trial is not None:
                self.trial.answered(self, out)
        if self.begun:
            self.sink.send(out)
            return
        self.begun = True
        self.sink.begin(200, self._lines(SSE_HEAD), out)

    def on_end(self) -> None:
        decision = self.decision
        relay = self.relay
        if relay is not None:
            tail = relay.close()
            if relay.fault is not None:
                if tail:
                    self._send(tail)
                self._failed(relay.fault)
                return
            health.good(decision.replica)
            self._finish_stream(tail)
            return
        assert self.answer is not None
        self._answered(self.answer.body(), self.answer.cut(self.upstream_headers))

    def _answered(self, body: bytes, cut: Fault | None = None) -> None:
        """A whole answer that is no stream; `cut` says that it only looks whole."""
        replica, where = self.decision.replica, self.decision.target.backend
        if not 200 <= self.status < 300:
            self._failed(from_answer(self.status, self.upstream_headers, body, where, unix_time()))
        elif (fault := cut or check_whole(body, where)) is not None:
            self._failed(fault)
        elif self.begun:  # the client has the head of a stream
            message = f"Backend '{where}' answered a streaming request with something that is no stream."
            self._failed(Fault("upstream", message, origin="backend", code="not_a_stream"))
        else:
            if replica.failures:
                health.good(replica)
            self._respond(body)

    def on_fault(self, fault: Fault) -> None:
        self._failed(fault)

    # --- a good end
    def _respond(self, body: bytes) -> None:
        self.bytes_out = len(body)
        self.tail = wire.usage_tail(body)
        self.ttft = monotonic() - self.received
        if self.guide is not None:
            self.guide.committed(self.ttft)
        if self.pilot is not None:
            self.pilot.answered()
            self.pilot.finished(self.tail)
        if self.trial is not None:
            self.trial.answered(self, body)
        lines = self._lines(JSON_HEAD)
        self.last_fault = None  # an earlier attempt's
        self._release()
        self._end(self.status)
        self.sink.respond(self.status, lines, body)

    def _finish_stream(self, tail: bytes) -> None:
        self.bytes_out += len(tail)
        self.last_fault = None  # an earlier attempt's
        if self.pilot is not None:
            self.pilot.answered()
            self.pilot.finished(self.relay.usage_event if self.relay is not None else None)
        self._release()
        if not self.begun:
            self.ttft = monotonic() - self.received
            self.sink.begin(200, self._lines(SSE_HEAD), b"")
        self._end(200)
        self.sink.finish(tail)

    def _lines(self, first: bytes) -> bytes:
        replica, route = self.decision.replica, self.route
        cors = self.cors if self.pilot is None else self.cors + self.pilot.told
        return header_lines(first, self.id, replica.line, self.upstream_headers, self.dropped, cors, route.tell)

    # --- the other half's
    def _failed(self, fault: Fault) -> None:
        raise NotImplementedError

    def _release(self) -> None:
        raise NotImplementedError

    def _end(self, status: int) -> None:
        raise NotImplementedError


def is_odd(body: bytes, replica: Replica) -> bool:
    """Whether a good answer may be an error object, to be looked at closely. Learns where the replica's answers have their choices."""
    # An error object names itself at its start; `rfind` is much the faster in CPython.
    if body.rfind(b'"error"', 0, 512) >= 0:
        return True
    if replica.looked < TRIES:
        replica.looked += 1
        at = body.find(CHOICES, 0, 512)
        if at > 0:
            replica.opened = slice(at, at + len(CHOICES))
    return False
