"""Requests that wait for a slot, in order, each for a bounded time. Belongs to the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from backends.slots.ride import Ride


class Line:
    """`late` is called for a request that has waited for too long; it is out of the line then."""

    def __init__(self, late: Callable[[Ride], None]) -> None:
        self.late = late
        self.rides: dict[Ride, asyncio.TimerHandle] = {}

    def __len__(self) -> int:
        return len(self.rides)

    def add(self, ride: Ride, seconds: float) -> None:
        """Puts `ride` at the end, for at most so many seconds."""
        self.rides[ride] = asyncio.get_running_loop().call_later(seconds, self._late, ride)

    def remove(self, ride: Ride) -> None:
        """Takes `ride` out, if it is here."""
        timer = self.rides.pop(ride, None)
        if timer is not None:
            timer.cancel()

    def first(self) -> Ride:
        """Takes out and returns who has waited longest. KeyError: nobody waits."""
        ride = next(iter(self.rides), None)
        if ride is None:
            raise KeyError
        self.remove(ride)
        return ride

    def _late(self, ride: Ride) -> None:
        self.remove(ride)
        self.late(ride)
