"""Percentiles against numpy, intervals against the binomial distribution and by simulation."""

from __future__ import annotations

import math
import random
from itertools import chain, repeat

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.bench.spread import NEEDED, SHARES, median_interval, merge, middle_of, percentile, spread, weighted
from benchmarks.bench.words import Spread

VALUES = st.lists(st.floats(0, 1e4), min_size=1, max_size=300)


@pytest.mark.parametrize("count", [5, 6, 99, 100, 199, 200, 999, 1_000, 10_000])
def test_percentiles_are_numpys_where_samples_carry_them(count: int) -> None:
    rng = random.Random(count)
    values = [rng.lognormvariate(0, 1) for _ in range(count)]
    found = spread(values)
    for name, share in SHARES.items():
        expected = float(np.percentile(values, 100 * share)) if count >= NEEDED[name] else None
        assert getattr(found, name) == (None if expected is None else pytest.approx(expected, rel=1e-12))
    assert found.mean == pytest.approx(float(np.mean(values)))
    assert found.deviation == pytest.approx(float(np.std(values, ddof=1)))
    assert (found.count, found.most) == (count, max(values))


@given(VALUES, st.randoms(use_true_random=False))
def test_order_does_not_matter(values: list[float], rng: random.Random) -> None:
    other = values.copy()
    rng.shuffle(other)
    assert spread(other) == spread(values)


@given(VALUES)
def test_twice_as_long_is_twice_as_long(values: list[float]) -> None:
    once, twice = spread(values), spread([2 * value for value in values])
    for name in Spread.__struct_fields__[1:]:
        one, other = getattr(once, name), getattr(twice, name)
        assert (one is None) == (other is None)
        if one is not None:
            assert other == pytest.approx(2 * one, rel=1e-12, abs=1e-300)


@given(st.lists(st.tuples(st.floats(0, 100), st.integers(0, 40)), max_size=60))
def test_weights_are_repetitions(pairs: list[tuple[float, int]]) -> None:
    flat = spread(list(chain.from_iterable(repeat(value, weight) for value, weight in pairs)))
    found = weighted(pairs)
    for name in Spread.__struct_fields__:
        one, other = getattr(found, name), getattr(flat, name)
        if name in ("low", "high"):
            assert one is None
        else:
            assert one == (None if other is None else pytest.approx(other, rel=1e-9, abs=1e-9))


def test_weights_may_be_absurd() -> None:
    found = weighted([(1.0, 10**15), (2.0, 10**15)])
    assert (found.count, found.p50, found.p99) == (2 * 10**15, 1.5, 2.0)


def test_nothing_and_little() -> None:
    assert spread([]) == weighted([]) == Spread(0)
    assert spread([3.0]) == Spread(1, mean=3.0, most=3.0)
    assert spread([1.0, 2.0, 3.0, 4.0, 5.0]).low is None
    assert spread([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]).low == 1.0


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_refused(wrong: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        spread([1.0, wrong])
    with pytest.raises(ValueError, match="finite"):
        weighted([(wrong, 1)])
    with pytest.raises(ValueError, match="nothing"):
        percentile([], 0.5)


@pytest.mark.parametrize("count", [1, 5, 6, 7, 20, 101, 1000])
def test_the_interval_is_the_narrowest_that_the_binomial_distribution_allows(count: int) -> None:
    def beyond(k: int) -> float:
        return sum(math.comb(count, i) for i in range(k + 1)) / 2**count

    found = median_interval(count)
    if found is None:
        assert beyond(0) > 0.025
    else:
        low, high = found
        assert low + high == count - 1
        assert beyond(low) <= 0.025 < beyond(low + 1)


def test_the_interval_of_a_million_comes_at_once() -> None:
    found = median_interval(1_000_000)
    assert found is not None
    assert found[0] == pytest.approx(500_000 - 0.98 * 1000, abs=3)


def test_the_interval_holds_the_median_as_often_as_it_says() -> None:
    rng, held, rounds = random.Random(5), 0, 1000
    for _ in range(rounds):
        found = spread([rng.lognormvariate(0, 2) for _ in range(31)])
        assert found.low is not None and found.high is not None
        held += found.low <= 1.0 <= found.high
    assert 0.94 <= held / rounds <= 0.99  # exact coverage: 97.1 %


def test_repeats_merge_to_medians() -> None:
    parts = [spread([float(x + shift) for x in range(100)]) for shift in (0, 10, 50)]
    found = merge(parts)
    assert (found.count, found.most, found.p50, found.p95) == (300, 149.0, 59.5, None)
    assert merge([Spread(2, p50=1.0), Spread(0), Spread(0)]) == Spread(2)
    assert merge([]) == Spread(0)


def test_a_middle_needs_half_of_the_values() -> None:
    assert middle_of([None, 1.0]) == 1.0
    assert middle_of([None, None, 1.0]) is None
    assert middle_of([3.0, 1.0, 2.0]) == 2.0
    assert middle_of([]) is None
