"""What routing decides over: replicas with their counters, routes, and the decision that explains itself."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Literal, Protocol

import msgspec

from backends.types import Call, Flight, Receiver, Target, Timeouts

if TYPE_CHECKING:
    from routing.plan import Plan

Health = Literal["ready", "loading", "down"]
TURNS = 256  # replicas of an arm of which each order in turn is made beforehand


class Link(Protocol):
    """How to reach one server address: encodes a call for it and sends it."""

    def send(self, call: Call, target: Target, timeouts: Timeouts | None, receiver: Receiver) -> Flight: ...

    def close(self) -> None: ...


class Replica:
    """One server address of a backend. Counters belong to leases; `health` and `reason` to routing/health."""

    __slots__ = (
        "asleep", "backend", "down_until", "failures", "health", "inflight", "line", "link", "looked", "managed", "mark", "name", "on_idle",
        "opened", "reason", "slots", "total", "url", "window",
    )  # fmt: skip

    def __init__(
        self, name: str, backend: str, url: str, link: Link, slots: int | None = None, health: Health = "ready", managed: bool = False
    ) -> None:
        self.name, self.backend, self.url, self.link, self.slots = name, backend, url, link, slots
        # Ends a header line and adds one more: who answered.
        self.line = b"\r\nx-pointsman-backend: %b\r\n" % name.encode("latin-1", "replace")
        self.health: Health = health
        self.reason = ""
        self.asleep = False  # an engine of ours that is not in memory and comes when a call waits for it
        self.managed = managed  # an engine of ours: when it dies it is started again, so a call may wait for it
        self.on_idle: Callable[[], None] | None = None  # called when its last call ends; set on one that is about to stop
        self.inflight = 0  # calls under way
        self.total = 0  # calls ever sent
        self.failures = 0  # in a row
        self.down_until = 0.0  # monotonic seconds; while later than now, others are preferred; 0: it is not tested either
        self.mark = 0  # `total` when it last began to rest
        self.opened = slice(0)  # where the choices of its answers began, when that was looked for
        self.looked = 0  # answers in which that was looked for
        self.window = (-1e9, 0, 0)  # since when failures are counted (monotonic seconds), `total` then, failures since

    def __repr__(self) -> str:
        return f"<Replica {self.name} {self.health} inflight={self.inflight} failures={self.failures}>"

    @property
    def full(self) -> bool:
        """Whether every slot is taken."""
        return self.slots is not None and self.inflight >= self.slots


class Decision(msgspec.Struct, frozen=True, eq=False):
    """Where a call goes and why."""

    replica: Replica
    target: Target
    reason: str
    scores: Mapping[str, Any] = {}


class Pilot(Protocol):
    """What chooses for one call over a route with a policy, and hears what becomes of the call. Plain calls on the loop.

    `choose` gives the decision, or None when nobody may take the call now: it waits, for a replica that comes free, or (`holds`) until the
    policy itself sends it on. It raises Fault to refuse the call. Whatever attempt is made is told by `sent`, and given back by `released`,
    each attempt once; also one that another chose (a second attempt, the rest of an answer). `answered`: its first content has come.
    `finished`: the answer is whole, `usage` says how many tokens where that is known. `over`: the call has ended; idempotent.
    """

    holds: bool
    told: bytes  # the decision in words, for a header

    def choose(self, excluded: Collection[Replica]) -> Decision | None: ...

    def sent(self, decision: Decision) -> None: ...

    def answered(self) -> None: ...

    def finished(self, tail: bytes | None) -> None: ...

    def whole(self, tail: bytes | None) -> None:
        """The same as `answered`, `finished`, `released` and `over`, for a good answer that came in one piece."""
        ...

    def released(self) -> None: ...

    def over(self) -> None: ...

    def barred(self) -> frozenset[Replica]:
        """The replicas whose targets do not take this call, whoever chooses among them."""
        ...

    def beside(self) -> Pilot:
        """The pilot of a second attempt of the same call."""
        ...


class Chooser(Protocol):
    """A route's policy, where that is not the plain one of `routing.pool`. `exchange` is a `gateway.exchange.Exchange`."""

    def pilot(self, exchange: Any) -> Pilot: ...


