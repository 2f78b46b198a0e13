"""Measurements that a hypervisor spoiled are taken again: what a virtual machine's neighbours do is no property of a server or client.

What is kept is chosen by the time that was taken from the machine alone, never by what was measured.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from benchmarks.bench.health import stolen

T = TypeVar("T")
CALM = 0.01  # of a core taken from the whole machine: less does not show
TRIES = 3


class Calm:
    """Takes measurements, each up to three times until less than a hundredth of a core was taken from the machine meanwhile; the calmest
    counts. Counts those that were taken again, and those that were never calm. `stop`: whether to end with what there is."""

    def __init__(self, stop: Callable[[], bool] = lambda: False, taken: Callable[[], float] = stolen) -> None:
        self._stop, self._taken = stop, taken
        self.again = self.never = 0
        self.worst = 0.0  # share of a core that was taken during what counts, at most

    async def measure(self, once: Callable[[], Awaitable[T]]) -> T:
        """What `once` gives, of the calmest try. Raises what it raises."""
        share, kept = await self._try(once)
        for _ in range(TRIES - 1):
            if share < CALM or self._stop():
                break
            self.again += 1
            other, found = await self._try(once)
            if self._stop():
                break  # it is not whole
            if other < share:
                share, kept = other, found
        self.never += share >= CALM
        self.worst = max(self.worst, share)
        return kept

    async def _try(self, once: Callable[[], Awaitable[T]]) -> tuple[float, T]:
        before, began = self._taken(), time.monotonic()
        found = await once()
        return (self._taken() - before) / max(1e-9, time.monotonic() - began), found

    def words(self) -> str:
        """What was taken again, in a sentence; nothing where all was calm."""
        if not self.again:
            return ""
        rest = f"; {self.never} never had a calm try, the worst of them lost {self.worst:.1%} of a core" if self.never else ""
        return f"{self.again} measurements were taken again, since the hypervisor kept {CALM:.0%} of a core or more meanwhile{rest}."
