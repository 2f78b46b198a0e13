"""From a route and what is asked to a decision: what is known of every replica, the policy over it, and the reasons in words.

A `Chooser` belongs to one route of one generation; what it learned (`routing.pace`) outlives it. Choosing is plain: time and chance are
arguments, and nothing is changed but a counter of turns.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from math import inf
from typing import Any

import msgspec

from backends.types import Fault, Target, Usage
from routing import policies
from routing.pace import Pace
from routing.policies import Asked, Candidate, Choice, Condition, Cost, Goal
from routing.pool import available, comes
from routing.types import Decision, Replica

OUTPUT = 256.0  # tokens of an answer, before any was seen
_KEEP = 0.95  # of the mean length of answers, at each
_MILLION = 1_000_000
COSTS: Mapping[str, Cost] = {
    "latency": policies.latency, "first_token": policies.first_token, "money": policies.dollars, "busy": policies.busy,
    "scheduled": policies.scheduled,
}  # fmt: skip


class Policy(msgspec.Struct, frozen=True):
    """How a route chooses: a preset by name, or "costs", which adds up `costs` (name and factor) and picks by `pick`."""

    name: str = "weighted"
    goal: Goal = Goal()
    costs: tuple[tuple[str, float], ...] = ()
    pick: str = "least"


class Option:
    """One replica of one target, with what a generation knows of it. `price`: dollars of an answer. Immutable but for its `pace`."""

    __slots__ = ("context", "free", "label", "local", "pace", "place", "price", "replica", "target", "unsupported", "weight", "when")

    def __init__(
        self,
        replica: Replica,
        target: Target,
        pace: Pace,
        *,
        local: bool = False,
        free: bool = False,
        unsupported: frozenset[str] = frozenset(),
        when: Condition | None = None,
        label: str = "",
        place: int = 0,
        share: float = 1.0,
    ) -> None:
        # `place`: of its target in the route's list; `share`: of that target's weight
        self.replica, self.target, self.pace, self.local, self.when = replica, target, pace, local, when
        self.free = free  # where no price is known there is none
        self.unsupported, self.context, self.price = unsupported, target.context, target.price
        self.label, self.place, self.weight = label or replica.name, place, target.weight * share

    def candidate(self, asked: Asked, now: float, ready: bool) -> Candidate:
        """What is known of it for this request."""
        replica, pace = self.replica, self.pace
        price_in, price_out = self._prices(asked)
        return Candidate(
            self.label, self.weight, replica.inflight, replica.slots, ready, self.local, self.context, self.unsupported,
            self.target.labels, pace.ttft(asked.prompt, replica.inflight, now), pace.tpot(replica.inflight, now),
            price_in, price_out, None, self.when, self.place,
        )  # fmt: skip

    def _prices(self, asked: Asked) -> tuple[float, float]:
        """Dollars a million tokens at this length of prompt, in and out; inf where nobody knows."""
        if self.price is not None:
            prompt, output = max(1, asked.prompt), max(1, asked.output)
            read, written = self.price(Usage(input=prompt)), self.price(Usage(input=prompt, output=output))
            if read is not None and written is not None:
                return read / prompt * _MILLION, max(0.0, written - read) / output * _MILLION
        return (0.0, 0.0) if self.free else (inf, inf)


class Chooser:
    """Chooses among the options of one route. Mutates nothing but its counter of turns, and `wrote`."""

    def __init__(self, name: str, options: Sequence[Option], policy: Policy, rng: random.Random) -> None:
        self.name, self.options, self.policy, self.rng = name, tuple(options), policy, rng
        self.turn = rng.randrange(1 << 16)  # many gateways do not begin with the same
        self.output = OUTPUT
        conditions = [option.when for option in options if option.when is not None]
        self.headers = frozenset(header for when in conditions for header in when.headers)
        self.timed = any(when.hours is not None for when in conditions)

    def __repr__(self) -> str:
        return f"<Chooser {self.name} {self.policy.name}, {len(self.options)} options>"

    def wrote(self, tokens: int) -> None:
        """An answer had so many tokens: the next is expected to be as long as they are on the mean."""
        self.output += (1 - _KEEP) * (tokens - self.output)

    def choose(self, asked: Asked, now: float, excluded: Collection[Replica] = ()) -> Decision | None:
        """Where the request goes; None: nowhere now, but waiting can help. `now`: monotonic seconds. Raises Fault `no_target` where no
        target takes such a request, `no_replica` where none that does will come."""
        candidates = self.candidates(asked, now, excluded)
        choice = self._decide(asked, candidates)
        if choice is None:
            return self._resting(asked, candidates, now, excluded)
        option = self.options[choice.index]
        return Decision(option.replica, option.target, choice.reason, Scores(self, asked, candidates, choice))

    def candidates(self, asked: Asked, now: float, excluded: Collection[Replica] = (), *, ready: bool = False) -> list[Candidate]:
        """What is known of every option; all are taken to be `ready` where that is said. Where only some prices are known, the others are
        taken to be as high as the highest."""
        made = [o.candidate(asked, now, ready or (o.replica not in excluded and available(o.replica, now))) for o in self.options]
        if all(c.price_in < inf for c in made):
            return made
        dear_in = max((c.price_in for c in made if c.price_in < inf), default=0.0)
        dear_out = max((c.price_out for c in made if c.price_out < inf), default=0.0)
        return [c if c.price_in < inf else msgspec.structs.replace(c, price_in=dear_in, price_out=dear_out) for c in made]

    def besides(self, asked: Asked, now: float) -> dict[Replica, tuple[Target, float]]:
        """For a scheduler that knows queues and caches: who takes the request, as which target, and what else counts there, in seconds
        of its own (money, and the other costs of the policy over the factor of `scheduled`). Raises Fault `no_target`."""
        every = self.candidates(asked, now, ready=True)
        costs, factor = _others(self.policy)
        found: dict[Replica, tuple[Target, float]] = {}
        for i in policies.allowed(asked, every, (policies.takes,)):
            option, seconds = self.options[i], sum(cost(asked, every[i]) for cost in costs) / factor
            if option.replica not in found or seconds < found[option.replica][1]:
                found[option.replica] = option.target, seconds
        if not found:
            raise self._nobody(asked)
        return found

    def barred(self, asked: Asked) -> frozenset[Replica]:
        """The replicas none of whose targets take the request."""
        taking = {o.replica for o in self.options if (o.local or not asked.private) and (o.when is None or policies.holds(o.when, asked))}
        return frozenset(o.replica for o in self.options if o.replica not in taking)

    def option(self, decision: Decision) -> Option | None:
        """The option that a decision of this route means."""
        return next((o for o in self.options if o.replica is decision.replica and o.target is decision.target), None)

    def _decide(self, asked: Asked, candidates: Sequence[Candidate]) -> Choice | None:
        if self.policy.name == "round_robin":
            self.turn += 1
        return decide(self.policy, asked, candidates, self.rng, self.turn)

    def _resting(self, asked: Asked, candidates: Sequence[Candidate], now: float, excluded: Collection[Replica]) -> Decision | None:
        """When all that take the request rest after failures: the one that rests shortest, since a call that might fail beats one that
        surely does."""
        taking = [
            (o, c) for o, c in zip(self.options, candidates, strict=True) if policies.keeps_private(asked, c) and policies.takes(asked, c)
        ]
        if not taking:
            raise self._nobody(asked)
        there = [(o.replica.down_until, i, o) for i, (o, _) in enumerate(taking) if _rests(o.replica) and o.replica not in excluded]
        if there:
            option = min(there, key=lambda x: x[:2])[2]
            why = "every replica that takes it failed lately; this one rests shortest"
            return Decision(option.replica, option.target, why, Scores(self, asked, candidates, None))
        if any(comes(o.replica) and o.replica not in excluded for o, _ in taking):
            return None
        reason = next((f": {o.replica.reason}" for o, _ in taking if o.replica.reason), ".")
        local = " local" if asked.private else ""
        why = f"No{local} replica of '{self.name}' that takes this request can answer now{reason}"
        raise Fault("unavailable", why, origin="backend", retry_after=5.0, code="no_replica")

    def _nobody(self, asked: Asked) -> Fault:
        """Why no target takes such a request, ever or at this time of day."""
        if asked.private and not any(o.local for o in self.options):
            why = f"This call is private and model '{self.name}' is on no local backend."
            return Fault("forbidden", why, origin="client", param="model", code="no_local_target")
        reasons = ", ".join(dict.fromkeys(f"{o.label} ({unmet(o.when, asked)})" for o in self.options if o.when is not None))
        why = f"No target of '{self.name}' takes this request: {reasons}."
        timed = any(o.when is not None and o.when.hours is not None for o in self.options)
        return Fault("unavailable", why, code="no_target") if timed else Fault("bad_request", why, origin="client", code="no_target")


def _rests(replica: Replica) -> bool:
    return replica.health == "ready" and replica.down_until > 0 and not replica.managed and not replica.full


def decide(policy: Policy, asked: Asked, candidates: Sequence[Candidate], rng: random.Random, turn: int) -> Choice | None:
    """The policy's choice; None where no candidate passes its filters. `turn`: of `round_robin`, counted up by one a request."""
    if policy.name == "costs":
        return policies.composed(asked, candidates, weighed(policy), policy.pick, rng)
    if policy.name == "round_robin":
        return policies.round_robin(asked, candidates, turn)
    simple = _SIMPLE.get(policy.name)
    if simple is not None:
        return simple(asked, candidates, rng)
    return _BY_GOAL[policy.name](asked, candidates, policy.goal, rng)


