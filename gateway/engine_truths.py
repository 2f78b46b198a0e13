"""After each load of our own llama.cpp engine: what it turned out to take, and how fast it was, against what was predicted.

Memory is told by the engine itself the moment it has loaded. Speed comes from its own counters, looked at until requests that had it to
themselves have told enough; nothing is sent to it for that, and each load teaches once. What is learned is kept for the machine, and
corrects `pointsman fit`, `pointsman doctor` and what the memory budget sets aside. One a gateway, in the process that runs the engines, on
its loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from http.client import HTTPConnection, HTTPException
from types import ModuleType
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import msgspec

from backends.engines.instance import Instance

if TYPE_CHECKING:
    from quant.fit_truth import Counters

KIND = "llamacpp"  # a llama-server that somebody installed may compute on a card, and what it does says nothing of the processor
log = logging.getLogger("pointsman.engines")
FIRST_LOOK, LONGEST_LOOK = 5.0, 60.0  # seconds between two looks at an engine's counters: doubled while it has nothing to do
PATIENCE = 10.0  # seconds for them to come: they wait for the batch that is computed
MAX_TEXT = 1 << 18

Fetch = Callable[[str, str], str]  # base URL and key of an engine: its metrics, "" where it gives none; blocks
Pause = Callable[[float], Awaitable[None]]


class Truths:
    """See the module's text. `changed` is told of every change of every instance."""

    def __init__(self, fetch: Fetch | None = None, pause: Pause = asyncio.sleep) -> None:
        self._fetch, self._pause = fetch or metrics, pause
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._writing = asyncio.Lock()  # the file is read, changed and written
        self._told = False  # that nothing can be kept

    def changed(self, instance: Instance) -> None:
        """An instance's state may be another: follows it from when it is ready until it has taught or is ready no longer."""
        known = self._tasks.get(instance.name)
        if not instance.ready:
            if known is not None:
                self._tasks.pop(instance.name).cancel()
        elif known is None and instance.spec.kind == KIND:
            self._tasks[instance.name] = asyncio.create_task(self._follow(instance))

    async def stop(self) -> None:
        """Follows no engine any more."""
        tasks = [*self._tasks.values()]
        self._tasks.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _follow(self, instance: Instance) -> None:
        fit_learn, fit_truth = await asyncio.to_thread(_tools)
        address, key = instance.base_url, instance.api_key
        spec = msgspec.structs.replace(instance.spec, context=instance.fact("context") or instance.spec.context)
        anonymous = instance.fact("anonymous") or 0
        if anonymous:
            await self._learned(instance.name, partial(fit_learn.memory, spec, anonymous))
        if spec.threads is not None or spec.replicas > 1 or spec.draft:
            return  # it is as fast as it was told to be, as the others leave it, or as its draft is good
        before: Counters | None = None
        wait = FIRST_LOOK
        while True:
            after = fit_truth.counters(await asyncio.to_thread(self._fetch, address, key))
            if after is not None and before is not None and after.calls > before.calls:
                seen, wait = fit_truth.alone(before, after), FIRST_LOOK
                if seen is not None and await self._learned(instance.name, partial(fit_learn.speed, spec, seen)):
                    return
            if after is not None and (before is None or fit_truth.shared(before, after)):
                before = after
            await self._pause(wait)
            wait = min(LONGEST_LOOK, 2 * wait)

    async def _learned(self, name: str, work: Callable[[], str]) -> bool:
        """Does the blocking part; whether something was learned."""
        async with self._writing:
            try:
                said = await asyncio.to_thread(work)
            except ValueError as error:  # `CalibrationError`
                if not self._told:
                    self._told = True
                    log.warning("%s", error)
                return False
        if said:
            log.info("%s: %s", name, said)
        return bool(said)


def _tools() -> tuple[ModuleType, ModuleType]:
    """What compares; imported where an engine runs, beside the loop. Blocks."""
    from quant import fit_learn, fit_truth

    return fit_learn, fit_truth


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
