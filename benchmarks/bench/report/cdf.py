"""How latencies are distributed: the share of answers that came within a time, a line for each level. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.bench.report.axes import Axis, around
from benchmarks.bench.report.markup import Markup, join, tag
from benchmarks.bench.report.plot import Plot, Point, empty, legend, panel
from benchmarks.bench.report.seen import Shown, Value, chosen, colour, values
from benchmarks.bench.texts import duration, is_closed, percent
from benchmarks.bench.times import first_after, tpot, whole_after
from benchmarks.bench.words import Spread

POINTS = 160  # of a line; more cannot be seen
QUANTILES = (("low", None), ("p50", 0.5), ("p90", 0.9), ("p95", 0.95), ("p99", 0.99), ("p999", 0.999))
KINDS: tuple[tuple[str, str, Value], ...] = (
    ("ttft", "Time to first token (TTFT)", first_after),
    ("tpot", "Time per output token (TPOT)", tpot),
    ("e2e", "Whole answer (E2E)", whole_after),
)


def curve(ordered: Sequence[float]) -> list[Point]:
    """(seconds, share of answers within) of ascending values: every one, or some `POINTS` of them, the tail more closely."""
    n = len(ordered)
    if n <= POINTS:
        return [(v, (i + 1) / n) for i, v in enumerate(ordered)]
    even = {round(i * (n - 1) / (POINTS - 40)) for i in range(POINTS - 39)}
    tail = {n - 1 - round(0.05 * n * (i / 40) ** 2) for i in range(40)}
    return [(ordered[i], (i + 1) / n) for i in sorted(even | tail)]


def known(spread: Spread) -> list[Point]:
    """The same from a summary's percentiles alone, where single requests are not at hand."""
    found = [(getattr(spread, name), share) for name, share in QUANTILES if share is not None]
    points = [(v, share) for v, share in found if v is not None]
    return [*points, (spread.most, 1.0)] if points and spread.most is not None else points


def steps(points: Sequence[Point]) -> list[Point]:
    """As stairs: up where an answer came, level in between."""
    out: list[Point] = []
    before = 0.0
    for x, share in points:
        out += [(x, before), (x, share)]
        before = share
    return out


def distribution(levels: Sequence[Shown], name: str, title: str, of: Value) -> Markup:
    """One latency of all levels."""
    lines: list[tuple[Shown, list[Point], bool]] = []
    for one in levels:
        raw = values(one.stages, of)
        points = curve(raw) if raw else known(getattr(one.figures, name if is_closed(one.profile) or name == "tpot" else f"{name}_due"))
        if points:
            lines.append((one, points, bool(raw)))
    x = around(v for _, points, _ in lines for v, _ in points)
    if x is None:
        why = "The server did not tell how many tokens it sent." if name == "tpot" else "No answer came whole."
        return panel(title, empty(why))
    plot = Plot(
        x,
        Axis(0.0, 1.0),
        lambda v: duration(v, short=True),
        lambda v: f"{100 * v:.0f} %",
        "time, logarithmic; left is faster",
        "share of answers within ↑",
        gap=19.0,
    )
    drawn, dots = [], []
    for i, (one, points, exact) in enumerate(lines):
        style = colour(i, len(lines))
        drawn.append(plot.line([(x.lo, 0.0), *steps(points), (x.hi, points[-1][1])] if exact else points, style))
        every = -(-len(points) // 30)
        dots += [plot.dot(v, share, f"{one.name}: {percent(share)} within {duration(v)}") for v, share in points[every - 1 :: every]]
        dots.append(badge(plot, one, points, i, len(lines)))
    said = f"{title}. " + "; ".join(f"{one.name}: half within {duration(middle(points))}" for one, points, _ in lines)
    note = "" if all(raw for _, _, raw in lines) else "Drawn from percentiles: the single requests were not kept."
    return panel(title, plot.draw(said, plot.inner(*drawn), *dots), note=note)


def middle(points: Sequence[Point]) -> float | None:
    """Where half of the answers had come."""
    return next((x for x, share in points if share >= 0.5), None)


def badge(plot: Plot, one: Shown, points: Sequence[Point], place: int, of: int) -> Markup:
    """The level's number on its line, at a height of its own, so that no two stand on each other."""
    share = 0.5 if of == 1 else 0.2 + 0.6 * place / (of - 1)
    x, y = min(points, key=lambda p: abs(p[1] - share))
    disc = tag("circle", r=8, class_="disc")
    text = tag("text", str(one.number), text_anchor="middle", dy=4, class_="disc-text")
    placed = tag("svg", disc, text, x=f"{plot.x.at(x):.2f}%", y=plot.top(y), width=1, height=1, overflow="visible")
    return tag("g", placed, class_=f"badge {colour(place, of)}")


def latencies(levels: Sequence[Shown]) -> Markup:
    """All three, with one legend."""
    picked = chosen(levels)
    entries = [(f"{one.number} · {one.name}", colour(i, len(picked)), None) for i, one in enumerate(picked)]
    less = f" {len(picked)} of {len(levels)} levels are drawn." if len(picked) < len(levels) else ""
    note = (
        "Each line is a level of load, all its repeats together, from the schedule where there was one. "
        f"Failed requests are in none of them: see the error rate.{less}"
    )
    plots = tag("div", *(distribution(picked, *kind) for kind in KINDS), class_="panels three")
    return join([tag("p", note, class_="note"), legend(entries), plots])
