"""Passive health: what answers and failures say of a replica. Writes `failures`, `down_until`, `reason` and nothing else."""

from __future__ import annotations

from backends.types import Fault
from routing.types import Replica

PATIENCE = 3  # failures in a row before a replica rests; one is enough when it cannot be reached
REST_SECONDS, REST_MAX = 1.0, 30.0
MANAGED_SECONDS = 0.2  # an engine of ours: its supervisor will soon say what has become of it
_UNREACHABLE = frozenset({"connect_failed", "connect_timeout", "tls_failed"})


def good(replica: Replica) -> None:
    """An answer came: the count of failures starts anew."""
    if replica.failures:
        replica.failures, replica.down_until, replica.reason = 0, 0.0, ""


def bad(replica: Replica, fault: Fault, now: float) -> None:
    """A call failed by the backend's fault. After enough of them in a row the replica rests: 1 s, then twice as long each
    time up to 30 s, or as long as its Retry-After says (60 s at most). An engine of ours rests a moment after each. A client's own
    fault says nothing of the replica."""
    if fault.origin != "backend" or not fault.retry:
        return
    replica.failures += 1
    replica.reason = fault.message
    patience = 1 if fault.code in _UNREACHABLE or fault.retry_after is not None else PATIENCE
    if replica.managed:
        replica.down_until = now + MANAGED_SECONDS
    elif replica.failures >= patience:
        rest = min(REST_MAX, REST_SECONDS * 2 ** min(10, replica.failures - patience))
        replica.down_until = now + max(rest, min(60.0, fault.retry_after or 0.0))
