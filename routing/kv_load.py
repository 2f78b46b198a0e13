"""What replicas are busy with, from the life of each request rather than from polled metrics. Plain state, no clock.

A booking belongs to a request and ends with it, however it ends; no health check, reload or metric ever touches one.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from routing.kv_observe import Pending
    from routing.kv_want import Want

KEEP = 0.9  # share of the old mean that a new answer leaves
PROVEN = 2  # answers after which predictions are of this machine
MOST = 0.95  # of its prefill is taken to be over, at most, of a request that was not answered yet
LATE_SECONDS = 0.05  # that any first token may be late by
WRITING_SECONDS = 10.0  # of an answer from its first token to its end, until some have shown it


class Booking(msgspec.Struct, eq=False):
    """One request on one replica: `prefill` predicted seconds, `tokens` of prompt, `cached` predicted of them, dispatched at `at`.

    `want`: the request itself where it is ours; `first`: when its first token came; `load`: the part of `prefill` that loads `tier` tokens
    from a slower tier; `ahead`: predicted seconds from dispatch to first token; `charged`: what its tenant was, in tokens.
    """

    key: Hashable
    replica: int
    prefill: float
    tokens: int
    cached: int
    blocks: Sequence[Hashable]
    at: float
    want: Want | None = None
    ahead: float = 0.0
    tier: int = 0
    load: float = 0.0
    charged: float = 0.0
    answered: bool = False
    first: float = 0.0
    inflight: int = 0  # requests on the replica when its first token came
    told: int | None = None  # cached tokens as the engine told them
    pending: Pending | None = None  # what the model learned or has still to learn from it


class Load:
    """Bookings by replica. Owner of all of them; every method is O(1) except `behind`, `due` and `check`."""

    __slots__ = (
        "answers",
        "bookings",
        "changed",
        "context",
        "first",
        "heads",
        "limits",
        "parallel",
        "running",
        "sums",
        "waiting",
        "writing",
    )

    def __init__(self, replicas: int) -> None:
        self.bookings: dict[Hashable, Booking] = {}
        self.waiting: list[dict[Hashable, Booking]] = []  # dispatched, no first token yet; in order
        self.heads: list[float] = []  # when the oldest of them began: its dispatch or the first token before it
        self.sums: list[float] = []  # their predicted seconds
        self.first: list[float] = []  # those of the oldest, as far as they can be taken to be over
        self.running: list[int] = []  # answered, not finished: requests
        self.answers: list[int] = []  # first tokens that came from it
        self.context: list[int] = []  # and their prompt tokens
        self.changed: list[float] = []  # the last time a request came to it or was answered by it
        self.limits: list[int | None] = []  # requests it takes at once, waiting and running
        self.parallel: list[bool] = []  # whether it computes prompts side by side, so that none waits for another
        self.writing: list[float] = []  # seconds from a first token to the end, decayed mean
        for _ in range(replicas):
            self.join(len(self.waiting))

    def __len__(self) -> int:
        return len(self.bookings)

    def join(self, i: int) -> None:
        """Replica `i` is another engine from now on; grows when `i` is the next number. Nothing may be booked on it."""
        if i == len(self.waiting):
            self.waiting.append({})
            self.running.append(0)
            self.answers.append(0)
            self.context.append(0)
            self.sums.append(0.0)
            self.first.append(0.0)
            self.heads.append(0.0)
            self.changed.append(0.0)
            self.limits.append(None)
            self.parallel.append(False)
            self.writing.append(WRITING_SECONDS)
        self.heads[i], self.changed[i], self.limits[i], self.writing[i] = 0.0, 0.0, None, WRITING_SECONDS
        self.parallel[i], self.answers[i] = False, 0

    def inflight(self, i: int) -> int:
        """Requests on replica `i`, answered or not."""
        return len(self.waiting[i]) + self.running[i]

    def full(self, i: int) -> bool:
        """Whether replica `i` has as many requests as it takes."""
        limit = self.limits[i]
        return limit is not None and len(self.waiting[i]) + self.running[i] >= limit

    def slot(self, i: int) -> float:
        """Seconds until one of replica `i`'s requests ends, predicted, when it is full; else 0.0. Ends are taken to come at random."""
        return self.writing[i] / self.inflight(i) if self.full(i) else 0.0

    def book(self, b: Booking) -> None:
        """Counts a dispatched request in. ValueError when its key is booked already."""
        if b.key in self.bookings:
            raise ValueError(f"request {b.key!r} is on replica {self.bookings[b.key].replica} already; end that booking first")
        i, at, prefill, queue = b.replica, b.at, b.prefill, self.waiting[b.replica]
        self.bookings[b.key] = b
        if not queue:
            self.first[i] = MOST * prefill
            if at > self.heads[i]:
                self.heads[i] = at
        queue[b.key] = b
        self.sums[i] += prefill
        if at > self.changed[i]:
            self.changed[i] = at

    def answer(self, key: Hashable, t: float) -> tuple[Booking, float] | None:
        """Its first token came at `t`: the booking, and when its service began. None when unknown or answered already."""
        b = self.bookings.get(key)
        if b is None or b.answered:
            return None
        i, began = b.replica, b.at
        head = self.heads[i]
        if head > began and not self.parallel[i]:
            began = head
        b.inflight = len(self.waiting[i]) + self.running[i]
        self._leave(b)
        if t > head:
            self.heads[i] = t
        if t > self.changed[i]:
            self.changed[i] = t
        b.answered, b.first = True, t
        self.running[i] += 1
        self.answers[i] += 1
        self.context[i] += b.tokens
        return b, began

    def end(self, key: Hashable, t: float) -> Booking | None:
        """The request is over, well or not: takes it out of every count. None when it is not booked (any more)."""
        b = self.bookings.pop(key, None)
        if b is None:
            return None
        i = b.replica
        if b.answered:
            self.running[i] -= 1
            self.context[i] -= b.tokens
            took = t - b.first
            self.writing[i] = KEEP * self.writing[i] + (1 - KEEP) * (took if took > 0.0 else 0.0)
        else:
            if next(iter(self.waiting[i].values())) is b:
                self.heads[i] = max(self.heads[i], t)
            self._leave(b)
            self.changed[i] = max(self.changed[i], t)
        return b

    def whole(self, b: Booking, t: float) -> float:
        """Its answer came in one piece at `t`: `answer` and `end` in one, for a request that is booked and was not answered. Returns when
        its service began."""
        i, began = b.replica, b.at
        head = self.heads[i]
        if head > began and not self.parallel[i]:
            began = head
        b.inflight = len(self.waiting[i]) + self.running[i]
        self._leave(b)
        del self.bookings[b.key]
        if t > head:
            self.heads[i] = t
        if t > self.changed[i]:
            self.changed[i] = t
        b.answered, b.first = True, t
        self.answers[i] += 1
        self.writing[i] *= KEEP  # nothing was written after it
        return began

    def due(self, i: int, t: float) -> list[tuple[Booking, float]]:
        """Those of replica `i` whose first token has come by `t`, by prediction, and when. O(those)."""
        at, out = self.heads[i], []
        for b in self.waiting[i].values():
            at = (b.at if self.parallel[i] else max(at, b.at)) + b.prefill
            if at <= t:
                out.append((b, at))
            elif not self.parallel[i]:
                break
        return out

    def served(self, b: Booking, t: float) -> float:
        """Which share of its predicted prefill an unanswered request has had: 0.0 to 1.0, and 0.0 while others are before it."""
        if next(iter(self.waiting[b.replica].values()), None) is not b:
            return 0.0
        return min(1.0, max(0.0, t - self.heads[b.replica]) / b.prefill)

    def backlog(self, i: int, t: float) -> float:
        """Seconds until replica `i` has answered all it was given, by prediction. A late head counts with 5 % of its time."""
        if not self.waiting[i] or self.parallel[i]:
            return 0.0
        return max(0.0, self.sums[i] - min(max(0.0, t - self.heads[i]), self.first[i]))

    def unsure(self, i: int, t: float) -> bool:
        """Whether no prediction holds for replica `i`: it has hardly answered yet, or the oldest of what waits takes more than twice
        as long as predicted."""
        if self.answers[i] < PROVEN:
            return True
        head = next(iter(self.waiting[i].values()), None)
        return head is not None and t - self.heads[i] > 2 * head.prefill + LATE_SECONDS

    def waits(self, t: float, decode: float) -> list[float]:
        """What is before a request on each replica, in seconds: its backlog, where it is full the next free slot, and `decode` seconds for
        each token of context of the answers being written there. O(replicas)."""
        if True in self.parallel:
            out = [self.backlog(i, t) + decode * c for i, c in enumerate(self.context)]
        else:  # `backlog` of each, without a call for each
            out = []
            for left, began, most, context in zip(self.sums, self.heads, self.first, self.context, strict=True):
                served = t - began
                if served > 0.0:
                    left -= served if served < most else most
                out.append((left if left > 0.0 else 0.0) + decode * context)
        if self.limits.count(None) < len(out):
            for i, limit in enumerate(self.limits):
                if limit is not None:
                    out[i] += self.slot(i)
        return out

    def costs(self, waits: Sequence[float], prefill: Sequence[float], stall: float) -> list[float]:
        """The same with a request's own `prefill`, and what that costs the answers being written there: `stall` of it each. O(replicas)."""
        return [w + p + stall * r * p for w, p, r in zip(waits, prefill, self.running, strict=True)]

    def behind(self, i: int) -> float:
        """Predicted seconds of what waits on replica `i` behind the oldest."""
        queue = self.waiting[i]
        if len(queue) < 2:
            return 0.0
        rest = iter(queue.values())
        next(rest)
        return sum(b.prefill for b in rest)

    def check(self) -> None:
        """AssertionError when a count does not equal what the bookings say. For tests; O(bookings)."""
        for i, queue in enumerate(self.waiting):
            mine = [b for b in self.bookings.values() if b.replica == i]
            assert set(queue) == {b.key for b in mine if not b.answered}, f"replica {i}: the queue is not what the bookings say"
            assert abs(self.sums[i] - sum(b.prefill for b in queue.values())) < 1e-6, f"replica {i}: seconds do not add up"
            assert self.first[i] == MOST * next((b.prefill for b in queue.values()), 0.0), f"replica {i}: its oldest is another"
            assert self.running[i] == sum(b.answered for b in mine), f"replica {i}: running requests do not add up"
            assert self.context[i] == sum(b.tokens for b in mine if b.answered), f"replica {i}: context does not add up"

    def _leave(self, b: Booking) -> None:
        i = b.replica
        queue = self.waiting[i]
        del queue[b.key]
        if queue:
            self.sums[i] -= b.prefill
            self.first[i] = MOST * next(iter(queue.values())).prefill
        else:
            self.sums[i] = self.first[i] = 0.0  # no rounding is carried from burst to burst
