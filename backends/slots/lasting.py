"""The part of a store that outlives the gateway, as the event loop sees it: one thread over `disk`, and what is worth a file there."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar

from backends.slots.disk import Card, Disk, Put
from backends.slots.table import Speed, nearest

log = logging.getLogger("pointsman.slots")
MAX_PENDING = 4  # files that wait to be written; what comes meanwhile is not kept
T = TypeVar("T")


class Known(Protocol):
    """What must be known of KV in the store. `card`: that of its file on disk; `asked`: it is about to have one."""

    text: bytes
    tokens: int
    size: int
    near: bool
    private: bool
    asked: bool
    card: Card | None


class Lasting:
    """All but `_timed` belongs to the event loop. `context`: tokens a slot of the engine that runs; files of another are not for it."""

    def __init__(self, disk: Disk, of: bytes, private: bool) -> None:
        """`private`: whether what private calls said may be written to disk."""
        self.disk, self.of, self.private = disk, of.hex(), private
        self.context = self.pending = self.failed = 0
        self.thread = ThreadPoolExecutor(1, "kv-disk")
        self.learned: Card | None = None  # by an earlier process

    def wants(self, entries: Iterable[Known], text: bytes, private: bool, speed: Speed) -> bool:
        """Whether KV of `text` should have a file: files hold little of it, computing it takes long, and it is nobody's secret."""
        if (private and not self.private) or self.pending >= MAX_PENDING:
            return False
        if speed.bytes(len(text), self.disk.budget) > self.disk.budget:
            return False
        held = nearest((entry for entry in entries if entry.card is not None or entry.asked), text, speed.ratio)[1]
        return speed.lasts(len(text), held)

    async def put(self, file: Path, name: str, entry: Known, entries: Iterable[Known], speed: Speed) -> Put | None:
        """Writes `file`, which `entry` is of. None: that failed."""
        known = {other.card.key: other for other in entries if other.card is not None}
        shorter = [key for key, other in known.items() if other is not entry and entry.text.startswith(other.text)]
        card = Card(
            name, self.of, self.context, entry.tokens, entry.size, entry.text,
            entry.tokens * speed.prefill, speed.prefill, speed.ratio, speed.density,
        )  # fmt: skip
        self.pending += 1
        try:
            done, seconds = await self._do(partial(self.disk.put, file, card, shorter, frozenset(known), time.time()))
        except (OSError, RuntimeError) as error:  # RuntimeError: it is closed
            self.failed += 1
            log.warning("KV could not be kept on disk: %s", getattr(error, "strerror", None) or error)
            return None
        finally:
            self.pending -= 1
        if done.card is not None:
            speed.moved("keep", seconds, card.size)
        return done

    async def fetch(self, card: Card, target: Path, speed: Speed | None) -> bool | None:
        """Brings a file to `target`. False: it is not there, or not as it was written; None: it could not be brought."""
        try:
            good, seconds = await self._do(partial(self.disk.fetch, card, target, time.time()))
        except (OSError, RuntimeError) as error:
            log.warning("KV on disk could not be read: %s", getattr(error, "strerror", None) or error)
            return None
        if good and speed is not None:
            speed.moved("fetch", seconds, card.size)
        self.failed += not good
        return good

    async def _do(self, work: Callable[[], T]) -> tuple[T, float]:
        return await asyncio.get_running_loop().run_in_executor(self.thread, _timed, work)

    async def remove(self, card: Card) -> None:
        """Forgets a file."""
        with contextlib.suppress(RuntimeError):
            await self._do(partial(self.disk.remove, card))

    def close(self) -> None:
        """Blocks until what was to be written is written."""
        self.thread.shutdown(wait=True)


def _timed(work: Callable[[], T]) -> tuple[T, float]:
    began = time.monotonic()
    return work(), time.monotonic() - began