_SIMPLE: Mapping[str, Callable[[Asked, Sequence[Candidate], random.Random], Choice | None]] = {
    "weighted": policies.weighted, "least_busy": policies.least_busy, "p2c": policies.p2c, "latency": policies.fastest,
    "session": policies.session, "priority": policies.priority,
}  # fmt: skip
_BY_GOAL: Mapping[str, Callable[[Asked, Sequence[Candidate], Goal, random.Random], Choice | None]] = {
    "cost": policies.frugal, "kv_aware": policies.kv_aware, "local_first": policies.local_first,
}  # fmt: skip


def _others(policy: Policy) -> tuple[list[Cost], float]:
    """The costs of a policy beside the scheduler's, and that one's factor."""
    if policy.name != "costs":
        return [policies.money(policy.goal)], 1.0
    factors = dict(policy.costs)
    factor = factors.pop("scheduled", 1.0)
    return [policies.times(COSTS[name], other) for name, other in factors.items()], factor


def weighed(policy: Policy) -> list[Cost]:
    """The costs of a composed policy with their factors."""
    return [policies.times(COSTS[name], factor) for name, factor in policy.costs]


# What the policies weigh, by term, for people. Dollars are told as such where no policy turns them into seconds.


def terms(policy: Policy, asked: Asked, c: Candidate) -> dict[str, float]:
    """What speaks for and against a candidate under the policy, in seconds by term ("dollars": not seconds, and not in the sum)."""
    if policy.name == "costs":
        return {name.replace("_", " "): COSTS[name](asked, c) * factor for name, factor in policy.costs}
    if policy.name in ("least_busy", "p2c", "session"):
        return {"busy": policies.busy(asked, c)}
    if policy.name == "kv_aware":
        return {"scheduled": policies.scheduled(asked, c), "money": policies.money(policy.goal)(asked, c)}
    if policy.name not in ("latency", "cost", "local_first"):
        return {}
    ttft = policies.first_token(asked, c)
    out = {"first token": ttft, "answer": policies.latency(asked, c) - ttft}
    if policy.name == "cost":
        return out | {"dollars": policies.dollars(asked, c)}
    return out | ({"money": policies.money(policy.goal)(asked, c)} if policy.name == "local_first" else {})


