"""Saturation, on queues whose load is known."""

from __future__ import annotations

import math
import random

import msgspec
import pytest

from benchmarks.bench.figures import figures
from benchmarks.bench.saturate import _pile, grows, hopeless, kept, knee, saturated, verdicts
from benchmarks.bench.words import Figures, Health, Profile, Timed
from tests.bench.seen import answer, closed, queue, stage


def share(load: float, servers: int, count: int, rounds: int = 25) -> float:
    """How often a queue under this load is called saturated."""
    seen = [queue(random.Random(f"{load} {servers} {seed}"), load * servers, servers, count) for seed in range(rounds)]
    return sum(saturated(timed, max(one.done for one in timed)) for timed in seen) / rounds


@pytest.mark.parametrize("servers", [1, 8])
def test_a_queue_that_keeps_up_is_not_saturated(servers: int) -> None:
    assert share(0.5, servers, 400) <= 0.05
    assert share(0.8, servers, 1500) <= 0.05


@pytest.mark.parametrize("servers", [1, 8])
def test_a_queue_that_cannot_keep_up_is(servers: int) -> None:
    assert share(1.5, servers, 400) >= 0.95
    assert share(1.2, servers, 1500) >= 0.95


def test_the_ramp_of_long_answers_is_no_saturation() -> None:
    """Answers of ten seconds, one a second: requests under way rise for ten seconds, and then no more."""
    rng = random.Random(3)
    timed = [answer(i, i + 1.0, (i + 1.0 + rng.uniform(0.2, 0.3), i + 11.0), due=i + 1.0) for i in range(60)]
    assert not saturated(timed, 72.0)


def test_it_takes_half_a_minute_or_a_hundred_requests() -> None:
    timed = [answer(i, i / 10 + 1, (i / 5 + 1.2, i / 5 + 1.5), due=i / 10 + 1) for i in range(99)]
    assert not saturated(timed, 30.0)
    slow = [answer(i, i / 3 + 1, (2 * i / 3 + 1.5, 2 * i / 3 + 2), due=i / 3 + 1) for i in range(99)]
    assert saturated(slow, 100.0)
    more = [answer(i, i / 10 + 1, (i / 5 + 1.2, i / 5 + 1.5), due=i / 10 + 1) for i in range(120)]
    assert saturated(more, 30.0)


def test_it_is_seen_while_requests_still_wait() -> None:
    """What drives the stage asks at a moment when many have no answer yet."""
    whole = queue(random.Random(7), 16.0, 8, 600)
    now = 30.0
    seen = [one for one in whole if one.sent <= now]
    for one in seen:
        one.stamps = [at for at in one.stamps if at <= now]
        one.done = one.done if one.done <= now else 0.0
    assert saturated(seen, now)
    assert not saturated(seen, 5.0)


def asked_each_second(load: float, servers: int, seconds: float, seed: int) -> float | None:
    """When a stage would be ended, by who knows at each second only what has happened until then."""
    whole = queue(random.Random(f"{load} {servers} {seed}"), load * servers, servers, int(load * servers * seconds))
    for now in range(30, int(seconds), 3):
        seen = [
            Timed(
                one.index, one.due, sent=one.sent, stamps=[at for at in one.stamps if at <= now], done=one.done if one.done <= now else 0.0
            )
            for one in whole
            if one.due <= now
        ]
        if hopeless(seen, float(now)):
            return float(now)
    return None


def test_who_asks_often_ends_only_what_is_hopeless() -> None:
    assert sum(asked_each_second(0.8, 8, 60.0, seed) is not None for seed in range(12)) == 0
    assert sum(asked_each_second(1.6, 8, 60.0, seed) is not None for seed in range(6)) == 6
    assert not hopeless([], 10.0)


def test_a_pile_before_the_connections_counts_as_one() -> None:
    """A limit on concurrency keeps requests from being sent: they wait all the same."""
    timed = [answer(i, i / 2 + 1, (i / 2 + 1.2, i / 2 + 1.5), due=i / 4 + 1) for i in range(200)]
    assert saturated(timed, 200.0)


def test_a_closed_loop_is_never_called_saturated() -> None:
    found = figures(stage(closed(random.Random(1), 64, 8, 1000)), [])
    assert not found.saturated


def test_the_warm_up_is_load_but_not_looked_at() -> None:
    timed = queue(random.Random(1), 16.0, 8, 400)
    for one in timed:
        one.warm = True
    assert not saturated(timed, 100.0)


def test_little_and_odd_input() -> None:
    assert not saturated([], 10.0)
    assert not saturated([answer(due=1.0)] * 200, 10.0)  # all at once
    assert not saturated([Timed(i, 0.0) for i in range(200)], 10.0)  # none was sent
    assert not saturated([Timed(i, due=1.0 + i, sent=1.0 + i) for i in range(200)], 300.0)  # none is answered: no TTFT


def test_requests_under_way_are_counted_exactly() -> None:
    """Over ten blocks of a second: each block has the part of it that each request fills."""
    rng = random.Random(4)
    seen = [(0.5, 2.5), (1.0, 2.0), (3.5, 19.0), (1.25, 1.75), (-5.0, 0.25), (9.0, math.inf), (-2.0, -1.0), (11.0, 12.0), (4.0, 10.0)]
    seen += [(since := rng.uniform(-2, 9), since + rng.expovariate(0.5)) for _ in range(200)]
    expected = [sum(max(0.0, min(done, i + 1) - max(since, i)) for since, done in seen) for i in range(10)]
    assert [under_way for _, under_way in _pile([(*one, 0.0) for one in seen], 0.0, 10.0)] == pytest.approx(expected)


def test_slopes() -> None:
    rng = random.Random(2)
    assert grows([(float(i), float(i)) for i in range(10)])
    assert not grows([(float(i), 1.0) for i in range(10)])
    assert not grows([(float(i), -float(i)) for i in range(10)])
    assert not grows([(float(i), float(i)) for i in range(5)])  # too few
    flat = sum(grows([(float(i), rng.gauss(0, 1)) for i in range(10)]) for _ in range(1000)) / 1000
    assert flat <= 0.06
    rising = sum(grows([(float(i), i + rng.gauss(0, 1)) for i in range(10)]) for _ in range(200)) / 200
    assert rising >= 0.99


def level(rate: float, answered: float, *, stuck: bool = False, trouble: str = "") -> Figures:
    found = figures(stage([answer(i, sent=i + 1.0, stamps=(i + 1.1, i + 1.2)) for i in range(10)], Profile("rate", value=rate)), [])
    return msgspec.structs.replace(found, offered_rate=rate, answered_rate=answered, saturated=stuck, health=Health(trouble=trouble))


def test_the_knee_is_the_highest_rate_that_is_kept() -> None:
    assert knee([]) is None
    assert knee([figures(stage([answer()]), [])]) is None
    levels = [level(1, 1.0), level(2, 1.95, trouble="the client was late"), level(4, 3.7), level(3, 2.9, stuck=True)]
    assert [kept(one) for one in levels] == [True, True, False, False]
    assert knee(levels) == 2
    assert verdicts([level(1, 1.0), level(1, 0.5), level(1, 1.0), level(2, 2.0), level(2, 1.0)]) == {1: True, 2: False}
