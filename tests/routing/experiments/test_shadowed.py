"""What pairs say together."""

from __future__ import annotations

import random
from math import exp, log

import pytest

from gateway.experiments.words import Pair
from routing.experiments.shadowed import shadowed


def pair(arm: str = "cand", **more: object) -> Pair:
    return Pair(1.0, "e", arm, "r", **more)  # type: ignore[arg-type]


def test_nothing_says_nothing() -> None:
    assert shadowed([]) == []
    (found,) = shadowed([pair(left_out="spend"), pair(left_out="spend"), pair(left_out="queue")])
    assert found.pairs == 0 and found.left_out == {"queue": 1, "spend": 2}
    assert found.similarity.value is None and found.latency.lo is None and found.cost is None


def test_means_ratios_and_what_failed() -> None:
    pairs = [pair(latency=2.0, own_latency=1.0, output=10, own_output=20, cost=0.5, similarity=0.5, same_tools=True, preferred=0.5)]
    pairs += [pair(latency=0.5, own_latency=1.0, output=0, own_output=20, cost=0.25, similarity=1.0, valid=False, preferred=1.0)]
    pairs += [pair(failed=True, latency=9.0, own_latency=1.0), pair("also", similarity=0.1)]
    also, cand = shadowed(pairs)
    assert (also.arm, cand.arm, cand.pairs, cand.failed) == ("also", "cand", 2, 1)
    assert cand.latency.value == pytest.approx(1.0) and cand.output.value == pytest.approx(0.5) and cand.cost == 0.75
    assert cand.similarity.value == 0.75 and cand.same_tools.value == 1.0 and cand.valid.value == 0.0 and cand.preferred.value == 0.75


def test_intervals_hold_what_is_true() -> None:
    missed = 0
    for seed in range(60):
        rng = random.Random(seed)
        made = [
            pair(
                latency=exp(rng.gauss(log(1.5), 0.5)),
                own_latency=1.0,
                similarity=rng.betavariate(8, 2),
                preferred=float(rng.random() < 0.3),
            )
            for _ in range(400)
        ]
        (found,) = shadowed(made)
        for estimate, truth in ((found.latency, 1.5), (found.similarity, 0.8), (found.preferred, 0.3)):
            assert estimate.lo is not None and estimate.hi is not None and estimate.value is not None
            assert estimate.lo < estimate.value < estimate.hi
            missed += not estimate.lo <= truth <= estimate.hi
        assert found.similarity.hi is not None and found.similarity.hi <= 1.0 and found.latency.hi is not None and found.latency.hi < 2.5
    assert missed <= 9  # of 180, one in twenty
