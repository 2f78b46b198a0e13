"""One simulated run of an experiment: requests come, and after each one somebody looks. Pure.

Sums are kept as `Moments` keeps them, in plain floats. A look costs a comparison of z² with the boundary's square, by a variance that is
never more than the one of the analysis; whatever seems to cross is judged by `compare.relative` itself, and the intervals that are read are
those that are published.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from functools import lru_cache
from math import exp, inf
from random import Random

import msgspec

from routing.experiments import compare, scenario
from routing.experiments.analyse import QUANTILES, design_effect
from routing.experiments.moments import Moments
from routing.experiments.quantile import Sketch
from routing.experiments.scenario import Scenario
from routing.experiments.sequence import critical
from routing.experiments.words import Design, Estimate


class Walk(msgspec.Struct, array_like=True):
    """What became of a run. `crossed`: units when it said there is a difference, 0: it never did; `arm`: which arm's, and `side`: 1 more
    than control, -1 less. `held`: of the intervals that were read, by what they are of and when, whether they held the truth."""

    crossed: int = 0
    arm: int = 0
    side: int = 0
    held: dict[str, bool] = {}


class Arm:
    """One arm's sums. Owned by one run; mutated by `add` alone."""

    __slots__ = ("_boolean", "_values", "h", "hn", "hy", "k", "mean", "n", "nn", "ny", "variance", "x", "xn", "xx", "xy", "y", "yy")

    def __init__(self, boolean: bool, kept: bool) -> None:
        self.k = self.n = self.nn = 0
        self.y = self.yy = self.ny = self.mean = 0.0
        self.variance = inf
        self.h = self.hn = 0
        self.x = self.xx = self.xn = self.hy = self.xy = 0.0
        self._boolean = boolean
        self._values: array[float] | None = array("d") if kept else None

    def add(self, count: int, total: float, value: float, past: float | None = None) -> None:
        """One more request of a unit that had `count` with this total; `past`: the mean of its history. Brings mean and variance up to
        date."""
        if not count:
            self.k += 1
        if past is not None:
            self._known(count, value, past)
        self.n = n = self.n + 1
        self.y = y = self.y + value
        self.nn += 2 * count + 1
        self.yy += value * (2.0 * total + value)
        self.ny += total + value * (count + 1)
        self.mean = mean = y / n
        if self._values is not None:
            self._values.append(value)
        k = self.k
        if self._boolean:  # as Moments.smoothed
            size = n / k
            n2 = n + 2.0 * size
            mean = (y + size) / n2
            squares = self.yy - 2.0 * mean * self.ny + mean * mean * self.nn
            self.variance = (squares + size * size * ((1.0 - mean) ** 2 + mean * mean)) * (k + 2) / ((k + 1) * n2 * n2)
        elif k > 1:
            self.variance = k * (self.yy - 2.0 * mean * self.ny + mean * mean * self.nn) / ((k - 1) * n * n)

    def _known(self, count: int, value: float, past: float) -> None:
        if not count:
            self.h += 1
            self.x += past
            self.xx += past * past
        self.hn += 1
        self.hy += value
        self.xn += past
        self.xy += past * value

    def past(self, centre: float) -> tuple[float, float, float]:
        """As `Moments.past`, in floats: mean, variance and covariance of history around a centre."""
        k, n, h = self.k, self.n, self.h
        away = self.x - h * centre
        variance = (k * (self.xx - 2.0 * centre * self.x + h * centre * centre) - away * away) / (k * (k - 1))
        products = n * (self.xy - centre * self.hy) - self.y * (self.xn - centre * self.hn)
        return away / k, variance, k * products / ((k - 1) * n * n)

    def moments(self) -> Moments:
        """The sums as they are analysed."""
        out, scale = Moments(), float(1 << 50)
        out.k, out.n, out.nn = self.k, self.n, self.nn
        out.y, out.ny, out.yy = int(self.y * scale), int(self.ny * scale), int(self.yy * scale * scale)
        out.h, out.hn, out.hy = self.h, self.hn, int(self.hy * scale)
        out.x, out.xn = int(self.x * scale), int(self.xn * scale)
        out.xx, out.xy = int(self.xx * scale * scale), int(self.xy * scale * scale)
        return out

    def sketch(self) -> Sketch:
        """Of all values, which are logs of seconds. Empty where they are not kept."""
        out = Sketch()
        for value in self._values or ():
            out.add(exp(value))
        return out


class Course(msgspec.Struct, frozen=True):
    """What is the same in all runs of one kind. `effects`: relative, by arm. `until`: units. `truths`: what intervals of the first arm
    after control should hold, by name; empty: none is read."""

    design: Design
    made: Scenario
    effects: tuple[float, ...]
    until: int
    truths: Mapping[str, float]


def least(design: Design) -> int:
    """Units of each arm before anything is said."""
    return max(design.least, compare.LEAST_UNITS)


def truths(made: Scenario, effect: float) -> dict[str, float]:
    """What the published intervals of an arm with this effect should hold: its change, its mean, quantiles of latencies."""
    out = {"change": effect, "mean": scenario.mean(made, effect)}
    if made.kind == "log":
        out.update({name: scenario.quantile(made, p, effect) for name, p in QUANTILES.items()})
    return out


