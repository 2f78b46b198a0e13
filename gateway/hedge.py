"""A second attempt beside the first: whichever has content first is the answer, the other is cancelled at once."""

from __future__ import annotations

from collections.abc import Mapping
from time import monotonic
from time import time as unix_time
from typing import TYPE_CHECKING

from backends.faults import from_answer
from backends.native import SurfaceCall, speaks
from backends.types import Fault, Flight
from gateway.relay import StreamRelay, WholeAnswer, check_whole
from routing import health
from routing.lease import give, take
from routing.pool import pick
from routing.types import Decision, Replica

if TYPE_CHECKING:
    from gateway.exchange import Exchange
    from gateway.guide import Guide

MAX_ERROR = 64 * 1024
_SSE = b"text/event-stream"


class Rival:
    """The `Receiver` of a second attempt. Until it wins it keeps what comes, bounded as for the first; from then on it hands everything to
    its exchange, whose attempt it has become."""

    __slots__ = ("answer", "decision", "dropped", "exchange", "flight", "guide", "headed", "held", "parts", "pilot", "probe", "won")

    def __init__(self, guide: Guide, decision: Decision) -> None:
        self.guide, self.exchange, self.decision = guide, guide.exchange, decision
        self.held: Replica | None = None
        self.flight: Flight | None = None
        self.pilot = guide.exchange.pilot and guide.exchange.pilot.beside()
        self.dropped = b""
        self.headed: tuple[int, Mapping[bytes, bytes]] | None = None
        self.parts: list[bytes] = []
        self.probe: StreamRelay | None = None
        self.answer: WholeAnswer | None = None
        self.won = False

    # --- Receiver
    def on_whole(self, status: int, headers: Mapping[bytes, bytes], body: bytes) -> None:
        if self.won:
            self.exchange.on_whole(status, headers, body)
            return
        self.flight = None
        self.on_head(status, headers)
        if body:
            self.on_data(body)
        if self.held is not None or self.won:
            self.on_end()

    def on_head(self, status: int, headers: Mapping[bytes, bytes]) -> None:
        if self.won:
            self.exchange.on_head(status, headers)
            return
        self.headed = (status, headers)
        where, limits = self.decision.target.backend, self.exchange.core.limits
        if status == 200 and headers.get(b"content-type", b"")[:17].lower() == _SSE:
            self.probe = StreamRelay(where, True, limits.event_bytes)
        else:
            good = 200 <= status < 300
            self.answer = WholeAnswer(where, limits.answer_bytes if good else MAX_ERROR, good)

    def on_data(self, data: bytes) -> None:
        if self.won:
            self.exchange.on_data(data)
            return
        self.parts.append(data)
        if self.probe is not None:
            self.probe.feed(data)
            if self.probe.fault is not None:
                self._lost(self.probe.fault)
            elif self.probe.committed:
                self._win()
        elif self.answer is not None and (fault := self.answer.feed(data)) is not None:
            self._lost(fault)

    def on_end(self) -> None:
        if not self.won:
            fault = self._judged()
            if fault is not None:
                self._lost(fault)
                return
            self._win()
        exchange = self.exchange
        if exchange.decision is self.decision and exchange.held is not None:  # not over by what it held
            exchange.on_end()

    def on_fault(self, fault: Fault) -> None:
        if self.won:
            self.exchange.on_fault(fault)
        else:
            self.flight = None
            self._lost(fault)

    def _judged(self) -> Fault | None:
        """The fault of a whole answer, if it has one."""
        assert self.headed is not None
        (status, headers), where = self.headed, self.decision.target.backend
        if self.probe is not None:
            self.probe.close()
            return self.probe.fault
        assert self.answer is not None
        body = self.answer.body() if self.answer.parts else b""
        if not 200 <= status < 300:
            return from_answer(status, headers, body, where, unix_time())
        return self.answer.cut(headers) or check_whole(body, where)

    # --- the race
    def _win(self) -> None:
        self.guide.rival = None
        self.take_over()

    def take_over(self) -> None:
        """Becomes the exchange's attempt, with all that came so far. The one before is cancelled if it still runs."""
        exchange = self.exchange
        self.won = True
        if exchange.flight is not None:
            exchange.flight.cancel()
        exchange.adopt(self.decision, self.held, self.flight, self.dropped, self.pilot)
        self.held = self.flight = None
        parts, self.parts = self.parts, []
        if self.headed is None:
            return
        exchange.on_head(*self.headed)
        if parts:
            exchange.on_data(b"".join(parts))

    def drop(self) -> None:
        """The other has won, or nobody wants an answer any more. Idempotent."""
        flight, self.flight = self.flight, None
        if flight is not None:
            flight.cancel()
        self._release()

    def _lost(self, fault: Fault) -> None:
        """This attempt is over; the first goes on alone."""
        exchange = self.exchange
        health.bad(self.decision.replica, fault, monotonic(), exchange.route.replicas)
        exchange.excluded = {*exchange.excluded, self.decision.replica}
        self.guide.rival = None
        self.drop()

    def _release(self) -> None:
        held, self.held = self.held, None
        if held is not None:
            give(held)
            if self.pilot is not None:
                self.pilot.released()
            self.exchange.core.freed(held)


def relayed(exchange: Exchange, replica: Replica) -> bool:
    """Whether the replica would be sent the client's document as it is, in a dialect that is not ours to read."""
    return isinstance(exchange.call, SurfaceCall) and speaks(replica.link, exchange.api)


def race(guide: Guide) -> Rival | None:
    """Sends the guided call to one replica more. None when there is no other that can take it now."""
    exchange = guide.exchange
    core, route, call = exchange.core, exchange.route, exchange.call
    if relayed(exchange, exchange.decision.replica):
        return None
    barred = exchange.pilot.barred() if exchange.pilot is not None else ()
    decision = pick(route, core.clients.now, core.draw(), {*exchange.excluded, *barred, exchange.decision.replica})
    if decision is None or decision.replica.down_until or relayed(exchange, decision.replica):
        return None
    target, replica = decision.target, decision.replica
    rival = Rival(guide, decision)
    timeouts = route.timeouts.get(target.backend) if route.timeouts else None
    if rival.pilot is not None:
        rival.pilot.sent(decision)
    rival.held = take(replica)
    try:
        call, rival.dropped = exchange.fitted(call, target)
        rival.flight = replica.link.send(call, target, timeouts, rival)
    except Fault:
        rival.drop()
        return None
    return rival
