"""What a design would do, by Monte Carlo: how often it raises a false alarm, how often and when it finds the effect, how often its
intervals hold, whether it sees a leak. Pure but for the processes that share the work; the seed decides everything, whoever does it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache
from itertools import accumulate
from math import ceil, exp, lgamma, log, sqrt
from multiprocessing import get_context
from random import Random
from statistics import NormalDist, fmean

import msgspec

from routing.experiments import power, scenario, srm
from routing.experiments.scenario import Scenario
from routing.experiments.walk import Course, Walk, truths, walk
from routing.experiments.words import Design

WITHIN = 1.6  # of the fixed test's size: until then the effect is to be found
LONG = 2.0  # times that long is looked for false alarms
MOST = 5_000_000  # units a run
BATCH = 20  # runs that one process does at a time
LEAK, LEAK_UNITS, LEAK_LOOK = 0.01, 100_000, 1000

Progress = Callable[[int, int], None]


class Rate(msgspec.Struct, frozen=True):
    """How often something came out, with the interval of 95 % that the number of runs allows."""

    hits: int
    runs: int
    value: float
    lo: float
    hi: float


class Simulated(msgspec.Struct, frozen=True):
    """What came of it. `fixed`: units in all of a fixed test for the effect; `limit`: WITHIN times that; `horizon`: units of a run without
    a difference. `alarms`: runs without a difference that said there is one, at any look. `found`: runs with the effect that said so, in
    its direction, by `limit`; `wrong`: that said anything else. `stopped`: units at the stop over those of the fixed test, of runs that
    found it: "mean", "p50", "p90". `coverage`: intervals that held what is true, by what they are of and when they were read. `leak`: runs
    in which control's share of units, off by a hundredth, was called off by 100,000 units; `leak_alarms`: a sound split."""

    name: str
    runs: int
    seed: int
    kind: str
    alpha: float
    power: float
    effect: float  # signed
    planned: int
    fixed: int
    limit: int
    horizon: int
    alarms: Rate
    found: Rate
    wrong: Rate
    stopped: Mapping[str, float]
    coverage: Mapping[str, Rate]
    leak: Rate
    leak_alarms: Rate

    def problems(self) -> list[str]:
        """What is surely worse than promised, beyond what chance explains, in plain words; empty: nothing."""
        out = []
        if self.alarms.lo > self.alpha:
            out.append(f"false alarms in {self.alarms.value:.1%} of the runs instead of at most {self.alpha:.1%}")
        if self.found.hi < self.power:
            out.append(f"the effect is found in {self.found.value:.1%} of the runs by {self.limit:,} units instead of {self.power:.0%}")
        for of, one in self.coverage.items():
            if one.hi < 1 - self.alpha:
                out.append(f"the interval of {of} held in {one.value:.1%} of the runs instead of {1 - self.alpha:.0%}")
        if self.leak_alarms.lo > srm.BAD:
            out.append(f"a sound split is called off in {self.leak_alarms.value:.2%} of the runs")
        return out


class _Plan(msgspec.Struct, frozen=True):
    null: Course
    effect: Course
    control: float  # share of units
    seed: int


def rate(hits: int, runs: int) -> Rate:
    """A rate with Wilson's interval (1927)."""
    if not runs:
        return Rate(0, 0, 0.0, 0.0, 1.0)
    z = NormalDist().inv_cdf(0.975)
    share, square = hits / runs, z * z / runs
    middle = (share + square / 2) / (1 + square)
    wide = sqrt(square * (share * (1 - share) + square / 4)) / (1 + square)
    return Rate(hits, runs, share, max(0.0, middle - wide), min(1.0, middle + wide))


def run(
    design: Design, made: Scenario, runs: int, seed: int, workers: int = 1, progress: Progress | None = None, *, long: float = LONG
) -> Simulated:
    """Simulates a design `runs` times without a difference, as often with the planned effect in its first arm after control, and with a
    leak. The design's primary metric takes its values from the scenario. Blocks: some 3 microseconds a request, shared by `workers`
    processes. `progress` is told of batches done and batches in all. `long`: how much longer than WITHIN times the fixed size the runs
    without a difference go on. ValueError: the scenario makes no sense, or the effect needs more than `MOST` units."""
    if runs < 1:
        raise ValueError(f"at least one run is needed, not {runs}")
    fixed, signed = _size(design, made)
    limit = ceil(WITHIN * fixed)
    horizon = ceil(long * limit)
    if max(limit, horizon) > MOST:
        raise ValueError(f"an effect of {signed:+.1%} needs {fixed:,} units, which takes too long: a run may have {MOST:,}")
    none = [0.0] * len(design.arms)
    plan = _Plan(
        Course(design, made, tuple(none), horizon, {}),
        Course(design, made, (0.0, signed, *none[2:]), limit, truths(made, signed)),
        design.weights[0] / sum(design.weights),
        seed,
    )
    parts = [(part, first, min(first + BATCH, runs)) for part in ("null", "effect", "leak") for first in range(0, runs, BATCH)]
    walks: dict[str, list[Walk]] = {"null": [], "effect": [], "leak": []}
    for done, (part, found) in enumerate(_shared(plan, parts, workers), 1):
        walks[part] += found
        if progress is not None:
            progress(done, len(parts))
    return _summed(plan, fixed, walks)


