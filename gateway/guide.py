"""What guides one call over a route with a plan (`routing.plan`): waits between attempts, other routes, a second attempt beside a slow one,
the rest of an answer from another target, an answer shared with others. An `Exchange` asks it where it fails, begins, ends and ticks; a
call without a plan has none.
"""

from __future__ import annotations

from collections.abc import Iterator
from time import monotonic
from typing import TYPE_CHECKING

from backends.types import Fault, Timeouts
from gateway import coalesce, hedge
from gateway.coalesce import Shared
from gateway.continuation import Continued, Story, Watched, onward, sound, spent
from gateway.hedge import Rival, relayed
from gateway.relay import DONE, StreamRelay
from routing.plan import BARE, Continues, Plan
from routing.pool import pick
from routing.retry import Verdict, delay, verdict
from routing.types import Replica, Route

if TYPE_CHECKING:
    from gateway.exchange import Exchange

MOST = 8  # times that one answer goes on elsewhere


class Joined(Exception):
    """The call follows another's answer: there is nothing to send."""


class Guide:
    """The state of one call beyond its attempt. Owned by its exchange."""

    __slots__ = (
        "again_at", "asked", "attempt", "barred", "before", "cause", "continued", "exchange", "free", "hedged", "leader", "mode", "plan",
        "plans", "rival", "round", "shared", "since", "story", "visited", "window",
    )  # fmt: skip

    def __init__(self, exchange: Exchange, plan: Plan) -> None:
        self.exchange, self.plan = exchange, plan
        self.plans = [plan]  # of the routes that it came by; the last one's fallbacks come first
        self.visited: set[Route] = {exchange.route}
        self.asked = exchange.route.name
        self.again_at: float | None = None  # monotonic seconds: when the replicas are asked again
        self.barred: frozenset[Replica] | None = None
        self.round = 0  # waits so far
        self.free = 0  # attempts that do not count as retries: on other routes, beside another, after the commit
        self.attempt, self.since = 1, exchange.received  # the attempt that is timed, and since when
        self.window: tuple[float, int] | None = None  # since when the rate is measured, tokens then
        self.rival: Rival | None = None
        self.story: Story | None = None
        self.cause: Fault | None = None  # why the first target did not go on with its answer
        self.before = 0  # tokens that were told when the attempt under way was asked to go on
        self.mode: Continues | None = None  # how the attempt under way was asked to go on with an answer
        self.continued = 0
        self.hedged = False
        self.shared: Shared | None = None  # where others follow this call
        self.leader: Shared | None = None  # what this call follows

    # --- the beginning
    def begin(self) -> None:
        """Looks whether the same is under way. Raises `Joined` when this call follows that."""
        exchange = self.exchange
        self.plan.budget.call()
        if not self.plan.coalesce or (key := coalesce.same(exchange)) is None:
            return
        leaders = exchange.core.leaders
        found = leaders.get(key)
        if found is not None:
            self.leader = found
            if found.join(exchange):
                raise Joined
            self.leader = None
        self.shared = leaders[key] = Shared(exchange, exchange.sink, key)
        exchange.sink = self.shared

    # --- an attempt failed
    def failed(self, fault: Fault) -> bool:
        """Whether the call goes on otherwise than by another attempt from its beginning. The attempt is released already."""
        self._bar()
        rival, self.rival = self.rival, None
        if rival is not None:
            rival.take_over()
            return True
        return self.exchange.ttft is not None and self._goes_on(fault)

    def refused(self, fault: Fault) -> bool:
        """Whether the call goes on, now or later, although its attempts are used up: nothing was told to the client yet."""
        self._bar()
        exchange, found = self.exchange, verdict(fault)
        left = self._limits.total - (monotonic() - exchange.received)
        if exchange.ttft is not None or self.leader is not None or found is Verdict.TELL or left <= 0:
            return False
        return self._waits(fault, found, left) or self._moves(found)

    def _bar(self) -> None:
        """Notes, at the first failure, who was excluded before it: they can never take this call."""
        if self.barred is None:
            self.barred = frozenset(self.exchange.excluded)

    def _waits(self, fault: Fault, found: Verdict, left: float) -> bool:
        exchange, backoff = self.exchange, self.plan.backoff
        tried = exchange.attempts - self.free
        if backoff is None or found is not Verdict.AGAIN or not 0 < tried <= exchange.route.retries:
            return False
        seconds = delay(backoff, self.round, exchange.core.draw(), fault.retry_after, left)
        if seconds is None:
            return False
        self.round += 1
        exchange.parked_at = None
        self.again_at = exchange.core.clients.now + seconds
        return True

    def _moves(self, found: Verdict) -> bool:
        """To the next route that takes such calls. Not where only some replicas can read the call at all."""
        if self.barred:
            return False
        for route in self._onwards(found):
            if route.concurrency is not None and route.inflight >= route.concurrency:
                continue
            self._enter(route)
            try:
                self.exchange.redirect()
            except Fault as fault:
                found = verdict(fault) if verdict(fault) is not Verdict.TELL else found
                continue
            return True
        return False

    def _onwards(self, found: Verdict) -> Iterator[Route]:
        while True:
            ways = (r for plan in reversed(self.plans) for r in plan.after(found) if r not in self.visited)
            route = next(ways, None)
            if route is None:
                return
            self.visited.add(route)
            yield route

    def _enter(self, route: Route) -> None:
        exchange = self.exchange
        exchange.route.inflight -= 1
        route.inflight += 1
        exchange.route = route
        exchange.excluded = ()
        exchange.follow(route)
        self.plan = route.plan or BARE
        self.plans.append(self.plan)
        self.round, self.free, self.again_at = 0, exchange.attempts, None

    # --- after the content commit
    def _goes_on(self, fault: Fault) -> bool:
        """Asks another target for the rest of the answer. False when that cannot be done soundly."""
        exchange, story, heirs = self.exchange, self.story, self.plan.heirs
        if story is None or heirs is None:
            return False
        if self.cause is None:  # of what fails from now on the client is told this
            if verdict(fault) not in (Verdict.AGAIN, Verdict.MOVE):
                return False
            self.cause = fault
        if not sound(exchange.call, story) and not (story.sound and story.finished):
            return False
        if story.finished or spent(exchange.call, story):
            self._complete(story)
            return True
        return self.continued < MOST and self._ask_on(story, heirs)

    def _complete(self, story: Story) -> None:
        """All was told but the end itself."""
        end = b"" if story.finished else story.event("", "length")
        self.exchange.finish_with(end + story.comment + DONE)

    def _ask_on(self, story: Story, heirs: Route) -> bool:
        exchange = self.exchange
        barred = exchange.pilot.barred() if exchange.pilot is not None else ()
        excluded = {*exchange.excluded, *barred, exchange.decision.replica}
        while (decision := pick(heirs, exchange.core.clients.now, exchange.core.draw(), excluded)) is not None:
            excluded.add(decision.replica)
            if relayed(exchange, decision.replica):
                continue
            target = decision.target
            mode = self.plan.continues[target.backend, target.model]
            call = onward(exchange.call, story, mode)
            if call is None:
                return False
            self.mode, self.before = mode, story.tokens
            self.free += 1
            try:
                exchange.attempt_on(decision, call)
            except Fault:
                continue
            exchange.excluded = excluded - {decision.replica}
            self.continued += 1
            story.replicas.append(decision.replica.name)
            return True
        return False

    def relay(self, where: str, strip_usage: bool, limit: int) -> StreamRelay:
        """What reads a stream of this call."""
        if self.exchange.ttft is not None and self.story is not None and self.mode is not None:
            return Continued(where, strip_usage, limit, self.story, self.mode)
        if self.plan.heirs is None and not self._limits.min_rate:
            return StreamRelay(where, strip_usage, limit)
        self.story = Story(self.exchange.call.api)
        return Watched(where, strip_usage, limit, self.story)

    # --- the answer
    def committed(self, seconds: float) -> None:
        """Content has come, so many seconds after the call: nobody else is asked any more."""
        (self.plan.first if self.exchange.stream else self.plan.whole).add(seconds)
        self._drop_rival()

    def over(self) -> None:
        """The call ends."""
        self.again_at = None
        self._drop_rival()
        if self.shared is not None:
            leaders = self.exchange.core.leaders
            if leaders.get(self.shared.key) is self.shared:
                del leaders[self.shared.key]
        if self.leader is not None:
            self.leader.leave(self.exchange)

    def stays(self) -> bool:
        """Whether the call goes on for others although its client has left."""
        return self.shared is not None and self.shared.deserted()

    def _drop_rival(self) -> None:
        rival, self.rival = self.rival, None
        if rival is not None:
            rival.drop()

    # --- time
    @property
    def _limits(self) -> Timeouts:
        return self.plan.limits(self.exchange.decision.target.backend)

    def tick(self, now: float) -> None:
        """What only time brings. `now`: monotonic seconds."""
        exchange = self.exchange
        if self.leader is not None:
            return
        limits = self._limits
        if now - exchange.received > limits.total:
            self._late(limits.total)
        elif self.again_at is not None:
            if now >= self.again_at:
                self.again_at, exchange.excluded = None, set(self.barred or ())
                exchange.redispatch()
        elif exchange.held is None:
            self.attempt = 0  # parked: its time begins when it is sent
        else:
            if self.attempt != exchange.attempts:
                self.attempt, self.since, self.window = exchange.attempts, now, None
            self._watch(now, limits)

    def _watch(self, now: float, limits: Timeouts) -> None:
        exchange = self.exchange
        if exchange.paused_at is not None:
            self.window = None  # the client's time, not the backend's
        elif self._silent():
            if exchange.stream and limits.first_token is not None and now - self.since > limits.first_token:
                self._give_up(f"said nothing within {limits.first_token:g} s", "first_token_timeout")
            elif exchange.ttft is None:
                self._hedge(now)
        elif limits.min_rate and self.story is not None:
            self._rate(now, limits, self.story)

    def _silent(self) -> bool:
        """Whether the attempt under way has said nothing yet."""
        if self.exchange.ttft is None:
            return True
        if self.mode is None or self.story is None:
            return False
        self.story.digest()
        return self.story.tokens == self.before

    def _hedge(self, now: float) -> None:
        patience = self.plan.patience(self.exchange.stream)
        if patience is None or self.hedged or now - self.since < patience:
            return
        assert self.plan.hedge is not None
        if not self.plan.budget.spend(self.plan.hedge.budget):
            return
        self.hedged = True
        self.rival = hedge.race(self)
        if self.rival is not None:
            self.exchange.count_beside()
            self.free += 1
            self.attempt = self.exchange.attempts

    def _rate(self, now: float, limits: Timeouts, story: Story) -> None:
        story.digest()
        if self.window is None:
            self.window = (now, story.tokens)
            return
        began, tokens = self.window
        seconds = now - began
        if story.finished or seconds < limits.rate_window:
            return
        if story.tokens - tokens < limits.min_rate * seconds:
            self._give_up(f"gave fewer than {limits.min_rate:g} tokens a second for {limits.rate_window:g} s", "too_slow")
        else:
            self.window = (now, story.tokens)

    def _give_up(self, what: str, code: str) -> None:
        where = self.exchange.decision.target.backend
        self.exchange.abandon(Fault("timeout", f"Backend '{where}' {what}.", origin="backend", code=code, retry=True))

    def _late(self, seconds: float) -> None:
        exchange = self.exchange
        if exchange.flight is not None:
            exchange.flight.cancel()
        exchange.refuse(Fault("timeout", f"There was no whole answer within {seconds:g} s.", code="total_timeout"))
