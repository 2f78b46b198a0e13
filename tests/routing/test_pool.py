"""Which replica a call gets: never one that may not take it, by weight between arms, the least busy within one."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routing.pool import available, may_come, out, pick
from routing.types import TURNS, Arm, Replica, Route
from tests.routing.made import replica, route

NOW = 100.0

replicas = st.builds(
    replica,
    st.just("r"),
    health=st.sampled_from(["ready", "ready", "ready", "loading", "down"]),
    inflight=st.integers(0, 3),
    slots=st.sampled_from([None, None, 1, 3]),
    down_until=st.sampled_from([0.0, 0.0, NOW - 1, NOW, NOW + 1, NOW + 5]),
)
draws = st.floats(0.0, 1.0, exclude_max=True)


@st.composite
def routes(draw: st.DrawFn) -> tuple[Route, list[Replica]]:
    """A route and some of its replicas, to exclude."""
    pool = draw(st.lists(replicas, max_size=5))
    arms = draw(st.lists(st.lists(st.sampled_from(pool), max_size=3, unique=True) if pool else st.just([]), max_size=3))
    weights = draw(st.lists(st.sampled_from([0.0, 0.5, 1.0, 3.0]), min_size=len(arms), max_size=len(arms)))
    return route(*arms, weights=weights), draw(st.lists(st.sampled_from(pool), max_size=2)) if pool else []


@given(routes(), draws)
def test_a_pick_may_take_the_call(made: tuple[Route, list[Replica]], draw: float) -> None:
    found, excluded = made
    state = [(r.inflight, r.down_until, r.health, r.failures, r.total) for r in found.replicas]
    decision = pick(found, NOW, draw, excluded)
    assert state == [(r.inflight, r.down_until, r.health, r.failures, r.total) for r in found.replicas]
    can = [r for r in found.replicas if available(r, NOW) and r not in excluded]
    resting = [r for r in found.replicas if r.health == "ready" and not r.full and r.down_until and r not in excluded]
    if can:
        assert decision is not None and decision.replica in can
        arm = next(a for a in found.arms if a.target is decision.target)
        assert decision.replica.inflight == min(r.inflight for r in arm.replicas if r in can)
    elif resting:
        assert decision is not None and decision.replica in resting and "rests shortest" in decision.reason
        assert decision.replica.down_until == min(r.down_until for r in resting)
    else:
        assert decision is None


@pytest.mark.parametrize(
    ("one", "can"),
    [
        (replica(), True),
        (replica(health="loading"), False),
        (replica(health="down"), False),
        (replica(down_until=NOW), True),
        (replica(down_until=NOW + 0.1), False),
        (replica(slots=2, inflight=1), True),
        (replica(slots=2, inflight=2), False),
        (replica(inflight=10_000), True),
    ],
)
def test_available(one: Replica, can: bool) -> None:
    assert available(one, NOW) is can


def test_a_route_without_targets_has_no_pick() -> None:
    assert pick(route(), NOW, 0.5) is None
    assert pick(route([]), NOW, 0.5) is None


@pytest.mark.parametrize("weights", [[1.0, 1.0], [0.9, 0.1], [1.0, 2.0, 5.0], [3.0, 0.0, 1.0]])
def test_arms_are_drawn_by_weight(weights: list[float]) -> None:
    n, draw = 20_000, random.Random(7).random
    found = route(*[[replica()] for _ in weights], weights=weights)
    counts = dict.fromkeys((arm.target.model for arm in found.arms), 0)
    for _ in range(n):
        decision = pick(found, NOW, draw())
        assert decision is not None and decision.reason == "weighted"
        counts[decision.target.model] += 1
    expected = {f"t{i}": n * w / sum(weights) for i, w in enumerate(weights)}
    assert all(counts[t] == 0 for t, e in expected.items() if not e)
    chi2 = sum((counts[t] - e) ** 2 / e for t, e in expected.items() if e)
    assert chi2 < 30  # of 1 to 2 degrees of freedom: less than one in a million by chance, and the seed is fixed


@pytest.mark.parametrize(("draw", "model"), [(0.0, "t0"), (0.2499, "t0"), (0.25, "t1"), (0.999999, "t1")])
def test_the_draw_decides_between_arms(draw: float, model: str) -> None:
    decision = pick(route([replica()], [replica()], weights=[1.0, 3.0]), NOW, draw)
    assert decision is not None and decision.target.model == model


def test_rounding_at_the_end_of_the_weights_still_picks() -> None:
    found = route(*[[replica()] for _ in range(10)], weights=[0.1] * 10)
    decision = pick(found, NOW, 1.0)  # a draw is below 1; rounding may make it 1 all the same
    assert decision is not None and decision.target.model == "t9"


def test_the_draw_is_made_anew_over_the_arms_that_can() -> None:
    found = route([replica(health="down")], [replica()], [replica()], weights=[8.0, 1.0, 1.0])
    picked = {d: pick(found, NOW, d) for d in (0.1, 0.4, 0.6)}
    assert [p.target.model for p in picked.values() if p is not None] == ["t1", "t1", "t2"]
    assert all(p is not None and p.reason == "weighted, the first draw was not available" for p in picked.values())


def test_a_weightless_arm_is_for_when_no_other_can() -> None:
    good, spare = replica("good"), replica("spare")
    found = route([good], [spare], weights=[1.0, 0.0])
    assert {pick(found, NOW, d / 10).replica for d in range(10)} == {good}  # type: ignore[union-attr]
    good.health = "down"
    assert {pick(found, NOW, d / 10).replica for d in range(10)} == {spare}  # type: ignore[union-attr]


def test_ties_go_in_turn_and_the_least_busy_wins() -> None:
    one, two, three = replica("1"), replica("2"), replica("3")
    found = route([one, two, three])
    turns = [pick(found, NOW, 0.5).replica.name for _ in range(6)]  # type: ignore[union-attr]
    assert turns[:3] == turns[3:] and sorted(turns[:3]) == ["1", "2", "3"]
    one.inflight = three.inflight = 1
    assert {pick(found, NOW, 0.5).replica for _ in range(6)} == {two}  # type: ignore[union-attr]
    two.slots = 1
    two.inflight = 1
    assert {pick(found, NOW, 0.5).replica for _ in range(6)} == {one, three}  # type: ignore[union-attr]


@pytest.mark.parametrize(("many", "down"), [(4, 0), (8, 1), (5, 3), (64, 0), (100, 1)])
def test_who_is_idle_gets_the_same_share_when_others_are_down(many: int, down: int) -> None:
    pool = [replica(f"{n}", health="down" if n < down else "ready") for n in range(many)]
    found, counts = route(pool), dict.fromkeys(pool[down:], 0)
    for _ in range(50 * many):
        decision = pick(found, NOW, 0.5)
        assert decision is not None
        counts[decision.replica] += 1
        decision.replica.inflight += 1
    assert {*counts.values()} <= {50 * many // (many - down), 50 * many // (many - down) + 1}


@pytest.mark.parametrize("many", [2, 31, 32, 33, 64, 100, TURNS, TURNS + 1])
@pytest.mark.parametrize("slots", [None, 4])
def test_who_is_idle_gets_the_same_share_when_calls_come_one_after_the_other(many: int, slots: int | None) -> None:
    pool = [replica(f"{n}", slots=slots) for n in range(many)]
    found, counts = route(pool), dict.fromkeys(pool, 0)
    for _ in range(3 * many):
        decision = pick(found, NOW, 0.5)
        assert decision is not None
        counts[decision.replica] += 1
    assert {*counts.values()} == {3}


def test_when_all_rest_the_shortest_rest_is_tried() -> None:
    long, short, full = replica("l", down_until=NOW + 9), replica("s", down_until=NOW + 3), replica("f", down_until=NOW + 1, slots=0)
    found = route([long], [short, full])
    decision = pick(found, NOW, 0.0)
    assert decision is not None and decision.replica is short and decision.target.model == "t1"
    assert pick(found, NOW, 0.0, {short}).replica is long  # type: ignore[union-attr]
    assert pick(found, NOW, 0.0, {short, long}) is None


def test_waiting_helps_when_one_loads_or_is_full() -> None:
    loading, full, down, resting = replica(health="loading"), replica(slots=0), replica(health="down"), replica(down_until=NOW + 1)
    assert may_come(route([down], [loading])) and may_come(route([full]))
    assert not may_come(route([down, resting])) and not may_come(route()) and not may_come(route([loading]), {loading})


def test_words_for_people() -> None:
    one = replica("gpu#1", inflight=2)
    assert repr(one) == "<Replica gpu#1 ready inflight=2 failures=0>" and one.line == b"\r\nx-pointsman-backend: gpu#1\r\n"
    found = route([one])
    assert repr(found) == "<Route m: b/t0>" and found.replicas == [one]
    assert isinstance(found.arms[0], Arm) and found.timeouts == {} and found.total_weight == 1.0


def test_a_route_is_out_when_all_its_replicas_are_down() -> None:
    silent, gone = replica("a", health="down"), replica("b", health="down")
    assert out(route([])) == "" and out(route([silent])) == "all its replicas are down"
    gone.reason = "The file is gone."
    assert out(route([silent], [gone])) == "The file is gone."
    for health in ("ready", "loading"):
        assert out(route([silent, gone, replica("c", health=health)])) == ""
