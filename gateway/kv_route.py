"""What a KV-aware route is to its calls: which of its dispatcher's replicas they may have, and the pilot of each of them.

A call is asked of the scheduler, held where that says so, booked wherever it is sent and by whomever, and taken off the books with the end
of each attempt.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from operator import attrgetter
from time import monotonic
from typing import TYPE_CHECKING, Any

from backends import wire
from backends.prompts import Prompt
from backends.types import Fault
from gateway.config_policy import PolicyConfig
from gateway.dispatcher import Dispatcher
from gateway.pilot import EXPLAIN, PolicyPilot, decision_line
from routing.kv import Quote, Want
from routing.pool import available, pick
from routing.types import Chooser, Decision, Pilot, Replica, Route

if TYPE_CHECKING:
    from gateway.exchange import Exchange

BANDS = range(-8, 9)  # priorities that a header may ask for

_health, _rests = attrgetter("health"), attrgetter("down_until")


class KVRoute:
    """The `Chooser` of one route: through its dispatcher, by its settings. `inner`: what chooses in the scheduler's place, while that only
    keeps the books (None: the draw by weight); `aware`: the scheduler chooses."""

    __slots__ = ("aware", "decisions", "dispatcher", "headers", "inner", "mask", "policy", "ready", "replicas", "route")

    def __init__(self, route: Route, dispatcher: Dispatcher, policy: PolicyConfig, aware: bool, inner: Chooser | None = None) -> None:
        self.route, self.dispatcher, self.policy, self.aware, self.inner = route, dispatcher, policy, aware, inner
        self.decisions: dict[int, Decision] = {}
        for arm in route.arms:
            for replica in arm.replicas:
                number = dispatcher.numbers.get(replica)
                if number is not None and arm.target.weight > 0:
                    self.decisions.setdefault(number, Decision(replica, arm.target, "least seconds by prefix cache and load"))
        self.mask = sum(1 << number for number in self.decisions)
        self.replicas = [decision.replica for decision in self.decisions.values()]
        self.ready = ["ready"] * len(self.replicas)  # their health where nothing is wrong
        self.headers = (policy.priority_header.encode(), policy.deadline_header.encode())

    def pilot(self, exchange: Exchange) -> Pilot:
        inner = self.inner.pilot(exchange) if self.inner is not None else None
        return KVPilot(self, exchange, inner)

    def usable(self, now: float, excluded: Collection[Replica]) -> int:
        """A bitmask of the replicas that could take a call, a free slot or not."""
        if not excluded and list(map(_health, self.replicas)) == self.ready and not any(map(_rests, self.replicas)):
            return self.mask
        mask = 0
        for number, decision in self.decisions.items():
            replica = decision.replica
            if replica.health == "ready" and (not replica.down_until or available(replica, now)) and replica not in excluded:
                mask |= 1 << number
        return mask


class KVAware(KVRoute):
    """The same of a route where the scheduler chooses; it can say what it would do."""

    __slots__ = ()

    @property
    def preset(self) -> str:
        """The policy's name."""
        return "kv_aware"

    def explain(self, exchange: Exchange) -> tuple[Decision | None, Mapping[tuple[str, str], dict[str, Any]]]:
        """Where the call would go now, None: it would wait for one; and each candidate's seconds by term. Counts nothing."""
        now, scheduler = monotonic(), self.dispatcher.scheduler
        pilot = KVPilot(self, exchange, self.inner.pilot(exchange) if self.inner is not None else None)
        barred = pilot.weigh()
        usable = self.usable(now, {*exchange.excluded, *barred})
        rows: dict[tuple[str, str], dict[str, Any]] = {}
        for number, decision in self.decisions.items():
            out = "" if usable >> number & 1 else decision.replica.reason or "it is not ready, or rests after failures"
            out = "its target does not take this call" if decision.replica in barred else out
            rows[decision.replica.name, decision.target.model] = {"seconds": None, "terms": {}, "out": out}
        if not usable:
            return None, rows
        quotes = [q for q in scheduler.quote(pilot.want_of(usable), now) if q.replica in self.decisions]
        for q in quotes:
            decision = self.decisions[q.replica]
            row = {"seconds": round(q.total, 6), "terms": terms(q), "out": "all its slots are taken" if q.full else ""}
            rows[decision.replica.name, decision.target.model] = row
        first = next((q for q in quotes if not q.full), None)
        if first is None:
            return None, rows
        chosen = self.decisions[first.replica]
        second = next((self.decisions[q.replica].replica.name for q in quotes if q is not first and not q.full), None)
        return Decision(chosen.replica, chosen.target, chosen.reason, {"runner_up": second, "words": told(self, quotes)}), rows


