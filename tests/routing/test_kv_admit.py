"""Admission: what is refused, by which cap, and that the seconds it says are honest; where a held request stands; who goes before whom."""

from __future__ import annotations

import random
from typing import Any

import pytest

from routing.kv import Caps, Scheduler, Settings, Want
from tests.routing.engine import Engine, World

BLOCK = 64


def scheduler(replicas: int = 1, caps: Caps | None = None, **changed: Any) -> Scheduler:
    return Scheduler(replicas, BLOCK, random.Random(1), Settings(**changed), caps=caps)


def want(key: Any, tokens: int = 10_000, at: float = 0.0, **more: Any) -> Want:
    return Want(key, tokens, (), at, **more)


def busy(s: Scheduler, tokens: int = 50_000) -> None:
    """Every replica has a long prompt to compute."""
    for i in range(s.n):
        s.force(want(("first", i), tokens, tenant="other"), i, 0.0)


def test_whatever_can_go_at_once_is_taken_in() -> None:
    s = scheduler(2, Caps(held=0, tokens=1, age=0.0, tenant_held=0, tenant_tokens=1, tenant_age=0.0))
    s.force(want("x"), 0, 0.0)
    assert s.admit(want("a"), 0.0) is None


@pytest.mark.parametrize(
    ("caps", "cap", "value", "words"),
    [
        (Caps(held=3), "held", 3, "3 requests are waiting; at most 3 may"),
        (Caps(tokens=35_000), "tokens", 40_000, "40000 prompt tokens would be waiting; at most 35000 may"),
        (Caps(age=4.0), "age", 5.0, "has waited for 5 s; while one has waited for 4 s, no more"),
        (Caps(tenant_held=2, held=9), "tenant_held", 2, "2 of your requests are waiting; at most 2 may"),
        (Caps(tenant_tokens=25_000), "tenant_tokens", 30_000, "30000 prompt tokens of your requests"),
        (Caps(tenant_age=3.0), "tenant_age", 4.0, "one of your requests has waited for 4 s"),
    ],
)
def test_the_refusal_says_which_cap(caps: Caps, cap: str, value: float, words: str) -> None:
    s = scheduler(caps=caps)
    busy(s)
    s.ask(want("a", tenant="x"), 0.0)
    s.ask(want("b", at=1.0, tenant="mine"), 1.0)
    s.ask(want("c", at=2.0, tenant="mine", band=1), 2.0)
    refusal = s.admit(want("d", at=5.0, tenant="mine"), 5.0)
    assert refusal is not None and (refusal.cap, refusal.value) == (cap, value) and words in refusal.reason
    assert refusal.retry_after is not None and 0.0 < refusal.retry_after < 10.0
    if cap.startswith("tenant"):
        assert s.admit(want("d", at=5.0, tenant="new"), 5.0) is None


def test_under_its_caps_nothing_is_refused_and_one_long_prompt_may_wait() -> None:
    s = scheduler(caps=Caps(held=2, tokens=100, age=1.0, tenant_held=2, tenant_tokens=100, tenant_age=1.0))
    busy(s)
    assert s.admit(want("a"), 0.0) is None
    s = scheduler(caps=Caps(held=0))
    busy(s)
    refusal = s.admit(want("a"), 0.0)
    assert refusal is not None and refusal.retry_after == pytest.approx(s.load.backlog(0, 0.0))


def test_when_nobody_can_say_when_it_says_so() -> None:
    s = scheduler(0, Caps(held=1))
    s.ask(want("a"), 0.0)
    refusal = s.admit(want("b", deadline=1.0), 0.0)
    assert refusal is not None and refusal.cap == "held" and refusal.retry_after is None


