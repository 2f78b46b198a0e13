"""What happened when: single requests as bars, requests under way, memory. Pure; needs the raw stages."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise

from benchmarks.bench.report.axes import LEAST, Axis, from_zero
from benchmarks.bench.report.markup import Markup, join, pc, spot, tag
from benchmarks.bench.report.plot import FOOT, Plot, empty, legend, panel
from benchmarks.bench.report.seen import Shown, chosen
from benchmarks.bench.texts import brief, compact, count, duration, percent, sane, size
from benchmarks.bench.words import Stage, Timed

MOST = 300  # requests drawn of a stage
MINIS = 12  # plots of what was under way
PROCESSES = 6  # whose memory is drawn
STAGES = 6  # timelines on a page; each is some 50 kB
FEW = 40  # that are drawn at least
LENGTHS = 15  # lengths of an answer that a drawn window is wide
BINS = 160  # of a line over time
PARTS = (
    ("wait", "waiting to be sent"),
    ("prefill", "until the first content"),
    ("decode", "content comes"),
    ("bad", "failed"),
)
NO_STAGES = "The single requests were not kept with this summary: the JSONL file has them."


def window(found: Sequence[Timed], busiest: float) -> list[Timed]:
    """The requests that are drawn, in the order in which they came: as many neighbours as show how they overlap, `MOST` at most, around the
    moment when most were under way. A bar in a whole stage would be too short to be seen."""
    ordered = sorted(found, key=lambda t: (start(t), t.index))
    if len(ordered) <= FEW:
        return ordered
    took = sorted(end(t) - start(t) for t in ordered)[len(ordered) // 2]
    whole = max(end(t) for t in ordered) - start(ordered[0])
    most = min(MOST, len(ordered), max(FEW, round(LENGTHS * took * len(ordered) / whole) if whole > 0 else MOST))
    middle = bisect_right([start(t) for t in ordered], busiest)
    first = max(0, min(len(ordered) - most, middle - most // 2))
    return ordered[first : first + most]


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
    """One stage's requests, a line each, from top to bottom as they came."""
    seen = [t for t in stage.timed if sane(end(t)) is not None and end(t) > 0]
    moments, counts = under_way(stage)
    busiest = moments[max(range(len(counts)), key=counts.__getitem__)] if counts else 0.0
    rows = window(seen, busiest)
    if not rows:
        return empty("No request was sent.")
    begun, ended = start(rows[0]), max(end(t) for t in rows)
    x = Axis(begun, begun + max((ended - begun) * 1.01, LEAST))
    height = min(12.0, max(2.4, 520.0 / len(rows)))
    drawn = [_row(t, i * height, height, x) for i, t in enumerate(rows)]
    deep = height * len(rows)
    grid = [_second(x, v, deep) for v in x.apart(6, 14.0)]
    drawing = tag("svg", *grid, *drawn, width="100%", height=deep + FOOT, focusable="false")
    failed = sum(not t.good for t in seen)
    said = f"{len(rows)} requests over {duration(ended - begun)}."
    return join(
        [
            _note(stage, len(rows), len(seen), failed, busiest),
            tag("div", tag("div", drawing, class_="room"), class_="plot bars", role="img", aria_label=said),
        ]
    )


def _note(stage: Stage, drawn: int, seen: int, failed: int, busiest: float) -> Markup:
    when = duration(busiest, short=True)
    less = f"{drawn:,} of {seen:,} requests are drawn: those around the busiest moment, {when} after the stage's start. "
    lost = f" {stage.cut_off:,} more were under way when the stage was ended, and are not drawn." if stage.cut_off else ""
    held = f" {stage.held:,} waited for a free connection (--max-concurrency)." if stage.held else ""
    return tag("p", f"{less if drawn < seen else ''}{failed:,} of {seen:,} failed.{lost}{held}", class_="note")


def _second(x: Axis, value: float, deep: float) -> Markup:
    where = x.at(value)
    anchor = "start" if where < 4 else "end" if where > 96 else "middle"
    line = tag("line", class_="grid", x1=pc(where), x2=pc(where), y1=0, y2=deep)
    return join([line, tag("text", duration(value, short=True), x=pc(where), y=deep + 16, text_anchor=anchor, class_="axis")])


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
    """Requests under way over time, a small plot for each level, all of one height."""
    title = "Requests under way"
    found = [(one, *under_way(one.stages[0])) for one in chosen([one for one in levels if one.stages], MINIS)]
    found = [(one, moments, counts) for one, moments, counts in found if moments]
    if not found:
        return panel(title, empty(NO_STAGES), wide=True)
    y = from_zero(float(max(counts)) for _, _, counts in found)
    minis = [_mini(one, moments, counts, y) for one, moments, counts in found if y is not None]
    less = f" {len(found)} of {len(levels)} levels are drawn." if len(found) < len(levels) else ""
    note = f"First repeats; the band goes from least to most. A line that keeps climbing is a queue: more than the server can do.{less}"
    return panel(title, tag("div", *minis, class_="minis"), note=note, wide=True)


