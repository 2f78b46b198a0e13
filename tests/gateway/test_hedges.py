"""A second attempt beside a slow one: whoever has content first is the answer, and the other is let go at once."""

from __future__ import annotations

from typing import Any

import pytest

from backends.types import Fault
from gateway.config import Limits
from routing.plan import Hedge
from tests.gateway.parts import JSON, SSE
from tests.gateway.planned import DONE, Planned, lost
from tests.gateway.test_exchange import ANSWER, BOOM, FINISH, ROLE, TEXT


def hedged(after: float | None = 1.0, **more: Any) -> Planned:
    return Planned(hedge=Hedge(after, 1.0), retries=0, **more)


@pytest.mark.parametrize("winner", ["first", "second"])
@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("pieces", [True, False])
def test_whoever_has_content_first_is_the_answer(winner: str, stream: bool, pieces: bool) -> None:
    world = hedged()
    sink, _ = world.ask(stream=stream)
    first = world.flight
    world.at(0.5)
    assert len(world.flights) == 1
    world.at(1.0)
    (second,) = [f for f in world.flights if f is not first]
    best, other = (first, second) if winner == "first" else (second, first)
    body, headers = (TEXT + FINISH + DONE, SSE) if stream else (ANSWER, JSON)
    if pieces:
        other.head(200, headers)
        best.head(200, headers)
        if stream:
            other.data(ROLE)
            best.data(ROLE)
        best.data(body[:60])
        best.data(body[60:])
        assert not stream or other.cancels
        best.end()
    else:
        best.whole(body, headers=headers)
    assert other.cancels and sink.status == 200 and sink.body == (ROLE if stream and pieces else b"") + body
    assert sink.headers["x-pointsman-backend"] == best.replica
    world.check_idle(1)
    assert world.record.hedged and world.record.attempts == 2 and world.record.replica == best.replica


@pytest.mark.parametrize("how", ["fault", "500", "error event", "not json", "whole 500", "cut"])
def test_a_second_attempt_that_fails_is_nobodys_loss(how: str) -> None:
    world = hedged()
    sink, _ = world.ask(stream=True)
    first = world.flight
    world.at(1.5)
    (second,) = [f for f in world.flights if f is not first]
    if how == "fault":
        second.fail(lost())
    elif how == "500":
        second.head(500)
        second.data(b"{}")
        second.end()
    elif how == "not json":
        second.head(200, JSON)
        second.data(b"<html>")
        second.end()
    elif how == "whole 500":
        second.whole(b"", 500)
    else:
        second.head(200, SSE)
        second.data(ROLE)
        if how == "cut":
            second.end()
        else:
            second.data(BOOM)
    assert not first.over and not sink.begun
    world.at(9.0)
    assert world.flight is first  # one second attempt, not more
    first.whole(TEXT + FINISH, headers=SSE)
    assert sink.status == 200
    world.check_idle(1)


@pytest.mark.parametrize("headed", [True, False])
def test_the_second_takes_over_when_the_first_fails(headed: bool) -> None:
    world = hedged()
    sink, _ = world.ask(stream=True)
    first = world.flight
    world.at(1.5)
    (second,) = [f for f in world.flights if f is not first]
    if headed:
        second.head(200, SSE)
        second.data(ROLE)
    first.fail(lost())
    assert not sink.done
    if not headed:
        second.head(200, SSE)
        second.data(ROLE)
    second.data(TEXT + FINISH)
    second.end()
    assert sink.body == ROLE + TEXT + FINISH + DONE
    world.check_idle(1)


def test_what_was_learned_decides() -> None:
    world = hedged(None)
    world.ask(stream=True)
    world.at(50.0)
    assert len(world.flights) == 1  # nothing is known yet
    for seconds in range(100):
        world.plan.first.add(seconds / 100)
    assert world.plan.patience(True) == pytest.approx(0.95) and world.plan.patience(False) is None
    world.at(0.1)
    assert len(world.flights) == 2
    for _, exchange in [(None, e) for e in world.core.inflight]:
        exchange.gone()
    world.check_idle(1)


def test_the_budget_holds() -> None:
    world = Planned(hedge=Hedge(1.0, 0.1))
    for _ in range(40):
        world.ask(stream=True)
    world.at(2.0)
    assert sum(len(link.flights) for link in world.links) == 44
    for exchange in [*world.core.inflight]:
        exchange.gone()
    world.check_idle(40)


def test_with_one_replica_there_is_no_second() -> None:
    world = Planned(1, hedge=Hedge(1.0, 1.0))
    sink, _ = world.ask()
    world.at(5.0)
    world.flight.whole(ANSWER)
    assert sink.status == 200 and not world.record.fault
    world.check_idle(1)


def test_with_every_other_slot_taken_there_is_no_second() -> None:
    world = hedged(slots=1)
    world.ask()
    world.ask()
    world.at(2.0)
    assert len(world.flights) == 2
    for exchange in [*world.core.inflight]:
        exchange.gone()
    world.check_idle(2)


def test_a_slot_that_a_loser_held_is_free_again() -> None:
    world = hedged(slots=1)
    sink, _ = world.ask(stream=True)
    first = world.flight
    world.at(1.5)
    waiting, _ = world.ask()
    assert len(world.flights) == 2 and len(world.core.parked) == 1
    first.head(200, SSE)
    first.data(TEXT)
    assert not world.core.parked  # the loser's slot is handed on
    (other,) = [f for f in world.flights if f is not first]
    other.whole(ANSWER)
    first.data(FINISH)
    first.end()
    assert sink.done and waiting.status == 200
    world.check_idle(2)


def test_a_second_that_is_refused_or_too_large_is_none() -> None:
    world = hedged(limits=Limits(answer_bytes=len(ANSWER)))
    sink, _ = world.ask()
    first = world.flight
    world.links[1 - int(first.replica)].refuse = Fault("bad_request", "no", origin="client")
    world.at(2.0)
    assert world.flight is first
    first.whole(ANSWER)
    assert sink.status == 200
    world.links[1 - int(first.replica)].refuse = None
    sink, _ = world.ask()
    first = world.flight
    world.at(2.0)
    (second,) = [f for f in world.flights if f is not first]
    second.head(200, JSON)
    second.data(ANSWER + b" ")
    assert second.cancels and not sink.done
    first.whole(ANSWER)
    world.check_idle(2)


def test_what_the_second_dropped_is_told_when_it_wins() -> None:
    world = hedged(drop=True, unsupported=frozenset({"seed"}))
    sink, _ = world.ask({"seed": 1})
    first = world.flight
    world.at(2.0)
    (second,) = [f for f in world.flights if f is not first]
    assert "seed" not in second.call.doc
    second.whole(ANSWER)
    assert sink.headers["x-pointsman-dropped"] == "seed"
    world.check_idle(1)


def test_an_error_that_the_second_hands_on_is_retried_as_any_other() -> None:
    """The first fails while the second has half an error: that is judged when it is whole."""
    world = Planned(3, hedge=Hedge(1.0, 1.0), retries=2)
    sink, _ = world.ask()
    first = world.flight
    world.at(2.0)
    (second,) = [f for f in world.flights if f is not first]
    second.head(500, JSON)
    second.data(b"{")
    first.fail(lost())
    second.data(b"}")
    second.end()
    world.flight.whole(ANSWER)
    assert sink.status == 200
    world.check_idle(1)
