"""What pairs of answers say together: a summary for each candidate to which requests were mirrored. Pure.

Each pair counts as a unit of its own: which user it was of is not kept, so intervals are too narrow where few users sent most of the
requests. They are confidence sequences (`routing.experiments.sequence`), so one may look whenever one likes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from math import isfinite, log
from typing import Protocol

import msgspec

from routing.experiments.compare import own
from routing.experiments.moments import Moments
from routing.experiments.words import Estimate, Kind, Shadowed

PLANNED = 1000  # pairs for which the intervals are tuned
_SHARES = ("similarity", "preferred")  # between 0 and 1, as their intervals must be
_KINDS: dict[str, Kind] = {
    "similarity": "mean", "same_tools": "boolean", "valid": "boolean", "preferred": "mean", "latency": "log", "output": "log",
}  # fmt: skip


class Paired(Protocol):
    """One answer of a shadow beside the user's own (`gateway.experiments.words.Pair`)."""

    @property
    def arm(self) -> str: ...
    @property
    def left_out(self) -> str: ...
    @property
    def failed(self) -> bool: ...
    @property
    def latency(self) -> float | None: ...
    @property
    def own_latency(self) -> float | None: ...
    @property
    def output(self) -> int | None: ...
    @property
    def own_output(self) -> int | None: ...
    @property
    def cost(self) -> float | None: ...
    @property
    def similarity(self) -> float | None: ...
    @property
    def same_tools(self) -> bool | None: ...
    @property
    def valid(self) -> bool | None: ...
    @property
    def preferred(self) -> float | None: ...


class _Arm:
    """The sums of one candidate."""

    def __init__(self) -> None:
        self.pairs = self.failed = 0
        self.cost: float | None = None
        self.left_out: Counter[str] = Counter()
        self.sums = {name: Moments() for name in _KINDS}

    def take(self, pair: Paired) -> None:
        if pair.left_out:
            self.left_out[pair.left_out] += 1
            return
        if pair.cost is not None:
            self.cost = (self.cost or 0.0) + pair.cost
        if pair.failed:
            self.failed += 1
            return
        self.pairs += 1
        values = {
            "similarity": pair.similarity, "same_tools": pair.same_tools, "valid": pair.valid, "preferred": pair.preferred,
            "latency": _ratio(pair.latency, pair.own_latency), "output": _ratio(pair.output, pair.own_output),
        }  # fmt: skip
        for name, value in values.items():
            if value is not None:
                self.sums[name].change(0, 0.0, 1, float(value))

    def summary(self, arm: str, alpha: float, planned: float) -> Shadowed:
        found = {name: own(self.sums[name], kind, alpha, planned) for name, kind in _KINDS.items()}
        for name in _SHARES:
            found[name] = _within(found[name])
        return Shadowed(arm, self.pairs, **found, cost=self.cost, failed=self.failed, left_out=dict(sorted(self.left_out.items())))


def shadowed(pairs: Iterable[Paired], alpha: float = 0.05, planned: float = PLANNED) -> list[Shadowed]:
    """One summary a candidate, in order of name. `alpha`: of each interval; `planned`: pairs that they are tuned for. Of ratios (latency,
    output) the geometric mean of the shadow's over the user's own. ValueError: alpha not in (0, 1), planned not positive."""
    arms: dict[str, _Arm] = {}
    for pair in pairs:
        arms.setdefault(pair.arm, _Arm()).take(pair)
    return [arms[name].summary(name, alpha, planned) for name in sorted(arms)]


def _ratio(mine: float | None, theirs: float | None) -> float | None:
    """The log of a ratio; None where there is none."""
    if mine is None or theirs is None or not mine > 0 or not theirs > 0 or not isfinite(mine) or not isfinite(theirs):
        return None
    return log(mine / theirs)


def _within(found: Estimate) -> Estimate:
    if found.lo is None or found.hi is None:
        return found
    return msgspec.structs.replace(found, lo=max(0.0, found.lo), hi=min(1.0, found.hi))
