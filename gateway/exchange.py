"""One request, from its bytes to its record. Knows its client only as a `Sink` and its upstream only as a `Flight`, so it runs
without sockets in tests, and the same way behind our own protocol and behind ASGI. `gateway.answering` is its other half.

Life: `start` (who, what, which route) → `dispatch` (pick, lease, send; or parked until a replica comes) → the `Receiver` callbacks
→ exactly one of `_respond`, `_finish_stream`, `refuse`, `gone`, which end in `_end`. Before the content commit a retryable fault
excludes the replica and dispatches again; after it the client gets an error event. All of it is synchronous, on the event loop.
"""

from __future__ import annotations

from time import monotonic

import msgspec

from backends import wire
from backends.types import Call, Fault, Target
from gateway.answering import NOTHING, Answering
from gateway.answers import JSON_HEAD, SSE_HEAD, unsupported
from gateway.auth import Tenant
from gateway.logs import conceal
from gateway.record import record_of_exchange
from routing import health
from routing.lease import give
from routing.pool import pick
from routing.types import Route

WAITING = b": waiting\n\n"


class Exchange(Answering):
    """One request under way. See the module's text for its life."""

    __slots__ = ()

    # --- in
    def start(self, body: bytes, tenant: Tenant | None = None) -> None:
        """Takes the whole body. `tenant`: who calls, where the connection knows that already. Never raises: every outcome goes to
        the sink, now or later."""
        core = self.core
        core.inflight.add(self)
        try:
            if tenant is None:
                core.admit(self)
            else:
                self.tenant = tenant
            if core.draining or len(core.inflight) > core.limits.concurrency:
                raise core.refusal()
            self._read(body)
            self.dispatch()
        except Fault as fault:
            self.refuse(fault)

    def _read(self, body: bytes) -> None:
        doc = wire.parse(body)
        tenant = self.tenant
        try:
            model, route = self.core.named[bytes(doc["model"])]  # as most clients write it
        except KeyError:
            model, route = self._named(doc)
        if tenant.routes is not None and route.name not in tenant.routes:
            raise self.core.unknown(model, tenant)
        self.stream = stream = "stream" in doc and wire.flag(doc, "stream")
        if route.concurrency is not None and route.inflight >= route.concurrency:
            message = f"Model '{model}' has {route.concurrency} calls under way, its limit."
            raise Fault("rate_limited", message, retry_after=1.0, code="route_busy")
        route.inflight += 1
        self.route = route
        self.call = Call(self.id, self.api, model, stream, doc, tenant.name, self.headers, self.received)

    def _named(self, doc: wire.Doc) -> tuple[str, Route]:
        model = wire.text(doc, "model")
        if model is None:
            raise wire.bad("'model' is missing; GET /v1/models lists what there is.", param="model", code="missing_model")
        return model, self.core.route(model, self.tenant)

    # --- towards an engine
    def dispatch(self) -> None:
        """Sends the call to a replica, parks it until one comes, or raises the Fault that says why neither can be."""
        route, call, core = self.route, self.call, self.core
        decision = pick(route, core.clients.now, core.draw(), self.excluded)
        if decision is None:
            core.park(self)
            return
        if self.attempts:  # nothing of an earlier attempt may be told of this one
            self.relay, self.answer, self.upstream_headers, self.dropped = None, None, NOTHING, b""
        self.attempts += 1
        self.parked_at = None
        self.decision = decision
        target, replica = decision.target, decision.replica
        if target.unsupported and not target.unsupported.isdisjoint(call.doc):
            call = self._unsupported(call, target)
        self.held = replica
        replica.inflight += 1  # `lease.take`, without its frame
        replica.total += 1
        timeouts = route.timeouts.get(target.backend) if route.timeouts else None
        try:
            self.flight = replica.link.send(call, target, timeouts, self)
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

    def _unsupported(self, call: Call, target: Target) -> Call:
        found = unsupported(call.doc, target, self.route)
        self.dropped = ",".join(found).encode()
        return msgspec.structs.replace(call, doc=wire.drop(call.doc, target.unsupported))

    def _release(self) -> None:
        """Gives back what the attempt holds on a replica. Idempotent."""
        held = self.held
        if held is not None:
            self.held = self.flight = None
            give(held)
            self.core.freed(held)

    # --- out
    def _failed(self, fault: Fault) -> None:
        """An attempt failed: elsewhere if nothing was promised to the client yet, else told."""
        decision = self.decision
        health.bad(decision.replica, fault, monotonic())
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
        if fault.origin == "backend":
            fault.message = conceal(fault.message)  # a provider may quote the key that it was sent
        self.last_fault = fault
        body = self.envelope(fault)
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

    def envelope(self, fault: Fault) -> bytes:
        """The error object of this request's dialect."""
        return wire.envelope(fault)

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
        elif self.stream and self.ttft is None and now > (self.comment_at or self.received + core.server.head_commit_seconds):
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
        self.core.recorder.put(record_of_exchange(self, status), self.tail, self.decision.target)
