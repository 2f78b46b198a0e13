"""Sizes of experiments: against published formulas, and the sequence's factor against walks."""

from __future__ import annotations

from math import exp, log, sqrt
from random import Random
from statistics import NormalDist

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from routing.experiments.moments import Moments
from routing.experiments.power import Baseline, baseline, days, detectable, needed, of_boolean, outlook, sequential_factor, toward
from routing.experiments.sequence import critical
from routing.experiments.words import Design

EVEN = (0.5, 0.5)


# Made with statsmodels 0.15.0: NormalIndPower().solve_power(0.1, 0.05, 0.9, ratio=1), (0.03, 0.025, 0.8, ratio=0.25), and
# normal_sample_size_one_tail(0.012, 0.9, 0.025, v, v) with v = sqrt(0.12 0.88 + 0.132 0.868): units of the first arm
def test_fixed_sizes_are_the_known_ones() -> None:
    mean = Baseline("mean", 1.0, 1.0)
    assert needed(mean, 0.1, EVEN, 0.05, 0.9, fixed=True) == pytest.approx(2 * 2101.483882, abs=1)
    assert needed(mean, 0.03, (0.8, 0.2), 0.025, 0.8, fixed=True) == pytest.approx(1.25 * 52805.753500, abs=1)
    assert needed(of_boolean(0.12), 0.1, EVEN, 0.05, 0.9, fixed=True) == pytest.approx(2 * 16065.849861, abs=1)


def test_logs_are_compared_by_their_difference() -> None:
    logs = Baseline("log", -3.0, 0.8)
    plain = Baseline("mean", 1.0, 0.8)
    assert needed(logs, exp(0.1) - 1, EVEN, 0.05, 0.9, fixed=True) == needed(plain, 0.1, EVEN, 0.05, 0.9, fixed=True)


def test_alike_requests_need_more_units_than_independent_ones() -> None:
    one, alike, apart = (of_boolean(0.3, *how) for how in ((1, 0.0), (10, 1.0), (10, 0.0)))
    assert alike.variance == pytest.approx(one.variance) and apart.variance == pytest.approx(one.variance / 10)


def test_more_arms_need_more_at_a_smaller_alpha_each() -> None:
    mean = Baseline("mean", 1.0, 1.0)
    three = needed(mean, 0.1, (1, 1, 1), 0.05, 0.9, fixed=True)
    assert three == pytest.approx(1.5 * needed(mean, 0.1, (1, 1), 0.025, 0.9, fixed=True), abs=2)
    lopsided = needed(mean, 0.1, (8, 1, 1), 0.05, 0.9, fixed=True)
    assert lopsided > three


@pytest.mark.parametrize(("alpha", "power"), [(0.05, 0.9), (0.025, 0.8), (0.01, 0.9)])
def test_the_sequence_needs_what_walks_need(alpha: float, power: float) -> None:
    """Random walks of small steps cross the boundary by the computed factor with the wanted power. Steps find a little less than Brownian
    motion."""
    factor, rng, runs, steps, crossed = sequential_factor(alpha, power), Random(5), 1500, 300, 0
    drift = NormalDist().inv_cdf(1 - alpha / 2) + NormalDist().inv_cdf(power)
    dt = factor / steps
    edges = [critical(k * dt, alpha, 1.0) * sqrt(k * dt) for k in range(1, steps + 1)]
    for _ in range(runs):
        at = 0.0
        for edge in edges:
            at += rng.gauss(drift * dt, sqrt(dt))
            if at > edge:
                crossed += 1
                break
    assert crossed / runs == pytest.approx(power, abs=3.3 * sqrt(power * (1 - power) / runs) + 0.005)


def test_a_power_next_to_one_is_a_number_too() -> None:
    assert 1 < sequential_factor(0.05, 1 - 1e-12) < 20


def test_the_factor_is_within_the_bar_and_grows_when_badly_tuned() -> None:
    best = sequential_factor(0.05, 0.9)
    assert 1.3 < best <= 1.6
    assert best < sequential_factor(0.05, 0.9, 20) and best < sequential_factor(0.05, 0.9, 0.02)
    assert sequential_factor(0.05, 0.9, 1e-30) < 5 and sequential_factor(0.05, 0.9, 1e9) > 50


