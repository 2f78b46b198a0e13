"""What a gateway adds, from what was seen of it and of the server behind it: rows, and how they are shown. Pure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence

import msgspec

from benchmarks.bench.paired import METRICS, Interval, match, shift
from benchmarks.bench.spread import percentile
from benchmarks.bench.student import quantile
from benchmarks.bench.table import grid, wrapped
from benchmarks.bench.texts import NONE, ms, number, percent
from benchmarks.bench.words import Provenance, Stage, Timed
from benchmarks.bench.wrk import Told

SHARES = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999}
_FEWEST = 10  # samples beyond a percentile, or it is none
_METRICS = {"stream": ("ttft", "e2e"), "whole": ("e2e",)}


class Added(msgspec.Struct, frozen=True):
    """One latency through one gateway, in seconds. `direct`, `through`: the percentile without it and with it; `added`: their difference.
    `count`: answers on each side."""

    gateway: str
    load: str
    concurrency: int
    metric: str
    percentile: str
    direct: float
    through: float
    added: Interval
    count: int


class Rate(msgspec.Struct, frozen=True):
    """What one server answered a second in a closed loop: the median over rounds, and (highest - lowest) / median. `chunks`: of streams."""

    party: str
    load: str
    concurrency: int
    requests: float
    chunks: float
    spread: float
    sent: int
    failed: int


class Overhead(msgspec.Struct):
    """All of it. `servers`: what each tells of itself. `whole_by`: what sent whole answers (wrk, or this client)."""

    added: list[Added]
    rates: list[Rate]
    whole_by: str
    provenance: Provenance
    servers: dict[str, dict[str, str]]
    warnings: list[str]
    interrupted: bool = False
    late: bool = False  # the client's own stamps were
    format: int = 1


def latencies(load: str, concurrency: int, gateway: str, rounds: Sequence[tuple[Sequence[Timed], Sequence[Timed]]]) -> list[Added]:
    """The rows of one gateway; each round has what was seen of the server itself, and through the gateway. A percentile is left out where
    there are fewer than 10 answers beyond it."""
    pairs = [pair for direct, through in rounds for pair in match(direct, through)]
    rows = []
    for metric in _METRICS[load]:
        get = METRICS[metric]
        values = [(x, y) for one, other in pairs if (x := get(one)) is not None and (y := get(other)) is not None]
        for name, share in SHARES.items():
            if len(values) * min(share, 1 - share) < _FEWEST * (1 - 1e-9):
                continue
            a, b = [x for x, _ in values], [y for _, y in values]
            rows.append(
                Added(gateway, load, concurrency, metric, name, percentile(sorted(a), share), percentile(sorted(b), share),
                      shift(a, b, share), len(values))
            )  # fmt: skip
    return rows


def by_wrk(concurrency: int, gateway: str, direct: Sequence[Told], through: Sequence[Told]) -> list[Added]:
    """The same of what wrk told, round by round: means over rounds of its percentiles, Student's interval of the mean difference."""
    rows = []
    fewest = min((each.requests for each in (*direct, *through)), default=0)
    readers: dict[str, Callable[[Told], float]] = {"p50": lambda one: one.p50, "p99": lambda one: one.p99, "p99.9": lambda one: one.p999}
    for name, read in readers.items():
        if fewest * min(SHARES[name], 1 - SHARES[name]) < _FEWEST * (1 - 1e-9):
            continue
        a, b = [read(one) for one in direct], [read(one) for one in through]
        rows.append(
            Added(gateway, "whole", concurrency, "e2e", name, statistics.fmean(a), statistics.fmean(b),
                  mean([y - x for x, y in zip(a, b, strict=True)]), sum(one.requests for one in through))
        )  # fmt: skip
    return rows


