"""Policies: filters that hold whatever the rest says, costs in seconds, picks that explain themselves."""

from __future__ import annotations

import random
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routing import policies as p
from routing.policies import Asked, Candidate, Condition, Goal

GOAL = Goal(ttft=1.0, tpot=0.1, seconds_per_dollar=10.0)


def candidates() -> st.SearchStrategy[list[Candidate]]:
    number = st.floats(0, 100)
    one = st.builds(
        Candidate, name=st.sampled_from("abcdef"), weight=st.floats(0, 10), inflight=st.integers(0, 20),
        slots=st.none() | st.integers(1, 20), ready=st.booleans(), local=st.booleans(), context=st.none() | st.integers(1, 1000),
        unsupported=st.frozensets(st.sampled_from(["tools", "images"])), ttft=st.none() | number, tpot=st.none() | number,
        price_in=number, price_out=number, scheduled=st.none() | number,
    )  # fmt: skip
    return st.lists(one, max_size=8)


ASKED = st.builds(
    Asked, prompt=st.integers(0, 1000), output=st.integers(0, 1000), needs=st.frozensets(st.sampled_from(["tools", "images"])),
    private=st.booleans(), session=st.sampled_from(["", "s1", "s2"]),
)  # fmt: skip


def every(asked: Asked, cs: list[Candidate], seed: int) -> list[p.Choice | None]:
    r = random.Random(seed)
    return [
        p.weighted(asked, cs, r), p.round_robin(asked, cs, seed), p.least_busy(asked, cs, r), p.p2c(asked, cs, r), p.fastest(asked, cs, r),
        p.frugal(asked, cs, GOAL, r), p.kv_aware(asked, cs, GOAL, r), p.session(asked, cs, r), p.priority(asked, cs, r),
        p.local_first(asked, cs, GOAL, r),
    ]  # fmt: skip


@given(ASKED, candidates(), st.integers(0, 1 << 20))
def test_no_policy_breaks_a_hard_filter_and_each_finds_one_where_there_is_one(asked: Asked, cs: list[Candidate], seed: int) -> None:
    usable = p.allowed(asked, cs)
    for choice in every(asked, cs, seed):
        if not usable:
            assert choice is None
            continue
        assert choice is not None and choice.index in usable and choice.reason
        assert len(choice.seconds) == len(cs)
        assert all(choice.seconds[i] == inf for i in range(len(cs)) if i not in usable)


@given(ASKED, candidates(), st.integers(0, 1 << 20))
def test_a_private_request_never_leaves_even_when_filters_are_replaced(asked: Asked, cs: list[Candidate], seed: int) -> None:
    private = Asked(prompt=asked.prompt, needs=asked.needs, private=True, session=asked.session)
    for choice in [*every(private, cs, seed), p.cheapest(private, cs, (), random.Random(seed), "", (p.always,))]:
        assert choice is None or cs[choice.index].local


@given(candidates(), st.integers(0, 1 << 20))
def test_the_cheapest_is_within_one_percent_of_the_least(cs: list[Candidate], seed: int) -> None:
    choice = p.cheapest(Asked(), cs, (p.latency, p.busy), random.Random(seed), "")
    if choice is not None:
        assert choice.seconds[choice.index] <= min(choice.seconds) * 1.01


def test_weights_are_kept_and_zero_weight_is_only_a_last_resort() -> None:
    r = random.Random(1)
    cs = [Candidate("a", weight=3), Candidate("b", weight=1), Candidate("c", weight=0)]
    drawn = [c.index for c in (p.weighted(Asked(), cs, r) for _ in range(4000)) if c]
    assert 2800 < drawn.count(0) < 3200 and drawn.count(2) == 0
    lone = [Candidate("a", weight=0), Candidate("b", weight=0)]
    assert {c.index for c in (p.weighted(Asked(), lone, r) for _ in range(100)) if c} == {0, 1}


def test_round_robin_passes_over_what_is_down() -> None:
    cs = [Candidate("a"), Candidate("b", ready=False), Candidate("c")]
    assert [c.index for c in (p.round_robin(Asked(), cs, t) for t in range(4)) if c] == [0, 2, 0, 2]