@settings(max_examples=20)
@given(
    st.sampled_from(["boolean", "mean", "log"]), st.integers(min_value=500, max_value=10**7), st.sampled_from([(1, 1), (3, 1), (2, 1, 1)])
)
def test_what_can_be_seen_needs_just_what_is_there(kind: str, units: int, shares: tuple[int, ...]) -> None:
    base = Baseline(kind, 0.2, 0.16)  # type: ignore[arg-type]
    effect = detectable(base, units, shares, 0.05, 0.9, planned=units)
    assert effect is not None
    assert needed(base, effect, shares, 0.05, 0.9, planned=units) == pytest.approx(units, rel=0.02)


def test_what_cannot_be_seen() -> None:
    assert detectable(of_boolean(0.98), 50, EVEN, 0.05, 0.9, planned=50) is None
    assert detectable(of_boolean(0.5), 0, EVEN, 0.05, 0.9, planned=50) is None


@pytest.mark.parametrize(
    ("base", "effect", "shares", "alpha", "said"),
    [
        (of_boolean(0.5), 0.0, EVEN, 0.05, "not 0"),
        (of_boolean(0.5), -1.0, EVEN, 0.05, "above -1"),
        (of_boolean(0.5), 1.5, EVEN, 0.05, "between 0 and 1"),
        (of_boolean(0.5), 0.1, (1.0,), 0.05, "two arms"),
        (of_boolean(0.5), 0.1, (1.0, 0.0), 0.05, "above 0"),
        (of_boolean(0.5), 0.1, EVEN, 0.0, "alpha"),
        (Baseline("mean", 0.0, 1.0), 0.1, EVEN, 0.05, "mean of 0"),
        (Baseline("mean", 1.0, 0.0), 0.1, EVEN, 0.05, "never varies"),
    ],
)
def test_what_makes_no_sense_is_said(base: Baseline, effect: float, shares: tuple[float, ...], alpha: float, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        needed(base, effect, shares, alpha, 0.9)


def test_a_share_of_nothing_or_all_is_no_baseline() -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        of_boolean(1.0)


def test_days() -> None:
    assert days(1000, 400, 100.0) == 6.0 and days(1000, 1000, None) == 0.0 and days(1000, 0, 0.0) is None and days(1, 0, None) is None


def test_the_outlook_of_an_experiment() -> None:
    design, control, rng = Design("d", "r", ("a", "b"), (1.0, 1.0), effect=0.1, planned=2000, least=100), Moments(), Random(1)
    assert outlook(design, control, 0, None).needed is None
    for _ in range(400):
        control.change(0, 0.0, 2, 2 * rng.gauss(log(0.5), 0.5))
    seen = outlook(design, control, 800, 50.0)
    expected = 2 * 2 * 0.25 * 10.507 / log(0.9) ** 2
    assert seen.needed == pytest.approx(expected * 1.537, rel=0.2) and seen.detectable is not None and 0.08 < seen.detectable < 0.3
    assert seen.days == pytest.approx((seen.needed - 800) / 50) and seen.rate == 50.0
    cut = outlook(design, control, 800, 50.0, cuped=0.5)
    assert cut.needed is not None and cut.needed == pytest.approx(seen.needed / 2, rel=0.1)
    assert outlook(msgspec.structs.replace(design, effect=3.0, weights=(9.0, 1.0)), control, 800, None).needed == 1000  # least of each arm
    assert outlook(msgspec.structs.replace(design, weights=(1.0, 0.0)), control, 800, 5.0).needed is None


def test_an_effect_without_room_is_looked_for_in_the_other_direction() -> None:
    assert toward(0.05, "higher", of_boolean(0.98)) == -0.05 and toward(0.05, "higher", of_boolean(0.9)) == 0.05
    assert toward(0.05, "lower", Baseline("log", 0.0, 1.0)) == -0.05


def test_a_baseline_of_what_was_seen() -> None:
    one = Moments()
    assert baseline(one, "mean") is None
    for value in (1.0, 2.0, 3.0):
        one.change(0, 0.0, 1, value)
    assert baseline(one, "mean", 0.5) == Baseline("mean", 2.0, pytest.approx(0.5))
