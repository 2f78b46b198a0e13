"""What the long commands of `pointsman quant` share: errors for the user, a line of progress on a terminal, an end by a signal, JSON."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import msgspec

REDRAW_SECONDS = 0.1
_BAR = 24  # characters


class QuantError(Exception):
    """It cannot be done; the text is for the user. `usage`: it was asked for wrongly."""

    def __init__(self, text: str, *, usage: bool = False) -> None:
        super().__init__(text)
        self.usage = usage


@contextmanager
def terminable() -> Iterator[None]:
    """Lets an end by SIGTERM take the same way out as every other: the unfinished file is removed."""

    def end(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class Progress:
    """A bar on a terminal; nothing elsewhere. A context, which clears its line."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._drawn, self._shown = clock, -REDRAW_SECONDS, sys.stderr.isatty()

    def __enter__(self) -> Progress:
        return self

    def __call__(self, name: str, done: int, total: int) -> None:
        now = self._clock()
        if self._shown and (now - self._drawn >= REDRAW_SECONDS or done >= total):
            self._drawn = now
            sys.stderr.write(f"\r{bar(name, done, total)}\x1b[K")
            sys.stderr.flush()

    def __exit__(self, *_: object) -> None:
        if self._shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


def bar(name: str, done: int, total: int) -> str:
    """One line of progress. Pure."""
    share = min(done / total, 1.0) if total > 0 else 1.0
    full = round(share * _BAR)
    return f"[{'#' * full}{'.' * (_BAR - full)}] {share:4.0%} {name[:40]}"


def as_json(report: msgspec.Struct) -> str:
    """The report as one JSON document, sizes in bytes."""
    import msgspec

    return msgspec.json.format(msgspec.json.encode(report), indent=2).decode() + "\n"
