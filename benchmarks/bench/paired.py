"""Two targets compared by pairs: the same prompt to both, one right after the other, in random order. Pure; seeded where chance helps.

What both have in common (the prompt, the machine's mood) falls out of a pair's difference. Shown are the medians of the pairs' differences
(B - A) and ratios (B / A) with 95 % intervals: the wider of two. One lies between order statistics, by the sign test (Conover 1999,
Practical Nonparametric Statistics, 3.4): exact for independent pairs of any distribution, also for few. The other is the percentile
interval of a circular block bootstrap (Politis & Romano 1992; blocks of n^(1/3) pairs, Hall, Horowitz & Jing 1995): it holds where pairs
that follow one another are alike. Both are of the median, so that one stalled request decides nothing.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence

import msgspec

from benchmarks.bench.levels import level
from benchmarks.bench.spread import median_interval, percentile
from benchmarks.bench.times import end, tpot
from benchmarks.bench.words import Timed

METRICS: dict[str, Callable[[Timed], float | None]] = {
    "ttft": lambda timed: None if timed.first is None else timed.first - timed.sent,
    "tpot": tpot,
    "e2e": lambda timed: end(timed) - timed.sent,
}
SEED = 1
_RESAMPLES = 1_000
_FEWEST_RESAMPLES = 200
_WORK = 2_000_000  # values in all resamples of a bootstrap: about a second
_HALF = 0.025  # of what the interval leaves out


__all__ = ["METRICS", "Difference", "Interval", "level", "match", "median", "paired", "shift"]


class Interval(msgspec.Struct, frozen=True):
    """A figure and its 95 % interval; `low` and `high` None: too few pairs (fewer than 6)."""

    value: float
    low: float | None = None
    high: float | None = None


class Difference(msgspec.Struct, frozen=True):
    """One latency of two targets, over `pairs` that both answered whole. `a`, `b`: medians in seconds; `difference`: B - A in seconds,
    `ratio`: B / A, each the median over pairs; None: no pair. `wins`: share of pairs where A was faster, ties half."""

    metric: str
    pairs: int
    a: float | None
    b: float | None
    difference: Interval | None
    ratio: Interval | None
    wins: float | None
    sentence: str


def paired(a: Sequence[Timed], b: Sequence[Timed], *, names: tuple[str, str] = ("A", "B"), seed: int = SEED) -> dict[str, Difference]:
    """By metric (ttft, tpot, e2e), all from the send. Pairs are those of one `index`; pairs of the warm-up, and those that one of both did
    not answer whole, are left out: compare the targets' failures as well. ValueError: an index comes twice on one side."""
    pairs = match(a, b)
    found = {}
    for metric, get in METRICS.items():
        values = [(x, y) for one, other in pairs if (x := get(one)) is not None and (y := get(other)) is not None]
        found[metric] = _difference(metric, values, names, seed)
    return found


def match(a: Sequence[Timed], b: Sequence[Timed]) -> list[tuple[Timed, Timed]]:
    """Good pairs in the order in which they were sent. ValueError: an index comes twice on one side."""
    sides = []
    for side in (a, b):
        found = {timed.index: timed for timed in side}
        if len(found) != len(side):
            raise ValueError("two requests of one side have the same index: pairs cannot be told")
        sides.append(found)
    both = [(timed, sides[1][index]) for index, timed in sides[0].items() if index in sides[1]]
    good = [(one, other) for one, other in both if one.good and other.good and not (one.warm or other.warm)]
    return sorted(good, key=lambda pair: (min(pair[0].sent, pair[1].sent), pair[0].index))


def _difference(metric: str, values: Sequence[tuple[float, float]], names: tuple[str, str], seed: int) -> Difference:
    if not values:
        return Difference(metric, 0, None, None, None, None, None, f"{metric.upper()}: no pair has it on both sides.")
    difference = median([y - x for x, y in values], seed)
    ratios = [y / x for x, y in values if x > 0]
    ratio = median(ratios, seed) if ratios else None
    wins = (sum(x < y for x, y in values) + 0.5 * sum(x == y for x, y in values)) / len(values)
    a, b = (percentile(sorted(side), 0.5) for side in zip(*values, strict=True))
    return Difference(metric, len(values), a, b, difference, ratio, wins, _sentence(metric, names, len(values), difference, ratio))


def _sentence(metric: str, names: tuple[str, str], pairs: int, difference: Interval, ratio: Interval | None) -> str:
    name, (a, b) = metric.upper(), names
    low, high = difference.low, difference.high
    if low is None or high is None:
        return f"{name}: {pairs} pairs are too few for an interval; 6 give one, and a hundred a useful one."
    amount = f"{1000 * abs(difference.value):.3g} ms"
    part = "" if ratio is None else f", {100 * abs(ratio.value - 1):.2g} %"
    span = f"95 % interval of {b} - {a}: {1000 * low:+.3g} to {1000 * high:+.3g} ms, {pairs:,} pairs"
    if low > 0 or high < 0:
        return f"{name}: {b} is {'slower' if low > 0 else 'faster'} than {a} by {amount}{part} ({span})."
    return f"{name}: no difference between {a} and {b} is shown ({span})."


def median(values: Sequence[float], seed: int = SEED) -> Interval:
    """The median of values in the order in which they were taken, with the wider of both intervals. ValueError: there are none. Blocks
    for up to a second for thousands of values."""
    ranked = sorted(values)
    places = median_interval(len(ranked))
    if places is None:
        return Interval(percentile(ranked, 0.5))
    resampled = sorted(percentile(sorted(sample[0]), 0.5) for sample in _resamples([values], seed))
    low, high = percentile(resampled, _HALF), percentile(resampled, 1 - _HALF)
    return Interval(percentile(ranked, 0.5), min(low, ranked[places[0]]), max(high, ranked[places[1]]))


def shift(a: Sequence[float], b: Sequence[float], share: float, seed: int = SEED) -> Interval:
    """How much later B's percentile lies than A's (percentile of B - percentile of A; not that of the differences), values in pairs in the
    order in which they were taken; the interval by the block bootstrap alone. Without an interval where fewer than 10 values lie beyond
    the percentile. ValueError: there are none, or not as many on both sides. Blocks for up to two seconds for thousands of values."""
    if len(a) != len(b):
        raise ValueError(f"values come in pairs, but there are {len(a)} and {len(b)}")
    value = percentile(sorted(b), share) - percentile(sorted(a), share)
    if len(a) * min(share, 1 - share) < 10 * (1 - 1e-9):
        return Interval(value)
    found = sorted(percentile(sorted(y), share) - percentile(sorted(x), share) for x, y in _resamples([a, b], seed))
    return Interval(value, min(value, percentile(found, _HALF)), max(value, percentile(found, 1 - _HALF)))


def _resamples(columns: Sequence[Sequence[float]], seed: int) -> Iterator[list[list[float]]]:
    """Columns of the same rows, drawn anew in blocks of rows that follow one another, the end joined to the beginning."""
    count = len(columns[0])
    block = max(1, round(count ** (1 / 3)))
    rng = random.Random(seed)
    joined = [[*column, *column[: block - 1]] for column in columns]
    for _ in range(max(_FEWEST_RESAMPLES, min(_RESAMPLES, _WORK // count))):
        starts = [int(rng.random() * count) for _ in range(-(-count // block))]
        drawn = []
        for column in joined:
            sample: list[float] = []
            for at in starts:
                sample += column[at : at + block]
            drawn.append(sample[:count])
        yield drawn
