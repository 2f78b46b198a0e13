"""What to do after an engine has ended: pure decisions on plain numbers, no clock and no process in here."""

from __future__ import annotations

from collections import deque
from typing import Literal

import msgspec

Ending = Literal["crashed", "hung", "late", "unusable", "port"]

WINDOW = 300.0  # seconds in which crashes are counted
CRASHES = 5  # in the window: then the engine counts as failed
NEVER_READY = 3  # such starts in a row: then too
PORTS = 5  # other ports tried before a taken port counts as a crash
SLOW = (60.0, 120.0, 300.0, 600.0)  # seconds between tries of a failed engine


class Verdict(msgspec.Struct, frozen=True):
    """`failed`: say so and try again only after `delay`. `delay` None: never by ourselves."""

    failed: bool
    delay: float | None


class Breaker:
    """Remembers the endings of one engine. Times are monotonic seconds that the caller passes in."""

    def __init__(self) -> None:
        self._crashes: deque[float] = deque(maxlen=CRASHES)
        self._unready = 0
        self._ports = 0
        self._failures = 0

    def ready(self) -> None:
        """The engine was ready in this start."""
        self._unready = self._ports = 0

    def reset(self) -> None:
        """Somebody asked for a fresh try."""
        self._crashes.clear()
        self._unready = self._ports = self._failures = 0

    def ended(self, ending: Ending, was_ready: bool, now: float) -> Verdict:
        """1. unusable: no further try; 2. port taken: at once on another; 3. else restart, the first time at once, then after
        0.5, 1, 2 s; 4. too often, or never ready: failed, slow tries."""
        if ending == "unusable":
            return Verdict(True, None)
        if ending == "port" and self._ports < PORTS:
            self._ports += 1
            return Verdict(False, 0.0)
        if not was_ready:
            self._unready += 1
        while self._crashes and self._crashes[0] < now - WINDOW:
            self._crashes.popleft()
        self._crashes.append(now)
        count = len(self._crashes)
        if count >= CRASHES or self._unready >= NEVER_READY:
            delay = SLOW[min(self._failures, len(SLOW) - 1)]
            self._failures += 1
            return Verdict(True, delay)
        if count == 1:
            self._failures = 0
        return Verdict(False, 0.0 if count == 1 else 0.25 * 2 ** (count - 1))


def hung(strikes: int, busy_strikes: int) -> bool:
    """Whether an engine that did not answer its health probe `strikes` times in a row, `busy_strikes` of them while it was
    computing, is given up. A busy engine is only slow, for a long time."""
    return strikes - busy_strikes >= 3 or strikes >= 60
