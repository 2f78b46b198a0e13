"""Feeds between real ZMQ publishers and a scheduler: when they are believed, what the log says, restarts, ranks, exact caches."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from typing import Any

import pytest
import uvloop

from gateway import feeds as feeds_module
from gateway.feeds import Feeds, FeedState, Publisher
from routing import kvevents as kv
from routing.kv_scheduler import Scheduler
from routing.kv_want import Want
from routing.prefix import PrefixIndex, salted, token_blocks
from tests.fakes.kv_events import ENCODINGS, HASHES, Cache, Encoding, Hashes
from tests.fakes.kv_publisher import Publisher as Fake

DEADLINE = 30.0
ROOT = salted("m", "", "")
TOKENS = list(range(64))


class Owner:
    """What a scheduler is to its feeds: it drops what it is told not to trust, as the scheduler does."""

    def __init__(self, replicas: int = 2) -> None:
        self.index, self.lower = PrefixIndex(replicas), PrefixIndex(replicas)
        self.told: list[tuple[Any, ...]] = []

    def trust(self, replica: int, precise: bool) -> None:
        self.told.append(("trust", replica, precise))
        if not precise:
            self.index.clear(replica)

    def restarted(self, replica: int) -> None:
        self.told.append(("restarted", replica))
        self.index.clear(replica)

    def cached(self, replica: int, tokens: list[int], size: int = 16) -> int:
        return self.index.match(token_blocks(tokens, ROOT, size))[replica] * size


class Clock:
    def __init__(self) -> None:
        self.now = 5000.0

    def __call__(self) -> float:
        return self.now


async def until(holds: Callable[[], bool]) -> None:
    """Turns of the loop until `holds()`."""
    end = asyncio.get_running_loop().time() + DEADLINE
    while not holds():
        assert asyncio.get_running_loop().time() < end, "never came"
        await asyncio.sleep(0)


def of(fake: Fake, replay: bool = True, **more: Any) -> Publisher:
    return Publisher(fake.endpoint, fake.replay if replay else "", name="gpu#0", model="m", **more)


def state(feeds: Feeds) -> FeedState:
    return feeds.states()[0]


def test_a_followed_cache_is_trusted_from_the_first_connection_on() -> None:
    async def run() -> None:
        owner, clock = Owner(), Clock()
        feeds = Feeds(owner, 16, clock=clock)
        with Fake() as fake:
            fake.publish(fake.stored([1, 2], TOKENS[:32]))  # before anybody listens
            feeds.follow(1, of(fake))
            feeds.follow(1, of(fake))
            assert owner.told == [("trust", 1, False)]
            await until(lambda: state(feeds).state == "live")
            assert owner.cached(1, TOKENS) == 32 and owner.told[1:] == [("trust", 1, True)]
            await asyncio.to_thread(fake.subscribed)
            fake.publish(fake.stored([3], TOKENS[32:48], 2), ts=4999.5)
            await until(lambda: owner.cached(1, TOKENS) == 48)
            found = state(feeds)
            assert (found.replica, found.name, found.rank, found.connected, found.batches, found.blocks) == (1, "gpu#0", 0, True, 2, 3)
            assert found.lag == 0.5 and (found.gaps, found.lost, found.orphans, found.restarts) == (0, 0, 0, 0)
            feeds.unfollow(1)
            feeds.unfollow(1)
            assert owner.index.counts == [0, 0] and feeds.states() == [] and owner.told[-1] == ("trust", 1, False)
        feeds.close()
        feeds.close()

    uvloop.run(run())


def test_a_gap_is_filled_and_a_lost_connection_costs_nothing() -> None:
    async def run() -> None:
        owner = Owner()
        feeds = Feeds(owner, 16)
        with Fake() as fake:
            feeds.follow(0, of(fake))
            await asyncio.to_thread(fake.subscribed)
            await until(lambda: state(feeds).state == "live")
            fake.send(fake.batch(fake.stored([1, 2], TOKENS[:32]), ts=1.0), lose=True)
            fake.publish(fake.stored([3, 4], TOKENS[32:], 2))
            await until(lambda: owner.cached(0, TOKENS) == 64)
            assert (state(feeds).gaps, state(feeds).lost, state(feeds).orphans) == (1, 0, 0)
            seq, ring = fake.seq, fake.ring
            fake.stop()
            await until(lambda: state(feeds).state == "waiting")
            assert owner.told[-1] == ("trust", 0, False) and owner.index.counts == [0, 0]
            fake.start(seq, ring)  # it was the network
            await until(lambda: state(feeds).state == "live")
            assert owner.cached(0, TOKENS) == 64 and state(feeds).restarts == 0 and ("restarted", 0) not in owner.told
        feeds.close()

    uvloop.run(run())


def test_a_restarted_engine_is_noticed_and_its_cache_forgotten() -> None:
    async def run() -> None:
        owner = Owner()
        feeds = Feeds(owner, 16)
        with Fake() as fake:
            feeds.follow(0, of(fake))
            await asyncio.to_thread(fake.subscribed)
            fake.publish(fake.stored([1, 2], TOKENS[:32]))
            await until(lambda: owner.cached(0, TOKENS) == 32)
            fake.restart()
            await until(lambda: state(feeds).restarts == 1 and state(feeds).state == "live")
            assert owner.index.counts == [0, 0] and owner.told.count(("restarted", 0)) == 1
            await asyncio.to_thread(fake.subscribed)
            fake.publish(fake.stored([9], TOKENS[:16]))
            await until(lambda: owner.cached(0, TOKENS) == 16)
            feeds.restarted(0)  # now its owner says so, too late: the replay brings back what is there
            assert owner.index.counts == [0, 0] and owner.told[-2:] == [("restarted", 0), ("trust", 0, False)]
            fake.publish(fake.stored([10], TOKENS[16:32], 9))
            await until(lambda: owner.cached(0, TOKENS) == 32)
            feeds.restarted(7)
        feeds.close()

    uvloop.run(run())


def test_nonsense_ends_the_trust_with_one_line_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> None:
        owner = Owner()
        feeds = Feeds(owner, 16)
        with Fake() as fake:
            feeds.follow(0, of(fake))
            await asyncio.to_thread(fake.subscribed)
            fake.publish(fake.stored([1, 2], TOKENS[:32]))
            await until(lambda: owner.cached(0, TOKENS) == 32)
            for _ in range(10):
                fake.frames(b"", b"short", b"x")
            await until(lambda: state(feeds).state == "broken")
            assert owner.told[-1] == ("trust", 0, False) and owner.index.counts == [0, 0]
            for _ in range(10):
                fake.frames(b"x")
            fake.publish(fake.stored([3, 4], TOKENS[32:], 2))  # a good one: all that is in the replay comes back
            await until(lambda: state(feeds).state == "live")
            assert owner.cached(0, TOKENS) == 64
        feeds.close()

    uvloop.run(run())
    lines = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert len(lines) == 1
    assert lines[0].startswith("KV events of gpu#0 at ipc://") and "cannot be read" in lines[0] and "check that" in lines[0]


def test_hits_without_events_end_the_trust(caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> None:
        owner = Owner()
        feeds = Feeds(owner, 16)
        with Fake() as fake:
            feeds.follow(0, of(fake))
            await until(lambda: state(feeds).state == "live")
            for _ in range(kv.SILENT_HITS):
                feeds.hit(0, 64, 0)
            assert state(feeds).state == "silent" and owner.told[-1] == ("trust", 0, False)
            feeds.hit(5, 64, 0)
        feeds.close()

    uvloop.run(run())
    assert ["--kv-events-config" in r.getMessage() for r in caplog.records] == [True]


def test_a_publisher_that_is_not_there_is_told_once(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeds_module, "PATIENCE_SECONDS", 0.0)

    async def run() -> None:
        owner = Owner()
        feeds = Feeds(owner, 16)
        with Fake() as fake:
            fake.stop()
            feeds.follow(0, of(fake))
            await until(lambda: bool(caplog.records))
            fake.start()
            await until(lambda: state(feeds).state == "live")
            assert len(caplog.records) == 1
            fake.stop()
            await until(lambda: len(caplog.records) == 2)
        feeds.close()

    uvloop.run(run())
    assert all("not connected; check that the engine runs" in r.getMessage() for r in caplog.records)


def test_without_a_replay_the_first_batch_makes_it_live_and_strangers_do_not() -> None:
    async def run() -> None:
        owner = Owner()
        feeds = Feeds(owner, 16)
        with Fake() as fake:
            feeds.follow(0, of(fake, replay=False))
            await asyncio.to_thread(fake.subscribed)
            await until(lambda: state(feeds).connected)
            assert (state(feeds).state, state(feeds).reason) == ("waiting", "no event has come since it was connected")
            fake.publish(fake.stored([1, 2], TOKENS[:32]))
            await until(lambda: owner.cached(0, TOKENS) == 32)
            for k in range(kv.ENOUGH):
                fake.publish(fake.stored([100 + k], TOKENS[:16], 5000 + k))
            await until(lambda: state(feeds).state == "partial")
            assert owner.told[-1] == ("trust", 0, False) and not fake.asked
        feeds.close()

    uvloop.run(run())


def test_ranks_are_trusted_together() -> None:
    async def run() -> None:
        owner = Owner()
        feeds = Feeds(owner, 16)
        with Fake() as zero, Fake(beside=zero) as one:
            feeds.follow(1, of(zero, ranks=2))
            await until(lambda: all(s.state == "live" for s in feeds.states()))
            assert [(s.rank, s.replica) for s in feeds.states()] == [(0, 1), (1, 1)]
            await asyncio.to_thread(zero.subscribed)
            await asyncio.to_thread(one.subscribed)
            zero.publish(zero.stored([1, 2], TOKENS[:32]))
            one.publish(one.stored([1, 2], TOKENS[:32]))
            await until(lambda: [s.blocks for s in feeds.states()] == [2, 2])
            one.publish(one.cleared())
            await until(lambda: feeds.states()[1].blocks == 0)
            assert owner.cached(1, TOKENS) == 32
            for _ in range(2 * kv.MISSES):
                feeds.hit(1, 0, 64)  # it was the other rank
            assert all(s.state == "live" for s in feeds.states())
            one.stop()
            await until(lambda: feeds.states()[1].state == "waiting")
            assert owner.told[-1] == ("trust", 1, False)
        feeds.close()

    uvloop.run(run())


def test_sync_follows_exactly_what_is_wanted_and_refuses_what_cannot_be() -> None:
    async def run() -> None:
        owner = Owner()
        feeds = Feeds(owner, 16)
        with Fake() as a, Fake() as b:
            feeds.sync({0: of(a), 1: of(b)})
            await until(lambda: all(s.state == "live" for s in feeds.states()))
            feeds.sync({1: of(a)})
            assert [s.replica for s in feeds.states()] == [1] and len(feeds.hub.subscribers) == 1
            for wrong in (Publisher("tcp://*:1"), Publisher("tcp://h:65535", ranks=2)):
                with pytest.raises(ValueError, match="KV-event endpoint"):
                    feeds.follow(0, wrong)
            assert len(feeds.hub.subscribers) == 1
        feeds.close()

    uvloop.run(run())


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("hashes", HASHES)
def test_a_cache_is_followed_exactly_through_whatever_happens(encoding: Encoding, hashes: Hashes) -> None:
    """Prompts with shared beginnings, evictions, clears, losses, lost replays, network faults and restarts in random order: at the end of
    each round the index is what the cache is."""

    async def run() -> None:
        rng, owner = random.Random(f"{encoding} {hashes}"), Owner()
        feeds = Feeds(owner, 16)
        with Fake(encoding=encoding, hashes=hashes) as fake:
            cache = Cache(fake, rng, blocks=24)
            feeds.follow(0, of(fake))
            await asyncio.to_thread(fake.subscribed)
            for _ in range(60):
                cache = await happens(rng, fake, cache)
                want = {token_blocks(key, ROOT, 16)[-1] for key in cache.names}
                await until(lambda want=want: set(owner.index.masks) == want and state(feeds).state == "live")  # type: ignore[misc]
                assert len(feeds.states()) == 1 and state(feeds).blocks == len(cache.names)
        owner.index.check()
        feeds.close()
        assert not owner.index.masks

    uvloop.run(run())


async def happens(rng: random.Random, fake: Fake, cache: Cache) -> Cache:
    """A few prompts, and now and then something that goes wrong."""
    for _ in range(rng.randrange(1, 6)):
        prompt = [t for _ in range(rng.randrange(1, 6)) for t in [rng.randrange(3)] * 16]
        events = cache.clear() if rng.random() < 0.03 else cache.prompt(prompt)
        fake.clock += 1.0
        fake.send(fake.batch(*events, ts=fake.clock), lose=rng.random() < 0.1)
    what = rng.random()
    if what < 0.1:
        fake.drop_in_replay = {rng.randrange(fake.seq)}
    elif what < 0.2:
        seq, ring = fake.seq, fake.ring
        fake.stop()
        fake.start(seq, ring)
        await asyncio.to_thread(fake.subscribed)
    elif what < 0.3:
        fake.restart()
        await asyncio.to_thread(fake.subscribed)
        cache = Cache(fake, rng, blocks=24)
    fake.clock += 1.0
    fake.send(fake.batch(ts=fake.clock))  # shows what was lost before it
    return cache


def test_a_scheduler_sees_what_its_feeds_say() -> None:
    async def run() -> None:
        scheduler = Scheduler(2, 16, random.Random(1), approximate=1024)
        feeds = Feeds(scheduler, 16)
        want = Want("a", len(TOKENS) + 1, token_blocks(TOKENS, ROOT, 16), 0.0)

        def cached() -> dict[int, int]:
            return {q.replica: q.cached for q in scheduler.quote(want, 0.0)}

        with Fake() as fake:
            feeds.follow(1, of(fake))
            await asyncio.to_thread(fake.subscribed)
            await until(lambda: state(feeds).state == "live")
            fake.publish(fake.stored([1, 2, 3], TOKENS[:48]))
            await until(lambda: cached() == {0: 0, 1: 48})
            fake.publish(fake.removed([3]))
            await until(lambda: cached() == {0: 0, 1: 32})
            fake.stop()
            await until(lambda: cached() == {0: 0, 1: 0})
            fake.start()
            await until(lambda: state(feeds).restarts == 1 and state(feeds).state == "live")
            assert cached() == {0: 0, 1: 0}
            feeds.unfollow(1)
            scheduler.leave(1)
        scheduler.check()
        feeds.close()

    uvloop.run(run())
