"""The KV-cache-aware scheduler: every replica costed in seconds, bound late. Plain state; time and randomness come as arguments.

For a request of L prompt tokens, of which H are cached on a replica (u = L - H are not):

    queue     seconds until the replica has answered what it was given before: our bookings and our peers', by prediction
    prefill   its own, by the learned model (kv_model)
    stall     what its prefill costs the answers being written there: stall * running * prefill
    decode    what they cost it: seconds a token of context
    turn      until this gateway may use the replica without another doing the same unseen (kv_peers); 0 for a single one

The smallest sum wins, near ties by chance. A request whose best replica is busy is held here, since an engine can neither reorder nor
hand back what it was given; when a replica comes free, the request that gains most by going first goes (`_urgency`).

How a dispatcher calls it, all plain calls on its loop, replicas by number:

    s = Scheduler(replicas, block_tokens, random.Random(), Settings())
    for want, replica in s.ask(Want(key, tokens, blocks, now), now): send(want, replica)   # may be none, or others than the one asked
    for want, replica in s.place(now): send(want, replica)      # after each first token, end and peer's word, and on the tick (10 ms)
    s.answered(key, now, cached_tokens)                         # first token; `cached_tokens` None where the engine does not tell
    s.ended(key, now)                                           # finished, failed, cancelled, never sent: exactly one way out, idempotent
    s.index.add / remove / clear, or s.restarted(replica, now)  # KV events; an engine that lost its cache

A failed attempt is `ended` and asked again with `usable` less that replica (a bitmask). Fairness and admission stand before it: it
schedules what it is given. `quote` explains a decision by its terms.
"""

from __future__ import annotations

import random
from collections.abc import Hashable, Sequence
from itertools import islice
from typing import Any

import msgspec

