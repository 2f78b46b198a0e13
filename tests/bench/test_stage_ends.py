"""What ends a stage, what it tells on the way, and what it builds ahead."""

from __future__ import annotations

import asyncio
import gc
import resource
import socket
from collections.abc import Iterator, Sequence

import pytest

from benchmarks.bench import drive
from benchmarks.bench.drive import Limits, run_stage
from benchmarks.bench.health import memory_of
from benchmarks.bench.nullserver import Script, running
from benchmarks.bench.words import Ask, Profile, Sample, Target, Timed
from tests.bench.loads import BODY, RATE, SYNC, asks, overlap, staged
from tests.bench.sockets import GOOD, Peer, always, client, scripted


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
            assert 1 <= stage.cut_off <= 2 and 10 <= len(stage.timed) + stage.cut_off <= len(server.requests) + 2

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


def test_a_server_that_is_gone_is_not_hammered() -> None:
    async def main() -> None:
        with socket.socket() as taken:  # bound, not listening
            taken.bind(("127.0.0.1", 0))
            async with client(Target(f"http://127.0.0.1:{taken.getsockname()[1]}/v1", "m")) as made:
                stage = await run_stage(made, SYNC, asks(), Limits(seconds=0.25), repeat=0)
        assert 1 <= len(stage.timed) <= 3 and all("connection refused" in one.error for one in stage.timed)
        assert 0 <= stage.seconds <= stage.timed[-1].done

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
