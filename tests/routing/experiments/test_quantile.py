"""Sketches of latencies: how near a quantile is, that they add up, and that intervals hold at every look."""

from __future__ import annotations

from math import ceil, log
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from routing.experiments.quantile import LAST, LEAST, MOST, Sketch, bucket, lower, ratio, spread, upper

latencies = st.floats(min_value=1e-4, max_value=36_000.0)


def sketch(values: list[float]) -> Sketch:
    out = Sketch()
    for value in values:
        out.add(value)
    return out


@given(latencies)
def test_a_bucket_holds_its_value_and_its_middle_is_at_most_one_percent_off(seconds: float) -> None:
    number = bucket(seconds)
    assert lower(number) <= seconds * (1 + 1e-9) and seconds <= upper(number) * (1 + 1e-9)
    if number:
        assert (lower(number) * upper(number)) ** 0.5 == pytest.approx(seconds, rel=0.010001)


def test_values_outside_the_range_fall_into_the_outer_buckets() -> None:
    assert bucket(0.0) == bucket(-1.0) == bucket(LEAST) == 0
    assert bucket(MOST) == bucket(1e9) == bucket(float("inf")) == LAST
    with pytest.raises(ValueError, match="NaN"):
        bucket(float("nan"))


@given(st.lists(latencies, min_size=1, max_size=200), st.floats(min_value=0.001, max_value=1.0))
def test_a_quantile_is_the_value_of_its_rank_to_one_percent(values: list[float], p: float) -> None:
    wanted = sorted(values)[max(1, ceil(p * len(values))) - 1]
    assert sketch(values).quantile(p) == pytest.approx(wanted, rel=0.0101)


@given(st.lists(latencies, max_size=50), st.lists(latencies, max_size=50))
def test_sketches_add_up_and_come_back_from_bytes(one: list[float], other: list[float]) -> None:
    together = sketch(one)
    together.merge(sketch(other))
    whole = sketch(other + one)
    assert together == whole and together.dump() == whole.dump() and together.total == len(one) + len(other)
    assert Sketch.load(whole.dump()) == whole and Sketch.load(whole.dump()).total == whole.total


def test_what_was_added_can_be_taken_away() -> None:
    one = sketch([0.1, 0.2])
    one.add(0.2, -1)
    assert one == sketch([0.1]) and one.total == 1
    with pytest.raises(ValueError, match="cannot take 1 away"):
        one.add(5.0, -1)


@pytest.mark.parametrize("dumped", [b"", b"\xc1", b"\x91\x92\x05\x00", b"\x91\x92\xcd\xff\xff\x01"])
def test_bytes_that_are_no_sketch_are_refused(dumped: bytes) -> None:
    with pytest.raises(ValueError):
        Sketch.load(dumped)


def test_the_spread_is_the_stitched_bound_of_the_paper() -> None:
    bent = (1.4 * log(log(2100.0)) + log(10 / 0.05)) / 1000
    assert spread(0.9, 0.05, 1000) == pytest.approx(1.5 * (0.09 * bent) ** 0.5 + 0.8 * bent)
    assert spread(0.5, 0.05, 0) == 1.0


def test_where_too_little_was_seen_there_is_no_bound() -> None:
    assert Sketch().interval(0.5, 0.05) == (None, None) and Sketch().quantile(0.5) is None
    assert sketch([1.0] * 5).interval(0.5, 0.05) == (None, None)
    lo, hi = sketch([1.0] * 200).interval(0.95, 0.05)
    assert lo is not None and hi is None  # the upper tail needs more


def test_alike_requests_widen_the_interval() -> None:
    rng = Random(1)
    one = sketch([rng.lognormvariate(0, 1) for _ in range(5000)])
    narrow, wide = one.interval(0.9, 0.05), one.interval(0.9, 0.05, deff=4.0)
    assert None not in narrow and None not in wide
    assert wide[0] < narrow[0] < narrow[1] < wide[1]  # type: ignore[operator]
    assert one.interval(0.9, 0.05, deff=0.1) == narrow


@pytest.mark.parametrize("p", [0.5, 0.95])
def test_the_true_quantile_is_inside_at_every_look(p: float) -> None:
    rng, missed, runs = Random(7), 0, 150
    true = -log(1 - p)  # of an exponential
    for _ in range(runs):
        one, out = Sketch(), False
        for n in range(1, 1200):
            one.add(rng.expovariate(1.0))
            if n % 10 == 0:
                lo, hi = one.interval(p, 0.2)
                out |= (lo is not None and lo > true) or (hi is not None and hi < true)
        missed += out
    assert missed <= 0.2 * runs


def test_the_change_of_a_quantile() -> None:
    rng = Random(3)
    slow = sketch([rng.lognormvariate(0, 0.3) * 1.5 for _ in range(20_000)])
    fast = sketch([rng.lognormvariate(0, 0.3) for _ in range(20_000)])
    change = ratio(fast, slow, 0.95, 0.05)
    assert change.lo is not None and change.hi is not None and change.value is not None
    assert 0.3 < change.lo < 0.5 < change.hi < 0.75 and change.value == pytest.approx(0.5, abs=0.05)
    same = ratio(fast, fast, 0.5, 0.05)
    assert same.value == 0 and same.lo is not None and same.hi is not None and same.lo < 0 < same.hi
    assert ratio(Sketch(), fast, 0.5, 0.05).value is None
    assert ratio(sketch([0.00001] * 1000), fast, 0.5, 0.05).hi is None  # faster than any bucket: no ratio to it


@settings(max_examples=50)
@given(st.lists(latencies, min_size=1, max_size=100), st.integers(min_value=1, max_value=80))
def test_bars_hold_all_and_are_no_more_than_asked_for(values: list[float], limit: int) -> None:
    bars = sketch(values).buckets(limit)
    assert 1 <= len(bars) <= limit and sum(count for _, count in bars) == len(values)
    assert [edge for edge, _ in bars] == sorted(edge for edge, _ in bars)
    assert max(values) <= bars[-1][0] * (1 + 1e-9)
    assert Sketch().buckets(limit) == []
