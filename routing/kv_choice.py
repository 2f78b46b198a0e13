"""Which replica a request should go to, whether now, and which request goes first. Decisions over state that others own; none is changed.

The cost of a replica is a sum of seconds: what is before the request there, its own prefill, what that costs the answers being written
there and they it, and what the caller adds. Near ties fall by chance.

A replica that is slower than its peers counts as one of them where the request makes its target there all the same: by seconds alone it
would stand idle while whatever it could have served in time keeps the fast ones from what only they can.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import compress

from routing.kv_load import Load
from routing.kv_model import PrefillModel
from routing.kv_peers import Peers
from routing.kv_want import NEVER, Quote, Settings, Want

NEAR_SECONDS = 0.002  # and a hundredth: what costs so little more than the least is as good
MARGIN = 1.3  # decayed mean errors that a promise of time leaves room for: about the 90th percentile of an exponential's excess


class Choice:
    """Costs and orders requests. `limits` of replicas, their queues and speeds are read from `load` and `model`."""

    __slots__ = ("load", "model", "peers", "rng", "set", "since_old")

    def __init__(self, settings: Settings, load: Load, model: PrefillModel, peers: Peers, rng: random.Random) -> None:
        self.set, self.load, self.model, self.peers, self.rng = settings, load, model, peers, rng
        self.since_old = 0  # placements since one out of patience had its turn

    def queue(self, i: int, now: float) -> float:
        """Seconds before replica `i` is free; NEVER when it is full, so that nothing may be bound to it."""
        return NEVER if self.load.full(i) else self.load.backlog(i, now)

    def queues(self, alive: int, now: float) -> list[float]:
        """The same for each replica; NEVER for one that is gone."""
        return [self.queue(i, now) if alive >> i & 1 else NEVER for i in range(len(self.load.waiting))]

    def waits(self, queues: Sequence[float], alive: int, now: float) -> list[float]:
        """What is before a request on each replica, in seconds of cost: its queue or the next free slot, and answers being written."""
        load, decode = self.load, self.set.decode
        out = [q + decode * c for q, c in zip(queues, load.context, strict=True)]
        for i, q in enumerate(queues):
            if q == NEVER and alive >> i & 1:
                out[i] = load.backlog(i, now) + load.slot(i) + decode * load.context[i]
        return out

    def next(
        self, looked: Sequence[Want], queues: Sequence[float], alive: int, rounds: dict[str, int], now: float
    ) -> tuple[Want, int] | None:
        """Of the requests looked at the one that goes now, and where; None when none may. `rounds`: each tenant's, lower goes first."""
        factor = [1.0 + self.set.stall * r for r in self.load.running]
        waits = self.waits(queues, alive, now)
        best: tuple[tuple[float, ...], Want, int] | None = None
        able: list[tuple[Want, int]] = []
        claims: dict[int, tuple[float, ...]] = {}  # replica -> the rank of who waits for it to be free
        for w in looked:
            if w.costed is None:
                w.costed = self.cheapest(w, waits, factor, now)
            cost, i = w.costed
            if cost == NEVER:
                continue
            if self.may(w, i, queues[i], now):
                able.append((w, i))
            else:
                claims[i] = max(claims.get(i, ()), self.rank(w, rounds[w.tenant], now))
        for w, i in able:
            if i in claims and self.rank(w, rounds[w.tenant], now) < claims[i]:
                continue  # a replica that ever more small work joins would never be free for it
            urgency = self.urgency(w, queues[i] + w.prefill[i], w.prefill[i], rounds[w.tenant], now)
            if best is None or urgency > best[0]:
                best = (urgency, w, i)
        if best is None:
            return None
        self.since_old = 0 if best[0][2] else self.since_old + 1
        return best[1], best[2]

    def alone(self, w: Want, alive: int, now: float) -> tuple[int, float] | None:
        """Where a request goes now while no other waits, and the queue there; None when it should wait."""
        load = self.load
        waits = load.waits(now, self.set.decode)
        costs = load.costs(waits, w.prefill, self.set.stall)
        usable = w.usable & alive
        if usable != (1 << len(costs)) - 1:
            costs = [c if usable >> i & 1 else NEVER for i, c in enumerate(costs)]
        cost, i = self._least(w, costs, waits, now)
        if cost == NEVER or load.full(i):
            return None
        queue = load.backlog(i, now)
        if not self.may(w, i, queue, now):
            return None
        old = self.since_old + 1 >= self.set.share and now - w.at > self.set.patience
        self.since_old = 0 if old else self.since_old + 1
        return i, queue

    def cheapest(self, w: Want, waits: Sequence[float], factor: Sequence[float], now: float) -> tuple[float, int]:
        """Cost and number of the best replica, (NEVER, 0) when there is none. One that makes the deadline goes before one that does not."""
        costs = [q + p * f for q, p, f in zip(waits, w.prefill, factor, strict=True)]
        if w.usable != -1:
            costs = [c if w.usable >> i & 1 else NEVER for i, c in enumerate(costs)]
        return self._least(w, costs, waits, now)

    def _least(self, w: Want, costs: list[float], waits: Sequence[float], now: float) -> tuple[float, int]:
        for i in self.model.slow:
            if costs[i] < NEVER:
                costs[i] -= self.spare(w, i, waits[i], costs[i] - waits[i], now)
        if w.extra is not None or w.home is not None:
            costs = [c + self.added(w, i) for i, c in enumerate(costs)]
        if self.peers.gateways > 1:
            costs = [c + self.turn(w, i, now) for i, c in enumerate(costs)]
        if w.deadline is not None:
            costs = self._in_time(w, costs, waits, now)
        least = min(costs, default=NEVER)
        if least == NEVER:
            return least, 0
        limit = least + 0.01 * abs(least) + NEAR_SECONDS
        near = list(compress(range(len(costs)), map(limit.__ge__, costs)))
        return least, near[0] if len(near) == 1 else near[int(self.rng.random() * len(near))]

    def spare(self, w: Want, i: int, wait: float, own: float, now: float) -> float:
        """Of the seconds that a request costs behind `wait` on replica `i` by its `own` work those that do not count: what a slower machine
        takes longer than the usual one, while the first token comes in time all the same."""
        if i not in self.model.slow or now + wait + w.prefill[i] > w.at + self.target(w):
            return 0.0
        return own - own / self.model.speed[i]

    def target(self, w: Want) -> float:
        """Seconds from its arrival in which the request's first token is meant to come."""
        return self.set.target + w.cold if w.deadline is None else w.deadline

    def added(self, w: Want, i: int) -> float:
        """What the caller added to a replica's cost, less what the session's home is preferred by."""
        extra = w.extra[i] if w.extra is not None and i < len(w.extra) else 0.0
        return extra - self.set.home * w.cold if i == w.home else extra

    def turn(self, w: Want, i: int, now: float) -> float:
        """Seconds until this gateway may use the replica for it without another doing the same unseen."""
        if self.peers.gateways == 1 or w.prefill[i] <= self.set.small:  # two small ones at once harm nobody
            return 0.0
        return self.peers.turn(i, w.at, now)

    def may(self, w: Want, i: int, queue: float, now: float) -> bool:
        """Whether a request should be bound to its best replica now rather than held."""
        if self.peers.gateways > 1 and self.turn(w, i, now) > 0.0:
            return False
        if queue <= self.set.hold:
            return True
        p = w.prefill[i]
        if p > self.set.small or queue > self.set.near or w.soon >> i & 1:  # what it would share is not computed yet
            return False
        if self.load.unsure(i, now):  # it may not be over as soon as it seems
            return False
        return p + self.load.behind(i) <= self.set.small

    def rank(self, w: Want, turn: int, now: float) -> tuple[float, ...]:
        """Nobody joins the queue of a replica that one of a higher rank waits for."""
        return (w.band, -turn, now - w.at > self.set.yields)

    def urgency(self, w: Want, wait: float, p: float, turn: int, now: float) -> tuple[float, ...]:
        """Who goes first: by band; by the tenant's round; one out of patience now and then; who can still make its target, shortest first;
        then by the ratio of time in the system to own time, under which nobody starves."""
        old = self.since_old + 1 >= self.set.share and now - w.at > self.set.patience
        if old:
            return (w.band, -turn, 1, now - w.at)
        if now + wait <= w.at + self.target(w):
            return (w.band, -turn, 0, 1, -p)
        return (w.band, -turn, 0, 0, (now - w.at + p) / p)

    def quote(self, w: Want, alive: int, now: float) -> list[Quote]:
        """What each usable replica would cost now, cheapest first. The request must have been matched."""
        load, out = self.load, []
        for i in range(len(load.waiting)):
            if (w.usable & alive) >> i & 1:
                loading, p = w.load[i] if w.load else 0.0, w.prefill[i]
                before = load.backlog(i, now) + load.slot(i) + self.set.decode * load.context[i]
                out.append(
                    Quote(
                        replica=i,
                        queue=load.backlog(i, now),
                        prefill=p - loading,
                        stall=p * self.set.stall * load.running[i],
                        decode=self.set.decode * load.context[i],
                        turn=self.turn(w, i, now),
                        cached=w.hits[i],
                        slot=load.slot(i),
                        load=loading,
                        extra=self.added(w, i),
                        tier=w.tier[i] if w.tier else 0,
                        spare=-self.spare(w, i, before, p + p * self.set.stall * load.running[i], now),
                        full=load.full(i),
                    )
                )
        return sorted(out, key=lambda q: q.total)

    def _in_time(self, w: Want, costs: list[float], waits: Sequence[float], now: float) -> list[float]:
        due = w.at + (w.deadline or 0.0)
        error = self.model.error
        late = [now + q + p + MARGIN * e > due for q, p, e in zip(waits, w.prefill, error, strict=True)]
        if all(late[i] for i, c in enumerate(costs) if c != NEVER):
            return costs
        return [NEVER if late[i] else c for i, c in enumerate(costs)]
