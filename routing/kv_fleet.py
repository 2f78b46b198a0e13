"""The replicas that a scheduler places on: they come and go by number, and what is believed of each. Plain state, no clock.

Engines' caches (kv_cache), what they are busy with (kv_load), how long a prefill takes them (kv_model, fed by kv_observe), how many
requests they take at once (limit).
"""

from __future__ import annotations

from operator import mul

from routing.kv_cache import Caches
from routing.kv_load import Booking, Load
from routing.kv_model import PrefillModel
from routing.kv_observe import Observer
from routing.kv_want import Truth, Want
from routing.limit import LearnedLimit
from routing.prefix import PrefixIndex

GUESS_BLOCKS = 4096  # of an approximate cache, until its answers have shown how large it is
MASKS_MAX = 256  # sets of replicas whose numbers are remembered
NOISE_SECONDS = 0.1  # that a first token may be late by for other reasons than load


class Fleet:
    """Numbered replicas, whose cache blocks have `block_tokens` tokens. `guess`: blocks of an approximate cache at first; `fresh`: seconds
    for which blocks just computed are believed before events say so. No method blocks."""

    def __init__(self, block_tokens: int, guess: int, fresh: float) -> None:
        self.block_tokens = block_tokens
        self.n = 0  # numbers given so far; those in `alive` are there
        self.alive = 0
        self.load, self.model = Load(0), PrefillModel(0)
        self.caches = Caches(guess, fresh)
        self.observer = Observer(self.model)
        self.tier_seconds: list[float | None] = []  # a token loaded from a slower tier; None: that replica has none
        self._learned: list[LearnedLimit | None] = []
        self._numbers: dict[int, list[int]] = {}  # bitmask -> its replicas
        self._epoch = 0  # which replicas there are, and whose word counts

    @property
    def index(self) -> PrefixIndex:
        """Where engines' own events go. Counts for replicas that are trusted."""
        return self.caches.index

    @property
    def lower(self) -> PrefixIndex:
        """Blocks that can be loaded into an engine's cache: from CPU memory, a disk, another slot's saved state."""
        return self.caches.lower

    def join(
        self,
        limit: int | None = None,
        *,
        learn: bool = False,
        precise: bool = False,
        blocks: int | None = None,
        ttl: float | None = None,
        least: int = 0,
        tier: float | None = None,
        parallel: bool = False,
    ) -> int:
        """A replica is there from now on: its number, the smallest that nobody uses any more. Call `place` afterwards.

        `limit`: requests it takes at once; with `learn` it is learned, from `limit` on. `precise`: its events are trusted from the start;
        else its cache is guessed, of `blocks` at first, with entries that live for `ttl` seconds after their last use (None: until
        evicted), and prompts of fewer than `least` tokens not cached at all. `tier`: seconds a token to load from a slower tier.
        `parallel`: it is so many machines that no request waits for another (hosted APIs).
        """
        i = next((k for k in range(self.n) if not self.alive >> k & 1 and not self.load.inflight(k)), self.n)
        if i == self.n:
            self.n += 1
            self.tier_seconds.append(None)
            self._learned.append(None)
        self.load.join(i)
        self.model.join(i)
        self.caches.join(i, precise, blocks, ttl, least)
        self.tier_seconds[i], self.load.parallel[i] = tier, parallel
        self.set_limit(i, limit, learn)
        self.alive |= 1 << i
        self._epoch += 1
        return i

    def leave(self, i: int) -> None:
        """The replica is gone: nothing is placed there any more, its cache is forgotten. What is under way there ends as it will."""
        self._named(i)
        self.alive &= ~(1 << i)
        self.caches.leave(i)
        self.model.leave(i)
        self.observer.forget(i)
        self._learned[i] = None
        self._epoch += 1

    def set_limit(self, i: int, limit: int | None, learn: bool = False) -> None:
        """How many requests the replica takes at once from now on, None: any number. With `learn` only where learning begins. ValueError
        below 1. What is there already stays."""
        self._named(i)
        if limit is not None and limit < 1:
            raise ValueError(f"replica {i} cannot have a limit of {limit} requests: 1 at least, or none")
        learned = self._learned[i] = (LearnedLimit() if limit is None else LearnedLimit(limit, most=max(1024, limit))) if learn else None
        self.load.limits[i] = limit if learned is None else learned.current

    def limit(self, i: int) -> int | None:
        """How many requests the replica takes at once, as given or as learned by now."""
        return self.load.limits[i]

    def trust(self, i: int, precise: bool) -> None:
        """Whether the engine's events are believed from now on, or its cache guessed from our dispatches. What was known by the other
        way is forgotten. Mutates nothing when that is so already."""
        self._named(i)
        if self.caches.precise[i] != precise:
            self.caches.trust(i, precise)
            self._epoch += 1

    def restarted(self, i: int) -> None:
        """An engine lost its cache. Bookings stay: they belong to their requests, which will end."""
        self.caches.clear(i)
        self.model.forget(i)
        self.observer.forget(i)
        self._epoch += 1

    def loaded(self, i: int, tokens: int, seconds: float) -> None:
        """So many tokens were loaded from a slower tier in so many seconds: learns what a token takes there."""
        if tokens > 0 and seconds >= 0.0:
            old, new = self.tier_seconds[i], seconds / tokens
            self.tier_seconds[i] = new if old is None else old + 0.2 * (new - old)

    def truth(self, i: int) -> Truth:
        """How well the replica's cached tokens were predicted since it joined."""
        return self.caches.records[i].read()

    def usable(self, want: Want) -> list[int]:
        """The replicas that are there and that the request may use. Not to be changed by who asks."""
        mask = want.usable & self.alive
        found = self._numbers.get(mask)
        if found is None:
            if len(self._numbers) >= MASKS_MAX:
                self._numbers.clear()
            found = self._numbers[mask] = [i for i in range(self.n) if mask >> i & 1]
        return found

    def matched(self, want: Want, now: float) -> None:
        """Sees to it that the request was matched since replicas last came, went or lost their caches. Mutates the request."""
        if want.epoch != self._epoch:
            self.match(want, now)

    def match(self, w: Want, now: float) -> None:
        """What each replica has of the request's prompt and how long it would take there, as of now. Mutates the request."""
        tokens = w.tokens
        size = w.size or self.block_tokens
        have, w.soon = self.caches.match(w.blocks)
        if tokens < self.caches.threshold:
            have = [0 if tokens < least else x for x, least in zip(have, self.caches.least, strict=True)]
        hits, seconds = self.model.table(tokens, set(have), size)  # many replicas have the same
        w.cold = seconds[0]
        w.hits = list(map(hits.__getitem__, have))
        w.prefill = list(map(mul, map(seconds.__getitem__, have), self.model.speed))
        if w.tier:
            w.tier, w.load = [], []
        if self.caches.lower.masks:
            self._tiers(w, size, tokens - 1)
        w.version, w.epoch, w.matched = self.caches.version, self._epoch, now

    def _tiers(self, w: Want, size: float, last: int) -> None:
        """Where loading more of the prompt is cheaper than computing it, those tokens count as cached and cost the load."""
        w.tier, w.load = [0] * self.n, [0.0] * self.n
        for i, x in enumerate(self.caches.below(w.blocks)):
            rate, deep = self.tier_seconds[i], min(int(x * size), last)
            more = deep - w.hits[i]
            if rate is None or more <= 0 or w.tokens < self.caches.least[i]:
                continue
            took = rate * more + self.model.predict(w.tokens - deep, deep) * self.model.speed[i]
            if took < w.prefill[i]:
                w.hits[i], w.tier[i], w.load[i], w.prefill[i] = deep, more, rate * more, took

    def stale(self, w: Want, version: int, now: float, age: float) -> bool:
        """Whether it should be matched anew: what is believed of caches has another `version` since, and that match is of some age."""
        return w.epoch != self._epoch or (w.version != version and now - w.matched >= age)

    def _tell(self, b: Booking, cached: int | None, late: bool) -> None:
        """The engine told how much it found cached. Its first word counts."""
        if cached is None or b.told is not None:
            return
        b.told = min(max(0, cached), b.tokens)
        self.caches.records[b.replica].add(b.tokens, b.cached, b.told)
        if not b.tier:  # else it says nothing of how long blocks stay
            size = (b.want.size if b.want is not None else None) or self.block_tokens
            self.caches.told(b.replica, b.blocks, b.cached / size, b.told / size, late)

    def _learn_first(self, b: Booking, began: float, now: float) -> None:
        """Learns from a first token that was seen, of a request whose service began at `began`. Where the limit is being learned, times
        under load judge the limit and not the prefill, or a queue inside the engine would pass for slow prefills."""
        learned = self._learned[b.replica]
        if learned is None or learned.calm(b.inflight):
            self.observer.first(b, now - began)
        if learned is not None:
            learned.first(b.inflight, now - b.at, b.ahead + NOISE_SECONDS)
            self.load.limits[b.replica] = learned.current

    def _learn_pace(self, b: Booking, output: int | None, now: float) -> None:
        """Learns from an answer that was written whole, where its length was told and its first token seen."""
        learned = self._learned[b.replica]
        if learned is not None and output is not None and output > 1 and b.want is not None and b.want.streamed:
            learned.finished(max(b.inflight, self.load.inflight(b.replica) + 1), (now - b.first) / (output - 1))
            self.load.limits[b.replica] = learned.current

    def _named(self, i: int) -> None:
        if not 0 <= i < self.n:
            raise ValueError(f"there is no replica {i}: {self.n} numbers were given, from 0")
