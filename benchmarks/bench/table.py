"""A run on a terminal: fixed width, in as many pieces as it takes. Pure."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.bench.figures import DEFINITIONS
from benchmarks.bench.headline import headline
from benchmarks.bench.paired import Difference, Interval
from benchmarks.bench.progress import Progress
from benchmarks.bench.texts import (
    FEW,
    NONE,
    cut,
    duration,
    error_share,
    is_closed,
    ms,
    number,
    offered,
    option,
    percent,
    sane,
    slo_words,
    troubles,
    upper,
    visible,
    warnings,
    wide,
)
from benchmarks.bench.words import STOLEN, Level, Result, Slo, Spread

__all__ = ["Progress", "compare_table", "grid", "table"]

WIDTH = 80
GAP = "  "
# What is shown of latencies: its name, its head, whether the median is shown beside the highest percentile that there are samples for.
LATENCIES = (
    ("ttft", "TTFT", True),
    ("ttft_due", "TTFT due", False),
    ("tpot", "TPOT", True),
    ("itl", "ITL", False),
    ("e2e", "E2E", True),
    ("e2e_due", "E2E due", False),
)
_SLOS = 6  # service levels that are shown
_SHORT = 12  # cells of a service level's name
_NAME = 26  # characters of a level's name
_WARNINGS = 12  # that are told; the report has all


@dataclass(frozen=True, slots=True)
class Column:
    """One column: two lines of head, and how a level's cell is written. `term`: the name of its definition."""

    over: str
    head: str
    term: str
    cell: Callable[[Level], str]


def _padded(text: str, cells: int, left: bool) -> str:
    room = " " * (cells - wide(text))
    return text + room if left else room + text


def grid(heads: Sequence[Sequence[str]], rows: Sequence[Sequence[str]], width: int = WIDTH, held: int = 1) -> str:
    """A table of at most `width` cells. What does not fit goes into further pieces, each with the first `held` columns again.

    `heads`: the lines of the head; the first column stands left, all others right.
    """
    lines = [*heads, *rows]
    widths = [max(wide(line[i]) for line in lines) for i in range(len(lines[0]))]
    begun = sum(widths[:held]) + len(GAP) * (held - 1)
    pieces, used = [list(range(held))], begun
    for i in range(held, len(widths)):
        if used + len(GAP) + widths[i] > width and len(pieces[-1]) > held:
            pieces.append(list(range(held)))
            used = begun
        pieces[-1].append(i)
        used += len(GAP) + widths[i]
    return "\n\n".join(_piece(heads, rows, widths, which) for which in pieces)


def _piece(heads: Sequence[Sequence[str]], rows: Sequence[Sequence[str]], widths: Sequence[int], which: Sequence[int]) -> str:
    def line(cells: Sequence[str]) -> str:
        return GAP.join(_padded(cells[i], widths[i], left=i == 0) for i in which).rstrip()

    rule = GAP.join("-" * widths[i] for i in which)
    return "\n".join([*map(line, heads), rule, *map(line, rows)])


def _latency(name: str, percentile: str) -> Callable[[Level], str]:
    def cell(level: Level) -> str:
        spread: Spread = getattr(level.median, name)
        return ms(getattr(spread, percentile))

    return cell


def columns(result: Result) -> list[Column]:
    """Those that say something of this run."""
    found = [one.median for one in result.levels]
    out = [
        Column("", "failed", "error_rate", lambda one: percent(error_share(one.median))),
        Column("req/s", "offered", "offered_rate", lambda one: number(offered(one.median))),
        Column("req/s", "good", "request_rate", lambda one: number(one.median.request_rate)),
    ]
    open_ = any(not is_closed(f.profile) for f in found)
    for name, over, middle in LATENCIES:
        if open_ or not name.endswith("_due"):
            high = upper(getattr(f, name) for f in found) or "p99"
            out += [Column(over, p, name, _latency(name, p)) for p in (["p50", high] if middle else [high])]
    out.append(Column("tokens/s", "out", "output_rate", lambda one: number(sane(one.median.output_rate) or None)))
    out += [Column("goodput/s", name, "goodput", _good(slo.name)) for name, slo in slos(result)]
    if any(f.cached_share is not None for f in found):
        out.append(Column("from", "cache", "cached_share", lambda one: percent(one.median.cached_share)))
    out.append(Column("under", "way", "concurrency", lambda one: number(one.median.concurrency)))
    if any(one.spread for one in result.levels):
        out.append(Column("", "spread", "spread", lambda one: percent(max(one.spread.values(), default=None))))
    return out


def slos(result: Result) -> list[tuple[str, Slo]]:
    """The service levels that are shown, by names that fit a column."""
    shown = [(visible(slo.name), slo) for slo in result.slos[:_SLOS]]
    return [(name if wide(name) <= _SHORT else f"SLO {i}", slo) for i, (name, slo) in enumerate(shown, 1)]


def _good(name: str) -> Callable[[Level], str]:
    return lambda one: next((number(g.rate) + ("" if g.held else "!") for g in one.median.goodput if g.slo.name == name), NONE)


