"""Who is in which arm: shares as asked, nobody moves who need not, layers do not depend on one another."""

from __future__ import annotations

import math
import random
from collections import Counter
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routing.experiments.assign import ALL, HELD, OUT, Split, seed

_units = random.Random(7)
UNITS = [_units.getrandbits(64) for _ in range(20_000)]
weights = st.lists(st.floats(0.05, 10.0), min_size=2, max_size=5)


def arms(split: Split, share: float = 1.0, units: list[int] = UNITS) -> list[int]:
    end = split.end(share)
    return [split.arm(unit, end) for unit in units]


def chi(found: list[int], expected: list[float]) -> float:
    """The chi-square statistic of the places in `found`, whose parts should be `expected`."""
    counts, n = Counter(found), len(found)
    return sum((counts[i] - n * part) ** 2 / (n * part) for i, part in enumerate(expected))


def far(statistic: float, degrees: int) -> bool:
    """Beyond what chance gives once in about a million (Wilson and Hilferty's approximation)."""
    cube = (statistic / degrees) ** (1 / 3)
    return bool((cube - (1 - 2 / (9 * degrees))) / math.sqrt(2 / (9 * degrees)) > 4.9)


def test_the_same_for_ever() -> None:
    """These are in force somewhere: another way to hash would move everybody."""
    split = Split("tone", ("a", "b", "c"), (1, 1, 2), layer="ui", begin=0.25, holdout=0.1)
    found = [split.arm(unit, split.end(0.5)) for unit in range(24)]
    assert found == [2, -1, -1, 2, 2, -1, 2, 1, -1, 2, -1, -1, 1, -1, -2, -1, -1, -2, 1, -1, 2, 1, 2, -1]
    assert seed("arm", "tone") != seed("armtone") and seed("a", "b") == seed("a", "b")


@given(weights, st.text(max_size=5))
def test_every_arm_has_its_share(given: list[float], salt: str) -> None:
    found = arms(Split(salt, [str(i) for i in range(len(given))], given))
    assert not far(chi(found, [w / sum(given) for w in given]), len(given) - 1)


@given(weights, st.integers(0, 4), st.floats(0.0, 20.0))
def test_a_weight_that_changes_moves_units_to_or_from_that_arm_alone(given: list[float], which: int, weight: float) -> None:
    which %= len(given)
    names = [str(i) for i in range(len(given))]
    other = [weight if i == which else w for i, w in enumerate(given)]
    split = Split("x", names, given)
    before, after = arms(split, units=UNITS[:3000]), arms(split.weigh(other), units=UNITS[:3000])
    moved = [(a, b) for a, b in zip(before, after, strict=True) if a != b]
    assert all(which in pair for pair in moved)
    assert len({b == which for _, b in moved}) <= 1  # all one way
    least = abs(given[which] / sum(given) - other[which] / sum(other))  # no way of drawing moves fewer
    assert len(moved) / 3000 <= least + 5 * math.sqrt(max(least, 0.001) / 3000)


@given(weights)
def test_an_arm_more_takes_and_moves_nobody_else(given: list[float]) -> None:
    names = [str(i) for i in range(len(given))]
    before = arms(Split("x", names[:-1], given[:-1]), units=UNITS[:3000])
    after = arms(Split("x", names, given), units=UNITS[:3000])
    assert all(a == b or b == len(given) - 1 for a, b in zip(before, after, strict=True))


@given(st.lists(st.floats(0.0, 1.0), min_size=2, max_size=6), st.floats(0.0, 0.5))
def test_a_growing_share_keeps_who_is_in_where_they_are(shares: list[float], holdout: float) -> None:
    split = Split("x", ("a", "b"), (1, 3), holdout=holdout)
    last = [OUT] * 3000
    for share in sorted(shares):
        now = arms(split, share, UNITS[:3000])
        assert all(a in (OUT, b) for a, b in zip(last, now, strict=True))
        assert abs(sum(found != OUT for found in now) / 3000 - share) < 0.05
        last = now


@given(st.lists(st.floats(0.01, 0.4), min_size=2, max_size=5))
def test_slices_of_one_layer_share_nobody(widths: list[float]) -> None:
    total = max(1.0, sum(widths))
    begin, taken = 0.0, []
    for i, width in enumerate(widths):
        split = Split(f"e{i}", ("a", "b"), (1, 1), layer="l", begin=begin)
        taken.append({unit for unit, arm in zip(UNITS[:4000], arms(split, width / total, UNITS[:4000]), strict=True) if arm != OUT})
        begin += width / total
    assert all(one.isdisjoint(other) for one, other in combinations(taken, 2))


def test_a_whole_layer_is_used_up_without_a_gap() -> None:
    halves = [arms(Split(f"e{i}", ("a", "b"), (1, 1), layer="l", begin=i / 2), 0.5) for i in range(2)]
    assert all((one == OUT) != (other == OUT) for one, other in zip(*halves, strict=True))


@pytest.mark.parametrize(("one", "other"), [("x", "y"), ("x", "x2"), ("", " ")])
def test_layers_and_experiments_do_not_depend_on_one_another(one: str, other: str) -> None:
    first, second = arms(Split(one, ("a", "b"), (1, 1))), arms(Split(other, ("a", "b"), (1, 1)))
    both = [2 * a + b for a, b in zip(first, second, strict=True)]
    assert not far(chi(both, [0.25] * 4), 3)
    layered = [arms(Split("s", ("a", "b"), (1, 1), layer=layer), 0.5) for layer in (one, other)]
    within = [2 * (a != OUT) + (b != OUT) for a, b in zip(*layered, strict=True)]
    assert not far(chi(within, [0.25] * 4), 3)


def test_who_is_held_out_says_nothing_of_the_arm_nor_of_the_share() -> None:
    split, plain = Split("x", ("a", "b"), (1, 1), holdout=0.2), Split("x", ("a", "b"), (1, 1))
    found, free = arms(split), arms(plain)
    assert not far(chi([int(arm == HELD) for arm in found], [0.8, 0.2]), 1)
    assert all(a in (HELD, b) for a, b in zip(found, free, strict=True))
    assert not far(chi([b for a, b in zip(found, free, strict=True) if a == HELD], [0.5, 0.5]), 1)


def test_bounds() -> None:
    split = Split("x", ("a", "b", "c"), (0, 1, 0))
    assert {split.arm(unit, ALL) for unit in (0, 1, 2**64 - 1, *UNITS[:100])} == {1}
    assert split.arm(0, 0) == OUT
    with pytest.raises(ValueError, match="no arm has a weight"):
        Split("x", ("a",), (0,))
