"""What a plan makes of failures, driven by hand: waits, other routes, time limits."""

from __future__ import annotations

from typing import Any

import pytest

from backends.types import Fault, Timeouts
from routing.retry import LONGEST, Backoff
from tests.gateway.parts import SSE
from tests.gateway.planned import DONE, Planned, lost, text
from tests.gateway.test_exchange import ANSWER, FINISH, ROLE, TEXT

OVERFLOW = Fault("bad_request", "too long", origin="backend", code="context_length_exceeded")
FILTER = Fault("bad_request", "no", origin="backend", code="content_filter")
QUOTA = Fault("rate_limited", "no money", origin="backend", code="insufficient_quota")


# --- waits


def test_when_all_were_asked_they_are_asked_again_after_a_wait() -> None:
    world = Planned(backoff=Backoff(4.0, 8.0), retries=3)
    sink, exchange = world.ask()
    first = world.flight
    first.fail(lost())
    second = world.flight
    assert second.replica != first.replica  # at once
    second.fail(lost())
    assert not world.flights and not sink.done and exchange not in world.core.parked
    world.at(9.0)  # jitter: at most 4 s
    world.flight.whole(ANSWER)
    assert sink.status == 200
    world.check_idle(1)
    assert world.record.attempts == 3 and world.record.route == "m"


def test_waits_are_bounded_by_retries() -> None:
    world = Planned(1, backoff=Backoff(1.0, 1.0), retries=2)
    sink, _ = world.ask()
    for _ in range(2):
        world.flight.fail(lost())
        assert not sink.done
        world.at(1.1)
    world.flight.fail(lost())
    assert sink.status == 502
    world.check_idle(1)


def test_a_retry_after_is_waited_for() -> None:
    world = Planned(1, backoff=Backoff(1.0, 1.0))
    sink, _ = world.ask()
    world.flight.fail(Fault("rate_limited", "slow", origin="backend", retry=True, retry_after=20.0))
    world.at(19.0)
    assert not world.flights
    world.at(1.5)
    world.flight.whole(ANSWER)
    assert sink.status == 200
    world.check_idle(1)


@pytest.mark.parametrize("after", [LONGEST + 1, 30.0])
def test_a_retry_after_that_is_too_long_is_told(after: float) -> None:
    world = Planned(1, backoff=Backoff(), timeouts=Timeouts(total=29.0))
    sink, _ = world.ask()
    world.flight.fail(Fault("rate_limited", "slow", origin="backend", retry=True, retry_after=after))
    assert sink.status == 429 and int(sink.headers["retry-after"]) >= after
    world.check_idle(1)


def test_who_leaves_while_waiting_is_forgotten() -> None:
    world = Planned(1, backoff=Backoff())
    _, exchange = world.ask()
    world.flight.fail(lost())
    exchange.gone()
    world.at(20.0)
    world.check_idle(1)


# --- other routes


def test_fallbacks_in_their_order() -> None:
    world = Planned(1, chain=("longer", "last"))
    sink, _ = world.ask(stream=True)
    world.flight.fail(lost())
    assert world.flight.replica == "longer" and world.route.inflight == 0 and world.others["longer"].inflight == 1
    world.flight.whole(b"{}", 500)
    assert world.flight.replica == "last"
    world.flight.whole(TEXT + FINISH, headers=SSE)
    assert sink.status == 200 and sink.headers["x-pointsman-backend"] == "last"
    world.check_idle(1)
    assert world.record.route == "m" and world.record.attempts == 3


def test_the_last_fault_is_told_when_all_fail() -> None:
    world = Planned(1, chain=("longer",))
    sink, _ = world.ask()
    world.flight.fail(lost())
    world.flight.fail(Fault("timeout", "slow", origin="backend", retry=True))
    assert sink.status == 504
    world.check_idle(1)


@pytest.mark.parametrize(
    ("fault", "goes"), [(OVERFLOW, "longer"), (FILTER, "last"), (QUOTA, "last"), (Fault("bad_request", "x", origin="backend"), "")]
)
def test_what_goes_where(fault: Fault, goes: str) -> None:
    world = Planned(2, chain=("last",), context="longer", content="last", retries=3)
    sink, _ = world.ask()
    world.flight.fail(fault)
    if goes:
        assert world.flight.replica == goes
        world.flight.whole(ANSWER)
    assert sink.status == (200 if goes else 400)
    world.check_idle(1)


def test_a_context_overflow_has_no_other_fallback() -> None:
    world = Planned(2, chain=("last",), retries=3, backoff=Backoff())
    sink, _ = world.ask()
    world.flight.fail(OVERFLOW)
    assert sink.error["code"] == "context_length_exceeded"
    world.check_idle(1)


