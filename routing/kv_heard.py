"""What peers say of their requests, written into our belief of the replicas' caches. Plain state, no clock."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from routing.kv_cache import Caches
from routing.kv_load import Booking


class HeardCaches:
    """`kv_peers.Caches` over a scheduler's own: a peer's dispatch leaves the same blocks as ours would. Every method but `stock` and
    `kept` mutates; none blocks."""

    __slots__ = ("_caches",)

    def __init__(self, caches: Caches) -> None:
        self._caches = caches

    def began(self, b: Booking) -> None:
        self._caches.expected.add(b.replica, b.blocks)

    def reached(self, b: Booking, t: float) -> None:
        self._caches.expected.drop(b.replica, b.blocks)
        self._caches.answered(b.replica, b.blocks, t)

    def over(self, b: Booking) -> None:
        if not b.answered:
            self._caches.expected.drop(b.replica, b.blocks)

    def wrote(self, b: Booking, blocks: Sequence[Hashable], t: float) -> None:
        self._caches.wrote(b.replica, blocks, t)

    def stock(self) -> int:
        c = self._caches
        return sum(c.index.counts[i] if precise else c.guesses.count(i) for i, precise in enumerate(c.precise))

    def kept(self, replica: int) -> tuple[Sequence[Hashable], int]:
        c = self._caches
        if not c.precise[replica]:
            return c.guesses.kept(replica), int(c.guesses.capacity[replica])
        # A newcomer may have to guess until the engine's events make sense to it. What was stored first comes first: roots before leaves.
        bit = 1 << replica
        return [b for b, mask in c.index.masks.items() if mask & bit], c.index.counts[replica]

    def seed(self, replica: int, blocks: Sequence[Hashable], capacity: int, t: float) -> None:
        if not self._caches.precise[replica]:
            self._caches.guesses.seed(replica, blocks, capacity, t)
