"""Latencies counted in buckets of 1 % relative error, and quantiles of them with intervals that hold at all times together. Pure: no clock.

A bucket's edges are a factor of 1.01 squared apart, so that its middle is at most 1 % off. A sketch holds about a thousand buckets at
most, whatever it has seen, and two sketches add up exactly.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from itertools import accumulate
from math import ceil, exp, isfinite, log, sqrt

import msgspec

from routing.experiments.words import Estimate

LEAST = 1e-4  # seconds: what is faster falls into the first bucket
MOST = 36_000.0  # seconds: what is slower falls into the last
_STEP = 2 * log(1.01)
_LEAST_LOG = log(LEAST)
LAST = ceil(log(MOST / LEAST) / _STEP)  # the number of the last bucket; the first is 0

_Dumped = list[tuple[int, int]]
_packed = msgspec.msgpack.Encoder()
_unpack = msgspec.msgpack.Decoder(_Dumped)


def bucket(seconds: float) -> int:
    """The number of the bucket that a latency falls into. ValueError: it is not a number."""
    if seconds <= LEAST:
        return 0
    if seconds >= MOST:
        return LAST
    if seconds != seconds:
        raise ValueError("a latency must be a number of seconds, not NaN")
    return ceil(log(seconds / LEAST) / _STEP)


def upper(number: int) -> float:
    """The upper edge of a bucket in seconds; it belongs to the bucket."""
    return LEAST * exp(number * _STEP)


def lower(number: int) -> float:
    """The lower edge of a bucket in seconds; it belongs to the bucket below. Of the first: 0."""
    return LEAST * exp((number - 1) * _STEP) if number else 0.0


def spread(p: float, alpha: float, count: float) -> float:
    """How far from p the share of values below the true p-quantile ever gets, but with probability alpha, after `count` values and at all
    counts together: Howard & Ramdas 2022 (Sequential estimation of quantiles, Bernoulli 28), theorem 1, the explicit stitched form."""
    if count < 1:
        return 1.0
    bent = (1.4 * log(log(2.1 * count)) + log(10 / alpha)) / count
    return 1.5 * sqrt(p * (1 - p) * bent) + 0.8 * bent


class Sketch:
    """Counts of latencies by bucket. Owned by whoever made it; mutated by `add` and `merge` alone."""

    __slots__ = ("_counts", "_sorted", "total")

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}
        self._sorted: tuple[list[int], list[int]] | None = None  # bucket numbers and counts up to each, until the next change
        self.total = 0

    def add(self, seconds: float, count: int = 1) -> None:
        """Counts a latency `count` times; a negative count takes away what was added before. ValueError: more than there is, or NaN."""
        self._change(bucket(seconds), count)

    def add_logs(self, values: Iterable[float]) -> None:
        """Counts latencies whose natural logs these are; one at the edge of two buckets may be counted in the other."""
        counts, total = self._counts, 0
        for value in values:
            number = 0 if value <= _LEAST_LOG else min(LAST, ceil((value - _LEAST_LOG) / _STEP))
            counts[number] = counts.get(number, 0) + 1
            total += 1
        self.total += total
        self._sorted = None

    def merge(self, other: Sketch) -> None:
        """Adds all that another sketch has counted."""
        for number, count in other._counts.items():
            self._change(number, count)

    def _change(self, number: int, count: int) -> None:
        left = self._counts.get(number, 0) + count
        if left < 0:
            raise ValueError(f"cannot take {-count} away from a bucket that holds {left - count}")
        if left:
            self._counts[number] = left
        else:
            self._counts.pop(number, None)
        self.total += count
        self._sorted = None

    def dump(self) -> bytes:
        """All of it as bytes (MessagePack: pairs of bucket and count, sorted): equal sketches give equal bytes."""
        return _packed.encode(sorted(self._counts.items()))

    @classmethod
    def load(cls, dumped: bytes) -> Sketch:
        """What `dump` gave. ValueError: it is something else."""
        sketch = cls()
        for number, count in _unpack.decode(dumped):
            if not 0 <= number <= LAST or count < 1:
                raise ValueError(f"a latency sketch holds {count} in bucket {number}: the file was not written by this program")
            sketch._change(number, count)
        return sketch

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sketch) and self._counts == other._counts

    __hash__ = None  # type: ignore[assignment]  # it changes

    def _order(self) -> tuple[list[int], list[int]]:
        if self._sorted is None:
            numbers = sorted(self._counts)
            self._sorted = numbers, list(accumulate(self._counts[n] for n in numbers))
        return self._sorted

    def _holding(self, rank: int) -> int:
        """The bucket of the value with this rank, counted from 1."""
        numbers, upto = self._order()
        return numbers[bisect_left(upto, rank)]

    def quantile(self, p: float) -> float | None:
        """The p-quantile in seconds, at most 1 % off (within 0.1 ms to 10 h). None: nothing was counted."""
        if not self.total:
            return None
        number = self._holding(max(1, ceil(p * self.total)))
        return sqrt(lower(number) * upper(number)) if number else LEAST

    def interval(self, p: float, alpha: float, deff: float = 1.0) -> tuple[float | None, float | None]:
        """Where the true p-quantile is, in seconds, with probability 1 - alpha at all times together. The edges of buckets are taken
        outward. `deff`: the design effect, by which the count is divided where requests of one unit are alike. None: too little was seen
        to say anything on that side."""
        if not self.total:
            return None, None
        off = spread(p, alpha, self.total / max(1.0, deff))
        below, above = p - off, p + off
        lo = lower(self._holding(max(1, ceil(below * self.total)))) if below > 0 else None
        hi = None
        if above < 1:
            last = self._holding(min(self.total, int(above * self.total) + 1))
            hi = upper(last) if last < LAST else None
        return lo, hi

    def estimate(self, p: float, alpha: float, deff: float = 1.0) -> Estimate:
        """The p-quantile with its interval, in seconds."""
        lo, hi = self.interval(p, alpha, deff)
        return Estimate(self.quantile(p), lo, hi)

    def buckets(self, limit: int = 60) -> list[tuple[float, int]]:
        """For a plot: at most `limit` (at least 1) bars as (upper bound in seconds, count), equally wide on a log axis and without holes
        between the first and the last."""
        if not self.total:
            return []
        first, last = min(self._counts), max(self._counts)
        wide = -(-(last - first + 1) // limit)
        return list(self._bars(first, last, wide))

    def _bars(self, first: int, last: int, wide: int) -> Iterator[tuple[float, int]]:
        for start in range(first, last + 1, wide):
            yield upper(start + wide - 1), sum(self._counts.get(n, 0) for n in range(start, start + wide))


def ratio(control: Sketch, treated: Sketch, p: float, alpha: float, deffs: tuple[float, float] = (1.0, 1.0)) -> Estimate:
    """The relative change of a quantile from control to treated (0.05: 5 % more), with its interval at all times together: both quantiles'
    own intervals at alpha / 2, so that both hold with probability 1 - alpha."""
    a, b = control.quantile(p), treated.quantile(p)
    if a is None or b is None:
        return Estimate()
    a_lo, a_hi = control.interval(p, alpha / 2, deffs[0])
    b_lo, b_hi = treated.interval(p, alpha / 2, deffs[1])
    lo = b_lo / a_hi - 1 if b_lo is not None and a_hi is not None else None
    hi = b_hi / a_lo - 1 if b_hi is not None and a_lo else None
    return Estimate(b / a - 1, lo, hi if hi is not None and isfinite(hi) else None)
