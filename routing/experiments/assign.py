"""Who is in which arm: a pure function of the unit, the same in every process and after every restart.

Three draws, each by its own hash of the unit, so that they do not depend on one another: its point in the layer (whether it takes part:
the slices of one layer are disjoint), whether it is held out, and its arm. The arm is drawn by weighted rendezvous hashing (Thaler and
Ravishankar 1998, "Using name-based mappings to increase hit rates"; with weights as in Schindelhauer and Schomaker 2005, "Weighted
distributed hash tables"): each arm has a score -w / ln(u) with its own u of the unit, and the highest wins. When a weight grows units move
to that arm alone, and no other unit moves.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import log
from typing import Final

from xxhash import xxh3_64_intdigest

OUT: Final = -1  # it does not take part
HELD: Final = -2  # it takes part by being left alone
ALL: Final = 2**64
_BITS = 2.0**52


def seed(*words: str) -> int:
    """A seed of 64 bits from words; of other words another one."""
    return xxh3_64_intdigest("\0".join(words).encode())


class Split:
    """How the units of one experiment are divided. Immutable.

    `layer`: None: one of its own. `begin`: where in the layer its slice begins, of 1. `weights`: of the arms, 0 or more, not all 0.
    `holdout`: the share of its units that are left alone.
    """

    __slots__ = ("arms", "begin", "drawn", "first", "held", "hold", "holdout", "layer", "place", "salt", "weights")

    def __init__(
        self,
        salt: str,
        arms: Sequence[str],
        weights: Sequence[float],
        *,
        layer: str | None = None,
        begin: float = 0.0,
        holdout: float = 0.0,
    ) -> None:
        self.salt, self.arms, self.weights, self.layer = salt, tuple(arms), tuple(weights), layer
        self.begin, self.holdout = begin, holdout
        self.place = seed("layer", layer) if layer is not None else seed("share", salt)
        self.first = int(begin * ALL)
        self.hold, self.held = seed("holdout", salt), int(holdout * ALL)
        # (its place in the list, its seed, less its weight): an arm without weight draws nothing
        self.drawn = tuple((i, seed("arm", salt, arm), -w) for i, (arm, w) in enumerate(zip(arms, weights, strict=True)) if w > 0)
        if not self.drawn:
            raise ValueError("no arm has a weight")

    def weigh(self, weights: Sequence[float]) -> Split:
        """The same with other weights."""
        return Split(self.salt, self.arms, weights, layer=self.layer, begin=self.begin, holdout=self.holdout)

    def end(self, share: float) -> int:
        """Where the slice ends while this share of the layer takes part; for `arm`."""
        return int((self.begin + share) * ALL)

    def arm(self, unit: int, end: int) -> int:
        """The place of the unit's arm in the list, OUT or HELD. `unit`: 64 bits. Who takes part before one end does so before every later
        one, in the same arm."""
        key = unit.to_bytes(8, "little")
        if (end < ALL or self.first) and not self.first <= xxh3_64_intdigest(key, self.place) < end:
            return OUT
        if self.held and xxh3_64_intdigest(key, self.hold) < self.held:
            return HELD
        best, found = -1.0, 0
        for place, mine, less in self.drawn:
            score = less / log(((xxh3_64_intdigest(key, mine) >> 12) + 0.5) / _BITS)  # between 0 and 1, never one of them
            if score > best:
                best, found = score, place
        return found