def _size(design: Design, made: Scenario) -> tuple[int, float]:
    """Units in all of a fixed test, and the effect with its sign."""
    scenario.check(made)
    metric = design.metric(design.primary)
    if metric.kind != made.kind:
        raise ValueError(f"the scenario must be of kind {metric.kind}, as the primary metric {metric.name}, not of {made.kind}")
    base = scenario.baseline(made)
    signed = power.toward(design.effect, metric.better, base)
    return power.needed(base, signed, design.weights, design.alpha, design.power, fixed=True), signed


def _shared(plan: _Plan, parts: list[tuple[str, int, int]], workers: int) -> Iterator[tuple[str, list[Walk]]]:
    if workers <= 1:
        for part in parts:
            yield part[0], _batch(plan, *part)
        return
    pool = ProcessPoolExecutor(min(workers, len(parts)), mp_context=get_context("spawn"))
    try:
        futures = [(part[0], pool.submit(_batch, plan, *part)) for part in parts]
        for name, future in futures:
            yield name, future.result()
    finally:
        pool.shutdown(cancel_futures=True)  # interrupted: what has not begun is left


def _batch(plan: _Plan, part: str, first: int, last: int) -> list[Walk]:
    """Runs of one kind by number; each has its own randomness, so that it does not matter who does it."""
    rngs = (Random(f"{plan.seed} {part} {number}") for number in range(first, last))
    if part == "leak":
        return [_leak(plan.control, rng) for rng in rngs]
    course = plan.null if part == "null" else plan.effect
    return [walk(course, rng) for rng in rngs]


def _leak(share: float, rng: Random) -> Walk:
    """Two streams of units, control's share off by a hundredth in one: whether the sample ratio is called bad at any look."""
    leaky = share + (LEAK if share < 0.5 else -LEAK)
    return Walk(held={"leak": _called(share, leaky, rng), "sound": _called(share, share, rng)})


def _called(share: float, true: float, rng: Random) -> bool:
    table, control = _binomial(true), 0
    weights = {"control": share, "others": 1 - share}
    for units in range(LEAK_LOOK, LEAK_UNITS + 1, LEAK_LOOK):
        control += bisect_left(table, rng.random())
        off = control - units * share
        # Nothing can be bad where even the best fitting split is little likelier: its log ratio is about half of z squared.
        if off * off > 8 * share * (1 - share) * units and srm.ratio([(weights, {"control": control, "others": units - control})]).bad:
            return True
    return False


@lru_cache(maxsize=8)
def _binomial(share: float) -> list[float]:
    """The distribution function of a binomial of LEAK_LOOK units, to be drawn from exactly."""
    n = LEAK_LOOK
    logs = [lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1) + k * log(share) + (n - k) * log(1 - share) for k in range(n + 1)]
    return [*list(accumulate(map(exp, logs)))[:-1], 1.0]


def _summed(plan: _Plan, fixed: int, walks: Mapping[str, list[Walk]]) -> Simulated:
    design, effect = plan.effect.design, plan.effect.effects[1]
    met, null, leaks = walks["effect"], walks["null"], walks["leak"]
    right = [one.crossed for one in met if one.crossed and one.arm == 1 and one.side * effect > 0]
    wrong = sum(1 for one in met if one.crossed) - len(right)
    coverage = {of: [one.held[of] for one in met if of in one.held] for of in sorted({of for one in met for of in one.held})}
    return Simulated(
        name=design.name,
        runs=len(met),
        seed=plan.seed,
        kind=plan.effect.made.kind,
        alpha=design.alpha,
        power=design.power,
        effect=effect,
        planned=design.planned,
        fixed=fixed,
        limit=plan.effect.until,
        horizon=plan.null.until,
        alarms=rate(sum(1 for one in null if one.crossed), len(null)),
        found=rate(len(right), len(met)),
        wrong=rate(wrong, len(met)),
        stopped=_stops(sorted(right), fixed),
        coverage={of: rate(sum(held), len(held)) for of, held in coverage.items()},
        leak=rate(sum(one.held["leak"] for one in leaks), len(leaks)),
        leak_alarms=rate(sum(one.held["sound"] for one in leaks), len(leaks)),
    )


def _stops(units: list[int], fixed: int) -> dict[str, float]:
    if not units:
        return {}
    last = len(units) - 1
    return {"mean": fmean(units) / fixed, "p50": units[last // 2] / fixed, "p90": units[last * 9 // 10] / fixed}
