"""What configuration makes of policies, and what one call's pilot learns for the next."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest

from backends import wire
from backends.http import Clients
from backends.types import Call, Usage
from gateway.auth import Tenant
from gateway.build import generation
from gateway.choosers import Pilot, RouteChooser, minute_of_day
from gateway.config import parse
from gateway.fleet import Fleet
from gateway.serve import Generation
from routing.private import Near
from routing.types import Decision

BACKENDS: dict[str, Any] = {
    "desk": {"urls": ["http://127.0.0.1:1", "http://127.0.0.1:2"], "local": True, "kind": "llama-server", "health_seconds": 0, "slots": 4},
    "cloud": {"url": "https://api.example.com/v1", "prices": {"input": 1, "output": 4}, "facts": {"images": False, "audio": False},
              "unsupported": ["tools"]},
}  # fmt: skip
TENANT = Tenant("ann")


def built(work: Callable[[Generation, Fleet, Callable[[dict[str, Any]], Awaitable[Generation]]], None], **routes: Any) -> None:
    """Calls `work` with what the configuration gives, its fleet, and what builds another generation on that."""

    async def main() -> None:
        clients = Clients(asyncio.get_running_loop())
        fleet = Fleet(clients, lambda replica: None, lambda: None)

        async def build(routes: dict[str, Any]) -> Generation:
            targets = [{"backend": "desk", "model": "d"}, {"backend": "cloud", "model": "c"}]
            config = parse(json.dumps({"backends": BACKENDS, "routes": {n: {"targets": targets} | r for n, r in routes.items()}}), {})
            await fleet.apply(config)
            return generation(1, config, fleet)

        try:
            work(await build(routes), fleet, build)
        finally:
            await fleet.stop()

    asyncio.run(main())


def call(stream: bool = True, **doc: Any) -> Call:
    return Call(b"1", "chat", "m", stream, wire.parse(json.dumps({"messages": [], **doc}).encode()), "ann", {}, 0.0)


class Now:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


def pilot(chooser: RouteChooser, now: Now, *, stream: bool = True, prompt: int = 1000, tenant: Tenant = TENANT) -> Pilot:
    return chooser.pilot(call(stream), tenant, now, prompt)


def to(p: Pilot) -> Decision:
    found = p.choose(())
    assert found is not None
    return found


def test_only_routes_with_a_policy_or_a_condition_have_a_chooser() -> None:
    routes = {"plain": {}, "quick": {"policy": "latency"}, "kv": {"policy": "kv_aware", "targets": [{"backend": "desk", "model": "d"}]},
              "some": {"targets": [{"backend": "desk", "when": {"longer": 10}}]}, "long": {"policy": "p2c", "continue": True}}  # fmt: skip

    def work(made: Generation, fleet: Fleet, build: Any) -> None:
        names = [(type(route).__name__, route.name) for route in made.choosers]
        assert sorted(names) == [("Near", n) for n in ("long", "quick", "some")] + [
            ("Route", n) for n in ("long", "long", "long", "quick", "some")
        ]
        for route, chooser in made.choosers.items():
            replicas = {r.name for r in route.replicas}
            assert {o.replica.name for o in chooser.chooser.options} == replicas
            if isinstance(route, Near):
                assert replicas == {"desk#0", "desk#1"}
            assert route.name in repr(chooser)
        whole = made.choosers[made.routes["quick"]].chooser
        desk, _, cloud = whole.options
        assert desk.local and desk.free and not desk.unsupported and (desk.pace.slots, desk.weight) == (4, 0.5)
        assert not cloud.local and not cloud.free and cloud.unsupported == {"images", "audio", "tools"}
        near = made.choosers[made.near["quick"]].chooser
        assert near.options[0].pace is desk.pace, "what is learned of a replica is learned for all"

    built(work, **routes)


def test_a_stream_teaches_both_times_and_the_next_call_goes_elsewhere() -> None:
    def work(made: Generation, fleet: Fleet, build: Any) -> None:
        chooser, now = made.choosers[made.routes["m"]], Now()
        for _ in range(12):
            p = pilot(chooser, now)
            where = to(p)
            p.sent(where)
            where.replica.inflight += 1
            slow = where.replica.backend == "desk"
            now.seconds += 4.0 if slow else 0.3
            p.answered(where)
            now.seconds += 10.0 if slow else 2.0
            p.answered(where)  # idempotent
            p.over(where, Usage(input=1000, output=101))
            where.replica.inflight -= 1
            p.released(where)
            p.released(where)  # idempotent
        last = to(pilot(chooser, now))
        assert last.replica.backend == "cloud" and last.reason == "soonest by learned times"
        assert last.scores["cloud"]["seconds"] < 5 < last.scores["desk#0"]["seconds"]
        assert all(o.pace.idle for o in chooser.chooser.options) and chooser.chooser.output < 256

    built(work, m={"policy": "latency"})


def test_local_first_spills_while_the_local_one_is_slow_and_comes_back() -> None:
    def work(made: Generation, fleet: Fleet, build: Any) -> None:
        chooser, now = made.choosers[made.routes["m"]], Now()
        first = pilot(chooser, now)
        home = to(first)
        assert (home.replica.backend, home.reason) == ("desk", "local")
        first.sent(home)
        now.seconds += 30.0
        first.answered(home)
        first.over(home, Usage(output=11))
        first.released(home)
        other = pilot(chooser, now)
        second = to(other)
        assert second.replica.backend == "desk" and second.replica is not home.replica, "the other local one is tried before it is judged"
        other.sent(second)
        now.seconds += 30.0
        other.answered(second)
        other.released(second)
        spilled = to(pilot(chooser, now))
        assert spilled.replica.backend == "cloud" and "no local one meets the goal" in spilled.reason
        private = made.choosers[made.near["m"]]
        assert to(pilot(private, now, tenant=Tenant("ann", private=True))).replica.backend == "desk"
        now.seconds += 7 * 3600
        assert to(pilot(chooser, now)).replica.backend == "desk", "it is not given up for ever"

    built(work, m={"policy": {"name": "local_first", "ttft": 2.0}})


def test_answers_in_one_piece_and_those_that_never_came() -> None:
    def work(made: Generation, fleet: Fleet, build: Any) -> None:
        chooser, now = made.choosers[made.routes["m"]], Now()
        p = pilot(chooser, now, stream=False)
        where = to(p)
        p.sent(where)
        now.seconds += 2.0
        p.answered(where)  # says nothing yet: it is the end as well
        p.over(where, Usage(output=1))
        p.released(where)
        option = chooser.chooser.option(where)
        assert option is not None and option.pace.ttft(1000, 0, now.seconds) == pytest.approx(2.0)
        failed = pilot(chooser, now)
        failed.sent(where)
        now.seconds += 100.0
        failed.released(where)
        failed.over(where, None)
        failed.answered(where)
        after = option.pace.ttft(1000, 0, now.seconds)
        assert after is not None and after > 5.0 and option.pace.idle
        unknown = pilot(chooser, now)
        unknown.sent(Decision(where.replica, made.routes["m"].arms[1].target, ""))  # not of this route: nothing to learn
        unknown.released(where)

    built(work, m={"policy": "priority"})


def test_the_rest_of_an_answer_and_what_is_only_relayed_teach_nothing() -> None:
    def work(made: Generation, fleet: Fleet, build: Any) -> None:
        chooser, now = made.choosers[made.routes["m"]], Now()
        p = pilot(chooser, now)
        first, second = made.routes["m"].arms[0].choices
        p.sent(first)
        now.seconds += 1.0
        p.answered(first)
        p.released(first)
        p.sent(second)  # goes on with it
        now.seconds += 50.0
        p.answered(second)
        p.over(second, Usage(output=400))
        p.released(second)
        assert [o.pace.starts.seen for o in chooser.chooser.options] == [1, 0, 0]
        relayed = chooser.pilot(msgspec.structs.replace(call(), api="audio/speech"), TENANT, now)
        relayed.sent(second)
        now.seconds += 9.0
        relayed.released(second)
        assert [o.pace.starts.seen for o in chooser.chooser.options] == [1, 0, 0]

    built(work, m={"policy": "latency"})


def test_what_was_learned_outlives_a_reload_and_goes_with_its_replica() -> None:
    async def main() -> None:
        clients = Clients(asyncio.get_running_loop())
        fleet = Fleet(clients, lambda replica: None, lambda: None)

        async def build(**routes: Any) -> Generation:
            config = parse(json.dumps({"backends": BACKENDS, "routes": routes}), {})
            await fleet.apply(config)
            return generation(1, config, fleet)

        both = [{"backend": "desk", "model": "d"}, {"backend": "cloud", "model": "c"}]
        one = await build(m={"targets": both, "policy": "latency"})
        kept = [o.pace for o in one.choosers[one.routes["m"]].chooser.options]
        two = await build(m={"targets": both, "policy": "cost"}, n={"targets": both[:1]})
        assert [o.pace for o in two.choosers[two.routes["m"]].chooser.options] == kept and len(fleet.paces) == 3
        await build(m={"targets": both[:1], "policy": "latency"})
        assert len(fleet.paces) == 2
        await fleet.stop()

    asyncio.run(main())


def test_the_minute_of_the_day() -> None:
    assert 0 <= minute_of_day() < 1440