class KVPilot:
    """One call, or a second attempt of it. A booking belongs to an attempt and ends with it, whichever way that ends."""

    __slots__ = (
        "at", "booked", "cached", "costs", "exchange", "holds", "inner", "key", "mask", "output", "placed", "prompt", "refusable", "route",
        "told", "want",
    )  # fmt: skip

    def __init__(self, route: KVRoute, exchange: Exchange, inner: Pilot | None = None, prompt: Prompt | None = None) -> None:
        self.route, self.exchange, self.inner = route, exchange, inner
        self.prompt = prompt
        self.at = exchange.received
        self.holds = False
        self.told = b""
        self.want: Want | None = None  # what is held or booked
        self.key = 0  # of it; 0: nothing is
        self.booked: int | None = None  # the replica's number
        self.placed: int | None = None  # where a held call may go now
        self.mask = 0
        self.costs: Mapping[Replica, float] = {}  # seconds beside the scheduler's
        self.refusable = True  # no attempt was made yet
        self.cached: int | None = None
        self.output: int | None = None

    # --- choosing
    def choose(self, excluded: Collection[Replica]) -> Decision | None:
        if not self.route.aware:
            return self._beside(excluded)
        now = monotonic()
        if self.inner is not None:
            excluded = {*excluded, *self.weigh()}
        usable = self.route.usable(now, excluded)
        if self.placed is not None:
            number, self.placed = self.placed, None
            if usable >> number & 1 and not self.route.decisions[number].replica.full:
                return self._taken(number)
            self._drop(now)
        if not usable:  # all rest, or load: as anybody would wait or try
            self._drop(now)
            self.holds = False
            return pick(self.exchange.route, now, self.exchange.core.draw(), excluded)
        if self.holds and usable == self.mask:
            return None
        if self.key:
            self._drop(now)
        return self._ask(usable, now)

    def _beside(self, excluded: Collection[Replica]) -> Decision | None:
        if self.inner is not None:
            decision = self.inner.choose(excluded)
            self.told = self.inner.told
            return decision
        core = self.exchange.core
        return pick(self.exchange.route, core.clients.now, core.draw(), excluded)

    def _ask(self, usable: int, now: float) -> Decision | None:
        dispatcher = self.route.dispatcher
        scheduler, want = dispatcher.scheduler, self.want_of(usable)
        if self.refusable:
            self.refusable = False
            refusal = scheduler.admit(want, now)
            if refusal is not None:
                code = "deadline_unreachable" if refusal.cap == "deadline" else "queue_full"
                why = f"Model '{self.exchange.call.model}': {refusal.reason}."
                raise Fault("overloaded", why, retry_after=refusal.retry_after, code=code)
        if EXPLAIN in self.exchange.headers:
            self.told = decision_line(told(self.route, scheduler.quote(want, now)))
        self.want, self.key, self.mask = want, want.key, usable  # type: ignore[assignment]
        placed = scheduler.ask(want, now)
        if len(placed) == 1 and placed[0][0] is want:
            mine: int | None = placed[0][1]
        else:
            mine = next((number for one, number in placed if one is want), None)
            if len(placed) > (mine is not None):
                dispatcher.loop.call_soon(dispatcher.go, [one for one in placed if one[0] is not want])
        if mine is None:
            self.holds = True
            dispatcher.waiting[self.key] = self
            dispatcher.watch()
            return None
        decision = self.route.decisions[mine]
        if decision.replica.full:  # by calls that the scheduler does not place
            self._drop(now)
            self.holds = False
            return None
        return self._taken(mine)

    def _taken(self, number: int) -> Decision:
        self.holds, self.booked = False, number
        return self.route.decisions[number]

    def want_of(self, usable: int) -> Want:
        """The call as the scheduler sees it, for these replicas."""
        exchange, route = self.exchange, self.route
        dispatcher, policy = route.dispatcher, route.policy
        prompter, prompt = dispatcher.prompter, self.prompt
        if prompt is None:
            prompt = self.prompt = prompter.prompt(exchange.call)
        headers, (band, deadline) = exchange.headers, route.headers
        return Want(
            dispatcher.key(), prompt.tokens, prompt.blocks, self.at, usable=usable, tenant=exchange.tenant.name,
            band=_band(headers[band]) if band in headers else 0,
            deadline=_seconds(headers[deadline], policy.deadline) if deadline in headers else policy.deadline,
            output=prompt.output if prompt.output is not None and prompt.output < 4096 else None,
            size=prompter.block_tokens, streamed=exchange.stream, extra=self._extra() if self.costs else None,
        )  # fmt: skip

    def weigh(self) -> frozenset[Replica]:
        """The replicas that do not take the call; notes what else counts at the others. Raises Fault where none takes it."""
        if isinstance(self.inner, PolicyPilot):
            self.costs = self.inner.besides()
        return self.barred()

    def _extra(self) -> list[float]:
        """What else counts at each replica, in seconds, by number."""
        numbers = self.route.dispatcher.numbers
        found = [0.0] * (max(numbers.values()) + 1)
        for replica, seconds in self.costs.items():
            if replica in numbers:
                found[numbers[replica]] = seconds
        return found

    # --- what becomes of it
    def sent(self, decision: Decision) -> None:
        if self.inner is not None:
            self.inner.sent(decision)
        if self.booked is not None:
            return
        dispatcher, now = self.route.dispatcher, monotonic()
        number = dispatcher.numbers.get(decision.replica)
        self._drop(now)
        if number is not None:  # another chose
            self.want = self.want_of(1 << number)
            self.key, self.booked = self.want.key, number  # type: ignore[assignment]
            dispatcher.scheduler.force(self.want, number, now)

    def answered(self) -> None:
        if self.inner is not None:
            self.inner.answered()
        if self.booked is not None:
            self.route.dispatcher.scheduler.answered(self.key, monotonic())
            self.route.dispatcher.soon()

    def finished(self, tail: bytes | None) -> None:
        if self.inner is not None:
            self.inner.finished(tail)
        told = wire.told(tail) if tail is not None else None
        if tail is None or told is None or self.booked is None or self.prompt is None or self.want is None:
            return
        dispatcher = self.route.dispatcher
        prompt, cached, self.output = told
        if b"cached_tokens" in tail:  # told, be it zero
            self.cached = cached
            if dispatcher.feeds is not None and self.want.hits:
                dispatcher.feeds.hit(self.booked, cached, self.want.hits[self.booked])
        if prompt:
            dispatcher.prompter.told(self.prompt, prompt)

    def whole(self, tail: bytes | None) -> None:
        if self.inner is not None or self.booked is None:
            self.answered()
            self.finished(tail)
            self.released()
            self.over()
            return
        self.finished(tail)
        now, dispatcher = monotonic(), self.route.dispatcher
        if self.output is None:
            dispatcher.scheduler.answered(self.key, now)
        self._drop(now)
        if dispatcher.waiting:
            dispatcher.soon()
        del self.exchange  # as `over`

    def released(self) -> None:
        if self.inner is not None:
            self.inner.released()
        self._drop(monotonic())
        self.route.dispatcher.soon()

    def over(self) -> None:
        if self.inner is not None:
            self.inner.over()
        if self.key:
            self._drop(monotonic())
            self.route.dispatcher.soon()
        with suppress(AttributeError):  # it was over before
            del self.exchange  # which has this pilot: nothing is left for the collector of garbage

    def barred(self) -> frozenset[Replica]:
        return self.inner.barred() if self.inner is not None else frozenset()

    def beside(self) -> Pilot:
        return KVPilot(self.route, self.exchange, self.inner.beside() if self.inner is not None else None, self.prompt)

    def _drop(self, now: float) -> None:
        """Whatever is held or booked is so no longer."""
        key, self.key, self.booked, self.placed, self.holds = self.key, 0, None, None, False
        if key:
            dispatcher = self.route.dispatcher
            if dispatcher.waiting:
                dispatcher.waiting.pop(key, None)
            dispatcher.scheduler.ended(key, now, self.cached, self.output)
            self.cached = self.output = None


