"""What becomes of a fault, and how long is waited before the next attempt."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.faults import from_answer
from backends.types import Fault
from routing.latency import FEWEST, FRESH, KEPT, Latency
from routing.plan import BARE, HOLD, Budget, Hedge, Plan
from routing.retry import LONGEST, Backoff, Verdict, delay, verdict


def answered(status: int, body: bytes = b"{}") -> Fault:
    return from_answer(status, {}, body, "b", 0.0)


@pytest.mark.parametrize(
    ("fault", "found"),
    [
        *[(answered(status), Verdict.AGAIN) for status in (408, 424, 429, 498, 500, 502, 503, 504, 529)],
        *[(answered(status), Verdict.TELL) for status in (400, 404, 405, 409, 413, 422)],
        *[(answered(status), Verdict.MOVE) for status in (401, 402, 403, 407)],
        (answered(429, b'{"error":{"message":"x","code":"insufficient_quota"}}'), Verdict.MOVE),
        (answered(429, b'{"error":{"message":"x","type":"billing_hard_limit_reached"}}'), Verdict.MOVE),
        (answered(400, b'{"error":{"message":"prompt is too long"}}'), Verdict.CONTEXT),
        (answered(400, b'{"error":{"message":"x","code":"content_filter"}}'), Verdict.CONTENT),
        (Fault("upstream", "x", origin="backend", code="stream_cut", retry=True), Verdict.AGAIN),
        (Fault("upstream", "x", origin="backend", code="answer_too_large", retry=True), Verdict.TELL),
        (Fault("bad_request", "x", origin="client", retry=True), Verdict.TELL),
        (Fault("unavailable", "x", code="draining"), Verdict.TELL),
        (Fault("rate_limited", "x", code="route_busy"), Verdict.TELL),
        (Fault("timeout", "x", code="total_timeout", retry=True), Verdict.TELL),
        *[(Fault("unavailable", "x", code=code), Verdict.MOVE) for code in ("no_replica", "model_loading", "replicas_busy", "queue_full")],
    ],
)
def test_verdicts(fault: Fault, found: Verdict) -> None:
    assert verdict(fault) is found


@given(st.integers(0, 100), st.floats(0, 1, exclude_max=True), st.none() | st.floats(0, 100), st.floats(0, 1000))
def test_delays(round: int, draw: float, after: float | None, left: float) -> None:
    seconds = delay(Backoff(0.5, 8.0), round, draw, after, left)
    if seconds is None:
        assert (after or 0) > LONGEST or max(after or 0, 8.0) >= left
    else:
        assert max(after or 0, 0) <= seconds <= max(after or 0, min(8.0, 0.5 * 2 ** min(round, 10))) and seconds < left


def test_jitter_is_full() -> None:
    assert delay(Backoff(1.0, 4.0), 0, 0.0, None, 99.0) == 0.0
    assert delay(Backoff(1.0, 4.0), 1, 0.5, None, 99.0) == 1.0
    assert delay(Backoff(1.0, 4.0), 9, 0.5, None, 99.0) == 2.0
    assert delay(Backoff(1.0, 4.0), 9, 0.5, None, 2.0) is None


def test_a_percentile_of_what_was_last() -> None:
    latency = Latency()
    for at in range(FEWEST - 1):
        latency.add(float(at))
    assert latency.p95 is None
    latency.add(19.0)
    assert latency.p95 == 19.0
    for _ in range(FRESH - 1):
        latency.add(0.0)
    assert latency.p95 == 19.0  # not looked at anew for each
    latency.add(0.0)
    assert latency.p95 == 18.0
    for _ in range(KEPT):
        latency.add(1.0)
    assert latency.p95 == 1.0


def test_a_budget_is_a_share_and_forgets() -> None:
    budget = Budget()
    assert not budget.spend(0.1)
    for _ in range(20):
        budget.call()
    assert [budget.spend(0.1) for _ in range(3)] == [True, True, False]
    for _ in range(2 * HOLD):
        budget.call()
    assert budget.calls <= HOLD + 1 and budget.spent <= 1


def test_plans() -> None:
    assert BARE.patience(True) is None and BARE.after(Verdict.AGAIN) == () and BARE.limits("x").total == 3600.0
    plan, next_ = Plan(hedge=Hedge(0.5)), Plan()
    assert plan.patience(False) == 0.5
    plan.first.add(1.0)
    next_.learn(plan)
    assert next_.first is plan.first and next_.budget is plan.budget
