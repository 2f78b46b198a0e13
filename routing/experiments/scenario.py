"""What a simulated experiment sees: made-up or recorded requests of units, with a known difference between the arms. Pure; randomness is
given.

Units come one after another; where they have several requests, those of some units mix as they do in life.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from math import ceil, exp, inf, log, log1p, sqrt
from random import Random
from statistics import NormalDist

import msgspec

from routing.experiments.counted import values
from routing.experiments.power import Baseline, of_boolean
from routing.experiments.words import METRICS, Kind, Seen

SLOW = 10.0  # times as long as others is what comes from the tail
FEWEST = 50  # recorded units
OPEN = 20  # units whose requests mix
_NORMAL = NormalDist()

Request = tuple[int, int, float, float, float | None]  # arm, requests and total of its unit before it, value, mean of the unit's history
Draw = Callable[[], float]
Made = tuple[int, Draw, float | None]  # a unit: requests, what draws them, mean of its history


class Scenario(msgspec.Struct, frozen=True):
    """Without a difference: `mean` is the share of yes (boolean), the mean (mean; values are lognormal) or the median in seconds of those
    outside the tail (log; lognormal). `spread`: of `mean` the standard deviation over the mean, of `log` that of the logs. `requests`: of a
    unit on average (geometric). `alike`: the part of the variance that lies between units. `tail`: of `log` the share of requests that take
    `SLOW` times as long. `history`: the share of units that were seen before, as often as later. `recorded`: values of recorded
    units, drawn from instead of all that (of `log` kinds: logs)."""

    kind: Kind
    mean: float = 0.5
    spread: float = 1.0
    requests: float = 1.0
    alike: float = 0.0
    tail: float = 0.0
    history: float = 0.0
    recorded: tuple[tuple[float, ...], ...] = ()


def check(scenario: Scenario) -> None:
    """ValueError: the scenario makes no sense; says what."""
    if scenario.recorded:
        if not all(scenario.recorded) or len(scenario.recorded) < FEWEST:
            raise ValueError(f"a simulation of what was recorded needs at least {FEWEST} units with values, not {len(scenario.recorded)}")
        return
    if not scenario.mean > 0 or (scenario.kind == "boolean" and scenario.mean >= 1):
        raise ValueError(f"a scenario's mean must be above 0, and below 1 for a boolean metric, not {scenario.mean!r}")
    if not scenario.spread > 0 or not 1 <= scenario.requests < 1000 or not 0 <= scenario.alike < 1 or not 0 <= scenario.tail < 1:
        raise ValueError("a scenario needs spread > 0, requests of a unit from 1 to 1000, alike and tail from 0 to below 1")
    if not 0 <= scenario.history <= 1:
        raise ValueError(f"a scenario's history is a share of units from 0 to 1, not {scenario.history!r}")


def recorded(seen: Iterable[Seen], metric: str, kind: Kind) -> Scenario:
    """A scenario of what was recorded of one built-in metric, all arms together. ValueError: there is no such metric, or too little."""
    if metric not in METRICS:
        raise ValueError(f"what was recorded holds the metrics {', '.join(METRICS)}, not {metric!r}")
    at, units = list(METRICS).index(metric), dict[int, list[float]]()
    for one in seen:
        value = None if one.gone else values(one)[at]
        if value is not None:
            units.setdefault(one.unit, []).append(value)
    if len(units) < FEWEST:
        raise ValueError(f"a simulation of what was recorded needs at least {FEWEST} units with values of {metric}, not {len(units)}")
    return Scenario(kind, recorded=tuple(tuple(unit) for unit in units.values()))


def baseline(scenario: Scenario) -> Baseline:
    """The metric's mean over requests and the variance of a unit's part in it (of `log` kinds: of logs), as `power` takes them."""
    if scenario.recorded:
        count = sum(map(len, scenario.recorded))
        mean, size = sum(map(sum, scenario.recorded)) / count, count / len(scenario.recorded)
        parts = [((sum(unit) - mean * len(unit)) / size) ** 2 for unit in scenario.recorded]
        return Baseline(scenario.kind, mean, sum(parts) / len(parts))
    m = scenario.requests
    squares = (2 * m - 1) / m  # of a geometric size: its mean square over the square of its mean
    variance = _variance(scenario)
    return Baseline(scenario.kind, _mean(scenario), variance * ((1 - scenario.alike) / m + scenario.alike * squares))


def _variance(scenario: Scenario) -> float:
    """Of one request."""
    if scenario.kind == "boolean":
        return of_boolean(scenario.mean).variance
    if scenario.kind == "mean":
        return (scenario.spread * scenario.mean) ** 2
    return scenario.spread**2 + scenario.tail * (1 - scenario.tail) * log(SLOW) ** 2


def _mean(scenario: Scenario) -> float:
    if scenario.kind == "log":
        return log(scenario.mean) + scenario.tail * log(SLOW)
    return scenario.mean


def mean(scenario: Scenario, effect: float) -> float:
    """The true mean of an arm with this relative effect; of `log` kinds the geometric one."""
    before = baseline(scenario).mean
    return (exp(before) if scenario.kind == "log" else before) * (1 + effect)


def quantile(scenario: Scenario, p: float, effect: float) -> float:
    """The true p-quantile of a `log` kind's requests in an arm with this relative effect, in seconds."""
    if scenario.recorded:
        ordered = sorted(value for unit in scenario.recorded for value in unit)
        return exp(ordered[max(0, ceil(p * len(ordered)) - 1)]) * (1 + effect)
    low, high = -40.0, 40.0
    for _ in range(100):
        middle = (low + high) / 2
        slow = _NORMAL.cdf(middle - log(SLOW) / scenario.spread)
        below = (1 - scenario.tail) * _NORMAL.cdf(middle) + scenario.tail * slow
        low, high = (middle, high) if below < p else (low, middle)
    return scenario.mean * exp(low * scenario.spread) * (1 + effect)


