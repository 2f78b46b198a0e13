"""Confidence sequences: intervals that hold at all times together, so that one may look whenever one likes. Pure arithmetic.

Source: Waudby-Smith, Arbour, Sinha, Kennedy, Ramdas (2024), "Time-uniform central limit theory and asymptotic confidence sequences",
Annals of Statistics 52(6), section 2.2: Robbins' normal mixture. With n units, standard error se of an estimate and a prior of variance t²
on its true value in units of one standard deviation, v = n t², the half-width is

    se * sqrt((1 + 1/v) * (log(1 + v) + 2 log(1/alpha)))

The one parameter is t², here `TUNE / planned` whatever alpha is: intervals of several alphas lie in each other, and the p value is below
alpha just when the interval of alpha leaves the hypothesis out.
"""

from __future__ import annotations

from math import exp, inf, log, log1p, sqrt
from statistics import NormalDist

# v at the planned number of units. Between 8 and 16 all are alike: with the drift of a fixed test of alpha 0.05 and power 0.9, the
# boundary is crossed before 1.6 times that test's size with probability 0.916 (20,000 simulated Brownian motions of 2,000 steps; 0.928 at
# alpha 0.025); below 4 and beyond 40 with 0.9 or less.
TUNE = 10.0

_NORMAL = NormalDist()


def critical(n: float, alpha: float, planned: float) -> float:
    """The boundary in standard errors after n of `planned` units: an estimate further from the hypothesis than this contradicts it. Falls
    with n until about `planned`, then rises slowly. Two-sided. `inf` before the first unit. ValueError: alpha not in (0, 1), planned not
    positive."""
    if not 0.0 < alpha < 1.0 or not planned > 0.0:
        raise ValueError(f"alpha must be between 0 and 1 and planned positive, not {alpha!r} and {planned!r}")
    if n <= 0.0:
        return inf
    v = n * TUNE / planned
    return sqrt((1.0 + 1.0 / v) * (log1p(v) - 2.0 * log(alpha)))


def radius(se: float, n: float, alpha: float, planned: float) -> float:
    """The half-width of the interval after n units around an estimate of standard error `se`, in the estimate's unit. ValueError as
    `critical`."""
    return se * critical(n, alpha, planned)


def p_value(z: float, n: float, planned: float) -> float:
    """The always-valid p value of an estimate z standard errors from the hypothesis after n units: one over the mixture's likelihood ratio,
    at most 1. Two-sided. The least p over time is valid as well, but the caller keeps it."""
    if n <= 0.0 or not planned > 0.0:
        return 1.0
    v = n * TUNE / planned
    exponent = 0.5 * (log1p(v) - z * z * v / (1.0 + v))
    return exp(exponent) if exponent < 0.0 else 1.0


def two_sided(alpha: float) -> float:
    """The alpha of a two-sided sequence of which each side alone errs with probability at most `alpha` (below 0.5).

    The one-sided test that this stands for mixes over the positive half of the prior: its ratio is 2 F(x) times the two-sided one, F being
    the normal distribution, and on the boundary x² = log(1 + v) + 2 log(1/a) >= 2 log(1/a) for a two-sided a. So 2 alpha F(x) will do,
    with F at the least x (Howard, Ramdas, McAuliffe, Sekhon 2021, "Time-uniform, nonparametric, nonasymptotic confidence sequences",
    Annals of Statistics 49(2), proposition 6: the one-sided normal mixture)."""
    if not 0.0 < alpha < 0.5:
        raise ValueError(f"alpha of one side must be between 0 and 0.5, not {alpha!r}")
    return 2.0 * alpha * _NORMAL.cdf(sqrt(-2.0 * log(2.0 * alpha)))
