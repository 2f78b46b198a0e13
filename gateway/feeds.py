"""Engines' KV-cache events on their way into a scheduler: one feed a replica (`routing.kvevents`) on one socket (`backends.kv_socket`).

While a feed is live, the replica's index is what its engine says. Otherwise the scheduler infers it from our own dispatches, and the log
says once why and what to do.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from typing import Protocol

import msgspec

from backends.kv_socket import Hub, NoZmq, Subscriber, rank_endpoint
from routing.kvevents import Feed, Need, State
from routing.kvtier import Blocks, Ranks
from routing.prefix import TOKEN_BLOCK, PrefixIndex

log = logging.getLogger("pointsman.kvevents")
PATIENCE_SECONDS = 10.0  # without a connection, before the log says so
_ADVICE: Mapping[State, str] = {
    "waiting": "check that the engine runs and that its KV-event endpoint can be reached from here",
    "partial": "give the engine a replay endpoint (`replay`), or restart it once the gateway listens, to know all of its cache at once",
    "silent": "check that the engine was started with KV events (--kv-events-config) and that this is its endpoint",
    "broken": "check that this is the KV-event endpoint of a vLLM or SGLang, and whether the engine is newer than this gateway",
}


class Owner(Protocol):
    """What a scheduler is to its feeds."""

    @property
    def index(self) -> PrefixIndex: ...

    @property
    def lower(self) -> PrefixIndex: ...

    def trust(self, replica: int, precise: bool) -> None: ...

    def restarted(self, replica: int) -> None: ...


class Publisher(msgspec.Struct, frozen=True):
    """Where one replica's engine publishes, as `tcp://HOST:PORT` or `ipc:///PATH`: rank 0 of `ranks` data-parallel ones, each at the next
    port (or with the suffix `_dp1` and so on). `name` and `model` are the replica's; the model salts its chains, as it does prompts'."""

    endpoint: str
    replay: str = ""
    topic: str = ""
    ranks: int = 1
    name: str = ""
    model: str = ""


class FeedState(msgspec.Struct, frozen=True):
    """One feed for the status page. `lag` is seconds between the engine's clock in its last batch and ours when it came, None before that;
    `blocks` are the engine's, in the device's memory and below; `batches` were taken, `lost` never came."""

    replica: int
    name: str
    rank: int
    endpoint: str
    state: State
    reason: str
    connected: bool
    batches: int
    gaps: int
    lost: int
    orphans: int
    restarts: int
    resyncs: int
    skipped: int
    blocks: int
    lower: int
    lag: float | None


class _Rank:
    """One feed and its socket: what the socket hears goes to the feed, what the feed needs is fetched."""

    def __init__(self, feed: Feed, number: int, follower: _Follower, clock: Callable[[], float]) -> None:
        self.feed, self.number, self._follower, self._clock = feed, number, follower, clock
        self.socket: Subscriber | None = None
        self.up = False
        self.lag: float | None = None

    @property
    def endpoint(self) -> str:
        return rank_endpoint(self._follower.publisher.endpoint, self.number)

    def connected(self) -> None:
        self.up = True
        self._next(self.feed.connected())

    def disconnected(self) -> None:
        self.up = False
        self.feed.disconnected()
        self._follower.down()
        self._follower.judge()

    def message(self, seq: int, payload: bytes) -> None:
        before = self.feed.batches
        self._next(self.feed.message(seq, payload))
        if self.feed.batches == before + 1:
            self.lag = self._clock() - self.feed.ts

    def part(self, seq: int, payload: bytes) -> None:
        self.feed.part(seq, payload)

    def filled(self, whole: bool) -> None:
        self._next(self.feed.filled(whole))

    def bad(self, why: str) -> None:
        self.feed.bad(why)
        self._follower.judge()

    def _next(self, need: Need | None) -> None:
        if need is not None and self.socket is not None:
            self.socket.fetch(need.start)
        self._follower.judge()

    def state(self, name: str, replica: int) -> FeedState:
        f = self.feed
        return FeedState(
            replica, name, self.number, self.endpoint, f.state, f.reason, self.up, f.batches, f.gaps, f.lost, f.orphans, f.restarts,
            f.resyncs, f.skipped, len(f.device.links), len(f.lower.links), self.lag,
        )  # fmt: skip


class _Follower:
    """One replica: its ranks, and whether they are all to be believed."""

    def __init__(self, feeds: Feeds, replica: int, publisher: Publisher) -> None:
        self.replica, self.publisher = replica, publisher
        self._owner, self._loop = feeds.owner, feeds.loop
        self._trusted = False
        self._told: State | None = None  # what the log has said last
        self._late: asyncio.TimerHandle | None = None
        self._restarts = 0
        self.ranks = self._made(feeds)
        try:
            for one in self.ranks:
                endpoint, replay = (rank_endpoint(each, one.number) for each in (publisher.endpoint, publisher.replay))
                one.socket = feeds.hub.subscribe(endpoint, one, publisher.topic, replay)
        except (ValueError, NoZmq):
            self._unsubscribe()
            raise
        self._owner.trust(replica, False)
        self.down()

    def _made(self, feeds: Feeds) -> list[_Rank]:
        owner, p, out = feeds.owner, self.publisher, []
        index: Blocks = owner.index
        lower: Blocks = owner.lower
        if p.ranks > 1:
            index, lower = Ranks(self.replica, owner.index, p.ranks), Ranks(self.replica, owner.lower, p.ranks)
        for rank in range(p.ranks):
            feed = Feed(rank if p.ranks > 1 else self.replica, index, lower, p.model, feeds.size, bool(p.replay))
            feed.show(False)
            out.append(_Rank(feed, rank, self, feeds.clock))
        return out

    def judge(self) -> None:
        """Tells the scheduler what has become of the feeds since it was last told, and the log why they are not believed."""
        restarts = sum(one.feed.restarts for one in self.ranks)
        live = all(one.feed.live for one in self.ranks)
        if restarts != self._restarts:
            self._restarts = restarts
            self._owner.restarted(self.replica)
            self._trust(live)
        elif live != self._trusted:
            self._trust(live)
        for one in self.ranks:
            if one.feed.state not in ("live", "waiting", self._told):
                self._say(one, one.feed.state)

    def down(self) -> None:
        """There is no connection to one of the ranks; the log says so when that lasts."""
        if self._late is None:
            self._late = self._loop.call_later(PATIENCE_SECONDS, self._still_down)

    def hit(self, cached: int, predicted: int) -> None:
        """What ranks have together is less on each of them: only what none of them has told is held against their events."""
        if len(self.ranks) > 1 and cached < predicted:
            return
        if any([one.feed.hit(cached, predicted) for one in self.ranks]):
            self.judge()

    def forget(self) -> None:
        """The engine lost its cache: so says whoever runs it."""
        for one in self.ranks:
            one.feed.closed()
        self._owner.restarted(self.replica)
        self._trust(False)

    def close(self) -> None:
        self._unsubscribe()
        if self._late is not None:
            self._late.cancel()
        self._trust(False)

    def _trust(self, live: bool) -> None:
        self._trusted = live
        self._owner.trust(self.replica, live)
        for one in self.ranks:
            one.feed.show(live)
        if live:
            self._told = None

    def _unsubscribe(self) -> None:
        for one in self.ranks:
            if one.socket is not None:
                one.socket.close()

    def _still_down(self) -> None:
        self._late = None
        for one in self.ranks:
            if not one.up and self._told != "waiting":
                self._say(one, "waiting")

    def _say(self, one: _Rank, state: State) -> None:
        self._told = state
        reason = one.feed.reason if state != "waiting" else "its KV-event socket is not connected"
        log.warning(
            "KV events of %s at %s are not used: %s; %s. Until then its cache is inferred from what is sent there.",
            self.publisher.name or f"replica {self.replica}", one.endpoint, reason, _ADVICE[state],
        )  # fmt: skip


class Feeds:
    """Follows publishers into `owner`, whose loop it must run on. All methods return at once.

    `size`: tokens in one of the scheduler's blocks. `clock`: Unix seconds.
    """

    def __init__(self, owner: Owner, size: int = TOKEN_BLOCK, *, hub: Hub | None = None, clock: Callable[[], float] = time.time) -> None:
        self.owner, self.size, self.clock = owner, size, clock
        self.loop = asyncio.get_running_loop()
        self.hub = hub or Hub()
        self._own_hub = hub is None
        self._followers: dict[int, _Follower] = {}

    def follow(self, number: int, publisher: Publisher) -> None:
        """Replica `number`'s engine publishes there from now on. Nothing changes when it did already; what is known of another one is
        forgotten. Raises ValueError for an endpoint that cannot be, `kv_socket.NoZmq`."""
        known = self._followers.get(number)
        if known is not None:
            if known.publisher == publisher:
                return
            self.unfollow(number)
        self._followers[number] = _Follower(self, number, publisher)

    def unfollow(self, number: int) -> None:
        """That replica is gone, or says nothing any more. Its blocks leave the index. Idempotent."""
        follower = self._followers.pop(number, None)
        if follower is not None:
            follower.close()

    def sync(self, wanted: Mapping[int, Publisher]) -> None:
        """Follows exactly these. Raises what `follow` does."""
        for number in [n for n in self._followers if n not in wanted]:
            self.unfollow(number)
        for number, publisher in wanted.items():
            self.follow(number, publisher)

    def hit(self, number: int, cached: int, predicted: int) -> None:
        """An answer of that replica had `cached` prompt tokens where we `predicted` so many. Ignored where nothing is followed."""
        follower = self._followers.get(number)
        if follower is not None:
            follower.hit(cached, predicted)

    def restarted(self, number: int) -> None:
        """The engine behind `number` lost its cache. Tells the scheduler too. Ignored where nothing is followed."""
        follower = self._followers.get(number)
        if follower is not None:
            follower.forget()

    def states(self) -> list[FeedState]:
        """All feeds, by replica and rank."""
        return [one.state(f.publisher.name, number) for number, f in sorted(self._followers.items()) for one in f.ranks]

    def close(self) -> None:
        """Follows nothing more. Idempotent."""
        for number in list(self._followers):
            self.unfollow(number)
        if self._own_hub:
            self.hub.close()
