"""Axes: from numbers to per cents of a plot's width or height, and round ticks. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from gateway.experiments.report.figures import sane

LEAST = 1e-12  # what is smaller is nothing, in seconds, dollars and shares
STEPS = (1.0, 2.0, 5.0)


@dataclass(frozen=True, slots=True)
class Scale:
    """An axis from `lo` to `hi`, linear or logarithmic (both above 0 then). `flip`: the greatest comes first."""

    lo: float
    hi: float
    log: bool = False
    flip: bool = False

    def at(self, value: float) -> float:
        """Where `value` lies: 0 to 100, and outside of that where it lies outside of the axis."""
        if self.log:
            share = (math.log(max(value, 1e-300)) - math.log(self.lo)) / (math.log(self.hi) - math.log(self.lo))
        else:
            share = (value - self.lo) / (self.hi - self.lo)
        return 100.0 * (1 - share if self.flip else share)

    def held(self, value: float) -> float:
        """Like `at`, but what lies outside stands at the edge."""
        return min(100.0, max(0.0, self.at(value)))

    def ticks(self, wanted: int = 5) -> list[float]:
        """Round numbers on the axis, ascending; at least one."""
        return log_ticks(self.lo, self.hi, wanted) if self.log else linear_ticks(self.lo, self.hi, wanted)


def linear_ticks(lo: float, hi: float, wanted: int) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten within [lo, hi]: at most `wanted` + 1 of them."""
    step = _step((hi - lo) / wanted)
    first, last = math.ceil(lo / step - 1e-9), math.floor(hi / step + 1e-9)
    return [i * step for i in range(first, last + 1)] or [lo]


def _step(least: float) -> float:
    power = 10.0 ** math.floor(math.log10(least))
    return next((f * power for f in (*STEPS, 10.0) if f * power >= least * (1 - 1e-9)), 10 * power)


def log_ticks(lo: float, hi: float, wanted: int) -> list[float]:
    """1, 2 and 5 times powers of ten within [lo, hi]; powers alone, and then not all of them, where that is too many."""
    first, last = math.floor(math.log10(lo)), math.ceil(math.log10(hi))
    for factors in (STEPS, (1.0, 3.0), (1.0,)):
        found = [f * 10.0**i for i in range(first, last + 1) for f in factors if lo * (1 - 1e-9) <= f * 10.0**i <= hi * (1 + 1e-9)]
        if len(found) <= wanted + 1:
            return found or [lo]
    return found[:: -(-len(found) // wanted)]


def span(values: Iterable[float | None], log: bool = False, margin: float = 0.06, flip: bool = False) -> Scale | None:
    """An axis around all `values` with a margin of its length at both ends. None: there is nothing to show."""
    known = [v for value in values if (v := sane(value)) is not None and (v >= LEAST or not log)]
    if not known:
        return None
    lo, hi = min(known), max(known)
    if log:
        room = max(math.log(hi / lo) * margin, 0.05)
        return Scale(lo * math.exp(-room), hi * math.exp(room), True, flip)
    size = max(abs(lo), abs(hi))
    room = (hi - lo) * margin if hi - lo > 1e-6 * size and size >= LEAST else size * 0.1 if size >= LEAST else 1.0
    return Scale(lo - room, hi + room, False, flip)


def around_zero(reaches: Iterable[float], least: float) -> Scale:
    """An axis for changes: as far as most `reaches` go, to both sides. What goes much further is cut there, lest others be too small.

    No change is below -1: nothing can be less than nothing.
    """
    least = sane(abs(least)) or 0.0
    known = sorted(abs(v) for value in reaches if (v := sane(value)) is not None)
    reach = least if not known else max(least, min(known[-1], 4 * known[(len(known) - 1) // 2]))
    reach = 1.12 * reach if reach >= LEAST else 0.1
    return Scale(-min(reach, 1.0 + reach / 20), reach)
