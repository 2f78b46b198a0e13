"""How many units an experiment needs for the effect it looks for, what it could see with those it has, and how many days that takes. Pure.

A fixed test of size alpha that is looked at once needs (z(1 - alpha/2) + z(power))² v / d² units for a difference d. A sequence that may be
looked at whenever one likes needs more, `sequential_factor` times as many at most, and on average fewer. With several arms each is
compared with control at alpha / (arms - 1), as `analyse` does it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from math import ceil, exp, isfinite, log, log1p, pi, sqrt
from operator import mul
from statistics import NormalDist

import msgspec

from routing.experiments.moments import Moments
from routing.experiments.sequence import critical
from routing.experiments.words import Better, Design, Kind, Outlook

_NORMAL = NormalDist()
_STEPS = 64  # of time, in the recursion
_FINE = 3  # points of its grid in one step's standard deviation
_SURE = 37.0  # e to the power of minus that is nothing beside 1
_FAR = 12.0  # |log| of planned over fixed size, beyond which nothing changes for people


class Baseline(msgspec.Struct, frozen=True):
    """What a metric is like without the change: its mean over requests and the variance of one unit's part in it (the variance of the mean
    times the number of units). Of `log` kinds: of logs."""

    kind: Kind
    mean: float
    variance: float


def of_boolean(share: float, requests: float = 1.0, alike: float = 0.0) -> Baseline:
    """A share of yes among units that have `requests` requests each, which agree with correlation `alike` (0: not at all, 1: wholly).
    ValueError: share not between 0 and 1."""
    if not 0.0 < share < 1.0:
        raise ValueError(f"the baseline of a boolean metric is a share between 0 and 1, not {share!r}")
    return Baseline("boolean", share, share * (1 - share) * (1 + (requests - 1) * alike) / requests)


def baseline(moments: Moments, kind: Kind, cuped: float = 0.0) -> Baseline | None:
    """From what was seen; `cuped`: the part of the variance that history takes away. None: fewer than two units, or all are alike."""
    variance = moments.variance * moments.k
    if not isfinite(variance) or variance <= 0:
        return None
    return Baseline(kind, moments.mean, variance * (1 - cuped))


def needed(
    base: Baseline,
    effect: float,
    shares: Sequence[float],
    alpha: float,
    power: float,
    *,
    planned: float | None = None,
    fixed: bool = False,
) -> int:
    """Units in all for a relative effect (-0.05: 5 % less), so that every arm's comparison with control finds it with this power. `shares`
    of the arms, control first, of any scale. `planned`: units in all that the sequence is tuned for; None: for just this. `fixed`: for a
    test that is looked at once, instead. ValueError: an effect of 0, one that makes a share leave 0 to 1, a share of 0, ..."""
    level = _level(shares, alpha, power)
    whole = sum(shares)
    most = 0.0
    for share in shares[1:]:
        once = _once(base, effect, shares[0] / whole, share / whole, level, power)
        factor = 1.0 if fixed else sequential_factor(level, power, 1.0 if planned is None else planned / once)
        most = max(most, once * factor)
    return ceil(most)


def detectable(base: Baseline, units: int, shares: Sequence[float], alpha: float, power: float, *, planned: float) -> float | None:
    """The smallest relative increase that `units` units in all would show with this power, in the arm that sees least. None: no increase
    can be seen. ValueError as `needed`."""
    level = _level(shares, alpha, power)
    if units <= 0:
        return None
    factor = 1.5
    for _ in range(4):  # what is seen with these units is what a fixed test of units / factor sees
        factor = sequential_factor(level, power, planned * factor / units)

    def enough(effect: float) -> bool:
        try:
            return needed(base, effect, shares, alpha, power, fixed=True) * factor <= units
        except ValueError:
            return False  # a share above 1

    low, high = 1e-6, 1e-6
    while not enough(high):
        low, high = high, high * 2
        if high > 1e3 or (base.kind == "boolean" and base.mean * (1 + low) >= 1):
            return None
    for _ in range(20):
        middle = (low + high) / 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def days(wanted: int, have: int, rate: float | None) -> float | None:
    """Days until there are `wanted` units, at `rate` new ones a day. 0: they are there. None: they do not come."""
    if have >= wanted:
        return 0.0
    return (wanted - have) / rate if rate is not None and rate > 0 else None


def outlook(design: Design, control: Moments, units: int, rate: float | None, cuped: float = 0.0) -> Outlook:
    """What the experiment can still find out in its primary metric. `control`: control's moments of it; `units`: in all arms; `rate`: new
    units a day; `cuped`: the part of the variance that history takes away."""
    metric = design.metric(design.primary)
    base = baseline(control, metric.kind, cuped)
    if base is None or (metric.kind != "log" and base.mean == 0):
        return Outlook(rate=rate)
    terms = design.weights, design.alpha, design.power
    try:
        wanted = needed(base, toward(design.effect, metric.better, base), *terms, planned=design.planned)
        seen = detectable(base, units, *terms, planned=design.planned)
    except ValueError:
        return Outlook(rate=rate)  # weights of 0, or a share that cannot change that much
    wanted = max(wanted, ceil(design.least * sum(design.weights) / min(design.weights)))
    return Outlook(wanted, seen, rate, days(wanted, units, rate))


def toward(effect: float, better: Better, base: Baseline) -> float:
    """The signed effect in the better direction; in the worse one where a better one has no room (98 % and 5 % more)."""
    signed = effect if better == "higher" else -effect
    return -signed if signed <= -1 or (base.kind == "boolean" and base.mean * (1 + signed) >= 1) else signed


def _level(shares: Sequence[float], alpha: float, power: float) -> float:
    if len(shares) < 2 or min(shares) <= 0:
        raise ValueError(f"an experiment needs at least two arms with shares above 0, not {list(shares)}")
    if not 0 < alpha < 1 or not alpha < power < 1:
        raise ValueError(f"alpha must be between 0 and 1 and power between alpha and 1, not {alpha!r} and {power!r}")
    return alpha / (len(shares) - 1)


def _once(base: Baseline, effect: float, control: float, treated: float, alpha: float, power: float) -> float:
    """Units in all for a test of two arms that is looked at once."""
    if effect == 0 or effect <= -1:
        raise ValueError(f"the effect must be above -1 (-100 %) and not 0, not {effect!r}")
    difference = log1p(effect) if base.kind == "log" else base.mean * effect
    after = base.variance
    if base.kind == "boolean":
        share = base.mean * (1 + effect)
        if not 0 < share < 1 or not 0 < base.mean < 1:
            raise ValueError(f"a share of {base.mean:g} cannot change by {effect:+.1%}: it must stay between 0 and 1")
        after *= share * (1 - share) / (base.mean * (1 - base.mean))
    if difference == 0:
        raise ValueError("a mean of 0 has no relative change: take another metric")
    if not base.variance > 0:
        raise ValueError("a metric that never varies needs no experiment: take another metric")
    reach = _NORMAL.inv_cdf(1 - alpha / 2) + _NORMAL.inv_cdf(power)
    return reach * reach * (base.variance / control + after / treated) / (difference * difference)


def sequential_factor(alpha: float, power: float, tuned: float = 1.0) -> float:
    """How many times the units of a fixed test the confidence sequence needs to find the same effect with the same power by then, looked at
    all the time. `tuned`: the units it is tuned for over those of the fixed test. Computed by following Brownian motion with the fixed
    test's drift up to the sequence's boundary; some tenths of a second the first time, then remembered."""
    return _factor(alpha, power, round(10 * min(_FAR, max(-_FAR, log(tuned)))))


@lru_cache(maxsize=256)
def _factor(alpha: float, power: float, tenths: int) -> float:
    tuned = exp(tenths / 10)
    drift = _NORMAL.inv_cdf(1 - alpha / 2) + _NORMAL.inv_cdf(power)
    latest = _latest(alpha, power, tuned, drift)
    step = latest / _STEPS
    before, time = 0.0, 0.0
    for time, crossed in enumerate(_crossings(alpha, tuned, drift, step), 1):
        if crossed >= power:
            part = (power - before) / (crossed - before) if crossed > before else 1.0
            return (time - 1 + part) * step
        before = crossed
    return time * step


def _latest(alpha: float, power: float, tuned: float, drift: float) -> float:
    """When the motion is beyond the boundary with this power, whatever it did before: the crossing is never later."""
    reach = _NORMAL.inv_cdf(power)
    low, high = 0.0, 1.0
    while drift * sqrt(high) - critical(high, alpha, tuned) < reach:
        low, high = high, high * 2
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if drift * sqrt(middle) - critical(middle, alpha, tuned) < reach else (low, middle)
    return high


def _crossings(alpha: float, tuned: float, drift: float, step: float) -> Iterator[float]:
    """The probability to have crossed the upper boundary by the end of each step: the density of paths that have not is carried from step
    to step on a grid (Armitage, McPherson, Rowe 1969, Repeated significance tests on accumulating data), with the Brownian bridge's chance
    to have crossed between two points of time. The lower boundary is crossed by nobody who drifts up this fast."""
    wide = sqrt(step) / _FINE
    reach = 5 * _FINE
    kernel = [exp(-((i * wide - drift * step) ** 2) / (2 * step)) * wide / sqrt(2 * pi * step) for i in range(-reach, 2 * reach + 1)]
    edges = [0.0, *(critical(k * step, alpha, tuned) * sqrt(k * step) for k in range(1, _STEPS + 1))]
    spread, margin = kernel[::-1], [0.0] * (3 * reach)
    low, mass = 0, [1.0]  # the first point of the grid that holds anything, and what it and those after it hold
    for k in range(1, _STEPS + 1):
        edge = edges[k]
        first, last = low - reach, min(ceil(edge / wide) - 1, low + len(mass) - 1 + 2 * reach)
        padded = [*margin, *mass, *margin]
        following = [sum(map(mul, padded[at : at + len(spread)], spread)) for at in range(last - first + 1)]
        if k > 1:  # within the first step next to nobody crosses
            for i in range(low + len(mass) - 1, low - 1, -1):
                room, weight = 2 * (edges[k - 1] - i * wide) / step, mass[i - low]
                for j in range(min(last, i + 2 * reach), i - reach - 1, -1):
                    far = room * (edge - j * wide)
                    if far > _SURE:
                        break
                    following[j - first] -= weight * kernel[j - i + reach] * exp(-far)
        held = [at for at, weight in enumerate(following) if weight > 1e-12]
        if not held:  # all have crossed
            yield 1.0
            return
        low, mass = first + held[0], following[held[0] : held[-1] + 1]
        yield 1 - sum(mass)
