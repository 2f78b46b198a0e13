"""One request, from its bytes to its record. Knows its client only as a `Sink` and its upstream only as a `Flight`, so it runs
without sockets in tests, and the same way behind our own protocol and behind ASGI.

Life: `start` (who, what, which route) → `dispatch` (pick, lease, send; or parked until a replica comes) → the `Receiver` callbacks
→ exactly one of `_respond`, `_finish_stream`, `refuse`, `gone`, which end in `_end`. Before the content commit a retryable fault
excludes the replica and dispatches again; after it the client gets an error event. All of it is synchronous, on the event loop.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from backends import wire
from backends.faults import from_answer
from backends.types import Call, Fault, Flight
from gateway.auth import ANYONE, Tenant
from gateway.record import Record
from gateway.relay import StreamRelay, WholeAnswer, check_whole
from gateway.sink import Sink
from routing import health
from routing.lease import Lease
from routing.pool import pick
from routing.types import NO_ROUTE, UNDECIDED, Decision, Replica, Route

if TYPE_CHECKING:
    from gateway.serve import Core

# Each ends where the request's id comes.
SSE_HEAD = b"content-type: text/event-stream; charset=utf-8\r\ncache-control: no-cache\r\nx-accel-buffering: no\r\nx-request-id: "
JSON_HEAD = b"content-type: application/json\r\nx-request-id: "
WAITING = b": waiting\n\n"
MAX_ERROR = 64 * 1024  # bytes read of an upstream's error body
_SSE = b"text/event-stream"
NO_CALL = Call(b"", "", "", False, {}, "", {}, 0.0)
_PASSED = frozenset({
    b"openai-processing-ms", b"openai-version", b"x-ratelimit-limit-requests", b"x-ratelimit-limit-tokens",
    b"x-ratelimit-remaining-requests", b"x-ratelimit-remaining-tokens", b"x-ratelimit-reset-requests", b"x-ratelimit-reset-tokens",
})  # fmt: skip


class Exchange:
    """One request under way. See the module's text for its life."""

    # Defaults stand on the class: most requests never change most of them.
    tenant: Tenant = ANYONE
    route: Route = NO_ROUTE
    call: Call = NO_CALL
    decision: Decision = UNDECIDED
    lease: Lease | None = None
    flight: Flight | None = None
    relay: StreamRelay | None = None
    answer: WholeAnswer | None = None
    excluded: set[Replica] | tuple[()] = ()
    last_fault: Fault | None = None
    upstream_headers: Mapping[bytes, bytes] = {}
    attempts = status = chunks = bytes_out = 0
    stream = begun = ended = False
    ttft: float | None = None  # seconds from arrival to the first content
    parked_at: float | None = None
    paused_at: float | None = None
    tail: bytes | None = None  # what the recorder reads the usage from
    cors = dropped = b""

    def __init__(self, core: Core, sink: Sink, api: str, headers: Mapping[bytes, bytes]) -> None:
        self.core, self.sink, self.api, self.headers = core, sink, api, headers
        self.id = core.request_id(headers)
        self.received = time.monotonic()
        self.comment_at = self.received + core.server.head_commit_seconds  # when a silent stream gets its head

    # --- in
    def start(self, body: bytes) -> None:
        """Takes the whole body. Never raises: every outcome goes to the sink, now or later."""
        core = self.core
        core.inflight.add(self)
        try:
            core.admit(self)
            self._read(body)
            self.dispatch()
        except Fault as fault:
            self.refuse(fault)

    def _read(self, body: bytes) -> None:
        doc = wire.parse(body)
        model = wire.text(doc, "model")
        if model is None:
            raise wire.bad("'model' is missing; GET /v1/models lists what there is.", param="model", code="missing_model")
        self.stream = wire.flag(doc, "stream")
        route = self.core.route(model, self.tenant)
        if route.concurrency is not None and route.inflight >= route.concurrency:
            message = f"Model '{model}' has {route.concurrency} calls under way, its limit."
            raise Fault("rate_limited", message, retry_after=1.0, code="route_busy")
        route.inflight += 1
        self.route = route
        self.call = Call(self.id, self.api, model, self.stream, doc, self.tenant.name, self.headers, self.received)

    # --- towards an engine
    def dispatch(self) -> None:
        """Sends the call to a replica, parks it until one comes, or raises the Fault that says why neither can be."""
        route, call, core = self.route, self.call, self.core
        decision = pick(route, core.clients.now, core.draw(), self.excluded)
        if decision is None:
            core.park(self)
            return
        if self.parked_at is not None:
            self.parked_at = None
        self.decision = decision
        target, replica = decision.target, decision.replica
        if self.attempts:  # nothing of an earlier attempt may be told of this one
            self.relay, self.answer, self.upstream_headers, self.dropped = None, None, {}, b""
        if target.unsupported and not target.unsupported.isdisjoint(call.doc):
            call = self._unsupported(call, target.unsupported, target.backend, route)
        self.attempts += 1
        self.lease = Lease(replica)
        try:
            self.flight = replica.link.send(call, target, route.timeouts.get(target.backend), self)
        except Fault:
            self._release()
            raise

    def redispatch(self) -> None:
        """The wait may be over: tries again; parks again when it is not."""
        waited_since = self.parked_at
        try:
            self.dispatch()
            self._pace()
            if self.parked_at is not None:
                self.parked_at = waited_since
        except Fault as fault:
            self.parked_at = None
            self.refuse(fault)

    def shut(self) -> None:
        """The gateway stops before the answer is whole."""
        if self.flight is not None:
            self.flight.cancel()
        self.refuse(Fault("unavailable", "The gateway is shutting down.", retry_after=1.0, code="draining"))

    def _unsupported(self, call: Call, unsupported: frozenset[str], backend: str, route: Route) -> Call:
        found = sorted(k for k in unsupported.intersection(call.doc) if call.doc[k] != wire.NULL)
        if found and not route.drop:
            names = ", ".join(map(repr, found))
            message = f"Backend '{backend}' does not support {names}. Leave it out, or set on_unsupported: drop on the route."
            raise wire.bad(message, param=found[0], code="unsupported_parameter")
        self.dropped = ",".join(found).encode()
        doc = wire.drop(call.doc, found)
        return Call(call.id, call.api, call.model, call.stream, doc, call.tenant, call.headers, call.received)

    def _release(self) -> None:
        """Gives back what the attempt holds on a replica. Idempotent."""
        lease = self.lease
        if lease is not None:
            self.lease = self.flight = None
            if lease.end():
                self.core.freed(lease.replica)

    # --- Receiver
    def on_whole(self, status: int, headers: Mapping[bytes, bytes], body: bytes) -> None:
        if status != 200 or headers.get(b"content-type", b"")[:17].lower() == _SSE or len(body) > self.core.limits.answer_bytes:
            lease, self.flight = self.lease, None
            self.on_head(status, headers)
            if body:
                self.on_data(body)
            if self.lease is lease and not self.ended:  # not over by what it held; another lease is another attempt's
                self.on_end()
            return
        self.status, self.upstream_headers = status, headers
        self._answered(body)

    def on_head(self, status: int, headers: Mapping[bytes, bytes]) -> None:
        self.status = status
        self.upstream_headers = headers
        decision = self.decision
        where, limits = decision.target.backend, self.core.limits
        if status == 200 and headers.get(b"content-type", b"")[:17].lower() == _SSE:
            self.relay = StreamRelay(where, not self._wants_usage(), limits.event_bytes)
        else:
            good = 200 <= status < 300
            self.answer = WholeAnswer(where, limits.answer_bytes if good else MAX_ERROR, good)

    def _wants_usage(self) -> bool:
        call = self.call
        options = call.doc.get("stream_options")
        if options is None:
            return False
        return b'"include_usage":true' in bytes(options) or wire.flag(wire.sub(call.doc, "stream_options"), "include_usage")

    def on_data(self, data: bytes) -> None:
        relay = self.relay
        if relay is None:
            answer = self.answer
            assert answer is not None
            if answer.size < answer.limit and (fault := answer.feed(data)) is not None:
                self._over(fault)
            return
        out = relay.feed(data)
        if out:
            self._send(out)
        if relay.fault is not None:
            self._over(relay.fault)

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
            self.ttft = time.monotonic() - self.received
            if not self.begun:
                self.begun = True
                self.sink.begin(200, self._lines(SSE_HEAD), out)
                return
        self.sink.send(out)

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
            self._failed(from_answer(self.status, self.upstream_headers, body, where, time.time()))
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

    # --- out
    def _failed(self, fault: Fault) -> None:
        """An attempt failed: elsewhere if nothing was promised to the client yet, else told."""
        decision = self.decision
        health.bad(decision.replica, fault, time.monotonic())
        self._release()
        self.last_fault = fault
        route = self.route
        if self.ttft is None and fault.retry and self.attempts <= route.retries:
            if not decision.replica.managed:  # an engine of ours is started again: waiting for it beats giving up
                self.excluded = {*self.excluded, decision.replica}
            try:
                self.dispatch()
                self._pace()
                return
            except Fault as after:
                if after.code != "no_replica":  # nothing better than the first fault to tell
                    fault = after
        self.refuse(fault)

    def refuse(self, fault: Fault) -> None:
        """Ends the request with a fault: as a status, or as an event when the head has gone out."""
        self._release()
        if self.ended:
            return
        self.last_fault = fault
        body = wire.envelope(fault)
        if self.begun:
            self.bytes_out += len(body)
            self._end(200)
            self.sink.finish(b"data: " + body + b"\n\n")
            return
        lines = self._lines(JSON_HEAD)
        if fault.retry_after is not None:
            lines += b"retry-after: %d\r\n" % max(1, round(fault.retry_after + 0.49))
        if fault.kind == "auth":
            lines += b"www-authenticate: Bearer\r\n"
        self.bytes_out = len(body)
        self._end(fault.status)
        self.sink.respond(fault.status, lines, body)

    def _respond(self, body: bytes) -> None:
        self.bytes_out = len(body)
        self.tail = wire.usage_tail(body)
        self.ttft = time.monotonic() - self.received
        lines = self._lines(JSON_HEAD)
        self.last_fault = None  # an earlier attempt's
        self._release()
        self._end(self.status)
        self.sink.respond(self.status, lines, body)

    def _finish_stream(self, tail: bytes) -> None:
        self.bytes_out += len(tail)
        self.last_fault = None  # an earlier attempt's
        self._release()
        if not self.begun:
            self.ttft = time.monotonic() - self.received
            self.sink.begin(200, self._lines(SSE_HEAD), b"")
        self._end(200)
        self.sink.finish(tail)

    def _lines(self, first: bytes) -> bytes:
        decision = self.decision
        lines = first + self.id + decision.replica.line
        upstream = self.upstream_headers
        if not _PASSED.isdisjoint(upstream):
            lines += b"".join(b"%b: %b\r\n" % (name, upstream[name]) for name in sorted(_PASSED.intersection(upstream)))
        if self.dropped:
            lines += b"x-pointsman-dropped: %b\r\n" % self.dropped
        return lines + self.cors if self.cors else lines

    # --- the client
    def gone(self) -> None:
        """The client has left: the engine must not compute for nobody."""
        if self.ended:
            return
        if self.flight is not None:
            self.flight.cancel()
        self._release()
        self.last_fault = Fault("cancelled", "The client closed the connection.", origin="client")
        self._end(499)

    def pause(self) -> None:
        """The client reads slower than the answer comes."""
        self.paused_at = self.core.clients.now
        if self.flight is not None:
            self.flight.pause()

    def _pace(self) -> None:
        """A new attempt goes no faster than the client reads."""
        if self.paused_at is not None and self.flight is not None:
            self.flight.pause()

    def resume(self) -> None:
        """The client has caught up."""
        self.paused_at = None
        if self.flight is not None:
            self.flight.resume()

    def tick(self, now: float) -> None:
        """What only time brings: the end of a wait, the head commit of a slow stream, a client that reads no more."""
        core = self.core
        if self.ended:  # within this very tick, by what another's end set free
            return
        if self.parked_at is not None and now - self.parked_at > core.server.wait_seconds:
            self.refuse(core.waited(self))
        elif self.paused_at is not None and now - self.paused_at > core.limits.client_stall_seconds:
            self.sink.break_off()
            self.gone()
        elif self.stream and self.ttft is None and now > self.comment_at:
            self.comment_at = now + core.server.head_commit_seconds
            if self.begun:
                self.sink.send(WAITING)
            else:
                self.begun = True
                self.sink.begin(200, self._lines(SSE_HEAD), WAITING)

    def _end(self, status: int) -> None:
        """The end, once: out of the table, one record."""
        if self.ended:
            return
        self.ended = True
        self.core.ended(self)
        if self.relay is not None:
            self.tail = self.relay.usage_event
        # The recorder reads the usage off the request's own path; it gets the few bytes that it needs, never the exchange.
        self.core.recorder.put(self._record(status), self.tail)

    def _record(self, status: int) -> Record:
        decision, fault = self.decision, self.last_fault
        target = decision.target
        duration = time.monotonic() - self.received
        record = Record(
            self.id.decode(), time.time() - duration, self.api, self.route.name, target.backend, decision.replica.name, self.tenant.name,
            self.stream, status, duration, self.ttft, self.attempts, self.chunks, self.bytes_out,
        )  # fmt: skip
        record.reason = decision.reason
        if fault is not None:
            record.fault, record.origin, record.message = fault.kind, fault.origin, fault.message
        return record