def stream(scenario: Scenario, weights: Sequence[float], effects: Sequence[float], rng: Random) -> Iterator[Request]:
    """Requests without end. `effects`: relative, of each arm. Each unit falls into an arm by the weights."""
    single = scenario.requests <= 1 and not scenario.recorded and not scenario.history
    if single:
        scenario = msgspec.structs.replace(scenario, alike=0.0)  # nothing that a unit could be alike with
    makers = [_unit(scenario, effect, rng) for effect in effects]
    whole, edges = sum(weights), list[float]()
    for weight in weights:
        edges.append((edges[-1] if edges else 0.0) + weight / whole)
    edges[-1] = inf
    if single:
        singles = [maker()[1] for maker in makers]
        while True:
            at = rng.random()
            arm = 0
            while at >= edges[arm]:
                arm += 1
            yield arm, 0, 0.0, singles[arm](), None
    yield from _mixed(makers, edges, rng)


def _mixed(makers: Sequence[Callable[[], Made]], edges: Sequence[float], rng: Random) -> Iterator[Request]:
    """Requests of several units at a time, each with its own number of them."""
    places: list[tuple[int, int, float, Made] | None] = [None] * OPEN
    while True:
        place = int(rng.random() * OPEN)
        held = places[place]
        if held is None:
            at, arm = rng.random(), 0
            while at >= edges[arm]:
                arm += 1
            held = (arm, 0, 0.0, makers[arm]())
        arm, count, total, unit = held
        value = unit[1]()
        yield arm, count, total, value, unit[2]
        places[place] = (arm, count + 1, total + value, unit) if count + 1 < unit[0] else None


