"""One arm against control in one metric, and one arm alone: relative change and mean, each with its confidence sequence. Pure.

The change of a ratio of means is found by Fieller's method (Fieller 1954, "Some problems in interval estimation", JRSS B 16(2)): all
ratios r for which mean - r * control's mean is within the sequence's radius of 0. For each r that is a plain mean, so that the sequence
holds for the ratio as it does for means; where control's mean is far from 0 it equals the delta method's interval, and p is below alpha
just when the interval leaves 0 out. Metrics of kind `log` hold logarithms: there the change is exp(difference) - 1.
"""

from __future__ import annotations

from math import exp, sqrt
from typing import NamedTuple

from routing.experiments.moments import Moments
from routing.experiments.sequence import critical, p_value
from routing.experiments.words import Estimate, Kind

LEAST_UNITS = 50  # of an arm, before anything is said of it
LEAST_OUTCOMES = 10  # of either kind in both arms together, before booleans are compared
LEAST_HISTORY = 100  # units with history in both arms together, before it is used
BORROWED = 100  # units' worth of the other arm's variance that each arm's is mixed with, where the other's is greater


class Compared(NamedTuple):
    """`change`: relative (0.05: 5 % more than control). Where a boolean's control is too near 0 for an upper bound, the lower one may be
    there alone. `p`: always valid; None: nothing can be said. `cuped`: the part of the difference's variance that history took away."""

    change: Estimate
    p: float | None
    cuped: float


class _Side(NamedTuple):
    mean: float
    variance: float


_NOTHING = Compared(Estimate(), None, 0.0)


def relative(control: Moments, treated: Moments, kind: Kind, alpha: float, planned: float, history: bool) -> Compared:
    """How much `treated` differs from `control`. `planned`: units of these two arms that the sequence is tuned for. `history`: variance is
    taken away by what was seen before (CUPED: Deng, Xu, Kohavi, Walker 2013, "Improving the sensitivity of online controlled experiments",
    WSDM), units without any counting as average ones. All of it None: too little was seen."""
    if not comparable(control, treated, kind):
        return _NOTHING
    c, t, cuped = sides(control, treated, kind, history)
    spread = sqrt(c.variance + t.variance)
    if not spread > 0.0:
        return _NOTHING
    units = control.k + treated.k
    p = p_value((t.mean - c.mean) / spread, units, planned)
    limit = critical(units, alpha, planned)
    if kind == "log":
        return Compared(_of_logs(t.mean - c.mean, spread * limit), p, cuped)
    return Compared(_fieller(c, t, limit, kind == "boolean"), p, cuped)


def comparable(control: Moments, treated: Moments, kind: Kind) -> bool:
    """Whether enough was seen for the normal approximation: units of each arm, and both outcomes of a boolean."""
    if min(control.k, treated.k) < LEAST_UNITS:
        return False
    if kind != "boolean":
        return True
    yes = control.total + treated.total
    return LEAST_OUTCOMES <= yes <= control.n + treated.n - LEAST_OUTCOMES


def sides(control: Moments, treated: Moments, kind: Kind, history: bool) -> tuple[_Side, _Side, float]:
    """Mean and its variance of control and treated, after history's part was taken away, and which part of the variance that was."""
    one, two = _side(control, kind), _side(treated, kind)
    c, t = _mixed(one, two, control.k, treated.k), _mixed(two, one, treated.k, control.k)
    if not history or control.h + treated.h < LEAST_HISTORY or not min(control.h, treated.h):
        return c, t, 0.0
    centre = (control.before + treated.before) / (control.h + treated.h)
    before, after = control.past(centre), treated.past(centre)
    spread = before.variance / control.k + after.variance / treated.k
    if not spread > 0.0:
        return c, t, 0.0
    shared = before.covariance / control.k + after.covariance / treated.k
    theta = shared / spread  # the one that leaves the least variance of the difference; 0 is among those, so it never adds any
    whole = c.variance + t.variance
    fewer = [
        _Side(
            side.mean - theta * past.mean,
            # Rounding and booleans' added units apart, no variance goes below 0.
            max(side.variance + theta * (theta * past.variance - 2.0 * past.covariance) / k, side.variance * 1e-6),
        )
        for side, past, k in ((c, before, control.k), (t, after, treated.k))
    ]
    left = fewer[0].variance + fewer[1].variance
    if not left < whole:
        return c, t, 0.0
    return fewer[0], fewer[1], 1.0 - left / whole


