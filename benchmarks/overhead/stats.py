"""From raw rounds to the figures that are shown: medians, spreads, ratios to nginx and to direct. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypedDict

from benchmarks.overhead.phases import PHASES, STREAMS, WHOLE, Phase, Round

DISTURBED = 0.05  # share of a core that went to others, from which a phase counts as disturbed
FULL = 0.95  # a core this busy limits what is measured
FEW = 1000  # a p99 over fewer answers than this is marked (10 beyond it)


class Result(TypedDict):
    """A whole run, as kept in its JSON file. `rounds`: per gateway; `notes`: version and set-up; `failed`: why one was not measured."""

    schema: int
    when: str
    command: list[str]
    repeats: int
    secs: float
    machine: dict[str, str]
    notes: dict[str, dict[str, str]]
    rounds: dict[str, list[Round]]
    failed: dict[str, str]


@dataclass(frozen=True)
class Figure:
    """A median over rounds with the lowest and the highest."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Figure | None:
        """None where there are no values."""
        v = list(values)
        return cls(statistics.median(v), min(v), max(v)) if v else None


def answers(phase: Phase) -> float:
    """Whole answers, or events of streams, that a phase had."""
    return phase["requests"] if "requests" in phase else phase["events"]


def clean(phase: Phase) -> bool:
    """Nobody else took a twentieth of either core."""
    return phase["foreign0"] < DISTURBED and phase["foreign1"] < DISTURBED


def undisturbed(rounds: Sequence[Round], name: str) -> list[Phase]:
    """That phase of every round; where some of them ran undisturbed, of those only."""
    found = [r["phases"][name] for r in rounds if name in r["phases"]]
    return [p for p in found if clean(p)] or found


def figure(rounds: Sequence[Round], name: str, key: str) -> Figure | None:
    """`key` of the phase `name` over `rounds`."""
    return Figure.of(p[key] for p in undisturbed(rounds, name) if key in p)


def median(rounds: Sequence[Round], name: str, key: str) -> float | None:
    """The median of `key` of the phase `name` over `rounds`."""
    found = figure(rounds, name, key)
    return found.median if found else None


def ratio(a: float | None, b: float | None) -> float | None:
    """`a` / `b`; None where either is absent or `b` is 0."""
    return a / b if a is not None and b else None


def minus(a: float | None, b: float | None) -> float | None:
    """`a` - `b`; None where either is absent."""
    return a - b if a is not None and b is not None else None


@dataclass(frozen=True)
class WholeRow:
    """Whole answers at one concurrency. req/s; latencies in milliseconds; `added` is the gateway's minus direct's."""

    rps: Figure
    bound: bool  # the load's core was full and the gateway's was not: the gateway could do more
    p50: float
    p99: float
    added_p50: float | None
    added_p99: float | None
    cpu_us: float | None
    few: bool  # the p99 is over fewer than a thousand answers


@dataclass(frozen=True)
class StreamRow:
    """One streaming phase. Chunks (events) a second; microseconds of CPU a chunk; p50 and p99 in milliseconds; lost streams, median."""

    chunks: Figure
    streams_s: float
    of_direct: float | None
    of_nginx: float | None
    cpu_us: float | None
    utilisation: float
    cap: float | None
    ttft: tuple[float, float] | None
    gap: tuple[float, float] | None
    relay: tuple[float, float] | None
    lost: float


@dataclass(frozen=True)
class Row:
    """One gateway's figures. MiB, seconds, req/s; `cap` is what one core would do with a faster generator."""

    name: str
    rounds: int
    whole: dict[str, WholeRow]
    streams: dict[str, StreamRow]
    best: Figure | None
    best_bound: bool
    of_direct: float | None
    of_nginx: float | None
    cpu_us: float | None
    cap: float | None
    cold_s: float | None
    rss_idle: float | None
    rss_peak: float | None
    errors: int
    clean: int
    phases: int
    never_clean: tuple[str, ...] = ()
    silent: tuple[str, ...] = ()  # phases in which a round had no answer at all

    @property
    def direct(self) -> bool:
        """Whether this is the mock itself, without a gateway."""
        return self.name == "direct"


def _pair(phases: Sequence[Phase], key: str) -> tuple[float, float] | None:
    """Medians of p50 and p99 of `key`, milliseconds; None where nothing was seen."""
    seen = [p for p in phases if p[f"{key}_n"] > 0]
    if not seen:
        return None
    return (statistics.median(p[f"{key}_p50"] for p in seen) / 1000, statistics.median(p[f"{key}_p99"] for p in seen) / 1000)


def _mid(phases: Sequence[Phase], key: str) -> float:
    return statistics.median(p[key] for p in phases)


def _some(phases: Sequence[Phase], key: str) -> float | None:
    """The median of `key` over those phases that have it: a phase without a single answer has no CPU an answer."""
    found = Figure.of(p[key] for p in phases if key in p)
    return found.median if found else None


