"""Identical calls under way at once: one is sent, all are answered; whoever leaves takes nothing from the others."""

from __future__ import annotations

from typing import Any

import pytest

from backends.types import Timeouts
from gateway import coalesce
from gateway.config import Limits
from tests.gateway.parts import SSE
from tests.gateway.planned import DONE, Planned, lost
from tests.gateway.test_exchange import ANSWER, BOOM, FINISH, ROLE, TEXT

COLD = {"temperature": 0}


def world(**more: Any) -> Planned:
    return Planned(coalesce=True, retries=0, **more)


def test_a_whole_answer_for_all() -> None:
    made = world()
    asked = [made.ask({"seed": 7, "x": i == 4})[0] for i in range(5)]
    assert len(made.flights) == 2  # the last one differs
    (other,) = [f for f in made.flights if bytes(f.call.doc["x"]) == b"true"]
    (flight,) = [f for f in made.flights if f is not other]
    flight.whole(ANSWER)
    assert [sink.status for sink in asked] == [200, 200, 200, 200, 0] and all(sink.body == ANSWER for sink in asked[:4])
    assert len({sink.headers["x-request-id"] for sink in asked[:4]}) == 4
    assert {sink.headers["x-pointsman-backend"] for sink in asked[:4]} == {flight.replica}
    other.whole(ANSWER)
    made.check_idle(5)
    assert sum(r.coalesced for r in made.recorder.records) == 3
    assert sum(tail is not None for tail in made.recorder.tails) == 2, "tokens are counted once an answer"


def test_a_stream_for_all_whenever_they_come() -> None:
    made = world()
    sinks = [made.ask(COLD, stream=True)[0]]
    flight = made.flight
    flight.head(200, SSE)
    sinks.append(made.ask(COLD, stream=True)[0])
    for part in (ROLE, TEXT, TEXT):
        flight.data(part)
        sinks.append(made.ask(COLD, stream=True)[0])
    flight.data(FINISH)
    flight.end()
    assert len(sinks) == 5 and all(sink.done and sink.body == ROLE + TEXT + TEXT + FINISH + DONE for sink in sinks)
    made.check_idle(5)
    made.ask(COLD, stream=True)[1].gone()  # over is over: this one leads again
    assert sum(len(link.flights) for link in made.links) == 2
    made.check_idle(6)


@pytest.mark.parametrize("doc", [{}, {"temperature": 0.1}, {"temperature": "x"}, {"seed": None}, {"temperature": None}])
def test_what_is_not_the_same_each_time_is_asked_each_time(doc: dict[str, Any]) -> None:
    made = world()
    for _ in range(2):
        made.ask(doc)
    assert len(made.flights) == 2
    for flight in made.flights:
        flight.whole(ANSWER)
    made.check_idle(2)


@pytest.mark.parametrize("stream", [True, False])
def test_a_failure_for_all(stream: bool) -> None:
    made = world()
    sinks = [made.ask(COLD, stream=stream)[0] for _ in range(3)]
    if stream:
        made.flight.head(200, SSE)
        made.flight.data(TEXT)
        made.flight.data(BOOM)
        assert all(sink.body.startswith(TEXT) for sink in sinks)
    else:
        made.flight.fail(lost())
    assert [sink.error["origin"] for sink in sinks] == ["backend"] * 3
    made.check_idle(3)
    assert all(record.fault for record in made.recorder.records)


@pytest.mark.parametrize("paused", [True, False])
def test_a_leader_that_leaves_is_missed_by_nobody(paused: bool) -> None:
    made = world()
    sink, leader = made.ask(COLD, stream=True)
    other, follower = made.ask(COLD, stream=True)
    flight = made.flight
    flight.head(200, SSE)
    flight.data(TEXT)
    if paused:
        leader.pause()
        assert flight.paused
    leader.gone()
    leader.gone()  # as the ASGI side does
    assert not flight.paused and not flight.cancels and sink.body == TEXT
    flight.data(TEXT + FINISH)
    flight.end()
    assert other.body == TEXT + TEXT + FINISH + DONE and sink.body == TEXT
    made.check_idle(2)
    assert follower.ended


def test_when_all_have_left_the_call_ends() -> None:
    made = world()
    (_, leader), (_, follower), (_, third) = [made.ask(COLD) for _ in range(3)]
    flight = made.flight
    third.gone()
    leader.gone()
    assert not flight.cancels
    follower.gone()
    made.check_idle(3)
    assert made.links[int(flight.replica)].flights[-1].cancels == 1


def test_a_follower_that_does_not_read_is_let_go() -> None:
    made = world(limits=Limits())
    sink, _ = made.ask(COLD, stream=True)
    slow, follower = made.ask(COLD, stream=True)
    flight = made.flight
    flight.head(200, SSE)
    flight.data(TEXT)
    follower.pause()
    flight.data(TEXT)
    follower.resume()
    flight.data(TEXT)
    follower.pause()
    for _ in range(coalesce.BEHIND // len(TEXT * 1000) + 2):
        flight.data(TEXT * 1000)
    assert slow.broken and not sink.broken
    late, _ = made.ask(COLD, stream=True)  # more was sent than is kept: it asks for itself
    assert len(made.flights) == 2 and not late.begun
    for one in made.flights:
        if one is flight:
            one.data(FINISH)
        else:
            one.whole(TEXT + FINISH, headers=SSE)
    flight.end()
    assert sink.body.endswith(FINISH + DONE) and late.body == TEXT + FINISH + DONE
    made.check_idle(3)


def test_the_end_of_the_gateway_is_told_to_all() -> None:
    made = world()
    sinks = [made.ask(COLD)[0] for _ in range(3)]
    made.core.cut()
    assert all(sink.error["code"] == "draining" for sink in sinks)
    made.check_idle(3)


def test_a_leader_cut_off_for_not_reading() -> None:
    made = world(timeouts=Timeouts(total=500.0))
    sink, leader = made.ask(COLD, stream=True)
    other, _ = made.ask(COLD, stream=True)
    flight = made.flight
    flight.head(200, SSE)
    flight.data(TEXT)
    leader.pause()
    made.at(121.0)
    assert sink.broken and not flight.cancels and not flight.paused
    flight.data(FINISH)
    flight.end()
    assert other.body == TEXT + FINISH + DONE
    made.check_idle(2)


def test_followers_wait_as_the_leader_does() -> None:
    """Slow to begin: each gets its own head and comments; a fallback of the leader's is everybody's."""
    made = world(chain=("longer",))
    (one, _), (two, _) = made.ask(COLD, stream=True), made.ask(COLD, stream=True)
    made.at(11.0)
    assert one.begun and two.begun and one.body == two.body == coalesce.WAITING
    made.flight.fail(lost())
    made.flight.whole(TEXT + FINISH, headers=SSE)
    assert one.body == two.body == coalesce.WAITING + TEXT + FINISH + DONE
    made.check_idle(2)
