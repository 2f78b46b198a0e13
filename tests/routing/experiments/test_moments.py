"""Sums over units: against exact fractions, in any order, and back from their dump."""

from __future__ import annotations

import random
from fractions import Fraction
from math import inf, isnan, nan

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routing.experiments.moments import Moments, Past

Unit = tuple[int, float, float | None]

values = st.one_of(st.floats(-1e15, 1e15), st.floats(-10, 10), st.floats(1e9, 1e9 + 1))
units = st.lists(st.tuples(st.integers(1, 50), values, st.none() | values), max_size=12)
GRAIN = Fraction(1, 1 << 50)


def fixed(value: float) -> Fraction:
    return int(Fraction(value) / GRAIN) * GRAIN


def of(data: list[Unit]) -> Moments:
    moments = Moments()
    for n, y, x in data:
        moments.change(0, 0.0, n, y, x)
    return moments


def exact_variance(data: list[Unit]) -> Fraction:
    total = sum(n for n, _, _ in data)
    mean = sum((fixed(y) for _, y, _ in data), Fraction()) / total
    squares = sum(((fixed(y) - mean * n) ** 2 for n, y, _ in data), Fraction())
    return Fraction(len(data), len(data) - 1) * squares / total**2


@given(units)
def test_mean_and_variance_are_those_of_exact_fractions(data: list[Unit]) -> None:
    moments = of(data)
    if not data:
        assert isnan(moments.mean)
        assert moments.variance == moments.smoothed == inf
        return
    total = sum(n for n, _, _ in data)
    assert moments.mean == float(sum((fixed(y) for _, y, _ in data), Fraction()) / total)
    if len(data) == 1:
        assert moments.variance == moments.smoothed == inf
    else:
        assert moments.variance == float(exact_variance(data))


@given(units, st.floats(-1e6, 1e6))
def test_history_is_that_of_exact_fractions(data: list[Unit], centre: float) -> None:
    past = of(data).past(centre)
    if len(data) < 2 or all(x is None for _, _, x in data):
        assert past == Past(0.0, 0.0, 0.0)
        return
    k, total = len(data), sum(n for n, _, _ in data)
    mean = sum((fixed(y) for _, y, _ in data), Fraction()) / total
    away = [fixed(x) - fixed(centre) if x is not None else Fraction() for _, _, x in data]
    lines = [(fixed(y) - mean * n) * k / total for n, y, _ in data]
    middle = sum(away, Fraction()) / k
    assert past.mean == float(middle)
    assert past.variance == float(sum(((a - middle) ** 2 for a in away), Fraction()) / (k - 1))
    assert past.covariance == float(sum((a * line for a, line in zip(away, lines, strict=True)), Fraction()) / (k - 1))


@given(units, st.randoms(use_true_random=False))
def test_neither_order_nor_steps_nor_division_matter(data: list[Unit], rng: random.Random) -> None:
    steps: list[tuple[int, float, int, float, float | None]] = []
    one, two = Moments(), Moments()
    for n, y, x in data:
        at, had = 0, 0.0
        for n1, y1 in sorted((rng.randint(1, n), rng.uniform(-5, 5)) for _ in range(3)):
            steps.append((at, had, n1, y1, x))
            at, had = n1, y1
        steps.append((at, had, n, y, x))
    rng.shuffle(steps)
    for step in steps:
        rng.choice((one, two)).change(*step)
    one.merge(two)
    assert one == of(data)


@given(units, units)
def test_what_is_taken_back_leaves_nothing_behind(data: list[Unit], others: list[Unit]) -> None:
    moments = of(data)
    for n, y, x in others:
        moments.change(0, 0.0, n, y, x)
    for n, y, x in others:
        moments.change(n, y, 0, 0.0, x)
    assert moments == of(data)


@given(units)
def test_a_dump_holds_everything(data: list[Unit]) -> None:
    moments = of(data)
    pieces = moments.dump()
    assert all(isinstance(piece, float) for piece in pieces)
    again = Moments.load(pieces)
    assert again == moments
    assert again.dump() == pieces


@pytest.mark.parametrize(
    "pieces", [(), (1.0,), (0.0,) * 12, (0.0,) * 14, (*(0.0,) * 13, 1.0), (0.5, *(0.0,) * 13), (nan, *(0.0,) * 13), (inf,)]
)
def test_what_is_no_dump_is_refused(pieces: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="sums of an experiment"):
        Moments.load(pieces)


@pytest.mark.parametrize("value", [nan, inf, -inf, 2e15])
def test_what_is_no_sensible_number_is_refused_and_changes_nothing(value: float) -> None:
    moments = of([(1, 2.0, 3.0)])
    with pytest.raises(ValueError, match="between -1e15 and 1e15"):
        moments.change(0, 0.0, 1, value)
    with pytest.raises(ValueError, match="between -1e15 and 1e15"):
        moments.change(0, 0.0, 1, 1.0, value)
    assert moments == of([(1, 2.0, 3.0)])


def test_smoothing_adds_one_unit_of_each_outcome() -> None:
    data: list[Unit] = [(1, float(i < 7), None) for i in range(50)]
    added = of([*data, (1, 1.0, None), (1, 0.0, None)])
    assert of(data).smoothed == pytest.approx(added.variance, rel=1e-12)
    clustered: list[Unit] = [(4, float(i % 5), None) for i in range(30)]
    added = of([*clustered, (4, 4.0, None), (4, 0.0, None)])
    assert of(clustered).smoothed == pytest.approx(added.variance, rel=1e-12)
    never = of([(1, 0.0, None)] * 100)
    assert never.variance == 0.0
    assert never.smoothed == pytest.approx((1 - 2 / 102**2 * 51) / 102 / 101, rel=0.02)


def test_totals_of_all_and_of_history() -> None:
    moments = of([(2, 3.0, 1.5), (1, 4.0, None), (5, 1.0, 2.0)])
    assert (moments.total, moments.before, moments.k, moments.n, moments.h) == (8.0, 3.5, 3, 8, 2)
    assert moments != of([])
    assert moments != 8
