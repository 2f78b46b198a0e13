"""What failures and answers say of a replica: when it rests, and for how long."""

from __future__ import annotations

import pytest

from backends.types import Fault
from routing import health
from routing.pool import available
from routing.types import Replica
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


def test_after_its_rest_one_call_at_a_time_tests_it() -> None:
    one = replica()
    for _ in range(3):
        one.total += 1
        health.bad(one, failed(), NOW)
    until = one.down_until
    assert not available(one, until - 0.1) and available(one, until)
    one.total += 1  # the test is sent
    assert not available(one, until) and not available(one, until + health.TEST_SECONDS - 0.1)
    assert available(one, until + health.TEST_SECONDS)  # nobody knows what became of it: another
    health.bad(one, failed(), until + 1)
    assert one.down_until == until + 1 + 2 and not available(one, until + 2.9) and available(one, until + 3)
    health.good(one)
    assert available(one, 0.0)


def test_an_engine_of_ours_is_not_tested_by_calls() -> None:
    one = replica()
    one.managed = True
    health.bad(one, failed(), NOW)
    one.total += 5
    assert available(one, NOW + health.MANAGED_SECONDS)


def flap(one: Replica, siblings: list[Replica], now: float, good: int, times: int) -> None:
    """One failure after so many good answers, so often."""
    for _ in range(times):
        for _ in range(good):
            one.total += 1
            health.good(one)
        one.total += 1
        health.bad(one, failed(), now, siblings)


def ill(one: Replica, siblings: list[Replica]) -> None:
    """Two of three calls fail, until it rests."""
    for _ in range(10):
        if not one.down_until:
            flap(one, siblings, NOW, 1, 1)
        if not one.down_until:
            flap(one, siblings, NOW, 0, 1)


@pytest.mark.parametrize(("good", "rests"), [(0, True), (1, False), (2, False)])
def test_who_fails_often_though_not_in_a_row_rests(good: int, rests: bool) -> None:
    one = replica()
    flap(one, [one, replica()], NOW, good, 40)
    assert bool(one.down_until) is rests
    two = replica()
    ill(two, [two, replica()])
    assert two.down_until == NOW + health.REST_MAX


def test_an_outlier_is_not_let_back_by_an_answer_from_before() -> None:
    one = replica()
    ill(one, [one, replica()])
    until = one.down_until
    health.good(one)
    assert one.down_until == until
    one.total += 1
    health.good(one)
    assert one.down_until == 0.0


def test_outliers_are_never_most() -> None:
    three = [replica(str(at)) for at in range(3)]
    for one in three:
        ill(one, three)
    assert sum(bool(one.down_until) for one in three) == 1


def test_a_failure_now_and_then_is_forgotten() -> None:
    one = replica()
    for at in range(100):
        one.total += 1
        health.good(one)
        flap(one, [one, replica()], NOW + at * health.OUTLIER_SECONDS, 0, 2)
    assert one.down_until == 0.0


def test_who_is_absent_rests_until_then() -> None:
    one = replica()
    health.absent(one, "gone", NOW + 9)
    assert (one.down_until, one.reason, one.failures) == (NOW + 9, "gone", 1)
    health.absent(one, "gone", NOW + 5)
    assert one.down_until == NOW + 9
