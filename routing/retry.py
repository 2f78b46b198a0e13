"""What becomes of a call that failed: again elsewhere, on another route, or told to the client. One table; pure."""

from __future__ import annotations

from enum import Enum

import msgspec

from backends.types import Fault

LONGEST = 60.0  # seconds: a Retry-After beyond it is not waited for, since few clients would wait so long themselves


class Verdict(Enum):
    """What a fault asks for."""

    AGAIN = 0  # another replica may answer, and the same one later
    MOVE = 1  # no replica of this backend will; another backend or route may
    CONTEXT = 2  # the conversation is too long for the model: a route for longer ones may take it
    CONTENT = 3  # the provider refuses what is said: another may not
    TELL = 4  # the client's own, or nobody else's to mend


# By code, whatever the status: provider's codes as `backends.faults` has them, and our own.
_BY_CODE = {
    "context_length_exceeded": Verdict.CONTEXT,
    "content_filter": Verdict.CONTENT,
    # Money has run out, or the gateway's own key is refused: time does not heal it.
    "insufficient_quota": Verdict.MOVE, "billing_hard_limit_reached": Verdict.MOVE, "upstream_credentials": Verdict.MOVE,
    # Nobody was asked.
    "no_replica": Verdict.MOVE, "model_loading": Verdict.MOVE, "replicas_busy": Verdict.MOVE, "queue_full": Verdict.MOVE,
    "no_target": Verdict.MOVE,
    # Ours to decide, and decided.
    "draining": Verdict.TELL, "route_busy": Verdict.TELL, "answer_too_large": Verdict.TELL,
}  # fmt: skip


def verdict(fault: Fault) -> Verdict:
    """What `fault` asks for: by its code; else a backend's fault is tried again where its kind or status said so (`Fault.retry`), and a
    429 that is final (money, not time) moves on. Anything else is told."""
    if (found := _BY_CODE.get(fault.code or "")) is not None:
        return found
    if fault.origin != "backend":
        return Verdict.TELL
    if fault.retry:
        return Verdict.AGAIN
    return Verdict.MOVE if fault.kind == "rate_limited" else Verdict.TELL


class Backoff(msgspec.Struct, frozen=True):
    """Full jitter: a wait is drawn evenly from 0 to `base` seconds, doubled with each round up to `cap`."""

    base: float = 0.25
    cap: float = 8.0


def delay(backoff: Backoff, round: int, draw: float, retry_after: float | None, left: float) -> float | None:
    """Seconds to wait before the replicas are asked again. `round`: 0 for the first wait; `draw` in [0, 1). Never less than the backend's
    Retry-After. None when that is too long to be waited for, or the call has fewer than so many seconds `left`."""
    ceiling = min(backoff.cap, backoff.base * 2 ** min(round, 30))
    seconds = max(ceiling * draw, retry_after or 0.0)
    return None if seconds > LONGEST or seconds >= left else seconds
