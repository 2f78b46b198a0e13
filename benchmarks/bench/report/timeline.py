"""What happened when: single requests as bars, requests under way, memory. Pure; needs the raw stages."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate, pairwise

from benchmarks.bench.report.axes import Axis, from_zero
from benchmarks.bench.report.markup import Child, Markup, join, pc, spot, tag
from benchmarks.bench.report.plot import FOOT, Plot, empty, legend, panel
from benchmarks.bench.report.seen import Shown, chosen, colour
from benchmarks.bench.texts import brief, compact, count, duration, percent, sane, size
from benchmarks.bench.words import Stage, Timed

MOST = 300  # requests drawn of a stage
STAGES = 6  # timelines on a page; each is some 50 kB
BINS = 240  # of a line over time
PARTS = (
    ("wait", "waiting to be sent"),
    ("prefill", "until the first content"),
    ("decode", "content comes"),
    ("bad", "failed"),
)
NO_STAGES = "The single requests were not kept with this summary: the JSONL file has them."


def spread_out(found: Sequence[Timed], most: int = MOST) -> list[Timed]:
    """At most `most` requests in the order in which they were due, every n-th of a longer stage."""
    ordered = sorted(found, key=lambda t: (start(t), t.index))
    every = -(-len(ordered) // most) or 1
    return ordered[::every]


def start(t: Timed) -> float:
    """When a request began to wait: when it was due, or in a closed loop when it was sent."""
    return min(t.due, t.sent) if t.due > 0 and t.sent > 0 else t.sent or t.due


def end(t: Timed) -> float:
    """When the last that is known of a request happened."""
    return max(t.done, t.head, t.sent, t.due, *(t.stamps[-1:] or [0.0]))


def parts(t: Timed) -> list[tuple[str, float, float]]:
    """A request's bar: (part, from, to) in seconds, without empty parts."""
    first = t.first if t.first is not None else end(t)
    cuts = [("wait", start(t), t.sent or end(t)), ("prefill", t.sent or end(t), first), ("decode", first, end(t))]
    if not t.good:
        cuts = [cuts[0], ("bad", t.sent or start(t), end(t))]
    return [(what, a, b) for what, a, b in cuts if sane(a) is not None and sane(b) is not None and b > a]


def told(t: Timed) -> str:
    """A request in words, without anything of its text."""
    late = f", sent {duration(t.sent - start(t))} late" if t.sent > start(t) else ""
    if not t.good:
        return f"request {t.index}{late}: failed, status {t.status or 'none'}, after {duration(end(t) - start(t))}"
    first = f", first content after {duration(t.first - t.sent)}" if t.first is not None else ""
    tokens = f", {count(t.completion_tokens)} tokens" if t.completion_tokens is not None else ""
    return f"request {t.index}{late}{first}, whole after {duration(end(t) - t.sent)}{tokens}{', warm-up' if t.warm else ''}"


