"""The KV-cache-aware scheduler: every replica costed in seconds, bound late. Plain state; time and randomness come as arguments.

For a request of L prompt tokens, of which H are cached on a replica (u = L - H are not):

    queue     seconds until the replica has answered what it was given before: our bookings and our peers', by prediction
    slot      until one of its slots comes free, where it takes only so many requests at once (given, or learned: limit)
    prefill   its own, by the learned model (kv_model)
    load      what it takes to load cached tokens from a slower tier, where that is cheaper than to compute them
    stall     what its prefill costs the answers being written there: stall * running * prefill
    decode    what they cost it: seconds a token of context
    extra     what the caller adds (money, affinity), less a little for the home of its session
    spare     of a machine slower than its peers what it takes longer, where the first token comes in time all the same: does not count
    turn      until this gateway may use the replica without another doing the same unseen (kv_peers); 0 for a single one

The smallest sum wins, near ties by chance (kv_choice). A request whose best replica is busy is held here (kv_held), since an engine can
neither reorder nor hand back what it was given; when a replica comes free, the request that gains most by going first goes, of the tenant
whose turn it is (fair).

How a dispatcher calls it, all plain calls on its loop, replicas by number:

    s = Scheduler(0, block_tokens, random.Random(), Settings()); i = s.join(limit=8); s.leave(i)
    refusal = s.admit(want, now)                                # None: take it in
    for want, replica in s.ask(want, now): send(want, replica)  # may be none, or others than the one asked
    for want, replica in s.place(now): send(want, replica)      # after each first token, end, join and peer's word, and on the tick (10 ms)
    s.force(want, replica, now)                                 # somebody else chose: a hedge, a continuation, another policy
    s.answered(key, now, cached_tokens)                         # first token; `cached_tokens` None when not told yet
    s.ended(key, now, cached_tokens, output_tokens)             # finished, failed, cancelled, never sent: the one way out, idempotent
    s.trust(i, True); s.index.add / remove / clear              # KV events; s.restarted(i): an engine lost its cache

A failed attempt is `ended` and asked again with `usable` less that replica (a bitmask). `quote` explains a decision by its terms.
"""

from __future__ import annotations

import random
from collections.abc import Hashable, Sequence
from typing import Any

import msgspec

from routing.kv_load import Booking
from routing.kv_peers import Message
from routing.kv_scheduler import Scheduler
from routing.kv_want import Caps, Place, Quote, Refusal, Settings, Truth, Want

__all__ = ["Booking", "Caps", "KVAware", "Place", "Quote", "Refusal", "Scheduler", "Settings", "Truth", "Want"]


class KVAware:
    """The scheduler behind the interface of a simulator of routing policies: what drives these methods in order of time gets its decisions.

    `n` replicas, numbered from 0, whose caches have blocks of `block_tokens` tokens; times in simulated seconds. The driver calls
    `choose` when a request arrives; None means that it is held, and then `release` at least every 10 ms while any is. It reports each
    request's first token and end, and, while `wants_kv_events`, what each replica stored in its cache and removed from it; blocks are named
    by hashable ids that stand for the whole prefix up to and including them. Between several gateways, each with a policy of its own, it
    asks `outbox` after each of these calls and gives what was in it to every other's `on_peer`.

    Arguments by name are fields of Settings, as text, and `mode`: `precise` (KV events) or `approx` with `blocks` cache blocks a replica to
    begin with.
    """

    def __init__(self, n: int, block_tokens: int, seed: int = 0, mode: str = "precise", blocks: str = "1024", **args: str) -> None:
        self.wants_kv_events = mode == "precise"
        settings = msgspec.convert({k: float(v) for k, v in args.items()}, Settings, strict=False)
        size = 0 if self.wants_kv_events else int(blocks)
        self.scheduler = Scheduler(n, block_tokens, random.Random(seed), settings, size)
        self._out: list[tuple[Hashable, int]] = []
        self._now = 0.0

    def choose(self, ask: Any, t: float, view: Any) -> int | None:
        """Where request `ask` goes (its `rid`, `input_len` tokens and `blocks` of full prompt blocks are read), or None when it is held.
        `view`, metrics that engines report, is not looked at: our own accounts are newer."""
        self._now = t
        mine = None
        for want, i in self.scheduler.ask(Want(ask.rid, ask.input_len, ask.blocks, t), t):
            if want.key == ask.rid:
                mine = i
            else:
                self._out.append((want.key, i))
        return mine

    def release(self, t: float, view: Any) -> list[tuple[Hashable, int]]:
        """Held requests that go now, as (rid, replica)."""
        self._now = t
        out = self._out + [(want.key, i) for want, i in self.scheduler.place(t)]
        self._out = []
        return out

    def on_first_token(self, rid: int, replica: int, t: float, cached: int) -> None:
        """A request of ours was answered; the engine found `cached` tokens of its prompt."""
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
        """What the other gateways should hear: a short list that can be pickled."""
        return self.scheduler.peers.fetch(self._now)

    def on_peer(self, messages: list[Message], t: float) -> None:
        """What another gateway said."""
        self._now = t
        self.scheduler.peers.hear(messages, t)