def out(asked: Asked, c: Candidate) -> str:
    """Why a candidate that may not be used may not, in words."""
    if not policies.keeps_private(asked, c):
        return "it is not local, and the call is private"
    if c.when is not None and not policies.holds(c.when, asked):
        return unmet(c.when, asked)
    if not policies.is_ready(asked, c):
        return "it cannot take a call now"
    if not policies.fits(asked, c):
        return f"about {asked.prompt} tokens are too many for its {c.context}"
    return f"it has no {', '.join(sorted(asked.needs & c.unsupported))}"


def unmet(when: Condition, asked: Asked) -> str:
    """What of a target's condition does not hold."""
    if when.longer is not None and asked.prompt <= when.longer:
        return f"takes prompts longer than {when.longer} tokens, this has about {asked.prompt}"
    if when.shorter is not None and asked.prompt >= when.shorter:
        return f"takes prompts shorter than {when.shorter} tokens, this has about {asked.prompt}"
    if when.private is not None and when.private != asked.private:
        return f"takes {'private' if when.private else 'no private'} calls"
    if when.keys and asked.key not in when.keys:
        return "is for other keys"
    missing = sorted(when.needs - asked.needs)
    if missing:
        return f"takes calls with {', '.join(missing)}"
    other = [name for name, value in when.headers.items() if asked.headers.get(name) != value]
    return f"wants another header {', '.join(sorted(other))}" if other else "takes calls at other hours"


