"""A day's limits, what a request is expected to cost, and which of them are drawn: as plain functions."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends import wire
from backends.types import Target, Timeouts, Usage
from gateway.experiments.budget import DAY, Budget, Cost
from gateway.experiments.keeper import size_of
from gateway.experiments.lanes import LIKELY, MOST, Candidate, free, likely, sampled
from gateway.experiments.mirror import call_for
from routing.types import Arm, Replica
from tests.gateway.parts import FakeLink

NOW = 20_000 * DAY


def test_limits_hold_with_what_is_under_way() -> None:
    budget = Budget(1.0, 100)
    half = Cost(0.5, 10)
    assert budget.book(half, NOW) and budget.book(half, NOW)
    assert not budget.book(Cost(0.01, 0), NOW)
    budget.settle(half, Cost(0.1, 10), NOW)
    assert budget.book(Cost(0.4, 0), NOW) and not budget.book(Cost(0.0, 81), NOW)
    budget.settle(Cost(0.4, 0), Cost(), NOW)
    budget.settle(half, Cost(0.2, 90), NOW)
    assert (budget.tokens, budget.booked_tokens) == (100, 0) and budget.dollars == pytest.approx(0.3)
    assert not budget.book(Cost(0.0, 1), NOW)
    assert budget.book(Cost(1.0, 100), NOW + DAY)  # a new day of UTC


def test_the_day_turns_at_midnight_of_utc() -> None:
    budget = Budget(1.0)
    assert budget.book(Cost(1.0), NOW + DAY - 1)
    budget.settle(Cost(1.0), Cost(1.0), NOW + DAY - 1)
    assert not budget.book(Cost(0.1), NOW + DAY - 0.001)
    assert budget.book(Cost(0.1), NOW + DAY)


def test_none_is_no_limit_and_zero_lets_only_free_ones_pass() -> None:
    assert Budget().book(Cost(1e9, 10**12), NOW)
    assert Budget(0.0).book(Cost(0.0, 5), NOW) and not Budget(0.0).book(Cost(1e-9, 5), NOW)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 0.3), st.floats(0, 1.0)), max_size=40), st.randoms(use_true_random=False))
def test_what_is_spent_never_passes_the_limit_by_more_than_was_not_expected(calls: list[tuple[float, float]], rng: object) -> None:
    """Each call costs at most what was expected, in any order of ends: the limit holds."""
    budget, under_way = Budget(1.0), list[tuple[Cost, Cost]]()
    for expected, part in calls:
        if budget.book(Cost(expected, 1), NOW):
            under_way.append((Cost(expected, 1), Cost(expected * part, 1)))
        rng.shuffle(under_way)  # type: ignore[attr-defined]
        if len(under_way) > 3:
            budget.settle(*under_way.pop(), NOW)
        assert budget.dollars + budget.booked_dollars <= 1.0 + 1e-9
    for pair in under_way:
        budget.settle(*pair, NOW)
    assert budget.dollars <= 1.0 + 1e-9 and budget.booked_dollars < 1e-9 and budget.booked_tokens == 0


def candidate(local: bool = False, price: float | None = None, replicas: int = 2) -> Candidate:
    found = tuple(Replica(str(i), "b", "", FakeLink(str(i)), 1) for i in range(replicas))

    def dollars(usage: Usage) -> float | None:
        return None if price is None else price * usage.output

    return Candidate("c", Arm(Target("b", "t", price=dollars), found), local, Timeouts())


def doc(**more: object) -> wire.Doc:
    return {"messages": wire.raw([{"role": "user", "content": "x" * 400}])} | {name: wire.raw(value) for name, value in more.items()}


@pytest.mark.parametrize(("more", "tokens"), [
    ({}, LIKELY), ({"max_tokens": 7}, 7), ({"max_completion_tokens": 9, "max_tokens": 7}, 9), ({"max_tokens": 10**6}, MOST),
    ({"max_tokens": None}, LIKELY), ({"max_tokens": "many"}, LIKELY), ({"max_tokens": -1}, LIKELY),
])  # fmt: skip
def test_what_a_request_is_expected_to_cost(more: dict[str, object], tokens: int) -> None:
    found = likely(candidate(price=0.5), doc(**more))
    assert found is not None and found.dollars == 0.5 * tokens and found.tokens == 1 + size_of(doc(**more)) // 4 + tokens


def test_what_has_no_price_is_free_only_at_home() -> None:
    assert likely(candidate(local=True), doc()) == Cost(0.0, 1 + size_of(doc()) // 4 + LIKELY)
    assert likely(candidate(), doc()) is None


def test_only_a_free_replica_is_taken() -> None:
    one = candidate()
    a, b = (choice.replica for choice in one.at.choices)
    assert free((one,), lambda r: r is a) == (one, one.at.choices[1])
    b.inflight = 1  # its only slot
    assert free((one,), lambda r: r is a) is None
    assert free((one,), lambda r: False) == (one, one.at.choices[0])
    a.down_until = 1.0  # a user's call will test it
    assert free((one,), lambda r: False) is None
    a.down_until, a.health = 0.0, "loading"
    assert free((one,), lambda r: False) is None


def test_requests_are_drawn_evenly_and_for_each_experiment_anew() -> None:
    ids = [b"req-%d" % number for number in range(20_000)]
    one = [sampled(id, "one", 0.1) for id in ids]
    other = [sampled(id, "other", 0.1) for id in ids]
    assert 1_800 < sum(one) < 2_200 and 1_800 < sum(other) < 2_200
    assert 130 < sum(a and b for a, b in zip(one, other, strict=True)) < 270
    assert all(sampled(id, "one", 1.0) for id in ids) and not any(sampled(id, "one", 0.0) for id in ids)
    more = [sampled(id, "one", 0.2) for id in ids]
    assert all(b for a, b in zip(one, more, strict=True) if a)  # a larger share keeps who was in


def test_our_own_name_is_short_and_plain() -> None:
    call = call_for(b"r" * 128, "a b/ü", {}, False, 0.0)
    assert call.id.startswith(b"shadow-rrr") and len(call.id) < 160 and call.headers == {} and call.tenant == "shadow"
    assert call_for(b"r", "a b/ü", {}, False, 0.0).id == b"shadow-r-a-b--"
    assert msgspec.structs.asdict(call)["stream"] is False
