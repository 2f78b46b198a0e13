"""The owner of all engines' residency: hears what calls want and what becomes of engines, asks `residency.Residency`, does what it says.

One a gateway, in the process that runs the engines, on its loop. `Host` is what it needs of the fleet; nothing else here touches it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from time import monotonic
from typing import Protocol

from backends.engines.instance import Instance
from backends.engines.spec import EngineSpec
from gateway.config import BackendConfig, Config
from gateway.residency import Residency
from gateway.residency_demand import Wants
from gateway.residency_footprint import bounded, budget, footprint, measured
from gateway.residency_types import HELD, Action, Entry, Model, Rules, size

log = logging.getLogger("pointsman.residency")
TICK_SECONDS = 0.5
MEASURE_EVERY = 6  # ticks
ASLEEP = "it is not in memory; a call loads it"
Ask = Callable[[str], Awaitable[int | None]]


class Host(Protocol):
    """The fleet, as the keeper sees it."""

    def instances(self) -> Iterable[Instance]: ...

    def run_engines(self) -> None:
        """Makes the supervisor run what `Keeper.wanted` says. Does not block."""

    def shut(self, name: str, reason: str, *, asleep: bool = False, down: bool = False) -> None:
        """No new call reaches a backend's engine from now on: they wait, or with `down` are refused."""

    def reopen(self, name: str) -> None:
        """Tells of an engine's instances as they are."""

    def under_way(self, name: str) -> int:
        """Calls that a backend's engine has under way in this process."""