class Scores(Mapping[str, Any]):
    """What a decision weighed, by replica: {"seconds": their sum, one entry a term, "out": why it may not be used}. Worked out when it is
    read, since most decisions are not."""

    __slots__ = ("_read", "asked", "candidates", "choice", "chooser")

    def __init__(self, chooser: Chooser, asked: Asked, candidates: Sequence[Candidate], choice: Choice | None) -> None:
        self.chooser, self.asked, self.candidates, self.choice = chooser, asked, candidates, choice
        self._read: dict[str, dict[str, Any]] | None = None

    def _all(self) -> dict[str, dict[str, Any]]:
        if self._read is None:
            usable = self._usable()
            self._read = {c.name: self._one(c, i in usable) for i, c in enumerate(self.candidates)}
        return self._read

    def _usable(self) -> set[int]:
        return {*policies.allowed(self.asked, self.candidates)}

    def _one(self, c: Candidate, usable: bool) -> dict[str, Any]:
        found = terms(self.chooser.policy, self.asked, c)
        seconds = sum(value for name, value in found.items() if name != "dollars")
        told: dict[str, Any] = {"seconds": round(seconds, 6)} if found else {}
        told |= {name: round(value, 9 if name == "dollars" else 6) for name, value in found.items()}
        return told if usable else told | {"out": out(self.asked, c)}

    def __getitem__(self, name: str) -> Any:
        return self._all()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._all())

    def __len__(self) -> int:
        return len(self._all())

    def runner_up(self, chosen: str) -> str | None:
        """The best of those that were not chosen and could have been; None where there is none."""
        rest = [(self._rank(i), i) for i in self._usable() if self.candidates[i].name != chosen]
        return self.candidates[min(rest)[1]].name if rest else None

    def _rank(self, place: int) -> float:
        told = self._all()[self.candidates[place].name]
        if "seconds" in told:
            return float(told["seconds"])
        return self.choice.seconds[place] if self.choice is not None else 0.0


def words(decision: Decision) -> str:
    """A decision in one line: who was chosen and why, the runner-up, and every candidate's seconds by term."""
    scores = decision.scores
    if not isinstance(scores, Scores):
        return f"{decision.replica.name}: {decision.reason}"
    option = scores.chooser.option(decision)
    chosen = option.label if option is not None else decision.replica.name
    second = scores.runner_up(chosen)
    told = [f"{chosen}: {decision.reason}"]
    if second is not None:
        told.append(f"next {second}")
    return "; ".join(told + [f"{name} {_told(found)}" for name, found in scores.items()])


def _told(found: Mapping[str, Any]) -> str:
    if "out" in found:
        return f"out, {found['out']}"
    if "seconds" not in found:
        return "may be used"
    parts = [f"{name} {value:.3g}{' $' if name == 'dollars' else ''}" for name, value in found.items() if name != "seconds"]
    return f"{found['seconds']:.3g} s ({', '.join(parts)})"
