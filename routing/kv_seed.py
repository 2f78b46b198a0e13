"""How a gateway that has just started gets from a peer what is cached where. Plain state; the messages are kv_peers'.

It serves at once, knowing nothing, and listens for a moment; then it asks the peer that knows most. The pieces come between other messages,
newest blocks first, so that what is cut off matters least. A peer that stops in the middle is given up for the next one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import NamedTuple

LISTEN_SECONDS = 1.5  # until every peer has said how much it knows
STUCK_SECONDS = 3.0  # without a piece
PIECE = 1024  # blocks
MOST_BLOCKS = 1 << 16  # of one replica
ASKERS = 4  # served at once
TRIES = 3


class Piece(NamedTuple):
    """Some of what we know, for one who asked: a replica by the name that all share, None in the last one, which has nothing."""

    asker: int
    replica: int | None = None
    capacity: int = 0
    blocks: tuple[Hashable, ...] = ()


Kept = Callable[[int], tuple[Sequence[Hashable], int]]


class Seed:
    """Both ends of it: what this gateway asks for, and what it is being asked for."""

    __slots__ = ("_asked", "_from", "_last", "_queues", "_since", "_stock", "finished")

    def __init__(self) -> None:
        self.finished = False  # got it, or nobody can give it
        self._stock: dict[int, int] = {}  # peer -> blocks that it knows
        self._since: float | None = None  # when the first peer was heard
        self._from, self._last = 0, 0.0  # who was asked, and when a piece came last
        self._asked: set[int] = set()
        self._queues: dict[int, deque[Piece]] = {}  # asker -> what it still gets

    # --- the one who asks
    def heard(self, gateway: int, blocks: int, t: float) -> None:
        """A peer said how many blocks it knows."""
        if not self.finished:
            self._since = t if self._since is None else self._since
            self._stock[gateway] = blocks

    def choose(self, peers: Iterable[int], t: float) -> int | None:
        """Whom to ask now, None for nobody (yet)."""
        if self.finished or self._since is None or t - self._since < LISTEN_SECONDS:
            return None
        if self._from and t - self._last <= STUCK_SECONDS:
            return None
        able = [(self._stock.get(g, 0), g) for g in peers if g not in self._asked and self._stock.get(g, 0)]
        if not able or len(self._asked) >= TRIES:
            self._finish()
            return None
        self._from, self._last = max(able)[1], t
        self._asked.add(self._from)
        return self._from

    def takes(self, gateway: int, t: float) -> bool:
        """Whether a piece from this gateway is one that we wait for."""
        if self.finished or gateway != self._from:
            return False
        self._last = t
        return True

    def done(self, gateway: int) -> None:
        """That was all of it."""
        if gateway == self._from:
            self._finish()

    # --- the one who is asked
    def serve(self, asker: int, names: Sequence[tuple[int, int]], kept: Kept) -> None:
        """Begins to serve a newcomer: replicas as (our number, the name that all share). O(blocks). Not while ASKERS others are served."""
        if len(self._queues) >= ASKERS and asker not in self._queues:
            return
        queue: deque[Piece] = deque()
        for number, name in names:
            blocks, capacity = kept(number)
            for at in range(0, min(len(blocks), MOST_BLOCKS), PIECE):
                queue.append(Piece(asker, name, capacity, tuple(blocks[at : min(at + PIECE, MOST_BLOCKS)])))
        queue.append(Piece(asker))
        self._queues[asker] = queue

    def pieces(self) -> list[Piece]:
        """The next piece for each who is served. Mutates."""
        out = [queue.popleft() for queue in self._queues.values()]
        self._queues = {asker: queue for asker, queue in self._queues.items() if queue}
        return out

    def gone(self, gateway: int) -> None:
        """This gateway is dead: whoever waits for it waits no longer."""
        self._stock.pop(gateway, None)
        self._queues.pop(gateway, None)
        if gateway == self._from:
            self._last = -STUCK_SECONDS

    def _finish(self) -> None:
        self.finished = True
        self._stock.clear()
        self._asked.clear()
