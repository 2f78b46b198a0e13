"""All that an experiment has seen, as sums over units: what the statistics are made of. Pure: no clock, no file.

1. `take` adds a request to its unit, `feedback` a value: nothing but sums, the earliest and the latest, so that order does not matter.
2. What a unit contributes to the arms follows from what is held of it. The sums of the arms are brought up to date when they are asked
   for: of each unit that changed the old contribution goes and the new one comes.
3. A unit belongs to the arm where it was first seen. Seen in another one too it has *crossed*, and counts for none; its first exposure
   still counts for the sample ratio, which would look wrong without it.
4. History counts for a unit only when all of it is older than its first exposure.
5. When there are more units than may be held, half of them are left out by a hash, and so are new ones on their side of it: what stays
   is a random sample, the same one in any order.

Latencies are counted by requests, also those of units that crossed: a sketch is of the answers of an arm, not of its units.
"""

from __future__ import annotations

from array import array
from bisect import insort
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from routing.experiments.counted import add_plain, latencies, value_of, values
from routing.experiments.held import NOTHING, Unit, copy, counts_for, dumped, expose, history, loaded, part, stays
from routing.experiments.moments import Moments
from routing.experiments.quantile import Sketch
from routing.experiments.words import BEFORE, FEEDBACK, HOLDOUT, METRICS, Design, PlainRow, Seen

LATENCIES = ("ttft", "tpot", "latency")  # metrics that have a sketch; they are the first in METRICS
UNITS = 1_000_000  # held at most
COMMENTS = 50  # kept, the latest

Row = tuple[int, bytes]  # a unit and what is held of it


class _Head(msgspec.Struct, frozen=True):
    """What is dumped beside the rows of units."""

    metrics: list[tuple[str, str]]  # name and kind, in the order of the rows' numbers
    level: int
    left: int
    strange: int
    fed: int
    comments: list[tuple[float, str]]
    requests: dict[str, int]
    sketches: dict[str, list[bytes]]
    moments: dict[str, list[Any]]


_packed = msgspec.msgpack.Encoder()
_head = msgspec.msgpack.Decoder(_Head)


