"""Shares of a bandit: who is probably best, floors, a slow start, few moves; and less regret than an equal split."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from statistics import fmean

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from routing.experiments.bandit import MOVED, Posterior, best, floored, shares, top_two
from routing.experiments.words import Design

DESIGN = Design("d", "r", ("a", "b", "c"), (1.0, 1.0, 1.0), primary="schema_valid", mode="bandit", least=50, floor=0.05)
EQUAL = {"a": 1.0, "b": 1.0, "c": 1.0}


def boolean(units: int, share: float) -> Posterior:
    return Posterior(units, share, share * (1 - share) / units)


def test_two_equal_arms_are_equally_likely_and_a_better_one_wins() -> None:
    even = best({"a": boolean(1000, 0.5), "b": boolean(1000, 0.5)}, "boolean", "higher", Random(1))
    assert even["a"] == pytest.approx(0.5, abs=0.03) and sum(even.values()) == pytest.approx(1)
    assert best({"a": boolean(1000, 0.5), "b": boolean(1000, 0.6)}, "boolean", "higher", Random(1))["b"] > 0.999
    assert best({"a": boolean(1000, 0.5), "b": boolean(1000, 0.6)}, "boolean", "lower", Random(1))["a"] > 0.999


def test_the_chance_is_that_of_two_normals() -> None:
    # two means of variance 0.01 that are 0.1 apart: P(a < b) = Phi(0.1 / sqrt(0.02)) = 0.7602
    chances = best({"a": Posterior(5000, 1.0, 0.01), "b": Posterior(5000, 1.1, 0.01)}, "log", "lower", Random(2), draws=40_000)
    assert chances["a"] == pytest.approx(0.7602, abs=0.01)


def test_alike_requests_tell_less() -> None:
    sure = best({"a": boolean(1000, 0.5), "b": boolean(1000, 0.54)}, "boolean", "higher", Random(1))["b"]
    alike = {"a": Posterior(1000, 0.5, 0.25 / 100), "b": Posterior(1000, 0.54, 0.25 / 100)}
    assert best(alike, "boolean", "higher", Random(1))["b"] < sure - 0.1


def test_arms_of_which_nothing_is_known() -> None:
    assert best({}, "mean", "lower", Random(1)) == {}
    assert best({"a": Posterior(0, 0.0, 0.0), "b": Posterior(1, 3.0, 0.0)}, "mean", "lower", Random(1)) == {"a": 0.5, "b": 0.5}
    some = best({"a": boolean(100, 0.9), "b": boolean(100, 0.1), "c": Posterior(0, 0.0, 0.0)}, "boolean", "higher", Random(1))
    assert some["c"] == pytest.approx(1 / 3) and sum(some.values()) == pytest.approx(1)
    none = best({"a": boolean(100, 0.0), "b": boolean(100, 0.0)}, "boolean", "higher", Random(1))
    assert none["a"] == pytest.approx(0.5, abs=0.05)


def test_arms_that_are_just_alike_share() -> None:
    free = best({"a": Posterior(500, 0.0, 0.0), "b": Posterior(500, 0.0, 0.0)}, "mean", "lower", Random(1))
    assert free["a"] == pytest.approx(0.5, abs=0.05)
    paid = best({"a": Posterior(500, 0.0, 0.0), "b": Posterior(500, 0.01, 1e-9)}, "mean", "lower", Random(1))
    assert paid == {"a": 1.0, "b": 0.0}


@given(st.lists(st.floats(min_value=0, max_value=1), min_size=2, max_size=5).filter(lambda one: sum(one) > 0))
def test_top_two_shares_add_up_and_keep_the_order(chances: list[float]) -> None:
    whole = sum(chances)
    named = {str(i): chance / whole for i, chance in enumerate(chances)}
    out = top_two(named)
    assert sum(out.values()) == pytest.approx(1)
    leader = max(named, key=lambda arm: named[arm])
    assert out[leader] >= max(out.values()) - 1e-9
    assert out[leader] <= 1 - 0.4 * (1 - 1e-4) or named[leader] < 0.9


def test_top_two_is_what_playing_it_gives() -> None:
    chances, rng, played = {"a": 0.6, "b": 0.3, "c": 0.1}, Random(4), {"a": 0, "b": 0, "c": 0}
    for _ in range(20_000):
        [first] = rng.choices(list(chances), list(chances.values()))
        while rng.random() < 1:
            [other] = rng.choices(list(chances), list(chances.values()))
            if other != first:
                break
        played[first if rng.random() < 0.5 else other] += 1
    assert {arm: n / 20_000 for arm, n in played.items()} == pytest.approx(top_two(chances), abs=0.015)


def test_floors() -> None:
    assert floored({"a": 1.0, "b": 0.0}, 0.1) == pytest.approx({"a": 0.9, "b": 0.1})
    assert floored({"a": 1.0, "b": 0.0}, 0.5) == floored({"a": 9.0, "b": 0.0}, 0.9) == {"a": 0.5, "b": 0.5}


def test_a_slow_start() -> None:
    early = {"a": boolean(500, 0.9), "b": boolean(49, 0.1), "c": boolean(500, 0.5)}
    assert shares(DESIGN, early, EQUAL, Random(1)) is None
    assert shares(DESIGN, {}, {"a": 1.0}, Random(1)) == pytest.approx({"a": 1 / 3, "b": 1 / 3, "c": 1 / 3})
    late = {**early, "b": boolean(50, 0.1)}
    assert shares(DESIGN, late, EQUAL, Random(1)) == pytest.approx({"a": 0.9, "b": 0.05, "c": 0.05})


def test_weights_stay_where_a_change_is_not_worth_it() -> None:
    known = {"a": boolean(300, 0.9), "b": boolean(300, 0.1), "c": boolean(300, 0.5)}
    assert shares(DESIGN, known, {"a": 0.9 - MOVED / 2, "b": 0.05 + MOVED / 2, "c": 0.05}, Random(1)) is None
    assert shares(DESIGN, known, {}, Random(1)) is not None


Play = Callable[[Random, str], float]


def regret(design: Design, play: Play, means: dict[str, float], units: int, seed: int) -> tuple[float, dict[str, float], int]:
    """Regret against the best arm (0 to 1 of what an equal split has), the least share that each arm ever had, moves of the weights."""
    rng = Random(seed)
    sums = dict.fromkeys(design.arms, (0, 0.0, 0.0))
    weights = dict(zip(design.arms, design.weights, strict=True))
    lowest, moves, lost = dict(weights), 0, 0.0
    target = min(means.values()) if design.metric(design.primary).better == "lower" else max(means.values())
    for n in range(units):
        [arm] = rng.choices(design.arms, [weights[arm] for arm in design.arms])
        value = play(rng, arm)
        count, total, squares = sums[arm]
        sums[arm] = (count + 1, total + value, squares + value * value)
        lost += abs(means[arm] - target)
        if n % 200 == 199:
            known = {arm: Posterior(k, y / k, (yy - y * y / k) / (k - 1) / k) for arm, (k, y, yy) in sums.items() if k > 1}
            new = shares(design, known, weights, rng)
            if new is not None:
                weights, moves = new, moves + 1
                lowest = {arm: min(lowest[arm], share) for arm, share in new.items()}
    equal = units * sum(abs(mean - target) for mean in means.values()) / len(means)
    return lost / equal, lowest, moves


@pytest.mark.parametrize("allocation", ["thompson", "top-two"])
def test_regret_is_clearly_below_an_equal_split_and_floors_are_kept(allocation: str) -> None:
    means = {"a": 0.5, "b": 0.6, "c": 0.45}
    design = msgspec.structs.replace(DESIGN, allocation=allocation)
    outcomes = [regret(design, lambda rng, arm: float(rng.random() < means[arm]), means, 5000, seed) for seed in range(4)]
    assert fmean(lost for lost, _, _ in outcomes) < (0.6 if allocation == "thompson" else 0.85)
    for _, lowest, moves in outcomes:
        assert min(lowest.values()) >= design.floor - 1e-12 and 1 <= moves <= 15


def test_slow_arms_get_less_of_the_latency() -> None:
    means = {"a": 0.0, "b": -0.2, "c": 0.1}  # logs of seconds
    design = msgspec.structs.replace(DESIGN, primary="latency")
    outcomes = [regret(design, lambda rng, arm: rng.gauss(means[arm], 0.6), means, 4000, seed) for seed in range(4)]
    assert fmean(lost for lost, _, _ in outcomes) < 0.5
