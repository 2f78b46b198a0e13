"""A learned limit: it finds what an engine bears, moves on evidence only, and the scheduler keeps within it."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routing.kv import Scheduler, Want
from routing.limit import LearnedLimit
from tests.routing.engine import Engine, World


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 50), st.floats(-1, 1e6), st.floats(-1, 1e3))), st.integers(1, 8))
def test_it_stays_within_its_bounds(seen: list[tuple[bool, int, float, float]], start: int) -> None:
    limit = LearnedLimit(start, 1, 16)
    for first, inflight, seconds, other in seen:
        limit.first(inflight, seconds, other) if first else limit.finished(inflight, seconds)
        assert 1 <= limit.current <= 16


@pytest.mark.parametrize("slots", [1, 4, 16])
@pytest.mark.parametrize("start", [1, 4, 64])
def test_it_finds_the_slots_of_an_engine_that_queues(slots: int, start: int) -> None:
    limit = LearnedLimit(start)
    for _ in range(500):
        inflight = limit.current  # always as much as it allows
        waited = max(0, inflight - slots) / slots * 5.0  # seconds in the engine's queue, answers take 5
        limit.first(inflight, 0.2 + waited, 0.3)
        limit.finished(inflight, 0.02)
    assert slots <= limit.current <= slots + 3


def test_it_finds_the_batch_beyond_which_answers_get_slow() -> None:
    limit = LearnedLimit(2)
    for _ in range(2000):
        inflight = limit.current
        limit.finished(inflight, 0.02 * (1 + inflight / 20))
    assert 20 <= limit.current <= 45


def test_answers_that_came_to_an_idle_engine_say_nothing() -> None:
    limit = LearnedLimit(10)
    for _ in range(100):
        limit.first(2, 100.0, 0.1)
        limit.finished(2, 0.1)
    assert limit.current == 10


def test_an_impossible_start_is_refused() -> None:
    with pytest.raises(ValueError, match="begins between"):
        LearnedLimit(0)


# In the scheduler


@pytest.mark.parametrize("slots", [3, 16])
def test_the_scheduler_learns_a_limit_from_what_it_sends(slots: int) -> None:
    s = Scheduler(0, 64, random.Random(1))
    s.join(learn=True)
    assert s.limit(0) == 4
    world = World(s, [Engine(prefill=1e-4, pace=0.01, slots=slots)])
    for k in range(400):
        world.arrive(k / slots / 1.2, Want(k, 50, (), k / slots / 1.2, output=100))  # 20 % more than it can do
    world.run()
    assert len(world.end) == 400 and slots <= (s.limit(0) or 0) <= 2 * slots + 2
    s.check()


def test_a_limit_is_given_or_learned_and_can_change() -> None:
    s = Scheduler(1, 64, random.Random(1))
    assert s.limit(0) is None
    s.set_limit(0, 2)
    assert s.limit(0) == 2
    s.set_limit(0, 3, learn=True)
    assert s.limit(0) == 3
    with pytest.raises(ValueError, match="1 at least"):
        s.set_limit(0, 0)


@pytest.mark.parametrize("parallel", [False, True])
def test_nothing_is_bound_past_a_limit_and_all_get_through(parallel: bool) -> None:
    s = Scheduler(0, 64, random.Random(1))
    engines = []
    for limit in (1, 3):
        s.join(limit=limit, parallel=parallel)
        engines.append(Engine(prefill=1e-4, pace=0.01, slots=limit))
    world = World(s, engines)
    for k in range(300):
        world.arrive(0.1 * k, Want(k, 500, (), 0.1 * k, output=100))
    world.run()
    assert len(world.end) == 300 and world.worst == 3 and not s.load.bookings
    assert max(world.end.values()) < 300 * 1.05 / 4 * 1.1  # the slots were kept full
    s.check()
