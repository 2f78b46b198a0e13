"""The tables of a result, and all of it as Markdown. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.overhead.phases import CADENCE_MS, PACED_STREAMS, PHASES, UNPACED_STREAMS, WHOLE, Streams
from benchmarks.overhead.stats import DISTURBED, Result, Row, StreamRow, rows

NONE = "–"


@dataclass(frozen=True)
class Section:
    """One table: its title, how to read it, its head and its lines."""

    title: str
    note: str
    head: tuple[str, ...]
    body: list[list[str]]


def number(x: float | None, digits: int = 0) -> str:
    """`x` with thousands separators, or a dash."""
    if x is None:
        return NONE
    text = f"{x:,.{digits}f}"
    return text[1:] if text.startswith("-") and not text.strip("-0.,") else text  # no "-0.00"


def table(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """A Markdown table; the first column to the left, the others to the right."""
    rule = ["---", *("---:" for _ in head[1:])]
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, rule, *body))


def pair(x: tuple[float, float] | None) -> str:
    """p50 / p99."""
    return NONE if x is None else f"{number(x[0], 1)} / {number(x[1], 1)}"


def spread(row: Row) -> str:
    """How far the rounds of the best concurrency lie apart, in per cent of their median."""
    if row.best is None or row.rounds < 2 or not row.best.median:
        return NONE
    return f"{100 * (row.best.high - row.best.low) / row.best.median:.0f} %"


THROUGHPUT_NOTE = (
    "Whole answers, requests a second by concurrency (c1: one connection). `*`: the load's core was full and the gateway's was not, so a "
    "lower bound; `cap` is req/s divided by the gateway's utilisation: what its core would do with a faster generator. `spread` is between "
    "the lowest and the highest round, of the best concurrency. CPU at c64: the whole process tree and its core's network interrupts."
)
LATENCY_NOTE = (
    "Whole answers, ms; `added` is the gateway's minus direct's at the same concurrency. `~`: fewer than 1,000 answers, too few for a p99. "
    "The load is a closed loop: a slow gateway is asked less often."
)


def throughput(found: Sequence[Row]) -> Section:
    """Requests a second at every concurrency, ratios, CPU."""
    head = ("gateway", *(w.name for w in WHOLE), "best / nginx", "best / direct", "spread", "CPU µs/req", "cap req/s", "errors")
    body = []
    for r in found:
        cells = []
        for w in WHOLE:
            x = r.whole.get(w.name)
            cells.append(number(x.rps.median if x else None) + ("*" if x and x.bound else ""))
        ratios = [number(r.of_nginx, 3), number(r.of_direct, 3), spread(r)]
        body.append([r.name, *cells, *ratios, number(r.cpu_us), number(r.cap), number(r.errors)])
    return Section("Throughput", THROUGHPUT_NOTE, head, body)


def latency(found: Sequence[Row]) -> Section:
    """Milliseconds of whole answers, and how much of them the gateway added."""
    parts = [(c, f"{added}{c} {q}") for c in ("c1", "c16") for added in ("", "added ") for q in ("p50", "p99")]
    body = []
    for r in found:
        cells = []
        for name in ("c1", "c16"):
            x = r.whole.get(name)
            mark = "~" if x and x.few else ""
            cells += [number(x.p50 if x else None, 3), number(x.p99 if x else None, 3) + mark]
            added = number(x.added_p99 if x else None, 3)
            cells += [number(x.added_p50 if x else None, 3), added + (mark if added != NONE else "")]
        last = r.whole.get("c256")
        body.append([r.name, *cells, number(last.p99 if last else None, 1) + ("~" if last and last.few else "")])
    return Section("Latency", LATENCY_NOTE, ("gateway", *(p for _, p in parts), "c256 p99"), body)


def unpaced(found: Sequence[Row]) -> Section:
    """Streams without pause."""
    head = ("gateway", "chunks/s", "streams/s", "/ nginx", "/ direct", "CPU µs/chunk", "utilisation", "cap chunks/s", "lost")
    body = []
    for r in found:
        x = r.streams.get(UNPACED_STREAMS.name)
        if x is None:
            continue
        cpu = [NONE] * 3 if r.direct else [number(x.cpu_us, 1), number(x.utilisation, 2), number(x.cap)]
        rates = [number(x.chunks.median), number(x.streams_s), number(x.of_nginx, 3), number(x.of_direct, 3)]
        body.append([r.name, *rates, *cpu, number(x.lost)])
    note = f"{UNPACED_STREAMS.streams} at once, 64 chunks each, as fast as they go; `cap` is chunks/s divided by the gateway's utilisation."
    return Section("Streams without pause", note, head, body)


def _paced_row(name: str, x: StreamRow, direct: bool) -> list[str]:
    cpu = [NONE] * 2 if direct else [number(x.cpu_us, 1), number(x.utilisation, 2)]
    rates = [number(x.chunks.median), number(x.of_nginx, 2), number(x.of_direct, 2)]
    return [name, *rates, pair(x.ttft), pair(x.gap), pair(x.relay), *cpu, number(x.lost)]


def offered(phase: Streams) -> int:
    """Chunks a second that so many streams on the cadence bring."""
    return phase.streams * 1000 // CADENCE_MS


def paced(found: Sequence[Row], phase: Streams) -> Section:
    """Streams on a cadence."""
    head = ("gateway", "chunks/s", "/ nginx", "/ direct", "TTFT", "gap", "relay", "CPU µs/chunk", "utilisation", "lost")
    note = (
        f"A chunk every {CADENCE_MS} ms each: {offered(phase):,} chunks/s offered (the finish and usage events count too). TTFT, gap "
        "between chunks and relay delay (mock's write to client's read) as p50 / p99 in ms; lost: failed, or silent for the last 2 s."
    )
    body = [_paced_row(r.name, r.streams[phase.name], r.direct) for r in found if phase.name in r.streams]
    return Section(f"{phase.streams:,} streams at once", note, head, body)


def _phases_of(row: Row, names: Sequence[str]) -> str:
    return f"{row.name} (all)" if len(names) == len(PHASES) else f"{row.name} ({', '.join(names)})"


def warning(found: Sequence[Row]) -> str:
    """A sentence when too much was disturbed for the figures to be relied on; else empty."""
    calm, phases = sum(r.clean for r in found), sum(r.phases for r in found)
    if 2 * calm >= phases:
        return ""
    return f"This machine was busy: {phases - calm} of {phases} phases were disturbed by others. Do not rely on these figures."


def resources(found: Sequence[Row]) -> Section:
    """Start and memory."""
    never = [_phases_of(r, r.never_clean) for r in found if r.never_clean]
    silent = [_phases_of(r, r.silent) for r in found if r.silent]
    note = (
        f"A phase is disturbed when other processes (or the hypervisor) took {DISTURBED:.0%} or more of either core; medians are over the "
        f"undisturbed rounds where there are any. Never undisturbed: {'; '.join(never) if never else 'none'}."
    )
    if silent:
        note += f" Without a single answer in some round: {'; '.join(silent)}."
    head = ("gateway", "cold start s", "RSS idle MiB", "RSS peak MiB", "undisturbed phases")
    body = [[r.name, number(r.cold_s, 2), number(r.rss_idle), number(r.rss_peak), f"{r.clean}/{r.phases}"] for r in found]
    return Section("Start, memory, disturbance", note, head, body)


def sections(found: Sequence[Row]) -> list[Section]:
    """All tables, in order."""
    return [throughput(found), latency(found), unpaced(found), *(paced(found, p) for p in PACED_STREAMS), resources(found)]


def setup(result: Result) -> list[tuple[str, str]]:
    """Machine, versions, command: name and value."""
    lines = list(result["machine"].items())
    lines += [(name, "; ".join(v for v in (n["version"], n["about"]) if v)) for name, n in result["notes"].items()]
    return [*lines, ("command", f"`{' '.join(result['command'])}`")]


def summary(result: Result) -> str:
    """When and how much."""
    rounds = "1 round" if result["repeats"] == 1 else f"{result['repeats']} rounds, medians over them"
    return f"Measured {result['when']}: {rounds}, {result['secs']:g} s a phase."


def not_measured(result: Result) -> str:
    """The gateways that failed and why; empty when none did."""
    return "; ".join(f"{n}: {' '.join(why.split())[:300]}" for n, why in result["failed"].items())


def markdown(result: Result) -> str:
    """The whole report."""
    out = [summary(result), "\n".join(f"- {k}: {v}" for k, v in setup(result))]
    found = rows(result)
    if busy := warning(found):
        out.insert(1, f"**{busy}**")
    for section in sections(found):
        out += [f"**{section.title}.** {section.note}", table(section.head, section.body)]
    if result["failed"]:
        out.append(f"Not measured: {not_measured(result)}.")
    return "\n\n".join(out) + "\n"
