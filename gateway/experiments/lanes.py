"""What is mirrored, and what is known of it: plans from configuration, jobs that wait, and how many were left out and why. No effects."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Mapping

import msgspec
import xxhash

from backends import wire
from backends.types import Timeouts, Usage
from backends.wire import Doc
from gateway.config import Config, RouteConfig, TargetConfig
from gateway.config_experiments import ArmConfig
from gateway.config_shadow import ShadowConfig, ShadowTargetConfig
from gateway.experiments.arms import Changes, changes
from gateway.experiments.budget import Budget, Cost
from gateway.experiments.keeper import Keeper
from gateway.experiments.mirror import Mirror
from routing.types import Arm, Decision, Replica, Route

LIKELY = 1000  # output tokens of an answer, where the request sets no limit
MOST = 4096  # and at most so many, where it sets one
ArmOf = Callable[[str, RouteConfig, TargetConfig], Arm]


class Candidate(msgspec.Struct, frozen=True, eq=False):
    """Where a shadow's requests go, and what is changed in them. `local`: what it costs where no price is known is nothing."""

    arm: str
    at: Arm
    local: bool
    timeouts: Timeouts
    changes: Changes | None = None


class Plan(msgspec.Struct, frozen=True, eq=False):
    """What one configuration says of one experiment's shadow. `judges`: where the judge may be asked."""

    experiment: str
    route: str
    config: ShadowConfig
    candidates: tuple[Candidate, ...]
    judges: tuple[Candidate, ...] = ()
    part: float = 1.0  # of the limits of a day: this process's

    @property
    def counted(self) -> str:
        """Under what name mirrored requests stand in records and metrics, so that users' own figures stay theirs."""
        return f"shadow:{self.experiment}"


class Job(msgspec.Struct, eq=False):
    """One answer that is wanted of one candidate. `mirror`: what is under way for it now."""

    keeper: Keeper
    candidate: Candidate
    since: float  # monotonic seconds
    mirror: Mirror | None = None
    replica: Replica | None = None


class Lane:
    """One experiment's shadow in one process. Lives through reloads."""

    __slots__ = ("budget", "counts", "plan", "queue", "running")

    def __init__(self, plan: Plan, budget: Budget) -> None:
        self.budget = budget
        self.queue: deque[Job] = deque()
        self.running: list[Job] = []
        self.counts: Counter[tuple[str, str]] = Counter()  # by arm and what became of it: ok, failed, or why it was left out
        self.follow(plan)

    def __repr__(self) -> str:
        return f"<Lane {self.plan.experiment}: {len(self.running)} under way, {len(self.queue)} wait, {self.budget!r}>"

    def follow(self, plan: Plan) -> None:
        """Goes by a new configuration from now on."""
        self.plan = plan
        config = plan.config
        self.budget.max_dollars = None if config.spend_per_day is None else config.spend_per_day * plan.part
        self.budget.max_tokens = None if config.tokens_per_day is None else config.tokens_per_day * plan.part


def plans(config: Config, wanted: Mapping[str, RouteConfig], routes: Mapping[str, Route], arm_of: ArmOf) -> dict[str, Plan]:
    """The plans of a checked configuration. `wanted` and `routes`: all of them, as configured and as built; an experiment whose route is
    not there (yet) has none. `arm_of` builds one target of a route."""
    out: dict[str, Plan] = {}
    for name, experiment in config.experiments.items():
        shadow, route = experiment.shadow, wanted.get(experiment.route)
        if shadow is None or route is None:
            continue
        found = tuple(
            Candidate(
                arm, arm_of(experiment.route, route, target), config.backends[target.backend].is_local,
                _bounded(config.backends[target.backend].timeouts, shadow.seconds), _changes(target),
            )
            for arm, target in shadow.targets.items()
        )  # fmt: skip
        out[name] = Plan(name, experiment.route, shadow, found, _judges(config, shadow, routes), 1.0 / config.server.workers)
    return out


def _changes(target: ShadowTargetConfig) -> Changes | None:
    """As if the candidate were an arm."""
    return changes(ArmConfig(parameters=target.parameters, system=target.system, system_goes=target.system_goes))


def _judges(config: Config, shadow: ShadowConfig, routes: Mapping[str, Route]) -> tuple[Candidate, ...]:
    route = routes.get(shadow.judge.route) if shadow.judge is not None else None
    if route is None:
        return ()
    backends = [(arm, config.backends[arm.target.backend]) for arm in route.arms]
    return tuple(Candidate("judge", arm, b.is_local, _bounded(b.timeouts, shadow.seconds)) for arm, b in backends)


def _bounded(timeouts: Timeouts, seconds: float) -> Timeouts:
    return msgspec.structs.replace(timeouts, total=min(timeouts.total, seconds))


def sampled(request: bytes, experiment: str, share: float) -> bool:
    """Whether a request is mirrored: by a hash of its id, so that it can be told again. 0.3 µs."""
    return xxhash.xxh3_64_intdigest(b"%b\0%b" % (experiment.encode(), request)) < share * 2.0**64


def free(candidates: tuple[Candidate, ...], taken: Callable[[Replica], bool]) -> tuple[Candidate, Decision] | None:
    """The candidate and its replica with the fewest calls under way that has a free slot now, is not resting after failures, and is not
    `taken` by users who wait for it. None: there is none."""
    best: tuple[Candidate, Decision] | None = None
    for candidate in candidates:
        for choice in candidate.at.choices:
            replica = choice.replica
            if replica.health != "ready" or replica.down_until or replica.full or taken(replica):
                continue
            if best is None or replica.inflight < best[1].replica.inflight:
                best = candidate, choice
    return best


def likely(candidate: Candidate, doc: Doc) -> Cost | None:
    """What a request will cost there, roughly, before it is sent. None: nobody knows its price."""
    size = sum(len(memoryview(raw)) for raw in doc.values())
    return cost(candidate, Usage(input=1 + size // 4, output=_limit(doc)))


def cost(candidate: Candidate, usage: Usage) -> Cost | None:
    """What so many tokens cost there. None: nobody knows its price, and it is not local."""
    tokens = usage.input + usage.cached + usage.cache_write + usage.output + usage.reasoning
    price = candidate.at.target.price
    dollars = price(usage) if price is not None else None
    if dollars is None:
        return Cost(0.0, tokens) if candidate.local else None
    return Cost(dollars, tokens)


def _limit(doc: Doc) -> int:
    for name in ("max_completion_tokens", "max_tokens"):
        try:
            given = _whole(doc.get(name))
        except msgspec.MsgspecError:
            continue
        if given is not None and given > 0:
            return min(given, MOST)
    return LIKELY


_int = msgspec.json.Decoder(int | None)


def _whole(raw: msgspec.Raw | None) -> int | None:
    """A whole number as JSON; None where it is absent or null. Raises msgspec.MsgspecError."""
    given: int | None = _int.decode(raw if raw is not None else wire.NULL)
    return given
