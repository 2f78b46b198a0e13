"""Chains of block hashes told in short: what the hearer can put together from chains it was told before is not told again. Plain state.

A chained hash stands for the whole prefix up to its block. So the next turn of a conversation is told as the last hash of the turn before
and the few blocks that are new. Teller and hearer keep the same memory by the same rules, from the same chains in the same order; a hearer
that missed one may lack a base, and knows it then.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Sequence

CHAIN = 4096  # blocks of one chain that are told; the rest is left out
KEPT = 1 << 15  # blocks in all chains that are remembered


class Chains:
    """What has been told to, or heard from, one other. At most KEPT blocks, the chains used last."""

    __slots__ = ("_chains", "_size")

    def __init__(self) -> None:
        self._chains: OrderedDict[Hashable, tuple[Hashable, ...]] = OrderedDict()  # last block -> chain
        self._size = 0

    def cut(self, blocks: Sequence[Hashable]) -> tuple[Hashable, tuple[Hashable, ...]]:
        """For the teller: the last block of the longest known chain that `blocks` begins with (None: no such), and the blocks after it.
        Remembers the chain. O(blocks)."""
        chain = tuple(blocks[:CHAIN])
        for k in range(len(chain), 0, -1):
            if chain[k - 1] in self._chains:
                base = chain[k - 1]
                self._keep(base, chain)
                return base, chain[k:]
        self._keep(None, chain)
        return None, chain

    def join(self, base: Hashable, tail: Sequence[Hashable]) -> tuple[Hashable, ...] | None:
        """For the hearer: the chain that was told so, None when its base is not known. Remembers it. O(blocks)."""
        if base is None:
            chain = tuple(tail[:CHAIN])
        else:
            known = self._chains.get(base)
            if known is None:
                return None
            chain = (*known, *tail)[:CHAIN]
        self._keep(base, chain)
        return chain

    def clear(self) -> None:
        """Begins anew."""
        self._chains.clear()
        self._size = 0

    def _keep(self, base: Hashable, chain: tuple[Hashable, ...]) -> None:
        if base is not None:
            self._chains.move_to_end(base)
        if not chain:
            return
        old = self._chains.pop(chain[-1], ())
        self._chains[chain[-1]] = chain
        self._size += len(chain) - len(old)
        while self._size > KEPT:
            self._size -= len(self._chains.popitem(last=False)[1])
