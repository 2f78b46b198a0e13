"""Stages of load against a real server: what is sent when, what ends a stage, and that a stall is not hidden.

Nothing here is asserted of how long something took; where times matter they are compared with the server's own, by one clock.
"""

from __future__ import annotations

import asyncio
import gc
import json
import resource
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any

import pytest
import uvloop

from benchmarks.bench import drive
from benchmarks.bench.client import Client
from benchmarks.bench.drive import Limits, run_stage
from benchmarks.bench.health import memory_of
from benchmarks.bench.nullserver import Running, Script, running
from benchmarks.bench.words import Ask, Profile, Sample, Stage, Target, Timed
from tests.bench.sockets import GOOD, Peer, always, client, scripted

RATE, SYNC = Profile("rate", 100.0), Profile("sync")
BODY = json.dumps({"model": "null", "stream": True, "messages": [{"role": "user", "content": "x"}]}).encode()


def asks(count: int | None = None, gap: float = 0.0, built: list[int] | None = None) -> Iterator[Ask]:
    index = 0
    while count is None or index < count:
        if built is not None:
            built.append(index)
        yield Ask(index, BODY, 1, 1, due=index * gap)
        index += 1


async def staged(server: Running, profile: Profile, requests: Iterator[Ask], limits: Limits, **more: Any) -> Stage:
    made = Client(Target(server.url, "null"), timeout=60)
    try:
        return await run_stage(made, profile, requests, limits, repeat=2, **more)
    finally:
        await made.close()


def overlap(timed: Sequence[Timed]) -> int:
    """The most requests that were under way at a time."""
    edges = sorted([(one.sent, 1) for one in timed] + [(one.done, -1) for one in timed], key=lambda edge: (edge[0], edge[1]))
    most = now = 0
    for _, step in edges:
        now += step
        most = max(most, now)
    return most


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


def test_interrupted_it_keeps_what_was_measured_and_counts_what_was_cut_off() -> None:
    async def main() -> None:
        stop = asyncio.Event()

        async def act(peer: Peer) -> None:
            while await peer.request():
                if len(server.requests) > 10:
                    stop.set()
                    await peer.reader.read()
                    return
                await peer.send(GOOD)

        async with scripted(act) as server, client(server.target()) as made:
            stage = await run_stage(made, Profile("concurrent", 2.0), asks(), Limits(), repeat=0, stop=stop)
            assert stage.cut == "interrupted" and all(one.good for one in stage.timed)
            assert 1 <= stage.cut_off <= 2 and 10 <= len(stage.timed) + stage.cut_off <= len(server.requests)

    asyncio.run(main())


def test_a_saturated_server_ends_the_stage_and_is_judged_by_what_began(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drive, "SAMPLE", 0.02)
    monkeypatch.setattr(drive, "JUDGED", 10)
    monkeypatch.setattr(drive, "JUDGE", 2)
    shown: list[list[Timed]] = []

    def saturated(timed: Sequence[Timed], seconds: float) -> bool:
        shown.append(list(timed))
        assert seconds > 0
        return sum(not one.done for one in timed) >= 8

    async def act(peer: Peer) -> None:
        while await peer.request():
            await peer.reader.read()

    async def main() -> None:
        async with scripted(act) as server, client(server.target()) as made:
            stage = await run_stage(made, RATE, asks(gap=0.002), Limits(max_concurrency=3), repeat=0, saturated=saturated)
            assert (stage.cut, stage.cut_off, stage.timed, stage.seconds) == ("saturated", 3, [], 0.0)
            assert stage.held >= 5 and all(len(each) <= 10 for each in shown)

    asyncio.run(main())


def test_a_line_that_grows_for_ever_is_saturation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drive, "SAMPLE", 0.01)
    monkeypatch.setattr(drive, "MOST_WAITING", 20)

    async def act(peer: Peer) -> None:
        await peer.request()
        await peer.reader.read()

    async def main() -> None:
        async with scripted(act) as server, client(server.target()) as made:
            stage = await run_stage(made, RATE, asks(gap=0.0005), Limits(max_concurrency=1), repeat=0)
            assert (stage.cut, stage.cut_off) == ("saturated", 1) and stage.held > 20

    asyncio.run(main())


