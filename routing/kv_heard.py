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
        return sum(n for n, precise in zip(self._caches.guesses.index.counts, self._caches.precise, strict=True) if not precise)

    def kept(self, replica: int) -> tuple[Sequence[Hashable], int]:
        if self._caches.precise[replica]:
            return (), 0
        return self._caches.guesses.kept(replica), int(self._caches.guesses.capacity[replica])

    def seed(self, replica: int, blocks: Sequence[Hashable], capacity: int, t: float) -> None:
        if not self._caches.precise[replica]:
            self._caches.guesses.seed(replica, blocks, capacity, t)
