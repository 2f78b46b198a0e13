"""One request, from its bytes to its record. Knows its client only as a `Sink` and its upstream only as a `Flight`, so it runs
without sockets in tests, and the same way behind our own protocol and behind ASGI. `gateway.answering` is its other half.

Life: `start` (who, what, which route) → `dispatch` (pick, lease, send; or parked until a replica comes) → the `Receiver` callbacks
→ exactly one of `_respond`, `_finish_stream`, `refuse`, `gone`, which end in `_end`. Before the content commit a retryable fault
excludes the replica and dispatches again; after it the client gets an error event. All of it is synchronous, on the event loop.
"""

from __future__ import annotations

import logging
from time import monotonic
from typing import TYPE_CHECKING

import msgspec

from backends import wire
from backends.types import Call, Fault, Flight, Target
from gateway.answering import NOTHING, Answering
from gateway.answers import JSON_HEAD, SSE_HEAD, unsupported
from gateway.auth import Tenant
from gateway.guide import Guide, Joined
from gateway.limits import route_busy
from gateway.logs import conceal
from gateway.record import record_of_exchange
from gateway.residency_demand import COMMENT_SECONDS
from gateway.residency_demand import comment as loading
from routing import health
from routing.lease import give, take
from routing.pool import pick
from routing.retry import Verdict, verdict
from routing.types import Decision, Pilot, Replica, Route

if TYPE_CHECKING:
    from gateway.experiments.entry import Part

WAITING = b": waiting\n\n"
log = logging.getLogger("pointsman.exchange")
_ELSEWHERE = (Verdict.AGAIN, Verdict.MOVE)