def bars(stage: Stage) -> Markup:
    """One stage's requests, a line each, from top to bottom as they were due."""
    seen = [t for t in stage.timed if sane(end(t)) is not None and end(t) > 0]
    rows = spread_out(seen)
    if not rows:
        return empty("No request was sent.")
    x = Axis(0.0, max(end(t) for t in rows) * 1.01)
    height = min(14.0, max(2.0, 460.0 / len(rows)))
    drawn = [_row(t, i * height, height, x) for i, t in enumerate(rows)]
    deep = height * len(rows)
    ticks = [tag("line", class_="grid", x1=pc(x.at(v)), x2=pc(x.at(v)), y1=0, y2=deep) for v in x.apart(6, 14.0)]
    texts = [
        tag("text", duration(v, short=True), x=pc(x.at(v)), y=deep + 16, text_anchor="start" if x.at(v) < 4 else "middle", class_="axis")
        for v in x.apart(6, 14.0)
    ]
    failed = sum(not t.good for t in seen)
    said = f"{len(seen)} requests over {duration(x.hi)}, {failed} failed."
    drawing = tag("svg", *ticks, *texts, *drawn, width="100%", height=deep + FOOT, focusable="false")
    every = -(-len(seen) // MOST)
    less = f"{len(rows)} of {len(seen):,} requests are drawn, every {_nth(every)} as they were due. " if len(rows) < len(seen) else ""
    lost = f" {stage.cut_off:,} more were under way when the stage was ended, and are not drawn." if stage.cut_off else ""
    note = tag("p", f"{less}Seconds from the stage's start; {failed:,} failed.{lost}", class_="note")
    return join([note, tag("div", tag("div", drawing, class_="room"), class_="plot bars", role="img", aria_label=said)])


def _nth(n: int) -> str:
    return "second" if n == 2 else "third" if n == 3 else f"{n}th"


def _row(t: Timed, y: float, height: float, x: Axis) -> Markup:
    thick = max(1.0, height - 1.0 if height < 6 else height - 3.0)
    pieces = [tag("rect", x=pc(x.at(a)), y=y, width=pc(max(0.12, x.at(b) - x.at(a))), height=thick, class_=what) for what, a, b in parts(t)]
    return spot("g", *pieces, said=told(t), class_="row warm" if t.warm else "row")


def timelines(levels: Sequence[Shown]) -> Markup:
    """Of the first repeat of each level, the first open and the rest folded."""
    found = [(one, one.stages[0]) for one in chosen([one for one in levels if one.stages], STAGES)]
    if not found:
        return panel("Requests", empty(NO_STAGES), wide=True)
    shown = _telling(found)
    key = tag("ul", *(tag("li", tag("i", class_=f"swatch {what}"), words) for what, words in PARTS), class_="legend")
    folded = [
        tag("details", tag("summary", f"{one.number} · {one.name}"), bars(stage), open=one is shown, class_="timeline")
        for one, stage in found
    ]
    less = f" {len(found)} of {len(levels)} levels are shown." if len(found) < len(levels) else ""
    note = f"The first repeat of each level. A wait is time between when the schedule wanted a request sent and when it was.{less}"
    return panel("Requests", key, *folded, note=note, wide=True)


def _telling(found: Sequence[tuple[Shown, Stage]]) -> Shown:
    """The level that is shown open: the highest one that the server kept up with, else the first."""
    return next((one for one, _ in reversed(found) if not one.figures.saturated), found[0][0])


def under_way(stage: Stage) -> tuple[list[float], list[int]]:
    """Moments, ascending, and how many requests were under way from each on."""
    changes: dict[float, int] = {}
    for t in stage.timed:
        a, b = sane(t.sent), sane(end(t))
        if a is not None and b is not None and b > a > 0:
            changes[a] = changes.get(a, 0) + 1
            changes[b] = changes.get(b, 0) - 1
    moments = sorted(changes)
    return moments, list(accumulate(changes[m] for m in moments))


def binned(moments: Sequence[float], counts: Sequence[int], span: float) -> list[tuple[float, int, float, int]]:
    """(middle, least, mean by time, most) of `BINS` pieces of `span` seconds."""
    out = []
    for i in range(BINS):
        a, b = span * i / BINS, span * (i + 1) / BINS
        low, high = bisect_right(moments, a), bisect_right(moments, b)
        held = [counts[low - 1] if low else 0, *counts[low:high]]
        edges = [a, *moments[low:high], b]
        mean = sum(n * (t1 - t0) for n, (t0, t1) in zip(held, pairwise(edges), strict=True)) / (b - a)
        out.append(((a + b) / 2, min(held), mean, max(held)))
    return out


def concurrency(levels: Sequence[Shown]) -> Markup:
    """Requests under way over time, a line for each level."""
    title = "Requests under way"
    found = [(one, *under_way(one.stages[0])) for one in chosen([one for one in levels if one.stages])]
    found = [(one, moments, counts) for one, moments, counts in found if moments]
    if not found:
        return panel(title, empty(NO_STAGES))
    x, y = from_zero(moments[-1] for _, moments, _ in found), from_zero(float(max(counts)) for _, _, counts in found)
    if x is None or y is None:
        return panel(title, empty("No request took any time."))
    plot = Plot(x, y, lambda v: duration(v, short=True), compact, "from the stage's start →", "requests under way")
    drawn: list[Child] = []
    dots: list[Child] = []
    for i, (one, moments, counts) in enumerate(found):
        pieces = binned(moments, counts, moments[-1])
        style = colour(i, len(found))
        drawn.append(plot.band([(at, float(lo), float(hi)) for at, lo, _, hi in pieces], style))
        drawn.append(plot.line([(at, mean) for at, _, mean, _ in pieces], style))
        dots += [
            plot.dot(at, mean, f"{one.name}, {duration(at)}: {brief(mean)} under way, {lo} to {hi}") for at, lo, mean, hi in pieces[4::10]
        ]
    entries = [(f"{one.number} · {one.name}", colour(i, len(found)), None) for i, (one, _, _) in enumerate(found)]
    said = f"{title}. " + "; ".join(f"{one.name}: {max(counts)} at most" for one, _, counts in found)
    note = "A line that keeps climbing is a queue that never empties: the level is beyond what the server can do."
    return panel(title, legend(entries), plot.draw(said, plot.inner(*drawn), *dots), note=note)


def memory(stages: Sequence[Stage]) -> Markup | None:
    """Resident memory of the watched processes over all stages, one after the other. None: no process was watched."""
    starts = [0.0, *accumulate(max(0.0, sane(s.seconds) or 0.0, *(x.at for x in s.samples[-1:])) for s in stages)]
    series: dict[str, list[tuple[float, float]]] = {}
    for begun, stage in zip(starts, stages, strict=False):
        for sample in stage.samples:
            for name, held in sample.memory.items():
                series.setdefault(name, []).append((begun + sample.at, float(held)))
    names = sorted(series, key=lambda n: -max(v for _, v in series[n]))[:6]
    x, y = from_zero([starts[-1], *(t for n in names for t, _ in series[n])]), from_zero(v for n in names for _, v in series[n])
    if x is None or y is None:
        return None
    plot = Plot(x, y, lambda v: duration(v, short=True), size, "over all stages, one after the other →", "resident memory (RSS)")
    edges = [tag("line", class_="edge", x1=pc(x.at(t)), x2=pc(x.at(t)), y1=0, y2=plot.height) for t in starts[1:-1][:60]]
    lines = [plot.line(_thinned(series[n]), f"s{i}") for i, n in enumerate(names)]
    dots = [plot.dot(t, v, f"{n}, {duration(t)}: {size(v)}") for n in names for t, v in _thinned(series[n], 40)]
    said = "Memory over time. " + "; ".join(f"{n}: {size(max(v for _, v in series[n]))} at most" for n in names)
    grown = [f"{n}: {size(max(v for _, v in series[n]))} at most, {_growth(series[n])}" for n in names]
    list_ = tag("ul", *(tag("li", g) for g in grown), class_="asked")
    drawing = plot.draw(said, plot.inner(*lines), *edges, *dots)
    return panel("Memory", legend((n, f"s{i}", None) for i, n in enumerate(names)), drawing, list_)


def _growth(points: Sequence[tuple[float, float]]) -> str:
    change = points[-1][1] - points[0][1]
    share = f"{percent(abs(change) / points[0][1])}" if points[0][1] else "from 0"
    return f"{size(abs(change))} {'more' if change >= 0 else 'less'} at the end ({share})"


def _thinned(points: Sequence[tuple[float, float]], most: int = BINS) -> Sequence[tuple[float, float]]:
    every = -(-len(points) // most) or 1
    return [*points[::every], points[-1]]
