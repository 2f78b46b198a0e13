"""What one attempt holds on a replica, released exactly once however it ends."""

from __future__ import annotations

from routing.types import Replica


class Lease:
    """A booking of one slot. Taking it counts the call in; `end` counts it out, the first time only."""

    __slots__ = ("open", "replica")

    def __init__(self, replica: Replica) -> None:
        self.replica = replica
        self.open = True
        replica.inflight += 1
        replica.total += 1

    def end(self) -> bool:
        """Releases the slot. True the first time; later calls change nothing."""
        if not self.open:
            return False
        self.open = False
        self.replica.inflight -= 1
        return True
