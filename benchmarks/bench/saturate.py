"""When a server is saturated, and up to which rate it keeps up. Pure: no clock, no state.

Under more load than a server can answer, requests pile up: those under way grow, and so does the time to the first token, for as long as
the load lasts. Both slopes must be positive beyond chance, as GuideLLM has it. Requests that follow one another are not independent, so
that a plain regression sees slopes in any queue's ups and downs. Here means over equal blocks of time are fitted (batch means: Law 2015,
Simulation Modeling and Analysis, 9.5.3), and the slope's variance is widened by what autocorrelation is left between the blocks' residuals
((1 + r) / (1 - r), Wilks 2019, Statistical Methods in the Atmospheric Sciences, 5.2.4).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate, pairwise
from math import inf

from benchmarks.bench.student import quantile
from benchmarks.bench.times import start
from benchmarks.bench.words import Figures, Timed

BLOCKS = 10
LEAST_SECONDS = 30.0
LEAST_REQUESTS = 100
KEPT = 0.95  # of the offered rate that must be answered for the rate to be kept
_CERTAIN = 0.95
_VERY_CERTAIN = 0.999
_FEWEST = 6  # blocks with something in them
_GROWTH = 0.01  # of the requests that came: a pile that grows by less than that is none
_MUCH_GROWTH = 1 - KEPT
_FIRST = 0.1  # of the requests, whose answers end the ramp

_Request = tuple[float, float, float]  # when it began, when it was answered (never: infinity), its time to the first token (none: -1)


def saturated(timed: Sequence[Timed], seconds: float) -> bool:
    """Whether requests pile up. `timed`: all that have begun, answered or not, by the stage's clock; `seconds`: now, by the same clock.
    False while there are under 30 s and under 100 requests. Those of the warm-up are load, but not looked at. Costs a sort."""
    began, counted = _seen(timed, seconds)
    if _span(counted) < LEAST_SECONDS and len(counted) < LEAST_REQUESTS:
        return False
    return _piles_up(began, counted, _GROWTH, _CERTAIN)


def hopeless(timed: Sequence[Timed], seconds: float) -> bool:
    """Whether a stage can be ended early: `saturated`, but asked again and again while it runs, when a queue that keeps up has many chances
    to look as if it did not. So it takes 99.9 %, a pile that grows by 5 % of what comes, 30 s and 100 requests. Of simulated queues under
    80 % load 1 % are ended so in some minutes, under 150 % load nine of ten. Takes some milliseconds for 1,000 requests."""
    began, counted = _seen(timed, seconds)
    if _span(counted) < LEAST_SECONDS or len(counted) < LEAST_REQUESTS:
        return False
    return _piles_up(began, counted, _MUCH_GROWTH, _VERY_CERTAIN)


def _seen(timed: Sequence[Timed], seconds: float) -> tuple[list[_Request], list[_Request]]:
    """What has begun by now, and what counts of it, by when it began."""
    began, counted = [], []
    for one in timed:
        since = start(one)
        if 0 < since <= seconds:
            request = (since, one.done if one.done > 0 else inf, one.stamps[0] - since if one.stamps else -1.0)
            began.append(request)
            if not one.warm:
                counted.append(request)
    counted.sort()
    return began, counted


def _span(counted: Sequence[_Request]) -> float:
    return counted[-1][0] - counted[0][0] if counted else 0.0


def _piles_up(began: Sequence[_Request], counted: Sequence[_Request], growth: float, certain: float) -> bool:
    low, high = _ramped(counted), counted[-1][0]
    if high <= low:
        return False
    pile = _pile(began, low, high)
    came = sum(since > low for since, _, _ in counted)
    if _slope(pile)[0] * BLOCKS < growth * came or not grows(pile, certain):
        return False
    return grows(_waits(counted, low), certain)


def _ramped(counted: Sequence[_Request]) -> float:
    """When the first tenth of the requests was answered, or as many as were: before, requests under way rise whatever the load is."""
    first = counted[: max(1, int(len(counted) * _FIRST))]
    return max([counted[0][0], *(done for _, done, _ in first if done < inf)])


def _pile(began: Sequence[_Request], low: float, high: float) -> list[tuple[float, float]]:
    """Requests under way, on average over each block: exact, by the overlap of each request with each block."""
    width, last = (high - low) / BLOCKS, BLOCKS - 1
    steps = [0.0] * (BLOCKS + 1)  # by how much the blocks from here on are fuller
    part = [0.0] * BLOCKS
    for since, done, _ in began:
        left, right = max(0.0, (since - low) / width), min(BLOCKS, (done - low) / width)
        if right <= left:
            continue
        i, j = min(int(left), last), min(int(right), last)
        steps[i] += 1
        steps[j] -= 1
        part[i] -= left - i  # the whole of the first block, less what was before; of the last one only what was until then
        part[j] += right - j
    return [(i + 0.5, full + part[i]) for i, full in enumerate(accumulate(steps[:BLOCKS]))]


def _waits(counted: Sequence[_Request], low: float) -> list[tuple[float, float]]:
    """Mean times to the first token of the requests that came in each block, up to the last one that has its own by now; blocks without
    any are left out."""
    seen = [(since - low, wait) for since, _, wait in counted if since >= low and wait >= 0]
    width = seen[-1][0] / BLOCKS if seen else 0.0
    found: list[list[float]] = [[] for _ in range(BLOCKS)]
    for since, wait in seen if width > 0 else ():
        found[min(int(since / width), BLOCKS - 1)].append(wait)
    return [(i + 0.5, math.fsum(values) / len(values)) for i, values in enumerate(found) if values]


def _slope(points: Sequence[tuple[float, float]]) -> tuple[float, float, list[float]]:
    """Least squares: slope, the spread of x that it rests on, residuals."""
    x_mean = math.fsum(x for x, _ in points) / len(points)
    y_mean = math.fsum(y for _, y in points) / len(points)
    spread = math.fsum((x - x_mean) ** 2 for x, _ in points)
    slope = math.fsum((x - x_mean) * (y - y_mean) for x, y in points) / spread if spread > 0 else 0.0
    return slope, spread, [y - y_mean - slope * (x - x_mean) for x, y in points]


def grows(points: Sequence[tuple[float, float]], certain: float = _CERTAIN) -> bool:
    """Whether the slope through the blocks' means is positive with this certainty, one-sided. False: fewer than 6 blocks."""
    if len(points) < _FEWEST:
        return False
    slope, spread, left = _slope(points)
    squares = math.fsum(r * r for r in left)
    degrees = len(points) - 2
    if slope <= 0 or spread <= 0:
        return False
    together = math.fsum(a * b for a, b in pairwise(left)) / squares if squares > 0 else 0.0
    # A fitted line takes about 2 / n out of its residuals' correlation (Marriott & Pope 1954 have it for a mean: 1 / n).
    correlation = min(0.9, max(0.0, together + 2 / len(points)))
    wide = (1 + correlation) / (1 - correlation)
    return slope > quantile(certain, degrees) * math.sqrt(squares / degrees / spread * wide)


def kept(figures: Figures) -> bool:
    """Whether a level's rate was answered: 95 % of what was offered or more, and nothing piling up. A late client is no reason against it:
    what it sends in bursts is harder to answer, not easier; its stage is doubted elsewhere, for its latencies."""
    return figures.good > 0 and not figures.saturated and figures.answered_rate >= KEPT * figures.offered_rate


def verdicts(levels: Sequence[Figures]) -> dict[float, bool]:
    """By offered rate, ascending: whether it was kept in more than half of its repeats. Other profiles than `rate` are left out."""
    rates = sorted({one.profile.value for one in levels if one.profile.name == "rate"})
    repeats = {rate: [kept(one) for one in levels if one.profile.name == "rate" and one.profile.value == rate] for rate in rates}
    return {rate: 2 * sum(found) > len(found) for rate, found in repeats.items()}


def knee(levels: Sequence[Figures]) -> float | None:
    """The highest offered rate that was kept, in requests a second. None: none was, or none was tried."""
    return max((rate for rate, good in verdicts(levels).items() if good), default=None)