class Ledger:
    """Sums of one experiment; see the module. One owner; every method is synchronous. `limit`: units held at most.

    Read by arm (those of the design, and HOLDOUT): `moments[arm][metric]` (of `log` kinds: of logs), `sketches[arm][metric]`, `units`,
    `requests` (those that count); `first[epoch][arm]`: units by where and under which weights they were first seen. `crossed`: units that
    count for none; `left`: requests whose client left; `strange`: requests of arms that the design does not have; `fed`: what came as
    feedback, a value, a comment or both; `level`: of 2 ** level units one is held.
    """

    def __init__(self, design: Design, *, limit: int = UNITS) -> None:
        self.design, self.limit = design, max(1, limit)
        self.arms = (*design.arms, HOLDOUT)
        self.metrics = (*METRICS, *(name for name in design.metrics if name not in METRICS))
        self.level = self.left = self.strange = self.fed = 0
        self.requests = dict.fromkeys(self.arms, 0)
        self.sketches = {arm: {name: Sketch() for name in LATENCIES} for arm in self.arms}
        self.rewritten = False  # all rows are to be written anew: units were left out
        self._at = {name: 2 * i for i, name in enumerate(self.metrics)}
        self._zeros = array("d", bytes(16 * len(self.metrics)))
        self._moments = {arm: {name: Moments() for name in self.metrics} for arm in self.arms}
        self._units: dict[int, Unit] = {}
        self._before: dict[int, Unit] = {}  # what units were when the arms' sums last took them in
        self._written: set[int] = set()  # units that changed since the last `changed`
        self._count = dict.fromkeys(self.arms, 0)
        self._first: dict[int, dict[str, int]] = {}
        self._crossed = 0
        self._comments: list[tuple[float, str]] = []

    def __repr__(self) -> str:
        return f"Ledger({self.design.name}: {len(self._units)} units, {sum(self.requests.values())} requests)"

    def __contains__(self, unit: object) -> bool:
        return unit in self._units

    # What comes in.

    def take(self, seen: Seen) -> None:
        """Adds a request. Mutates."""
        if seen.gone:
            self.left += 1
            return
        before = seen.arm == BEFORE
        if not before:
            if seen.arm not in self.requests:
                self.strange += 1
                return
            self.requests[seen.arm] += 1
        found = values(seen)
        if not before:
            self._time(seen.arm, found)
        unit = self._touch(seen.unit)
        if unit is None:
            return
        sums = history(unit, self._zeros) if before else unit.now
        for i, value in enumerate(found):
            if value is not None:
                sums[2 * i] += 1.0
                sums[2 * i + 1] += value
        if before:
            unit.late = max(unit.late, seen.unix)
        else:
            expose(unit, seen.unix, seen.epoch, seen.arm)

    def take_plain(self, epoch: int, arm: str, rows: Sequence[PlainRow]) -> bool:
        """Adds requests of one arm (see `Block`), as `take` would one by one. False: the design has no such arm. Mutates."""
        before = arm == BEFORE
        if not before and arm not in self.requests:
            self.strange += len(rows)
            return False
        units, fresh = self._units, self._before
        logs = latencies(rows)
        for row, latency in zip(rows, logs, strict=True):
            number = row[1]
            unit = units[number] if number in fresh and number in units else self._touch(number)
            if unit is None:
                continue
            add_plain(history(unit, self._zeros) if before else unit.now, latency, row)
            if before:
                unit.late = max(unit.late, row[4])
            elif unit.arm != arm or row[4] <= unit.first:
                expose(unit, row[4], epoch, arm)
        self._written.update([row[1] for row in rows])
        if not before:
            self.requests[arm] += len(rows)
            self.sketches[arm]["latency"].add_logs([latency for latency in logs if latency is not None])
        return True

    def _time(self, arm: str, found: list[float | None]) -> None:
        for name, value in zip(LATENCIES, found, strict=False):
            if value is not None:
                self.sketches[arm][name].add_logs((value,))

    def feedback(self, unit: int, name: str, value: float | None, *, before: bool = False) -> bool:
        """Adds what was said of an answer to a unit, or of the unit; `name` without its prefix. `before`: it is history. False, and
        nothing changes, when the design has no such metric or the value does not fit it. Mutates."""
        metric = self.design.metrics.get(FEEDBACK + name)
        number = None if metric is None else value_of(value, metric.kind == "log")
        if number is None:
            return False
        self.fed += 1
        held = self._touch(unit)
        if held is not None:
            at = self._at[FEEDBACK + name]
            sums = history(held, self._zeros) if before else held.now
            sums[at] += 1.0
            sums[at + 1] += number
        return True

    def comment(self, unix: float, text: str, *, alone: bool = True) -> None:
        """Keeps what somebody wrote, if it is among the latest. `alone`: there was no value with it, which has been counted. Mutates."""
        self.fed += alone
        insort(self._comments, (unix, text))
        del self._comments[:-COMMENTS]

    def exposed(self, unit: int) -> float | None:
        """When a unit first took part, unix seconds. None: it has not."""
        held = self._units.get(unit)
        return held.first if held is not None and held.arm else None

    def _touch(self, number: int) -> Unit | None:
        """The unit, about to change. None: it is not one of those that are held."""
        unit = self._units.get(number)
        if unit is None:
            if self.level and not stays(number, self.level):
                return None
            unit = Unit(now=self._zeros[:])
            self._units[number] = unit
            self._before.setdefault(number, Unit(now=self._zeros))
            self._written.add(number)
            if len(self._units) <= self.limit:
                return unit
            self._thin()  # which settles: nothing is held of the unit yet
            if number not in self._units:
                return None
            self._before[number] = Unit(now=self._zeros)
            return unit
        self._written.add(number)
        if number not in self._before:
            self._before[number] = copy(unit)
        return unit

    def _thin(self) -> None:
        """Leaves out units until no more than half are held too many. Mutates; takes about 2 µs a unit."""
        while len(self._units) > self.limit:
            self.level += 1
            for number in [n for n in self._units if not stays(n, self.level)]:
                unit = self._units.pop(number)
                self._before.setdefault(number, unit)
        self.rewritten = True
        self._settle()

    # The arms' sums.

    def _settle(self) -> None:
        gone = Unit(now=self._zeros)
        for number, old in self._before.items():
            self._move(old, self._units.get(number, gone))
        self._before.clear()

    def _move(self, old: Unit, new: Unit) -> None:
        if (old.arm, old.epoch) != (new.arm, new.epoch):
            self._expose(old, -1)
            self._expose(new, 1)
        self._crossed += new.crossed - old.crossed
        of_old, of_new = counts_for(old), counts_for(new)
        if of_old != of_new:
            for arm, step in ((of_old, -1), (of_new, 1)):
                if arm:
                    self._count[arm] += step
        if of_new and of_old == of_new and old.past is None and new.past is None:  # as nearly always
            self._follow(self._moments[of_new], old.now, new.now)
            return
        self._shift(old, new, of_old, of_new)

    def _shift(self, old: Unit, new: Unit, of_old: str, of_new: str) -> None:
        trusted_old, trusted_new = old.late < old.first, new.late < new.first
        for i, name in enumerate(self.metrics):
            was = part(old, i, trusted_old) if of_old else NOTHING
            now = part(new, i, trusted_new) if of_new else NOTHING
            if of_old == of_new and was[2] == now[2]:
                if was != now:
                    self._moments[of_new][name].change(was[0], was[1], now[0], now[1], now[2])
                continue
            if was[0]:
                self._moments[of_old][name].change(was[0], was[1], 0, 0.0, was[2])
            if now[0]:
                self._moments[of_new][name].change(0, 0.0, now[0], now[1], now[2])

    def _follow(self, sums: Mapping[str, Moments], was: array[float], now: array[float]) -> None:
        for at, name in enumerate(self.metrics):
            n0, y0, n1, y1 = *was[2 * at : 2 * at + 2], *now[2 * at : 2 * at + 2]
            if n0 != n1 or y0 != y1:
                sums[name].change(int(n0), y0, int(n1), y1)

    def _expose(self, unit: Unit, step: int) -> None:
        if unit.arm:
            arms = self._first.setdefault(unit.epoch, dict.fromkeys(self.arms, 0))
            arms[unit.arm] += step
            if not any(arms.values()):
                del self._first[unit.epoch]

    @property
    def moments(self) -> Mapping[str, Mapping[str, Moments]]:
        """By arm and metric. Brings the sums up to date first (about 5 µs a unit that changed)."""
        self._settle()
        return self._moments

    @property
    def units(self) -> Mapping[str, int]:
        """Units that count, by arm."""
        self._settle()
        return self._count

    @property
    def first(self) -> Mapping[int, Mapping[str, int]]:
        """First exposures by epoch and arm, units that crossed included."""
        self._settle()
        return dict(sorted(self._first.items()))

    @property
    def crossed(self) -> int:
        """Units that were seen in more than one arm."""
        self._settle()
        return self._crossed

    @property
    def comments(self) -> list[str]:
        """What was written last, the latest first."""
        return [text for _, text in reversed(self._comments)]

    @property
    def held(self) -> int:
        """Units of which anything is held, history alone included."""
        return len(self._units)

    # To a file and back.

    def changed(self) -> list[Row]:
        """Rows of the units that changed since the last call; all when `rewritten`, which it takes back: older rows are void then."""
        numbers: Iterable[int] = self._units if self.rewritten else self._written
        rows = [(number, dumped(self._units[number])) for number in numbers if number in self._units]
        self._written.clear()
        self.rewritten = False
        return rows

    def rows(self) -> list[Row]:
        """Rows of all units."""
        return [(number, dumped(unit)) for number, unit in self._units.items()]

    def dump(self) -> bytes:
        """All but the units' rows."""
        moments = {arm: [m.dump() for m in by.values()] for arm, by in self.moments.items()}
        sketches = {arm: [s.dump() for s in by.values()] for arm, by in self.sketches.items()}
        names = [(name, self.design.metric(name).kind) for name in self.metrics]
        return _packed.encode(
            _Head([*names], self.level, self.left, self.strange, self.fed, self._comments, self.requests, sketches, moments)
        )

    @classmethod
    def load(cls, design: Design, head: bytes, rows: Iterable[Row], *, limit: int = UNITS) -> Ledger:
        """What `dump` and `rows` gave. Where the design now has other arms or metrics, what it still has is taken over, and the arms' sums
        are made anew from the units. Raises msgspec.MsgspecError or ValueError: it is something else."""
        ledger, had = cls(design, limit=limit), _head.decode(head)
        ledger.level, ledger.left, ledger.strange, ledger.fed, ledger._comments = had.level, had.left, had.strange, had.fed, had.comments
        for arm in ledger.arms:
            ledger.requests[arm] = had.requests.get(arm, 0)
            for name, sketch in zip(LATENCIES, had.sketches.get(arm, ()), strict=False):
                ledger.sketches[arm][name] = Sketch.load(sketch)
        names = [(name, str(design.metric(name).kind)) for name in ledger.metrics]
        places = [names.index(metric) if metric in names else None for metric in had.metrics]
        same = had.metrics == names and sorted(had.moments) == sorted(ledger.arms)
        for number, row in rows:
            ledger._bring(number, loaded(row, None if had.metrics == names else places, ledger._zeros), counted=same)
        if same:
            for arm, found in had.moments.items():
                ledger._moments[arm] = dict(zip(ledger.metrics, map(Moments.load, found), strict=True))
        if len(ledger._units) > ledger.limit:
            ledger._thin()
        return ledger

    def _bring(self, number: int, unit: Unit, *, counted: bool) -> None:
        """A unit from a file. `counted`: the moments hold it already."""
        if unit.arm and unit.arm not in self.requests:
            return  # of an arm that is no more
        self._units[number] = unit
        if not counted:
            self._before[number] = Unit(now=self._zeros)
            return
        self._expose(unit, 1)
        self._crossed += unit.crossed
        arm = counts_for(unit)
        if arm:
            self._count[arm] += 1
