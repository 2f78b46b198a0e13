"""One request in its route's experiments: which arm it is given, and what is left of it for the store.

On its way a request costs a few hashes, and at its end one tuple for each experiment that it is in. What the tuple means (`seen`) is read
by the store's thread, of the most common ones some dozens at a time by `plain`: usage, the answer's id, whether it was refused, whether it
fits its schema.

`Trials` is the one owner in a process of which experiments are in force; a route holds what follows from that (`RouteTrials`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from time import monotonic, time
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar

import msgspec

from backends.types import Target
from gateway.asking import asked
from gateway.choosers import minute_of_day
from gateway.experiments.arms import ArmRoute, Changes, Experiment
from gateway.experiments.ended import SHORT, End, Ended, Mark, Whole, end_of, seen, short
from gateway.experiments.keys import field_of
from gateway.experiments.plain import Marks, Plain, ended_of
from gateway.experiments.tap import Purse, Tap
from gateway.experiments.words import State, unit_of
from gateway.relay import StreamRelay
from gateway.sink import Sink
from routing.experiments.assign import HELD, OUT
from routing.experiments.words import BEFORE, HOLDOUT
from routing.policies import holds
from routing.types import Route

if TYPE_CHECKING:
    from gateway.answering import Answering
    from gateway.exchange import Exchange
    from gateway.experiments.shadow import Shadows

__all__ = ["Ended", "Entry", "Live", "RouteTrials", "Store", "Trials", "seen"]
NEVER = float("inf")
KNOWN, LONG = 16_384, 256  # keys that an experiment remembers, and the bytes of one at most
T = TypeVar("T")
Left = Counter[tuple[str, str]]  # requests that had no part, by experiment and reason


class Store(Protocol):
    """Where tuples go (`gateway.experiments.store.TrialStore`)."""

    @property
    def put_plain(self) -> Callable[[Plain], None]: ...

    def put(self, ended: Ended) -> None: ...


class Entry(msgspec.Struct, eq=False):
    """One request's part in experiments. Owned by its exchange, which tells it what becomes of the answer."""

    store: Store
    marks: Marks
    unix: float
    route: Route
    changes: Changes | None
    answer: bytes = b""  # what is kept of it
    lost: tuple[Target, ...] = ()  # whose attempts have failed
    tap: Tap | None = None
    waiting: tuple[Ended, ...] = ()  # what is put when the tap has seen the end

    def tapped(self, inner: Sink) -> Sink:
        """The sink that this request's answer must pass."""
        self.tap = Tap(inner, self)
        return self.tap

    def must_fit(self, api: str, format: bytes) -> None:
        """The answer will be checked against a schema. `api`: how its client reads it."""
        if self.tap is not None:
            self.tap.whole = Whole(api, format)

    # --- what the exchange tells
    def plain(self, exchange: Answering, seconds: float, tail: bytes | None, body: bytes) -> None:
        """A whole good answer to the first attempt is about to be sent."""
        if len(body) > SHORT:
            body = short(body)
        left: Plain = (self.marks, exchange.tenant.name, exchange.id, self.unix, seconds, exchange.decision.target, tail, body)
        if self.tap is not None:
            self.waiting = (*ended_of(left),)
        elif self.marks:
            self.store.put_plain(left)

    def answered(self, data: bytes) -> None:
        """The first content of a stream, or a whole answer."""
        self.answer = short(data)

    def failed(self, target: Target) -> None:
        """An attempt has failed."""
        self.lost = (*self.lost, target)

    def over(self, exchange: Exchange, status: int) -> None:
        """The request has ended; whatever is still to be sent follows now."""
        guide, relay = exchange.guide, exchange.relay
        deserted = guide is not None and guide.shared is not None and guide.shared.own is None  # it went on for others
        end: End = "gone" if deserted else end_of(exchange.last_fault)
        if isinstance(relay, StreamRelay) and relay.final:
            self.answer = b"%b\n%b" % (self.answer, relay.final[:1024])
        target = exchange.decision.target
        elsewhere = exchange.route is not self.route or any(_place(lost) != _place(target) for lost in self.lost)
        seconds = monotonic() - exchange.received
        made: list[Ended] = [
            (
                mark, unit, exchange.tenant.name, exchange.id, self.unix, seconds, exchange.ttft, exchange.stream, status, end, target,
                elsewhere, exchange.tail, self.answer, None,
            )
            for mark, unit in self.marks
        ]  # fmt: skip
        if self.tap is None or deserted or status == 499:
            for ended in made:
                self.store.put(ended)
        else:
            self.waiting = (*made,)

    def told(self, answer: bytes, whole: Whole | None, size: int) -> None:
        """The tap has passed on the end of the answer."""
        waiting, self.waiting = self.waiting, ()
        if whole is not None and not PURSE.take(size, whole):
            whole = None
        for ended in waiting:
            self.store.put((*ended[:13], answer, whole))


PURSE = Purse()


def _place(target: Target) -> tuple[str, str]:
    return target.backend, target.model


