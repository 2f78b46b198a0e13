"""What replicas are busy with, from the life of each request rather than from polled metrics. Plain state, no clock.

A booking belongs to a request and ends with it, however it ends; no health check, reload or metric ever touches one.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence


class Booking:
    """One request on one replica: `prefill` predicted seconds, `tokens` of prompt, `cached` predicted of them, dispatched at `at`."""

    __slots__ = ("answered", "at", "blocks", "cached", "key", "prefill", "replica", "tokens")

    def __init__(
        self, key: Hashable, replica: int, prefill: float, tokens: int, cached: int, blocks: Sequence[Hashable], at: float
    ) -> None:
        self.key, self.replica, self.at, self.blocks = key, replica, at, blocks
        self.prefill, self.tokens, self.cached = prefill, tokens, cached
        self.answered = False


class Load:
    """Bookings by replica. Owner of all of them; every method is O(1) except `behind` and `drop`."""

    __slots__ = ("bookings", "changed", "context", "heads", "running", "sums", "waiting")

    def __init__(self, replicas: int) -> None:
        self.bookings: dict[Hashable, Booking] = {}
        self.waiting: list[dict[Hashable, Booking]] = [{} for _ in range(replicas)]  # dispatched, no first token yet; in order
        self.heads = [0.0] * replicas  # when the oldest of them began: its dispatch or the first token before it
        self.sums = [0.0] * replicas  # their predicted seconds
        self.running = [0] * replicas  # answered, not finished: requests
        self.context = [0] * replicas  # and their prompt tokens
        self.changed = [0.0] * replicas  # the last time a request came to it or was answered by it

    def __len__(self) -> int:
        return len(self.bookings)

    def book(self, b: Booking) -> None:
        """Counts a dispatched request in. ValueError when its key is booked already."""
        if b.key in self.bookings:
            raise ValueError(f"request {b.key!r} is on replica {self.bookings[b.key].replica} already; end that booking first")
        i = b.replica
        self.bookings[b.key] = b
        if not self.waiting[i]:
            self.heads[i] = max(self.heads[i], b.at)
        self.waiting[i][b.key] = b
        self.sums[i] += b.prefill
        self.changed[i] = max(self.changed[i], b.at)

    def answer(self, key: Hashable, t: float) -> tuple[Booking, float] | None:
        """Its first token came at `t`: the booking, and when its service began. None when unknown or answered already."""
        b = self.bookings.get(key)
        if b is None or b.answered:
            return None
        i = b.replica
        began = max(b.at, self.heads[i])
        self._leave(b)
        self.heads[i] = max(self.heads[i], t)
        self.changed[i] = max(self.changed[i], t)
        b.answered = True
        self.running[i] += 1
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
        else:
            if next(iter(self.waiting[i].values())) is b:
                self.heads[i] = max(self.heads[i], t)
            self._leave(b)
            self.changed[i] = max(self.changed[i], t)
        return b

    def drop(self, keys: Iterable[Hashable], t: float) -> None:
        """Ends many bookings at once, as of a peer that is gone."""
        for key in keys:
            self.end(key, t)

    def backlog(self, i: int, t: float) -> float:
        """Seconds until replica `i` has answered all it was given, by prediction. A late head counts with 5 % of its time."""
        queue = self.waiting[i]
        if not queue:
            return 0.0
        head = next(iter(queue.values())).prefill
        return max(0.0, self.sums[i] - min(max(0.0, t - self.heads[i]), 0.95 * head))

    def behind(self, i: int) -> float:
        """Predicted seconds of what waits on replica `i` behind the oldest."""
        queue = iter(self.waiting[i].values())
        next(queue, None)
        return sum(b.prefill for b in queue)

    def check(self) -> None:
        """AssertionError when a count does not equal what the bookings say. For tests; O(bookings)."""
        for i, queue in enumerate(self.waiting):
            mine = [b for b in self.bookings.values() if b.replica == i]
            assert set(queue) == {b.key for b in mine if not b.answered}, f"replica {i}: the queue is not what the bookings say"
            assert abs(self.sums[i] - sum(b.prefill for b in queue.values())) < 1e-6, f"replica {i}: seconds do not add up"
            assert self.running[i] == sum(b.answered for b in mine), f"replica {i}: running requests do not add up"
            assert self.context[i] == sum(b.tokens for b in mine if b.answered), f"replica {i}: context does not add up"

    def _leave(self, b: Booking) -> None:
        i = b.replica
        del self.waiting[i][b.key]
        self.sums[i] = self.sums[i] - b.prefill if self.waiting[i] else 0.0  # no rounding is carried from burst to burst
