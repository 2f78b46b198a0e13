"""The books of what replicas are busy with: what is counted for all of them at once is what is counted for each."""

from __future__ import annotations

import random

import pytest

from routing.kv_cache import Caches
from routing.kv_load import Booking, Load
from routing.prefix import Expected


def booking(key: str, replica: int, at: float, prefill: float) -> Booking:
    return Booking(key, replica, prefill, 640, 0, (), at)


def filled(rng: random.Random) -> Load:
    load = Load(4)
    load.parallel[3] = rng.random() < 0.3
    load.limits[1] = rng.choice([None, 1, 8])
    for k in range(rng.randrange(16)):
        load.book(booking(f"r{k}", rng.randrange(4), rng.random(), rng.random()))
        if rng.random() < 0.4:
            load.answer(f"r{rng.randrange(k + 1)}", 2 * rng.random())
        if rng.random() < 0.3:
            load.end(f"r{rng.randrange(k + 1)}", 2 * rng.random())
    load.check()
    return load


def test_what_is_before_a_request_is_each_replicas_backlog_context_and_slot() -> None:
    rng = random.Random(4)
    for _ in range(300):
        load, now = filled(rng), 2 * rng.random()
        waits = load.waits(now, 1e-4)
        assert waits == [load.backlog(i, now) + 1e-4 * load.context[i] + load.slot(i) for i in range(4)]
        prefill = [rng.random() for _ in range(4)]
        assert load.costs(waits, prefill, 0.03) == [w + p + 0.03 * r * p for w, p, r in zip(waits, prefill, load.running, strict=True)]
        behind = [sum(b.prefill for b in [*load.waiting[i].values()][1:]) for i in range(4)]
        assert [load.behind(i) for i in range(4)] == behind


def test_an_answer_in_one_piece_is_a_first_token_and_an_end() -> None:
    for seed in range(300):
        one, other = filled(random.Random(seed)), filled(random.Random(seed))
        now = random.Random(seed).random()  # also before what was heard last
        for b in [b for b in one.bookings.values() if not b.answered]:
            found = other.answer(b.key, now)
            assert found is not None and one.whole(b, now) == found[1]
            assert other.end(b.key, now) is found[0] and (b.inflight, b.first) == (found[0].inflight, found[0].first)
            one.check()
            for name in ("heads", "sums", "first", "running", "answers", "context", "changed"):
                assert getattr(one, name) == getattr(other, name)
            assert one.writing == pytest.approx(other.writing)


def test_only_what_goes_beyond_counts_as_on_its_way() -> None:
    rng = random.Random(5)
    for _ in range(300):
        expected, have = Expected(3), [rng.randrange(5) for _ in range(3)]
        for i in range(3):
            expected.add(i, [b for b in range(5) if rng.random() < 0.7])
        coming, before = expected.match(range(5)), list(have)
        soon = expected.deeper(range(5), have)
        assert have == [max(a, b) for a, b in zip(before, coming, strict=True)]
        assert soon == sum(1 << i for i in range(3) if coming[i] > before[i])
    assert expected.deeper([], [0, 0, 0]) == 0


def test_replicas_that_tell_and_such_that_do_not_are_matched_beside_each_other() -> None:
    caches = Caches(64, 2.0)
    for i, precise in enumerate((True, False, True)):
        caches.join(i, precise, None, None, 0)
    caches.index.add(0, [1, 2, 3])
    caches.guesses.touch(1, [1, 2])
    assert caches.match([1, 2, 3, 4]) == ([3, 2, 0], 0)
    caches.index.add(1, [1, 2, 3, 4])  # it is not believed: what we did there is
    assert caches.match([1, 2, 3, 4]) == ([3, 2, 0], 0)
