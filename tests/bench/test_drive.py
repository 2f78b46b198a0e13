"""Stages of load against a real server: what is sent when, what ends a stage, and that a stall is not hidden.

Nothing here is asserted of how long something took; where times matter they are compared with the server's own, by one clock.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvloop

from benchmarks.bench.client import Client
from benchmarks.bench.drive import Limits, run_stage
from benchmarks.bench.nullserver import Script, running
from benchmarks.bench.words import Ask, Profile, Target
from tests.bench.loads import RATE, SYNC, asks, overlap, staged
from tests.bench.sockets import GOOD, Peer, client, scripted


@pytest.mark.parametrize(("profile", "limits", "most"), [
    (SYNC, Limits(20), 1),
    (Profile("concurrent", 4.0), Limits(40), 4),
    (Profile("concurrent", 9.0), Limits(40, max_concurrency=2), 2),
])  # fmt: skip
def test_closed_loops_send_when_they_have_an_answer(profile: Profile, limits: Limits, most: int) -> None:
    async def main() -> None:
        async with running(Script(chunks=2, ttft=0.001, itl=0.001)) as server:
            stage = await staged(server, profile, asks(), limits)
        assert [one.index for one in stage.timed] == list(range(limits.requests or 0)) and all(one.good for one in stage.timed)
        assert overlap(stage.timed) <= most and {one.connection for one in stage.timed} == set(range(1, most + 1))
        assert all(one.due == 0.0 for one in stage.timed)
        assert (stage.repeat, stage.cut, stage.cut_off, stage.held) == (2, "", 0, 0)
        assert stage.seconds == max(one.done for one in stage.timed) - stage.timed[0].sent

    asyncio.run(main())


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_an_open_loop_sends_what_is_due_and_nothing_early(run: Callable[[Coroutine[Any, Any, None]], None]) -> None:
    async def main() -> None:
        async with running(Script(chunks=1)) as server:
            stage = await staged(server, RATE, asks(30, gap=0.01), Limits())
        assert [one.due for one in stage.timed[1:]] == [index * 0.01 for index in range(1, 30)] and stage.timed[0].due > 0
        assert all(one.good and one.sent >= one.due for one in stage.timed)

    run(main())


def test_many_due_at_once_go_out_in_order() -> None:
    order: list[bytes] = []

    async def act(peer: Peer) -> None:
        while await peer.request():
            order.append(peer.requests[-1][2])
            await peer.send(GOOD)

    async def main() -> None:
        requests = (Ask(n, b"%d" % n, 1, 1, due=0.05) for n in range(40))
        async with scripted(act) as server, client(server.target()) as made:
            stage = await run_stage(made, Profile("trace"), requests, Limits(max_concurrency=1), repeat=0)
            assert stage.held == 39 and order == [b"%d" % n for n in range(40)]
            assert [one.sent for one in stage.timed] == sorted(one.sent for one in stage.timed)
            assert {one.connection for one in stage.timed} == {1} and {one.due for one in stage.timed} == {0.05}
            assert not stage.health.trouble.startswith("Requests waited")  # that limit was asked for

    asyncio.run(main())


def test_a_stall_is_in_the_latencies_of_all_requests_that_were_due_during_it() -> None:
    """The test for coordinated omission. The server stops for half a second; requests are due every 5 ms; 4 may be under way."""

    async def main() -> None:
        async with running(Script(chunks=1, stall=(0.2, 0.5))) as server:
            made = Client(Target(server.url, "null"), timeout=60)
            stage = await run_stage(made, RATE, asks(300, gap=0.005), Limits(max_concurrency=4), repeat=0)
            begin, end = (each - made.origin for each in await server.stall())
            await made.close()
        assert all(one.good for one in stage.timed)
        during = [one for one in stage.timed if begin <= one.due < end]
        assert len(during) >= 50  # the schedule says so: half a second of it, less where the 300 are over
        # By the schedule every one of them waited for the stall's end.
        assert all(one.done >= end for one in during)
        # By its sending almost none did: only those that were under way. The rest was sent when it was over, and looks fast.
        seen = [one for one in stage.timed if one.sent < end and one.done >= end]
        assert 1 <= len(seen) <= 4 and stage.held > len(during) / 2
        hidden = [one for one in during if one.sent >= end]
        assert len(hidden) >= len(during) - 4
        # What they waited for a place is not the client's lag: all that were sent when due are in it, and no other.
        assert stage.health.lag_most < end - begin

    asyncio.run(main())


def test_a_closed_loop_hides_the_stall() -> None:
    """What the test before this one is about: here one request meets the stall, whatever the schedule would have been."""

    async def main() -> None:
        async with running(Script(chunks=1, stall=(0.1, 0.3))) as server:
            made = Client(Target(server.url, "null"), timeout=60)
            stage = await run_stage(made, SYNC, asks(), Limits(seconds=0.6), repeat=0)
            begin, end = (each - made.origin for each in await server.stall())
            await made.close()
        assert sum(one.sent < end and one.done >= end for one in stage.timed) == 1
        assert not [one for one in stage.timed if begin < one.sent < end][1:]

    asyncio.run(main())


def test_without_a_limit_a_stall_delays_no_sending() -> None:
    async def main() -> None:
        async with running(Script(chunks=1, stall=(0.1, 0.5))) as server:
            made = Client(Target(server.url, "null"), timeout=60)
            stage = await run_stage(made, RATE, asks(200, gap=0.005), Limits(), repeat=0)
            begin, end = (each - made.origin for each in await server.stall())
            await made.close()
        during = [one for one in stage.timed if begin <= one.due < end]
        assert len(during) >= 50 and stage.held == 0 and all(one.done >= end for one in during)
        assert sum(one.sent < end for one in during) > len(during) / 2  # all, but for what a busy machine makes late

    asyncio.run(main())


@pytest.mark.parametrize(
    ("limits", "number", "at", "warm"),
    [
        (Limits(100, None, 0.1), 9, 0.0, True),
        (Limits(100, None, 0.1), 10, 0.0, False),
        (Limits(5, None, 0.1), 0, 0.0, True),
        (Limits(1, None, 0.5), 0, 0.0, False),  # the only one is counted
        (Limits(100, None, 3), 2, 9.0, True),
        (Limits(100, None, 3), 3, 0.0, False),
        (Limits(None, 10.0, 0.1), 500, 0.99, True),
        (Limits(None, 10.0, 0.1), 0, 1.0, False),
        (Limits(100, 10.0, 0.1), 9, 0.9, True),
        (Limits(100, 10.0, 0.1), 11, 0.9, False),
        (Limits(100, 10.0, 0.1), 1, 1.1, False),
        (Limits(None, None, 0.1), 0, 0.0, False),  # a share of nothing known
        (Limits(None, None, 2), 1, 0.0, True),
        (Limits(10, None, 0.0), 0, 0.0, False),
    ],
)
def test_what_is_warm_up(limits: Limits, number: int, at: float, warm: bool) -> None:
    assert limits.warm(number, at) is warm


def test_the_warm_up_is_sent_and_marked() -> None:
    async def main() -> None:
        async with running(Script(chunks=1)) as server:
            stage = await staged(server, SYNC, asks(), Limits(20, warmup=0.25))
        assert [one.warm for one in stage.timed] == [True] * 5 + [False] * 15
        assert stage.seconds == stage.timed[-1].done - stage.timed[5].sent

    asyncio.run(main())


def test_seconds_end_the_sending_and_answers_are_waited_for() -> None:
    async def main() -> None:
        async with running(Script(chunks=2, ttft=0.05, itl=0.05)) as server:
            closed = await staged(server, Profile("concurrent", 3.0), asks(), Limits(seconds=0.2))
            opened = await staged(server, RATE, asks(gap=0.02), Limits(seconds=0.2))
        assert all(one.good for one in closed.timed + opened.timed) and closed.cut == opened.cut == ""
        assert [one.index for one in opened.timed] == list(range(10))
        assert max(one.done for one in opened.timed) > 0.2

    asyncio.run(main())
