"""What was learned of how long a route takes to begin: a bounded memory of the last answers, and a percentile of it. No clock."""

from __future__ import annotations

KEPT = 256  # answers remembered
FEWEST = 20  # before so many are known nothing is said
FRESH = 16  # answers between two looks


class Latency:
    """Seconds to the first content of the last answers. Owned by one route; mutated by `add` alone."""

    __slots__ = ("_at", "_p95", "_seconds", "_since")

    def __init__(self) -> None:
        self._seconds: list[float] = []
        self._at = 0
        self._since = 0
        self._p95: float | None = None

    def add(self, seconds: float) -> None:
        """Remembers one answer; the oldest goes when there are too many."""
        if len(self._seconds) < KEPT:
            self._seconds.append(seconds)
        else:
            self._seconds[self._at] = seconds
            self._at = (self._at + 1) % KEPT
        self._since += 1

    @property
    def p95(self) -> float | None:
        """The 95th percentile in seconds, at most `FRESH` answers old; None while too few are known."""
        if len(self._seconds) < FEWEST:
            return None
        if self._p95 is None or self._since >= FRESH:
            self._since = 0
            self._p95 = sorted(self._seconds)[(len(self._seconds) * 95) // 100]
        return self._p95