def walk(course: Course, rng: Random) -> Walk:
    """One run, until it is clear. Looks after every request from when all arms have their least units. Where there are truths, intervals
    are read at a number of units drawn beforehand, and at the stop: the first crossing, else the end."""
    design, made, out = course.design, course.made, Walk()
    pending = bool(course.truths)
    arms = [Arm(made.kind == "boolean", pending and made.kind == "log") for _ in course.effects]
    edges = [_edges(*terms, course.until) for terms in _terms(design)]
    few, history = least(design), _history(course)
    chosen = rng.uniform(len(arms) * few, course.until) if pending else inf
    units, ready = 0, False
    for at, count, total, value, past in scenario.stream(made, design.weights, course.effects, rng):
        if not count:
            units += 1
            if units > course.until:
                break
        arms[at].add(count, total, value, past)
        if units >= chosen:
            chosen = inf
            _read(course, arms, "at any time", out.held)
        if out.crossed:
            if chosen == inf:
                break
        elif ready:
            for i in _beyond(arms, at, edges, history):
                _judge(course, arms, i, units, out)
        else:
            ready = min(one.k for one in arms) >= few
    if pending and not out.crossed:
        _read(course, arms, "at the stop", out.held)
    return out


def _history(course: Course) -> bool:
    """Whether history takes variance away."""
    return course.design.history and course.made.history > 0


def _beyond(arms: Sequence[Arm], at: int, edges: Sequence[array[float]], history: bool) -> list[int]:
    """Which of the comparisons that arm `at` is part of seem to have crossed."""
    control, out = arms[0], []
    for i in (at,) if at else range(1, len(arms)):
        other = arms[i]
        gap, variance = other.mean - control.mean, control.variance + other.variance
        if history:
            gap, variance = _adjusted(control, other, gap, variance)
        if gap * gap >= edges[i - 1][control.k + other.k] * variance:
            out.append(i)
    return out


def _adjusted(control: Arm, other: Arm, gap: float, variance: float) -> tuple[float, float]:
    """The difference and its variance when history's part is taken away: as `compare.sides`, in floats, but for what
    that adds to an arm's variance out of caution."""
    if control.h + other.h < compare.LEAST_HISTORY or not control.h or not other.h:
        return gap, variance
    centre = (control.x + other.x) / (control.h + other.h)
    c, t = control.past(centre), other.past(centre)
    spread = c[1] / control.k + t[1] / other.k
    if not spread > 0.0:
        return gap, variance
    shared = c[2] / control.k + t[2] / other.k
    return gap - shared / spread * (t[0] - c[0]), variance - shared * shared / spread


def _judge(course: Course, arms: Sequence[Arm], i: int, units: int, out: Walk) -> None:
    """Whether the published interval of arm i leaves 0 out; if so that is written down, once. Mutates `out`."""
    change = _change(course, arms, i)
    side = (change.lo is not None and change.lo > 0) - (change.hi is not None and change.hi < 0)
    if side and not out.crossed:
        out.crossed, out.arm, out.side = units, i, side
        if course.truths:
            _read(course, arms, "at the stop", out.held)


def _change(course: Course, arms: Sequence[Arm], i: int) -> Estimate:
    alpha, planned = _terms(course.design)[i - 1]
    return compare.relative(arms[0].moments(), arms[i].moments(), course.made.kind, alpha, planned, _history(course)).change


def _terms(design: Design) -> list[tuple[float, float]]:
    """Alpha and planned units of each comparison with control."""
    whole, control = sum(design.weights), design.weights[0]
    level = design.alpha / (len(design.arms) - 1)
    return [(level, design.planned * (control + weight) / whole) for weight in design.weights[1:]]


@lru_cache(maxsize=16)
def _edges(alpha: float, planned: float, until: int) -> array[float]:
    """The boundary's square by units of the two arms, a hair lower so that the exact comparison decides."""
    return array("d", [inf, *(critical(n, alpha, planned) ** 2 * (1 - 1e-9) for n in range(1, until + 1))])


def _read(course: Course, arms: Sequence[Arm], when: str, held: dict[str, bool]) -> None:
    """Reads all published intervals of the first arm after control. One that says nothing is not counted. Mutates `held`."""
    design, kind, arm = course.design, course.made.kind, arms[1]
    found = {"change": _change(course, arms, 1)}
    sums = arm.moments()
    found["mean"] = compare.own(sums, kind, design.alpha, design.planned * design.weights[1] / sum(design.weights))
    if kind == "log":
        sketch = arm.sketch()
        alike = design_effect(sketch, sums)
        found.update({name: sketch.estimate(p, design.alpha, alike) for name, p in QUANTILES.items()})
    for name, estimate in found.items():
        truth = course.truths[name]
        if estimate.lo is not None or estimate.hi is not None:
            held[f"{name} {when}"] = (estimate.lo is None or estimate.lo <= truth) and (estimate.hi is None or truth <= estimate.hi)