def _whole(rounds: Sequence[Round], name: str, direct: Sequence[Round], is_direct: bool) -> WholeRow | None:
    phases = undisturbed(rounds, name)
    if not phases:
        return None
    p50, p99 = _mid(phases, "p50") / 1000, _mid(phases, "p99") / 1000
    base = [median(direct, name, key) for key in ("p50", "p99")]
    added = [None if is_direct or b is None else x - b / 1000 for x, b in zip((p50, p99), base, strict=True)]
    rps = Figure.of(p["rps"] for p in phases)
    assert rps is not None
    return WholeRow(
        rps=rps,
        bound=not is_direct and _mid(phases, "core0") < FULL and _mid(phases, "core1") > FULL,
        p50=p50,
        p99=p99,
        added_p50=added[0],
        added_p99=added[1],
        cpu_us=_some(phases, "cpu_us_per_req"),
        few=min(p["requests"] for p in phases) < FEW,
    )


def _stream(rounds: Sequence[Round], name: str, direct: Sequence[Round], nginx: Sequence[Round]) -> StreamRow | None:
    phases = undisturbed(rounds, name)
    if not phases:
        return None
    chunks = Figure.of(p["chunks_s"] for p in phases)
    assert chunks is not None
    used = _mid(phases, "gw_util")
    return StreamRow(
        chunks=chunks,
        streams_s=_mid(phases, "streams_s"),
        of_direct=ratio(chunks.median, median(direct, name, "chunks_s")),
        of_nginx=ratio(chunks.median, median(nginx, name, "chunks_s")),
        cpu_us=_some(phases, "cpu_us_per_chunk"),
        utilisation=used,
        cap=ratio(chunks.median, used),
        ttft=_pair(phases, "ttft"),
        gap=_pair(phases, "gap"),
        relay=_pair(phases, "relay"),
        lost=_mid(phases, "lost"),
    )


def best(whole: dict[str, WholeRow]) -> WholeRow | None:
    """The concurrency with the most requests a second."""
    return max(whole.values(), key=lambda w: w.rps.median, default=None)


def _cap(rounds: Sequence[Round]) -> float | None:
    found = [ratio(median(rounds, w.name, "rps"), median(rounds, w.name, "gw_util")) for w in WHOLE if w.connections > 1]
    return max((x for x in found if x is not None), default=None)


def _errors(rounds: Sequence[Round]) -> int:
    whole = sum(r["phases"][w.name]["bad_status"] + r["phases"][w.name]["sock_err"] for r in rounds for w in WHOLE if w.name in r["phases"])
    return int(whole)


def row(name: str, result: Result) -> Row:
    """The figures of one gateway."""
    rounds, direct, nginx = (result["rounds"].get(n, []) for n in (name, "direct", "nginx"))
    is_direct = name == "direct"
    whole = {w.name: x for w in WHOLE if (x := _whole(rounds, w.name, direct, is_direct)) is not None}
    streams = {s.name: y for s in STREAMS if (y := _stream(rounds, s.name, direct, nginx)) is not None}
    top = best(whole)
    of = []
    for other in (direct, nginx):
        rates = [median(other, w.name, "rps") for w in WHOLE]
        of.append(ratio(top.rps.median if top else None, max((x for x in rates if x is not None), default=None)))
    measured = [(p.name, [clean(r["phases"][p.name]) for r in rounds if p.name in r["phases"]]) for p in PHASES]
    cold = Figure.of(r["cold_s"] for r in rounds if r["cold_s"] is not None)
    idle, peak = (None if is_direct else Figure.of(v) for v in ([r["rss_idle"] for r in rounds], [r["rss_peak"] for r in rounds]))
    return Row(
        name=name,
        rounds=len(rounds),
        whole=whole,
        streams=streams,
        best=top.rps if top else None,
        best_bound=top.bound if top else False,
        of_direct=of[0],
        of_nginx=of[1],
        cpu_us=None if is_direct else median(rounds, "c64", "cpu_us_per_req"),
        cap=None if is_direct else _cap(rounds),
        cold_s=cold.median if cold else None,
        rss_idle=idle.median if idle else None,
        rss_peak=peak.median if peak else None,
        errors=_errors(rounds),
        clean=sum(sum(v) for _, v in measured),
        phases=sum(len(v) for _, v in measured),
        never_clean=tuple(n for n, v in measured if v and not any(v)),
        silent=tuple(p.name for p in PHASES if any(answers(r["phases"][p.name]) == 0 for r in rounds if p.name in r["phases"])),
    )


def rows(result: Result) -> list[Row]:
    """All gateways that were measured: direct first, then by requests a second."""
    found = [row(name, result) for name, rounds in result["rounds"].items() if rounds]
    return sorted(found, key=lambda r: (not r.direct, -(r.best.median if r.best else 0.0)))
