"""Two arms compared: p and interval agree, ratios of means against their definition, history never adds variance, errors under peeking."""

from __future__ import annotations

import random
from collections.abc import Callable
from math import exp, sqrt

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from routing.experiments.compare import LEAST_UNITS, Compared, comparable, own, relative, sides
from routing.experiments.moments import Moments
from routing.experiments.sequence import critical
from routing.experiments.words import Estimate, Kind

KINDS: list[Kind] = ["boolean", "mean", "log"]


def drawn(seed: int, kind: Kind, units: int, level: float = 0.3, most: int = 4, history: float = 0.0) -> Moments:
    rng = random.Random(seed)
    moments = Moments()
    for _ in range(units):
        base = rng.gauss(0.0, 1.0)

        def value(base: float = base) -> float:
            if kind == "boolean":
                return float(rng.random() < min(0.95, max(0.02, level + 0.2 * base)))
            number = base + rng.gauss(level, 0.7)
            return number if kind == "log" else exp(number)

        n = rng.randint(1, most)
        past = sum(value() for _ in range(4)) / 4
        moments.change(0, 0.0, n, sum(value() for _ in range(n)), past if rng.random() < history else None)
    return moments


@given(st.integers(0, 10**6), st.sampled_from(KINDS), st.floats(0.001, 0.2), st.booleans(), st.floats(0.05, 0.6))
def test_p_is_below_alpha_just_when_the_interval_leaves_zero_out(seed: int, kind: Kind, alpha: float, history: bool, level: float) -> None:
    control, treated = drawn(seed, kind, 150, 0.3, history=0.8), drawn(seed + 1, kind, 200, level, history=0.8)
    found = relative(control, treated, kind, alpha, 300, history)
    assert found.p is not None and found.change.value is not None
    if found.change.lo is None or found.change.hi is None:
        return
    assert found.change.lo <= found.change.value <= found.change.hi
    assume(abs(found.p - alpha) > 1e-9)
    assert (found.p < alpha) == (not found.change.lo <= 0.0 <= found.change.hi)


@given(st.integers(0, 10**6), st.sampled_from(["boolean", "mean"]), st.booleans())
def test_the_interval_holds_the_ratios_that_the_sequence_does_not_contradict(seed: int, kind: Kind, history: bool) -> None:
    control, treated = drawn(seed, kind, 200, history=1.0), drawn(seed + 1, kind, 200, history=1.0)
    change = relative(control, treated, kind, 0.05, 400, history).change
    assert change.lo is not None and change.hi is not None
    c, t, _ = sides(control, treated, kind, history)
    limit = critical(400, 0.05, 400)

    def contradicted(at: float) -> bool:
        ratio = at + 1.0
        return abs(t.mean - ratio * c.mean) > limit * sqrt(t.variance + ratio * ratio * c.variance)

    for edge, outward in ((change.lo, -1e-6), (change.hi, 1e-6)):
        assert contradicted(edge + outward) and not contradicted(edge - outward)


@given(st.integers(0, 10**6), st.sampled_from(KINDS), st.floats(0.0, 1.0))
def test_history_never_adds_variance(seed: int, kind: Kind, share: float) -> None:
    control, treated = drawn(seed, kind, 120, history=share), drawn(seed + 1, kind, 150, history=share)
    before, after = sides(control, treated, kind, False), sides(control, treated, kind, True)
    assert sum(side.variance for side in after[:2]) <= sum(side.variance for side in before[:2])
    assert 0.0 <= after[2] <= 1.0 and before[2] == 0.0


def test_history_takes_away_what_it_explains() -> None:
    """Values whose mean over the unit is known before but for noise: the variance left is that of the noise."""
    rng = random.Random(4)
    arms = Moments(), Moments()
    for i in range(6000):
        level = rng.gauss(5.0, 1.0)
        arms[i % 2].change(0, 0.0, 1, level + rng.gauss(0.0, 0.5), level)
    assert sides(*arms, "log", True)[2] == pytest.approx(0.8, abs=0.02)


def test_units_without_history_count_as_average_ones() -> None:
    """Of an arm whose units with history are above average by chance, only their part is taken back."""
    rng = random.Random(5)
    arms = Moments(), Moments()
    for i in range(4000):
        level = rng.gauss(0.0, 1.0)
        arms[i % 2].change(0, 0.0, 1, level + (0.2 if i % 2 else 0.0), level if i % 4 < 2 else None)
    control, treated, cuped = sides(*arms, "log", True)
    assert cuped == pytest.approx(0.5, abs=0.05)
    assert treated.mean - control.mean == pytest.approx(0.2, abs=4 * sqrt(control.variance + treated.variance))


def test_the_sign_of_a_negative_control_is_not_turned() -> None:
    control, treated = Moments(), Moments()
    for i in range(400):
        control.change(0, 0.0, 1, -2.0 + (i % 5 - 2) / 10)
        treated.change(0, 0.0, 1, -1.0 + (i % 5 - 2) / 10)
    change = relative(control, treated, "mean", 0.05, 800, False).change
    assert change.value == pytest.approx(0.5)
    assert change.lo is not None and change.hi is not None and 0.4 < change.lo < 0.5 < change.hi < 0.6


