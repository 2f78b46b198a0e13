"""Two targets by pairs: what is known to differ is found, and intervals hold as often as they say."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.bench.paired import Interval, match, median, paired, shift
from benchmarks.bench.words import Timed
from tests.bench.seen import answer, failure


def sides(rng: random.Random, count: int, more: float) -> tuple[list[Timed], list[Timed]]:
    """Pairs whose prompts differ much more than the targets do: B takes `more` seconds longer to the first token."""
    a, b = [], []
    for index in range(count):
        at, common = 10.0 * index + 1, rng.lognormvariate(0, 0.5)
        for side, extra in ((a, 0.0), (b, more)):
            first = at + common + extra + rng.uniform(0, 0.01)
            side.append(answer(index, at, (first, first + 1.0), tokens=11))
    return a, b


def test_a_small_difference_is_found_among_large_common_ones() -> None:
    a, b = sides(random.Random(1), 200, 0.02)
    found = paired(a, b)
    ttft = found["ttft"]
    assert ttft.difference is not None and ttft.ratio is not None
    assert ttft.difference.low < 0.02 < ttft.difference.high
    assert 0.015 < ttft.difference.low and ttft.difference.high < 0.025
    assert ttft.ratio.low > 1
    assert (ttft.pairs, ttft.wins) == (200, 1.0)
    assert ttft.sentence.startswith("TTFT: B is slower than A by ") and ttft.sentence.endswith(", 200 pairs).")
    assert found["tpot"].difference.value == pytest.approx(0, abs=1e-9)
    assert found["e2e"].a == pytest.approx(ttft.a + 1.0)
    other = paired(b, a, names=("direct", "gateway"))["ttft"]
    assert other.sentence.startswith("TTFT: gateway is faster than direct by ")
    assert other.difference.value == pytest.approx(-ttft.difference.value)
    assert other.wins == 0.0


def test_no_difference_is_said_to_be_none() -> None:
    a, b = sides(random.Random(2), 100, 0.0)
    found = paired(a, b)["ttft"]
    assert found.difference.low <= 0 <= found.difference.high
    assert "no difference between A and B is shown" in found.sentence
    assert 0.3 < found.wins < 0.7
    same = paired(a, a)["e2e"]
    assert (same.difference, same.ratio, same.wins) == (Interval(0.0, 0.0, 0.0), Interval(1.0, 1.0, 1.0), 0.5)


def test_only_pairs_that_both_answered_count() -> None:
    a, b = sides(random.Random(3), 10, 0.0)
    a[0], b[1] = failure(0), failure(1)
    a[2].warm = True
    b[3].index = 99
    assert [one.index for one, _ in match(a, b)] == [4, 5, 6, 7, 8, 9]
    assert match(list(reversed(a)), b) == match(a, b)
    with pytest.raises(ValueError, match="same index"):
        match([*a, a[5]], b)


def test_few_pairs_have_no_interval() -> None:
    a, b = sides(random.Random(4), 5, 0.1)
    found = paired(a, b)["ttft"]
    assert found.difference.low is None and found.difference.value > 0
    assert "too few" in found.sentence
    nothing = paired([], [])["tpot"]
    assert (nothing.pairs, nothing.difference, nothing.ratio, nothing.wins) == (0, None, None, None)
    assert nothing.sentence == "TPOT: no pair has it on both sides."
    whole = paired([answer(0, stamps=(2.0,))], [answer(0, stamps=(3.0,))])
    assert (whole["tpot"].pairs, whole["e2e"].pairs) == (0, 1)


def coverage(draw: Callable[[random.Random], list[float]], truth: float, rounds: int) -> float:
    held = 0
    for seed in range(rounds):
        found = median(draw(random.Random(seed)), seed)
        assert found.low is not None and found.high is not None
        held += found.low <= truth <= found.high
    return held / rounds


def skewed(count: int) -> Callable[[random.Random], list[float]]:
    return lambda rng: [rng.lognormvariate(0, 1) - 1 for _ in range(count)]


def alike(rng: random.Random) -> list[float]:
    """Each is half the one before: the sign test alone is far too sure of itself here."""
    out = [rng.gauss(0, 1)]
    while len(out) < 200:
        out.append(0.5 * out[-1] + rng.gauss(0, 0.75**0.5))
    return out


@pytest.mark.parametrize("count", [8, 50])
def test_intervals_of_independent_pairs_hold(count: int) -> None:
    assert coverage(skewed(count), 0.0, 60) >= 0.9


def test_intervals_of_pairs_that_are_alike_hold() -> None:
    assert coverage(alike, 0.0, 40) >= 0.85


@pytest.mark.full
@pytest.mark.parametrize("count", [8, 30, 120])
def test_intervals_hold_as_often_as_they_say(count: int) -> None:
    assert coverage(skewed(count), 0.0, 250) >= 0.94


@pytest.mark.full
def test_intervals_of_pairs_that_are_alike_hold_nearly_as_often_as_they_say() -> None:
    assert coverage(alike, 0.0, 250) >= 0.88


def test_the_median_is_numpys() -> None:
    values = [random.Random(6).gauss(0, 1) for _ in range(50)]
    found = median(values)
    assert found.value == float(np.median(values))
    assert found == median(values)  # seeded
    with pytest.raises(ValueError, match="nothing"):
        median([])


@settings(max_examples=25)
@given(st.lists(st.integers(-1000, 1000), min_size=1, max_size=40), st.sampled_from([0.5, 2.0, 4.0]), st.integers(-100, 100))
def test_scale_and_offset_go_through(values: list[int], factor: float, offset: int) -> None:
    once, other = median([float(value) for value in values]), median([value * factor + offset for value in values])
    for name in ("value", "low", "high"):
        one = getattr(once, name)
        assert getattr(other, name) == (None if one is None else pytest.approx(one * factor + offset, abs=1e-9))


def test_a_shift_of_tails() -> None:
    rng = random.Random(8)
    a = [rng.expovariate(1) for _ in range(1000)]
    b = [value + 0.5 for value in a]
    found = shift(a, b, 0.99)
    assert found.value == pytest.approx(0.5)
    assert found.low == pytest.approx(0.5) and found.high == pytest.approx(0.5)
    assert shift(a, b, 0.999).low is None  # one sample beyond
    assert shift([1.0], [3.0], 0.5) == Interval(2.0)
    c = [rng.expovariate(1) + 0.5 for _ in range(1000)]
    apart = shift(a, c, 0.5)
    assert apart.low < 0.5 < apart.high
    with pytest.raises(ValueError, match="pairs"):
        shift([1.0], [], 0.5)
