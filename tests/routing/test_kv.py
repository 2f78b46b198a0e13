"""The scheduler: decisions by seconds, late binding, accounts that end at zero, a model that stays sane, several gateways."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routing.kv import KVAware, Scheduler, Settings, Want
from routing.kv_load import Booking, Load
from routing.kv_model import PrefillModel, features
from routing.kv_peers import BEAT_SECONDS, SILENT_SECONDS, Message

BLOCK = 64


def scheduler(replicas: int = 2, approximate: int = 0, **changed: Any) -> Scheduler:
    return Scheduler(replicas, BLOCK, random.Random(1), Settings(**changed), approximate)


def want(key: str, tokens: int, at: float = 0.0, blocks: Any = None, **more: Any) -> Want:
    return Want(key, tokens, [(key, k) for k in range(tokens // BLOCK)] if blocks is None else blocks, at, **more)


def where(placed: list[tuple[Want, int]]) -> dict[Any, int]:
    return {w.key: i for w, i in placed}


# Decisions


def test_a_prompt_goes_where_its_prefix_is() -> None:
    s = scheduler(4)
    w = want("a", 6400)
    s.index.add(2, w.blocks[:90])
    assert where(s.ask(w, 0.0)) == {"a": 2}
    quotes = s.quote(want("b", 6400, blocks=w.blocks), 0.0)
    assert {q.replica for q in quotes} == {0, 1, 2, 3} and quotes == sorted(quotes, key=lambda q: q.total)


def test_a_short_queue_is_waited_for_and_a_long_one_is_not() -> None:
    s = scheduler(2)
    hot = [("p", k) for k in range(100)]
    s.index.add(0, hot)
    s.load.book(Booking("x", 0, 0.2, 100, 0, (), 0.0))
    assert s.ask(want("a", 10_000, blocks=hot), 0.0) == []  # held: 0.2 s are less than computing 6,400 tokens anew
    s.answered("x", 0.1, 0)
    assert where(s.place(0.1)) == {"a": 0}
    t = scheduler(2)
    t.index.add(0, hot)
    t.load.book(Booking("x", 0, 30.0, 100, 0, (), 0.0))
    assert where(t.ask(want("a", 6400, blocks=hot), 0.0)) == {"a": 1}  # the prefix gets a second home


def test_small_work_joins_a_queue_that_is_over_soon() -> None:
    for head, at, answers, joins in ((0.3, 0.0, 2, True), (5.0, 0.0, 2, False), (0.3, 0.0, 1, False), (0.3, 0.7, 2, False)):
        s = scheduler(1)
        s.load.answers[0] = answers  # predictions are of this machine after two
        s.load.book(Booking("x", 0, head, 100, 0, (), 0.0))
        assert where(s.ask(want("small", 200, at), at)) == ({"small": 0} if joins else {})
        assert s.ask(want("large", 9000, at), at) == []


def test_siblings_of_a_dispatch_under_way_wait_for_it() -> None:
    s = scheduler(2)
    shared = [("s", k) for k in range(100)]
    assert len(s.ask(want("first", 6500, blocks=shared), 0.0)) == 1
    assert s.quote(want("second", 6500, blocks=shared), 0.0)[-1].cached in (0, 6400)
    one = scheduler(1)
    one.ask(want("first", 6500, blocks=shared), 0.0)
    second = want("second", 6500, blocks=shared)
    assert one.ask(second, 0.35) == []  # it is small work behind a short queue, but its prefix is not computed yet
    assert second.hits == [6400] and second.soon == 1
    one.answered("first", 0.4, 0)
    assert where(one.place(0.4)) == {"second": 0}


def test_unusable_replicas_get_nothing_and_with_none_it_is_held() -> None:
    s = scheduler(3)
    assert where(s.ask(want("a", 6400, usable=0b100), 0.0)) == {"a": 2}
    assert s.ask(want("b", 6400, usable=0), 0.0) == []
    assert s.quote(want("b", 6400, usable=0), 0.0) == []
    s.ended("b", 0.0)
    assert not s.held


def test_near_ties_fall_evenly() -> None:
    counts = [0, 0, 0]
    for seed in range(300):
        s = Scheduler(3, BLOCK, random.Random(seed))
        counts[where(s.ask(want("a", 100), 0.0))["a"]] += 1
    assert min(counts) > 60


def test_running_answers_push_long_prompts_elsewhere() -> None:
    s = scheduler(2)
    for k in range(20):
        s.load.book(Booking(k, 0, 0.1, 1000, 0, (), 0.0))
        s.answered(k, 0.0, 0)
    assert where(s.ask(want("a", 20_000), 0.0)) == {"a": 1}
    quotes = s.quote(want("b", 20_000), 0.0)
    assert next(q for q in quotes if q.replica == 0).stall > 0.5


def test_order_band_first_then_feasible_and_short_then_ratio() -> None:
    s = scheduler(1)
    s.load.book(Booking("x", 0, 50.0, 100, 0, (), 0.0))
    for key, tokens, band in (("long", 20_000, 0), ("short", 9000, 0), ("urgent", 15_000, 1)):
        s.ask(want(key, tokens, band=band), 0.0)
    order = []
    for step in range(3):
        s.ended("x" if step == 0 else order[-1], 0.1)
        order += [w.key for w, _ in s.place(0.1)]
    assert order == ["urgent", "short", "long"]


def test_who_is_out_of_patience_goes_now_and_then() -> None:
    s = scheduler(1, patience=5.0, share=2)
    s.load.book(Booking("x", 0, 50.0, 100, 0, (), 0.0))
    s.ask(want("old", 50_000), 0.0)
    for k in range(4):
        s.ask(want(f"new{k}", 3000 + k, at=40.0), 40.0)
    order: list[Any] = []
    for step in range(5):
        s.ended("x" if step == 0 else order[-1], 40.0)
        order += [w.key for w, _ in s.place(40.0)]
    assert order.index("old") == 1 and len(order) == 5


def test_a_long_queue_is_looked_at_from_both_ends() -> None:
    s = scheduler(1, window=4)
    s.load.book(Booking("x", 0, 50.0, 100, 0, (), 0.0))
    for k in range(20):
        s.ask(want(f"w{k:02}", 20_000 - 100 * k), 0.0)
    s.ended("x", 0.0)
    assert where(s.place(0.0)) == {"w19": 0}


def test_matches_are_renewed_when_the_cache_changed() -> None:
    s = scheduler(1)
    s.load.book(Booking("x", 0, 50.0, 100, 0, (), 0.0))
    s.load.book(Booking("y", 0, 0.3, 100, 0, (), 0.0))
    w = want("a", 64_000)
    s.load.end("x", 0.0)
    s.ask(w, 0.0)
    s.index.add(0, w.blocks[:50])
    s.place(0.02)
    assert w.hits == [0]  # too soon
    s.place(0.1)
    assert w.hits == [3200]


def test_arguments_outside_are_refused() -> None:
    load = Load(1)
    load.book(Booking("a", 0, 1.0, 1, 0, (), 0.0))
    with pytest.raises(ValueError, match="is on replica 0 already"):
        load.book(Booking("a", 0, 1.0, 1, 0, (), 0.0))


# Learning


def truth(u: float, h: float) -> float:
    return 0.02 + 8e-5 * u + 1.6e-9 * u * (h + u / 2)


def test_the_model_learns_a_machine_it_never_saw() -> None:
    for scale in (0.1, 1.0, 8.0):
        m, r = PrefillModel(2), random.Random(2)
        for _ in range(400):
            u, h = r.choice([50, 500, 3000, 20_000]) * r.random() + 1, r.choice([0, 4000, 30_000])
            m.learn(r.randrange(2), features(u, h), scale * truth(u, h) * r.uniform(0.8, 1.2))
        for u, h in ((100, 0), (2000, 8000), (15_000, 0), (40_000, 10_000)):
            assert m.predict(u, h) == pytest.approx(scale * truth(u, h), rel=0.25, abs=0.02 * scale)


def test_the_model_learns_which_replica_is_slow() -> None:
    m, r = PrefillModel(4), random.Random(2)
    for _ in range(2000):
        i, u = r.randrange(4), 10_000 * r.random()
        m.learn(i, features(u, 0), truth(u, 0) * (2.0 if i == 0 else 1.0))
    assert m.speed[0] / m.speed[1] == pytest.approx(2.0, rel=0.1)
    assert m.speed[0] * m.predict(8000, 0) == pytest.approx(2 * truth(8000, 0), rel=0.15)
    m.forget(0)
    assert m.speed[0] == 1.0


@given(
    st.lists(st.tuples(st.integers(0, 1), st.floats(0, 2e5), st.floats(0, 2e5), st.floats(-1, 1000, allow_nan=False)), max_size=60),
    st.floats(0, 1e5),
)
def test_no_observation_makes_the_model_absurd(seen: list[tuple[int, float, float, float]], u: float) -> None:
    m = PrefillModel(2)
    for i, a, h, y in seen:
        m.learn(i, features(a, h), y)
    assert all(b >= 0 for b in m.b) and all(0.1 <= s <= 10 for s in m.speed)
    assert 0 < m.predict(u, 0) <= m.predict(u + 1, 0) < 1e7


def test_one_length_only_for_a_very_long_time() -> None:
    m = PrefillModel(1)
    for _ in range(20_000):
        m.learn(0, features(1200, 6000), 0.08)
    assert m.predict(1200, 6000) == pytest.approx(0.08, rel=0.05)
    assert 0.2 < m.predict(7200, 0) < 2.0  # never seen: the prior's shape, scaled


def test_first_tokens_of_one_step_are_one_observation() -> None:
    s = scheduler(1)
    for step in range(60):
        t = float(step)
        for k in range(4):
            s.load.book(Booking((step, k), 0, 0.1, 2000, 0, (), t))
        for k in range(4):
            s.answered((step, k), t + 4 * 0.16 + 0.02, 0)
            s.ended((step, k), t + 0.9)
    assert s.model.predict(8000, 0) == pytest.approx(0.66, rel=0.1)


def test_approximate_mode_learns_from_reports() -> None:
    s = scheduler(1, approximate=64)
    w = want("a", 640)
    s.ask(w, 0.0)
    s.answered("a", 0.1, 0)
    s.ended("a", 0.2)
    assert s.caches.match(w.blocks)[0] == [10]
    s.ask(want("b", 640, blocks=w.blocks), 1.0)
    s.answered("b", 1.1, 128)  # it had evicted the rest
    assert s.caches.guesses.capacity[0] == 64  # not below the least
    s.ask(want("c", 640, blocks=w.blocks), 2.0)
    s.answered("c", 2.1, None)
    s.restarted(0)
    assert s.caches.match(w.blocks)[0] == [0]
    s.check()


# Several gateways


def pair() -> tuple[Scheduler, Scheduler]:
    a, b = Scheduler(2, BLOCK, random.Random(1)), Scheduler(2, BLOCK, random.Random(2))
    a.peers.hear(b.peers.fetch(BEAT_SECONDS), BEAT_SECONDS)
    b.peers.hear(a.peers.fetch(BEAT_SECONDS), BEAT_SECONDS)
    return a, b


def test_peers_book_what_they_hear_and_forget_who_falls_silent() -> None:
    a, b = pair()
    assert a.peers.gateways == b.peers.gateways == 2
    placed = a.ask(want("x", 6400, 5.0), 5.0) or a.place(5.2)
    i = placed[0][1]
    b.peers.hear(a.peers.fetch(5.2), 5.22)
    assert b.load.backlog(i, 5.2) > 0.1
    a.answered("x", 5.7, 0)
    b.peers.hear(a.peers.fetch(5.7), 5.72)
    assert (b.load.backlog(i, 5.8), b.load.running[i]) == (0.0, 1)
    b.peers.hear([], 5.8 + SILENT_SECONDS)
    assert b.load.running == [0, 0] and b.peers.gateways == 1
    a.ended("x", 6.0)
    b.peers.hear(a.peers.fetch(6.0), 6.02 + SILENT_SECONDS)
    b.check()


def test_two_gateways_at_one_instant_take_different_replicas() -> None:
    a, b = pair()
    one, two = a.ask(want("x", 6400, 10.0), 10.0), b.ask(want("y", 6400, 10.0), 10.0)
    assert where(one)["x"] != where(two)["y"]
    hot = [("p", k) for k in range(200)]
    a, b = pair()
    for s in (a, b):
        s.index.add(0, hot[:100])
    small = [s.ask(want("w", 6410, 10.0, hot[:100]), 10.0) for s in (a, b)]
    assert [where(p) for p in small] == [{"w": 0}, {"w": 0}]  # warm ones are small: no turn is waited for


def test_a_turn_comes_after_the_delay_that_was_measured() -> None:
    a, b = pair()
    late = next(s for s in (a, b) if s.peers.turn(0, 10.0, 10.0) > 0.0)
    w = want("x", 6400, 10.0, usable=0b01)
    assert late.ask(w, 10.0) == []
    assert late.quote(w, 10.0)[0].turn == pytest.approx(late.peers.delay + 0.012)
    assert where(late.place(10.0 + late.peers.delay + 0.013)) == {"x": 0}


# The simulator's interface


class Ask:
    def __init__(self, rid: int, input_len: int, blocks: tuple[Any, ...]) -> None:
        self.rid, self.input_len, self.blocks = rid, input_len, blocks


def test_the_policy_behind_the_simulators_interface() -> None:
    policy = KVAware(1, BLOCK, 5, stall="0.05")
    assert policy.wants_kv_events and policy.scheduler.set.stall == 0.05
    policy.on_kv(0, [1, 2], [2])
    assert policy.scheduler.index.match([1, 2]) == [1]
    assert [m.kind for m in policy.outbox()] == ["anew", "told"]
    assert policy.choose(Ask(0, 9000, ()), 0.0, None) == 0
    assert policy.choose(Ask(1, 9000, ()), 0.0, None) is None
    policy.on_first_token(0, 0, 1.0, 0)
    assert policy.choose(Ask(2, 20_000, ()), 1.0, None) is None  # the one held before goes first
    assert policy.release(1.0, None) == [(1, 0)]
    policy.on_finish(0, 0, 1.5, 10)
    assert [m.kind for m in policy.outbox()][:2] == ["booked", "answered"]
    policy.on_peer([Message(9, "here", at=1.5)], 1.6)
    assert policy.scheduler.peers.gateways == 2
    assert not KVAware(1, BLOCK, mode="approx").wants_kv_events
