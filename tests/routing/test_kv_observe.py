"""What is learned of first tokens: enough, and not more than says something."""

from __future__ import annotations

import random

from routing.kv import Scheduler, Settings, Want
from routing.kv_fleet import MASKS_MAX
from routing.kv_load import Booking
from routing.kv_model import PrefillModel
from routing.kv_observe import ENOUGH, SPARSE, Observer


def served(observer: Observer, at: float, seconds: float = 0.5) -> None:
    """One request of 1,000 uncached tokens, whose first token came at `at` after `seconds`."""
    booking = Booking("x", 0, 0.1, 1000, 0, (), at - seconds)
    booking.first, booking.told = at, 0
    observer.first(booking, seconds)
    observer.over(booking, True)


def test_of_many_first_tokens_a_second_a_part_is_learned() -> None:
    model = PrefillModel(1)
    observer = Observer(model)
    for k in range(ENOUGH + 1):
        served(observer, k * 0.01)
    learned = model._count
    assert learned == ENOUGH - 1, "each but the first of all and the last, which waits for the next"
    start = (ENOUGH + 1) * 0.01
    for k in range(1000):
        served(observer, start + k * 0.005)
    assert model._count - learned <= 1000 * 0.005 / SPARSE + 1, "what comes faster says nothing new"
    assert model._count - learned >= 1000 * 0.005 / SPARSE * 0.7, "but not less than that"


def test_another_machine_is_learned_from_the_beginning() -> None:
    model = PrefillModel(1)
    observer = Observer(model)
    for k in range(2 * ENOUGH):
        served(observer, k * 0.01)
    observer.forget(0)
    before = model._count
    for k in range(ENOUGH):
        served(observer, 100 + k * 0.01, 2.0)
    assert model._count - before == ENOUGH - 1


def test_a_whole_answer_teaches_only_what_it_shows() -> None:
    """It took at least as long as its prefill: a time longer than predicted says nothing, a shorter one does."""
    scheduler = Scheduler(1, 64, random.Random(1), Settings())
    seen = []
    for k, seconds in enumerate((5.0, 0.03)):
        want = Want(f"r{k}", 640, [(k, b) for b in range(10)], k * 10.0, streamed=False)
        [(_, replica)] = scheduler.ask(want, k * 10.0)
        scheduler.answered(want.key, k * 10.0 + seconds)
        scheduler.ended(want.key, k * 10.0 + seconds)
        seen.append(len(scheduler.observer._groups))
    assert replica == 0 and seen == [0, 1]
    scheduler.check()


def test_many_sets_of_replicas_are_told_apart_and_not_all_remembered() -> None:
    scheduler = Scheduler(10, 64, random.Random(1), Settings())
    for mask in range(1, 600):
        found = scheduler.usable(Want(mask, 64, (), 0.0, usable=mask))
        assert found == [i for i in range(10) if mask >> i & 1]
    assert len(scheduler._numbers) <= MASKS_MAX
