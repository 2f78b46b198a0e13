"""A `Sink` around a client's own, for requests of experiments of which more than a look at the answer is wanted: those in another dialect
than chat, whose ids are their own, and those whose answer must fit a schema. All passes on at once."""

from __future__ import annotations

import weakref
from collections import deque
from typing import TYPE_CHECKING

from gateway.experiments.ended import HEAD, TAIL, Whole, short
from gateway.sink import Sink

if TYPE_CHECKING:
    from gateway.experiments.entry import Entry

LARGEST = 1024 * 1024  # bytes of an answer that is judged
MOST = 64 * 1024 * 1024  # bytes of such answers that may wait to be judged, in a process


class Purse:
    """How many bytes of answers wait to be judged. Given back by whatever thread lets go of them, counted on the loop."""

    __slots__ = ("back", "used")

    def __init__(self) -> None:
        self.used = 0
        self.back: deque[int] = deque()

    def take(self, size: int, for_: Whole) -> bool:
        """Room for an answer until nobody holds it any more; False where there is none."""
        while self.back:
            self.used -= self.back.popleft()
        if self.used + size > MOST:
            return False
        self.used += size
        weakref.finalize(for_, self.back.append, size).atexit = False
        return True


class Tap:
    """See the module. Owned by its exchange. `entry` is told at the end, when all has been passed on."""

    raw = None  # all must pass here
    __slots__ = ("begun", "entry", "head", "inner", "last", "size", "whole")

    def __init__(self, inner: Sink, entry: Entry) -> None:
        self.inner, self.entry = inner, entry
        self.whole: Whole | None = None  # to be filled, where the answer must fit a schema
        self.head = self.last = b""
        self.size = 0
        self.begun = False

    # --- Sink
    def respond(self, status: int, lines: bytes, body: bytes) -> None:
        self.inner.respond(status, lines, body)
        self._keep(body)
        self._over(short(body))

    def begin(self, status: int, lines: bytes, first: bytes) -> None:
        self.inner.begin(status, lines, first)
        self._keep(first)

    def send(self, data: bytes) -> None:
        self.inner.send(data)
        self._keep(data)

    def finish(self, last: bytes) -> None:
        self.inner.finish(last)
        self._keep(last)
        self._over(b"%b\n%b" % (self.head, self.last))

    def break_off(self) -> None:
        self.inner.break_off()

    # --- within
    def _keep(self, data: bytes) -> None:
        if not data or data[:1] == b":":  # a comment
            return
        if not self.begun:
            self.begun, self.head = True, data[:HEAD]
        self.last = (self.last + data)[-TAIL:]
        if self.whole is not None:
            self.size += len(data)
            if self.size <= LARGEST:
                self.whole.parts.append(data)
            else:
                self.whole = None

    def _over(self, answer: bytes) -> None:
        self.entry.told(answer, self.whole, self.size)
