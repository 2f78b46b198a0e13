"""A bandit's shares: more units for arms that are probably better, from the posteriors of their means. Pure: the randomness is given.

Weights change in steps, not at every look, since a unit that changes its arm counts for neither.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import sqrt
from random import Random

import msgspec

from routing.experiments.words import Better, Design, Kind

DRAWS = 2000  # of each arm: a probability of being best is known to about 0.01
MOVED = 0.05  # the share of units that must be worth moving, else weights stay
LEADER = 0.5  # top-two: how often the leader itself is played


class Posterior(msgspec.Struct, frozen=True, gc=False):
    """What is known of one arm's mean: `error` is the variance of `mean` itself (clustered by unit), not of single values."""

    units: int
    mean: float
    error: float


def best(posteriors: Mapping[str, Posterior], kind: Kind, better: Better, rng: Random, draws: int = DRAWS) -> dict[str, float]:
    """The probability of each arm to be the best, by drawing from the posteriors: Beta with a uniform prior for booleans (over the count of
    trials that the error stands for, so that alike requests of one unit count for what they tell), Student's t for means and logs. An arm
    with fewer than 2 units is as likely the best as any. Empty: no arms. Takes some milliseconds an arm."""
    known = [arm for arm, one in posteriors.items() if one.units >= 2]
    even = 1 / len(posteriors) if posteriors else 0.0
    if not known:
        return dict.fromkeys(posteriors, even)
    sign = 1.0 if better == "higher" else -1.0
    samplers = [_sampler(posteriors[arm], kind, sign, rng) for arm in known]
    won = [0] * len(known)
    for _ in range(draws):
        drawn = [sample() for sample in samplers]
        most = max(drawn)
        first = drawn.index(most)
        if drawn.count(most) > 1:  # of metrics that never vary, as a cost of 0
            first = rng.choice([i for i, one in enumerate(drawn) if one == most])
        won[first] += 1
    part = len(known) * even
    out = dict.fromkeys(posteriors, even)
    out.update({arm: part * n / draws for arm, n in zip(known, won, strict=True)})
    return out


def _sampler(one: Posterior, kind: Kind, sign: float, rng: Random) -> Callable[[], float]:
    if kind == "boolean":
        share = min(1.0, max(0.0, one.mean))
        inner = share * (1 - share)
        trials = inner / one.error if one.error > 0 and inner > 0 else float(one.units)
        a, b = 1 + trials * share, 1 + trials * (1 - share)
        return lambda: sign * rng.betavariate(a, b)
    half = (one.units - 1) / 2
    error = sqrt(max(0.0, one.error))
    return lambda: sign * (one.mean + error * rng.gauss(0, 1) / sqrt(max(1e-12, rng.gammavariate(half, 1 / half))))


def top_two(chances: Mapping[str, float], leader: float = LEADER) -> dict[str, float]:
    """How often top-two Thompson sampling plays each arm, from its probability to be best: the leader in `leader` of all draws, else the
    first arm drawn that is another (Russo 2016, Simple Bayesian algorithms for best-arm identification, section 3.3, in closed form)."""
    if len(chances) < 2:
        return dict(chances)
    soft = {arm: max(chance, 1e-6) for arm, chance in chances.items()}  # drawing found none: rare, not impossible
    whole = sum(soft.values())
    odds = {arm: chance / whole for arm, chance in soft.items()}
    second = sum(chance / (1 - chance) for chance in odds.values())
    return {arm: chance * (leader + (1 - leader) * (second - chance / (1 - chance))) for arm, chance in odds.items()}


def floored(shares: Mapping[str, float], floor: float) -> dict[str, float]:
    """The shares pressed into what the floor of every arm leaves; all alike where floors leave nothing."""
    if floor * len(shares) >= 1:
        return dict.fromkeys(shares, 1 / len(shares))
    whole = sum(shares.values())
    return {arm: floor + (1 - floor * len(shares)) * share / whole for arm, share in shares.items()}


def shares(design: Design, posteriors: Mapping[str, Posterior], now: Mapping[str, float], rng: Random) -> dict[str, float] | None:
    """New shares of the design's arms (they add up to 1), or None where those in force (`now`, weights of any scale) are near enough: units
    are moved only when more than `MOVED` of them would be. Until every arm has `design.least` units the planned weights stand."""
    planned = dict(zip(design.arms, design.weights, strict=True))
    if any(arm not in posteriors or posteriors[arm].units < max(2, design.least) for arm in design.arms):
        wanted = floored(planned, design.floor)
    else:
        metric = design.metric(design.primary)
        chances = best({arm: posteriors[arm] for arm in design.arms}, metric.kind, metric.better, rng)
        wanted = floored(top_two(chances) if design.allocation == "top-two" else chances, design.floor)
    whole = sum(now.get(arm, 0.0) for arm in design.arms)
    if whole <= 0:
        return wanted
    moved = sum(abs(wanted[arm] - now.get(arm, 0.0) / whole) for arm in design.arms) / 2
    return wanted if moved > MOVED else None
