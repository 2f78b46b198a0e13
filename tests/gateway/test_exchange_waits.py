"""What time and other calls bring to an exchange: head commits, pauses, waits for a replica, the end of the gateway."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.config import Limits
from gateway.exchange import WAITING
from gateway.serve import MAX_PARKED
from tests.gateway.parts import SSE, FakeSink, World
from tests.gateway.test_exchange import ANSWER, DONE, FINISH, TEXT, lost


def test_a_slow_stream_gets_its_head_and_comments() -> None:
    world = World()
    sink, exchange = world.ask(stream=True)
    now = exchange.received
    exchange.tick(now + 9)
    assert not sink.begun
    exchange.tick(now + 11)
    assert sink.begun and sink.body == WAITING
    exchange.tick(now + 12)
    exchange.tick(now + 22)
    assert sink.body == WAITING * 2
    world.flight.fail(lost())  # the head alone is no promise: another may answer
    world.flight.head(200, SSE)
    world.flight.data(TEXT + FINISH)
    exchange.tick(now + 99)
    world.flight.end()
    assert sink.body == WAITING * 2 + TEXT + FINISH + DONE
    world.check_idle(1)


def test_after_the_head_every_end_is_an_event() -> None:
    for how in ("fault", "whole answer", "finish"):
        world = World(retries=0)
        sink, exchange = world.ask(stream=True)
        exchange.tick(exchange.received + 11)
        if how == "fault":
            world.flight.fail(lost())
        elif how == "whole answer":
            world.flight.whole(ANSWER)
            assert sink.error["code"] == "not_a_stream"
        else:
            world.flight.whole(FINISH.rstrip() + b"\n", headers=SSE)
            assert sink.body == WAITING + FINISH + DONE
        assert sink.done and sink.status == 200
        world.check_idle(1)


def test_a_client_that_reads_no_more_is_cut_off() -> None:
    world = World()
    sink, exchange = world.ask(stream=True)
    flight = world.flight
    flight.head(200, SSE)
    flight.data(TEXT)
    exchange.pause()
    assert flight.paused
    exchange.resume()
    assert not flight.paused
    exchange.pause()
    exchange.tick(world.core.clients.now + 119)
    assert not sink.done
    exchange.tick(world.core.clients.now + 121)
    assert sink.broken and flight.cancels
    world.check_idle(1)
    assert world.record.status == 499


def test_a_retry_keeps_the_clients_pace() -> None:
    world = World()
    _, exchange = world.ask(stream=True)
    exchange.pause()
    world.flight.fail(lost())
    assert world.flight.paused
    exchange.gone()
    world.check_idle(1)


# --- waiting for a replica


def test_a_parked_call_goes_when_a_replica_is_ready() -> None:
    world = World(1, health="loading")
    asked = [world.ask() for _ in range(2)]
    assert not world.flights and len(world.core.parked) == 2
    world.core.wake(world.replicas[0])  # still loading: they wait on
    waits = [e.parked_at for _, e in asked]
    assert len(world.core.parked) == 2 and None not in waits
    world.replicas[0].health = "ready"
    world.core.wake(world.replicas[0])
    assert len(world.flights) == 2 and not world.core.parked
    for flight in world.flights:
        flight.whole(ANSWER)
    world.check_idle(2)


def test_slots_are_handed_on_in_order() -> None:
    world = World(1, slots=1)
    sinks: list[FakeSink] = [world.ask()[0] for _ in range(3)]
    for i, sink in enumerate(sinks):
        assert len(world.core.parked) == 2 - i
        world.flight.whole(ANSWER)
        assert sink.status == 200
    world.check_idle(3)


@pytest.mark.parametrize(("health", "code", "says"), [("loading", "model_loading", "42 %"), ("ready", "replicas_busy", "busy for 60 s")])
def test_waits_end(health: Any, code: str, says: str) -> None:
    world = World(1, health=health, slots=1)
    world.replicas[0].reason = "42 %"
    busy = [] if health == "loading" else [world.ask()]
    sink, exchange = world.ask()
    exchange.tick(exchange.received + 59)
    assert not sink.done
    exchange.tick(exchange.received + 99)
    assert sink.status == 503 and sink.error["code"] == code and says in sink.error["message"] and "retry-after" in sink.headers
    for _, other in busy:
        other.gone()
    world.check_idle(1 + len(busy))


def test_a_replica_that_goes_down_ends_the_wait() -> None:
    world = World(1, health="loading")
    sink, _ = world.ask()
    world.replicas[0].health, world.replicas[0].reason = "down", "no such file"
    world.core.wake(world.replicas[0])
    assert sink.status == 503 and "no such file" in sink.error["message"]
    world.check_idle(1)


def test_the_queue_is_bounded_and_the_gone_leave_it() -> None:
    world = World(1, health="loading", limits=Limits(concurrency=2 * MAX_PARKED))
    asked = [world.ask() for _ in range(MAX_PARKED)]
    assert world.ask()[0].error["code"] == "queue_full"
    asked[0][1].gone()
    sink, late = world.ask()
    assert not sink.done
    for _, exchange in [*asked, (sink, late)]:
        exchange.gone()
    world.check_idle(MAX_PARKED + 2)


def test_gone_and_shut_end_everything() -> None:
    world = World()
    _, exchange = world.ask()
    flight = world.flight
    exchange.gone()
    exchange.gone()
    assert flight.cancels == 1 and world.record.status == 499 and world.record.fault == "cancelled"
    asked = [world.ask(), world.ask(stream=True)]
    world.flights[0].head(200, SSE)
    world.core.cut()
    assert all(sink.error["code"] == "draining" for sink, _ in asked)
    world.check_idle(3)
    exchange.tick(exchange.received + 999)
    assert "under way" in repr(world.core)