def test_a_deadline_that_cannot_be_kept_is_refused_and_after_the_said_time_it_can() -> None:
    s = scheduler(2)
    busy(s)
    own = s.model.predict(10_000, 0)
    refusal = s.admit(want("a", deadline=2 * own), 0.0)
    assert refusal is not None and refusal.cap == "deadline" and "the deadline is" in refusal.reason
    after = refusal.retry_after
    assert after is not None and after > own
    assert s.admit(want("a", at=0.9 * after, deadline=2 * own), 0.9 * after) is not None
    assert s.admit(want("a", at=after + 0.01, deadline=2 * own), after + 0.01) is None
    hopeless = s.admit(want("a", deadline=own / 2), 0.0)
    assert hopeless is not None and hopeless.retry_after is None
    assert s.admit(want("a", deadline=1000.0), 0.0) is None and s.admit(want("a"), 0.0) is None


def test_work_that_waits_delays_in_proportion_to_the_replicas() -> None:
    waits = []
    for n in (1, 4):
        s = scheduler(n)
        busy(s)
        for k in range(40):
            s.ask(want(k), 0.0)
        refusal = s.admit(want("x", deadline=0.1), 0.0)
        assert refusal is not None
        waits.append(refusal.value)
    assert waits[0] / waits[1] == pytest.approx(40 / 10, rel=0.4)


def test_slots_delay_too() -> None:
    s = scheduler(0)
    s.join(limit=2)
    for k in range(2):
        s.force(want(("first", k), 10), 0, 0.0)
        s.answered(("first", k), 0.01)
    assert s.ask(want("a", 10), 0.1) == []
    first, full = s.position("a", 0.1), s.admit(want("x", 10, deadline=0.5), 0.1)
    assert first is not None and first.wait == pytest.approx(5.0, rel=0.1)  # answers take 10 s until some have shown otherwise; two run
    assert full is not None and full.cap == "deadline"
    for k in range(20):
        s.ask(want(k, 10), 0.1)
    last = s.position(19, 0.1)
    assert last is not None and last.number == last.of == 21 and last.wait > 90.0
    s.join()  # without a limit, only work counts
    last = s.position(19, 0.1)
    assert last is not None and last.wait < 5.0


def test_a_position_counts_bands_and_fair_shares() -> None:
    s = scheduler()
    busy(s)
    for k in range(10):
        s.ask(want(("a", k), tenant="a"), 0.0)
    s.ask(want("top", tenant="b", band=1), 0.0)
    s.ask(want("later", tenant="b", band=-1), 0.0)
    s.ask(want("b", tenant="b"), 0.0)
    s.ask(want("second", at=0.1, tenant="b", usable=1), 0.1)
    places = {key: s.position(key, 0.1) for key in ("top", "b", "second", ("a", 9))}
    assert [p.number for p in places.values() if p is not None] == [1, 2, 4, 13]
    assert s.position("nobody", 0.0) is None


def test_what_is_predicted_is_about_what_comes() -> None:
    s = scheduler(2)
    world = World(s, [Engine(prefill=1e-4, pace=0.0) for _ in range(2)])
    for k in range(250):
        world.arrive(0.2 * k, want(k, random.Random(k).randrange(1000, 9000), 0.2 * k, output=1))
    world.run(50.0)
    told = {key: s.position(key, 50.0) for key in s.held.all}
    world.run()
    predicted = sum(place.wait for place in told.values() if place is not None)
    assert len(told) > 20 and predicted == pytest.approx(sum(world.first[key] - 50.0 for key in told), rel=0.5)


# Who goes before whom where queues may be joined


def test_small_work_does_not_join_where_one_of_a_higher_rank_waits() -> None:
    for more, joins in (({}, True), ({"band": 1}, False), ({"tenant": "poor"}, False)):
        s = scheduler()
        s.fair.arrive("", 1.0)
        s.fair.charge("", 50_000.0)
        s.fair.depart("")
        s.force(want("x", 5000, tenant="other"), 0, 0.0)
        s.fair._low = 0.0
        s.load.answers[0] = 2
        assert s.ask(want("large", **more), 0.0) == []  # type: ignore[arg-type]
        assert bool(s.ask(want("small", 100), 0.0)) == joins
    s = scheduler()
    s.force(want("x", 5000), 0, 30.0)
    s.load.answers[0] = 2
    assert s.ask(want("large", at=0.0), 30.0) == []
    assert s.ask(want("small", 100, at=30.0), 30.0) == []  # who has waited so long is not overtaken
