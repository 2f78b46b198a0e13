"""The boundary: against closed forms and its own p value, its power by following Brownian motion, its errors under peeking."""

from __future__ import annotations

import random
from math import exp, inf, log, sqrt
from statistics import NormalDist

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routing.experiments.sequence import TUNE, critical, p_value, radius, two_sided

alphas = st.floats(0.0005, 0.2)
NORMAL = NormalDist()


@given(st.floats(-12, 12), st.integers(1, 10**7), st.integers(10, 10**6), alphas)
def test_p_is_below_alpha_just_when_the_boundary_is_crossed(z: float, n: int, planned: int, alpha: float) -> None:
    limit = critical(n, alpha, planned)
    if abs(abs(z) - limit) > 1e-9 * limit:
        assert (p_value(z, n, planned) < alpha) == (abs(z) > limit)


@given(st.integers(1, 10**6), st.integers(10, 10**5))
def test_p_is_one_over_the_ratio_of_the_normal_mixture(n: int, planned: int) -> None:
    """Integrated over the prior numerically: of normal(drift) to normal(0), prior variance TUNE / planned."""
    z, v = 3.0, n * TUNE / planned
    steps = 4000
    wide = 16.0 / steps
    nodes = [-8.0 + (i + 0.5) * wide for i in range(steps)]  # of a standard normal; centred where the integrand is
    peak, narrow = z * sqrt(v) / (1.0 + v), 1.0 / sqrt(1.0 + v)
    total = sum(exp(z * sqrt(v) * x - v * x * x / 2.0) * NORMAL.pdf(x) * wide * narrow for node in nodes for x in [peak + node * narrow])
    assert p_value(z, n, planned) == pytest.approx(min(1.0, 1.0 / total), rel=1e-6)


@given(st.integers(1, 10**6), st.integers(10, 10**5))
def test_intervals_of_smaller_alphas_hold_those_of_greater(n: int, planned: int) -> None:
    radii = [radius(2.0, n, alpha, planned) for alpha in (0.001, 0.01, 0.05, 0.1)]
    assert radii == sorted(radii, reverse=True)
    assert radii[0] == 2.0 * critical(n, 0.001, planned)


def test_the_boundary_is_tightest_near_the_plan() -> None:
    limits = {n: critical(n, 0.05, 1000) for n in range(10, 20_000, 10)}
    assert 0.5 < min(limits, key=limits.__getitem__) / 1000 < 1.2
    assert critical(1000, 0.05, 1000) < 1.001 * min(limits.values())


def test_nothing_is_said_before_the_first_unit() -> None:
    assert critical(0, 0.05, 1000) == radius(1.0, 0, 0.05, 1000) == inf
    assert p_value(9.0, 0, 1000) == p_value(9.0, 5, 0) == 1.0
    assert p_value(60.0, 10_000, 1000) < 1e-300 or p_value(60.0, 10_000, 1000) >= 0.0


@pytest.mark.parametrize(("alpha", "planned"), [(0.0, 10), (1.0, 10), (0.05, 0), (float("nan"), 10)])
def test_senseless_terms_are_refused(alpha: float, planned: float) -> None:
    with pytest.raises(ValueError, match="alpha must be"):
        critical(10, alpha, planned)


@given(st.floats(0.0001, 0.4))
def test_one_side_is_a_little_less_than_half(alpha: float) -> None:
    both = two_sided(alpha)
    assert 0.6 * 2 * alpha < both < 2 * alpha
    # Robbins' one-sided mixture (over positive drifts): its ratio on the boundary of `both` is at least 1 / alpha at any n.
    for v in (0.001, 0.1, 1.0, 10.0, 1e4):
        x = sqrt(log(1.0 + v) + 2.0 * log(1.0 / both))
        assert 2.0 * NORMAL.cdf(x) / both >= 1.0 / alpha * (1.0 - 1e-12)


@pytest.mark.parametrize("alpha", [0.0, 0.5, -1.0])
def test_one_side_has_less_than_one_half(alpha: float) -> None:
    with pytest.raises(ValueError, match="alpha of one side"):
        two_sided(alpha)


def crossings(drift: float, until: float, alpha: float, steps: int, runs: int, seed: int) -> tuple[int, int]:
    """Of `runs` Brownian motions with this drift (looked at at `steps` times up to `until`, planned for all of it) how many crossed the
    upper boundary, and how many either."""
    rng = random.Random(seed)
    wide = until / steps
    bounds = [critical(i, alpha, steps) * sqrt(i * wide) for i in range(1, steps + 1)]
    up = both = 0
    for _ in range(runs):
        at = 0.0
        for bound in bounds:
            at += rng.gauss(drift * wide, sqrt(wide))
            if abs(at) > bound:
                up += at > 0.0
                both += 1
                break
    return up, both


def test_power_is_ninety_percent_within_the_planned_multiple() -> None:
    """Time 1 is the size of a fixed-horizon test of alpha 0.05 and power 0.9."""
    drift = NORMAL.inv_cdf(0.975) + NORMAL.inv_cdf(0.9)
    runs = 3000
    up, _ = crossings(drift, 1.6, 0.05, 200, runs, 1)
    assert up / runs >= 0.9


def test_false_alarms_stay_below_alpha_under_peeking() -> None:
    runs = 1500
    _, both = crossings(0.0, 1.0, 0.05, 400, runs, 2)
    assert both <= 0.05 * runs
