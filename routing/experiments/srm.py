"""Whether units come to the arms in the shares that they should: the sequential test of the sample ratio. Pure.

A split that is off means that something loses units of one arm (a crash, a filter, a cache), and then no number of the experiment can be
trusted. The test may be looked at after every unit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import exp, expm1, inf, lgamma, log, log1p

from routing.experiments.words import Ratio

BAD = 0.001
SURE = (100.0, 10_000.0)  # how firmly the alternative believes in the planned split, in units: finds gross and small leaks
TILTS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28)  # log odds by which one arm gets too many or too few

Epoch = tuple[Mapping[str, float], Mapping[str, int]]  # weights that were in force, and units that came first in it, by arm


def ratio(epochs: Sequence[Epoch]) -> Ratio:
    """Whether the counts of units fit their weights, over epochs with different weights. `p`: 1 over the Bayes factor against the planned
    split, at most 1: its smallest value over time is a valid p. `expected`: in units. Weights need not add up to 1; an epoch without
    units is as if it had not been.

    The alternatives, mixed half and half: Dirichlet ones round the planned shares, a new draw each epoch (Lindon & Malek 2022,
    Anytime-valid inference for multinomial count data); and one arm's odds off by the same factor in all epochs, which alone can add up
    a small leak over many short epochs. Every mixture of Bayes factors is one."""
    clean = list(_shares(epochs))
    seen: dict[str, int] = {}
    expected: dict[str, float] = {}
    for shares, counts in clean:
        total = sum(counts.values())
        for arm in shares:
            seen[arm] = seen.get(arm, 0) + counts[arm]
            expected[arm] = expected.get(arm, 0.0) + total * shares[arm]
    p = exp(-min(700.0, max(0.0, _evidence(clean))))
    if any(counts[arm] and not share for shares, counts in clean for arm, share in shares.items()):
        p = 0.0  # units in an arm that takes none
    return Ratio(seen, expected, p, p < BAD)


def _shares(epochs: Sequence[Epoch]) -> Iterator[tuple[dict[str, float], dict[str, int]]]:
    """Weights as shares of 1, and counts of the same arms."""
    for weights, counts in epochs:
        arms = [*weights, *(arm for arm in counts if arm not in weights)]
        whole = sum(weights.values())
        if whole > 0:
            yield {arm: weights.get(arm, 0.0) / whole for arm in arms}, {arm: counts.get(arm, 0) for arm in arms}


def evidence(epochs: Sequence[Epoch]) -> float:
    """The log of the Bayes factor against the planned split. Its exponential starts at 1 and is a martingale where the split is sound."""
    return _evidence(list(_shares(epochs)))


def _evidence(epochs: Sequence[tuple[dict[str, float], dict[str, int]]]) -> float:
    logs = [sum(_dirichlet(shares, counts, sure) for shares, counts in epochs) - log(2 * len(SURE)) for sure in SURE]
    arms = {arm for shares, _ in epochs for arm in shares}
    signed = [tilt * sign for tilt in TILTS for sign in (1, -1)]
    logs += [_tilted(epochs, arm, tilt) - log(2 * len(arms) * len(signed)) for arm in sorted(arms) for tilt in signed]
    most = max(logs, default=-inf)
    return most + log(sum(exp(one - most) for one in logs)) if logs else 0.0


def _dirichlet(shares: Mapping[str, float], counts: Mapping[str, int], sure: float) -> float:
    """The log of the Bayes factor of a Dirichlet(sure * shares) prior against the shares themselves."""
    total = sum(counts.values())
    out = lgamma(sure) - lgamma(sure + total)
    for arm, share in shares.items():
        if share and counts[arm]:
            out += lgamma(sure * share + counts[arm]) - lgamma(sure * share) - counts[arm] * log(share)
    return out


def _tilted(epochs: Sequence[tuple[dict[str, float], dict[str, int]]], arm: str, tilt: float) -> float:
    """The log of the likelihood ratio of one arm's odds being off by a factor of exp(tilt)."""
    return sum(tilt * counts[arm] - sum(counts.values()) * log1p(shares[arm] * expm1(tilt)) for shares, counts in epochs if arm in shares)


def fixed(weights: Mapping[str, float], counts: Mapping[str, int]) -> float:
    """Pearson's chi-square p for counts that are looked at once. 1 where there are no units or just one arm that takes some. It is not
    valid when looked at again and again: that is what `ratio` is for."""
    clean = list(_shares([(weights, counts)]))
    if not clean:
        return 1.0
    shares, counted = clean[0]
    total = sum(counted.values())
    taking = [arm for arm, share in shares.items() if share]
    if any(counted[arm] and not share for arm, share in shares.items()):
        return 0.0
    if not total or len(taking) < 2:
        return 1.0
    chi2 = sum((counted[arm] - total * shares[arm]) ** 2 / (total * shares[arm]) for arm in taking)
    return gamma_q((len(taking) - 1) / 2, chi2 / 2)


def gamma_q(a: float, x: float) -> float:
    """The regularised upper incomplete gamma function Q(a, x) for a > 0, x >= 0 (DLMF 8.11.4 and 8.9.2): the series where it is fast,
    else the continued fraction by Lentz's method. Good to about 1e-12."""
    if x <= 0:
        return 1.0
    front = a * log(x) - x - lgamma(a)
    if x < a + 1:
        term = total = 1 / a
        n = a
        while abs(term) > abs(total) * 1e-16:
            n += 1
            term *= x / n
            total += term
        return max(0.0, 1.0 - total * exp(front))
    return min(1.0, exp(front) * _fraction(a, x))


def _fraction(a: float, x: float) -> float:
    tiny = 1e-300
    b = x + 1 - a
    c, d = 1 / tiny, 1 / b
    out = d
    for i in range(1, 100_000):  # about sqrt(a) steps are needed
        factor = -i * (i - a)
        b += 2
        d = 1 / (factor * d + b or tiny)
        c = b + factor / c or tiny
        out *= c * d
        if abs(c * d - 1) < 1e-15:
            break
    return out
