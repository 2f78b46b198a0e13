"""Which load a sweep tries next. Pure: all it knows are the figures of the levels so far."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from benchmarks.bench.saturate import verdicts
from benchmarks.bench.words import Figures, Profile


class Sweep(msgspec.Struct, frozen=True):
    """How a sweep goes. `connections`: of the closed loop that shows the most a server gives; `rates`: levels between one request at a time
    and that; `refine`: at most so many more levels around the knee, `tolerance`: until it is known so well."""

    connections: int = 64
    rates: int = 6
    refine: int = 4
    tolerance: float = 0.05


DEFAULT = Sweep()


def next_rate(levels: Sequence[Figures], shape: float = 1.0, plan: Sweep = DEFAULT) -> Profile | None:
    """Which load a sweep tries next, by what the levels so far came to; None: it is over.

    1. One request at a time: the rate of an idle server.
    2. A closed loop of many connections: about the most it can answer.
    3. Rates between the two, even steps, ascending, until two that follow one another are not kept.
    4. Bisection between the highest rate that is kept and the lowest above it that is not; where none is kept downwards from the lowest,
       where all are upwards from the most. Ends at the tolerance, or after `refine` levels.

    `shape`: of the arrivals. The same levels always give the same answer: repeats may be added, the first of each kind gives the range."""
    alone = next((one for one in levels if one.profile.name == "sync"), None)
    if alone is None:
        return Profile("sync")
    many = next((one for one in levels if one.profile.name == "concurrent"), None)
    if many is None:
        return Profile("concurrent", value=float(plan.connections)) if alone.good else None
    most = max(alone.request_rate, many.request_rate)
    if most <= 0:
        return None
    tried = verdicts(levels)
    steps = _steps(alone.request_rate, most, plan.rates)
    for i, rate in enumerate(steps):
        if i >= 2 and not any(tried.get(before, True) for before in steps[i - 2 : i]):
            break
        if rate not in tried:
            return Profile("rate", value=rate, shape=shape)
    more = sum(rate not in steps for rate in tried)
    last = _refined(tried, most, plan.tolerance) if more < plan.refine else None
    return None if last is None or last in tried else Profile("rate", value=last, shape=shape)


def _steps(alone: float, most: float, count: int) -> list[float]:
    """Rates between the two; where a server answers one at a time they are the same, and a queue of it needs rates well below."""
    low = min(alone, most / 2)
    return sorted({_rounded(low + (most - low) * i / (count + 1)) for i in range(1, count + 1)})


def _refined(tried: dict[float, bool], most: float, tolerance: float) -> float | None:
    """The rate that halves what is not known of the knee. None: it is known."""
    good = max((rate for rate, kept_ in tried.items() if kept_), default=0.0)
    bad = min((rate for rate, kept_ in tried.items() if not kept_ and rate > good), default=None)
    if bad is None:
        return _rounded(most if good < _rounded(most) else good * 1.25)
    if bad - good <= tolerance * bad:
        return None
    return _rounded((good + bad) / 2)


def _rounded(rate: float) -> float:
    """To three digits: more would be pretended, and nobody could read them."""
    return float(f"{rate:.3g}")
