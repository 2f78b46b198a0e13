"""What becomes of the ledgers: results and the estimate over time, a bandit's new weights, and what the design allows to be done without
asking. Blocking; for one thread. All that one look at an experiment leads to is written in one transaction, and only if what is in force is
still what it was based on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from random import Random

import msgspec

from gateway.experiments.aside import Aside, here
from gateway.experiments.folding import Folding
from gateway.experiments.tables import Tables
from gateway.experiments.words import State
from routing.experiments.analyse import Action, analyse, due, point, posterior
from routing.experiments.bandit import shares
from routing.experiments.shadowed import shadowed
from routing.experiments.words import Audit, Design, Point, Result, Status

ACTOR = "gateway"
MOMENTS = 300  # of the estimate over time
EPOCH_SECONDS = 300.0  # that a bandit's weights stay at least
_STATUS: Mapping[str, Status] = {"stop": "stopped", "promote": "promoted", "rollback": "rolled_back"}


class Judging:
    """Looks at experiments whose ledgers `folding` holds. `aside`: does what takes long and holds no lock."""

    def __init__(self, tables: Tables, folding: Folding, aside: Aside = here) -> None:
        self._aside = aside
        self.tables, self.folding = tables, folding
        self.begins: Mapping[str, float] = {}  # unix, by experiment: when those that have a time for it begin
        self._last: dict[str, object] = {}  # by experiment, what the last result was made of

    def look(self, design: Design, unix: float) -> Result | None:
        """Writes what is known now of one experiment and does what is due. None: nothing is new. Raises `sqlite3.Error`."""
        state = self.tables.state(design.name) or self._begin(design, unix)
        state = self._weights(design, state, unix)
        basis = self._basis(design, state)
        if self._last.get(design.name) == basis:
            return None
        result = self._aside(self._result(design, state, unix))
        acts = self._acts(design, state, result)
        with self.tables.transaction():
            if self.tables.state(design.name) != state:
                return None  # somebody has put something else in force meanwhile
            for after, done in acts:
                self.tables.act(after, done)
            if acts:
                state = acts[-1][0]
                result = self._result(design, state, unix)()
            before = self.tables.result(design.name)
            fresh = point(result) if before is None or before.units != result.units or acts else []
            self.tables.add_points(design.name, fresh, MOMENTS)
            result = msgspec.structs.replace(result, points=self.tables.points(design.name))
            self.tables.set_result(result)
        self._last[design.name] = self._basis(design, state)
        return result

    def _basis(self, design: Design, state: State) -> object:
        """What a result depends on."""
        ledger, pairs = self.folding.ledgers[design.name], self.folding.pairs[design.name]
        latest = pairs[-1].request if pairs else ""
        return design, state, sum(ledger.requests.values()), ledger.left, ledger.fed, ledger.held, len(pairs), latest

    def _begin(self, design: Design, unix: float) -> State:
        """An experiment that is new. Writes."""
        state = State(design.name, started=max(unix, self.begins.get(design.name, unix)))
        with self.tables.transaction():
            there = self.tables.state(design.name)
            if there is not None:
                return there
            self.tables.act(state, Audit(unix, ACTOR, "start", "the experiment is configured"))
        return state

    def _weights(self, design: Design, state: State, unix: float) -> State:
        """Notes the weights of an epoch that has none yet, and begins a new one when the configuration has others now. Writes."""
        planned = dict(zip(design.arms, design.weights, strict=True))
        known = self.tables.epochs(design.name).get(state.epoch)
        if known == (state.weights or planned):
            return state
        with self.tables.transaction():
            if self.tables.state(design.name) != state:
                return state  # the next look sees what is in force now
            if known is None or state.weights:
                self.tables.set_epoch(design.name, state.epoch, state.weights or planned)
                return state
            after = msgspec.structs.replace(state, epoch=state.epoch + 1)
            self.tables.act(after, Audit(unix, ACTOR, "weights", f"the configuration has others: {_listed(planned)}"))
            self.tables.set_epoch(design.name, after.epoch, planned)
        return after

    def _result(self, design: Design, state: State, unix: float) -> Callable[[], Result]:
        """What makes it; all that is asked of the file has been asked."""
        tables, ledger = self.tables, self.folding.ledgers[design.name]
        return partial(
            judged,
            design,
            self.folding,
            state,
            unix,
            weights=tables.epochs(design.name),
            before=tables.result(design.name),
            points=tables.points(design.name),
            audit=tables.audit(design.name),
            rng=_rng(design, state, sum(ledger.requests.values())),
        )

    def _acts(self, design: Design, state: State, result: Result) -> list[tuple[State, Audit]]:
        """What is to be done: what the design allows, else new weights of a bandit."""
        if state.status != "running":
            return []
        action = due(design, result)
        if action is not None:
            return [(_after(state, action), Audit(result.unix, ACTOR, action.kind, _why(action)))]
        changed = max((done.unix for done in result.audit if done.action in ("weights", "start")), default=0.0)
        if design.mode != "bandit" or result.unix - changed < EPOCH_SECONDS:
            return []
        ledger = self.folding.ledgers[design.name]
        planned = dict(zip(design.arms, design.weights, strict=True))
        posteriors = {arm: posterior(ledger.moments[arm][design.primary]) for arm in design.arms}
        found = shares(design, posteriors, state.weights or planned, _rng(design, state, result.requests))
        if found is None:
            return []
        after = msgspec.structs.replace(state, weights=found, epoch=state.epoch + 1)
        return [(after, Audit(result.unix, ACTOR, "weights", _listed(found)))]


def judged(
    design: Design,
    folding: Folding,
    state: State,
    unix: float,
    *,
    weights: Mapping[int, Mapping[str, float]],
    before: Result | None,
    points: Sequence[Point],
    audit: Sequence[Audit],
    rng: Random,
) -> Result:
    """The result of an experiment as its ledger stands. Writes nothing."""
    return analyse(
        design,
        folding.ledgers[design.name],
        unix=unix,
        started=state.started,
        status=state.status,
        weights=weights,
        before=before,
        points=points,
        audit=audit,
        shadows=shadowed(folding.pairs[design.name]),
        winner=state.winner,
        rng=rng,
    )


def look_at(tables: Tables, design: Design, unix: float) -> Result:
    """The result of one experiment in a file, of which nothing is changed, not even what has been folded."""
    folding = Folding(tables, [design], readonly=True)
    folding.all()
    state = tables.state(design.name) or State(design.name)
    return judged(
        design,
        folding,
        state,
        unix,
        weights=tables.epochs(design.name),
        before=tables.result(design.name),
        points=tables.points(design.name),
        audit=tables.audit(design.name),
        rng=_rng(design, state, sum(folding.ledgers[design.name].requests.values())),
    )


def _after(state: State, action: Action) -> State:
    winner = action.arm if action.kind == "promote" else None
    return msgspec.structs.replace(state, status=_STATUS[action.kind], winner=winner)


def _why(action: Action) -> str:
    return f"{action.arm}: {action.reason}" if action.arm else action.reason


def _listed(weights: Mapping[str, float]) -> str:
    return ", ".join(f"{arm} {weight:.3g}" for arm, weight in weights.items())


def _rng(design: Design, state: State, requests: int) -> Random:
    """The same numbers give the same result."""
    return Random(f"{design.name}/{state.epoch}/{requests}")
