"""Passive health: what answers and failures say of a replica. Writes `failures`, `down_until`, `mark`, `window` and `reason`, nothing else.

Closed, open, half open: a replica answers; it rests until `down_until`; after that one real call at a time tests it (see `half_open`) until
an answer closes the circuit again. `routing.pool` never lets all replicas of a route rest: when none is left it takes one that rests.
"""

from __future__ import annotations

from collections.abc import Collection

from backends.types import Fault
from routing.types import Replica

PATIENCE = 3  # failures in a row before a replica rests; one is enough when it cannot be reached
REST_SECONDS, REST_MAX = 1.0, 30.0
MANAGED_SECONDS = 0.2  # an engine of ours: its supervisor will soon say what has become of it
TEST_SECONDS = 5.0  # a test that has not ended after so long is joined by another
_UNREACHABLE = frozenset({"connect_failed", "connect_timeout", "tls_failed"})
# An outlier fails often though not in a row: so many failures within so many seconds, and at least this share of its calls.
OUTLIER_FAILURES, OUTLIER_SECONDS, OUTLIER_SHARE = 10, 30.0, 0.6
EJECTED_SHARE = 0.5  # of a route's replicas may rest as outliers
EJECTED = (0.0, 0, 0)  # the window of a replica that rests as an outlier


def good(replica: Replica) -> None:
    """An answer came: the count of failures starts anew. An outlier rests on, unless it was asked after it began to rest: one good
    answer among bad ones is what it is known for."""
    if replica.failures and (replica.window != EJECTED or replica.total > replica.mark):
        replica.failures, replica.down_until, replica.reason = 0, 0.0, ""


def half_open(replica: Replica, now: float) -> bool:
    """Whether a replica whose rest is over may be sent one call more: the first tests it, and another every `TEST_SECONDS` while
    none has told anything. An engine of ours is tested by its supervisor and takes all."""
    return replica.managed or replica.total - replica.mark <= (now - replica.down_until) / TEST_SECONDS


def bad(replica: Replica, fault: Fault, now: float, siblings: Collection[Replica] = ()) -> None:
    """A call failed by the backend's fault. After enough of them in a row the replica rests: 1 s, then twice as long each
    time up to 30 s, or as long as its Retry-After says (60 s at most). So does an outlier, unless half of its `siblings` (the route's
    replicas) rest already. An engine of ours rests a moment after each failure. A client's own fault says nothing of the replica."""
    if fault.origin != "backend" or not fault.retry:
        return
    replica.failures += 1
    replica.reason = fault.message
    outlier = _outlier(replica, now)
    patience = 1 if fault.code in _UNREACHABLE or fault.retry_after is not None else PATIENCE
    if replica.managed:
        _rest(replica, now + MANAGED_SECONDS)
    elif replica.failures >= patience:
        rest = min(REST_MAX, REST_SECONDS * 2 ** min(10, replica.failures - patience))
        _rest(replica, now + max(rest, min(60.0, fault.retry_after or 0.0)))
    elif outlier and sum(r.down_until > now for r in siblings) + 1 <= EJECTED_SHARE * len(siblings):
        _rest(replica, now + REST_MAX)
        replica.window = EJECTED


def absent(replica: Replica, why: str, until: float) -> None:
    """A look at the replica found that it is not there, `why` in one sentence: it rests until then (monotonic seconds)."""
    replica.failures += 1
    replica.reason = why
    _rest(replica, max(until, replica.down_until))


def _rest(replica: Replica, until: float) -> None:
    replica.down_until, replica.mark = until, replica.total


def _outlier(replica: Replica, now: float) -> bool:
    """Counts a failure into the replica's window, and says whether it fails too often."""
    since, total, failed = replica.window
    if now - since > OUTLIER_SECONDS:
        since, total, failed = now, replica.total - 1, 0
    replica.window = (since, total, failed + 1)
    return failed + 1 >= OUTLIER_FAILURES and failed + 1 >= OUTLIER_SHARE * (replica.total - total)
