"""Starts, watches, restarts and stops the engines that configuration asks for.

`Supervisor` compares what should run with what runs; each instance belongs to one `_Runner`, a task that goes round
start -> ready -> watch -> ended -> (pause) -> start. What to do after an ending is decided in `breaker.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec

from backends.engines import probe, reasons
from backends.engines.breaker import Breaker, Ending, hung
from backends.engines.instance import Instance, State
from backends.engines.probe import Pace
from backends.engines.process import Process, hidden
from backends.engines.rows import Launch, launch
from backends.engines.spec import EngineSpec

OnChange = Callable[[Instance], None]
Drain = Callable[[Instance], Awaitable[None]]
_PROGRESS_EVERY = 0.5  # seconds between two notices of progress


class _Ended(Exception):
    """This start of the engine is over."""

    def __init__(self, ending: Ending, reason: str) -> None:
        super().__init__(reason)
        self.ending, self.reason = ending, reason


class _Runner:
    """Owns one instance: the only place that changes it."""

    def __init__(self, instance: Instance, on_change: OnChange, pace: Pace, log: logging.Logger, drain: Drain | None) -> None:
        self.instance = instance
        self._on_change, self._pace, self._log, self._drain = on_change, pace, log, drain
        self._breaker = Breaker()
        self._wake = asyncio.Event()
        self._reported = asyncio.Event()
        self._said, self._fatal = "", False
        self._process: Process | None = None
        self._told = 0.0
        self._task: asyncio.Task[None] | None = None

    def start(self, after: Sequence[asyncio.Task[None]] = ()) -> None:
        """Begins to run, once the tasks in `after` (the stop of a predecessor) are done. Returns at once."""
        self._task = asyncio.create_task(self._run(after), name=f"engine {self.instance.name}")

    def restart(self) -> None:
        """Ends a pause or a failure now. Does nothing to an engine that runs."""
        self._breaker.reset()
        self._wake.set()

    async def stop(self) -> None:
        """Lets requests end, then stops the engine; bounded by the pace's drain and grace."""
        self._set("stopping")
        if self._drain is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._pace.drain):
                    await self._drain(self.instance)
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
        self._set("stopped", base_url="", pid=None)

    # -- the instance -----------------------------------------------------------------------------------------

    def _set(self, state: State, **fields: Any) -> None:
        instance = self.instance
        if instance.state == "stopping" and state != "stopped":
            return  # whoever stops it has the last word
        for name, value in fields.items():
            setattr(instance, name, value)
        if instance.state != state:
            instance.state, instance.since = state, time.time()
        self._on_change(instance)

    def _on_log(self, data: bytes) -> None:
        self.instance.log.feed(data)
        if self.instance.state != "ready" and b"\n" in data:
            self._progress(self.instance.log.last)

    def _progress(self, text: str) -> None:
        now = asyncio.get_running_loop().time()
        self.instance.progress = text[:120]
        if now - self._told >= _PROGRESS_EVERY:
            self._told = now
            self._on_change(self.instance)

    def _on_status(self, status: dict[str, Any]) -> None:
        if isinstance(status.get("pid"), int):
            self.instance.pid = status["pid"]
        if isinstance(status.get("dir"), str):
            self.instance.facts = {name: text.replace("{dir}", status["dir"]) for name, text in self._health.facts.items()}
        if isinstance(status.get("port"), int):
            self.instance.facts = {name: value for name, value in status.items() if name != "port" and isinstance(value, (int, str))}
            self.instance.base_url = f"http://127.0.0.1:{status['port']}"
            self._reported.set()
        if "progress" in status:
            self._progress(str(status["progress"]))
        if "error" in status:
            self._said, self._fatal = str(status["error"])[:1000], bool(status.get("fatal"))

    # -- one life ---------------------------------------------------------------------------------------------

    async def _run(self, after: Sequence[asyncio.Task[None]]) -> None:
        if after:
            await asyncio.wait(after)
        while True:
            was_ready = False
            try:
                await self._begin()
                await self._until(self._become_ready())
                was_ready = True
                self._breaker.ready()
                self._set("ready", progress="", reason="")
                await self._until(self._watch())
            except _Ended as end:
                await self._finish()
                await self._pause(end, was_ready)
            finally:
                await self._finish()

    async def _begin(self) -> None:
        """Starts the process. Raises `_Ended` when that cannot work."""
        instance, key = self.instance, secrets.token_urlsafe(24)
        port = probe.free_port()
        plan = launch(instance.spec, port, key)
        instance.log.begin()
        instance.log.hide((key, *(instance.spec.env[name] for name in hidden(instance.spec.env))))
        instance.api_key, instance.facts, instance.pid = key, {}, None
        instance.base_url = "" if plan.reports else f"http://127.0.0.1:{port}"
        instance.progress = f"starting {instance.spec.kind}"
        self._said, self._fatal, self._health = "", False, plan
        self._reported.clear()
        self._on_change(instance)
        self._process = Process(self._on_log, self._on_status)
        try:
            await self._process.start(instance.spec, plan, self._pace.grace)
        except OSError as error:
            raise _Ended("crashed", f"The engine {instance.spec.name!r} cannot be started: {error}.") from None

    _health: Launch

    async def _until(self, work: Awaitable[None]) -> None:
        """Does `work` unless the process ends first, which raises `_Ended`."""
        assert self._process is not None
        task = asyncio.ensure_future(work)
        ended = asyncio.ensure_future(self._process.ended.wait())
        try:
            await asyncio.wait({task, ended}, return_when=asyncio.FIRST_COMPLETED)
            if ended.done():
                raise await self._why()
            await task
        finally:
            for each in (task, ended):
                each.cancel()
            await asyncio.gather(task, ended, return_exceptions=True)

    async def _become_ready(self) -> None:
        try:
            async with asyncio.timeout(self.instance.spec.ready_seconds):
                if self._health.reports:
                    await self._reported.wait()
                pause = self._pace.first
                while not self._good(await self._probe()):
                    await self._look_for_its_port()
                    await asyncio.sleep(pause)
                    pause = min(pause * self._pace.growth, self._pace.longest)
        except TimeoutError:
            spec = self.instance.spec
            lines = self.instance.log.told(3)
            told = f"; its last words were {lines[-1][:300]!r}" if lines else ""
            raise _Ended("late", f"The engine {spec.name!r} was not ready within {spec.ready_seconds:g} s{told}.") from None

    async def _look_for_its_port(self) -> None:
        """Raises `_Ended` when the engine says that its port is taken and still does not end: SGLang then waits for its children."""
        port = int(self.instance.base_url.rpartition(":")[2])
        if reasons.port_taken(self.instance.log.told(), port):
            await asyncio.sleep(self._pace.grace)
            if not self._good(await self._probe()):
                raise _Ended("port", f"The engine {self.instance.spec.name!r}: its port {port} was taken, and it did not end by itself.")

    async def _probe(self) -> int:
        port = int(self.instance.base_url.rpartition(":")[2])
        return await probe.status(port, self._health.health, self.instance.api_key, self._pace.timeout)

    def _good(self, status: int) -> bool:
        spec = self.instance.spec
        if spec.kind == "command" and not spec.health_path:
            return 200 <= status < 500  # it need not have our default path: that it answers is what we know
        return status == 200

    async def _watch(self) -> None:
        """Returns never; raises `_Ended` when the engine hangs."""
        strikes = busy = 0
        ticks = -1
        while True:
            await asyncio.sleep(self._pace.check)
            if self._good(await self._probe()):
                strikes = busy = 0
                ticks = -1
                continue
            now = await asyncio.to_thread(probe.cpu_ticks, self.instance.pid or 0)
            strikes += 1
            busy += 0 <= ticks < now
            ticks = now
            if hung(strikes, busy):
                raise _Ended("hung", f"The engine {self.instance.spec.name!r} did not answer {strikes} health probes in a row.")

    async def _why(self) -> _Ended:
        process, spec = self._process, self.instance.spec
        assert process is not None
        await process.close()  # also collects its last words
        self.instance.log.flush()
        lines = self.instance.log.told()
        reason = reasons.explain(spec, process.code, process.why, self._said, lines)
        if self._fatal:
            return _Ended("unusable", reason)
        if not self._health.reports and self.instance.state != "ready" and reasons.port_taken(lines):
            return _Ended("port", reason)
        return _Ended("crashed", reason)

    async def _finish(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            # Shielded: a second cancel must not leave a process behind.
            await asyncio.shield(process.stop(self._pace.grace))
        self.instance.pid = None

    async def _pause(self, end: _Ended, was_ready: bool) -> None:
        instance = self.instance
        verdict = self._breaker.ended(end.ending, was_ready, asyncio.get_running_loop().time())
        self._log.warning("engine %s: %s", instance.name, end.reason)
        instance.log.note(end.reason)
        self._wake.clear()
        state: State = "failed" if verdict.failed else "restarting"
        self._set(state, reason=end.reason, base_url="", pid=None, progress="")
        if verdict.delay != 0.0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(verdict.delay):
                    await self._wake.wait()
        instance.restarts += 1
        self._set("restarting")


class Supervisor:
    """The engines of one gateway. All methods belong to one event loop.

    `on_change` is called on that loop after every change of an instance and must not block. `drain` may wait until an instance
    that is about to stop has no request left; it is given `pace.drain` seconds.
    """

    def __init__(
        self, on_change: OnChange, *, log: logging.Logger | None = None, pace: Pace | None = None, drain: Drain | None = None
    ) -> None:
        self._on_change, self._pace, self._drain = on_change, pace or Pace(), drain
        self._log = log or logging.getLogger("pointsman.engines")
        self._runners: dict[str, _Runner] = {}
        self._leaving: dict[str, asyncio.Task[None]] = {}

    @property
    def instances(self) -> tuple[Instance, ...]:
        """All instances that should run, by name."""
        return tuple(runner.instance for _, runner in sorted(self._runners.items()))

    async def apply(self, specs: Sequence[EngineSpec]) -> None:
        """Makes exactly these engines run; returns before they are ready. An instance whose spec is unchanged goes on
        (one that failed is tried again); a changed one is replaced once the old process is gone. Raises `ValueError`
        when two specs have one name."""
        self.arrange(specs)
        for runner in self._runners.values():
            if runner.instance.state == "failed":
                runner.restart()

    def arrange(self, specs: Sequence[EngineSpec]) -> None:
        """The same without another try of what failed. Needs a running loop, on which everything happens later."""
        wanted = {f"{spec.name}#{index}": spec for spec in specs for index in range(spec.replicas)}
        if len({spec.name for spec in specs}) != len(specs):
            raise ValueError("Two engines have the same name; give each its own.")
        for name, runner in list(self._runners.items()):
            if name not in wanted or not _same(wanted[name], runner.instance.spec):
                self._leave(name, runner)
        for name, spec in wanted.items():
            if name not in self._runners:
                runner = _Runner(Instance(name, spec), self._on_change, self._pace, self._log, self._drain)
                self._runners[name] = runner
                runner.start([self._leaving[name]] if name in self._leaving else ())

    def restart(self, name: str) -> None:
        """Tries a failed or waiting instance again now. Raises `KeyError` for an unknown name."""
        self._runners[name].restart()

    async def stop(self) -> None:
        """Stops all engines at once and waits for them; bounded by the pace."""
        for name, runner in list(self._runners.items()):
            self._leave(name, runner)
        while self._leaving:
            await asyncio.wait(self._leaving.values())

    def _leave(self, name: str, runner: _Runner) -> None:
        del self._runners[name]
        task = asyncio.create_task(self._last(name, runner, self._leaving.get(name)), name=f"stop {name}")
        self._leaving[name] = task

    async def _last(self, name: str, runner: _Runner, before: asyncio.Task[None] | None) -> None:
        try:
            await runner.stop()
            if before is not None:
                await asyncio.wait({before})
        finally:
            if self._leaving.get(name) is asyncio.current_task():
                del self._leaving[name]


def _same(one: EngineSpec, other: EngineSpec) -> bool:
    """Whether a running replica may go on: the number of replicas alone is no reason to restart the others."""
    return one == msgspec.structs.replace(other, replicas=one.replicas)
