"""One request in its route's experiments: which arm it is given (`entry`: what is left of it for the store).

On its way a request costs a look at what is known of its key, and at its end one tuple for each experiment that it is in. What the tuple
means (`seen`) is read by the store's thread: usage, the answer's id, whether it was refused, whether it fits its schema. The most common
requests leave no tuple of their own: they are read some hundred at a time as the recorder counts them (`plain`).

`Trials` is the one owner in a process of which experiments are in force; a route holds what follows from that (`RouteTrials`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from time import time
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from gateway.asking import asked
from gateway.choosers import minute_of_day
from gateway.experiments.arms import ArmRoute, Changes, Experiment
from gateway.experiments.ended import Mark
from gateway.experiments.entry import Part, Store
from gateway.experiments.keys import field_of
from gateway.experiments.plain import Kind, Marks
from gateway.experiments.words import State, unit_of
from routing.experiments.assign import HELD, OUT
from routing.experiments.words import BEFORE, HOLDOUT
from routing.policies import holds
from routing.types import Route

if TYPE_CHECKING:
    from gateway.exchange import Exchange
    from gateway.experiments.shadow import Shadows

NEVER = float("inf")
KNOWN, LONG = 16_384, 256  # keys that an experiment remembers, and the bytes of one at most
T = TypeVar("T")
Left = Counter[tuple[str, str]]  # requests that had no part, by experiment and reason


class Place(NamedTuple):
    """What becomes of a request. `mark` None: nothing is told of it."""

    mark: Mark | None
    route: ArmRoute | None
    changes: Changes | None


class Drawn(NamedTuple):
    """Where a key belongs. `part`: of its requests, where they are in this experiment alone."""

    place: Place
    part: Part


class Told(NamedTuple):
    """What an experiment would make of a request, for who asks. `arm` "": it has no part, or none yet; `why`: in a few words."""

    arm: str
    why: str
    place: Place | None


class Live:
    """One experiment as it is in force: what `State` has made of it. Only its slice of the layer moves on, with time; where keys belong is
    remembered until then, as far as KNOWN goes."""

    __slots__ = (
        "before", "end", "experiment", "field", "fixed", "held", "key", "kinds", "known", "left", "name", "places", "plain", "quick",
        "room", "split", "steady", "store", "until", "winner",
    )  # fmt: skip

    def __init__(self, experiment: Experiment, state: State, left: Left, store: Store) -> None:
        self.experiment, self.left, self.name, self.store = experiment, left, experiment.name, store
        epoch, name, arms = state.epoch, experiment.name, experiment.split.arms
        weights = [state.weights.get(arm, 0.0) for arm in arms]
        self.split = experiment.split.weigh(weights) if any(weight > 0 for weight in weights) else experiment.split
        ways = zip(arms, experiment.ways, experiment.changes, strict=True)
        self.places = tuple(Place((name, epoch, arm), route, changes) for arm, route, changes in ways)
        self.before = Place((name, epoch, BEFORE), None, None) if experiment.history else None
        self.held = Place((name, epoch, HOLDOUT), None, None)
        self.fixed: Place | None = None  # where all go
        self.winner = state.winner
        if state.status == "promoted" and state.winner in arms:
            self.fixed = self.places[arms.index(state.winner)]._replace(mark=None)
        self.key = experiment.key
        self.plain = experiment.exclude is None and self.fixed is None
        self.known: dict[tuple[str, bytes], Drawn | None] = {}
        self.field = field_of(self.key)
        self.kinds: dict[tuple[Mark, str], Kind] = {}  # by mark and tenant
        self.quick: dict[str, dict[bytes, Part]] = {}  # by tenant and the field as it is written, where that alone is the key
        self.room = KNOWN  # for how many more
        self.end = 0
        self.until = NEVER if state.status == "planned" else -NEVER  # unix seconds: when the slice grows
        self.steady = self.until == NEVER  # it never does

    def place(self, exchange: Exchange, unix: float) -> Drawn | None:
        """Where a request goes; None: it has no part."""
        if not self.plain:
            if self.experiment.exclude is not None and self._excluded(exchange):
                self.left[self.name, "excluded"] += 1
                return None
            if self.fixed is not None:
                return self._part(self.fixed, ())
        key = self.key(exchange)
        if not key:
            self.left[self.name, "no_key"] += 1
            return None
        if unix >= self.until:
            self._grow(unix)
        asked, known = (exchange.tenant.name, key), self.known
        if asked in known:
            found = known[asked]
        else:
            found = self._drawn(unit_of(*asked), asked[0])
            _keep(known, asked, found)
        if self.field and found is not None:
            self._remember(asked[0], bytes(exchange.call.doc.get(self.field, b"")), found.part)
        return found

    def _remember(self, tenant: str, raw: bytes, part: Part) -> None:
        if 0 < len(raw) <= LONG:
            if self.room <= 0:
                self._forget()
            known = self.quick.setdefault(tenant, {})
            self.room -= raw not in known
            known[raw] = part

    def _forget(self) -> None:
        self.known.clear()
        self.quick.clear()
        self.room = KNOWN

    def told(self, exchange: Exchange, unix: float) -> Told:
        """What `place` would say, in words. Counts nothing and remembers nobody."""
        if self.experiment.exclude is not None and self._excluded(exchange):
            return Told("", "such requests are excluded", None)
        if self.fixed is not None:
            return Told(self.winner or "", "it was promoted: everybody has it", self.fixed)
        key = self.key(exchange)
        if not key:
            return Told("", "the request has no key to assign it by", None)
        if unix >= self.until:
            self._grow(unix)
        drawn = self._drawn(unit_of(exchange.tenant.name, key), exchange.tenant.name)
        if drawn is None or drawn[0].mark is None:
            return Told("", "its key is not in the experiment's share now", None)
        place, arm = drawn[0], drawn[0].mark[2]
        if arm == BEFORE:
            return Told("", "its key is not in the experiment's share yet; counted as history", place)
        return Told("", "its key is held out", place) if arm == HOLDOUT else Told(arm, "drawn by its key", place)

    def _drawn(self, unit: int, tenant: str) -> Drawn | None:
        found = self.split.arm(unit, self.end) if self.end else OUT
        place = self.places[found] if found >= 0 else self.held if found == HELD else self.before
        if place is None:
            return None
        if place.mark is None:
            return self._part(place, ())
        kind = self.kinds.get((place.mark, tenant))
        if kind is None:
            kind = self.kinds[place.mark, tenant] = Kind(*place.mark, tenant)
        return self._part(place, ((kind, unit),))

    def _part(self, place: Place, marks: Marks) -> Drawn:
        return Drawn(place, Part(self.store, marks, place.route or self.experiment.route, place.changes))

    def _grow(self, unix: float) -> None:
        """The slice as it is now, and when it grows next."""
        experiment = self.experiment
        steps = [(max(when, experiment.began), share) for when, share in experiment.shares]
        share = max((share for when, share in steps if when <= unix), default=0.0)
        self.end = self.split.end(share) if share else 0
        self.until = min((when for when, _ in steps if when > unix), default=NEVER)
        self.steady = self.until == NEVER
        self._forget()

    def _excluded(self, exchange: Exchange) -> bool:
        condition = self.experiment.exclude
        assert condition is not None
        minute = minute_of_day() if condition.hours is not None else 0
        return holds(condition, asked(exchange.call, exchange.tenant, output=0.0, minute=minute, headers=condition.headers))


def _keep(known: dict[tuple[str, bytes], T], asked: tuple[str, bytes], found: T) -> None:
    if len(asked[1]) <= LONG:
        if len(known) >= KNOWN:
            known.clear()
        known[asked] = found


class RouteTrials:
    """What a route holds (`routing.types.Tries`): its experiments that are in force. Never changed after it was made."""

    __slots__ = ("live", "sole", "store")

    def __init__(self, store: Store, live: tuple[Live, ...]) -> None:
        self.store, self.live = store, live
        # The only one, where nothing counts but a key that is a field of the body.
        self.sole = live[0] if len(live) == 1 and live[0].plain and live[0].field else None

    def __repr__(self) -> str:
        return f"<RouteTrials {', '.join(one.name for one in self.live)}>"

    def enter(self, exchange: Exchange) -> None:
        """Gives a request its arm: the exchange's route, its changes, its `trial`. Never raises."""
        sole = self.sole
        if sole is not None and exchange.core.shadows is None and (sole.steady or time() < sole.until):
            doc = exchange.call.doc
            try:
                part = sole.quick[exchange.tenant.name][b"" + doc[sole.field]]  # the usual case: who is known
            except KeyError:
                pass
            else:
                exchange.route = part.route
                if part.changes is not None or "response_format" in doc or exchange.tapped:
                    exchange.tried(part)
                else:
                    exchange.trial = part
                return
        self._enter(exchange, exchange.core.shadows)

    def _enter(self, exchange: Exchange, shadows: Shadows | None) -> None:
        way: Route = exchange.route
        unix = time()
        marks: Marks = ()
        changes: Changes | None = None
        for one in self.live:
            found = one.place(exchange, unix)
            if found is None:
                continue
            (mark, route, altered), mine = found
            if mark is not None:
                marks = (*marks, *mine.marks)
                if shadows is not None and mark[2] not in (BEFORE, HOLDOUT):  # and before anything is changed
                    shadows.wants(exchange, one.name)
            if route is not None:
                way = route
            if altered is not None:
                changes = altered if changes is None else changes.and_(altered)
        exchange.route = way  # its calls under way are counted at the whole route
        if marks or changes is not None:
            exchange.tried(Part(self.store, marks, way, changes))


class Trials:
    """Which experiments are in force in this process. `attach` with each generation, `follow` with what the store says."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.left: Left = Counter()
        self._experiments: Sequence[Experiment] = ()
        self._states: Mapping[str, State] = {}

    def __repr__(self) -> str:
        return f"<Trials {', '.join(experiment.name for experiment in self._experiments)}>"

    def attach(self, experiments: Sequence[Experiment]) -> None:
        """From now on these are the experiments, of the newest generation."""
        self._experiments = experiments
        self._apply()

    def follow(self, states: Mapping[str, State]) -> None:
        """From now on these are in force. An experiment without a state runs as configured. Requests under way go on as they began."""
        self._states = dict(states)
        self._apply()

    def _apply(self) -> None:
        routes: dict[Route, list[Live]] = {}
        for experiment in self._experiments:
            live = routes.setdefault(experiment.route, [])
            state = self._states.get(experiment.name, State(experiment.name))
            if state.status in ("planned", "running", "promoted"):
                live.append(Live(experiment, state, self.left, self.store))
        for route, found in routes.items():
            route.try_out(RouteTrials(self.store, tuple(found)) if found else None)
