"""A result as one HTML file: no script, no external resource, readable on a phone and in the dark. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from benchmarks.overhead import report, soak
from benchmarks.overhead.charts import Bar, bars, line
from benchmarks.overhead.phases import PACED_STREAMS
from benchmarks.overhead.report import Section, number
from benchmarks.overhead.stats import Figure, Result, Row, rows

STYLE = (Path(__file__).resolve().parent / "style.css").read_text()
OURS = ("pointsman", "pointsman-log", "pointsman-asgi")
MOST = PACED_STREAMS[-1]


def _kind(name: str) -> str:
    return "ours" if name in OURS else "reference" if name == "nginx" else "none" if name == "direct" else "other"


def _ticked(text: str) -> str:
    """Escaped, with `code` marked as such."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))


def _bar(row: Row, value: float, text: str, figure: Figure | None = None, note: str = "") -> Bar:
    several = figure is not None and row.rounds > 1
    low, high = (figure.low, figure.high) if several and figure is not None else (None, None)
    return Bar(row.name, value, text, _kind(row.name), low, high, note or ("no gateway" if row.direct else ""))


def _card(title: str, better: str, note: str, chart: str) -> str:
    return f'<section class="card"><h2>{escape(title)}</h2><p class="note"><b>{escape(better)}.</b> {_ticked(note)}</p>{chart}</section>'


def requests_chart(found: Sequence[Row]) -> str:
    """Best requests a second."""
    shown = [(r, r.best) for r in found if r.best is not None]
    items = [_bar(r, b.median, number(b.median) + ("*" if r.best_bound else ""), b) for r, b in shown]
    note = "Whole answers at the best of 1, 16, 64 and 256 connections, one core."
    if any(r.rounds > 1 for r, _ in shown):
        note += " The thin line goes from the lowest to the highest round."
    if any(r.best_bound for r, _ in shown):
        note += " `*`: held back by the load's core."
    return _card("Requests a second", "More is better", note, bars("Requests a second", items))


def cpu_chart(found: Sequence[Row]) -> str:
    """CPU a request."""
    shown = sorted(((r.cpu_us, r) for r in found if r.cpu_us is not None), key=lambda s: s[0])
    items = [_bar(r, cpu, f"{number(cpu)} µs") for cpu, r in shown]
    note = "64 connections; the whole process tree and its core's network interrupts."
    return _card("CPU time a request", "Less is better", note, bars("CPU microseconds a request", items))


def added_chart(found: Sequence[Row]) -> str:
    """Added median latency at one connection."""
    shown = [(x.added_p50, r) for r in found if (x := r.whole.get("c1")) is not None and x.added_p50 is not None]
    items = [_bar(r, max(0.0, added), f"{number(added, 3)} ms") for added, r in sorted(shown, key=lambda s: s[0])]
    note = "Median at one connection, minus the median without a gateway."
    return _card("Added latency", "Less is better", note, bars("Added latency", items))


def streams_chart(found: Sequence[Row]) -> str:
    """Chunks a second with the most streams."""
    shown = [(r, x) for r in found if (x := r.streams.get(MOST.name)) is not None]
    shown.sort(key=lambda s: (not s[0].direct, s[1].lost, -s[1].chunks.median))
    items = [
        _bar(r, x.chunks.median, f"{number(x.chunks.median)}" + (f", {number(x.lost)} lost" if x.lost else ""), x.chunks) for r, x in shown
    ]
    note = f"Chunks a second relayed of {report.offered(MOST):,} offered, and streams lost."
    return _card(f"{MOST.streams:,} streams at once", "More is better", note, bars("Chunks a second", items))


def relay_chart(found: Sequence[Row]) -> str:
    """How late chunks are, 100 streams."""
    phase = PACED_STREAMS[0]
    shown = [(x.relay, r) for r in found if (x := r.streams.get(phase.name)) is not None and x.relay is not None]
    shown.sort(key=lambda s: (not s[1].direct, s[0][1]))
    items = [_bar(r, relay[1], f"{number(relay[1], 2)} ms") for relay, r in shown]
    note = f"p99 from the mock's write to the client's read, {phase.streams} streams, a chunk every 20 ms each."
    return _card("Delay of a chunk", "Less is better", note, bars("p99 delay of a chunk", items))


