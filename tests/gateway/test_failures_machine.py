"""Every interleaving of what can happen to guided calls: whatever comes, each ends once, and what it held is given back."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, invariant, rule

from backends.types import Timeouts
from gateway.exchange import Exchange
from routing.plan import Hedge
from routing.retry import Backoff
from routing.types import NO_ROUTE
from tests.gateway.planned import Planned
from tests.gateway.test_exchange_machine import Calls


class Guided(Calls):
    """As `Calls`, on a route with everything that a plan can hold."""

    asked = Bundle("asked")

    def __init__(self) -> None:
        super().__init__()
        self.world: Planned = Planned(
            2, retries=2, concurrency=8, backoff=Backoff(1.0, 4.0), hedge=Hedge(0.5, 1.0), coalesce=True, mode="flag",
            timeouts=Timeouts(first_token=15.0, min_rate=0.5, rate_window=5.0, total=100.0), chain=("longer", "last"), content="longer",
        )  # fmt: skip
        self.world.replicas[0].slots = 1

    @rule(target=asked, stream=st.booleans(), seed=st.sampled_from([0, 0, None]))
    def ask_the_same(self, stream: bool, seed: int | None) -> Exchange:
        self.every.append(self.world.ask({"seed": seed}, stream=stream))
        return self.every[-1][1]

    @invariant()
    def counters_follow(self) -> None:
        world, core = self.world, self.world.core
        alive = {e for _, e in self.every if not e.ended}
        assert core.inflight == alive and set(core.parked) <= alive
        assert len(world.recorder.records) == len(self.every) - len(alive)
        routes = [world.route, *world.others.values()]
        assert {r.name: r.inflight for r in routes} == {r.name: sum(e.route is r for e in alive) for r in routes}
        assert all(e.route is not NO_ROUTE for e in alive)
        for replica in world.replicas:
            assert replica.inflight == sum(f.replica == replica.name for f in world.flights)
            assert replica.slots is None or replica.inflight <= replica.slots
        assert all(shared.leader in alive for shared in core.leaders.values())
        for sink, exchange in self.every:
            guide = exchange.guide
            assert guide is not None or exchange.ended
            follows = guide is not None and guide.leader is not None
            shares = guide is not None and guide.shared is not None
            assert shares or sink.done == (exchange.ended and exchange not in self.hidden)
            assert exchange.flight is None or not exchange.flight.over or exchange.ended  # type: ignore[attr-defined]
            assert (exchange in core.parked) == (exchange.parked_at is not None and not exchange.ended)
            waits = guide is not None and guide.again_at is not None
            assert exchange.ended or exchange in core.parked or exchange.held is not None or waits or follows
            assert not exchange.ended or guide is None or guide.rival is None

    def teardown(self) -> None:
        for _ in range(2):  # a leader that leaves goes on while others follow
            for _, exchange in self.every:
                self.hidden.add(exchange)
                exchange.gone()
        self.world.check_idle(len(self.every))


TestGuided = Guided.TestCase
TestGuided.settings = settings(max_examples=150, stateful_step_count=40)
