"""From first tokens to observations of the prefill model. Plain state, no clock.

First tokens of one engine step come together: their work is one observation. How many tokens were cached is mostly told only when the
answer is over; until then the prediction stands for it, and what was learned is corrected when the truth comes. A time that only a wrong
prediction can explain waits for the truth instead.
"""

from __future__ import annotations

from routing.kv_load import Booking
from routing.kv_model import Features, PrefillModel, Receipt, features

TOGETHER = 0.002  # seconds between two first tokens of one step, at most
ENOUGH, SPARSE = 256, 0.02  # observations of a replica after which those within so many seconds of the last say nothing new
DOUBT = 3.0  # a time so many times longer or shorter than predicted is not learned before the cached tokens are told


class Group:
    """The first tokens of one step: when, their work summed, and the seconds it took; `receipt` once the model has learned it."""

    __slots__ = ("receipt", "replica", "seconds", "t", "work")

    def __init__(self, replica: int, t: float, work: Features, seconds: float) -> None:
        self.replica, self.t, self.work, self.seconds = replica, t, work, seconds
        self.receipt: Receipt | None = None


class Pending:
    """What one answer brought to the model: its share of a group's work, or, in doubt, the seconds that wait for the truth."""

    __slots__ = ("group", "seconds", "work")

    def __init__(self, group: Group | None, work: Features, seconds: float) -> None:
        self.group, self.work, self.seconds = group, work, seconds


class Observer:
    """Feeds one PrefillModel. Holds one group a replica; what else waits hangs on the bookings and ends with them."""

    __slots__ = ("_groups", "_learned", "model")

    def __init__(self, model: PrefillModel) -> None:
        self.model = model
        self._groups: dict[int, Group] = {}
        self._learned: dict[int, tuple[int, float]] = {}  # of a replica: how many observations, when the last began

    def first(self, b: Booking, seconds: float) -> None:
        """A first token came after `seconds` of service; `b.told` is what the engine said of its cache by now, if anything."""
        group = self._groups.get(b.replica)
        count, last = self._learned.get(b.replica, (0, 0.0))
        alone = group is None or b.first - group.t > TOGETHER
        if alone and count >= ENOUGH and 0.0 <= b.first - last < SPARSE:
            return
        known = b.cached if b.told is None else b.told
        work, seconds = features(b.tokens - known, known), seconds - b.load
        if b.told is None and self._doubtful(b, work, seconds):
            b.pending = Pending(None, work, seconds)
            return
        if group is not None and not alone:
            group.work = _sum(group.work, work)
        else:
            if group is not None:
                group.receipt = self.model.learn(b.replica, group.work, group.seconds)
            group = self._groups[b.replica] = Group(b.replica, b.first, work, seconds)
            self._learned[b.replica] = count + 1, b.first
        if b.told is None:
            b.pending = Pending(group, work, seconds)

    def over(self, b: Booking, here: bool) -> None:
        """An answer is over; `b.told` is the last word on its cache. `here`: its replica is still the engine it was."""
        pending, b.pending = b.pending, None
        if pending is None or not here:
            return
        work = pending.work if b.told is None else features(b.tokens - b.told, b.told)
        group = pending.group
        if group is None:
            self.model.learn(b.replica, work, pending.seconds)
        elif work != pending.work:
            group.work = _sum(group.work, (1.0, work[1] - pending.work[1], work[2] - pending.work[2]))
            if group.receipt is not None:
                self.model.correct(group.receipt, group.work)

    def forget(self, replica: int) -> None:
        """Another machine may stand there now."""
        self._groups.pop(replica, None)
        self._learned.pop(replica, None)

    def _doubtful(self, b: Booking, work: Features, seconds: float) -> bool:
        """Whether more or less in the cache than predicted may be why the time is far off."""
        b_ = self.model.b
        told = self.model.speed[b.replica] * (b_[0] * work[0] + b_[1] * work[1] + b_[2] * work[2])
        return (seconds > DOUBT * told and b.cached > 0) or (seconds * DOUBT < told and bool(b.blocks))


def _sum(a: Features, b: Features) -> Features:
    """Together in one step: the fixed part is there once."""
    return (a[0], a[1] + b[1], a[2] + b[2])
