"""Which replica has which prompt prefix in its KV cache, as far as we can know. Pure state: no clock, no I/O.

A block stands for the whole prefix up to and including it (a chained hash), so a path needs no tree: `dict[block, bitmask of replicas]` is
the index, a match is one walk. Three things know of blocks: exact events of engines (`PrefixIndex.add`, `remove`), our own dispatches where
an engine tells nothing (`Approximate`), and dispatches under way (`Expected`).
"""

from __future__ import annotations

from array import array
from collections import OrderedDict, deque
from collections.abc import Callable, Container, Hashable, Iterable, Mapping, Sequence
from hashlib import blake2b
from importlib import import_module
from itertools import compress, filterfalse, repeat, takewhile
from operator import contains

Digest = Callable[[bytes, int], int]


def _blake(data: bytes, seed: int) -> int:
    return int.from_bytes(blake2b(data, digest_size=8, key=seed.to_bytes(8, "big")).digest(), "big")


def _fastest() -> Digest:
    """xxh3 where the wheel is there (0.06 us a block), else BLAKE2b of the standard library (2 us). Both are the same on all hosts."""
    try:
        found: Digest = import_module("xxhash").xxh3_64_intdigest
    except ImportError:
        return _blake
    return found


digest: Digest = _fastest()
TEXT_BLOCK = 512  # bytes of rendered prompt a block where no tokenizer is at hand: some 128 tokens; half of it cost a tenth of the speed
TOKEN_BLOCK = 64
MAX_BLOCKS = 16_384  # of one prompt; what is longer is matched by its first ones


def salted(*parts: str) -> int:
    """The root of a chain: what makes equal tokens different (model, adapter, cache salt, ids of images). Order counts."""
    root = 0
    for part in parts:
        raw = part.encode()
        root = digest(len(raw).to_bytes(8, "big") + raw, root)
    return root


def text_blocks(text: bytes, root: int = 0, size: int = TEXT_BLOCK) -> list[int]:
    """Chained hashes of the full blocks of `text`, as the chat template renders it. O(bytes)."""
    h, hash_ = root, digest
    return [h := hash_(text[at : at + size], h) for at in range(0, min(len(text) - size + 1, MAX_BLOCKS * size), size)]


def token_blocks(ids: Sequence[int], root: int = 0, size: int = TOKEN_BLOCK) -> list[int]:
    """Chained hashes of the full blocks of token ids (0 to 2^32 - 1; OverflowError beyond). O(tokens)."""
    raw = array("I", ids).tobytes()
    return text_blocks(raw, root, size * array("I").itemsize)


class PrefixIndex:
    """block -> bitmask of replicas. `version` changes with the content, so that a match can be kept until then."""

    __slots__ = ("counts", "masks", "replicas", "version")

    def __init__(self, replicas: int) -> None:
        self.replicas = replicas
        self.masks: dict[Hashable, int] = {}
        self.counts = [0] * replicas  # blocks a replica
        self.version = 0

    def __len__(self) -> int:
        return len(self.masks)

    def grow(self, replicas: int) -> None:
        """There are so many replicas now, not fewer than before."""
        self.counts += [0] * (replicas - self.replicas)
        self.replicas = replicas

    def add(self, replica: int, blocks: Iterable[Hashable]) -> None:
        """The replica has these blocks now. O(blocks), 0.1 us each."""
        bit, masks, new = 1 << replica, self.masks, 0
        for b in blocks:
            old = masks.get(b, 0)
            if not old & bit:
                masks[b] = old | bit
                new += 1
        if new:
            self.counts[replica] += new
            self.version += 1

    def remove(self, replica: int, blocks: Iterable[Hashable]) -> None:
        """The replica has evicted these. Blocks it had not are ignored. O(blocks)."""
        bit, masks, gone = 1 << replica, self.masks, 0
        for b in blocks:
            old = masks.get(b, 0)
            if old & bit:
                gone += 1
                if old == bit:
                    del masks[b]
                else:
                    masks[b] = old ^ bit
        if gone:
            self.counts[replica] -= gone
            self.version += 1

    def clear(self, replica: int) -> None:
        """The replica lost its cache (restart, reset, reload). O(index); rare."""
        if self.counts[replica]:
            bit = 1 << replica
            self.remove(replica, [b for b, mask in self.masks.items() if mask & bit])

    def match(self, blocks: Sequence[Hashable]) -> list[int]:
        """For each replica how many leading blocks it has. O(blocks + replicas)."""
        return walk(self.masks, blocks, self.replicas)

    def check(self) -> None:
        """AssertionError when counts and masks differ. For tests."""
        seen = [sum(1 for m in self.masks.values() if m >> i & 1) for i in range(self.replicas)]
        assert seen == self.counts, f"blocks a replica {seen}, counted {self.counts}"
        assert all(0 < m < 1 << self.replicas for m in self.masks.values()), "a mask is empty or names a replica that is not there"


