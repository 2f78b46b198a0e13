"""How values spread: percentiles that enough samples carry, and an interval of the median. Pure; blocks for as long as sorting takes.

A percentile is the linear interpolation between order statistics (Hyndman & Fan 1996, type 7, numpy's default). It is told where at least
10 samples lie beyond it, the median from 5 on: fewer say more about chance than about the server. The interval of the median is one
between two order statistics, by the binomial distribution of how many samples lie below the median (David & Nagaraja 2003, Order
Statistics, 7.1): it holds for any distribution of independent samples, with 95 % or more.
"""

from __future__ import annotations

import math
import statistics
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from itertools import accumulate

import msgspec

from benchmarks.bench.words import Spread

CONFIDENCE = 0.95
NEEDED = {"p50": 5, "p90": 100, "p95": 200, "p99": 1_000, "p999": 10_000}  # samples for a percentile
SHARES = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99, "p999": 0.999}


def spread(values: Sequence[float]) -> Spread:
    """Of independent samples. ValueError: one is not finite."""
    if not all(map(math.isfinite, values)):
        raise ValueError("a spread is taken of finite numbers only: a stamp is missing or broken")
    ranked = sorted(values)
    count = len(ranked)
    if not count:
        return Spread(0)
    mean = math.fsum(ranked) / count
    squares = math.fsum((x - mean) ** 2 for x in ranked)
    interval = median_interval(count)
    return Spread(
        count,
        mean=mean,
        deviation=math.sqrt(squares / (count - 1)) if count > 1 else None,
        most=ranked[-1],
        low=ranked[interval[0]] if interval else None,
        high=ranked[interval[1]] if interval else None,
        **_percentiles(count, ranked.__getitem__),
    )


def weighted(pairs: Iterable[tuple[float, int]]) -> Spread:
    """The spread of values that each stand for so many samples, the same as of a list that repeats them, whatever the weights' size. No
    interval of the median: samples that share a value are not independent. Weights below 1 count nothing. ValueError as `spread`."""
    ranked = sorted((value, weight) for value, weight in pairs if weight > 0)
    if not all(math.isfinite(value) for value, _ in ranked):
        raise ValueError("a spread is taken of finite numbers only: a stamp is missing or broken")
    if not ranked:
        return Spread(0)
    ends = list(accumulate(weight for _, weight in ranked))
    count = ends[-1]
    mean = math.fsum(value * weight for value, weight in ranked) / count
    squares = math.fsum((value - mean) ** 2 * weight for value, weight in ranked)
    return Spread(
        count,
        mean=mean,
        deviation=math.sqrt(squares / (count - 1)) if count > 1 else None,
        most=ranked[-1][0],
        **_percentiles(count, lambda i: ranked[bisect_right(ends, i)][0]),
    )


def percentile(ranked: Sequence[float], share: float) -> float:
    """Of sorted values, however few. ValueError: there are none."""
    if not ranked:
        raise ValueError("there is no percentile of nothing")
    return _interpolated(len(ranked), share, ranked.__getitem__)


def _percentiles(count: int, at: Callable[[int], float]) -> dict[str, float | None]:
    return {name: _interpolated(count, share, at) if count >= NEEDED[name] else None for name, share in SHARES.items()}


def _interpolated(count: int, share: float, at: Callable[[int], float]) -> float:
    place = (count - 1) * share
    low = min(int(place), count - 1)
    part = place - low
    here = at(low)
    return here if part <= 0 else here + (at(min(low + 1, count - 1)) - here) * part


@lru_cache(maxsize=1024)
def median_interval(count: int, confidence: float = CONFIDENCE) -> tuple[int, int] | None:
    """The places, from 0, of the two order statistics that hold the median with at least this confidence, as near as can be. None: there
    are too few samples (95 % takes 6)."""
    tail = (1.0 - confidence) / 2
    place = -1  # P(fewer than place + 1 samples lie below the median) is at most the tail
    low, high = 0, (count - 1) // 2
    while low <= high:
        middle = (low + high) // 2
        if _at_most(middle, count) <= tail:
            place, low = middle, middle + 1
        else:
            high = middle - 1
    return (place, count - 1 - place) if place >= 0 else None


def _at_most(k: int, n: int) -> float:
    """P(Binomial(n, 1/2) <= k), summed downwards until nothing is added: about sqrt(n) terms where it matters."""
    term = math.exp(math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) - n * math.log(2))
    total = term
    for i in range(k, 0, -1):
        term *= i / (n - i + 1)
        total += term
        if term < total * 1e-17:
            break
    return min(1.0, total)


def merge(spreads: Sequence[Spread]) -> Spread:
    """Of repeats: `count` is their sum, `most` the greatest, every other figure the median of those that the repeats have. Percentiles of
    all samples together would let one slow repeat hide among the others. A figure that fewer than half of the repeats have is None."""
    names = [name for name in Spread.__struct_fields__ if name not in ("count", "most")]
    middle = {name: middle_of([getattr(one, name) for one in spreads]) for name in names}
    most = [one.most for one in spreads if one.most is not None]
    return msgspec.structs.replace(Spread(sum(one.count for one in spreads)), most=max(most, default=None), **middle)


def middle_of(values: Sequence[float | None]) -> float | None:
    """The median of what is known. None: fewer than half are."""
    known = [value for value in values if value is not None]
    return statistics.median(known) if known and 2 * len(known) >= len(values) else None