def test_a_control_near_zero_has_no_upper_bound() -> None:
    never, often = Moments(), Moments()
    for i in range(500):
        never.change(0, 0.0, 1, 0.0)
        often.change(0, 0.0, 1, float(i % 10 == 0))
    found = relative(never, often, "boolean", 0.05, 1000, False)
    assert found.p is not None and found.p < 0.05
    assert (found.change.value, found.change.hi) == (None, None)
    assert found.change.lo is not None and found.change.lo > 1.0
    wild = Moments()
    for i in range(500):
        wild.change(0, 0.0, 1, 1.0 if i % 2 else -0.999)
    change = relative(wild, often, "mean", 0.05, 1000, False).change
    assert change.value is not None and (change.lo, change.hi) == (None, None)


def test_too_little_says_nothing() -> None:
    few, many = drawn(1, "log", LEAST_UNITS - 1), drawn(2, "log", LEAST_UNITS)
    assert relative(few, many, "log", 0.05, 100, True) == Compared(Estimate(), None, 0.0)
    assert own(few, "log", 0.05, 100).lo is None and own(few, "log", 0.05, 100).value is not None
    assert own(Moments(), "mean", 0.05, 100) == Estimate()
    rare, none = Moments(), Moments()
    for i in range(500):
        rare.change(0, 0.0, 1, float(i < 9))
        none.change(0, 0.0, 1, 0.0)
    assert not comparable(rare, none, "boolean") and comparable(rare, none, "mean")
    assert relative(rare, none, "boolean", 0.05, 100, True).p is None
    same = Moments()
    for _ in range(100):
        same.change(0, 0.0, 1, 3.0)
    assert relative(same, same, "mean", 0.05, 100, True).p is None


def test_own_means_stay_where_they_can_be() -> None:
    for yes in (0, 1, 250, 499, 500):
        moments = Moments()
        for i in range(500):
            moments.change(0, 0.0, 1, float(i < yes))
        share = own(moments, "boolean", 0.05, 500)
        assert share.value == yes / 500 and share.lo is not None and share.hi is not None
        assert 0.0 <= share.lo <= share.value <= share.hi <= 1.0 and share.hi - share.lo > 0.005
    logs = own(drawn(7, "log", 400), "log", 0.05, 400)
    assert logs.lo is not None and logs.hi is not None and logs.value is not None
    assert logs.value / logs.lo == pytest.approx(logs.hi / logs.value)


# Errors under peeking. One run adds unit after unit (or request after request) and looks each time; a run is cheap since only few sums
# change. More runs and more kinds are in `simulate`.

Draw = Callable[[random.Random], float]


def alarms(draw: Draw, kind: Kind, *, runs: int, units: int, planned: int, share: float = 0.5, requests: tuple[int, int] = (1, 1)) -> int:
    """Of so many runs without a difference, how many were told one at any time."""
    rng = random.Random(11)
    count = 0
    for _ in range(runs):
        arms = Moments(), Moments()
        known: list[tuple[int, int, float, float]] = []
        found = False
        for _ in range(units):
            known.append((int(rng.random() < share), 0, 0.0, rng.random()))
            for i in {len(known) - 1, *(rng.randrange(len(known)) for _ in range(rng.randint(*requests) - 1))}:
                arm, n, y, level = known[i]
                more = y + (draw(rng) if rng.random() < 0.5 else draw(random.Random(level)))
                arms[arm].change(n, y, n + 1, more)
                known[i] = arm, n + 1, more, level
                found = found or looked(arms, kind, planned)
            if found:
                count += 1
                break
    return count


def looked(arms: tuple[Moments, Moments], kind: Kind, planned: int) -> bool:
    p = relative(*arms, kind, 0.05, planned, False).p
    return p is not None and p < 0.05


@pytest.mark.parametrize(
    ("draw", "kind"),
    [
        (lambda rng: float(rng.random() < 0.5), "boolean"),
        (lambda rng: float(rng.random() < 0.05), "boolean"),
        (lambda rng: rng.lognormvariate(0.0, 1.0), "mean"),
    ],
)
def test_looking_after_every_unit_raises_few_false_alarms(draw: Draw, kind: Kind) -> None:
    runs = 100
    assert alarms(draw, kind, runs=runs, units=600, planned=500) <= 0.09 * runs  # three of its standard deviations above 3 %


def test_a_small_arm_of_rare_outcomes_raises_few_false_alarms() -> None:
    runs = 40
    assert alarms(lambda rng: float(rng.random() < 0.05), "boolean", runs=runs, units=1500, planned=500, share=0.1) <= 0.05 * runs


def test_small_arms_borrow_the_greater_variance_of_large_ones() -> None:
    """In the small arm nobody said yes, in control every tenth: what varies in control may well vary in the small arm too."""
    control, treated = Moments(), Moments()
    for i in range(2000):
        control.change(0, 0.0, 1, float(i % 10 == 0))
    for _ in range(60):
        treated.change(0, 0.0, 1, 0.0)
    before, after, _ = sides(control, treated, "boolean", False)
    assert before.variance == pytest.approx(control.smoothed)
    assert after.variance == pytest.approx((60 * treated.smoothed * 60 + 100 * control.smoothed * 2000) / (160 * 60))


def test_looking_after_every_request_of_alike_ones_raises_few_false_alarms() -> None:
    runs = 60
    found = alarms(lambda rng: rng.expovariate(1.0), "mean", runs=runs, units=300, planned=300, requests=(2, 6))
    assert found <= 0.1 * runs