class Tries(Protocol):
    """A route's experiments. `exchange` is a `gateway.exchange.Exchange`."""

    def enter(self, exchange: Any) -> None:
        """Gives a call its arm, before anything else is asked of the route."""
        ...


class Arm:
    """One target of a route with the replicas that serve it. `choices`: the usual decision for each replica, made once; `turns`: of
    several, the replicas as each in turn comes first; of very many there are none. Immutable."""

    __slots__ = ("choice_of", "choices", "only", "replicas", "target", "turns")

    def __init__(self, target: Target, replicas: tuple[Replica, ...]) -> None:
        self.target, self.replicas = target, replicas
        self.choices = tuple(Decision(r, target, "weighted") for r in replicas)
        self.choice_of = dict(zip(replicas, self.choices, strict=True))
        self.only = self.choices[0] if len(replicas) == 1 else None
        starts = range(len(replicas)) if 1 < len(replicas) <= TURNS else ()
        self.turns = tuple((*replicas[start:], *replicas[:start]) for start in starts)


class Route:
    """A public model name and where its calls may go. Built from configuration; `turn` only breaks ties."""

    __slots__ = (
        "arms", "bounds", "chooser", "concurrency", "drop", "elastic", "inflight", "name", "plan", "retries", "special", "tell", "timeouts",
        "total_weight", "trials", "turn",
    )  # fmt: skip

    def __init__(
        self,
        name: str,
        arms: tuple[Arm, ...],
        *,
        retries: int = 1,
        drop: bool = False,
        tell: bool = True,
        timeouts: Mapping[str, Timeouts] | None = None,
        concurrency: int | None = None,
    ) -> None:
        # `drop`: parameters that a target does not support are left out, else the call is refused. `tell`: with a header that names them.
        self.name, self.arms, self.retries, self.drop, self.tell = name, arms, retries, drop, tell
        self.timeouts = timeouts or {}
        self.concurrency = concurrency
        self.plan: Plan | None = None
        self.chooser: Chooser | None = None
        self.trials: Tries | None = None  # its experiments that are in force
        self.elastic = False  # engines that come and go as they are needed are among its replicas
        self.special = concurrency is not None  # a call must be looked at before it is sent: a limit, a plan, a policy
        self.inflight = 0
        sums = [*accumulate(arm.target.weight for arm in arms)]
        self.total_weight = sums[-1] if sums else 0.0
        self.bounds = sums[:-1]  # where one arm's share of the weights ends and the next begins; the last arm takes the rest
        self.turn = 0

    def __repr__(self) -> str:
        return f"<Route {self.name}: {', '.join(f'{a.target.backend}/{a.target.model}' for a in self.arms)}>"

    def follow(self, plan: Plan) -> None:
        """From now on calls are guided by `plan`."""
        self.plan, self.special = plan, True

    def comes_and_goes(self) -> None:
        """Some of its engines are loaded when a call waits for them; calls may say how long they stay."""
        self.elastic = True

    def choose_by(self, chooser: Chooser) -> None:
        """From now on `chooser` says where calls go."""
        self.chooser, self.special = chooser, True

    def try_out(self, trials: Tries | None) -> None:
        """From now on calls are in these experiments; None: in none."""
        self.trials = trials

    @property
    def replicas(self) -> list[Replica]:
        """Every replica of every arm."""
        return [r for arm in self.arms for r in arm.replicas]


class _Nowhere:
    """The link of `NOBODY`: nothing is ever sent over it."""

    def send(self, call: Call, target: Target, timeouts: Timeouts | None, receiver: Receiver) -> Flight:
        raise AssertionError("a call was sent before a replica was chosen")

    def close(self) -> None:
        return None


# What a call holds before it has a route and a replica: nameless ones, so that nothing on its way has to ask whether there is one.
NOBODY = Replica("", "", "", _Nowhere(), health="down")
NOBODY.line = b"\r\n"
UNDECIDED = Decision(NOBODY, Target("", ""), "")
NO_ROUTE = Route("", ())
