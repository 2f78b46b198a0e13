"""One replica's cache blocks, entered into the index under our own chained hashes. Pure state.

Engines' block hashes are never computed here: each block's tokens extend a chain of our own hashes from its parent's.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from typing import Protocol

from routing import prefix
from routing.kvformat import BlockHash, Stored
from routing.prefix import PrefixIndex

# Our chain hash up to the last whole block of ours, the tokens since as raw bytes, and the blocks of ours that this one made whole.
Link = tuple[int, bytes, tuple[int, ...]]

LINKS_MAX = 1 << 19  # engine blocks remembered a publisher and tier; about 300 bytes each, so 160 MB at most
ITEM = array("I").itemsize


class Blocks(Protocol):
    """Where blocks are entered: a PrefixIndex, or one rank's part of one."""

    def add(self, replica: int, blocks: Iterable[int]) -> None: ...

    def remove(self, replica: int, blocks: Iterable[int]) -> None: ...

    def clear(self, replica: int) -> None: ...


class Ranks:
    """The caches of one replica's data-parallel ranks as one: the index has a block while any rank has it.

    Ranks stand for replicas in `add`, `remove` and `clear`. A request finds the block only on the rank that the engine gives it to.
    """

    def __init__(self, replica: int, index: PrefixIndex, ranks: int) -> None:
        self.replica, self.index, self.own = replica, index, PrefixIndex(ranks)

    def add(self, replica: int, blocks: Iterable[int]) -> None:
        """Rank `replica` has these now. O(blocks)."""
        new = list(blocks)
        self.own.add(replica, new)
        self.index.add(self.replica, new)

    def remove(self, replica: int, blocks: Iterable[int]) -> None:
        """Rank `replica` has evicted these. O(blocks)."""
        gone = list(blocks)
        self.own.remove(replica, gone)
        self.index.remove(self.replica, [b for b in gone if b not in self.own.masks])

    def clear(self, replica: int) -> None:
        """Rank `replica` lost its cache. O(blocks of all ranks)."""
        self.remove(replica, [b for b, mask in self.own.masks.items() if mask >> replica & 1 and isinstance(b, int)])


class Tier:
    """One replica's blocks on one medium: engine hash -> our chain, and into the index while `shown`."""

    __slots__ = ("copies", "index", "links", "replica", "shown", "size")

    def __init__(self, replica: int, index: Blocks, size: int) -> None:
        self.replica, self.index, self.size, self.shown = replica, index, size * ITEM, True
        self.links: dict[BlockHash, Link] = {}
        # Prompts that are alike and computed at the same time leave several blocks of one name in vLLM; each is removed by itself.
        self.copies: dict[BlockHash, int] = {}

    def store(self, e: Stored, raw: bytes, link: Link) -> None:
        """Blocks whose tokens are `raw` follow what `link` stands for. O(blocks). Beyond LINKS_MAX the oldest are forgotten."""
        h, tail, _ = link
        step, size, links = e.size * ITEM, self.size, self.links
        whole: list[int] = []
        for k, name in enumerate(e.hashes):
            if k < len(e.extra) and e.extra[k]:
                h = prefix.digest(e.extra[k], h)
            tail += raw[k * step : (k + 1) * step]
            made: tuple[int, ...] = ()
            while len(tail) >= size:
                h, tail = prefix.digest(tail[:size], h), tail[size:]
                made = (*made, h)
            if name in links and e.parent is not None:  # from the root on it is one block announced again, not another one
                self.copies[name] = self.copies.get(name, 1) + 1
            links[name] = (h, tail, made)
            whole += made
        if self.shown:
            self.index.add(self.replica, whole)
        over = len(links) - LINKS_MAX
        if over > 0:
            self._drop([name for name, _ in zip(links, range(over), strict=False)])

    def remove(self, hashes: Sequence[BlockHash]) -> None:
        """One block of each of these names is gone. O(blocks)."""
        copies, last = self.copies, []
        for name in hashes:
            left = copies.pop(name, 1) - 1
            if left > 1:
                copies[name] = left
            elif not left:
                last.append(name)
        self._drop(last)

    def _drop(self, hashes: Sequence[BlockHash]) -> None:
        gone = [self.links.pop(name, None) for name in hashes]
        for name in hashes:
            self.copies.pop(name, None)
        if self.shown:
            self.index.remove(self.replica, [h for link in gone if link is not None for h in link[2]])

    def clear(self) -> None:
        """All are gone."""
        self.links.clear()
        self.copies.clear()
        if self.shown:
            self.index.clear(self.replica)

    def show(self, on: bool) -> None:
        """Enters all blocks into the index, or takes them out of it. What comes later follows. O(blocks)."""
        self.shown = on
        self.index.clear(self.replica)
        if on:
            self.index.add(self.replica, [h for link in self.links.values() for h in link[2]])