def test_samples_tell_how_it_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drive, "SAMPLE", 0.02)
    seen: list[Sample] = []

    async def main() -> None:
        stop = asyncio.Event()

        def watch(sample: Sample) -> None:
            seen.append(sample)
            if len(seen) > 3 and sample.failed and any(each.first is not None for each in seen):
                stop.set()

        async with running(Script(chunks=1, ttft=0.005, itl=0.001, fail=4)) as server:
            memory = memory_of({"server": server.pid, "gone": 2**22 + 1})
            stage = await staged(server, Profile("concurrent", 2.0), asks(), Limits(), watch=watch, stop=stop, memory=memory)
        assert stage.samples == seen
        assert all(set(each.memory) == {"server"} and each.memory["server"] > 1 << 20 for each in seen)
        assert [each.done for each in seen] == sorted(each.done for each in seen) and 0 < seen[-1].failed < seen[-1].done
        assert all(each.under_way <= 2 for each in seen) and any(each.under_way for each in seen)
        assert [each.at for each in seen] == sorted(each.at for each in seen)

    asyncio.run(main())


def test_failures_are_kept_with_the_rest() -> None:
    async def main() -> None:
        async with running(Script(chunks=1, fail=5)) as server:
            stage = await staged(server, Profile("concurrent", 3.0), asks(), Limits(20))
        bad = [one for one in stage.timed if not one.good]
        assert len(bad) == 4 and {one.error for one in bad} == {"status 503: as the script says"} and len(stage.timed) == 20

    asyncio.run(main())


@pytest.mark.parametrize("profile", [SYNC, RATE])
def test_what_the_requests_source_raises_ends_the_stage(profile: Profile) -> None:
    def broken() -> Iterator[Ask]:
        yield from asks(1500)
        raise ValueError("line 1501 of the trace is no request")

    async def main() -> None:
        was = gc.isenabled()
        async with scripted(always) as server, client(server.target()) as made:
            with pytest.raises(ValueError, match="line 1501"):
                await run_stage(made, profile, broken(), Limits(), repeat=0)
            assert gc.isenabled() is was
            stage = await run_stage(made, profile, asks(3), Limits(), repeat=0)
            assert len(stage.timed) == 3

    asyncio.run(main())


@pytest.mark.parametrize("what", ["watch", "saturated", "memory"])
def test_what_a_callback_raises_ends_the_stage(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drive, "SAMPLE", 0.01)

    def fails(*_: object) -> bool:
        raise LookupError("its own")

    async def main() -> None:
        async with scripted(always) as server, client(server.target()) as made:
            with pytest.raises(LookupError, match="its own"):
                await run_stage(made, SYNC, asks(), Limits(), repeat=0, **{what: fails})  # type: ignore[arg-type]

    asyncio.run(main())


@pytest.mark.parametrize(("profile", "text"), [(Profile("sweep"), "one level"), (Profile("concurrent", 0.0), "sends nothing")])
def test_a_stage_is_one_level(profile: Profile, text: str) -> None:
    async def main() -> None:
        async with client(Target("http://127.0.0.1:9/v1", "m")) as made:
            with pytest.raises(ValueError, match=text):
                await run_stage(made, profile, asks(1), Limits(), repeat=0)

    asyncio.run(main())


def test_requests_are_built_ahead_but_not_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[int] = []

    async def act(peer: Peer) -> None:
        await peer.request()
        assert len(built) == 50  # all that are ahead, before the first was sent
        await peer.send(GOOD)
        await always(peer)

    async def main() -> None:
        monkeypatch.setattr(drive, "AHEAD", 50)
        async with scripted(act) as server, client(server.target()) as made:
            stage = await run_stage(made, SYNC, asks(built=built), Limits(120), repeat=0)
            assert len(stage.timed) == 120 and all(one.good for one in stage.timed) and built == list(range(120))
            monkeypatch.setattr(drive, "AHEAD_BYTES", 3 * len(BODY))
            del built[:]
            await run_stage(made, SYNC, asks(built=built), Limits(0), repeat=0)
            assert built == []
            feed = drive._Feed(asks(built=built), None)
            assert built == [0, 1, 2] and feed.take() is not None

    asyncio.run(main())


def test_too_few_file_descriptors_are_the_clients_trouble(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drive, "_files", lambda: 2)

    async def main() -> None:
        async with running(Script(chunks=1, ttft=0.01)) as server:
            stage = await staged(server, Profile("trace"), asks(10), Limits())
        assert 1 <= stage.held <= 8 and ("raise `ulimit -n`" in stage.health.trouble or "The client" in stage.health.trouble)
        assert overlap(stage.timed) <= 2

    asyncio.run(main())


def test_the_limit_of_open_files_is_raised_as_far_as_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int]] = []
    for now, raised, room in (
        ((1024, 4096), [(4096, 4096)], 4096 - 128),
        ((1024, -1), [(65536, -1)], 65536 - 128),
        ((-1, -1), [], 65536),
        ((100, 100), [], 1),
    ):
        del asked[:]
        monkeypatch.setattr(resource, "getrlimit", lambda _, now=now: now)
        monkeypatch.setattr(resource, "setrlimit", lambda _, limits: asked.append(limits))
        assert drive._files() == room and asked == raised
