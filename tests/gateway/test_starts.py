"""While many streams run, requests begin a few a turn, in order, and whoever leaves in the meantime is not begun at all."""

from __future__ import annotations

from gateway.starts import A_TURN, MANY, MOST
from tests.gateway.parts import SSE, FakeFlight, FakeSink, World

CONTENT = b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n'
FINISH = b'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}\n\n'


def crowded(streams: int = MANY + 1) -> tuple[World, list[FakeFlight]]:
    """A world where so many streams run."""
    world = World(1)
    for _ in range(streams):
        world.ask(stream=True)
    flights = world.flights
    for flight in flights:
        flight.head(200, SSE)
        flight.data(CONTENT)
    assert world.core.starts.spare == MANY - streams
    return world, flights


def end(flights: list[FakeFlight]) -> None:
    for flight in flights:
        flight.data(FINISH + b"data: [DONE]\n\n")
        flight.end()


def asked(world: World, count: int) -> list[FakeSink]:
    """Requests that come in one turn, each with its number."""
    return [world.ask({"user": str(n)})[0] for n in range(count)]


def begun(world: World, before: list[FakeFlight]) -> list[str]:
    """The numbers of those that have been sent, in that order."""
    return [bytes(flight.call.doc["user"]).decode().strip('"') for flight in world.flights if flight not in before]


def test_a_crowd_begins_a_few_a_turn_in_order() -> None:
    world, running = crowded()
    asked(world, 2 * A_TURN + 1)
    for turn in (1, 2):
        assert begun(world, running) == [str(n) for n in range(turn * A_TURN)]
        world.loop.turn()
    assert begun(world, running) == [str(n) for n in range(2 * A_TURN + 1)]
    world.ask({"user": "late"})  # there is room in this turn
    assert begun(world, running)[-1] == "late"
    world.loop.turn()
    world.loop.turn()
    assert not world.loop.soon  # nothing waits: nothing is called any more


def test_on_a_full_core_whose_turns_are_long_more_begin_in_each() -> None:
    world, running = crowded()
    asked(world, 200)
    for seconds, more in ((0.004, 20), (0.0, A_TURN), (0.5, MOST), (0.001, 5)):
        before = len(begun(world, running))
        world.loop.now += seconds
        world.loop.turn()
        assert len(begun(world, running)) == before + more
    assert begun(world, running) == [str(n) for n in range(A_TURN + 20 + A_TURN + MOST + 5)]


def test_who_comes_while_others_wait_does_not_overtake_them() -> None:
    world, running = crowded()
    asked(world, A_TURN + 1)
    world.loop.turn()
    assert len(begun(world, running)) == A_TURN + 1
    for n in range(A_TURN, 3 * A_TURN):
        world.ask({"user": f"more {n}"})
    assert len(begun(world, running)) == 2 * A_TURN
    world.loop.turn()
    last = world.ask({"user": "last"})[0]
    assert begun(world, running)[-1] != "last" and not last.done
    world.loop.turn()
    found = begun(world, running)
    assert found[-1] == "last" and found[A_TURN + 1 : -1] == [f"more {n}" for n in range(A_TURN, 3 * A_TURN)]


def test_with_few_streams_nobody_waits() -> None:
    world, running = crowded(MANY)
    asked(world, 5 * A_TURN)
    assert len(begun(world, running)) == 5 * A_TURN and not world.loop.soon


def test_who_leaves_while_waiting_is_never_sent_and_keeps_nobody_from_a_place() -> None:
    world, running = crowded()
    asked(world, A_TURN)
    sink, gone = world.ask({"user": "gone"})
    kept = world.ask({"user": "kept"})[0]
    gone.gone()
    world.loop.turn()
    assert begun(world, running)[-1] == "kept" and not sink.done and not kept.done
    assert [record.status for record in world.recorder.records] == [499]


def test_a_client_that_reads_nothing_while_it_waits_gets_no_faster_answer() -> None:
    world, running = crowded()
    asked(world, A_TURN)
    _, slow = world.ask({"user": "slow"})
    slow.pause()
    world.loop.turn()
    assert begun(world, running)[-1] == "slow" and world.flights[-1].paused


def test_whatever_way_a_stream_ends_it_runs_no_longer() -> None:
    world, flights = crowded(5)
    _, waiting = world.ask(stream=True)
    end(flights[:2])
    flights[2].data(b'data: {"error":{"message":"out of memory"}}\n\n')
    [exchange] = [e for e in world.core.inflight if e.flight is flights[3]]
    exchange.gone()
    assert world.core.starts.spare == MANY - 1
    world.core.cut()
    assert waiting.ended
    world.check_idle(6)


def test_when_the_gateway_stops_who_waits_is_told() -> None:
    world, _ = crowded()
    sinks = asked(world, A_TURN + 1)
    world.core.draining = True
    world.core.cut()
    world.loop.turn()
    assert [sink.error["code"] for sink in sinks] == ["draining"] * len(sinks)
    world.check_idle(MANY + 1 + A_TURN + 1)
