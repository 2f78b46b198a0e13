"""How many requests at once an engine of unknown capacity bears, learned from how much slower it gets. Plain state, no clock.

The gradient of Netflix's concurrency-limits (its `Gradient2`), which goes back to TCP Vegas: while answers take no longer than TOLERANCE
times what they take alone, the limit grows by a little headroom; beyond, it shrinks in proportion. It moves only on answers that came while
at least half of it was used, since others say nothing about it.
"""

from __future__ import annotations

from math import sqrt

TOLERANCE = 2.0  # so many times slower than alone is no sign of overload: batches pay
SMOOTH = 0.2  # share of the way that one answer moves the limit
STEEPEST = 0.5  # of itself that the limit falls to by one answer, before smoothing
DRIFT = 0.05  # share of the way that an answer which had the engine nearly alone moves the pace alone: engines change


class LearnedLimit:
    """One replica's limit, between `least` and `most` requests. Both methods that learn are O(1)."""

    __slots__ = ("_alone", "_limit", "least", "most")

    def __init__(self, start: int = 4, least: int = 1, most: int = 1024) -> None:
        if not 0 < least <= start <= most:
            raise ValueError(f"a learned limit begins between its least (at least 1) and its most, not at {start} ({least} to {most})")
        self.least, self.most = least, most
        self._limit = float(start)
        self._alone: float | None = None  # seconds between two tokens at its best

    @property
    def current(self) -> int:
        """Requests at once."""
        return int(self._limit + 1e-9)

    def calm(self, inflight: int) -> bool:
        """Whether so few requests say nothing about the limit."""
        return inflight <= max(1.0, self._limit / 2)

    def first(self, inflight: int, seconds: float, predicted: float) -> None:
        """A first token came after `seconds`, where its prefill and what was before it should have taken `predicted`."""
        if predicted > 0.0:
            self._move(inflight, seconds / predicted)

    def finished(self, inflight: int, pace: float) -> None:
        """An answer was written at `pace` seconds a token while `inflight` requests were there."""
        pace = max(pace, 1e-6)
        if self._alone is None:
            self._alone = pace
        elif pace < self._alone or self.calm(inflight):
            self._alone += (1.0 if pace < self._alone else DRIFT) * (pace - self._alone)
        self._move(inflight, pace / self._alone)

    def _move(self, inflight: int, slower: float) -> None:
        if inflight < self._limit / 2:
            return
        gradient = min(1.0, max(STEEPEST, TOLERANCE / max(slower, 1e-9)))
        aim = self._limit * gradient + max(1.0, sqrt(self._limit) / 2)
        self._limit = min(float(self.most), max(float(self.least), self._limit + SMOOTH * (aim - self._limit)))
