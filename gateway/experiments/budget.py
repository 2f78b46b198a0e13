"""What mirrored requests of one experiment may cost in a day of UTC. Pure state: the time comes as an argument."""

from __future__ import annotations

import msgspec

DAY = 86400.0


class Cost(msgspec.Struct, frozen=True):
    """Dollars and tokens of one request."""

    dollars: float = 0.0
    tokens: int = 0


class Budget:
    """Owned by one process. Before a request is sent its likely cost is booked, so that requests under way together do not pass the limit;
    at its end it is settled. A limit is passed by no more than what those requests cost beyond what was expected of them."""

    __slots__ = ("booked_dollars", "booked_tokens", "day", "dollars", "max_dollars", "max_tokens", "tokens")

    def __init__(self, max_dollars: float | None = None, max_tokens: float | None = None) -> None:
        self.max_dollars, self.max_tokens = max_dollars, max_tokens
        self.day = -1
        self.dollars = self.booked_dollars = 0.0
        self.tokens = self.booked_tokens = 0

    def __repr__(self) -> str:
        return f"<Budget day {self.day}: ${self.dollars:.4f} + ${self.booked_dollars:.4f}, {self.tokens} + {self.booked_tokens} tokens>"

    def _turn(self, unix: float) -> None:
        day = int(unix // DAY)
        if day != self.day:
            self.day, self.dollars, self.tokens = day, 0.0, 0

    def book(self, likely: Cost, unix: float) -> bool:
        """Whether a request of this likely cost may go now; it is booked then, until `settle`. Mutates."""
        self._turn(unix)
        if self.max_dollars is not None and self.dollars + self.booked_dollars + likely.dollars > self.max_dollars:
            return False
        if self.max_tokens is not None and self.tokens + self.booked_tokens + likely.tokens > self.max_tokens:
            return False
        self.booked_dollars += likely.dollars
        self.booked_tokens += likely.tokens
        return True

    def settle(self, likely: Cost, spent: Cost, unix: float) -> None:
        """Puts what was spent in the place of what was booked, on the day of its end. Mutates."""
        self._turn(unix)
        self.booked_dollars = max(0.0, self.booked_dollars - likely.dollars)
        self.booked_tokens -= likely.tokens
        self.dollars += spent.dollars
        self.tokens += spent.tokens
