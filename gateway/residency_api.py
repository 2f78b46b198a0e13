"""Residency as operators see it: what is in memory and why, and what they may do about it. The seam between the keeper and the control
plane, the status page and `pointsman ps`.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

from backends.types import Fault
from gateway.logs import conceal
from gateway.metrics import Metrics, Samples
from gateway.residency_keeper import Keeper
from gateway.residency_types import HELD, Entry
from gateway.residency_view import ResidencyView, ResidentView
from gateway.serve import Core

WORDS = {"absent": "unloaded", "resident": "loaded", "closing": "unloading", "stopping": "unloading"}
MAX_WAIT = 60.0  # seconds that one question may wait for a change


class ResidencyApi:
    """What the control plane may see and do. Methods raise Fault `not_found` for a name that is neither an engine nor a model of one."""

    def __init__(self, keeper: Keeper, core: Core) -> None:
        self.keeper, self.core = keeper, core

    def view(self) -> ResidencyView:
        """The present state, newly built. Does not block."""
        residency = self.keeper.residency
        engines = [self._of(entry) for _, entry in sorted(residency.entries.items())]
        return ResidencyView(residency.budget, residency.held, engines)

    def one(self, name: str) -> ResidentView:
        """One engine, by its name or that of its model."""
        return self._of(self._entry(name))

    async def load(self, name: str, wait: float = 0.0) -> ResidentView:
        """Loads it now, or as soon as there is room; answers when it is there, cannot be, or after `wait` seconds."""
        entry = self._entry(name)
        self.keeper.order(entry.model.name)
        return await self._until(entry, wait, lambda: entry.state in ("resident", "refused", "failed"))

    async def unload(self, name: str, wait: float = 0.0) -> ResidentView:
        """Unloads it once its calls have ended; answers then, or after `wait` seconds."""
        entry = self._entry(name)
        if entry.model.plain:
            why = f"The engine {entry.model.name!r} has no `resident` in the configuration, so it runs from the start to the end."
            raise Fault("bad_request", why, origin="client", code="not_elastic")
        self.keeper.dismiss(entry.model.name)
        return await self._until(entry, wait, lambda: entry.state not in HELD)

    async def changed(self, name: str, wait: float) -> ResidentView:
        """One engine as soon as its state is another than now, or after `wait` seconds."""
        entry = self._entry(name)
        state = entry.state
        return await self._until(entry, wait, lambda: entry.state != state)

    async def _until(self, entry: Entry, wait: float, holds: Callable[[], bool]) -> ResidentView:
        try:
            async with asyncio.timeout(min(max(wait, 0.0), MAX_WAIT)):
                while not holds():
                    await self.keeper.moved()
        except TimeoutError:
            pass
        return self._of(entry)

    def _entry(self, name: str) -> Entry:
        entries = self.keeper.residency.entries
        if name in entries:
            return entries[name]
        route = self.core.generation.routes.get(name)
        targets = [arm.target for arm in route.arms if arm.target.backend in entries] if route is not None else []
        if targets:
            return entries[max(targets, key=lambda target: target.weight).backend]
        there = ", ".join(sorted(entries)) or "none"
        raise Fault("not_found", f"There is no engine {name[:200]!r}; there are: {there}.", origin="client", code="engine_not_found")

    def _of(self, entry: Entry) -> ResidentView:
        now, model = self.keeper.clock(), entry.model
        until = entry.until()
        held = entry.state in HELD
        routes = self.core.generation.routes
        names = sorted(name for name, route in routes.items() if any(arm.target.backend == model.name for arm in route.arms))
        waits = entry.state == "absent" and entry.wanted
        return ResidentView(
            model.name, names, "waiting" if waits else WORDS.get(entry.state, entry.state), entry.bytes, entry.seen if held else 0,
            now - entry.used if entry.state == "resident" and not entry.busy else None,
            None if until is None or math.isinf(until) else max(0.0, until - now),
            entry.load_seconds, model.pinned, model.plain, entry.busy, entry.waiting, entry.loads,
            conceal(entry.reason or self.keeper.progress(model.name)),
        )  # fmt: skip


_GAUGES: tuple[tuple[str, str, Callable[[Entry], float]], ...] = (
    ("pointsman_engine_resident", "1: the engine is in memory and takes calls.", lambda e: float(e.state == "resident")),
    ("pointsman_engine_memory_bytes", "Memory that is set aside for the engine.", lambda e: float(e.bytes if e.state in HELD else 0)),
    ("pointsman_engine_loads_total", "Times that the engine was loaded.", lambda e: float(e.loads)),
)


def gauges(figures: Metrics, keeper: Keeper) -> None:
    """Registers what the keeper can be read for."""
    residency = keeper.residency

    def each(read: Callable[[Entry], float]) -> Callable[[], Samples]:
        return lambda: [({"backend": name}, read(entry)) for name, entry in residency.entries.items()]

    for name, help, read in _GAUGES:
        figures.callback(name, help, each(read), kind="counter" if name.endswith("_total") else "gauge")
    figures.callback(
        "pointsman_engine_unloads_total", "Times that an engine was unloaded, by why: idle, room, asked, unwanted.",
        lambda: [({"backend": name, "why": why}, count) for (name, why), count in residency.evictions.items()], kind="counter",
    )  # fmt: skip
    figures.callback(
        "pointsman_engine_restarts_total", "Times that an engine's process was started anew after it had ended or hung.",
        lambda: [({"backend": i.spec.name, "replica": i.name}, i.restarts) for i in keeper.host.instances()], kind="counter",
    )  # fmt: skip
    figures.callback("pointsman_engine_waits_total", "Times that calls waited for a load.", lambda: keeper.waits, kind="counter")
    figures.callback(
        "pointsman_engine_wait_seconds_total", "Seconds of that, from the first call that waited on.", lambda: keeper.waited, kind="counter"
    )
    figures.callback("pointsman_memory_budget_bytes", "What all engines together may take; 0: no limit.", lambda: residency.budget or 0)
