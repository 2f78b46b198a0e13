"""What the stories that chance makes up rarely come to, told once each: they are to be seen on every run."""

from __future__ import annotations

import random

import pytest

from routing.kv import Scheduler, Settings, Want
from routing.kv_cache import Caches
from routing.kv_chains import Chains
from routing.kv_heard import HeardCaches
from routing.kv_load import Booking, Load
from routing.limit import LearnedLimit
from routing.prefix import Expected, PrefixIndex

BLOCKS = [("p", 0), ("p", 1), ("p", 2)]


def booking(key: str, at: float, prefill: float = 2.0) -> Booking:
    return Booking(key, 0, prefill, 192, 0, BLOCKS, at)


def test_a_request_behind_another_has_had_nothing_of_its_prefill() -> None:
    load = Load(1)
    first, second = booking("first", 0.0), booking("second", 0.0)
    load.book(first)
    load.book(second)
    assert load.served(first, 1.0) == pytest.approx(0.5) and load.served(second, 1.0) == 0.0
    load.end("second", 1.0)  # the head stays who it was, and keeps what it has had
    load.check()
    assert load.served(first, 1.0) == pytest.approx(0.5) and load.backlog(0, 1.0) == pytest.approx(1.0)


def test_a_whole_answer_of_a_replica_that_has_left_teaches_nothing() -> None:
    s = Scheduler(2, 64, random.Random(0), Settings(), 64)
    want = Want("r", 192, BLOCKS, 0.0)
    s.force(want, 0, 0.0)
    answers = list(s.load.answers)
    s.leave(0)
    ended = s.ended("r", 1.0, cached=64, output=5)
    assert ended is not None and ended.told is None, "nothing of it was told to a model"
    assert s.load.answers == [answers[0] + 1, answers[1]]  # it was served, though
    s.check()


def test_a_tenant_can_have_no_share_of_nothing() -> None:
    with pytest.raises(ValueError, match=r"request 'r': a share must be above 0, not 0\.0"):
        Want("r", 64, BLOCKS, 0.0, share=0.0)
    assert Want("r", 0, [], 0.0).tokens == 1  # a prompt has a token, and be it the one that begins it


def test_the_oldest_chains_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("routing.kv_chains.KEPT", 4)
    chains = Chains()
    assert chains.cut([1, 2, 3]) == (None, (1, 2, 3))
    assert chains.cut([1, 2, 3, 4, 5]) == (3, (4, 5))  # eight blocks: too many, so that the older one goes
    assert chains.cut([1, 2, 3]) == (None, (1, 2, 3))
    assert chains.cut([]) == (None, ())
    assert chains.join(99, [1]) is None and chains.join(None, [7]) == (7,)


def test_what_is_below_counts_where_only_guesses_are() -> None:
    s = Scheduler(2, 64, random.Random(0), Settings(), 64)
    caches = s.caches
    assert isinstance(caches, Caches)
    caches.answered(0, BLOCKS[:1], 0.0)
    caches.lower.add(0, BLOCKS[1:2])
    assert caches.below(BLOCKS) == [2, 0]


def test_what_peers_say_is_kept_for_a_newcomer() -> None:
    caches = Scheduler(1, 64, random.Random(0), Settings(), 64).caches
    heard, told = HeardCaches(caches), booking("peer's", 0.0)
    heard.began(told)
    assert caches.expected.match(BLOCKS) == [3]
    heard.reached(told, 1.0)
    assert caches.expected.match(BLOCKS) == [0]
    told.answered = True
    heard.over(told)
    heard.began(lost := booking("lost", 1.0))
    heard.over(lost)
    heard.wrote(told, [*BLOCKS, ("p", 3)], 2.0)
    assert caches.expected.match(BLOCKS) == [0] and heard.stock() == 4
    blocks, capacity = heard.kept(0)
    assert list(blocks) == [*BLOCKS, ("p", 3)] and capacity > 0
    heard.seed(0, [("q", 0)], 8, 3.0)
    assert caches.guesses.has(0, ("q", 0))


def test_a_prediction_of_nothing_moves_no_limit() -> None:
    limit = LearnedLimit(start=4)
    limit.first(4, 1.0, 0.0)
    assert limit.current == 4


def test_an_index_ignores_what_it_has_and_has_not() -> None:
    index = PrefixIndex(1)
    index.add(0, BLOCKS)
    version = index.version
    index.add(0, BLOCKS)
    assert index.counts == [3] and index.version == version
    index.remove(0, [("other", 0), BLOCKS[2]])
    assert index.counts == [2]


def test_blocks_that_two_expect_stay_expected_by_one() -> None:
    expected = Expected(1)
    for _ in range(3):
        expected.add(0, BLOCKS[:2])
    expected.add(0, BLOCKS)
    expected.drop(0, BLOCKS[:2])
    assert expected.match(BLOCKS) == [3]
    expected.drop(0, BLOCKS)
    expected.drop(0, BLOCKS[:2])
    assert expected.match(BLOCKS) == [2]
    expected.drop(0, BLOCKS[:2])
    assert expected.match(BLOCKS) == [0]
    with pytest.raises(KeyError, match="expects fewer blocks"):
        expected.drop(0, BLOCKS)
