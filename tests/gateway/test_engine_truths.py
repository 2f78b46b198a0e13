"""What is learned of engines as they load and work: of one of our own, and of others whose counters a test makes up."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from backends.engines.instance import Instance
from backends.engines.spec import EngineSpec
from backends.engines.supervisor import Supervisor
from gateway.engine_truths import FIRST_LOOK, LONGEST_LOOK, Truths, metrics, processor
from quant import builtin, calibrate, fit_measure, hardware
from quant.fit_speed import SMALL
from tests.ports import free_port

SPEC = EngineSpec("toy", "llamacpp", model=str(builtin.path()), context=1024, slots=2)
FIGURES = (
    "llamacpp:prompt_tokens_total {prompt}\nllamacpp:prompt_seconds_total {prompt_seconds}\nllamacpp:tokens_predicted_total {tokens}\n"
    "llamacpp:tokens_predicted_seconds_total {seconds}\nllamacpp:n_decode_total {calls}\nllamacpp:n_tokens_max 140\n"
    "llamacpp:n_busy_slots_per_decode {busy}\nllamacpp:requests_processing {working}\nllamacpp:requests_deferred 0\n"
)


def runs() -> dict[str, int]:
    """What was learned of small models, and how often."""
    book = calibrate.load(calibrate.place(), hardware.look().fingerprint)
    return dict(book.kinds[SMALL].runs) if SMALL in book.kinds else {}


def instance(state: str = "ready", anonymous: int = 0, **more: object) -> Instance:
    found = Instance("toy#0", msgspec.structs.replace(SPEC, **more))
    found.state, found.facts = state, {"context": 1024, "anonymous": anonymous}  # type: ignore[assignment]
    return found


class Looks:
    """Counters, one text after the other, and how long was waited between; `over` is set after a dozen looks. `ticks`: of others, by
    look."""

    def __init__(self, *texts: str, ticks: Sequence[int] = ()) -> None:
        self.left, self.ticks = iter(texts), iter(ticks)
        self.waits: list[float] = []
        self.over = asyncio.Event()
        self.truths = Truths(lambda address, key: next(self.left, "?"), self.used, self.pause)
        self.own = self.others = 0

    def used(self, group: int) -> tuple[int, int]:
        self.own += 100
        self.others += next(self.ticks, 0)
        return self.own, self.own + self.others

    async def pause(self, seconds: float) -> None:
        self.waits.append(seconds)
        if len(self.waits) >= 12:
            self.over.set()
            await asyncio.Event().wait()

    async def follow(self, one: Instance) -> None:
        """Until it has learned, or has looked a dozen times."""
        self.truths.changed(one)
        self.truths.changed(one)  # told twice: followed once
        task = self.truths._tasks["toy#0"]
        over = asyncio.ensure_future(self.over.wait())
        await asyncio.wait([task, over], return_when=asyncio.FIRST_COMPLETED)
        over.cancel()
        await self.truths.stop()


def figures(prompt: int = 0, tokens: int = 0, calls: int = 0, busy: float = 1, working: int = 0) -> str:
    seconds = {"prompt_seconds": prompt / 200, "seconds": tokens / 20}
    return FIGURES.format(prompt=prompt, tokens=tokens, calls=calls, busy=busy, working=working, **seconds)


def test_an_engine_of_ours_teaches_memory_and_speed_once_a_load() -> None:
    async def story() -> None:
        asked = []

        async def pause(seconds: float) -> None:
            if asked:
                return  # it counts when the answer is over
            asked.append(await asyncio.to_thread(fit_measure._ask, supervisor.instances[0], 0, 200, 64))

        truths = Truths(ticks=lambda group: (0, 0), pause=pause)  # other tests may run beside this one
        ready = asyncio.Event()

        def changed(one: Instance) -> None:
            truths.changed(one)
            if one.ready:
                ready.set()

        supervisor = Supervisor(changed)
        await supervisor.apply([SPEC])
        try:
            async with asyncio.timeout(120):
                await ready.wait()
                assert supervisor.instances[0].fact("anonymous")
                await truths._tasks["toy#0"]
        finally:
            await truths.stop()
            await supervisor.stop()

    asyncio.run(story())
    assert runs() == {"base": 1, "decode": 1, "prefill": 1}


def test_requests_that_shared_the_engine_tell_nothing_and_those_after_do() -> None:
    async def story() -> Looks:
        looks = Looks(figures(), "", figures(), figures(100, 40, 50, 2), figures(200, 80, 100, 1.5))
        await looks.follow(instance(anonymous=80 << 20))
        return looks

    looks = asyncio.run(story())
    assert runs() == {"base": 1, "decode": 1, "prefill": 1}
    assert looks.waits == [FIRST_LOOK, 2 * FIRST_LOOK, 4 * FIRST_LOOK, FIRST_LOOK]  # doubled while it has nothing to do


def test_a_request_that_is_under_way_is_not_judged() -> None:
    """Its tokens are counted when it ends: what is seen before is a part."""

    async def story() -> Looks:
        looks = Looks(figures(), figures(100, 0, 30, working=1), figures(100, 40, 50))
        await looks.follow(instance())
        return looks

    assert len(asyncio.run(story()).waits) == 2
    assert runs() == {"decode": 1, "prefill": 1}


def test_each_figure_is_learned_when_it_comes_and_once() -> None:
    async def story() -> Looks:
        looks = Looks(figures(), figures(10, 40, 50), figures(20, 90, 105), figures(200, 130, 150))
        await looks.follow(instance())
        return looks

    assert len(asyncio.run(story()).waits) == 3
    assert runs() == {"decode": 1, "prefill": 1}


def test_a_busy_machine_teaches_nothing() -> None:
    async def story() -> None:
        texts = [figures(100 * n, 40 * n, 50 * n) for n in range(4)]
        await Looks(*texts, ticks=(0, 90, 26, 25)).follow(instance())

    asyncio.run(story())
    assert runs() == {"decode": 1, "prefill": 1}, "only the last, beside which others took no more than a quarter"


def test_an_idle_engine_is_looked_at_ever_more_rarely() -> None:
    async def story(*texts: str) -> Looks:
        looks = Looks(*texts)
        await looks.follow(instance())
        return looks

    assert asyncio.run(story(*[figures()] * 12)).waits[-3:] == [LONGEST_LOOK] * 3
    assert asyncio.run(story(figures(), *[figures(10, 3, 12)] * 12)).waits[-3:] == [LONGEST_LOOK] * 3  # one small request
    assert runs() == {}


def test_a_mistake_of_ours_is_told(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(text: str) -> None:
        raise KeyError(text)

    monkeypatch.setattr("quant.fit_truth.counters", broken)
    asyncio.run(Looks(figures()).follow(instance()))
    assert "toy#0: nothing is learned of it" in caplog.text


def test_the_processors_time() -> None:
    own, every = processor(os.getpgrp())
    assert 0 < own <= every


@pytest.mark.parametrize("changes", [
    {"threads": 1}, {"replicas": 2}, {"draft": "d.gguf"}, {"state": "starting"}, {"kind": "vllm"}, {"args": ("n_gpu_layers=9",)},
])  # fmt: skip
def test_what_was_set_by_hand_teaches_no_speed(changes: dict[str, str]) -> None:
    async def story() -> None:
        looks = Looks()
        one = instance(**changes)
        looks.truths.changed(one)
        for task in [*looks.truths._tasks.values()]:
            await task
        assert looks.waits == []

    asyncio.run(story())


def test_an_engine_that_ends_is_not_looked_at_and_teaches_again_when_it_is_back() -> None:
    async def story() -> None:
        looks, one = Looks(*[figures()] * 3), instance()
        looks.truths.changed(one)
        task = looks.truths._tasks["toy#0"]
        one.state = "restarting"
        looks.truths.changed(one)
        await asyncio.wait([task])
        assert task.cancelled() and not looks.truths._tasks
        one.state = "ready"
        looks.truths.changed(one)
        assert looks.truths._tasks["toy#0"] is not task
        await looks.truths.stop()

    asyncio.run(story())


def test_a_state_folder_that_cannot_be_written_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))

    async def story() -> None:
        await Looks(figures(), figures(100, 40, 50)).follow(instance(anonymous=80 << 20))

    with caplog.at_level(logging.WARNING, "pointsman.engines"):
        asyncio.run(story())
    assert [r.message for r in caplog.records if "set XDG_STATE_HOME" in r.message] == [caplog.records[0].message]


def test_an_engine_that_does_not_answer_has_no_metrics() -> None:
    assert metrics(f"http://127.0.0.1:{free_port()}", "key") == ""
