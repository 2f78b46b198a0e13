"""What one attempt holds on a replica, released exactly once however it ends.

A holder keeps the replica in one variable: `take` counts a call in, `give` counts it out. Who sets the variable to None before it gives
back, and gives only what is not None, cannot give twice; that is all the lease there is, since every call pays for it.
"""

from __future__ import annotations

from routing.types import Replica


def take(replica: Replica) -> Replica:
    """Counts a call in and gives the replica, to be held. Mutates its counters."""
    replica.inflight += 1
    replica.total += 1
    return replica


def give(replica: Replica) -> None:
    """Counts a call out. ValueError when there is none under way: somebody gave twice. Mutates its counters."""
    if replica.inflight <= 0:
        raise ValueError(f"{replica!r} has no call under way to give back")
    replica.inflight -= 1
