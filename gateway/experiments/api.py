"""What the control plane and the command line may ask of experiments, and do to them. The store is given; each process that serves a
control plane has one of its own on the same file, so it does not matter who serves the traffic.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from typing import Literal, Protocol, TypeVar

import msgspec

from backends.types import Fault
from gateway.experiments.tables import Tables
from gateway.experiments.words import State
from routing.experiments.words import ArmResult, Design, Mode, Outlook, Result, Status

T = TypeVar("T")
Action = Literal["start", "stop", "promote", "rollback"]
ACTIONS: tuple[Action, ...] = ("start", "stop", "promote", "rollback")
MOST_REASON = 1000  # characters of a reason
_AFTER: Mapping[Action, Status] = {"start": "running", "stop": "stopped", "promote": "promoted", "rollback": "rolled_back"}
# From which states an action leads anywhere, and what is said of an experiment that is in another one.
_FROM: Mapping[Action, tuple[Status, ...]] = {
    "start": ("planned", "stopped", "promoted", "rolled_back"),
    "stop": ("planned", "running"),
    "promote": ("planned", "running", "stopped", "promoted"),
    "rollback": ("planned", "running", "stopped", "promoted"),
}
_IS: Mapping[Status, str] = {
    "planned": "has not begun", "running": "is running already", "stopped": "has been stopped", "promoted": "has a promoted arm",
    "rolled_back": "has been rolled back",
}  # fmt: skip


class ExperimentView(msgspec.Struct, frozen=True):
    """One line of the list. `trusted`: units come to the arms as they should. `unix`: when this was worked out; None: not yet."""

    name: str
    route: str
    mode: Mode
    status: Status
    units: int = 0
    requests: int = 0
    headline: str = ""
    winner: str | None = None
    started: float | None = None
    unix: float | None = None
    trusted: bool = True


class Store(Protocol):
    """The part of a `TrialStore` that knows results and may change states."""

    async def read(self, ask: Callable[[Tables], T]) -> T:
        """What `ask` reads. Raises `Fault` (overloaded, unavailable)."""

    async def act(self, name: str, state: State, actor: str, action: str, detail: str) -> None:
        """Puts a state in force, with its line in the audit trail; returns when both are on the disk. Raises `Fault`."""


def after(design: Design, state: State, action: Action, arm: str | None, unix: float) -> State:
    """The state that an action leads to. Pure. Raises `Fault` (bad_request) where it leads nowhere: an arm that there is not, or 409 when
    it is in that state already."""
    if action == "promote":
        if arm is None:
            raise Fault("bad_request", f"Say which arm to promote; there are: {_arms(design)}.", origin="client", param="arm")
        if arm not in design.arms:
            why = f"'{design.name}' has no arm '{arm[:64]}'; there are: {_arms(design)}."
            raise Fault("bad_request", why, origin="client", param="arm", code="unknown_arm")
    elif arm is not None:
        raise Fault("bad_request", f"'arm' is for promoting; {action} takes none.", origin="client", param="arm")
    if state.status not in _FROM[action] or (state.status == "promoted" and action == "promote" and state.winner == arm):
        why = f"'{design.name}' {_IS[state.status]}; there is nothing to {action.replace('rollback', 'roll back')}."
        raise Fault("bad_request", why, origin="client", status=409, code="experiment_state")
    started = state.started if action != "start" or state.started is not None else unix
    return msgspec.structs.replace(state, status=_AFTER[action], winner=arm, started=started)


def _arms(design: Design) -> str:
    return ", ".join(design.arms)


def blank(design: Design, state: State, unix: float) -> Result:
    """What is known before the first analysis: nothing. Pure."""
    weights = dict(zip(design.arms, design.weights, strict=True)) | dict(state.weights)
    total = sum(weights.values()) or 1.0
    return Result(
        name=design.name, route=design.route, mode=design.mode, status=state.status, unix=unix, started=state.started,
        primary=design.primary, alpha=design.alpha, effect=design.effect, units=0, requests=0,
        arms=[ArmResult(arm, weights[arm] / total, arm == design.arms[0], 0, 0) for arm in design.arms], comparisons=[], ratio=None,
        outlook=Outlook(), headline="Nothing has been seen yet.", words=["No request of this experiment has been counted yet."],
        metrics={design.primary: design.metric(design.primary)}, winner=state.winner,
    )  # fmt: skip


def read(tables: Tables, design: Design, unix: float) -> Result:
    """The last analysis, with what was done since; a blank one where there was none. Blocks for a read. Raises `sqlite3.Error`."""
    state = tables.state(design.name) or State(design.name)
    return latest(tables, tables.result(design.name) or blank(design, state, unix), state)


def latest(tables: Tables, found: Result, state: State) -> Result:
    """A result with what was done since: the analysis runs every few seconds. Blocks for a read. Raises `sqlite3.Error`."""
    winner, started = state.winner or found.winner, state.started or found.started
    return msgspec.structs.replace(found, status=state.status, winner=winner, started=started, audit=tables.audit(found.name))


def _page(result: Result) -> str:
    from gateway.experiments.report import page  # only who wants one needs it

    return page(result)


def view(result: Result) -> ExperimentView:
    """The line of a list for a result. Pure."""
    return ExperimentView(
        result.name, result.route, result.mode, result.status, result.units, result.requests, result.headline, result.winner,
        result.started, result.unix, result.ratio is None or not result.ratio.bad,
    )  # fmt: skip


class Experiments:
    """The experiments of the configuration, with what the store says of them. Owned by the event loop. A reload calls `follow`."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self.clock = clock
        self._store: Store | None = None
        self._designs: dict[str, Design] = {}
        self._acting = asyncio.Lock()

    def __len__(self) -> int:
        return len(self._designs)

    def follow(self, store: Store | None, designs: Iterable[Design]) -> None:
        """From now on these are the experiments, and `store` knows of them; None: there are none."""
        self._store = store
        self._designs = {design.name: design for design in designs} if store is not None else {}

    async def listing(self) -> list[ExperimentView]:
        """All of them, in the configuration's order. Raises `Fault` (overloaded, unavailable)."""
        if self._store is None or not self._designs:
            return []
        unix, designs = self.clock(), [*self._designs.values()]
        return await self._store.read(lambda tables: [view(read(tables, design, unix)) for design in designs])

    async def result(self, name: str) -> Result:
        """All that is known of one. Raises `Fault`: not_found, overloaded, unavailable."""
        store, design = self._find(name)
        unix = self.clock()
        return await store.read(lambda tables: read(tables, design, unix))

    async def report(self, name: str) -> str:
        """The page about one, as HTML. Raises `Fault` as `result`."""
        # In a thread: it is long text, and the data path may run on this loop.
        return await asyncio.to_thread(_page, await self.result(name))

    async def act(self, name: str, action: Action, arm: str | None, reason: str, actor: str) -> ExperimentView:
        """Starts, stops, promotes or rolls back; returns when that is on the disk. Raises `Fault`: not_found, bad_request (also 409: it is
        so already), overloaded, unavailable."""
        if len(reason) > MOST_REASON:
            raise Fault("bad_request", f"'reason' is longer than {MOST_REASON} characters.", origin="client", param="reason")
        async with self._acting:
            store, design = self._find(name)
            now = await store.read(lambda tables: tables.state(name))  # the analyst may have changed the weights just before
            state = after(design, now or State(name), action, arm, self.clock())
            await store.act(name, state, actor, action, ": ".join(part for part in (arm or "", reason) if part))
        return view(await self.result(name))

    def _find(self, name: str) -> tuple[Store, Design]:
        if self._store is not None and name in self._designs:
            return self._store, self._designs[name]
        there = f"there are: {', '.join(self._designs)}." if self._designs else "none is configured."
        for near in get_close_matches(name[:64], self._designs, 1):
            there = f"did you mean '{near}'?"
        raise Fault("not_found", f"There is no experiment '{name[:64]}'; {there}", origin="client", code="experiment_not_found")