def memory_chart(found: Sequence[Row]) -> str:
    """Peak resident memory."""
    shown = sorted(((r.rss_peak, r) for r in found if r.rss_peak is not None), key=lambda s: s[0])
    items = [_bar(r, peak, f"{number(peak)} MiB") for peak, r in shown]
    return _card("Memory", "Less is better", "The most that the process tree held during all phases.", bars("Peak memory", items))


def tiles(found: Sequence[Row]) -> str:
    """The figures of the gateway that this is about, large; empty when it was not measured."""
    row = next((r for r in found if r.name == OURS[0]), None)
    if row is None or row.best is None:
        return ""
    c1, most = row.whole.get("c1"), row.streams.get(MOST.name)
    ratio = f"{number(row.of_nginx, 2)} of nginx" if row.of_nginx is not None else "best of four concurrencies"
    shown = [
        (number(row.best.median), "requests a second", ratio),
        (f"{number(row.cpu_us)} µs", "CPU a request", "64 connections"),
        (f"{number(c1.added_p50 if c1 else None, 2)} ms", "added, median", "1 connection"),
        (number(most.lost if most else None), "streams lost", f"of {MOST.streams:,} at once"),
    ]
    cells = "".join(f"<div><strong>{escape(a)}</strong><span>{escape(b)}</span><small>{escape(c)}</small></div>" for a, b, c in shown)
    return f'<section><h2>Pointsman</h2><div class="tiles">{cells}</div></section>'


def section_html(section: Section) -> str:
    """A table that scrolls sideways where it is too wide, its first column standing."""
    head = "".join(f'<th scope="col">{escape(h)}</th>' for h in section.head)
    body = "".join(
        f'<tr{" class=ours" if cells[0] in OURS else ""}><th scope="row">{escape(cells[0])}</th>'
        + "".join(f"<td>{escape(c)}</td>" for c in cells[1:])
        + "</tr>"
        for cells in section.body
    )
    return (
        f"<section><h2>{escape(section.title)}</h2><p class=note>{_ticked(section.note)}</p>"
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(section.title)}">'
        f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div></section>"
    )


def _facts(pairs: Sequence[tuple[str, str]]) -> str:
    body = "".join(f"<dt>{escape(k)}</dt><dd>{_ticked(v)}</dd>" for k, v in pairs)
    return f"<section><h2>Set-up</h2><dl>{body}</dl></section>"


def _document(title: str, lead: str, body: str) -> str:
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta name="color-scheme" content="light dark"><title>{escape(title)}</title><style>{STYLE}</style></head>\n'
        f"<body><main><header><h1>{escape(title)}</h1><p>{_ticked(lead)}</p></header>\n{body}\n</main></body></html>\n"
    )


def page(result: Result) -> str:
    """The report of a run."""
    found = rows(result)
    makers = (requests_chart, cpu_chart, added_chart, streams_chart, relay_chart, memory_chart)
    charts = "".join(make(found) for make in makers)
    failed = report.not_measured(result)
    busy = report.warning(found)
    parts = [
        f'<p class="warning">{escape(busy)}</p>' if busy else "",
        tiles(found),
        f'<p class="warning">Not measured: {escape(failed)}.</p>' if failed else "",
        f'<div class="cards">{charts}</div>',
        *(section_html(s) for s in report.sections(found)),
        _facts(report.setup(result)),
    ]
    return _document("What a gateway costs", report.summary(result), "\n".join(p for p in parts if p))


def soak_page(when: str, machine: Mapping[str, str], soaks: Sequence[soak.Soak]) -> str:
    """The report of a soak: memory over time, a chart for each gateway."""
    cards = []
    for s in soaks:
        marks = [(p.seconds, p.rss, f"{p.stage}: {p.rss:.1f} MiB") for p in s.points]
        grown = soak.growths(s)
        note = f"Resident MiB over time; dots are moments of rest. Growth: {grown[0]} over the answers, {grown[1]} over the chunks."
        chart = line(f"Memory of {s.name}", s.series, "MiB", marks)
        failed = f'<p class="warning">Not finished: {escape(s.failed)}</p>' if s.failed else ""
        head = f'<h2>{escape(s.name)}</h2><p class="note">{escape(note)}</p>'
        cards.append(f'<section class="card {_kind(s.name)}">{head}{chart}{failed}</section>')
    body = f'<div class="cards">{"".join(cards)}</div>{section_html(soak.section(soaks))}{_facts(list(machine.items()))}'
    return _document("Does a gateway's memory grow?", f"Measured {when}.", body)
