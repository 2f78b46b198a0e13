"""The scheduler itself; see routing/kv.py for what it does and how it is called."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Hashable, Sequence

from routing.fair import OUTPUT_WEIGHT, Fair
from routing.kv_admit import Outlook
from routing.kv_choice import Choice
from routing.kv_fleet import GUESS_BLOCKS, Fleet
from routing.kv_heard import HeardCaches
from routing.kv_held import Held
from routing.kv_load import Booking
from routing.kv_peers import Peers
from routing.kv_want import OUTPUT_TOKENS, Caps, Place, Quote, Refusal, Settings, Want

TIDY_SECONDS = 0.001  # less than any prefill takes


class Scheduler(Fleet):
    """Holds what is to be placed and what is under way on numbered replicas, whose cache blocks have `block_tokens` tokens.

    `replicas` of them are there from the start: precise ones, or with `approximate` such whose caches are inferred from our own
    dispatches, of this many blocks at first. `caps`: what `admit` refuses by; may be replaced at any time. No method blocks.
    """

    def __init__(
        self,
        replicas: int,
        block_tokens: int,
        rng: random.Random,
        settings: Settings | None = None,
        approximate: int = 0,
        caps: Caps | None = None,
    ) -> None:
        self.set, self.caps, self.rng = settings or Settings(), caps or Caps(), rng
        super().__init__(block_tokens, approximate or GUESS_BLOCKS, self.set.fresh)
        self.peers = Peers(rng.getrandbits(48), self.load, HeardCaches(self.caches))
        self.fair = Fair(self.set.quantum)
        self.held = Held(self.fair)
        self.choice = Choice(self.set, self.load, self.model, self.peers, rng)
        self.outlook = Outlook(self.held, self.load, self.model)
        self._output = OUTPUT_TOKENS  # of an answer, decayed mean
        self._tidied = float("-inf")  # when those were last looked at
        self._silent: dict[int, int] = {}  # replica -> requests under way there whose first token nothing will show, before it
        for _ in range(replicas):
            self.join(precise=not approximate)

    def admit(self, want: Want, now: float) -> Refusal | None:
        """Why the request should not be taken in, None when it may be. To be asked before `ask`. No cap refuses what can go
        at once."""
        caps = self.caps
        if not self.held.all and want.deadline is None and caps.held != 0 and caps.tenant_held != 0:
            return None  # nothing waits that it could be too much beside
        self.matched(want, now)
        replicas = self.usable(want)
        refusal = self.outlook.late(want, replicas, now)
        if refusal is None and not self.outlook.free(replicas, self.set.hold, now):
            refusal = self.outlook.capped(want, caps, replicas, now)
        return refusal

    def position(self, key: Hashable, now: float) -> Place | None:
        """Where a held request stands and how long it will wait, as far as can be said; None when it is not held."""
        w = self.held.all.get(key)
        if w is None:
            return None
        replicas = self.usable(w)
        self.matched(w, now)
        ahead = self.held.ahead(w)
        return Place(int(ahead[0]) + 1, len(self.held), self.outlook.ttft(w, replicas, ahead, now))

    def ask(self, want: Want, now: float) -> list[tuple[Want, int]]:
        """Takes a request in. Returns what can be dispatched now and where: this one, others, or none. ValueError when a request of
        this key is held or under way."""
        if want.key in self.load.bookings:
            raise ValueError(f"request {want.key!r} is under way already; end it before it is asked for again")
        self.matched(want, now)
        if not self.held.all:
            self._tidy(now)
            found = self.choice.alone(want, self.alive, now)
            if found is not None:
                self._book(want, *found, now)
                return [(want, found[0])]
        want.least = min((want.prefill[i] for i in self.usable(want)), default=want.cold)
        first = not self.held.all
        self.held.add(want)
        return [] if first else self.place(now)

    def place(self, now: float) -> list[tuple[Want, int]]:
        """Dispatches what can be: books it and returns it. Costs nothing while no replica is free; else O(window * replicas)."""
        out: list[tuple[Want, int]] = []
        self._tidy(now)
        if not self.held:
            return out
        queues = self.choice.queues(self.alive, now)
        reach = max(self.set.hold, self.set.near)
        looked: list[Want] | None = None
        rounds: dict[str, int] = {}
        while self.held and min(queues, default=reach + 1) <= reach:
            if looked is None:
                looked = self._window(now)
                rounds = {w.tenant: self.fair.round(w.tenant) for w in looked}
            found = self.choice.next(looked, queues, self.alive, rounds, now)
            if found is None:
                break
            want, i = found
            self._book(want, i, queues[i], now)
            out.append(found)
            rounds[want.tenant] = self.fair.round(want.tenant)
            queues[i] = self.choice.queue(i, now)
            looked.remove(want)
            for w in looked:
                if w.costed is not None and (w.costed[1] == i or w.soon):  # others got no dearer
                    w.costed = None
        if looked is not None:
            self.held.looked(int(self.set.window) // 2, bool(out))
        return out

    def force(self, want: Want, replica: int, now: float) -> None:
        """Books what somebody else decided, past limits and queue, so that load and caches stay right. ValueError for a replica that is not
        there or a key that is under way. A held request of the key no longer waits."""
        if not 0 <= replica < self.n or not self.alive >> replica & 1:
            raise ValueError(f"request {want.key!r} cannot be on replica {replica}: there is none of that number")
        if want.key in self.load.bookings:
            raise ValueError(f"request {want.key!r} is under way already; end it, or give the second attempt a key of its own")
        self._tidy(now)
        self.matched(want, now)
        self.held.remove(want.key)
        self._book(want, replica, self.load.backlog(replica, now), now)

    def answered(self, key: Hashable, now: float, cached: int | None = None) -> Booking | None:
        """The first token of a request came; the engine found `cached` prompt tokens (None: not told yet). Learns from it. Returns its
        booking, None when it is not under way or was answered before."""
        found = self.load.answer(key, now)
        if found is None:
            return None
        b, began = found
        if self.alive >> b.replica & 1:
            self._tell(b, cached, False)
            if b.want is None or b.want.streamed or now - began < b.prefill:  # a whole answer says at most how long it took
                self._learn_first(b, began, now)
        self._computed(b, now)
        return b

    def ended(
        self, key: Hashable, now: float, cached: int | None = None, output: int | None = None, blocks: Sequence[Hashable] | None = None
    ) -> Booking | None:
        """A request is over, however it ended, also one that is still held. Idempotent. Returns its booking, None when it had none.

        `cached`: prompt tokens the engine found in its cache, `output`: tokens it wrote, where it told; with one of them the request was
        served. `blocks`: the chain of prompt and answer, where known: the engine has that now.
        """
        b = self.load.bookings.get(key)
        if b is None:
            self.held.remove(key)
            return None
        served = 1.0
        if b.answered:
            self.load.end(key, now)
            here = bool(self.alive >> b.replica & 1)
            if here and cached is not None:
                self._tell(b, cached, True)
            self._over(b, here, now, output, blocks)
        elif cached is not None or output is not None:
            self._whole(b, now, cached, output, blocks)
        else:
            served = self.load.served(b, now)
            self.load.end(key, now)
            self._left(b)
        self._settle(b, output, served)
        self.peers.ended(b, now, blocks or ())
        return b

    def quote(self, want: Want, now: float) -> list[Quote]:
        """What each usable replica would cost now, cheapest first: the explanation of a decision."""
        self.match(want, now)
        return self.choice.quote(want, self.alive, now)

    def check(self) -> None:
        """AssertionError when any count is not what the bookings say. For tests."""
        self.load.check()
        self.held.check()
        self.caches.check()
        under_way = self.load.bookings.values()
        self.caches.check_expected((b.replica, b.blocks) for b in under_way if not b.answered)
        silent = Counter(b.replica for b in under_way if not b.answered and b.want is not None and not b.want.streamed)
        assert self._silent == silent, f"silent requests a replica {dict(silent)}, counted {self._silent}"
        assert not any(w.key in self.load.bookings for w in self.held.all.values()), "a request waits and is under way"

    def _tidy(self, now: float) -> None:
        """What time alone changes: beliefs that expire, and first tokens that nothing shows."""
        self.caches.tidy(now)
        if not 0.0 <= now - self._tidied < TIDY_SECONDS:
            self._tidied = now
            self._listen(now)

    def _listen(self, now: float) -> None:
        """Takes first tokens that nothing shows to have come when they were predicted."""
        for i in list(self._silent):
            for b, at in self.load.due(i, now):
                if b.want is not None and not b.want.streamed:
                    self.load.answer(b.key, at)
                    self._computed(b, now)

    def _window(self, now: float) -> list[Want]:
        """The requests that are looked at in this round, with fresh matches."""
        looked, version = self.held.window(int(self.set.window)), self.caches.version
        for w in looked:
            w.costed = None
            if self.stale(w, version, now, self.set.stale):
                self.match(w, now)
        return looked

    def _book(self, w: Want, i: int, queue: float, now: float) -> None:
        """It goes to replica `i`, behind `queue` seconds of others."""
        took, hits = w.prefill[i], w.hits[i]
        blocks = w.blocks if w.tokens >= self.caches.least[i] else ()
        b = Booking(w.key, i, took, w.tokens, hits, blocks, now, w, queue + took)
        if w.tier:
            b.tier, b.load = w.tier[i], w.load[i]
        b.charged = w.tokens - hits + OUTPUT_WEIGHT * (self._output if w.output is None else w.output)
        if w.key in self.held.all:
            self.fair.charge(w.tenant, b.charged)
            self.held.remove(w.key)
        else:
            self.fair.through(w.tenant, w.share, b.charged)
        self.load.book(b)
        self.caches.expected.add(i, b.blocks)  # also of none: whoever waits is to be looked at anew
        if not w.streamed:
            self._silent[i] = self._silent.get(i, 0) + 1
        self.peers.booked(b)

    def _computed(self, b: Booking, now: float) -> None:
        """Its prompt is in the replica's cache now."""
        self._left(b)
        self.caches.answered(b.replica, b.blocks, now)
        self.peers.answered(b, now)

    def _left(self, b: Booking) -> None:
        """It no longer waits for its first token."""
        self.caches.expected.drop(b.replica, b.blocks)
        if b.want is not None and not b.want.streamed:
            left = self._silent.pop(b.replica) - 1
            if left:
                self._silent[b.replica] = left

    def _whole(self, b: Booking, now: float, cached: int | None, output: int | None, blocks: Sequence[Hashable] | None) -> None:
        """Its answer came all at once."""
        began, here = self.load.whole(b, now), bool(self.alive >> b.replica & 1)
        self._computed(b, now)
        if here:
            if cached is not None:
                self._tell(b, cached, True)
            if now - began < b.prefill or (output is not None and output <= 1):  # else most of the time was for writing
                self._learn_first(b, began, now)
        self._over(b, here, now, output, blocks)

    def _over(self, b: Booking, here: bool, now: float, output: int | None, blocks: Sequence[Hashable] | None) -> None:
        """An answered request is over: what it tells of its replica, if that is still `here`, and of answers."""
        if here:
            if self._learned[b.replica] is not None:
                self._learn_pace(b, output, now)
            if blocks:
                self.caches.wrote(b.replica, blocks, now)
        if b.pending is not None:
            self.observer.over(b, here)
        if output is not None:
            self._output += 0.01 * ((output if output > 0 else 0) - self._output)

    def _settle(self, b: Booking, output: int | None, served: float) -> None:
        """Charges the tenant what the request cost in truth, where that is known; one that was never answered, its share of a prefill."""
        w = b.want
        if w is None:
            return
        computed = b.tokens - (b.cached if b.told is None else b.told)
        if not b.answered:
            cost = served * computed
        else:
            cost = computed + OUTPUT_WEIGHT * (self._expected(w) if output is None else max(0, output))
        self.fair.charge(w.tenant, cost - b.charged)

    def _expected(self, w: Want) -> float:
        """Tokens of its answer, expected."""
        return self._output if w.output is None else float(w.output)