def walk(masks: Mapping[Hashable, int], blocks: Sequence[Hashable], replicas: int, *more: Mapping[Hashable, int]) -> list[int]:
    """The leading blocks each replica has in `masks` or in any of `more`: follows all replicas at once, until none is left."""
    out = [0] * replicas
    mask = (1 << replicas) - 1
    depth = 0
    for b, kept in zip(blocks, map(masks.get, blocks, repeat(0)), strict=False):
        if kept != mask:
            for other in more:
                kept |= other.get(b, 0)
            kept &= mask
            lost = mask ^ kept
            while lost:
                low = lost & -lost
                out[low.bit_length() - 1] = depth
                lost ^= low
            mask = kept
            if not mask:
                return out
        depth += 1
    while mask:
        low = mask & -mask
        out[low.bit_length() - 1] = depth
        mask ^= low
    return out


class Expected:
    """Blocks that dispatches under way will leave on a replica. One entry a booking; ends with the first token or the failure.

    For each replica a set of blocks, and how many bookings bring those that more than one does. So what is usual, a chain that nobody
    shares, comes and goes in one operation of a set.
    """

    __slots__ = ("_more", "_sets", "replicas", "version")

    def __init__(self, replicas: int) -> None:
        self.replicas = replicas
        self.version = 0
        self._sets: list[set[Hashable]] = [set() for _ in range(replicas)]
        self._more: list[dict[Hashable, int]] = [{} for _ in range(replicas)]  # bookings that bring a block, two at least

    @property
    def masks(self) -> dict[Hashable, int]:
        """block -> bitmask of replicas. O(blocks)."""
        out: dict[Hashable, int] = {}
        for i, mine in enumerate(self._sets):
            for b in mine:
                out[b] = out.get(b, 0) | 1 << i
        return out

    def grow(self, replicas: int) -> None:
        """There are so many replicas now, not fewer than before."""
        self._sets += [set() for _ in range(replicas - self.replicas)]
        self._more += [{} for _ in range(replicas - self.replicas)]
        self.replicas = replicas

    def add(self, replica: int, blocks: Sequence[Hashable]) -> None:
        """A request with these blocks, each named once, was sent to the replica. O(blocks)."""
        mine = self._sets[replica]
        self.version += 1
        if not mine.isdisjoint(blocks):
            more = self._more[replica]
            for b in mine.intersection(blocks):
                more[b] = more.get(b, 1) + 1
        mine.update(blocks)

    def drop(self, replica: int, blocks: Sequence[Hashable]) -> None:
        """Takes back one `add` of the same blocks. KeyError when there was none."""
        mine, more = self._sets[replica], self._more[replica]
        if not mine.issuperset(blocks):
            raise KeyError(f"replica {replica} expects fewer blocks than are taken back")
        self.version += 1
        if not more or more.keys().isdisjoint(blocks):
            mine.difference_update(blocks)
            return
        shared = more.keys() & blocks
        for b in shared:
            left = more.pop(b) - 1
            if left > 1:
                more[b] = left
        mine.difference_update(set(blocks) - shared)

    def match(self, blocks: Sequence[Hashable]) -> list[int]:
        """For each replica how many leading blocks are on their way to it."""
        return _leading(self._sets, blocks)

    def deeper(self, blocks: Sequence[Hashable], have: list[int]) -> int:
        """A bitmask of the replicas that more leading blocks are on their way to than they have; counts those in `have`. Few have any, so
        that it looks at the one block that decides before it counts."""
        sets, soon, most = self._sets, 0, len(blocks)
        if not most:
            return 0
        for i in compress(range(self.replicas), map(contains, sets, repeat(blocks[0]))):
            at = have[i]
            if at < most and blocks[at] in sets[i]:
                coming = len(list(takewhile(sets[i].__contains__, blocks)))
                if coming > at:
                    have[i] = coming
                    soon |= 1 << i
        return soon