def wrapped(text: str, width: int = WIDTH, first: str = "", more: str = "") -> str:
    """Words into lines, the first and the others after their own signs."""
    return textwrap.fill(visible(text), width, initial_indent=first, subsequent_indent=more, break_on_hyphens=False)


def table(result: Result, width: int = WIDTH, definitions: Mapping[str, str] = DEFINITIONS) -> str:
    """A run in `width` columns: what it comes to, what makes it doubtful, all levels, and what each figure means.

    Changes nothing. A figure that is not known is a dash; nothing of a server can move the cursor.
    """
    told = [wrapped(f"{result.model or 'a model'} at {result.target or 'a server'}", width), wrapped(headline(result), width)]
    told += _doubts(result, width)
    if not result.levels:
        return "\n".join(told)
    shown = columns(result)
    rows = [[_name(one), *(c.cell(one).replace(NONE, "-") for c in shown)] for one in result.levels]
    heads = [["", *(c.over for c in shown)], ["level", *(c.head for c in shown)]]
    medians = "; medians of the repeats" if any(len(one.repeats) > 1 for one in result.levels) else ""
    unit = wrapped(f"Latencies are in ms{medians}.", width)
    return "\n".join([*told, "", unit, "", grid(heads, rows, width, held=2), "", *_feet(result, rows, shown, width, definitions)])


def _name(level: Level) -> str:
    return cut(visible(option(level.profile)), _NAME) + (" *" if level.median.saturated else "")


def _doubts(result: Result, width: int) -> list[str]:
    lines = [str(note) for note in (*troubles(result.levels), *warnings(result))]
    if len(lines) > _WARNINGS:
        lines = [*lines[: _WARNINGS - 1], f"{len(lines) - _WARNINGS + 1} more: see the report (--out FILE.html)."]
    return [wrapped(text, width, "! ", "  ") for text in lines]


def _feet(result: Result, rows: Sequence[Sequence[str]], shown: Sequence[Column], width: int, definitions: Mapping[str, str]) -> list[str]:
    feet = []
    if any(cell == "-" for row in rows for cell in row[1:]):
        feet.append(wrapped(f"too few answers for that percentile ({FEW}), or not told by the server", width, "-  ", "   "))
    if any(one.median.saturated for one in result.levels):
        feet.append(wrapped("saturated: latencies say how long the stage lasted, not how fast the server is", width, "*  ", "   "))
    if any(cell.endswith("!") for row in rows for cell in row[1:]):
        feet.append(wrapped("less than the share of requests that the service level asks for kept it", width, "!  ", "   "))
    feet += [wrapped(f"{_both(name, slo)}: {slo_words(slo)}.", width) for name, slo in slos(result)]
    feet.append(wrapped(_client(result), width))
    named = {
        c.term: c.over if c.term == "goodput" or c.term in {name for name, _, _ in LATENCIES} else f"{c.over} {c.head}".strip()
        for c in shown
    }
    terms = [wrapped(f"{what}: {definitions[term]}", width, "", "   ") for term, what in named.items() if term in definitions]
    return [*feet, "", *terms] if terms else feet


def _both(name: str, slo: Slo) -> str:
    return name if name == visible(slo.name) else f"{name} ({slo.name})"


def _client(result: Result) -> str:
    found = [f.health for one in result.levels for f in (one.median, *one.repeats)]
    lag, cpu = max(h.lag_p99 for h in found), max(h.cpu for h in found)
    null = max(h.null_p50 for h in found)
    calibrated = f", {duration(null)} (p50) of its own against an empty server" if null > 0 else ""
    taken = max(h.stolen for h in found)
    kept = f", {percent(taken)} of one kept from the machine by its hypervisor" if taken >= STOLEN else ""
    repeats = max((len(one.repeats) for one in result.levels), default=0)
    return f"Client: late by {duration(lag)} at most (p99), {percent(cpu)} of a core{kept}{calibrated}. Repeats: {repeats}."


def compare_table(differences: Mapping[str, Difference], names: tuple[str, str] = ("A", "B"), width: int = WIDTH) -> str:
    """Two targets by pairs: medians in ms, the median of the pairs' differences and ratios with 95 % intervals, and what they mean."""
    heads = [
        ["", "", "A", "B", "B-A ms", "95 %", "B/A", "95 %", "faster"],
        ["", "pairs", "p50 ms", "p50 ms", "median", "interval", "median", "interval", "in A"],
    ]
    rows = [
        [
            d.metric.upper(), f"{d.pairs:,}", ms(d.a), ms(d.b), *_interval(d.difference, 1e3), *_interval(d.ratio, 1.0), percent(d.wins),
        ]
        for d in differences.values()
    ]  # fmt: skip
    body = grid(heads, [[cell.replace(NONE, "-") for cell in row] for row in rows], width)
    letters = [wrapped(f"{letter}: {name}", width) for letter, name in zip("AB", names, strict=True) if visible(name) != letter]
    said = [wrapped(d.sentence, width) for d in differences.values()]
    return "\n".join([*letters, "", body, "", *said])


def _interval(found: Interval | None, scale: float) -> tuple[str, str]:
    if found is None:
        return NONE, NONE
    if found.low is None or found.high is None:
        return number(found.value * scale), NONE
    return number(found.value * scale), f"{number(found.low * scale)}..{number(found.high * scale)}"