def _unit(scenario: Scenario, effect: float, rng: Random) -> Callable[[], Made]:
    """What makes units of one arm."""
    if scenario.recorded:
        return _replayed(scenario, effect, rng)
    make = {"boolean": _booleans, "mean": _means, "log": _logs}[scenario.kind](scenario, effect, rng)
    scale = log1p(-1 / scenario.requests) if scenario.requests > 1 else -inf
    history, random = scenario.history, rng.random

    def unit() -> Made:
        before, after = make()
        size = 1 + int(log(1 - random()) / scale)
        if not history or random() >= history:
            return size, after, None
        return size, after, sum(before() for _ in range(size)) / size

    return unit


def _booleans(scenario: Scenario, effect: float, rng: Random) -> Callable[[], tuple[Draw, Draw]]:
    """Yes with the unit's own probability, before the effect beta distributed where units are alike in themselves."""
    share, random = scenario.mean, rng.random
    firm = 1 / scenario.alike - 1 if scenario.alike else 0.0
    # A better arm turns some answers of no, a worse one some of yes.
    keep, turn = (1 - share * effect / (1 - share), share * effect / (1 - share)) if effect > 0 else (1 + effect, 0.0)

    def make() -> tuple[Draw, Draw]:
        own = rng.betavariate(share * firm, (1 - share) * firm) if firm else share
        changed = turn + keep * own
        return lambda: 1.0 if random() < own else 0.0, lambda: 1.0 if random() < changed else 0.0

    return make


def _means(scenario: Scenario, effect: float, rng: Random) -> Callable[[], tuple[Draw, Draw]]:
    """Lognormal values; where units are alike, a unit's own mean times what is left."""
    square = scenario.spread**2
    between = sqrt(log1p(square * scenario.alike))
    within = sqrt(log1p(square) - log1p(square * scenario.alike))
    shift, moved = log(scenario.mean) - log1p(square) / 2, log1p(effect)
    gauss = rng.gauss

    def make() -> tuple[Draw, Draw]:
        own = shift + gauss(0.0, between) if between else shift
        changed = own + moved
        return lambda: exp(gauss(own, within)), lambda: exp(gauss(changed, within))

    return make


def _logs(scenario: Scenario, effect: float, rng: Random) -> Callable[[], tuple[Draw, Draw]]:
    """Logs of lognormal seconds with a tail."""
    shift, moved, spread, tail, slow = log(scenario.mean), log1p(effect), scenario.spread, scenario.tail, log(SLOW)
    between = min(spread, sqrt(_variance(scenario) * scenario.alike))
    within = sqrt(spread * spread - between * between)
    gauss, random = rng.gauss, rng.random

    def make() -> tuple[Draw, Draw]:
        own = shift + gauss(0.0, between) if between else shift
        changed = own + moved
        if not tail:
            return lambda: gauss(own, within), lambda: gauss(changed, within)
        return (
            lambda: gauss(own, within) + (slow if random() < tail else 0.0),
            lambda: gauss(changed, within) + (slow if random() < tail else 0.0),
        )

    return make


def _replayed(scenario: Scenario, effect: float, rng: Random) -> Callable[[], Made]:
    """Recorded units with the effect laid over: logs shifted, means scaled, some answers of booleans turned."""
    share = baseline(scenario).mean
    turn = 0.0
    if scenario.kind == "boolean" and effect:
        turn = -effect if effect < 0 else share * effect / (1 - share)
    lost = 1.0 if effect < 0 else 0.0
    shift = log1p(effect) if scenario.kind == "log" else 0.0
    scale = 1 + effect if scenario.kind == "mean" else 1.0

    def make() -> Made:
        unit = scenario.recorded[int(rng.random() * len(scenario.recorded))]
        left = iter(unit)
        if turn:
            return len(unit), lambda: _turned(next(left), turn, lost, rng), None
        return len(unit), lambda: next(left) * scale + shift, None

    return make


def _turned(value: float, chance: float, lost: float, rng: Random) -> float:
    return 1 - value if value == lost and rng.random() < chance else value
