"""Schedules: what they keep exactly, and what they are on average."""

from __future__ import annotations

import math
import random
from itertools import islice, pairwise
from statistics import fmean, pvariance

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.bench.arrivals import MOST, due_times, endless, parse_arrivals, ramp
from benchmarks.bench.errors import BenchError

RATES = st.floats(1e-3, 1e5)
SHAPES = st.one_of(st.floats(0.01, 1e3), st.just(math.inf))


@given(RATES, SHAPES, st.integers(0, 300), st.integers())
def test_a_schedule_ascends_and_ends_at_count_by_rate(rate: float, shape: float, count: int, seed: int) -> None:
    found = due_times(rate, shape, count, random.Random(seed))
    assert len(found) == count
    assert all(0 <= a <= b for a, b in pairwise(found))
    assert found == due_times(rate, shape, count, random.Random(seed))
    if count:
        assert found[-1] == count / rate
        assert found[0] >= 0


def test_even_gaps_are_even() -> None:
    assert due_times(4.0, math.inf, 4, random.Random(1)) == [0.25, 0.5, 0.75, 1.0]
    assert list(islice(endless(4.0, math.inf, random.Random(1)), 3)) == [0.25, 0.5, 0.75]


@given(st.floats(0.5, 2.0), st.integers(0, 2**32))
def test_another_rate_is_the_same_schedule_on_another_clock(rate: float, seed: int) -> None:
    one = due_times(1.0, 0.7, 50, random.Random(seed))
    assert due_times(rate, 0.7, 50, random.Random(seed)) == pytest.approx([at / rate for at in one])


@pytest.mark.parametrize("shape", [0.25, 1.0, 4.0, 100.0])
def test_gaps_have_the_mean_and_the_variance_of_their_distribution(shape: float) -> None:
    count, rate = 20_000, 10.0
    times = list(islice(endless(rate, shape, random.Random(7)), count))
    gaps = [b - a for a, b in pairwise([0.0, *times])]
    # The mean of n gaps has the deviation 1 / (rate * sqrt(shape * n)); five of them are allowed.
    assert abs(fmean(gaps) * rate - 1) < 5 / math.sqrt(shape * count)
    kurtosis = 3 + 6 / shape
    assert abs(pvariance(gaps) * rate**2 * shape - 1) < 5 * math.sqrt((kurtosis - 1) / count)


def test_a_scaled_poisson_process_lies_evenly_before_its_last_request() -> None:
    """All but the last are ordered uniform times: the largest distance from the straight line is below Kolmogorov's bound at 0.1 %."""
    count = 5000
    times = due_times(1.0, 1.0, count, random.Random(3))[:-1]
    worst = max(abs(at / count - (place + 1) / len(times)) for place, at in enumerate(times))
    assert worst < 1.95 / math.sqrt(len(times)) + 1 / len(times)


@given(st.floats(0, 100), st.floats(0, 100), st.floats(0.1, 100), SHAPES, st.integers())
def test_a_ramp_ascends_within_its_time(first: float, last: float, seconds: float, shape: float, seed: int) -> None:
    if not 1e-3 < first + last:
        return
    found = ramp(first, last, seconds, shape, random.Random(seed))
    assert len(found) == round((first + last) / 2 * seconds)
    assert all(0 <= a <= b <= seconds for a, b in pairwise([0.0, *found, seconds]))


def test_a_ramp_has_its_requests_where_the_rate_is() -> None:
    found = ramp(0.0, 100.0, 10.0, math.inf, random.Random(1))
    assert len(found) == 500
    assert sum(at < 5.0 for at in found) in (124, 125)  # a quarter in the first half
    assert sum(at >= 5.0 for at in ramp(100.0, 0.0, 10.0, math.inf, random.Random(1))) in (125, 126)
    assert ramp(2.0, 2.0, 2.0, math.inf, random.Random(1)) == pytest.approx([0.5, 1.0, 1.5, 2.0])


def test_shapes_are_read() -> None:
    assert parse_arrivals("poisson") == parse_arrivals(" gamma:1 ") == 1.0
    assert parse_arrivals("constant") == parse_arrivals("gamma:inf") == math.inf
    assert parse_arrivals("gamma:0.5") == 0.5


@given(st.text("game:0.5-inf e%", max_size=8))
def test_what_is_no_shape_is_refused_in_a_sentence(text: str) -> None:
    for each in (text, f"gamma:{text}"):
        try:
            shape = parse_arrivals(each)
        except BenchError as error:
            assert error.usage and "write poisson" in str(error)
        else:
            assert shape > 0


@pytest.mark.parametrize("text", ["gamma", "gamma:", "gamma:0", "gamma:-1", "gamma:nan", "poisson:1", "", "uniform", "gamma:1:2"])
def test_near_misses_are_refused(text: str) -> None:
    with pytest.raises(BenchError):
        parse_arrivals(text)


def test_what_cannot_be_scheduled_is_refused() -> None:
    rng = random.Random(1)
    for rate in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(BenchError, match="rate"):
            due_times(rate, 1.0, 1, rng)
        with pytest.raises(BenchError, match="rate"):
            endless(rate, 1.0, rng)
    for shape in (0.0, -1.0, math.nan):
        with pytest.raises(BenchError, match="shape"):
            due_times(1.0, shape, 1, rng)
    with pytest.raises(BenchError, match="at most"):
        due_times(1.0, 1.0, MOST + 1, rng)
    with pytest.raises(BenchError, match="days"):
        due_times(1e-6, 1.0, 1000, rng)
    for first, last, seconds in ((0.0, 0.0, 1.0), (-1.0, 2.0, 1.0), (1.0, 1.0, 0.0), (1.0, math.inf, 1.0), (1e6, 1e6, 1e6)):
        with pytest.raises(BenchError):
            ramp(first, last, seconds, 1.0, rng)


def test_gaps_of_nothing_do_not_divide_by_nothing() -> None:
    class Zero(random.Random):
        def gammavariate(self, alpha: float, beta: float) -> float:
            return 0.0

    assert due_times(1.0, 0.01, 3, Zero()) == [1.0, 2.0, 3.0]
