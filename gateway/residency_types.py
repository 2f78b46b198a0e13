"""What residency is decided over: rules, models, actions, and all that is known of one model. Plain state, no clock."""

from __future__ import annotations

import math
from typing import Literal

import msgspec

State = Literal["absent", "loading", "resident", "closing", "stopping", "refused", "failed"]
Does = Literal["load", "close", "open", "stop", "refuse", "allow"]
HELD = frozenset({"loading", "resident", "closing", "stopping"})  # states that take memory
FADE_SECONDS = 600.0  # after so long a use counts 1/e
READ_RATE = 1e9  # bytes/s at which a model is guessed to load before it has been loaded once


class Rules(msgspec.Struct, frozen=True):
    """Seconds and counts. `least`, `most`: bounds of how long a model that was just loaded stays, which is as long as its load took.
    `patience`: how long the first in the queue waits for models to fall idle before one is drained. `loads`: at once. `rest`: before
    a model that cannot be loaded is tried again."""

    least: float = 2.0
    most: float = 30.0
    patience: float = 5.0
    loads: int = 2
    rest: float = 30.0


class Model(msgspec.Struct, frozen=True):
    """One engine as configuration has it. `bytes`: what all its replicas will take. `idle`: seconds without a call until it goes, None:
    it goes only for room. `start`: loaded without a call. `plain`: always there and never stopped by us."""

    name: str
    bytes: int
    idle: float | None = None
    pinned: bool = False
    start: bool = False
    plain: bool = False


class Action(msgspec.Struct, frozen=True):
    """What is to be done now. `why`: for people, where there is something to say."""

    does: Does
    name: str
    why: str = ""


class Entry:
    """All that is known of one model. Changed by `Residency` alone; everybody may read it."""

    def __init__(self, model: Model, now: float) -> None:
        self.model = model
        self.state: State = "absent"
        self.since = self.asked = now  # of the state; since when it could have been wanted
        self.ready_at = self.used = now
        self.waiting = self.busy = self.loads = 0
        self.wait_since = now
        self.peak = self.seen = 0  # bytes: the largest that was measured, and the last
        self.load_seconds: float | None = None  # learned
        self.keep: float | None = None  # seconds of idleness that a request asked for, in place of the model's own
        self.ordered = model.start or model.plain  # to be loaded although no call waits
        self.leaving = self.drain = self.acked = self.restarting = self.removed = self.outdated = False
        self.for_whom = ""  # whose room it is drained for
        self.reason = ""
        self._uses, self._counted_at = 0.0, now

    def __repr__(self) -> str:
        return f"<{self.model.name} {self.state} busy={self.busy} waiting={self.waiting} {self.bytes} B>"

    @property
    def bytes(self) -> int:
        """What it takes: prediction or measure, whichever is larger. KV pages are touched only as prompts fill them, so what an engine
        holds just after its load is the least that it will ever hold."""
        return max(self.model.bytes, self.peak)

    @property
    def reload(self) -> float:
        """Seconds that a load takes: learned, or guessed from its size."""
        return self.load_seconds if self.load_seconds is not None else 1.0 + self.bytes / READ_RATE

    @property
    def wanted(self) -> bool:
        return self.waiting > 0 or self.ordered

    @property
    def turn(self) -> float:
        """Since when it queues for memory. A model that had its turn queues anew, whatever its calls have waited."""
        return self.asked if self.ordered else max(self.wait_since, self.asked)

    @property
    def patient(self) -> float | None:
        """Seconds without a call after which it is unloaded; None: never for that."""
        if self.model.pinned or self.model.plain:
            return None
        return self.model.idle if self.keep is None else (None if math.isinf(self.keep) else self.keep)

    def until(self) -> float | None:
        """When it will be unloaded if nobody calls (monotonic seconds); None: not by time, or not now."""
        seconds = self.patient
        if self.state != "resident" or seconds is None or self.busy or self.waiting:
            return None
        return max(self.used, self.ready_at) + seconds

    def use(self, calls: int, now: float) -> None:
        """Counts calls, of which older ones fade."""
        self._uses = self._uses * math.exp(-(now - self._counted_at) / FADE_SECONDS) + calls
        self._counted_at = now

    def worth(self, now: float) -> float:
        """Seconds that its absence is expected to cost, for each byte that it takes."""
        uses = self._uses * math.exp(-(now - self._counted_at) / FADE_SECONDS)
        return self.reload * (uses + 1e-6) / max(1, self.bytes)

    def become(self, state: State, now: float, reason: str = "") -> None:
        """Enters a state."""
        self.state, self.since, self.reason = state, now, reason
        if state != "closing":
            self.drain = self.acked = False
            self.for_whom = ""
        if state in ("absent", "failed"):
            self.asked, self.keep, self.leaving, self.restarting = now, None, False, False
            self.seen = 0
            if self.outdated:
                self.outdated, self.peak, self.load_seconds = False, 0, None


def size(count: int) -> str:
    """Bytes for people."""
    amount, unit = float(count), "B"
    for larger in ("KiB", "MiB", "GiB"):
        if amount < 1024:
            break
        amount, unit = amount / 1024, larger
    return f"{amount:.0f} {unit}" if unit in ("B", "KiB") or amount >= 100 else f"{amount:.1f} {unit}"