def told(route: KVRoute, quotes: Iterable[Quote]) -> str:
    """The scheduler's costs in one line: the winner, the runner-up, and each one's seconds by term."""
    rows = [(route.decisions[q.replica].replica.name, q) for q in quotes if q.replica in route.decisions]
    if not rows:
        return "no replica can take it now"
    line = f"{rows[0][0]}: least seconds by prefix cache and load"
    if len(rows) > 1:
        line += f"; next {rows[1][0]}"
    return "; ".join([line, *(f"{name} {_terms(q)}" for name, q in rows[:8])])


def terms(q: Quote) -> dict[str, float]:
    """A quote's seconds by term, those that are not zero."""
    every = {
        "queue": q.queue, "slot": q.slot, "prefill": q.prefill, "load": q.load, "stall": q.stall, "decode": q.decode, "turn": q.turn,
        "extra": q.extra, "spare": q.spare,
    }  # fmt: skip
    return {name: round(seconds, 6) for name, seconds in every.items() if seconds}


def _terms(q: Quote) -> str:
    parts = ", ".join(f"{name} {seconds:.3g}" for name, seconds in terms(q).items())
    return f"{q.total:.3g} s ({parts}; {q.cached} tokens cached)"


def _band(raw: bytes) -> int:
    """A priority from a header; 0 where it is no whole number."""
    try:
        return min(max(int(raw), BANDS[0]), BANDS[-1])
    except ValueError:
        return 0


def _seconds(raw: bytes, usual: float | None) -> float | None:
    try:
        found = float(raw)
    except ValueError:
        return usual
    return found if 0 < found < 86400 else usual
