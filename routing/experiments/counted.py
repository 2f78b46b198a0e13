"""What a request says of each built-in metric, as numbers that can be added up in any order. Pure."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterator, Sequence

from routing.experiments.words import METRICS, Block, PlainRow, Seen

LARGEST = 1e8  # a value beyond it is none
_STEPS = float(1 << 36)  # a unit's total is exact up to 131072 or, of whole numbers, far beyond
_BUILT_IN = tuple(METRICS)
# Where a unit's number of values of a metric is, and after it their total.
_LATENCY, _ERROR, _REFUSAL, _FALLBACK, _COST, _OUTPUT = (
    2 * _BUILT_IN.index(name) for name in ("latency", "error", "refusal", "fallback", "cost", "output_tokens")
)


def values(seen: Seen) -> list[float | None]:
    """What a request says of each built-in metric, in the order of METRICS. Of `log` kinds the natural log. A failed request has no time:
    a quick failure is not a fast answer."""
    good = not seen.error
    ttft = seen.ttft if good else None
    pace = None
    if ttft is not None and seen.stream and seen.output is not None and seen.output > 1:
        pace = (seen.seconds - ttft) / (seen.output - 1)
    return [
        value_of(ttft, True),
        value_of(pace, True),
        value_of(seen.seconds if good else None, True),
        float(seen.error),
        None if seen.refused is None else float(seen.refused),
        None if seen.valid is None else float(seen.valid),
        float(seen.fallback),
        value_of(seen.cost),
        value_of(seen.output),
    ]


def value_of(value: float | None, logs: bool = False) -> float | None:
    """A number as it is added up: in steps so small that they do not matter and so large that sums of a unit are exact, hence the same in
    any order. None: it cannot be one."""
    if value is None or not math.isfinite(value) or abs(value) > LARGEST or (logs and value <= 0.0):
        return None
    return round((math.log(value) if logs else value) * _STEPS) / _STEPS


def add_plain(sums: array[float], latency: float | None, row: PlainRow) -> None:
    """Adds the values of a plain request (see `values`) to a unit's numbers and totals. `latency`: its value. Mutates."""
    if latency is not None:
        sums[_LATENCY] += 1.0
        sums[_LATENCY + 1] += latency
    sums[_ERROR] += 1.0
    sums[_REFUSAL] += 1.0
    sums[_FALLBACK] += 1.0
    if row[6]:
        sums[_REFUSAL + 1] += 1.0
    output, cost = row[8], value_of(row[9])
    if output is not None and output <= LARGEST:
        sums[_OUTPUT] += 1.0
        sums[_OUTPUT + 1] += output
    if cost is not None:
        sums[_COST] += 1.0
        sums[_COST + 1] += cost


def rows_of(block: Block) -> Iterator[PlainRow]:
    """The requests of a block one by one."""
    nothing, epoch, heads, step = [None] * len(block.kind), block.epoch, block.heads, block.step
    skip = 7 if heads.startswith(b'{"id":"') else 0  # as they were first written; no id has quotation marks
    response = [heads[at + skip : at + step - 1] for at in range(0, len(heads), step)] if heads else block.response
    return zip(
        block.kind, block.unit, block.request, response, [at + epoch for at in block.unix], block.seconds,
        block.refused or [False] * len(nothing), block.input or nothing, block.output or nothing, block.cost or nothing, strict=True,
    )  # fmt: skip


def latencies(rows: Sequence[PlainRow]) -> list[float | None]:
    """The value of each plain request's latency."""
    log = math.log
    return [round(log(row[5]) * _STEPS) / _STEPS if 0.0 < row[5] <= LARGEST else None for row in rows]
