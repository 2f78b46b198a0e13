"""The sample ratio: leaks are found, no false alarm is raised over repeated looks, and the fixed test is Pearson's."""

from __future__ import annotations

from bisect import bisect_left
from itertools import accumulate
from math import exp, lgamma, log
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routing.experiments.srm import Epoch, evidence, fixed, gamma_q, ratio

EVEN = {"control": 1.0, "candidate": 1.0}
BLOCK = 500


def blocks(share: float) -> list[float]:
    """The distribution function of a binomial of `BLOCK` units: drawing from it is exact and fast."""
    front = lgamma(BLOCK + 1)
    logs = [front - lgamma(k + 1) - lgamma(BLOCK - k + 1) + k * log(share) + (BLOCK - k) * log(1 - share) for k in range(BLOCK + 1)]
    return [*list(accumulate(exp(one) for one in logs))[:-1], 1.0]


def looks(rng: Random, table: list[float], units: int) -> list[dict[str, int]]:
    """Counts after each block."""
    first, out = 0, []
    for seen in range(BLOCK, units + 1, BLOCK):
        first += bisect_left(table, rng.random())
        out.append({"control": seen - first, "candidate": first})
    return out


def test_a_leak_of_one_percent_is_found_at_a_hundred_thousand() -> None:
    rng, table, runs = Random(1), blocks(0.51), 300
    found = sum(any(ratio([(EVEN, counts)]).bad for counts in looks(rng, table, 100_000)[9::10]) for _ in range(runs))
    assert found >= 0.95 * runs


def test_a_sound_split_raises_no_alarm_at_any_look() -> None:
    rng, table, runs, alarms = Random(2), blocks(0.5), 150, 0
    for _ in range(runs):
        ps = [ratio([(EVEN, counts)]).p for counts in looks(rng, table, 20_000)]
        alarms += min(ps) < 0.05  # a level that would show an error: at 0.001 there is nothing to count
    assert alarms <= 0.05 * runs


def test_the_factor_is_a_martingale() -> None:
    """Its mean over all that may happen is 1: exactly what makes it valid at any time."""
    weights, total = {"a": 0.3, "b": 0.7}, 0.0
    for n in range(21):
        counts = {"a": n, "b": 20 - n}
        chance = exp(lgamma(21) - lgamma(n + 1) - lgamma(21 - n) + n * log(0.3) + (20 - n) * log(0.7))
        total += chance * exp(evidence([(weights, counts)]))
    assert total == pytest.approx(1, rel=1e-9)


def test_a_small_leak_over_many_short_epochs_is_found() -> None:
    rng, found, runs = Random(3), 0, 40
    for _ in range(runs):
        epochs: list[Epoch] = []
        for i in range(100):
            share = 0.3 + 0.4 * (i % 2)
            odds = share / (1 - share) * exp(0.05)
            leaky = odds / (1 + odds)
            first = sum(rng.random() < leaky for _ in range(500))
            epochs.append(({"control": 1 - share, "candidate": share}, {"control": 500 - first, "candidate": first}))
        found += ratio(epochs).bad
    assert found >= 0.6 * runs


def test_different_weights_in_time_are_each_judged_by_their_own() -> None:
    sound: list[Epoch] = [({"a": 9, "b": 1}, {"a": 9000, "b": 1000}), ({"a": 1, "b": 9}, {"a": 1000, "b": 9000})]
    result = ratio(sound)
    assert not result.bad and result.p == 1.0
    assert result.seen == {"a": 10_000, "b": 10_000} and result.expected == pytest.approx({"a": 10_000, "b": 10_000})
    assert ratio([(sound[0][0], sound[1][1]), (sound[1][0], sound[0][1])]).bad  # the totals alone would look sound


def test_arms_that_come_go_or_take_nothing() -> None:
    assert not ratio([]).bad and ratio([]).p == 1.0
    assert ratio([({"a": 0.0, "b": 0.0}, {"a": 5})]).p == 1.0
    assert ratio([({"a": 1.0}, {"a": 500})]).p == 1.0
    assert ratio([({"a": 1.0, "b": 0.0}, {"a": 500, "b": 1})]).bad
    assert ratio([(EVEN, {"control": 50, "candidate": 50, "other": 1})]).bad
    grown = ratio([(EVEN, {"control": 50, "candidate": 52}), ({**EVEN, "third": 1.0}, {"control": 30, "candidate": 31, "third": 29})])
    assert not grown.bad and grown.seen["third"] == 29 and grown.expected["third"] == pytest.approx(30)
    assert ratio([(EVEN, {"control": 10_000_000, "candidate": 0})]).p < 1e-200


@given(st.integers(min_value=0, max_value=10**6), st.integers(min_value=0, max_value=10**6))
def test_both_arms_are_treated_alike(one: int, other: int) -> None:
    ours = ratio([(EVEN, {"control": one, "candidate": other})]).p
    assert ours == pytest.approx(ratio([(EVEN, {"control": other, "candidate": one})]).p, rel=1e-6, abs=1e-300)
    assert 0 <= ours <= 1


# Made with scipy 1.17.1: scipy.stats.chisquare(counts, expected).pvalue and scipy.special.gammaincc
@pytest.mark.parametrize(
    ("weights", "counts", "p"),
    [
        ((1, 1), (50_300, 49_700), 0.05777957112359715),
        ((1, 1), (510, 490), 0.5270892568655381),
        ((0.8, 0.1, 0.1), (8050, 960, 990), 0.36558736486376314),
        ((1, 2, 3, 4), (130, 180, 300, 390), 0.010448064558680668),
    ],
)
def test_the_fixed_test_is_pearsons(weights: tuple[float, ...], counts: tuple[int, ...], p: float) -> None:
    names = [str(i) for i in range(len(counts))]
    assert fixed(dict(zip(names, weights, strict=True)), dict(zip(names, counts, strict=True))) == pytest.approx(p, rel=1e-9)


def test_the_fixed_test_where_there_is_nothing_to_test() -> None:
    assert fixed(EVEN, {}) == 1.0 and fixed({}, {}) == 1.0 and fixed({"a": 1.0}, {"a": 9}) == 1.0
    assert fixed({"a": 1.0, "b": 0.0}, {"a": 9, "b": 1}) == 0.0


@pytest.mark.parametrize(
    ("a", "x", "q"),
    [
        (0.5, 0.1, 0.6547208460185768),
        (0.5, 12.0, 9.63357008643095e-07),
        (3.0, 2.5, 0.5438131158833297),
        (50.0, 60.0, 0.08440668109369177),
        (1.0, 0.0, 1.0),
    ],
)
def test_the_incomplete_gamma(a: float, x: float, q: float) -> None:
    assert gamma_q(a, x) == pytest.approx(q, rel=1e-11)