def _mini(one: Shown, moments: Sequence[float], counts: Sequence[int], y: Axis) -> Markup:
    unit, text = clock(moments[-1])
    plot = Plot(Axis(0.0, moments[-1] / unit), y, text, compact, "", "", height=90.0)
    pieces = binned(moments, counts, moments[-1])
    band = plot.band([(when / unit, float(lo), float(hi)) for when, lo, _, hi in pieces], "s0")
    line = plot.line([(when / unit, mean) for when, _, mean, _ in pieces], "s0")
    dots = [plot.dot(when / unit, mean, f"{duration(when)}: {brief(mean)} under way, {lo} to {hi}") for when, lo, mean, hi in pieces[3::8]]
    said = f"{one.name}: {max(counts)} at most"
    return tag("div", tag("h4", f"{one.number} · {one.name}"), plot.draw(said, plot.inner(band, line), *dots))


def clock(span: float) -> tuple[float, Callable[[float], str]]:
    """The unit in which an axis of `span` seconds has round ticks, in seconds, and how a value in it is written."""
    size, name = next(((s, n) for s, n in ((3600.0, "h"), (60.0, "min"), (1.0, "s")) if span >= 2 * s), (1e-3, "ms"))
    return size, lambda v: f"{brief(v)} {name}"


def memory(stages: Sequence[Stage]) -> Markup | None:
    """Resident memory of the watched processes over all stages, one after the other. None: no process was watched."""
    starts = [0.0, *accumulate(max(0.0, sane(s.seconds) or 0.0, *(x.at for x in s.samples[-1:])) for s in stages)]
    series: dict[str, list[tuple[float, float]]] = {}
    for begun, stage in zip(starts, stages, strict=False):
        for sample in stage.samples:
            for name, held in sample.memory.items():
                series.setdefault(name, []).append((begun + sample.at, float(held)))
    names = sorted(series, key=lambda n: -max(v for _, v in series[n]))[:PROCESSES]
    most = max((v for n in names for _, v in series[n]), default=0.0)
    octets, unit = (2.0**30, "GiB") if most >= 2.0**30 else (2.0**20, "MiB")
    seconds, text = clock(starts[-1])
    x, y = from_zero([starts[-1] / seconds]), from_zero([most / octets])
    if x is None or y is None:
        return None
    plot = Plot(x, y, text, lambda v: f"{brief(v)} {unit}", "over all stages, one after the other →", "resident memory (RSS)", height=180.0)
    edges = [
        tag("line", class_="edge", x1=pc(x.at(t / seconds)), x2=pc(x.at(t / seconds)), y1=0, y2=plot.height) for t in starts[1:-1][:60]
    ]
    lines = [plot.line([(t / seconds, v / octets) for t, v in _thinned(series[n])], f"s{i}") for i, n in enumerate(names)]
    dots = [plot.dot(t / seconds, v / octets, f"{n}, {duration(t)}: {size(v)}") for n in names for t, v in _thinned(series[n], 40)]
    said = "Memory over time. " + "; ".join(f"{n}: {size(max(v for _, v in series[n]))} at most" for n in names)
    grown = tag("ul", *(tag("li", tag("b", n), f": {_growth(series[n])}") for n in names), class_="asked")
    drawing = plot.draw(said, plot.inner(*lines), *edges, *dots)
    return panel("Memory", legend((n, f"s{i}", None) for i, n in enumerate(names)), drawing, grown, wide=True)


def _growth(points: Sequence[tuple[float, float]]) -> str:
    first, last = points[0][1], points[-1][1]
    share = f" ({percent(abs(last - first) / first)})" if first else ""
    if first == last:
        return f"{size(max(v for _, v in points))} at most, at the end as much as at first"
    change = f"{size(abs(last - first))} {'more' if last >= first else 'less'} at the end than at first{share}"
    return f"{size(max(v for _, v in points))} at most, {change}"


def _thinned(points: Sequence[tuple[float, float]], most: int = BINS) -> Sequence[tuple[float, float]]:
    every = -(-len(points) // most) or 1
    return [*points[::every], points[-1]]