class Exchange(Answering):
    """One request under way. See the module's text for its life."""

    __slots__ = ()

    # --- in
    def start(self, body: bytes, tenant: Tenant | None = None) -> None:
        """Takes the whole body. `tenant`: who calls, where the connection knows that already. Never raises: every outcome goes to
        the sink, now or later."""
        core = self.core
        if core.starts.spare < 0 and core.starts.waits(self, body, tenant):
            return
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
        except Joined:
            return
        except Exception:
            log.exception("a bug: request %s", self.id.decode())
            self.refuse(Fault("upstream", "The gateway failed; its log says why.", status=500, code="internal_error"))

    def _read(self, body: bytes) -> None:
        try:
            doc = wire.split(body) if body.isascii() else wire.parse(body)
        except (msgspec.MsgspecError, RecursionError):
            doc = wire.parse(body)  # says what is wrong
        tenant = self.tenant
        try:
            model, route = self.core.named[b"" + doc["model"]]  # as most clients write it; this is much the fastest way to its bytes
        except KeyError:
            model, route = self._named(doc)
        if tenant.limited:
            route = self.core.permitted(model, route, tenant)
        self.stream = stream = "stream" in doc and wire.flag(doc, "stream")
        if stream:
            self.watched = True
        route.inflight += 1
        self.route = route
        self.call = Call(self.id, self.api, model, stream, doc, tenant.name, self.headers, self.received, "", tenant.private)
        if route.elastic and self.core.residency is not None:
            self.core.residency.entered(route, self.headers)
        if route.trials is not None:
            route.trials.enter(self)
            route = self.route  # its arm's
        if route.special:
            self._special(route)

    def _special(self, route: Route) -> None:
        """What a route asks of its calls before they are sent. Raises Fault, or `Joined` when another's answer is followed."""
        if route.concurrency is not None and route.inflight > route.concurrency:
            raise route_busy(self.call.model, route.concurrency)
        if route.plan is not None:
            self.guide, self.watched = Guide(self, route.plan), True
            self.guide.begin()
        if route.chooser is not None:
            self.pilot = route.chooser.pilot(self)

    def tried(self, part: Part) -> None:
        """It is in experiments: takes what its arms change."""
        self.trial = part
        if part.changes is not None:
            self.call = msgspec.structs.replace(self.call, doc=part.changes.apply(self.call.doc))
        if b'"json_schema"' in (format := bytes(self.call.doc.get("response_format", b""))):
            self.sink = part.own(self).tapped(self.sink, self.api, format)

    def opening(self) -> wire.Doc:
        """A document whose conversation begins as this one's."""
        return self.call.doc

    def _named(self, doc: wire.Doc) -> tuple[str, Route]:
        model = wire.text(doc, "model")
        if model is None:
            raise wire.bad("'model' is missing; GET /v1/models lists what there is.", param="model", code="missing_model")
        return model, self.core.route(model, self.tenant)

    # --- towards an engine
    def dispatch(self) -> None:
        """Sends the call to a replica, parks it until one comes, or raises the Fault that says why neither can be."""
        route, call, core = self.route, self.call, self.core
        pilot = self.pilot
        draw = core.draw  # called as a method, an attribute is looked up the long way
        decision = pick(route, core.clients.now, draw(), self.excluded) if pilot is None else pilot.choose(self.excluded)
        if decision is None:
            if pilot is not None and pilot.holds:
                core.hold(self)
            else:
                core.park(self)
            return
        tried = self.attempts
        if tried:  # nothing of an earlier attempt may be told of this one
            self.relay, self.answer, self.upstream_headers, self.dropped = None, None, NOTHING, b""
            self.watched = True
        self.attempts, self.parked_at, self.decision = tried + 1, None, decision
        target, replica = decision.target, decision.replica
        if target.unsupported and not target.unsupported.isdisjoint(call.doc):
            call, self.dropped = self.fitted(call, target)
            self.watched = True
        if pilot is not None:
            pilot.sent(decision)
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
            if self.parked_at is not None and waited_since is not None:
                self.parked_at = waited_since
        except Fault as fault:
            self.parked_at = None
            self.refuse(fault)

    def shut(self) -> None:
        """The gateway stops before the answer is whole."""
        if self.flight is not None:
            self.flight.cancel()
        self.refuse(Fault("unavailable", "The gateway is shutting down.", retry_after=1.0, code="draining"))

    def fitted(self, call: Call, target: Target) -> tuple[Call, bytes]:
        """The call without what the target does not support, and the names of what is lost. Raises Fault where the route is strict."""
        if target.unsupported.isdisjoint(call.doc):
            return call, b""
        found = unsupported(call.doc, target, self.route)
        return msgspec.structs.replace(call, doc=wire.drop(call.doc, target.unsupported)), ",".join(found).encode()

    def _release(self) -> None:
        """Gives back what the attempt holds on a replica. Idempotent."""
        held = self.held
        if held is not None:
            self.held = self.flight = None
            give(held)
            if self.pilot is not None:
                self.pilot.released()
            self.core.freed(held)

    # --- out
    def _failed(self, fault: Fault) -> None:
        """An attempt failed: elsewhere if nothing was promised to the client yet, else told."""
        decision, route, guide = self.decision, self.route, self.guide
        health.bad(decision.replica, fault, monotonic(), route.replicas)
        self._release()
        if self.trial is not None:
            self.trial.failed(self, decision.target)
        self.last_fault = fault
        if guide is not None:
            if guide.failed(fault):
                return
            fault = guide.cause or fault
        found = verdict(fault)
        tried = self.attempts if guide is None else self.attempts - guide.free
        if self.ttft is None and found in _ELSEWHERE and tried <= route.retries:
            if found is Verdict.MOVE:
                self.excluded = {*self.excluded, *(r for r in route.replicas if r.backend == decision.replica.backend)}
            elif not decision.replica.managed:  # an engine of ours is started again: waiting for it beats giving up
                self.excluded = {*self.excluded, decision.replica}
            try:
                self.redirect()
                return
            except Fault as after:
                if after.code != "no_replica":  # nothing better than the first fault to tell
                    fault = after
        self.refuse(fault)

    def refuse(self, fault: Fault) -> None:
        """Ends the request with a fault: as a status, or as an event when the head has gone out."""
        self._release()
        if self.ended or (self.guide is not None and self.guide.refused(fault)):
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

    # --- what the guide asks for
    def redirect(self) -> None:
        """Another attempt, no faster than the client reads. Raises Fault as `dispatch`."""
        self.dispatch()
        self._pace()

    def attempt_on(self, decision: Decision, call: Call) -> None:
        """Sends `call` in place of the client's to where `decision` says. Raises Fault when it cannot be sent; then nothing is held."""
        self.relay, self.answer, self.upstream_headers = None, None, NOTHING
        call, dropped = self.fitted(call, decision.target)
        self.count_beside()
        target, replica = decision.target, decision.replica
        self.decision, self.dropped = decision, dropped
        if self.pilot is not None:
            self.pilot.sent(decision)
        self.held = take(replica)
        try:
            self.flight = replica.link.send(call, target, self.route.timeouts.get(target.backend), self)
        except Fault:
            self._release()
            raise
        self._pace()

    def adopt(self, decision: Decision, held: Replica | None, flight: Flight | None, dropped: bytes, pilot: Pilot | None) -> None:
        """Makes another's attempt this call's own, in place of the one that it has."""
        self._release()
        self.pilot = pilot
        self.relay, self.answer, self.upstream_headers = None, None, NOTHING
        self.decision, self.held, self.flight, self.dropped = decision, held, flight, dropped
        self._pace()

    def follow(self, route: Route) -> None:
        """Goes by another route's policy from now on."""
        if self.pilot is not None:
            self.pilot.over()
        self.pilot = route.chooser.pilot(self) if route.chooser is not None else None

    def count_beside(self) -> None:
        """One attempt more."""
        self.attempts += 1
        self.watched = True

    def abandon(self, fault: Fault) -> None:
        """Gives up the attempt under way, as if it had failed with `fault`."""
        if self.flight is not None:
            self.flight.cancel()
        self._failed(fault)

    def finish_with(self, tail: bytes) -> None:
        """Ends a stream well, whatever became of its upstream."""
        self._finish_stream(tail)

    # --- an answer that another call got
    def _as(self, leader: Exchange) -> None:
        self.decision, self.upstream_headers, self.dropped = leader.decision, leader.upstream_headers, leader.dropped

    def send_as(self, leader: Exchange, data: bytes) -> None:
        """Sends events of the leader's stream."""
        self._as(leader)
        self._send(data)

    def finish_as(self, leader: Exchange, last: bytes) -> None:
        """Ends as the leader's stream does."""
        self._as(leader)
        self._finish_stream(last)

    def respond_as(self, leader: Exchange, status: int, body: bytes) -> None:
        """Answers as the leader was answered. Its tokens are counted there."""
        self._as(leader)
        self.status, self.bytes_out = status, len(body)
        self.ttft = monotonic() - self.received
        if self.trial is not None:
            self.trial.answered(self, body)
        lines = self._lines(JSON_HEAD)
        self._end(status)
        self.sink.respond(status, lines, body)

    # --- the client
    def gone(self) -> None:
        """The client has left: the engine must not compute for nobody."""
        if self.ended or (self.guide is not None and self.guide.stays()):
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
        elif self.stream and self.ttft is None:
            told = loading(self) if self.route.elastic else b""
            pause = min(COMMENT_SECONDS, core.server.head_commit_seconds) if told else core.server.head_commit_seconds
            if now > (self.comment_at or self.received + pause):
                self.comment_at = now + pause
                self._comment(told or WAITING)
        if self.guide is not None and not self.ended:
            self.guide.tick(now)

    def _comment(self, text: bytes) -> None:
        """Tells a stream that has nothing yet that it is not forgotten: the head commit."""
        if self.begun:
            self.sink.send(text)
        else:
            self.begun = True
            self.sink.begin(200, self._lines(SSE_HEAD), text)

    def _end(self, status: int) -> None:
        """The end, once: out of the table, one record."""
        if self.ended:
            return
        self.ended = True
        if self.guide is not None:
            self.guide.over()
        if self.pilot is not None:
            self.pilot.over()
        self.core.ended(self)
        if self.relay is not None:
            self.tail = self.relay.usage_event
            if self.splice is not None:  # what passed without us
                self.chunks += self.splice.chunks
                self.bytes_out += self.splice.size
        # The recorder reads the usage off the request's own path; it gets the few bytes that it needs, never the exchange.
        self.core.recorder.put(record_of_exchange(self, status), self.tail, self.decision.target)
        if self.trial is not None:
            self.trial.over(self, status)
