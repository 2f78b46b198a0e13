"""Filters and costs, each a tiny pure function, and the presets made of them. No clock, no event loop; chance is an argument.

A policy first drops what must not be used (filters), then costs what is left in seconds, then picks the least. Money enters as seconds
too: so many per dollar as the route says. A candidate is what is known of one replica at this moment; the caller fills it in.
"""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from itertools import accumulate
from math import inf

import msgspec


class Condition(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Holds when all of its parts do. Lengths in tokens; `hours`: from and to, in minutes of the day, also over midnight."""

    longer: int | None = None
    shorter: int | None = None
    needs: frozenset[str] = frozenset()
    private: bool | None = None
    keys: frozenset[str] = frozenset()
    headers: Mapping[str, str] = {}
    hours: tuple[int, int] | None = None


class Candidate(msgspec.Struct, frozen=True):
    """One replica as policies see it. Times in seconds, prices in dollars a million tokens; None where nothing is known."""

    name: str
    weight: float = 1.0
    inflight: int = 0
    slots: int | None = None
    ready: bool = True
    local: bool = False
    context: int | None = None  # tokens that prompt and answer may have together
    unsupported: frozenset[str] = frozenset()  # of "tools", "images", ...
    labels: Mapping[str, str] = {}
    ttft: float | None = None  # learned: to the first token, for this request
    tpot: float | None = None  # learned: between two tokens
    price_in: float = 0.0
    price_out: float = 0.0
    scheduled: float | None = None  # what the KV-aware scheduler says it costs
    when: Condition | None = None  # the requests that it takes; None: all
    target: int = 0  # the place of its target in the list; several candidates may be replicas of one


class Asked(msgspec.Struct, frozen=True):
    """A request as policies see it: tokens of the prompt, expected ones of the answer, what it needs, who asks."""

    prompt: int = 0
    output: int = 256
    needs: frozenset[str] = frozenset()
    private: bool = False
    session: str = ""
    key: str = ""
    headers: Mapping[str, str] = {}
    minute: int = 0  # of the day, 0 to 1439, in the route's time zone


class Goal(msgspec.Struct, frozen=True):
    """What a route promises, and what a dollar is worth to it."""

    ttft: float = 2.0
    tpot: float = 0.1
    seconds_per_dollar: float = 0.0


class Choice(msgspec.Struct, frozen=True):
    """The candidate's place in the list, each one's seconds (inf: filtered out), and why in words."""

    index: int
    seconds: Sequence[float]
    reason: str


Filter = Callable[[Asked, Candidate], bool]
Cost = Callable[[Asked, Candidate], float]

UNKNOWN_TPOT = 0.05  # of a replica whose first answer is under way: middling, so that not everyone waits for its end


# Filters: what must hold before anything is weighed.


def is_ready(asked: Asked, c: Candidate) -> bool:
    """Up, and with a free slot where slots are counted."""
    return c.ready and (c.slots is None or c.inflight < c.slots)


def fits(asked: Asked, c: Candidate) -> bool:
    """The prompt leaves room for at least one token of answer."""
    return c.context is None or asked.prompt < c.context


def supports(asked: Asked, c: Candidate) -> bool:
    """Everything that the request needs."""
    return not asked.needs & c.unsupported


def keeps_private(asked: Asked, c: Candidate) -> bool:
    """Private requests stay on local replicas. There is no way around it: with none left they fail."""
    return c.local or not asked.private


def takes(asked: Asked, c: Candidate) -> bool:
    """The target's own condition holds, if it has one."""
    return c.when is None or holds(c.when, asked)


def always(asked: Asked, c: Candidate) -> bool:
    """No condition."""
    return True


HARD: tuple[Filter, ...] = (keeps_private, takes, is_ready)
# Of what is only estimated or looked at from afar: who passes goes first, and where nobody does the backend may judge.
SOFT: tuple[Filter, ...] = (fits, supports)


def allowed(asked: Asked, candidates: Sequence[Candidate], filters: Sequence[Filter] = HARD, wishes: Sequence[Filter] = SOFT) -> list[int]:
    """Places of those that pass every filter, and every wish too where some do. `keeps_private` is applied whatever `filters` says."""
    passing = [i for i, c in enumerate(candidates) if keeps_private(asked, c) and all(f(asked, c) for f in filters)]
    return [i for i in passing if all(wish(asked, candidates[i]) for wish in wishes)] or passing


# Costs, in seconds.


def busy(asked: Asked, c: Candidate) -> float:
    """Calls under way, for their slots or weight: one each counts as a second."""
    return c.inflight / (c.slots or max(c.weight, 1e-9))


def latency(asked: Asked, c: Candidate) -> float:
    """To the whole answer, as learned."""
    ttft, tpot = _speed(c)
    return ttft + tpot * asked.output


def first_token(asked: Asked, c: Candidate) -> float:
    """To the first token, as learned."""
    return _speed(c)[0]


def dollars(asked: Asked, c: Candidate) -> float:
    """What the request costs there; not seconds yet."""
    return (asked.prompt * c.price_in + asked.output * c.price_out) * 1e-6


def money(goal: Goal) -> Cost:
    """Dollars in seconds, as the route weighs them."""
    return lambda asked, c: dollars(asked, c) * goal.seconds_per_dollar


def scheduled(asked: Asked, c: Candidate) -> float:
    """What the KV-aware scheduler says; behind all that it knows where it knows nothing."""
    return 3600.0 + busy(asked, c) if c.scheduled is None else c.scheduled


def _speed(c: Candidate) -> tuple[float, float]:
    if c.ttft is None:  # nobody has found out, and nobody is finding out: this call does, and while it is under way there is a figure
        return 0.0, 0.0
    return c.ttft, UNKNOWN_TPOT if c.tpot is None else c.tpot


def meets(goal: Goal, asked: Asked, c: Candidate) -> bool:
    """Whether the replica is predicted to keep the route's promise. One of which nothing is known gets its chance."""
    return (c.ttft is None or c.ttft <= goal.ttft) and (c.tpot is None or c.tpot <= goal.tpot)


# Picks.


def cheapest(
    asked: Asked, candidates: Sequence[Candidate], costs: Sequence[Cost], rng: random.Random, reason: str, filters: Sequence[Filter] = HARD
) -> Choice | None:
    """Filters, adds the costs up, takes the least; near ties (1 %) by chance, by weight. None when no candidate passes."""
    seconds = [inf] * len(candidates)
    for i in allowed(asked, candidates, filters):
        seconds[i] = sum(cost(asked, candidates[i]) for cost in costs)
    least = min(seconds, default=inf)
    if least == inf:
        return None
    near = [i for i, s in enumerate(seconds) if s <= least + abs(least) * 0.01]
    return Choice(_drawn(candidates, near, rng), seconds, reason)


def _drawn(candidates: Sequence[Candidate], among: Sequence[int], rng: random.Random) -> int:
    if len(among) == 1:
        return among[0]
    sums = [*accumulate(max(candidates[i].weight, 0.0) for i in among)]
    if sums[-1] <= 0.0:
        return among[int(rng.random() * len(among))]
    point = rng.random() * sums[-1]
    return among[min(bisect_right(sums, point), len(among) - 1)]


def weighted(asked: Asked, candidates: Sequence[Candidate], rng: random.Random) -> Choice | None:
    """A target by chance, by weight; of its replicas the least busy."""
    return _beside(asked, candidates, cheapest(asked, candidates, (), rng, "drawn by weight"), rng)


def _beside(asked: Asked, candidates: Sequence[Candidate], choice: Choice | None, rng: random.Random) -> Choice | None:
    """The least busy replica of the target that was chosen."""
    if choice is None:
        return None
    target = candidates[choice.index].target
    same = [i for i in allowed(asked, candidates) if candidates[i].target == target]
    least = min(busy(asked, candidates[i]) for i in same)
    same = [i for i in same if busy(asked, candidates[i]) <= least]
    return choice if choice.index in same else Choice(_drawn(candidates, same, rng), choice.seconds, choice.reason)


def round_robin(asked: Asked, candidates: Sequence[Candidate], turn: int) -> Choice | None:
    """In turn; the caller counts `turn` up by one a request. Those that may not be used are passed over."""
    usable = allowed(asked, candidates)
    if not usable:
        return None
    i = usable[turn % len(usable)]
    return Choice(i, [0.0 if k in usable else inf for k in range(len(candidates))], "in turn")


def least_busy(asked: Asked, candidates: Sequence[Candidate], rng: random.Random) -> Choice | None:
    """Fewest calls under way for its slots or weight."""
    return cheapest(asked, candidates, (busy,), rng, "fewest calls under way")


def p2c(asked: Asked, candidates: Sequence[Candidate], rng: random.Random) -> Choice | None:
    """Of two drawn by chance the less busy one: nearly as even as the least busy of all, and many gateways do not choose alike."""
    usable = allowed(asked, candidates)
    if len(usable) > 2:
        usable = rng.sample(usable, 2)
    return _among(asked, candidates, usable, (busy,), rng, "the less busy of two drawn by chance")


def fastest(asked: Asked, candidates: Sequence[Candidate], rng: random.Random) -> Choice | None:
    """Soonest to the whole answer, from learned times to the first token and between tokens."""
    return cheapest(asked, candidates, (latency,), rng, "soonest by learned times")


def frugal(asked: Asked, candidates: Sequence[Candidate], goal: Goal, rng: random.Random) -> Choice | None:
    """The cheapest in dollars of those predicted to meet the goal; when none is, the soonest."""
    able = [i for i in allowed(asked, candidates) if meets(goal, asked, candidates[i])]
    if able:
        return _among(asked, candidates, able, (dollars,), rng, "cheapest of those that meet the goal")
    return cheapest(asked, candidates, (latency,), rng, "none meets the goal; soonest by learned times")


def kv_aware(asked: Asked, candidates: Sequence[Candidate], goal: Goal, rng: random.Random) -> Choice | None:
    """The scheduler's seconds, plus money where the route weighs it."""
    return cheapest(asked, candidates, (scheduled, money(goal)), rng, "least seconds by prefix cache and load")


def times(cost: Cost, factor: float) -> Cost:
    """A cost so many times."""
    return lambda asked, c: cost(asked, c) * factor


def composed(asked: Asked, candidates: Sequence[Candidate], costs: Sequence[Cost], pick: str, rng: random.Random) -> Choice | None:
    """Any costs, and how one is picked by their sum: `least`; `p2c`, the less of two drawn by chance; `weighted`, by chance, in proportion
    to weight and in inverse proportion to the sum."""
    if pick == "least":
        return cheapest(asked, candidates, costs, rng, "least seconds")
    usable = allowed(asked, candidates)
    if pick == "p2c":
        drawn = rng.sample(usable, 2) if len(usable) > 2 else usable
        return _among(asked, candidates, drawn, costs, rng, "fewer seconds of two drawn by chance")
    if not usable:
        return None
    seconds = [inf] * len(candidates)
    for i in usable:
        seconds[i] = sum(cost(asked, candidates[i]) for cost in costs)
    sums = [*accumulate(max(candidates[i].weight, 1e-9) / max(seconds[i], 1e-3) for i in usable)]
    place = min(bisect_right(sums, rng.random() * sums[-1]), len(usable) - 1)
    return Choice(usable[place], seconds, "drawn by weight and seconds")


def session(asked: Asked, candidates: Sequence[Candidate], rng: random.Random, spread: float = 1.25) -> Choice | None:
    """One session, one replica, as long as that has at most `spread` times its share of the calls under way; then the next in the session's
    own order (rendezvous hashing: when a replica leaves, only its sessions move). Without a session: the least busy."""
    usable = allowed(asked, candidates)
    if not asked.session or not usable:
        return least_busy(asked, candidates, rng)
    total = sum(max(candidates[i].weight, 0.0) for i in usable) or 1.0
    calls = 1 + sum(candidates[i].inflight for i in usable)
    order = sorted(usable, key=lambda i: _rendezvous(asked.session, candidates[i].name), reverse=True)
    seconds = [inf] * len(candidates)
    for place, i in enumerate(order):
        seconds[i] = float(place)
    for i in order:
        if candidates[i].inflight + 1 <= max(1.0, spread * calls * max(candidates[i].weight, 0.0) / total):
            return Choice(i, seconds, "where its session is at home" if i == order[0] else "its session's home has more than its share")
    return Choice(order[0], seconds, "where its session is at home; all have more than their share")


def _rendezvous(session: str, name: str) -> bytes:
    raw = session.encode()
    return blake2b(len(raw).to_bytes(4, "big") + raw + name.encode(), digest_size=8).digest()


def priority(asked: Asked, candidates: Sequence[Candidate], rng: random.Random) -> Choice | None:
    """The first target of the list that may be used; of its replicas the least busy."""
    usable = allowed(asked, candidates)
    if not usable:
        return None
    first = min(usable, key=lambda i: candidates[i].target)
    seconds = [float(c.target) if i in usable else inf for i, c in enumerate(candidates)]
    reason = "first in the list" if candidates[first].target == 0 else "first in the list that can be used"
    return _beside(asked, candidates, Choice(first, seconds, reason), rng)


def local_first(asked: Asked, candidates: Sequence[Candidate], goal: Goal, rng: random.Random) -> Choice | None:
    """A local replica while one is predicted to meet the goal; else the soonest of all, counting money. A private request stays local or
    fails, whatever the load."""
    usable = allowed(asked, candidates)
    local = [i for i in usable if candidates[i].local]
    able = local if asked.private else [i for i in local if meets(goal, asked, candidates[i])]
    if able:
        return _among(asked, candidates, able, (latency,), rng, "local")
    costs = (latency, money(goal))
    return cheapest(asked, candidates, costs, rng, "no local one meets the goal; soonest of the rest")


def _among(
    asked: Asked, candidates: Sequence[Candidate], usable: Sequence[int], costs: Sequence[Cost], rng: random.Random, reason: str
) -> Choice | None:
    picked = cheapest(asked, [candidates[i] for i in usable], costs, rng, reason)
    if picked is None:
        return None
    seconds = [inf] * len(candidates)
    for i, s in zip(usable, picked.seconds, strict=True):
        seconds[i] = s
    return Choice(usable[picked.index], seconds, reason)


# Conditions on the request.


def holds(condition: Condition, asked: Asked) -> bool:
    """Whether a request is one of those that the condition means. Header names are compared in lower case."""
    return (
        _length(condition, asked) and _who(condition, asked) and condition.needs <= asked.needs and _within(condition.hours, asked.minute)
    )


def _length(c: Condition, asked: Asked) -> bool:
    return (c.longer is None or asked.prompt > c.longer) and (c.shorter is None or asked.prompt < c.shorter)


def _who(c: Condition, asked: Asked) -> bool:
    if c.private is not None and c.private != asked.private:
        return False
    if c.keys and asked.key not in c.keys:
        return False
    return all(asked.headers.get(name.lower()) == value for name, value in c.headers.items())


def _within(hours: tuple[int, int] | None, minute: int) -> bool:
    if hours is None:
        return True
    start, end = hours
    return start <= minute < end if start <= end else minute >= start or minute < end