@pytest.mark.parametrize("health", ["down", "loading"])
def test_a_route_with_nobody_falls_back(health: Any) -> None:
    world = Planned(1, chain=("longer",), health=health)
    sink, exchange = world.ask()
    if health == "loading":
        exchange.tick(exchange.received + 61)  # not before the wait is over
    assert world.flight.replica == "longer" and not world.core.parked
    world.flight.whole(ANSWER)
    assert sink.status == 200
    world.check_idle(1)


def test_a_busy_fallback_is_passed_over() -> None:
    world = Planned(1, chain=("longer", "last"))
    world.others["longer"].concurrency = 0
    sink, _ = world.ask()
    world.flight.fail(lost())
    assert world.flight.replica == "last"
    world.flight.whole(ANSWER)
    assert sink.status == 200
    world.check_idle(1)


def test_no_fallback_after_content() -> None:
    world = Planned(1, chain=("longer",), backoff=Backoff())
    sink, _ = world.ask(stream=True)
    world.flight.head(200, SSE)
    world.flight.data(TEXT)
    world.flight.fail(lost())
    assert sink.done and sink.error["code"] == "connection_lost"
    world.check_idle(1)


# --- time


def test_the_first_token_counts_and_not_the_first_byte() -> None:
    world = Planned(timeouts=Timeouts(first_token=5.0))
    sink, exchange = world.ask(stream=True)
    first = world.flight
    first.head(200, SSE)
    first.data(ROLE + b": still here\n\n")
    world.core.clients.now = exchange.received
    world.at(4.0)
    assert not first.cancels
    world.at(1.5)
    assert first.cancels
    world.flight.whole(TEXT + FINISH, headers=SSE)
    assert sink.status == 200
    world.check_idle(1)


@pytest.mark.parametrize("rate", [2.0, 0.5])
def test_a_stream_that_is_too_slow_is_given_up(rate: float) -> None:
    world = Planned(timeouts=Timeouts(min_rate=1.0, rate_window=10.0))
    sink, _ = world.ask(stream=True)
    flight = world.flight
    flight.head(200, SSE)
    flight.data(text("a"))
    for _ in range(4):
        world.at(5.0)
        if not flight.over:
            flight.data(text(*"x" * int(rate * 5)))
    if rate < 1:
        assert flight.cancels and sink.error["code"] == "too_slow"
    else:
        flight.data(FINISH)
        world.at(30.0)  # finished: nothing more is expected of it
        flight.end()
        assert sink.body.endswith(DONE)
    world.check_idle(1)


def test_who_goes_on_has_its_own_time_to_begin() -> None:
    world = Planned(3, mode="flag", timeouts=Timeouts(min_rate=1.0, rate_window=10.0, first_token=25.0))
    sink, _ = world.ask({"messages": [{"role": "user", "content": "x"}]}, stream=True)
    world.flight.head(200, SSE)
    world.flight.data(text("a"))
    world.flight.fail(lost())
    second = world.flight
    world.at(0.1)
    world.at(20.0)
    assert not second.cancels  # it reads the prompt
    world.at(6.0)
    assert second.cancels
    world.at(0.1)
    world.flight.head(200, SSE)
    world.flight.data(text("b"))
    world.at(1.0)
    world.at(11.0)  # begun, and then too slow
    assert sink.done and sink.error["code"] == "connection_lost"
    world.check_idle(1)


def test_the_clients_own_slowness_is_not_the_backends() -> None:
    world = Planned(timeouts=Timeouts(min_rate=1.0, rate_window=10.0))
    sink, exchange = world.ask(stream=True)
    flight = world.flight
    flight.head(200, SSE)
    flight.data(text("a"))
    world.at(1.0)
    exchange.pause()
    world.at(30.0)
    exchange.resume()
    world.at(1.0)
    assert not flight.cancels
    flight.data(FINISH)
    flight.end()
    assert sink.done
    world.check_idle(1)


@pytest.mark.parametrize("where", ["flying", "waiting", "parked"])
def test_the_deadline_holds_for_all_attempts_together(where: str) -> None:
    world = Planned(1, timeouts=Timeouts(total=50.0), backoff=Backoff(40.0, 40.0), health="loading" if where == "parked" else "ready")
    sink, exchange = world.ask()
    if where == "waiting":
        world.flight.fail(Fault("overloaded", "x", origin="backend", retry=True, retry_after=49.0))
    exchange.tick(exchange.received + 51)
    assert sink.status == 504 and sink.error["code"] == "total_timeout"
    world.check_idle(1)


def test_a_fallback_that_cannot_be_sent_to_is_passed_over() -> None:
    world = Planned(1, chain=("longer", "last"))
    next(link for link in world.links if link.name == "longer").refuse = Fault("bad_request", "no", origin="client")
    sink, _ = world.ask()
    world.flight.fail(lost())
    world.flight.whole(ANSWER)
    assert sink.headers["x-pointsman-backend"] == "last"
    world.check_idle(1)
