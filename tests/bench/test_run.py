"""How a run goes, decides and ends; what its provenance says."""

from __future__ import annotations

import asyncio
import itertools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from benchmarks.bench import run, server, session
from benchmarks.bench.client import Client
from benchmarks.bench.drive import Limits
from benchmarks.bench.errors import BenchError
from benchmarks.bench.options import Options
from benchmarks.bench.prompts import Calibration
from benchmarks.bench.provenance import commit, machine, provenance
from benchmarks.bench.words import Ask, Figures, Health, Profile, Sample, Stage, Target, Timed
from tests.bench import made_runs

CAN = server.Abilities(exact=True, kept=True, continuous=False, usage=True)


class Watch:
    """Notes the stages that it hears of; sets an event after some of them."""

    def __init__(self, stop: asyncio.Event | None = None, after: int = 0) -> None:
        self.begun: list[tuple[Profile, int]] = []
        self.ended: list[Figures] = []
        self._stop, self._after = stop, after

    def say(self, text: str) -> None:
        return

    def begin(self, profile: Profile, repeat: int) -> None:
        self.begun.append((profile, repeat))

    def sample(self, sample: Sample) -> None:
        return

    def end(self, stage: Stage, found: Figures) -> None:
        self.ended.append(found)
        if self._stop is not None and len(self.ended) >= self._after:
            self._stop.set()


def made(options: Options) -> session.Session:
    target = Target("http://127.0.0.1:1/v1", "m")
    return session.Session(
        options, target, Client(target), CAN, Calibration(), "salt", {}, [], {1: (0.0, 0.0), 2: (0.0, 0.0), 64: (0.0, 0.0)}
    )


@pytest.fixture
def stages(monkeypatch: pytest.MonkeyPatch) -> list[Stage]:
    """Stages are not run, but made; each request of theirs is asked for."""
    done: list[Stage] = []

    async def run_stage(client: Client, profile: Profile, asks: Iterator[Ask], limits: Limits, *, repeat: int, **_: object) -> Stage:
        wanted = list(itertools.islice(asks, 5))
        stage = made_runs.stage(profile, 40, seed=repeat)
        stage.repeat = repeat
        for timed, ask in zip(stage.timed, wanted, strict=False):
            timed.error = timed.error or ""
            timed.asked_prompt = ask.prompt_tokens
        done.append(stage)
        return stage

    monkeypatch.setattr(run, "run_stage", run_stage)
    return done


def measured(options: Options, watch: Watch | None = None, stop: asyncio.Event | None = None) -> run.Measured:
    found: run.Measured = []
    asyncio.run(run._measure(made(options), found, watch or Watch(), stop or asyncio.Event()))
    return found


def test_repeats_are_interleaved(stages: list[Stage]) -> None:
    watch = Watch()
    found = measured(Options(profiles=(Profile("sync"), Profile("concurrent", value=2)), repeats=3), watch)
    assert [(profile.name, repeat) for profile, repeat in watch.begun] == [(n, r) for r in range(3) for n in ("sync", "concurrent")]
    assert [number for number, _, _ in found] == [0, 1] * 3 and len(watch.ended) == 6


