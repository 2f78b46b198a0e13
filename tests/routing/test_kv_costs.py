"""What adds to a replica's cost or takes from it: slower tiers, the caller's own seconds, homes of sessions, deadlines."""

from __future__ import annotations

import random
from typing import Any

import pytest

from routing.kv import Scheduler, Settings, Want
from routing.kv_model import features

BLOCK = 64


def scheduler(replicas: int = 0, **changed: Any) -> Scheduler:
    return Scheduler(replicas, BLOCK, random.Random(1), Settings(**changed))


def want(key: str, tokens: int = 6400, at: float = 0.0, blocks: Any = None, **more: Any) -> Want:
    return Want(key, tokens, [("p", k) for k in range(tokens // BLOCK)] if blocks is None else blocks, at, **more)


def serve(s: Scheduler, w: Want, cached: int | None = 0, **how: Any) -> int:
    """Asks, answers and ends one request; the replica it went to."""
    [(_, i)] = s.ask(w, w.at)
    s.answered(w.key, w.at + 0.4)
    s.ended(w.key, w.at + 1.0, cached, **how)
    return i


def test_side_by_side_nobody_waits_for_another() -> None:
    s = scheduler()
    s.join(parallel=True)
    for k in range(20):
        assert s.ask(want(f"r{k}", streamed=k % 2 == 0, blocks=()), 0.0)[0][1] == 0
    s.place(100.0)
    assert s.load.running == [10]
    for k in range(20):
        s.answered(f"r{k}", 0.5)
    assert s.load.running == [20]


# Slower tiers


def test_what_is_cheaper_to_load_than_to_compute_is_loaded() -> None:
    s = scheduler()
    s.join(tier=1e-6)
    s.join()
    w = want("a")
    s.lower.add(0, w.blocks)
    s.lower.add(1, w.blocks)  # nobody has said what loading takes there
    s.index.add(0, w.blocks[:10])
    best, other = s.quote(w, 0.0)
    assert (best.replica, best.cached, best.tier, best.load) == (0, 6399, 5759, pytest.approx(5759e-6))
    assert (other.cached, other.tier, other.load) == (0, 0, 0.0)
    [(_, i)] = s.ask(w, 0.0)
    assert i == 0 and s.load.bookings["a"].tier == 5759 and w.tier == [5759, 0]
    s.answered("a", 0.02)
    s.ended("a", 0.1, 640, 5)  # it could not be loaded; that says nothing of how long blocks stay
    assert s.truth(0).reported == 640


def test_what_is_dearer_to_load_is_computed() -> None:
    s = scheduler()
    s.join(tier=1.0)
    s.lower.add(0, want("a").blocks)
    assert (s.quote(want("a"), 0.0)[0].cached, s.quote(want("a"), 0.0)[0].tier) == (0, 0)
    for _ in range(100):
        s.loaded(0, 1000, 0.004)
    assert s.tier_seconds[0] == pytest.approx(4e-6, rel=0.01) and s.quote(want("a"), 0.0)[0].tier == 6399
    s.join()
    s.loaded(1, 0, 1.0)
    assert s.tier_seconds[1] is None
    s.loaded(1, 100, 0.1)
    assert s.tier_seconds[1] == pytest.approx(1e-3)


# What the caller adds


def test_extra_seconds_and_the_home_of_a_session() -> None:
    s = scheduler(3)
    assert s.ask(want("a", blocks=(), extra=[9.0, 9.0]), 0.0)[0][1] == 2
    for seed in range(20):
        t = Scheduler(3, BLOCK, random.Random(seed))
        assert t.ask(want("a", blocks=(), home=1), 0.0)[0][1] == 1
    quotes = {q.replica: q for q in t.quote(want("b", blocks=(), home=0, extra=[0.5]), 0.0)}
    assert quotes[0].extra == pytest.approx(0.5 - 0.05 * quotes[2].prefill) and quotes[2].extra == 0.0
    busy = Scheduler(2, BLOCK, random.Random(1))
    busy.force(want("x", 50_000, blocks=()), 0, 0.0)
    assert busy.ask(want("a", blocks=(), home=0), 0.0)[0][1] == 1  # never a hard pin


def test_a_replica_that_makes_the_deadline_goes_before_a_dearer_one() -> None:
    s = scheduler(2)
    for k in range(60):
        s.force(want(f"r{k}", 1000, blocks=()), 0, 0.0)
        s.answered(f"r{k}", 0.0)
    w = want("a", blocks=(), extra=[0.0, 5.0], deadline=1.0)
    assert s.ask(w, 0.0)[0][1] == 0
    s.ended("a", 0.0)
    s.model.error[0] = 1.0  # it is not to be relied on
    assert s.ask(want("b", blocks=(), extra=[0.0, 5.0], deadline=1.0), 0.0)[0][1] == 1
    s.ended("b", 0.0)
    assert s.ask(want("c", blocks=(), extra=[0.0, 5.0], deadline=0.001), 0.0)[0][1] == 0  # none makes it


# A slow machine


def uneven(running: int = 0) -> Scheduler:
    """Replica 0 takes twice as long as the three others, which have answers to write."""
    s, r = scheduler(4), random.Random(2)
    for _ in range(2000):
        i, u = r.randrange(4), 10_000 * r.random()
        s.model.learn(i, features(u, 0), (0.01 + u * 5e-5) * (2.0 if i == 0 else 1.0))
    for k in range(running):
        s.force(want(f"r{k}", 1000, blocks=()), 1 + k % 3, 0.0)
        s.answered(f"r{k}", 0.0)
    return s


def test_a_slow_machine_is_given_what_it_can_serve_in_time_while_the_others_are_busy() -> None:
    s = uneven(90)  # 30 on each: a prefill there costs the half more
    short, long = want("short", 6400, blocks=()), want("long", 60_000, blocks=())
    quotes = {q.replica: q for q in s.quote(short, 0.0)}
    assert quotes[0].prefill > max(quotes[i].prefill + quotes[i].stall for i in (1, 2, 3))  # by seconds alone it never would be
    assert quotes[0].spare < 0.0 and all(quotes[i].spare == 0.0 for i in (1, 2, 3))
    assert s.quote(short, 0.0)[0].replica == 0 == s.ask(short, 0.0)[0][1]
    s.ended("short", 0.0)
    assert all(q.spare == 0.0 for q in s.quote(long, 0.0)) and s.ask(long, 0.0)[0][1] != 0  # it would come a second too late there


def test_a_slow_machine_that_may_not_be_used_is_not() -> None:
    s = uneven(90)
    assert s.ask(want("a", blocks=(), usable=0b1110), 0.0)[0][1] != 0


def test_an_idle_fleet_is_used_fastest_first_and_a_deadline_decides_what_is_in_time() -> None:
    s = uneven()
    assert s.ask(want("a", blocks=()), 0.0)[0][1] != 0
    s.ended("a", 0.0)
    s = uneven(90)
    assert s.quote(want("b", blocks=(), deadline=0.2), 0.0)[0].replica != 0


def test_machines_that_differ_by_less_than_a_tenth_are_the_same() -> None:
    s, r = scheduler(2), random.Random(2)
    for _ in range(2000):
        i, u = r.randrange(2), 10_000 * r.random()
        s.model.learn(i, features(u, 0), (0.01 + u * 5e-5) * (1.08 if i == 0 else 1.0))
    assert s.model.speed[0] > 1.02 and s.model.slow == ()
    assert all(q.spare == 0.0 for q in s.quote(want("a", 640, blocks=()), 0.0))


def test_who_is_slow_is_forgotten_with_the_machine() -> None:
    s = uneven()
    assert s.model.slow == (0,)
    s.restarted(0)
    assert s.model.slow == ()
