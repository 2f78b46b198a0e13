"""Choosing a replica: a plain synchronous function over plain state. No clock, no random source, no await of its own."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Sequence

from routing.health import half_open
from routing.types import Arm, Decision, Replica, Route


def available(replica: Replica, now: float) -> bool:
    """Whether a replica may be sent a call now: ready, a slot free, not resting after failures nor being tested after a rest."""
    if replica.health != "ready" or replica.down_until > now or replica.full:
        return False
    return not replica.down_until or half_open(replica, now)


def pick(route: Route, now: float, draw: float, excluded: Collection[Replica] = ()) -> Decision | None:
    """The replica for a call, or None when none may take it now.

    An arm is drawn by weight (`draw` in [0, 1)); within it the replica with the fewest calls under way wins, ties in turn.
    When the drawn arm has none, the draw is made over the arms that have one; when all replicas that could answer are resting
    after failures or being tested, the one that rests shortest is tried, since a call that might fail beats one that surely does.
    `now` is monotonic seconds. Mutates nothing but `route.turn`.
    """
    arms = route.arms
    if not arms:
        return None
    if len(arms) == 2:  # a comparison, where `bisect_right` would only prepare for one
        arm = arms[0] if route.total_weight * draw < route.bounds[0] else arms[1]
    else:
        arm = arms[0] if len(arms) == 1 else arms[bisect_right(route.bounds, route.total_weight * draw)]
    chosen, turns = arm.only, arm.turns
    if turns:
        route.turn = turn = route.turn + 1
        chosen = arm.choice_of[_idlest(turns[turn % len(turns)])]
    if chosen is not None and not excluded:  # the most common case, and the hottest
        replica = chosen.replica
        if replica.health == "ready" and not replica.down_until and (replica.slots is None or not replica.full):
            return chosen
    if not turns:
        route.turn += 1
    chosen = _least(arm, route.turn, now, excluded)
    return chosen if chosen is not None else _of_another(route, now, draw, excluded)


def _idlest(replicas: Sequence[Replica]) -> Replica:
    """The first of those with the fewest calls under way. Half of what `min` with a key costs."""
    idlest = replicas[0]
    least = idlest.inflight
    for replica in replicas:
        calls = replica.inflight
        if calls < least:
            idlest, least = replica, calls
    return idlest


def _of_another(route: Route, now: float, draw: float, excluded: Collection[Replica]) -> Decision | None:
    """As `pick`, where the arm that was drawn has nobody."""
    arms, turn = route.arms, route.turn
    open_arms = [a for a in arms if _least(a, turn, now, excluded) is not None]
    if not open_arms:
        return _resting(route, now, excluded)
    chosen = _least(_drawn(open_arms, sum(a.target.weight for a in open_arms) * draw), turn, now, excluded)
    assert chosen is not None
    return Decision(chosen.replica, chosen.target, "weighted, the first draw was not available")


def _drawn(arms: Sequence[Arm], point: float) -> Arm:
    for arm in arms:
        point -= arm.target.weight
        if point < 0:
            return arm
    return arms[-1]


def _least(arm: Arm, turn: int, now: float, excluded: Collection[Replica]) -> Decision | None:
    choices = arm.choices
    if len(choices) > 1:
        start = turn % len(choices)
        choices = (*choices[start:], *choices[:start])
    best: Decision | None = None
    for choice in choices:
        replica = choice.replica
        if (best is None or replica.inflight < best.replica.inflight) and available(replica, now) and replica not in excluded:
            best = choice
    return best


def _resting(route: Route, now: float, excluded: Collection[Replica]) -> Decision | None:
    resting = [
        (r.down_until, i, r, arm.target)
        for i, arm in enumerate(route.arms)
        for r in arm.replicas
        if r.health == "ready" and r.down_until and not r.managed and not r.full and r not in excluded
    ]
    if not resting:
        return None
    _, _, replica, target = min(resting, key=lambda x: (x[0], x[1]))
    return Decision(replica, target, "every replica failed lately; this one rests shortest")


def out(route: Route) -> str:
    """Why no replica of the route can answer, as far as is known; "" where one can, may come, or none is there."""
    if not route.replicas or any(replica.health != "down" for replica in route.replicas):
        return ""
    return next((replica.reason for replica in route.replicas if replica.reason), "all its replicas are down")


def may_come(route: Route, excluded: Collection[Replica] = ()) -> bool:
    """Whether waiting can help: some replica is loading, has all its slots taken, or is an engine of ours that is being restarted."""
    return any(comes(r) and r not in excluded for r in route.replicas)


def comes(r: Replica) -> bool:
    """Whether waiting for a replica can help."""
    return r.health == "loading" or (r.health == "ready" and (r.full or (r.managed and r.down_until > 0)))
