"""Callbacks at given times."""

from __future__ import annotations

import asyncio
import sys
import time

import pytest

from benchmarks.bench.alarm import Alarm

KINDS = [False, *([True] if sys.platform == "linux" else [])]


@pytest.mark.parametrize("precise", KINDS)
def test_all_come_in_order_and_none_early(precise: bool) -> None:
    async def main() -> None:
        alarm, done = Alarm(precise), asyncio.Event()
        begun = time.monotonic()
        came: list[tuple[str, float]] = []

        def note(name: str, due: float) -> None:
            came.append((name, time.monotonic() - due))
            if name == "third":
                done.set()

        for name, wait in (("third", 0.03), ("first", 0.01), ("second", 0.02), ("past", -1.0)):
            due = begun + wait
            alarm.at(due, lambda name=name, due=due: note(name, due))  # type: ignore[misc]
        await asyncio.wait_for(done.wait(), 30)
        assert [name for name, _ in came] == ["past", "first", "second", "third"] and all(late >= 0 for _, late in came)
        alarm.close()

    asyncio.run(main())


@pytest.mark.parametrize("precise", KINDS)
def test_what_is_cancelled_or_closed_does_not_come(precise: bool) -> None:
    async def main() -> None:
        alarm, done = Alarm(precise), asyncio.Event()
        begun = time.monotonic()
        came: list[str] = []
        alarm.at(begun + 0.01, lambda: came.append("cancelled")).cancel()
        alarm.at(begun + 0.02, lambda: alarm.at(begun + 0.01, done.set) and None)  # one that is due already, set by another
        await asyncio.wait_for(done.wait(), 30)
        alarm.at(begun, lambda: came.append("closed"))
        alarm.close()
        alarm.close()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not came

    asyncio.run(main())


@pytest.mark.parametrize("precise", KINDS)
def test_one_that_raises_does_not_stop_the_others(precise: bool) -> None:
    async def main() -> None:
        alarm, done, told = Alarm(precise), asyncio.Event(), list[str]()
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(str(context["exception"])))
        begun = time.monotonic()

        def fails() -> None:
            raise ValueError("boom")

        alarm.at(begun + 0.01, fails)
        alarm.at(begun + 0.02, done.set)
        await asyncio.wait_for(done.wait(), 30)
        assert told == ["boom"]
        alarm.close()

    asyncio.run(main())
