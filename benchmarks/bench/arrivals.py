"""When requests are due. Pure: numbers and a generator of random ones in, times out. Times are seconds from the stage's start.

Gaps follow a gamma distribution, as in vLLM's `bench serve` (`--burstiness` there): shape 1 is a Poisson process, smaller shapes come in
bursts, larger ones evenly, infinity at a constant pace.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from itertools import accumulate

from benchmarks.bench.errors import BenchError

MOST = 10_000_000  # times in one schedule
_LEAST_SHAPE, _MOST_SHAPE = 0.01, 1e6  # beyond: all at once, or constant to the eye
_LONGEST = 100 * 86400.0


def parse_arrivals(text: str) -> float:
    """The gamma shape of `poisson` (1), `constant` (infinity) or `gamma:B`. Raises `BenchError`."""
    name, _, value = text.strip().partition(":")
    if not value and name in ("poisson", "constant"):
        return 1.0 if name == "poisson" else math.inf
    try:
        shape = float(value) if name == "gamma" else math.nan
    except ValueError:
        shape = math.nan
    if not _LEAST_SHAPE <= shape <= _MOST_SHAPE and shape != math.inf:
        raise BenchError(
            f"arrivals {text[:40]!r} are not known; write poisson, constant or gamma:B with B from {_LEAST_SHAPE:g} to {_MOST_SHAPE:,.0f}",
            usage=True,
        )
    return shape


def due_times(rate: float, shape: float, count: int, rng: random.Random) -> list[float]:
    """When each of `count` requests is due, ascending. `rate`: requests a second; `shape`: see `parse_arrivals`.

    Gaps have the mean 1/rate. All times are then scaled so that the last one is at exactly count/rate, as vLLM's bench does, so that every
    seed offers the same rate. A Poisson process so scaled is one of which it is known when its last request comes: the others lie evenly
    at random before it. Raises `BenchError`.
    """
    _checked(rate, shape)
    if not 0 <= count <= MOST:
        raise BenchError(f"{count} requests cannot be scheduled; ask for at most {MOST:,}", usage=True)
    length = count / rate
    if length > _LONGEST:
        raise BenchError(
            f"{count} requests at {rate:g} a second take more than {_LONGEST / 86400:.0f} days; ask for fewer or more a second", usage=True
        )
    return _stretched(count, length, shape, rng)


def endless(rate: float, shape: float, rng: random.Random) -> Iterator[float]:
    """Due times without an end, for a stage that ends by the clock. Not scaled: what it offers is `rate` on average. Raises
    `BenchError`."""
    _checked(rate, shape)
    return _endless(rate, shape, rng)


def ramp(first: float, last: float, seconds: float, shape: float, rng: random.Random) -> list[float]:
    """Due times at a rate that goes from `first` to `last` requests a second, in a straight line over `seconds`; ascending.

    A schedule of rate 1 is read on a clock that runs at the wanted rate: the time t of its u-th unit is where
    first * t + (last - first) * t² / (2 * seconds) = u (Çinlar, Introduction to Stochastic Processes, 1975, p. 96).
    Raises `BenchError`.
    """
    if not (math.isfinite(first) and math.isfinite(last) and first >= 0 and last >= 0 and first + last > 0):
        raise BenchError(
            f"a ramp from {first:g} to {last:g} requests a second is none; both must be 0 or more, and one above 0", usage=True
        )
    if not 0 < seconds <= _LONGEST:
        raise BenchError(f"a ramp of {seconds:g} seconds is none; it must be above 0 and below {_LONGEST / 86400:.0f} days", usage=True)
    _checked(1.0, shape)
    units = (first + last) / 2 * seconds
    if units > MOST:
        raise BenchError(f"a ramp of {units:,.0f} requests cannot be scheduled; ask for at most {MOST:,}", usage=True)
    slope = 2 * (last - first) / seconds
    # The root that stays exact where the ramp is flat, and that is defined where it begins or ends at nothing.
    return [
        min(seconds, 2 * unit / (first + math.sqrt(max(0.0, first * first + slope * unit)))) if unit > 0 else 0.0
        for unit in _stretched(round(units), units, shape, rng)
    ]


def _checked(rate: float, shape: float) -> None:
    if not (rate > 0 and math.isfinite(rate)):
        raise BenchError(f"a rate of {rate:g} requests a second is none; it must be above 0", usage=True)
    if not shape > 0:
        raise BenchError(f"a gamma shape of {shape:g} is none; it must be above 0", usage=True)


def _stretched(count: int, length: float, shape: float, rng: random.Random) -> list[float]:
    """`count` times of which the last is `length`."""
    if count and math.isfinite(shape):
        sums = list(accumulate(rng.gammavariate(shape, 1.0) for _ in range(count)))
        whole = sums[-1]
        if whole > 0:  # a shape close to nothing may give gaps of exactly 0 alone
            return [length * (at / whole) for at in sums]
    return [length * (at / count) for at in range(1, count + 1)]


def _endless(rate: float, shape: float, rng: random.Random) -> Iterator[float]:
    at, number, even = 0.0, 0, not math.isfinite(shape)
    while True:
        number += 1
        at = number / rate if even else at + rng.gammavariate(shape, 1.0 / (shape * rate))
        yield at