def own(moments: Moments, kind: Kind, alpha: float, planned: float) -> Estimate:
    """The mean of one arm with its confidence sequence; `planned`: units of this arm. Of `log` kinds the geometric mean. Bounds None: too
    little was seen; all None: nothing was."""
    if not moments.n:
        return Estimate()
    mean = moments.mean
    value = exp(mean) if kind == "log" else mean
    if moments.k < LEAST_UNITS:
        return Estimate(value)
    limit = critical(moments.k, alpha, planned)
    if kind == "boolean":
        return _share(moments, limit)
    half = limit * sqrt(moments.variance)
    if kind == "log":
        return Estimate(value, exp(mean - half), exp(mean + half))
    return _stretched(mean, half)


def _side(moments: Moments, kind: Kind) -> _Side:
    return _Side(moments.mean, moments.smoothed if kind == "boolean" else moments.variance)


def _mixed(side: _Side, other: _Side, k: int, others: int) -> _Side:
    """An arm's mean with a variance that is shrunken towards the other's, where that is greater. Of skewed values (cost, rare failures) an
    arm whose mean is too low by chance has too low a variance as well, the more so the smaller it is. Without this, in an arm that has a
    tenth of the units, peeking raised 7 % false alarms instead of 5 % (failures of 5 %, exponential and lognormal cost)."""
    one, two = side.variance * k, other.variance * others  # of a unit
    return _Side(side.mean, (k * one + BORROWED * max(one, two)) / ((k + BORROWED) * k))


def _stretched(mean: float, half: float) -> Estimate:
    """A mean with an interval that is wider away from 0, by up to the double: as if the standard deviation grew with the mean. Where values
    are skewed it does, and a mean that is low by chance must not come with a narrow interval."""
    part = half / abs(mean) if mean else 1.0
    more = half / (1.0 - min(part, 0.5))
    return Estimate(mean, mean - half, mean + more) if mean >= 0.0 else Estimate(mean, mean - more, mean + half)


def _of_logs(difference: float, half: float) -> Estimate:
    return Estimate(_grown(difference), _grown(difference - half), _grown(difference + half))


def _grown(difference: float) -> float:
    return exp(min(difference, 700.0)) - 1.0


def _fieller(c: _Side, t: _Side, limit: float, positive: bool) -> Estimate:
    """The relative change from the two means. Control's mean not surely other than 0: no upper bound, and a lower one only for a metric
    that is never below 0 (`positive`)."""
    value = (t.mean - c.mean) / abs(c.mean) if c.mean else None
    square = limit * limit
    a = c.mean * c.mean - square * c.variance
    b = c.mean * t.mean
    d = t.mean * t.mean - square * t.variance
    if a <= 0.0 and not (positive and d > 0.0):
        return Estimate(value)
    # Of the two roots (b -+ root) / a the one that adds numbers of one sign is exact; the other follows from their product, d / a.
    root = sqrt(max(b * b - a * d, 0.0))
    if a <= 0.0:
        return Estimate(value, d / (b + root) - 1.0)
    far = (b + root) / a if b >= 0.0 else (b - root) / a
    near = d / (a * far) if far else 0.0
    low, high = min(near, far) - 1.0, max(near, far) - 1.0
    return Estimate(value, low, high) if c.mean > 0.0 else Estimate(value, -high, -low)


def _share(moments: Moments, limit: float) -> Estimate:
    """A proportion: what both Wilson's interval and that of the smoothed variance cover. The one is right where nearly none or nearly all
    say yes, the other where few do and chance gave many."""
    share = moments.mean
    variance = moments.smoothed
    half = limit * sqrt(variance)
    guess = (moments.total + 1.0) / (moments.n + 2.0)
    count = guess * (1.0 - guess) / variance  # so many independent requests would be as sure
    square = limit * limit / count
    middle = (share + square / 2.0) / (1.0 + square)
    wide = sqrt(square * (share * (1.0 - share) + square / 4.0)) / (1.0 + square)
    return Estimate(share, max(0.0, min(share - half, middle - wide)), min(1.0, max(share + half, middle + wide)))