from routing.kv_load import Booking, Load
from routing.kv_model import Features, PrefillModel, features
from routing.kv_peers import Message, Peers
from routing.prefix import Approximate, Expected, PrefixIndex


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What may be tuned, in seconds unless said otherwise. The defaults are for every model and machine."""

    hold: float = 0.0  # bind only where the queue is at most this long
    near: float = 0.5  # or where a little more joins a queue that is over so soon
    small: float = 0.1  # and that little is at most this, together with what else waits behind the one in service
    stall: float = 0.03  # of its prefill, for each answer being written there
    decode: float = 2e-8  # a token of context there
    target: float = 1.0  # time to the first token that is meant, on top of an idle replica's uncached prefill
    patience: float = 60.0  # who waits longer goes before others, one of `share` placements: nobody starves
    share: int = 4
    window: int = 128  # requests looked at, half of them the oldest and half the newest
    stale: float = 0.05  # how old a match may be


class Want:
    """A request that wants a replica: `tokens` of prompt, `blocks` its chained hashes (full blocks), `at` when it came, `band` its
    priority (higher goes first), `usable` a bitmask of replicas (-1: all)."""

    __slots__ = ("at", "band", "blocks", "cold", "costed", "hits", "key", "matched", "prefill", "soon", "tokens", "usable", "version")

    def __init__(self, key: Hashable, tokens: int, blocks: Sequence[Hashable], at: float, *, band: int = 0, usable: int = -1) -> None:
        self.key, self.tokens, self.blocks, self.at, self.band, self.usable = key, max(1, tokens), blocks, at, band, usable
        self.version, self.matched, self.soon = -1, at, 0
        self.hits: list[int] = []  # cached tokens a replica
        self.prefill: list[float] = []  # seconds a replica
        self.cold = 0.0  # seconds uncached, at speed one
        self.costed: tuple[float, int] | None = None  # cost and number of the best replica, while that holds


class Quote(msgspec.Struct, frozen=True):
    """What one replica would cost a request, in seconds by term; `cached` in tokens."""

    replica: int
    queue: float
    prefill: float
    stall: float
    decode: float
    turn: float
    cached: int

    @property
    def total(self) -> float:
        """The sum of the terms."""
        return self.queue + self.prefill + self.stall + self.decode + self.turn


class _Group:
    """First tokens of one engine step come together: their work is one observation."""

    __slots__ = ("seconds", "t", "work")

    def __init__(self, t: float, work: Features, seconds: float) -> None:
        self.t, self.work, self.seconds = t, work, seconds


_TOGETHER = 0.002  # seconds between two first tokens of one step, at most
_NEVER = float("inf")


class Scheduler:
    """Holds what is to be placed and what is under way on `replicas` numbered replicas, whose cache blocks have `block_tokens` tokens.

    `approximate`: the engines send no KV events; then their caches are inferred from our own dispatches, of this many blocks at first.
    """

    def __init__(
        self, replicas: int, block_tokens: int, rng: random.Random, settings: Settings | None = None, approximate: int = 0
    ) -> None:
        self.n, self.block_tokens, self.rng, self.set = replicas, block_tokens, rng, settings or Settings()
        self.load, self.model = Load(replicas), PrefillModel(replicas)
        self.index, self.expected = PrefixIndex(replicas), Expected(replicas)
        self.approximate = Approximate(self.index, approximate) if approximate else None
        self.peers = Peers(rng.getrandbits(48), self.load)
        self.held: dict[Hashable, Want] = {}
        self._groups: list[_Group | None] = [None] * replicas
        self._since_old = 0  # placements since one out of patience had its turn

    def ask(self, want: Want, now: float) -> list[tuple[Want, int]]:
        """Takes a request in. Returns what can be dispatched now and where: this one, others, or none. Never blocks."""
        self.held[want.key] = want
        return self.place(now)

    def place(self, now: float) -> list[tuple[Want, int]]:
        """Dispatches what can be: books it and returns it. Costs nothing while no replica is free; else O(window * replicas)."""
        out: list[tuple[Want, int]] = []
        if not self.held:
            return out
        queues = [self.load.backlog(i, now) for i in range(self.n)]
        reach = max(self.set.hold, self.set.near)
        looked: list[Want] | None = None
        while self.held and min(queues) <= reach:
            if looked is None:
                looked = self._window(now)
            found = self._next(looked, queues, now)
            if found is None:
                break
            want, i = found
            self._book(want, i, now)
            out.append(found)
            queues[i] = self.load.backlog(i, now)
            looked.remove(want)
            for w in looked:
                if w.costed is not None and (w.costed[1] == i or w.soon):  # others got no dearer
                    w.costed = None
        return out

    def answered(self, key: Hashable, now: float, cached: int | None) -> None:
        """The first token of a request came; the engine found `cached` prompt tokens (None: it does not tell). Learns from it."""
        found = self.load.answer(key, now)
        if found is None:
            return
        b, began = found
        i, known = b.replica, b.cached if cached is None else min(max(0, cached), b.tokens)
        self._observe(i, features(b.tokens - known, known), now, now - began)
        self.expected.drop(i, b.blocks)
        if self.approximate is None:
            self.index.add(i, b.blocks)  # its events may be under way still
        else:
            if cached is not None:
                self.approximate.report(i, b.blocks, b.cached // self.block_tokens, known // self.block_tokens)
            self.approximate.touch(i, b.blocks)
        self.peers.answered(b, now)

    def ended(self, key: Hashable, now: float) -> None:
        """A request is over, however it ended, also one that is still held. Idempotent."""
        self.held.pop(key, None)
        b = self.load.end(key, now)
        if b is not None:
            if not b.answered:
                self.expected.drop(b.replica, b.blocks)
            self.peers.ended(b, now)

    def restarted(self, replica: int) -> None:
        """An engine lost its cache. Bookings stay: they belong to their requests, which will end."""
        if self.approximate is None:
            self.index.clear(replica)
        else:
            self.approximate.clear(replica)
        self.model.forget(replica)
        self._groups[replica] = None

    def quote(self, want: Want, now: float) -> list[Quote]:
        """What each usable replica would cost now, cheapest first: the explanation of a decision."""
        self._match(want, now)
        out = []
        for i in range(self.n):
            if want.usable >> i & 1:
                p = want.prefill[i]
                stall, decode = p * self.set.stall * self.load.running[i], self.set.decode * self.load.context[i]
                out.append(Quote(i, self.load.backlog(i, now), p, stall, decode, self._turn(want, i, now), want.hits[i]))
        return sorted(out, key=lambda q: q.total)

    def check(self) -> None:
        """AssertionError when any count is not what the bookings say. For tests."""
        self.load.check()
        self.index.check()
        if self.approximate is not None:
            self.approximate.check()
        if not self.load.bookings:
            assert not self.expected.masks, "blocks are expected of requests that are over"

    def _window(self, now: float) -> list[Want]:
        """The requests that are looked at in this round, with fresh matches."""
        held, most = self.held, self.set.window
        if len(held) <= most:
            looked = list(held.values())
        else:
            half = most // 2
            looked = [*islice(held.values(), half), *islice(reversed(held.values()), most - half)]
        for w in looked:
            w.costed = None
            if w.version != self.index.version + self.expected.version and (w.version < 0 or now - w.matched >= self.set.stale):
                self._match(w, now)
        return looked

    def _match(self, w: Want, now: float) -> None:
        size, last = self.block_tokens, w.tokens - 1  # an engine computes at least the last token
        have = self.index.match(w.blocks)
        w.soon = 0
        if self.expected.masks:
            for i, coming in enumerate(self.expected.match(w.blocks)):
                if coming > have[i]:
                    have[i] = coming
                    w.soon |= 1 << i
        w.hits = [min(x * size, last) for x in have]
        predict, tokens = self.model.predict, w.tokens
        w.cold = predict(tokens, 0)
        known = {0: w.cold}
        for h in w.hits:
            if h not in known:
                known[h] = predict(tokens - h, h)
        w.prefill = [known[h] * s for h, s in zip(w.hits, self.model.speed, strict=True)]
        w.version, w.matched = self.index.version + self.expected.version, now

    def _next(self, looked: list[Want], queues: list[float], now: float) -> tuple[Want, int] | None:
        factor = [1.0 + self.set.stall * r for r in self.load.running]
        queued = [q + self.set.decode * c for q, c in zip(queues, self.load.context, strict=True)]
        best: tuple[tuple[float, ...], Want, int] | None = None
        for w in looked:
            if w.costed is None:
                w.costed = self._cheapest(w, queued, factor, now)
            i = w.costed[1]
            if w.costed[0] == _NEVER or not self._may(w, i, queues[i], now):
                continue
            urgency = self._urgency(w, queues[i] + w.prefill[i], w.prefill[i], now)
            if best is None or urgency > best[0]:
                best = (urgency, w, i)
        if best is None:
            return None
        self._since_old = 0 if best[0][1] else self._since_old + 1
        return best[1], best[2]

    def _cheapest(self, w: Want, queued: list[float], factor: list[float], now: float) -> tuple[float, int]:
        costs = [q + p * f for q, p, f in zip(queued, w.prefill, factor, strict=True)]
        if w.usable != -1:
            costs = [c if w.usable >> i & 1 else _NEVER for i, c in enumerate(costs)]
        if self.peers.gateways > 1:
            costs = [c + self._turn(w, i, now) for i, c in enumerate(costs)]
        least = min(costs)
        if least == _NEVER:
            return least, 0
        limit = least * 1.01 + 0.002
        near = [i for i, c in enumerate(costs) if c <= limit]
        return least, near[0] if len(near) == 1 else near[int(self.rng.random() * len(near))]

    def _turn(self, w: Want, i: int, now: float) -> float:
        if self.peers.gateways == 1 or w.prefill[i] <= self.set.small:  # two small ones at once harm nobody
            return 0.0
        return self.peers.turn(i, w.at, now)

    def _may(self, w: Want, i: int, queue: float, now: float) -> bool:
        """Whether a request should be bound to its best replica now rather than held."""
        if self._turn(w, i, now) > 0.0:
            return False
        if queue <= self.set.hold:
            return True
        p = w.prefill[i]
        if p > self.set.small or queue > self.set.near or w.soon >> i & 1:  # what it would share is not computed yet
            return False
        return p + self.load.behind(i) <= self.set.small

    def _urgency(self, w: Want, wait: float, p: float, now: float) -> tuple[float, ...]:
        """Who goes first: by band; one out of patience now and then; who can still make its target, shortest first; then by the ratio
        of time in the system to own time, under which nobody starves."""
        old = self._since_old + 1 >= self.set.share and now - w.at > self.set.patience
        if old:
            return (w.band, 1, now - w.at)
        if now + wait <= w.at + self.set.target + w.cold:
            return (w.band, 0, 1, -p)
        return (w.band, 0, 0, (now - w.at + p) / p)

    def _book(self, w: Want, i: int, now: float) -> None:
        del self.held[w.key]
        b = Booking(w.key, i, w.prefill[i], w.tokens, w.hits[i], w.blocks, now)
        self.load.book(b)
        self.expected.add(i, w.blocks)
        self.peers.booked(b)

    def _observe(self, i: int, work: Features, t: float, seconds: float) -> None:
        group = self._groups[i]
        if group is not None:
            if t - group.t <= _TOGETHER:
                a = group.work
                group.work = (a[0], a[1] + work[1], a[2] + work[2])
                return
            self.model.learn(i, group.work, group.seconds)
        self._groups[i] = _Group(t, work, seconds)


class KVAware:
    """The scheduler behind kvsim's policy interface (see that tool's docstring). Arguments are fields of Settings, as text, and
    `mode`: `precise` (KV events) or `approx` with `blocks` cache blocks a replica to begin with."""

    def __init__(self, n: int, block_tokens: int, seed: int = 0, mode: str = "precise", blocks: str = "1024", **args: str) -> None:
        self.wants_kv_events = mode == "precise"
        settings = msgspec.convert({k: float(v) for k, v in args.items()}, Settings, strict=False)
        size = 0 if self.wants_kv_events else int(blocks)
        self.scheduler = Scheduler(n, block_tokens, random.Random(seed), settings, size)
        self._out: list[tuple[Hashable, int]] = []
        self._now = 0.0

    def choose(self, ask: Any, t: float, view: Any) -> int | None:
        """Where request `ask` goes, or None when it is held."""
        self._now = t
        mine = None
        for want, i in self.scheduler.ask(Want(ask.rid, ask.input_len, ask.blocks, t), t):
            if want.key == ask.rid:
                mine = i
            else:
                self._out.append((want.key, i))
        return mine

    def release(self, t: float, view: Any) -> list[tuple[Hashable, int]]:
        """Held requests that go now."""
        self._now = t
        out = self._out + [(want.key, i) for want, i in self.scheduler.place(t)]
        self._out = []
        return out

    def on_first_token(self, rid: int, replica: int, t: float, cached: int) -> None:
        """A request of ours was answered."""
        self._now = t
        self.scheduler.answered(rid, t, cached)

    def on_finish(self, rid: int, replica: int, t: float, output_len: int) -> None:
        """A request of ours is over."""
        self._now = t
        self.scheduler.ended(rid, t)

    def on_kv(self, replica: int, stored: Sequence[Hashable], removed: Sequence[Hashable]) -> None:
        """A replica's cache changed."""
        self.scheduler.index.add(replica, stored)
        self.scheduler.index.remove(replica, removed)

    def outbox(self) -> list[Message]:
        """What the other gateways should hear."""
        return self.scheduler.peers.fetch(self._now)

    def on_peer(self, messages: list[Message], t: float) -> None:
        """What another gateway said."""
        self._now = t
        self.scheduler.peers.hear(messages, t)
