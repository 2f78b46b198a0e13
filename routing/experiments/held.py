"""What an experiment's ledger holds of one unit, and which part of it counts. Pure; `expose` and `history` mutate the unit given."""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence

import msgspec
import xxhash

_SEED = 0x9D5F  # of the hash that thins units: not one that assigns them
Part = tuple[int, float, float | None]
NOTHING: Part = (0, 0.0, None)


class Unit(msgspec.Struct, gc=False):
    """What is held of a unit: numbers and totals of its values by metric, (n, y) after (n, y); `past` of its history."""

    now: array[float]
    past: array[float] | None = None
    arm: str = ""  # where it was first seen
    crossed: bool = False
    first: float = math.inf  # unix, the first exposure
    epoch: int = 0  # at the first exposure
    late: float = -math.inf  # unix, the latest of its history


_Held = tuple[bytes, bytes | None, str, bool, float, int, float]
_packed = msgspec.msgpack.Encoder()
_row = msgspec.msgpack.Decoder(_Held)


def part(unit: Unit, metric: int, trusted: bool) -> Part:
    """Number and total of a unit's values of a metric, and the mean of its history where that is `trusted`. None: it has none."""
    at = 2 * metric
    count, past = unit.now[at], unit.past
    if not count:
        return NOTHING
    x = past[at + 1] / past[at] if past is not None and trusted and past[at] else None
    return int(count), unit.now[at + 1], x


def counts_for(unit: Unit) -> str:
    """The arm that a unit counts for; "": none."""
    return "" if unit.crossed else unit.arm


def expose(unit: Unit, unix: float, epoch: int, arm: str) -> None:
    """A request in an arm: the earliest decides where the unit belongs, of two at once the smaller epoch, then the smaller name."""
    if unit.arm and unit.arm != arm:
        unit.crossed = True
    if not unit.arm or (unix, epoch, arm) < (unit.first, unit.epoch, unit.arm):
        unit.arm, unit.first, unit.epoch = arm, unix, epoch


def history(unit: Unit, zeros: array[float]) -> array[float]:
    """The sums of a unit's history, begun when there are none. Mutates."""
    if unit.past is None:
        unit.past = zeros[:]
    return unit.past


def copy(unit: Unit) -> Unit:
    """The unit as it is now."""
    past = None if unit.past is None else unit.past[:]
    return Unit(unit.now[:], past, unit.arm, unit.crossed, unit.first, unit.epoch, unit.late)


def stays(unit: int, level: int) -> bool:
    """Whether a unit is one of those held at a level: of 2 ** level units one."""
    return xxhash.xxh3_64_intdigest(unit.to_bytes(8, "little"), _SEED) >> (64 - level) == 0


def dumped(unit: Unit) -> bytes:
    """A unit's row."""
    past = None if unit.past is None else unit.past.tobytes()
    return _packed.encode((unit.now.tobytes(), past, unit.arm, unit.crossed, unit.first, unit.epoch, unit.late))


def loaded(row: bytes, places: Sequence[int | None] | None, zeros: array[float]) -> Unit:
    """A unit from its row. `places`: where each of its metrics is now, when they are not the same. Raises msgspec.MsgspecError or
    ValueError: it is not one."""
    now, past, *rest = _row.decode(row)
    return Unit(_placed(now, places, zeros), None if past is None else _placed(past, places, zeros), *rest)


def _placed(held: bytes, places: Sequence[int | None] | None, zeros: array[float]) -> array[float]:
    sums = array("d", held)
    if places is None:
        if len(sums) != len(zeros):
            raise ValueError(f"a unit of an experiment holds {len(sums)} numbers instead of {len(zeros)}: the file is damaged")
        return sums
    out = zeros[:]
    for at, place in enumerate(places):
        if place is not None:
            out[2 * place : 2 * place + 2] = sums[2 * at : 2 * at + 2]
    return out
