"""Gateways as far as their peers matter, and talk between them by hand."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from routing.kv_load import Booking, Load
from routing.kv_peers import Foreign, Peers


class Known:
    """Caches that only remember what they were told."""

    def __init__(self, replicas: int = 3) -> None:
        self.coming: list[tuple[int, tuple[Hashable, ...]]] = []
        self.there: list[tuple[int, tuple[Hashable, ...]]] = []
        self.blocks: list[list[Hashable]] = [[] for _ in range(replicas)]
        self.capacity = 9

    def began(self, b: Booking) -> None:
        self.coming.append((b.replica, tuple(b.blocks)))

    def reached(self, b: Booking, t: float) -> None:
        self.coming.remove((b.replica, tuple(b.blocks)))
        self.there.append((b.replica, tuple(b.blocks)))

    def over(self, b: Booking) -> None:
        if not b.answered:
            self.coming.remove((b.replica, tuple(b.blocks)))

    def wrote(self, b: Booking, blocks: Sequence[Hashable], t: float) -> None:
        self.there.append((b.replica, tuple(blocks)))

    def stock(self) -> int:
        return sum(map(len, self.blocks))

    def kept(self, replica: int) -> tuple[Sequence[Hashable], int]:
        return self.blocks[replica], self.capacity

    def seed(self, replica: int, blocks: Sequence[Hashable], capacity: int, t: float) -> None:
        self.blocks[replica] += blocks
        self.capacity = capacity


class One:
    """A gateway as far as its peers matter."""

    def __init__(self, name: int, replicas: int = 3) -> None:
        self.load, self.known = Load(replicas), Known(replicas)
        self.peers = Peers(name, self.load, self.known)

    def book(self, key: Hashable, replica: int = 0, t: float = 0.0, blocks: Sequence[Hashable] = ()) -> Booking:
        b = Booking(key, replica, 0.5, 1000, 0, blocks, t)
        self.load.book(b)
        self.peers.booked(b)
        return b

    def answer(self, key: Hashable, t: float) -> None:
        found = self.load.answer(key, t)
        assert found is not None
        self.peers.answered(found[0], t)

    def end(self, key: Hashable, t: float, blocks: Sequence[Hashable] = ()) -> None:
        b = self.load.end(key, t)
        assert b is not None
        self.peers.ended(b, t, blocks)

    def mine_full(self) -> list[tuple[int, bool, tuple[Hashable, ...]]]:
        return [(b.replica, b.answered, tuple(b.blocks)) for b in self.load.bookings.values() if not isinstance(b.key, Foreign)]

    def theirs(self) -> list[tuple[int, bool, tuple[Hashable, ...]]]:
        return [(b.replica, b.answered, tuple(b.blocks)) for b in self.load.bookings.values() if isinstance(b.key, Foreign)]


def talk(*all: One, t: float) -> None:
    """Everybody says everything there is to say, and all hear it."""
    for _ in range(64):
        said = [(one, one.peers.fetch(t)) for one in all]
        if not any(messages for _, messages in said):
            return
        for sender, messages in said:
            for one in all:
                if one is not sender:
                    one.peers.hear(messages, t)
    raise AssertionError("the talk does not end")


def pair() -> tuple[One, One]:
    """Two that have known each other for a while, at time 0."""
    a, b = One(11), One(22)
    for t in (-9.0, -6.0, -3.0, 0.0):
        talk(a, b, t=t)
    assert a.peers.seed.finished
    return a, b


def kinds(one: One, t: float) -> list[str]:
    return [m.kind for m in one.peers.fetch(t)]
