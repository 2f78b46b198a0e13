"""Axes: from numbers to per cents of a plot, and round ticks. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from benchmarks.bench.texts import sane

LEAST = 1e-9  # what is smaller is nothing, of seconds and of rates
_FACTORS = ((1.0, 2.0, 5.0), (1.0, 3.0), (1.0,))


@dataclass(frozen=True, slots=True)
class Axis:
    """From `lo` to `hi`, linear or logarithmic (both above 0 then); `lo` < `hi`."""

    lo: float
    hi: float
    log: bool = False

    def at(self, value: float) -> float:
        """Where `value` lies, 0 to 100; what is outside stands at the edge."""
        lo, hi = (math.log(self.lo), math.log(self.hi)) if self.log else (self.lo, self.hi)
        where = math.log(max(value, self.lo)) if self.log else value
        return min(100.0, max(0.0, 100.0 * (where - lo) / (hi - lo)))

    def ticks(self, wanted: int = 5) -> list[float]:
        """Round numbers on the axis, ascending, some `wanted` of them and at least one."""
        return _log_ticks(self.lo, self.hi, wanted) if self.log else _even_ticks(self.lo, self.hi, wanted)

    def apart(self, wanted: int, least: float) -> list[float]:
        """Ticks with at least `least` per cent between two, so that their texts do not touch. One at the right end, whose text ends there
        rather than having it in its middle, needs half as much again."""
        out: list[float] = []
        for value in self.ticks(wanted):
            where = self.at(value)
            if not out or where - self.at(out[-1]) >= least * (1.5 if where > 96 else 1.0):
                out.append(value)
        return out


def _even_ticks(lo: float, hi: float, wanted: int) -> list[float]:
    least = (hi - lo) / wanted
    power = 10.0 ** math.floor(math.log10(least))
    step = next(f * power for f in (1.0, 2.0, 5.0, 10.0, 20.0) if f * power >= least * (1 - 1e-9))
    first, last = math.ceil(lo / step - 1e-9), math.floor(hi / step + 1e-9)
    return [i * step for i in range(first, last + 1)] or [lo]


def _log_ticks(lo: float, hi: float, wanted: int) -> list[float]:
    powers = range(math.floor(math.log10(lo)), math.ceil(math.log10(hi)) + 1)
    found: list[float] = []
    for factors in _FACTORS:
        found = [f * 10.0**i for i in powers for f in factors if lo * (1 - 1e-9) <= f * 10.0**i <= hi * (1 + 1e-9)]
        if len(found) <= wanted + 1:
            break
    if len(found) < 2:  # less than a decade: even steps are as round
        return _even_ticks(lo, hi, wanted)
    return found[:: -(-len(found) // (wanted + 1))]


def from_zero(values: Iterable[float | None]) -> Axis | None:
    """A linear axis from 0 to beyond the greatest. None: there is nothing above 0."""
    most = max((v for value in values if (v := sane(value)) is not None), default=0.0)
    return Axis(0.0, most * 1.06) if most >= LEAST else None


def around(values: Iterable[float | None], margin: float = 0.04) -> Axis | None:
    """A logarithmic axis around all that is above 0, a third of a decade at least. None: nothing is."""
    known = [v for value in values if (v := sane(value)) is not None and v >= LEAST]
    if not known:
        return None
    lo, hi = math.log(min(known)), math.log(max(known))
    room = max((hi - lo) * margin, (math.log(2.0) - (hi - lo)) / 2, 0.05)
    return Axis(math.exp(lo - room), math.exp(hi + room), True)