def test_least_busy_counts_slots_and_weights() -> None:
    r = random.Random(1)
    by_slots = p.least_busy(Asked(), [Candidate("a", inflight=2, slots=4), Candidate("b", inflight=3, slots=16)], r)
    by_weight = p.least_busy(Asked(), [Candidate("a", inflight=2), Candidate("b", inflight=3, weight=2)], r)
    assert by_slots is not None and by_slots.index == 1
    assert by_weight is not None and by_weight.index == 1


def test_p2c_never_takes_the_busiest_of_three() -> None:
    r = random.Random(1)
    cs = [Candidate("a"), Candidate("b", inflight=1), Candidate("c", inflight=9)]
    assert {c.index for c in (p.p2c(Asked(), cs, r) for _ in range(200)) if c} == {0, 1}


def test_latency_prefers_the_soonest_and_gives_unknown_ones_a_chance() -> None:
    r = random.Random(1)
    cs = [Candidate("slow", ttft=5, tpot=0.1), Candidate("new"), Candidate("fast", ttft=0.1, tpot=0.01)]
    choice = p.fastest(Asked(output=100), cs, r)
    assert choice is not None and choice.index == 1, "one call finds out"
    cs[1] = Candidate("new", ttft=1.0)
    choice = p.fastest(Asked(output=100), cs, r)
    assert choice is not None and choice.index == 2, "while it does, and no longer"
    assert choice.seconds == [15.0, 6.0, 1.1]
    assert p.first_token(Asked(), cs[1]) == 1.0 and p.latency(Asked(output=100), cs[1]) == 1.0 + 100 * p.UNKNOWN_TPOT
    assert p.latency(Asked(output=100), Candidate("new")) == 0.0


def test_cost_takes_the_cheapest_that_meets_the_goal_and_else_the_soonest() -> None:
    r = random.Random(1)
    cheap = Candidate("cheap", ttft=3, tpot=0.05, price_in=0.1)
    good = Candidate("good", ttft=0.5, tpot=0.05, price_in=1)
    best = Candidate("best", ttft=0.1, tpot=0.01, price_in=9)
    first = p.frugal(Asked(prompt=1000), [cheap, good, best], GOAL, r)
    assert first is not None and (first.index, first.reason) == (1, "cheapest of those that meet the goal")
    late = p.frugal(Asked(prompt=1000), [cheap, Candidate("slower", ttft=9, tpot=1)], GOAL, r)
    assert late is not None and (late.index, late.reason[:4]) == (0, "none")


def test_kv_aware_adds_money_and_puts_the_unknown_last() -> None:
    r = random.Random(1)
    cs = [Candidate("a", scheduled=1.0, price_in=100), Candidate("b", scheduled=1.5), Candidate("c")]
    choice = p.kv_aware(Asked(prompt=1000), cs, GOAL, r)
    assert choice is not None and choice.index == 1
    assert choice.seconds == [2.0, 1.5, 3600.0]
    free = p.kv_aware(Asked(prompt=1000), cs, Goal(), r)
    assert free is not None and free.index == 0


def test_a_session_stays_moves_when_its_home_is_full_and_comes_back() -> None:
    r = random.Random(1)
    cs = [Candidate(x) for x in "abcd"]
    asked = Asked(session="one")
    home = p.session(asked, cs, r)
    assert home is not None
    again = p.session(asked, cs, r)
    assert again is not None and again.index == home.index
    busy = [Candidate(c.name, inflight=10 if i == home.index else 0) for i, c in enumerate(cs)]
    moved = p.session(asked, busy, r)
    assert moved is not None and moved.index != home.index and "more than its share" in moved.reason
    without = p.session(asked, [c for c in cs if c.name != cs[moved.index].name], r)
    assert without is not None
    assert [c for c in cs if c.name != cs[moved.index].name][without.index].name == cs[home.index].name


def test_a_session_with_all_over_their_share_goes_home() -> None:
    cs = [Candidate("a", inflight=5, weight=0.0), Candidate("b", inflight=5, weight=0.0)]
    choice = p.session(Asked(session="x"), cs, random.Random(1))
    assert choice is not None and "all have" in choice.reason


def test_priority_takes_the_first_that_can() -> None:
    cs = [Candidate("a", ready=False), Candidate("b", target=1), Candidate("c", target=2)]
    choice = p.priority(Asked(), cs, random.Random(1))
    assert choice is not None and (choice.index, choice.reason) == (1, "first in the list that can be used")
    first = p.priority(Asked(), [Candidate("a", inflight=3), Candidate("a2", inflight=1), Candidate("b", target=1)], random.Random(1))
    assert first is not None and (first.index, first.reason) == (1, "first in the list")


