"""How a run goes, on the terminal while it runs: one live line, and one that stays for each stage."""

from __future__ import annotations

import shutil
import time
from collections import deque
from collections.abc import Callable
from typing import TextIO

from benchmarks.bench.texts import brief, count, cut, duration, option, sane, visible
from benchmarks.bench.words import Figures, Profile, Sample, Stage

_ANEW = "\r\x1b[K"  # to the line's start, and the rest of it cleared
_RECENT = 5  # samples, so seconds, that the current rate is of


class Progress:
    """The live line of a run and its owner's only state. Writes to `stream`; nothing blocks longer than that takes.

    Where `stream` is no terminal, only what a stage came to is written, a line each. A stream that is gone ends the writing, not the run.
    """

    def __init__(self, stream: TextIO, *, clock: Callable[[], float] = time.monotonic, width: Callable[[], int] | None = None) -> None:
        self._stream = stream
        self._clock = clock
        self._width = width or (lambda: shutil.get_terminal_size().columns)
        self._live = stream.isatty()
        self._name = ""
        self._begun = 0.0
        self._recent: deque[Sample] = deque(maxlen=_RECENT + 1)
        self._first: float | None = None
        self._gone = False

    def say(self, text: str) -> None:
        """What is done now, before the measuring."""
        if self._live:
            self._draw(text)

    def begin(self, profile: Profile, repeat: int) -> None:
        """A stage begins."""
        self._name = f"{option(profile)}, repeat {repeat + 1}"
        self._begun = self._clock()
        self._recent.clear()
        self._first = None
        if self._live:
            self._draw(f"{self._name}: begins")

    def sample(self, sample: Sample) -> None:
        """Once a second of a stage: elapsed, done, under way, failed, the current rate, the last second's median TTFT."""
        self._recent.append(sample)
        self._first = sample.first if sane(sample.first) is not None else self._first
        if self._live:
            self._draw(self._line(sample))

    def _line(self, sample: Sample) -> str:
        old = self._recent[0] if len(self._recent) > 1 else Sample(0.0, 0)  # of the first sample: since the stage began
        rate = (sample.done - old.done) / (sample.at - old.at) if sample.at > old.at else 0.0
        parts = [
            f"{self._name}: {self._clock() - self._begun:.0f} s",
            f"{count(sample.done)} done",
            f"{count(sample.under_way)} under way",
            f"{count(sample.failed)} failed",
            f"{brief(rate)}/s",
            f"TTFT {duration(self._first)}",
        ]
        return ", ".join(parts)

    def end(self, stage: Stage, found: Figures) -> None:
        """A stage has ended: the line that stays."""
        rest = f", ended early: {stage.cut}" if stage.cut else ""
        self._write(
            f"{option(stage.profile)}, repeat {stage.repeat + 1}: {count(found.good)} answered, {count(found.failed)} failed in "
            f"{duration(found.seconds)}, {brief(found.request_rate)}/s, TTFT p50 {duration(found.ttft.p50)}, "
            f"E2E p50 {duration(found.e2e.p50)}{rest}",
            "\n",
        )

    def close(self) -> None:
        """Clears the live line. May be called again."""
        if self._live:
            self._put(_ANEW)

    def _draw(self, text: str) -> None:
        self._write(cut(visible(text), max(10, self._width() - 1)))

    def _write(self, text: str, end: str = "") -> None:
        self._put(f"{_ANEW if self._live else ''}{visible(text)}{end}")

    def _put(self, text: str) -> None:
        if self._gone:
            return
        try:
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError):  # a pipe whose reader has left, a stream that was closed
            self._gone = True
