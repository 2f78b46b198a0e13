"""Replicas that come and go, what is believed of their caches by which source, slower tiers, and truth that comes late."""

from __future__ import annotations

import random
from typing import Any

import pytest

from routing import kv_cache
from routing.kv import Scheduler, Settings, Want
from routing.kv_cache import Record
from routing.kv_model import PrefillModel, features

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


# Coming and going


def test_with_no_replica_requests_wait_and_go_when_one_comes() -> None:
    s = scheduler()
    assert s.admit(want("a"), 0.0) is None and s.ask(want("a"), 0.0) == [] and s.quote(want("b"), 0.0) == []
    place = s.position("a", 0.0)
    assert place is not None and place.wait == float("inf")
    i = s.join()
    assert i == 0 and [(w.key, at) for w, at in s.place(0.1)] == [("a", 0)]


def test_a_number_is_given_again_when_its_last_request_has_ended() -> None:
    s = scheduler(2)
    s.force(want("a"), 0, 0.0)
    s.index.add(0, [1, 2])
    s.lower.add(0, [3])
    s.leave(0)
    assert s.index.counts[0] == s.lower.counts[0] == 0 and s.alive == 0b10
    assert s.join() == 2
    assert s.answered("a", 0.4, 0) is not None and s.caches.match(want("x").blocks)[0] == [0, 0, 0]
    assert s.join() == 3
    s.ended("a", 1.0, 0, 10)
    assert s.join(limit=3) == 0 and s.limit(0) == 3 and s.join() == 4
    s.check()


def test_nothing_goes_to_a_replica_that_left() -> None:
    s = scheduler(2)
    s.leave(0)
    s.leave(0)
    assert {q.replica for q in s.quote(want("q"), 0.0)} == {1}
    assert serve(s, want("a")) == 1
    for key, i in (("b", 0), ("c", 7), ("d", -1)):
        with pytest.raises(ValueError, match="there is none of that number"):
            s.force(want(key), i, 0.0)
    with pytest.raises(ValueError, match="there is no replica 9"):
        s.leave(9)


def test_a_key_is_asked_for_once() -> None:
    s = scheduler(1)
    s.ask(want("a"), 0.0)
    s.ask(want("b"), 0.0)
    for act in (lambda: s.ask(want("a"), 0.0), lambda: s.force(want("a"), 0, 0.0)):
        with pytest.raises(ValueError, match="is under way already"):
            act()
    with pytest.raises(ValueError, match="is waiting already"):
        s.ask(want("b"), 0.0)
    s.check()


def test_what_others_decided_counts_as_load_past_any_limit() -> None:
    s = scheduler()
    s.join(limit=1)
    s.join(limit=1)
    s.force(want("a"), 0, 0.0)
    s.force(want("b"), 0, 0.0)
    assert s.load.inflight(0) == 2 and s.quote(want("q"), 0.0)[-1].full
    assert s.ask(want("c"), 0.0)[0][1] == 1
    s.ask(want("d"), 0.0)
    s.force(s.held.all["d"], 1, 0.0)
    assert not s.held and s.load.inflight(1) == 2
    for key in "abcd":
        s.ended(key, 1.0)
    s.check()


# Whose word counts


def test_events_count_while_they_are_trusted() -> None:
    s = scheduler()
    i, w = s.join(precise=True), want("a")
    s.index.add(i, w.blocks)
    s.trust(i, True)
    assert s.quote(w, 0.0)[0].cached == 6399
    s.trust(i, False)  # silent or broken: what it said is gone
    assert s.quote(w, 0.0)[0].cached == 0
    serve(s, w)
    assert s.quote(want("b"), 1.0)[0].cached == 6399
    s.trust(i, True)  # live again: what was guessed is gone
    assert s.quote(want("b"), 1.0)[0].cached == 0 and not s.caches.guesses
    s.check()


def test_replicas_of_both_kinds_stand_beside_each_other() -> None:
    s = scheduler()
    s.join(precise=True)
    s.join(blocks=1000)
    s.index.add(0, want("a").blocks[:10])
    s.force(want("a"), 1, 0.0)
    s.answered("a", 0.4)
    s.ended("a", 1.0)
    assert {q.replica: q.cached for q in s.quote(want("b"), 1.0)} == {0: 640, 1: 6399}


def test_blocks_just_computed_are_believed_for_a_moment_without_events(monkeypatch: pytest.MonkeyPatch) -> None:
    s = scheduler(1, fresh=2.0)
    serve(s, want("a"))
    assert s.quote(want("b"), 1.0)[0].cached == 6399
    s.place(2.5)
    assert s.quote(want("b"), 2.5)[0].cached == 0  # no event has said so
    s.index.add(0, want("a").blocks)
    serve(s, want("c", at=3.0))
    assert not s.caches.fresh.masks  # known already
    monkeypatch.setattr(kv_cache, "FRESH_MAX", 2)
    for k in range(5):
        serve(s, want(f"d{k}", at=4.0, blocks=[(k, 0)]))
    s.place(4.0)
    assert s.caches.match([(0, 0)])[0] == [0] and s.caches.match([(4, 0)])[0] == [1]
    s.restarted(0)
    assert not s.caches.fresh.masks
    s.check()


