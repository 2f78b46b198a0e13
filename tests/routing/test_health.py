"""What failures and answers say of a replica: when it rests, and for how long."""

from __future__ import annotations

import pytest

from backends.types import Fault
from routing import health
from tests.routing.made import failed, replica

NOW = 50.0


def rests(fault: Fault, times: int) -> list[float]:
    """The rest after each of so many failures in a row, in seconds (0: none)."""
    one, out = replica(), []
    for _ in range(times):
        health.bad(one, fault, NOW)
        out.append(max(0.0, one.down_until - NOW))
    assert one.failures == times and one.reason == fault.message
    return out


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (failed(), [0, 0, 1, 2, 4, 8, 16, 30, 30]),
        (failed("connect_failed"), [1, 2, 4, 8, 16, 30, 30, 30, 30]),
        (failed("connect_timeout"), [1, 2, 4, 8, 16, 30, 30, 30, 30]),
        (failed("tls_failed"), [1, 2, 4, 8, 16, 30, 30, 30, 30]),
        (failed(retry_after=0.0), [1, 2, 4, 8, 16, 30, 30, 30, 30]),
        (failed(retry_after=10.0), [10, 10, 10, 10, 16, 30, 30, 30, 30]),
        (failed(retry_after=3600.0), [60] * 9),
    ],
)
def test_rests_double_up_to_a_bound(fault: Fault, expected: list[float]) -> None:
    assert rests(fault, 9) == expected


def test_an_engine_of_ours_rests_a_moment_after_each() -> None:
    one = replica()
    one.managed = True
    for fault in (failed(), failed("connect_failed"), failed(retry_after=60.0)):
        health.bad(one, fault, NOW)
        assert one.down_until == NOW + health.MANAGED_SECONDS


def test_many_failures_are_no_trouble() -> None:
    assert rests(failed(), 5000)[-1] == 30


@pytest.mark.parametrize(
    "fault",
    [Fault("bad_request", "x", origin="client", retry=True), Fault("upstream", "x", origin="gateway", retry=True), failed(retry=False)],
)
def test_what_says_nothing_of_the_replica(fault: Fault) -> None:
    one = replica()
    health.bad(one, fault, NOW)
    assert (one.failures, one.down_until, one.reason) == (0, 0.0, "")


def test_an_answer_starts_the_count_anew() -> None:
    one = replica()
    for _ in range(3):
        health.bad(one, failed(), NOW)
    assert one.down_until == NOW + 1
    health.good(one)
    assert (one.failures, one.down_until, one.reason) == (0, 0.0, "")
    one.reason = "said by someone else"
    health.good(one)  # nothing had failed: nothing to take back
    assert one.reason == "said by someone else"
