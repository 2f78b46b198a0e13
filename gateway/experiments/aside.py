"""Work that no lock waits for, done with what others leave of the processor."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, TypeVar

T = TypeVar("T")
NICE = 19


class Aside(Protocol):
    """Who does what is given, before it returns what that returns, or raises what that raises."""

    def __call__(self, do: Callable[[], T]) -> T: ...


def here(do: Callable[[], T]) -> T:
    """Done at once, by who asks."""
    return do()


class Spare:
    """A thread for work that takes long and that nobody waits for. On Linux whoever wakes up on its core goes on at once, where beside a
    thread that has the highest nice value alone a request may wait for milliseconds.

    Not for what holds a lock, on a file for instance: on a core that is full others would wait for it for seconds."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, "spare", initializer=give_way)

    def __call__(self, do: Callable[[], Any]) -> Any:
        return self._pool.submit(do).result()


def give_way() -> None:
    """Lets this thread have what others leave of the processor, and hardly more. There is no way back."""
    if hasattr(os, "SCHED_IDLE"):
        with contextlib.suppress(OSError):  # a sandbox may forbid it
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