def mean(values: Sequence[float]) -> Interval:
    """The mean and its 95 % interval by Student's t; none for fewer than two values."""
    middle = statistics.fmean(values)
    if len(values) < 2:
        return Interval(middle)
    half = quantile(0.975, len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return Interval(middle, middle - half, middle + half)


def rate_of_stages(party: str, load: str, concurrency: int, stages: Sequence[Stage]) -> Rate:
    """What a server answered a second, from stages of a closed loop."""
    counted = [[timed for timed in stage.timed if not timed.warm] for stage in stages]
    good = [[timed for timed in each if timed.good] for each in counted]
    requests = [len(each) / stage.seconds for each, stage in zip(good, stages, strict=True) if stage.seconds > 0]
    chunks = [
        sum(len(timed.stamps) for timed in each) / stage.seconds for each, stage in zip(good, stages, strict=True) if stage.seconds > 0
    ]
    sent, answered = sum(map(len, counted)), sum(map(len, good))
    return rate(party, load, concurrency, requests, chunks if load == "stream" else [], sent, sent - answered)


def rate(party: str, load: str, concurrency: int, requests: Sequence[float], chunks: Sequence[float], sent: int, failed: int) -> Rate:
    """A rate over rounds."""
    middle = statistics.median(requests) if requests else 0.0
    wide = (max(requests) - min(requests)) / middle if middle else 0.0
    return Rate(party, load, concurrency, middle, statistics.median(chunks) if chunks else 0.0, wide, sent, failed)


# -- shown ---------------------------------------------------------------------------------------------------------------------------------

LOADS = {"stream": "streams", "whole": "whole answers"}


def text(found: Overhead, width: int = 80) -> str:
    """Both tables for a terminal, and what they mean."""
    parts = [wrapped("What gateways add to the server behind them", width)]
    parts += [wrapped(warning, width, "! ", "  ") for warning in found.warnings]
    parts += ["", grid([_HEADS], _rows(found), width, held=1)] if found.added else []
    parts += ["", grid([_RATE_HEADS], _rate_rows(found), width, held=1)] if found.rates else []
    return "\n".join([*parts, "", *(wrapped(sentence, width) for sentence in notes(found))]) + "\n"


def markdown(found: Overhead) -> str:
    """The same as Markdown, for a README."""
    doubts = "\n".join(f"- {warning}" for warning in found.warnings)
    parts = [
        doubts,
        _markdown(_HEADS, _rows(found)),
        _markdown(_RATE_HEADS, _rate_rows(found)),
        " ".join(notes(found)),
        _where(found.provenance),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def notes(found: Overhead) -> list[str]:
    """What the figures are, in sentences."""
    return [
        "Added: the percentile through the gateway less that of the server itself, milliseconds, with its 95 % interval (streams: block "
        "bootstrap over pairs; wrk: Student's t over rounds). A percentile needs 10 answers beyond it.",
        f"Whole answers were sent by {found.whole_by}, streams by this client. The row `null server` is a server that computes nothing: "
        "what this client can send at most.",
        "Spread: (highest - lowest) / median over rounds.",
    ]


_HEADS = ["gateway", "load", "at once", "latency", "", "direct", "added", "95 % interval"]
_RATE_HEADS = ["server", "load", "at once", "requests/s", "chunks/s", "spread", "failed"]


def _rows(found: Overhead) -> list[list[str]]:
    return [
        [row.gateway, LOADS[row.load], str(row.concurrency), row.metric.upper(), row.percentile, ms(row.direct), ms(row.added.value),
         _interval(row.added)]
        for row in found.added
    ]  # fmt: skip


def _interval(found: Interval) -> str:
    return NONE if found.low is None or found.high is None else f"{ms(found.low)} to {ms(found.high)}"


def _rate_rows(found: Overhead) -> list[list[str]]:
    return [
        [row.party, LOADS[row.load], str(row.concurrency), number(row.requests), number(row.chunks) if row.chunks else NONE,
         percent(row.spread), percent(row.failed / row.sent if row.sent else None)]
        for row in found.rates
    ]  # fmt: skip


def _markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return ""
    aligned = ["---"] + ["---:"] * (len(heads) - 1)
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in [heads, aligned, *rows])


def _where(found: Provenance) -> str:
    machine: Mapping[str, str] = found.machine
    parts = [machine.get(name, "") for name in ("processor", "cores", "memory", "kernel")]
    commit = f", commit {found.commit}" if found.commit else ""
    return f"Measured {found.started} on {', '.join(part for part in parts if part)}; Pointsman {found.version}{commit}."
