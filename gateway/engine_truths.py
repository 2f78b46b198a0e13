"""After each load of our own llama.cpp engine: what it turned out to take, and how fast it was, against what was predicted.

Memory is told by the engine itself the moment it has loaded. Speed comes from its own counters, looked at until requests that had it and
the machine to themselves have told enough; nothing is sent to it for that, and each load teaches once. What is learned is kept for the
machine, and corrects `pointsman fit`, `pointsman doctor` and what the memory budget sets aside. One a gateway, in the process that runs the
engines, on its loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

import msgspec

from backends.engines.instance import Instance
from backends.engines.probe import cpu_ticks
from backends.engines.spec import EngineSpec

if TYPE_CHECKING:
    from quant.fit_truth import Counters, Pace

log = logging.getLogger("pointsman.engines")
FIRST_LOOK, LONGEST_LOOK = 5.0, 60.0  # seconds between two looks at an engine's counters: doubled while it has nothing to do
PATIENCE = 10.0  # seconds for them to come: they wait for the batch that is computed
MAX_TEXT = 1 << 18
FIGURES = ("token", "prompt_seconds")
OTHERS = 0.25  # of an engine's own processor time that everybody else may take meanwhile

Fetch = Callable[[str, str], str]  # base URL and key of an engine: its metrics, "" where it gives none; blocks
Ticks = Callable[[int], tuple[int, int]]  # of the processes of a group, and of everybody; zeros where the system does not tell; blocks
Pause = Callable[[float], Awaitable[None]]


class Look(NamedTuple):
    """What was seen of an engine, and the processor's ticks until then: its own, and everybody's."""

    counters: Counters
    own: int
    every: int


class Truths:
    """See the module's text. `changed` is told of every change of every instance."""

    def __init__(self, fetch: Fetch | None = None, ticks: Ticks | None = None, pause: Pause = asyncio.sleep) -> None:
        self._fetch, self._ticks, self._pause = fetch or metrics, ticks or processor, pause
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._told = False  # that nothing can be kept

    def changed(self, instance: Instance) -> None:
        """An instance's state may be another: follows it from when it is ready until it has taught or is ready no longer."""
        known = self._tasks.get(instance.name)
        if not instance.ready:
            if known is not None:
                self._tasks.pop(instance.name).cancel()
        elif known is None:
            task = self._tasks[instance.name] = asyncio.create_task(self._follow(instance))
            task.add_done_callback(partial(_ended, instance.name))

    async def stop(self) -> None:
        """Follows no engine any more."""
        tasks = [*self._tasks.values()]
        self._tasks.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _follow(self, instance: Instance) -> None:
        if instance.spec.kind != "llamacpp":
            return
        learn, truth = await asyncio.to_thread(_tools)
        spec = msgspec.structs.replace(instance.spec, context=instance.spec.context or instance.fact("context"))
        if not learn.usual(spec):
            return
        anonymous = instance.fact("anonymous") or 0
        if anonymous and not await self._learned(instance.name, partial(learn.memory, spec, anonymous)):
            return
        if learn.whole(spec):
            await self._speed(instance, spec, learn, truth)

    async def _speed(self, instance: Instance, spec: EngineSpec, learn: ModuleType, truth: ModuleType) -> None:
        """Looks until both figures were learned."""
        known: set[str] = set()
        before: Look | None = None
        calls, wait = -1.0, FIRST_LOOK
        while True:
            look = await asyncio.to_thread(self._look, instance, truth)
            if look is not None and look.counters.calls != calls:
                calls, wait = look.counters.calls, FIRST_LOOK
            if look is not None and not look.counters.working:
                seen = truth.alone(before.counters, look.counters) if before is not None and _quiet(before, look) else None
                new = _unknown(seen, known) if seen is not None else None
                if seen is None or new is not None:  # else there were too few, and more may come
                    before = look
                if new is not None:
                    if not await self._learned(instance.name, partial(learn.speed, spec, new)):
                        return
                    known |= {name for name in FIGURES if getattr(new, name)}
                    if len(known) == len(FIGURES):
                        return
            await self._pause(wait)
            wait = min(LONGEST_LOOK, 2 * wait)

    def _look(self, instance: Instance, truth: ModuleType) -> Look | None:
        found = truth.counters(self._fetch(instance.base_url, instance.api_key))
        return None if found is None else Look(found, *self._ticks(instance.pid or 0))

    async def _learned(self, name: str, work: Callable[[], str]) -> bool:
        """Does the blocking part, which is not given up halfway; False: nothing can be kept."""
        try:
            said = await asyncio.shield(asyncio.to_thread(work))
        except ValueError as error:  # `CalibrationError`
            if not self._told:
                self._told = True
                log.warning("%s", error)
            return False
        if said:
            log.info("%s: %s", name, said)
        return True


def _quiet(before: Look, after: Look) -> bool:
    """Whether the machine worked for this engine alone between two looks, or does not tell."""
    own = after.own - before.own
    return after.every - before.every - own <= OTHERS * own


def _unknown(seen: Pace, known: set[str]) -> Pace | None:
    """The figures that were not learned yet; None when there are none."""
    left = {name: getattr(seen, name) for name in FIGURES if name not in known}
    return msgspec.structs.replace(seen, **{**dict.fromkeys(FIGURES, 0.0), **left}) if any(left.values()) else None


def _ended(name: str, task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("%s: nothing is learned of it", name, exc_info=error)


def _tools() -> tuple[ModuleType, ModuleType]:
    """What compares; imported where an engine runs, beside the loop. Blocks."""
    from quant import fit_learn, fit_truth

    return fit_learn, fit_truth


def processor(group: int) -> tuple[int, int]:
    """Clock ticks that the processes of a group have used, and everybody (Linux, proc(5): /proc/stat); zeros where there is no such file.
    Blocks for file reads."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        user, nice, system, _, _, irq, soft = map(int, Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()[1:8])
        return cpu_ticks(group), user + nice + system + irq + soft
    return 0, 0


def metrics(address: str, key: str) -> str:
    """An engine's metrics as text; "" where it gives none. Blocks."""
    parts = urlsplit(address)
    connection = HTTPConnection(parts.hostname or "", parts.port, timeout=PATIENCE)
    with contextlib.closing(connection), contextlib.suppress(OSError, HTTPException, UnicodeDecodeError):
        connection.request("GET", "/metrics", headers={"Authorization": f"Bearer {key}"})
        answer = connection.getresponse()
        if answer.status == 200:
            return answer.read(MAX_TEXT).decode()
    return ""