class Place(NamedTuple):
    """What becomes of a request. `mark` None: nothing is told of it."""

    mark: Mark | None
    route: ArmRoute | None
    changes: Changes | None


class Drawn(NamedTuple):
    """Where a key belongs. `marks`: as an `Entry` has them, where it is in this experiment alone."""

    place: Place
    marks: Marks


class Told(NamedTuple):
    """What an experiment would make of a request, for who asks. `arm` "": it has no part, or none yet; `why`: in a few words."""

    arm: str
    why: str
    place: Place | None


class Live:
    """One experiment as it is in force: what `State` has made of it. Only its slice of the layer moves on, with time; where keys belong is
    remembered until then, as far as KNOWN goes."""

    __slots__ = (
        "before", "end", "experiment", "field", "fixed", "held", "key", "known", "left", "name", "places", "plain", "quick", "split",
        "until", "winner",
    )  # fmt: skip

    def __init__(self, experiment: Experiment, state: State, left: Left) -> None:
        self.experiment, self.left, self.name = experiment, left, experiment.name
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
        self.quick: dict[tuple[str, bytes], Drawn] = {}  # by the field as it is written, where that alone is the key
        self.end = 0
        self.until = NEVER if state.status == "planned" else -NEVER  # unix seconds: when the slice grows

    def place(self, exchange: Exchange, unix: float) -> Drawn | None:
        """Where a request goes; None: it has no part."""
        if not self.plain:
            if self.experiment.exclude is not None and self._excluded(exchange):
                self.left[self.name, "excluded"] += 1
                return None
            if self.fixed is not None:
                return Drawn(self.fixed, ())
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
            found = self._drawn(unit_of(*asked))
            _keep(known, asked, found)
        if self.field and found is not None:
            _keep(self.quick, (asked[0], bytes(exchange.call.doc.get(self.field, b""))), found)
        return found

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
        drawn = self._drawn(unit_of(exchange.tenant.name, key))
        if drawn is None or drawn[0].mark is None:
            return Told("", "its key is not in the experiment's share now", None)
        place, arm = drawn[0], drawn[0].mark[2]
        if arm == BEFORE:
            return Told("", "its key is not in the experiment's share yet; counted as history", place)
        return Told("", "its key is held out", place) if arm == HOLDOUT else Told(arm, "drawn by its key", place)

    def _drawn(self, unit: int) -> Drawn | None:
        found = self.split.arm(unit, self.end) if self.end else OUT
        place = self.places[found] if found >= 0 else self.held if found == HELD else self.before
        if place is None:
            return None
        return Drawn(place, () if place.mark is None else ((place.mark, unit),))

    def _grow(self, unix: float) -> None:
        """The slice as it is now, and when it grows next."""
        experiment = self.experiment
        steps = [(max(when, experiment.began), share) for when, share in experiment.shares]
        share = max((share for when, share in steps if when <= unix), default=0.0)
        self.end = self.split.end(share) if share else 0
        self.until = min((when for when, _ in steps if when > unix), default=NEVER)
        self.known.clear()
        self.quick.clear()

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
        self.sole = live[0] if len(live) == 1 and live[0].plain else None  # the only one, where nothing but the key counts

    def __repr__(self) -> str:
        return f"<RouteTrials {', '.join(one.name for one in self.live)}>"

    def enter(self, exchange: Exchange) -> None:
        """Gives a request its arm: the exchange's route, its changes, its `trial`. Never raises."""
        unix, shadows, sole = time(), exchange.core.shadows, self.sole
        if sole is not None and shadows is None and unix < sole.until:  # the usual case: who is known needs no more than a look
            raw = exchange.call.doc.get(sole.field)
            known = sole.quick.get((exchange.tenant.name, bytes(raw))) if raw is not None else None
            if known is not None:
                (_, arm, altered), marks = known
                if arm is not None:
                    exchange.route = arm
                exchange.tried(Entry(self.store, marks, unix, exchange.route, altered))
                return
        self._enter(exchange, unix, shadows)

    def _enter(self, exchange: Exchange, unix: float, shadows: Shadows | None) -> None:
        way: Route = exchange.route
        marks: Marks = ()
        changes: Changes | None = None
        for one in self.live:
            found = one.place(exchange, unix)
            if found is None:
                continue
            (mark, route, altered), mine = found
            if mark is not None:
                marks = (*marks, *mine)
                if shadows is not None and mark[2] not in (BEFORE, HOLDOUT):  # and before anything is changed
                    shadows.wants(exchange, one.name)
            if route is not None:
                way = route
            if altered is not None:
                changes = altered if changes is None else changes.and_(altered)
        exchange.route = way  # its calls under way are counted at the whole route
        if marks or changes is not None:
            exchange.tried(Entry(self.store, marks, unix, way, changes))


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
                live.append(Live(experiment, state, self.left))
        for route, found in routes.items():
            route.try_out(RouteTrials(self.store, tuple(found)) if found else None)