def test_a_sweep_goes_on_by_what_it_found(stages: list[Stage]) -> None:
    found = measured(Options(profiles=(Profile("sweep"),), repeats=2))
    names = [stage.profile.name for _, stage, _ in found]
    once = names[: len(names) // 2]
    few = measured(Options(profiles=(Profile("sweep"),), repeats=1, max_concurrency=2))
    assert few[1][1].profile.value == 2
    assert names == once * 2 and once[:2] == ["sync", "concurrent"] and "rate" in once


def test_interrupted_after_two_stages(stages: list[Stage]) -> None:
    stop = asyncio.Event()
    found = measured(Options(profiles=(Profile("sync"),), repeats=9), Watch(stop, 2), stop)
    assert len(found) == 2


def test_a_piece_of_a_repeat_is_not_kept(stages: list[Stage], monkeypatch: pytest.MonkeyPatch) -> None:
    whole: Any = vars(run)["run_stage"]  # as the fixture has put it there

    async def cut(*args: Any, repeat: int, **more: Any) -> Stage:
        stage: Stage = await whole(*args, repeat=repeat, **more)
        stage.cut = "interrupted"
        return stage

    monkeypatch.setattr(run, "run_stage", cut)
    found = measured(Options(profiles=(Profile("sync"),), repeats=2))
    assert len(found) == 1


def test_a_stage_without_any_counted_request(monkeypatch: pytest.MonkeyPatch) -> None:
    async def empty(client: Client, profile: Profile, asks: object, limits: object, *, repeat: int, **_: object) -> Stage:
        return Stage(profile, repeat, 0.0, [Timed(0, due=0.0, warm=True)], Health())

    monkeypatch.setattr(run, "run_stage", empty)
    one = made(Options(profiles=(Profile("sweep"),)))
    found: run.Measured = []
    asyncio.run(run._measure(one, found, Watch(), asyncio.Event()))
    assert not found and "no request was counted" in one.warnings[0]


def test_the_same_seed_sends_the_same_and_no_two_stages_do() -> None:
    one, other = made(Options(input="20")), made(Options(input="20"))

    def bodies(who: session.Session, repeat: int, number: int) -> list[bytes]:
        return [ask.body for ask in itertools.islice(who.asks(Profile("sync"), repeat, number), 3)]

    assert bodies(one, 0, 0) == bodies(other, 0, 0)
    assert len({body for repeat in (0, 1) for number in (0, 1) for body in bodies(one, repeat, number)}) == 12
    same = made(Options(input="20", same_prompts=True))
    assert bodies(same, 0, 0) == bodies(same, 1, 1)


def test_schedules_offer_the_rate_that_was_asked_for() -> None:
    rate = Profile("rate", value=20.0)
    for options, count in ((Options(seconds=3.0), 60), (Options(seconds=3.0, requests=10), 10), (Options(seconds=None, requests=90), 90)):
        dues = [ask.due for ask in made(options).asks(rate, 0, 0)]
        assert len(dues) == count and math.isclose(dues[-1], count / 20) and dues == sorted(dues)
    assert session.scheduled(Options(), Profile("sync")) is None and session.scheduled(Options(seconds=0.01), rate) == 1


def test_prompts_and_answers_fit_the_model() -> None:
    assert session.lengths(Options(output="10-100"), 1000).most == 900
    assert session.lengths(Options(output="100:20"), 1000).most == 860
    assert session.lengths(Options(), None).most is None


def test_exit_codes() -> None:
    good = made_runs.stage(Profile("sync"), 50)

    def code(stage: Stage, interrupted: bool = False) -> tuple[int, str]:
        result = made_runs.run([[stage]])
        return run.exit_code(run.Outcome(result, [stage], interrupted))

    assert code(good) == (0, "") and code(good, True)[0] == 1
    slow = msgspec.structs.replace(good, health=Health(trouble="The client was late."))
    assert code(slow) == (1, "the client was the bottleneck in 1 of 1 stages: The client was late.")
    dead = msgspec.structs.replace(good, timed=[Timed(i, due=0.0, sent=1.0, done=2.0, status=500, error="broken") for i in range(3)])
    assert code(dead)[0] == 1 and "broken" in code(dead)[1]


def test_a_wrong_process_is_told() -> None:
    with pytest.raises(BenchError, match="no such process"):
        run.watched([2**31 - 2])
    assert len(run.watched([1, 1])) <= 2


def test_or_stop() -> None:
    async def go() -> None:
        stop = asyncio.Event()
        assert await session.or_stop(asyncio.sleep(0, "done"), stop) == "done"
        waiting = asyncio.ensure_future(session.or_stop(asyncio.Event().wait(), stop))
        await asyncio.sleep(0)
        stop.set()
        with pytest.raises(session.Interrupted):
            await waiting

    asyncio.run(go())


def test_provenance(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text("processor\t: 0\nmodel name\t: Test CPU: 3\nflags\t\t: sse hypervisor\n")
    (tmp_path / "proc/meminfo").write_text("MemTotal:       2097152 kB\n")
    found = machine(tmp_path)
    assert (found["processor"], found["memory"]) == ("Test CPU: 3", "2.0 GiB") and found["virtualisation"] and "governor" not in found
    assert machine(tmp_path / "nothing")["kernel"]
    told = provenance(Options(key="sesame", seed=7, version="3"), {"server": "x" * 900}, "salty")
    assert (told.seed, told.salt, told.version, len(told.server["server"])) == (7, "salty", "3", 200)
    assert "sesame" not in msgspec.json.encode(told).decode() and told.options["repeats"] == 3
    assert commit() == "" or len(commit().split()[0]) == 12