def test_entries_of_hosted_models_die_and_short_prompts_are_not_cached() -> None:
    s = scheduler()
    s.join(ttl=300.0, least=1024, parallel=True)
    serve(s, want("short", 640))
    assert s.quote(want("again", 640), 1.0)[0].cached == 0
    serve(s, want("long"))
    assert s.quote(want("b"), 300.0)[0].cached == 6399
    assert s.quote(want("again", 640), 1.0)[0].cached == 0
    s.place(301.0)
    assert s.quote(want("b"), 301.0)[0].cached == 0
    s.leave(0)
    s.place(302.0)
    s.check()


def test_an_answer_is_in_the_cache_too() -> None:
    s = scheduler()
    s.join()
    chain = [("p", k) for k in range(150)]
    serve(s, want("a"), blocks=chain)
    assert s.quote(want("b", 9600, blocks=chain), 1.0)[0].cached == 9599
    s.trust(0, True)
    serve(s, want("c", at=5.0), blocks=chain)
    assert s.quote(want("b", 9600, blocks=chain), 6.0)[0].cached == 6400  # a precise one says so itself


def test_a_prompt_may_have_blocks_of_another_size() -> None:
    s = scheduler()
    s.join()
    serve(s, want("a", 1000, blocks=[1, 2, 3, 4], size=240.0))
    assert s.quote(want("b", 1000, blocks=[1, 2, 9], size=240.0), 1.0)[0].cached == 480


# Prediction and truth


def test_truth_that_comes_at_the_end_is_recorded_and_learned() -> None:
    s = scheduler()
    s.join(blocks=100)
    serve(s, want("a"), 0)
    serve(s, want("b", at=2.0), 3200)  # it had evicted half
    assert s.caches.guesses.capacity[0] == 98.0 and s.quote(want("c"), 3.0)[0].cached == 98 * BLOCK
    serve(s, want("c", at=4.0), 6399)
    truth = s.truth(0)
    assert (truth.answers, truth.prompt, truth.predicted, truth.reported) == (3, 19_200, 6399 + 98 * BLOCK, 3200 + 6399)
    assert truth.hit_rate == pytest.approx((3200 + 6399) / 19_200)
    assert truth.p95 >= 3000 > truth.p50
    s.answered("never", 5.0, 3)
    assert s.truth(0) == truth


def test_the_first_word_on_the_cache_counts() -> None:
    s = scheduler(1)
    s.ask(want("a"), 0.0)
    b = s.answered("a", 0.4, 99_999)
    assert b is not None and b.told == 6400
    s.ended("a", 1.0, 5)
    assert s.truth(0).answers == 1 and s.truth(0).reported == 6400


def test_the_record_is_bounded() -> None:
    record = Record()
    assert record.read().p95 == 0.0 and record.read().hit_rate == 0.0
    for k in range(5000):
        record.add(1000, 1000, 1000 - (k % 100 if k < 4000 else 7))
    assert record.read().answers == 5000 and record.read().p50 == record.read().p95 == 7.0 and len(record._errors) == kv_cache.ERRORS_KEPT


def truth(u: float, h: float) -> float:
    return 0.02 + 8e-5 * u + 1.6e-9 * u * (h + u / 2)