class Keeper:
    """See the module's text. `waits`: times that a model was waited for; `waited`: seconds of that, from the first call on."""

    def __init__(
        self, host: Host, *, predict: Callable[[EngineSpec], int] = footprint, rules: Rules | None = None,
        clock: Callable[[], float] = monotonic,
    ) -> None:  # fmt: skip
        self.host, self.predict, self.clock = host, predict, clock
        self.residency = Residency(None, rules)
        # Calls under way in other processes, which serve in place of this one; None: one of them did not say. Before the answer comes, each
        # has told what it wants.
        self.ask: Ask | None = None
        self.waits, self.waited = 0, 0.0
        self._running: set[str] = set()
        self._live: dict[str, set[str]] = {}  # by backend: instances whose process may be there
        self._specs: dict[str, EngineSpec] = {}
        self._configs: dict[str, BackendConfig] = {}
        self._sources: dict[int, Mapping[str, Wants]] = {}
        self._totals: dict[tuple[int, str], int] = {}
        self._kept: dict[str, float] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._wake, self._moved = asyncio.Event(), asyncio.Event()
        self._asked: int | str | None = None
        self._ticks = 0
        self._told: dict[str, str] = {}

    # --- configuration
    def configure(self, config: Config) -> None:
        """The backends and the budget from now on. Engines whose settings of residency alone changed go on. Blocks for a file read."""
        if config.server.memory != self._asked:  # "auto" is what was free before any engine ran
            self._asked, self.residency.budget = config.server.memory, budget(config.server.memory)
        self._configs = {name: backend for name, backend in config.backends.items() if backend.engine is not None}
        for name, spec in list(self._specs.items()):
            if name in self._configs:
                self._put(name, spec, self.residency.entries[name].model.bytes)
        self._wake.set()

    def removed(self, name: str) -> None:
        """A backend's engine goes or is replaced: the fleet stops it."""
        self._specs.pop(name, None)
        self._running.discard(name)
        self.residency.remove(name, self.clock())
        self.residency.forget([name])
        if not self._live.get(name):
            self.residency.gone(name, self.clock())
            self.residency.forget([name])

    async def prepared(self, name: str, spec: EngineSpec) -> None:
        """A backend's engine could be started now; decides whether that is to be."""
        own, taken = self._configs[name].resident, 0
        if own is not None or self.residency.budget is not None:
            spec, taken = await asyncio.to_thread(self._predicted, spec)
            taken = own.memory or taken if own is not None else taken
        self._specs[name] = spec
        self._put(name, spec, taken)
        self.step()
        if name not in self._running:
            self._tell_absent(self.residency.entries[name])

    def _predicted(self, spec: EngineSpec) -> tuple[EngineSpec, int]:
        if self.residency.budget is not None:
            spec = bounded(spec)
        return spec, self.predict(spec)

    def _put(self, name: str, spec: EngineSpec, taken: int) -> None:
        own = self._configs[name].resident
        if own is None:
            model = Model(name, taken, plain=True)
        else:
            model = Model(name, taken, idle=own.idle_seconds, pinned=own.pin, start=own.load == "start")
        self.residency.put(model, self.clock())

    def wanted(self) -> list[EngineSpec]:
        """The engines that are to run now."""
        return [self._specs[name] for name in sorted(self._running)]

    # --- what happens
    def heard(self, source: int, wants: Mapping[str, Wants]) -> None:
        """What the process `source` wants now (0: this one)."""
        self._sources[source] = wants
        self._wake.set()

    def deaf(self, source: int) -> None:
        """That process is gone, and its calls with it."""
        self._sources.pop(source, None)
        self._totals = {key: total for key, total in self._totals.items() if key[0] != source}
        self._wake.set()

    def changed(self, instance: Instance) -> str:
        """The supervisor says that an instance's state is another; the reason to tell of it where that is ours to word."""
        name, state, now = instance.spec.name, instance.state, self.clock()
        entry = self.residency.entries.get(name)
        live = self._live.get(name, set())
        if state == "stopped":
            live.discard(instance.name)
            if entry is not None and not live and name not in self._running:
                self._over(entry, now)
        elif entry is None or name not in self._running:
            return ""
        elif state == "ready":
            self.residency.loaded(name, now)
        elif state == "restarting" and entry.state in ("resident", "closing"):
            if not any(i.ready for i in self.host.instances() if i.spec.name == name):
                self._count(now)
                self.residency.died(name, now)
        elif state == "failed":
            self._failed(entry, instance.reason, now)
        self._wake.set()
        return self.progress(name) if state == "starting" and entry is not None and not entry.model.plain else ""

    def _over(self, entry: Entry, now: float) -> None:
        """Its last process has ended."""
        name = entry.model.name
        self.residency.gone(name, now)
        self.residency.forget([name])
        if not entry.removed:
            self._tell_absent(entry)

    def _failed(self, entry: Entry, why: str, now: float) -> None:
        name = entry.model.name
        self.residency.failed(name, why, now)
        if entry.state == "failed":  # a plain one is left to the supervisor
            self._running.discard(name)
            self.host.shut(name, why, down=True)
            self.host.run_engines()

    def progress(self, name: str) -> str:
        """How far a load is, by the memory that is there already and by the time that loads took before; an estimate, for people."""
        entry = self.residency.entries[name]
        if entry.state != "loading":
            return ""
        part = (self.clock() - entry.since) / entry.load_seconds if entry.load_seconds else 0.0
        whole = entry.peak or entry.bytes  # what it held the last time
        part = max(part, entry.seen / whole if whole else 0.0)
        return f"loading {name} {min(99, int(100 * part))} %"

    # --- time and decisions
    async def run(self) -> None:
        """Works for ever; cancel it to stop."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(TICK_SECONDS):
                    await self._wake.wait()
            if self._wake.is_set():
                self._wake.clear()
            else:
                await self._tick()
            self.step()

    async def _tick(self) -> None:
        self._ticks += 1
        states = {entry.state for entry in self.residency.entries.values() if not entry.model.plain}
        if "loading" in states or (states & HELD and self._ticks % MEASURE_EVERY == 0):
            pids = {i.pid: i.spec.name for i in self.host.instances() if i.pid is not None}
            sizes = await asyncio.to_thread(measured, frozenset(pids))
            totals: dict[str, int] = {}
            for pid, taken in sizes.items():
                totals[pids[pid]] = totals.get(pids[pid], 0) + taken
            for name, taken in totals.items():
                self.residency.measured(name, taken)
        for name, entry in self.residency.entries.items():
            if entry.state == "loading" and not entry.model.plain:
                self.host.reopen(name)  # tells how far it is

    def step(self) -> None:
        """Decides anew, and begins what follows."""
        now = self.clock()
        self._count(now)
        self._act(self.residency.step(now))
        self._tell_waiting()
        self._moved.set()
        self._moved = asyncio.Event()

    def _count(self, now: float) -> None:
        """What all processes want together."""
        for name, entry in self.residency.entries.items():
            waiting = busy = fresh = 0
            since = now
            for source, wants in self._sources.items():
                one = wants.get(name)
                if one is None:
                    continue
                waiting, busy = waiting + one.waiting, busy + one.busy
                since = min(since, one.since) if one.waiting else since
                before = self._totals.get((source, name), 0)
                fresh += max(0, one.total - before)
                self._totals[source, name] = one.total
                if one.keep is not None and one.kept_at > self._kept.get(name, 0.0):
                    self._kept[name] = one.kept_at
                    self.residency.keep(name, one.keep)
            if entry.waiting and not waiting and entry.state == "resident":
                self.waits += 1
                self.waited += now - entry.wait_since
            self.residency.demand(name, waiting, since, busy if self.ask else self.host.under_way(name), fresh, now)

    def _act(self, actions: Iterable[Action]) -> None:
        changed = False
        for action in actions:
            name = action.name
            if action.does == "load":
                log.info("model %s: loading, %s in use", name, self._held())
                self._running.add(name)
                self._live[name] = {f"{name}#{i}" for i in range(self._specs[name].replicas)}
                changed = True
            elif action.does == "close":
                self.host.shut(name, f"loading {name}: waiting for memory", asleep=True)
                self._do(self._close(name))
            elif action.does == "open":
                self.host.reopen(name)
            elif action.does == "stop":
                log.info("model %s: unloading", name)
                self._running.discard(name)
                self.host.shut(name, ASLEEP, asleep=True)
                changed = True
            elif action.does == "refuse":
                log.warning("model %s cannot be loaded: %s", name, action.why)
                self.host.shut(name, f"{action.why}.", down=True)
            else:
                self.host.shut(name, ASLEEP, asleep=True)
        if changed:
            self.host.run_engines()

    def _held(self) -> str:
        held, budget = size(self.residency.held), self.residency.budget
        return held if budget is None else f"{held} of {size(budget)}"

    async def _close(self, name: str) -> None:
        """Hears how many calls are under way now that no new one comes; asks again where somebody does not say."""
        busy = self.host.under_way(name) if self.ask is None else await self.ask(name)
        while busy is None and self.ask is not None:
            busy = await self.ask(name)
        if name in self.residency.entries and busy is not None:
            self.residency.closed(name, busy, self.clock())
            self._wake.set()

    def _do(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _tell_absent(self, entry: Entry) -> None:
        if entry.state == "absent":
            self.host.shut(entry.model.name, ASLEEP, asleep=True)

    def _tell_waiting(self) -> None:
        """Calls whose model waits for room are told where it stands."""
        queue = {e.model.name: n for n, e in enumerate(self.residency.queue()) if e.waiting}
        told = {name: f"loading {name}: waiting for memory" + (f", {n} before it" if n else "") for name, n in queue.items()}
        for name, reason in told.items():
            if self._told.get(name) != reason and name not in self._running:
                self.host.shut(name, reason, asleep=True)
        self._told = told

    async def stop(self) -> None:
        """Ends what it has begun; engines are stopped by the fleet."""
        for task in [*self._tasks]:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def moved(self) -> None:
        """Waits until something was decided anew, whatever it was: after every change, and twice a second."""
        await self._moved.wait()

    # --- operators
    def order(self, name: str) -> None:
        """Loads a model now. KeyError: no such engine, or it cannot be started."""
        self.residency.order(name, self.clock())
        self.step()

    def dismiss(self, name: str) -> None:
        """Unloads a model once its calls have ended. KeyError: no such engine."""
        self.residency.dismiss(name)
        self.step()