class Approximate:
    """Replicas' caches as our own dispatches imply them: for each an LRU of blocks whose capacity is learned from `cached_tokens`.

    Reported fewer cached tokens than predicted: its cache is smaller than thought, so the capacity shrinks by 2 %, and what was claimed
    beyond the report is taken back. Reported more: it grows by 1 %. Between `least` and `most` blocks, which bound memory as well.
    Where a replica's entries have a time to live (hosted APIs), `expire` drops what was not used for so long. `version` changes with what
    is in any of them. Each replica has a list of its own rather than a bit in a common index: whatever is done to one of a prompt's blocks
    is done to all, and so in one operation.
    """

    __slots__ = ("_lru", "capacity", "first", "least", "most", "ttl", "version")

    def __init__(self, replicas: int, capacity: int, least: int = 64, most: int = 1 << 20) -> None:
        if not 0 < least <= capacity <= most:
            raise ValueError(f"an approximate cache of {capacity} blocks must lie between {least} (at least 1) and {most}")
        self.first, self.least, self.most, self.version = capacity, least, most, 0
        self.capacity = [float(capacity)] * replicas
        self.ttl: list[float | None] = [None] * replicas  # seconds
        self._lru: list[OrderedDict[Hashable, float]] = [OrderedDict() for _ in range(replicas)]  # block -> when used

    def __len__(self) -> int:
        return sum(map(len, self._lru))

    def grow(self, replicas: int) -> None:
        """There are so many replicas now, not fewer than before."""
        new = replicas - len(self._lru)
        self.capacity += [float(self.first)] * new
        self.ttl += [None] * new
        self._lru += [OrderedDict() for _ in range(new)]

    def begin(self, replica: int, capacity: int | None = None, ttl: float | None = None) -> None:
        """Another engine has this number: an empty cache of `capacity` blocks (None: the usual first guess), held within the bounds."""
        self.clear(replica)
        self.capacity[replica] = float(min(self.most, max(self.least, self.first if capacity is None else capacity)))
        self.ttl[replica] = ttl

    def match(self, blocks: Sequence[Hashable]) -> list[int]:
        """For each replica how many leading blocks it has."""
        return _leading(self._lru, blocks)

    def has(self, replica: int, block: Hashable) -> bool:
        """Whether the replica has this block."""
        return block in self._lru[replica]

    def count(self, replica: int) -> int:
        """Blocks that the replica has."""
        return len(self._lru[replica])

    def touch(self, replica: int, blocks: Sequence[Hashable], now: float = 0.0) -> None:
        """The replica computes or reuses these now. The tail of the chain is the first to go, as in the engines. O(blocks)."""
        lru = self._lru[replica]
        before = len(lru)
        if self.ttl[replica] is None:  # nobody asks when it was used: what it came with stays
            lru.update(dict.fromkeys(filterfalse(lru.__contains__, reversed(blocks)), now))
        else:
            lru.update(dict.fromkeys(reversed(blocks), now))
        deque(map(lru.move_to_end, reversed(blocks)), 0)
        if len(lru) != before:
            self.version += 1
            self._trim(replica)

    def expire(self, replica: int, now: float) -> None:
        """Drops what the replica's time to live has passed for. O(what goes)."""
        ttl, lru = self.ttl[replica], self._lru[replica]
        if ttl is not None:
            self._forget(replica, list(takewhile(lambda b: lru[b] <= now - ttl, lru)))

    def report(self, replica: int, blocks: Sequence[Hashable], predicted: int, reported: int, late: bool = False) -> None:
        """The engine says that `reported` leading blocks were cached where we thought `predicted`. Call it before `touch`; `late`: that
        was called already, so the blocks are there now and only the capacity is learned."""
        if reported < predicted:
            self.capacity[replica] = max(float(self.least), self.capacity[replica] * 0.98)
            if not late:
                self._forget(replica, blocks[reported:predicted])
            self._trim(replica)
        elif reported > predicted:
            self.capacity[replica] = min(float(self.most), self.capacity[replica] * 1.01)

    def kept(self, replica: int) -> list[Hashable]:
        """The replica's blocks, used last first. O(blocks)."""
        return list(reversed(self._lru[replica]))

    def seed(self, replica: int, blocks: Iterable[Hashable], capacity: int, t: float) -> None:
        """What another gateway thinks is there, used last first: taken to be older than all that we know, as far as there is room. Its
        `capacity` is believed where we have not learned one. O(blocks)."""
        if self.capacity[replica] == self.first:
            self.capacity[replica] = float(min(self.most, max(self.least, capacity)))
        lru = self._lru[replica]
        at = min(t, next(iter(lru.values()), t))
        new = [b for b in dict.fromkeys(blocks) if b not in lru][: max(0, int(self.capacity[replica]) - len(lru))]
        for b in new:
            lru[b] = at
            lru.move_to_end(b, last=False)
        if new:
            self.version += 1
        self._trim(replica)

    def clear(self, replica: int) -> None:
        """The engine was restarted. What was learned of its size stays."""
        if self._lru[replica]:
            self._lru[replica].clear()
            self.version += 1

    def check(self) -> None:
        """AssertionError when a list is longer than its cache is thought to be. For tests."""
        for i, lru in enumerate(self._lru):
            assert len(lru) <= self.capacity[i], f"replica {i}: {len(lru)} blocks, room for {self.capacity[i]}"

    def _trim(self, replica: int) -> None:
        lru = self._lru[replica]
        over = len(lru) - int(self.capacity[replica])
        if over > 0:
            deque(map(lru.popitem, repeat(False, over)), 0)
            self.version += 1

    def _forget(self, replica: int, blocks: Sequence[Hashable]) -> None:
        lru = self._lru[replica]
        before = len(lru)
        for b in blocks:
            lru.pop(b, None)
        if len(lru) != before:
            self.version += 1


def _leading(sets: Sequence[Container[Hashable]], blocks: Sequence[Hashable]) -> list[int]:
    """How many leading blocks each has. Most have not even the first, which one pass tells."""
    out = [0] * len(sets)
    if blocks:
        for i in compress(range(len(sets)), map(contains, sets, repeat(blocks[0]))):
            out[i] = len(list(takewhile(sets[i].__contains__, blocks)))
    return out
