"""Choosing a replica: a plain synchronous function over plain state. No clock, no random source, no await of its own."""

from __future__ import annotations

from collections.abc import Container

from routing.types import Arm, Decision, Replica, Route


def available(replica: Replica, now: float) -> bool:
    """Whether a replica may be sent a call now: ready, a slot free, not resting after failures."""
    return replica.health == "ready" and replica.down_until <= now and not replica.full


def pick(route: Route, now: float, draw: float, excluded: Container[Replica] = ()) -> Decision | None:
    """The replica for a call, or None when none may take it now.

    An arm is drawn by weight (`draw` in [0, 1)); within it the replica with the fewest calls under way wins, ties in turn.
    When the drawn arm has none, the draw is made over the arms that have one; when all replicas that could answer are resting
    after failures, the one that rests shortest is tried, since a call that might fail beats one that surely does.
    `now` is monotonic seconds. Mutates nothing but `route.turn`.
    """
    arm = _drawn(route.arms, route.total_weight * draw)
    chosen = _least(arm, route, now, excluded)
    if chosen is not None:
        return Decision(chosen, arm.target, "weighted")
    open_arms = [a for a in route.arms if _least(a, route, now, excluded) is not None]
    if open_arms:
        arm = _drawn(open_arms, sum(a.target.weight for a in open_arms) * draw)
        chosen = _least(arm, route, now, excluded)
        assert chosen is not None
        return Decision(chosen, arm.target, "weighted, the first draw was not available")
    return _resting(route, now, excluded)


def _drawn(arms: tuple[Arm, ...] | list[Arm], point: float) -> Arm:
    if len(arms) == 1:
        return arms[0]
    for arm in arms:
        point -= arm.target.weight
        if point < 0:
            return arm
    return arms[-1]


def _least(arm: Arm, route: Route, now: float, excluded: Container[Replica]) -> Replica | None:
    replicas = arm.replicas
    if len(replicas) == 1:
        only = replicas[0]
        return only if available(only, now) and only not in excluded else None
    route.turn += 1
    start = route.turn % len(replicas) if replicas else 0
    best: Replica | None = None
    for replica in (*replicas[start:], *replicas[:start]):
        if (best is None or replica.inflight < best.inflight) and available(replica, now) and replica not in excluded:
            best = replica
    return best


def _resting(route: Route, now: float, excluded: Container[Replica]) -> Decision | None:
    resting = [
        (r.down_until, i, r, arm.target)
        for i, arm in enumerate(route.arms)
        for r in arm.replicas
        if r.health == "ready" and r.down_until > now and not r.full and r not in excluded
    ]
    if not resting:
        return None
    _, _, replica, target = min(resting, key=lambda x: (x[0], x[1]))
    return Decision(replica, target, "every replica failed lately; this one rests shortest")


def may_come(route: Route, excluded: Container[Replica] = ()) -> bool:
    """Whether waiting can help: some replica is loading, or ready with all its slots taken."""
    return any((r.health == "loading" or (r.health == "ready" and r.full)) and r not in excluded for r in route.replicas)
