"""Callbacks at times that are met to some tens of microseconds: event loops count milliseconds, and what they pace has a beat of its own.

On Linux by timerfd_create(2), which Python has from 3.13 on, so through ctypes; elsewhere by the loop's own timers.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import heapq
import itertools
import os
import sys
import time
from collections.abc import Callable

_MONOTONIC, _ABSOLUTE = 1, 1  # CLOCK_MONOTONIC, TFD_TIMER_ABSTIME
_FLAGS = os.O_NONBLOCK | os.O_CLOEXEC  # TFD_NONBLOCK and TFD_CLOEXEC are the same numbers


class _Spec(ctypes.Structure):
    """struct itimerspec: interval and value, each seconds and nanoseconds."""

    _fields_ = [(name, ctypes.c_long) for name in ("every_s", "every_ns", "at_s", "at_ns")]


class Handle:
    """One callback to come; `cancel` it."""

    __slots__ = ("callback",)

    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        """It will not be called. Idempotent."""
        self.callback = None


class Alarm:
    """Calls back on the running loop. Owned by it; `close` gives the descriptor back and calls nothing any more."""

    def __init__(self, precise: bool = sys.platform == "linux") -> None:
        """Raises OSError where the kernel has no timer for us."""
        self._loop = asyncio.get_running_loop()
        self._due: list[tuple[float, int, Handle]] = []
        self._order = itertools.count()
        self._timer: asyncio.TimerHandle | None = None
        self._file = -1
        if precise:
            self._libc = ctypes.CDLL(None, use_errno=True)
            self._file = self._libc.timerfd_create(_MONOTONIC, _FLAGS)
            if self._file < 0:
                raise OSError(ctypes.get_errno(), "timerfd_create")
            self._loop.add_reader(self._file, self._rang)

    def at(self, when: float, callback: Callable[[], None]) -> Handle:
        """Calls back when `time.monotonic()` is `when`, or soon where that has passed."""
        handle = Handle(callback)
        heapq.heappush(self._due, (when, next(self._order), handle))
        if self._due[0][2] is handle:
            self._set(when)
        return handle

    def close(self) -> None:
        """Ends it. Idempotent."""
        self._due.clear()
        if self._timer is not None:
            self._timer.cancel()
        if self._file >= 0:
            self._loop.remove_reader(self._file)
            os.close(self._file)
            self._file = -1

    def _set(self, when: float) -> None:
        if self._file < 0:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self._loop.call_later(max(0.0, when - time.monotonic()), self._ring)
            return
        nanoseconds = max(1, int(when * 1e9))  # 0 would disarm it
        spec = _Spec(0, 0, *divmod(nanoseconds, 1_000_000_000))
        if self._libc.timerfd_settime(self._file, _ABSOLUTE, ctypes.byref(spec), None):
            raise OSError(ctypes.get_errno(), "timerfd_settime")

    def _rang(self) -> None:
        with contextlib.suppress(BlockingIOError):  # it was set anew meanwhile
            os.read(self._file, 8)
        self._ring()

    def _ring(self) -> None:
        now = time.monotonic()
        try:
            while self._due and self._due[0][0] <= now:
                callback = heapq.heappop(self._due)[2].callback
                if callback is not None:
                    callback()
        finally:
            if self._due:
                self._set(self._due[0][0])
