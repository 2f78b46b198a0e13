"""Every interleaving of what can happen to several calls at once: whatever comes, each ends once and the counters follow."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from backends.types import Fault
from gateway.exchange import Exchange
from gateway.starts import MANY
from tests.gateway.parts import JSON, SSE, FakeFlight, FakeSink, World
from tests.gateway.test_exchange import ANSWER, BOOM, DONE, FINISH, ROLE, TEXT, USAGE

parts = st.sampled_from([ROLE, TEXT, FINISH, USAGE, DONE, BOOM, b"garbage", ANSWER, b": c\n\n", TEXT + FINISH, b"\n\n"])
heads = st.sampled_from([(200, SSE), (200, JSON), (429, JSON), (500, JSON), (400, JSON), (200, {})])
faults = st.sampled_from([
    Fault("upstream", "lost", origin="backend", retry=True, code="connection_lost"),
    Fault("unavailable", "refused", origin="backend", retry=True, code="connect_failed"),
    Fault("upstream", "no", origin="backend"),
])  # fmt: skip
whiches = st.integers(0, 50)


class Calls(RuleBasedStateMachine):
    """Two replicas, one of them with one slot; a route that takes six calls."""

    asked = Bundle("asked")

    def __init__(self) -> None:
        super().__init__()
        self.world = World(2, retries=2, concurrency=6)
        self.world.replicas[0].slots = 1
        self.every: list[tuple[FakeSink, Exchange]] = []
        self.hidden: set[Exchange] = set()  # ended by their client's leaving: the sink hears nothing

    def flight(self, which: int) -> FakeFlight | None:
        flights = self.world.flights
        return flights[which % len(flights)] if flights else None

    @rule(target=asked, stream=st.booleans())
    def ask(self, stream: bool) -> Exchange:
        self.every.append(self.world.ask(stream=stream))
        return self.every[-1][1]

    @rule(which=whiches, head=heads)
    def head(self, which: int, head: tuple[int, dict[bytes, bytes]]) -> None:
        flight = self.flight(which)
        if flight is not None and not flight.headed:
            flight.head(*head)

    @rule(which=whiches, data=parts)
    def data(self, which: int, data: bytes) -> None:
        flight = self.flight(which)
        if flight is not None and flight.headed:
            flight.data(data)

    @rule(which=whiches)
    def end(self, which: int) -> None:
        flight = self.flight(which)
        if flight is not None and flight.headed:
            flight.end()

    @rule(which=whiches, fault=faults)
    def fail(self, which: int, fault: Fault) -> None:
        flight = self.flight(which)
        if flight is not None:
            flight.fail(fault)

    @rule(which=whiches, head=heads, data=parts)
    def whole(self, which: int, head: tuple[int, dict[bytes, bytes]], data: bytes) -> None:
        flight = self.flight(which)
        if flight is not None and not flight.headed:
            flight.whole(data, *head)

    @rule(exchange=consumes(asked))
    def gone(self, exchange: Exchange) -> None:
        if not exchange.ended:
            self.hidden.add(exchange)
        exchange.gone()

    @rule(exchange=asked)
    def pause(self, exchange: Exchange) -> None:
        if not exchange.ended:
            exchange.pause()
            assert exchange.flight is None or exchange.flight.paused  # type: ignore[attr-defined]

    @rule(exchange=asked)
    def resume(self, exchange: Exchange) -> None:
        if not exchange.ended:
            exchange.resume()

    @rule(seconds=st.sampled_from([0.1, 11.0, 61.0, 130.0]))
    def tick(self, seconds: float) -> None:
        core = self.world.core
        core.clients.now += seconds  # the same clock for all: waits, pauses, rests
        for exchange in [*core.inflight]:
            exchange.tick(core.clients.now)

    @rule(which=st.integers(0, 1), health=st.sampled_from(["ready", "loading", "down"]))
    def turn(self, which: int, health: str) -> None:
        replica = self.world.replicas[which]
        replica.health = health  # type: ignore[assignment]
        self.world.core.wake(replica)

    @rule(which=st.integers(0, 1), refuse=st.booleans())
    def refuse(self, which: int, refuse: bool) -> None:
        self.world.links[which].refuse = Fault("bad_request", "no", origin="client") if refuse else None

    @rule()
    def cut(self) -> None:
        self.world.core.cut()

    @invariant()
    def counters_follow(self) -> None:
        world, core = self.world, self.world.core
        alive = {e for _, e in self.every if not e.ended}
        assert core.inflight == alive and set(core.parked) <= alive
        assert len(world.recorder.records) == len(self.every) - len(alive)
        assert world.route.inflight == sum(e.route is not None for e in alive)
        assert core.starts.spare == MANY - sum(e.running for e in alive)
        for i, replica in enumerate(world.replicas):
            assert replica.inflight == sum(f.replica == str(i) for f in world.flights)
            assert replica.slots is None or replica.inflight <= replica.slots
        for sink, exchange in self.every:
            assert sink.done == (exchange.ended and exchange not in self.hidden)
            assert exchange.flight is None or not exchange.flight.over or exchange.ended  # type: ignore[attr-defined]
            assert (exchange in core.parked) == (exchange.parked_at is not None and not exchange.ended)
            assert exchange.ended or exchange in core.parked or exchange.held is not None

    def teardown(self) -> None:
        for _, exchange in self.every:
            self.hidden.add(exchange)
            exchange.gone()
        self.world.check_idle(len(self.every))


TestCalls = Calls.TestCase
TestCalls.settings = settings(max_examples=150, stateful_step_count=40)
