"""What the fake engine does with one request: bytes, gates that a test opens, and how it ends.

A `Script` is data. Nothing here sleeps: pacing is a `Gate`, which the engine waits at until the test lets it through.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

Ending = Literal["keep", "fin", "rst", "stall", "half", "stale"]


class Gate:
    """Where a script waits for the test. `reached` is set when an engine waits here; `open` may be called from any thread."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self._lock = threading.Lock()
        self._permits = 0
        self._forever = False
        self._waiters: list[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = []

    def open(self, times: int | None = None) -> None:
        """Lets `times` arrivals through (None: this and every later one). Never blocks."""
        with self._lock:
            self._forever = self._forever or times is None
            self._permits += times or 0
            while self._waiters and self._take():
                loop, waiter = self._waiters.pop(0)
                loop.call_soon_threadsafe(wake, waiter)

    def _take(self) -> bool:
        if self._forever:
            return True
        self._permits -= 1 if self._permits else 0
        return self._permits >= 0

    async def wait(self) -> None:
        """Returns once the test has opened the gate for this arrival."""
        with self._lock:
            if self._forever:
                return
            if self._permits:
                self._permits -= 1
                return
            loop = asyncio.get_running_loop()
            waiter: asyncio.Future[None] = loop.create_future()
            self._waiters.append((loop, waiter))
        self.reached.set()
        await waiter


def wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


Step = bytes | Gate


@dataclass(frozen=True)
class Script:
    """One answer. `steps` are written in order, each a write of its own.

    ending: keep (the connection stays open), fin (orderly close), rst (reset), stall (nothing more is sent, the
    connection stays open until the peer leaves), half (our sending side is closed, we go on reading), stale (kept
    open, but dropped at the first byte of the next request).
    cut: stop after exactly that many raw bytes, then end (a cut with `keep` ends with fin).
    piece: bytes a write (0: as the steps are).
    early: answer when the head of the request has come, without waiting for its body.
    """

    steps: tuple[Step, ...]
    ending: Ending = "keep"
    cut: int | None = None
    piece: int = 0
    early: bool = False

    @property
    def raw(self) -> bytes:
        """All bytes of the answer, gates left out."""
        return b"".join(step for step in self.steps if isinstance(step, bytes))

    def but(self, *, ending: Ending | None = None, cut: int | None = None, piece: int | None = None) -> Script:
        """A copy with other delivery."""
        return replace(
            self,
            ending=self.ending if ending is None else ending,
            cut=self.cut if cut is None else cut,
            piece=self.piece if piece is None else piece,
        )

    def delivery(self) -> Iterator[Step]:
        """The writes and gates in order, cut and split as asked."""
        left = len(self.raw) if self.cut is None else self.cut
        for step in self.steps:
            if isinstance(step, Gate):
                if left or self.cut is None:
                    yield step
                continue
            part, left = step[:left], left - len(step[:left])
            yield from pieces(part, self.piece)

    @property
    def finally_(self) -> Ending:
        """The ending that is really done: a cut answer cannot keep its connection."""
        return "fin" if self.cut is not None and self.ending in ("keep", "stale") else self.ending


def pieces(data: bytes, size: int) -> Iterator[bytes]:
    """`data` in parts of `size` bytes; in one part when size is 0."""
    if data:
        yield from (data[at : at + size] for at in range(0, len(data), size)) if size else (data,)


def script(*steps: Step | Iterable[Step], ending: Ending = "keep", cut: int | None = None, piece: int = 0, early: bool = False) -> Script:
    """A Script of steps, which may be given as (nested) iterables."""
    flat: list[Step] = []
    for step in steps:
        if isinstance(step, bytes | Gate):
            flat.append(step)
        else:
            flat.extend(step)
    return Script(tuple(flat), ending, cut, piece, early)