def test_a_drawn_target_gives_its_least_busy_replica() -> None:
    r = random.Random(1)
    cs = [Candidate("a", weight=0.5, inflight=4), Candidate("a2", weight=0.5, inflight=1), Candidate("b", weight=1, target=1)]
    drawn = [c.index for c in (p.weighted(Asked(), cs, r) for _ in range(1000)) if c]
    assert drawn.count(0) == 0 and 430 < drawn.count(1) < 570
    assert p.weighted(Asked(), [], r) is None


def test_what_only_an_estimate_speaks_against_is_used_where_there_is_nothing_else() -> None:
    r = random.Random(1)
    small, plain = Candidate("small", context=100), Candidate("plain", unsupported=frozenset({"tools"}))
    asked = Asked(prompt=1000, needs=frozenset({"tools"}))
    assert p.allowed(asked, [small, plain]) == [0, 1] and p.allowed(asked, [small, plain, Candidate("both")]) == [2]
    assert p.least_busy(asked, [small], r) is not None


@pytest.mark.parametrize("pick", ["least", "p2c", "weighted"])
def test_composed_costs(pick: str) -> None:
    r = random.Random(1)
    cs = [
        Candidate("slow", ttft=9, tpot=0),
        Candidate("fast", ttft=1, tpot=0),
        Candidate("down", ready=False),
        Candidate("far", ttft=99, tpot=0),
    ]
    costs = [p.times(p.first_token, 2.0), p.busy]
    drawn = [c.index for c in (p.composed(Asked(), cs, costs, pick, r) for _ in range(600)) if c]
    assert 2 not in drawn
    if pick == "least":
        assert set(drawn) == {1}
    else:
        assert drawn.count(1) > drawn.count(0) > drawn.count(3)
    assert p.composed(Asked(), cs[2:3], costs, pick, r) is None
    only = p.composed(Asked(), cs[:1], costs, pick, r)
    assert only is not None and only.seconds == [18.0]


def test_local_first_spills_when_slow_but_never_what_is_private() -> None:
    r = random.Random(1)
    cloud = Candidate("cloud", ttft=0.3, tpot=0.02)
    quick, slow = Candidate("mine", local=True, ttft=0.9, tpot=0.09), Candidate("mine", local=True, ttft=30, tpot=0.5)
    stays = p.local_first(Asked(), [cloud, quick], GOAL, r)
    spills = p.local_first(Asked(), [cloud, slow], GOAL, r)
    private = p.local_first(Asked(private=True), [cloud, slow], GOAL, r)
    assert stays is not None and (stays.index, stays.reason) == (1, "local")
    assert spills is not None and spills.index == 0
    assert private is not None and private.index == 1
    assert p.local_first(Asked(private=True), [cloud, Candidate("mine", local=True, ready=False)], GOAL, r) is None


@pytest.mark.parametrize(
    ("condition", "asked", "expected"),
    [
        (Condition(), Asked(), True),
        (Condition(longer=100), Asked(prompt=100), False),
        (Condition(longer=100), Asked(prompt=101), True),
        (Condition(shorter=100), Asked(prompt=100), False),
        (Condition(needs=frozenset({"tools"})), Asked(), False),
        (Condition(needs=frozenset({"tools"})), Asked(needs=frozenset({"tools", "images"})), True),
        (Condition(private=True), Asked(), False),
        (Condition(hours=(0, 1440)), Asked(minute=1439), True),
        (Condition(private=True), Asked(private=True), True),
        (Condition(keys=frozenset({"k1"})), Asked(key="k2"), False),
        (Condition(keys=frozenset({"k1"})), Asked(key="k1"), True),
        (Condition(headers={"X-Tier": "gold"}), Asked(headers={"x-tier": "gold"}), True),
        (Condition(headers={"X-Tier": "gold"}), Asked(headers={"x-tier": "tin"}), False),
        (Condition(hours=(540, 1020)), Asked(minute=600), True),
        (Condition(hours=(540, 1020)), Asked(minute=1020), False),
        (Condition(hours=(1320, 360)), Asked(minute=10), True),
        (Condition(hours=(1320, 360)), Asked(minute=720), False),
    ],
)
def test_conditions(condition: Condition, asked: Asked, expected: bool) -> None:
    assert p.holds(condition, asked) is expected