@pytest.mark.parametrize("told", ["first", "end"])
def test_the_model_learns_from_the_truth_whenever_it_comes(told: str) -> None:
    """Half of the prompts are thought to be cached and are not."""
    s, rng = scheduler(1), random.Random(5)
    for k in range(400):
        t, tokens = 10.0 * k, rng.randrange(1000, 20_000)
        w = want(f"r{k}", tokens, t, [(k, j) for j in range(tokens // BLOCK)])
        hit = tokens // 2 // BLOCK if k % 2 else 0
        s.index.add(0, w.blocks[:hit])
        s.ask(w, t)
        s.answered(w.key, t + truth(tokens, 0), 0 if told == "first" else None)
        s.ended(w.key, t + 9.0, 0 if told == "end" else None, 10)
        s.index.remove(0, w.blocks[:hit])
    off = abs(s.model.predict(8000, 0) / truth(8000, 0) - 1.0)
    assert off < 0.1


def test_a_correction_is_as_if_it_had_been_learned_so() -> None:
    right, late = PrefillModel(2), PrefillModel(2)
    receipts = []
    for k in range(40):
        x, wrong = features(500 + 300 * k, 0), features(100 + 30 * k, 4000)
        y = truth(500 + 300 * k, 0)
        right.learn(k % 2, x, y)
        receipts.append((late.learn(k % 2, wrong if k % 5 == 0 else x, y), x))
    for receipt, x in receipts:
        assert receipt is not None
        late.correct(receipt, x)
    assert late.predict(8000, 0) == pytest.approx(right.predict(8000, 0), rel=0.05)
    before = list(late.b)
    for _ in range(4000):
        late.learn(0, features(1000, 0), 0.1)
    after = list(late.b)
    late.correct(receipts[0][0], features(9999, 0))  # type: ignore[arg-type]
    assert late.b == after != before  # it has faded long ago
    assert late.learn(0, features(1, 0), 0.0) is None


def test_a_replica_that_left_is_no_part_of_what_is_usual() -> None:
    m = PrefillModel(0)
    for i in range(3):
        m.join(i)
    m.leave(2)
    for k in range(500):
        u = 1000 + 10 * (k % 400)
        m.learn(k % 2, features(u, 0), truth(u, 0) * 4)
    assert m.speed[0] == pytest.approx(1.0, abs=0.05) and m.predict(3000, 0) == pytest.approx(4 * truth(3000, 0), rel=0.05)
    for i in range(2):
        m.leave(i)
    m.learn(0, features(1000, 0), 0.1)
    m.join(2)
    assert m.speed[2] == 1.0


def test_what_only_a_wrong_prediction_explains_waits_for_the_end() -> None:
    s = scheduler(1)
    s.index.add(0, want("a").blocks)
    s.ask(want("a"), 0.0)
    before = list(s.model.b)
    b = s.answered("a", 5.0)
    assert b is not None and b.pending is not None and b.pending.group is None
    s.ended("a", 6.0, 0, 10)
    assert s.model.b != before
    s.ask(want("c", 100_000, 7.0, [("c", k) for k in range(1000)]), 7.0)
    s.leave(0)
    s.answered("c", 7.0)
    s.ended("c", 9.0, 7, 10)
    s.check()


# First tokens that nobody sees


def test_a_request_that_is_not_streamed_is_taken_to_be_answered_when_predicted() -> None:
    s = scheduler(1)
    s.ask(want("a", streamed=False), 0.0)
    s.ask(want("b", streamed=False, blocks=()), 0.0)
    s.ask(want("c", blocks=()), 0.0)
    order = []
    for step in range(1, 30):
        order += [w.key for w, _ in s.place(step * 0.1)]
    assert order == ["b", "c"] and s.load.running == [2]
    s.ended("a", 9.0, 0, 100)
    s.ended("b", 9.0)
    s.ended("c", 9.0)
    s.check()


def test_one_that_came_all_at_once_was_served() -> None:
    s = scheduler()
    s.join()
    s.ask(want("a", streamed=False), 0.0)
    b = s.ended("a", 0.1, output=50)
    assert b is not None and b.answered and s.quote(want("b"), 1.0)[0].cached == 6399
    s.force(want("x", streamed=False, blocks=()), 0, 2.0)
    s.force(want("y", streamed=False, blocks=()), 0, 2.0)
    s.ended("x", 2.0)
    s.check()
    s.ended("y", 2.0)
    s.check()


def test_truth_that_comes_after_the_next_first_token_corrects_what_was_learned() -> None:
    told, late = scheduler(1), scheduler(1)
    for s in (told, late):
        for k in range(40):
            t, tokens = 10.0 * k, 4000 + 100 * k
            w = want(f"r{k}", tokens, t, [(k, j) for j in range(tokens // BLOCK)])
            s.index.add(0, w.blocks[: len(w.blocks) // 4])
            s.ask(w, t)
            s.answered(w.key, t + truth(tokens, 0), 0 if s is told else None)
            s.index.clear(0)
            if k:
                s.ended(f"r{k - 1}", t + 5.0, 0, 10)
        s.ended("r39", 500.0, 0, 10)
    assert late.model.predict(8000, 0) == pytest.approx(told.model.predict(8000, 0), rel=0.03)
    assert late.load.end("r39", 500.0) is None


def test_what_is_on_its_way_adds_only_what_is_not_there() -> None:
    s = scheduler(1)
    s.index.add(0, want("a").blocks[:50])
    s.force(want("a", 3200), 0, 0.0)  # brings no more than is there
    assert s.caches.match(want("b").blocks) == ([50], 0)
    s.force(want("c"), 0, 0.0)
    assert s.caches.match(want("b").blocks) == ([100], 1)


def test_side_by_side_short_prompts_are_answered_before_long_ones() -> None:
    s = scheduler()
    s.join(parallel=True)
    s.force(want("long", 200_000, blocks=(), streamed=False), 0, 0.0)
    s.force(want("short", 100, blocks=(), streamed=False), 0, 0.0)
    s.place(1.0)
    assert s.load.running == [1] and set(s.load.waiting[0]) == {"long"}
    s.check()
