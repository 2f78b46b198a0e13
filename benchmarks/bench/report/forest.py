"""What is sure of the difference of two servers: the ratio of each latency with its interval, on one axis. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping

from benchmarks.bench.paired import Difference, Interval
from benchmarks.bench.report.axes import Axis
from benchmarks.bench.report.markup import Markup, join, pc, spot, tag
from benchmarks.bench.report.plot import empty, panel
from benchmarks.bench.texts import brief, number, sane

ROW = 40  # px for one latency
_REACH = 3.0  # how far an axis goes at most beyond the widest estimate, as a factor


def ratios(found: Mapping[str, Difference], names: tuple[str, str]) -> Markup:
    """B / A by latency, logarithmic around 1: left of it B takes less time. An interval that crosses 1 shows no difference."""
    title = "Times of B by those of A"
    shown = [(d, d.ratio) for d in found.values() if d.ratio is not None and (sane(d.ratio.value) or 0.0) > 0]
    if not shown:
        return panel(title, empty("No pair was answered whole by both."), wide=True)
    axis = _axis([r for _, r in shown])
    deep = ROW * len(shown)
    grid = [tag("line", class_="grid", x1=pc(axis.at(v)), x2=pc(axis.at(v)), y1=0, y2=deep) for v in axis.apart(7, 13.0)]
    texts = [tag("text", brief(v), x=pc(axis.at(v)), y=deep + 16, text_anchor="middle", class_="axis") for v in axis.apart(7, 13.0)]
    one = tag("line", class_="same", x1=pc(axis.at(1.0)), x2=pc(axis.at(1.0)), y1=0, y2=deep)
    rows = [_row(d, r, axis, i) for i, (d, r) in enumerate(shown)]
    labels = [
        tag("text", d.metric.upper(), x="100%", y=ROW * i + ROW / 2 + 4, text_anchor="end", class_="name") for i, (d, _) in enumerate(shown)
    ]
    side = tag("svg", *labels, width="100%", height=deep + 22, aria_hidden="true")
    room = tag("div", tag("svg", *grid, one, *texts, *rows, width="100%", height=deep + 22, focusable="false"), class_="room")
    said = "; ".join(_said(d, r) for d, r in shown)
    sides = tag("p", tag("span", "← B is faster"), tag("span", "A is faster →"), class_="ends")
    note = f"A: {names[0]}. B: {names[1]}. The line is the 95 % interval of the median ratio; where it crosses 1, no difference is shown."
    return panel(title, tag("div", side, room, class_="plot", role="img", aria_label=said), sides, note=note, wide=True)


def _axis(found: list[Interval]) -> Axis:
    """Around 1, as wide to both sides, with all intervals; but not so wide that an interval without end would make all others points."""
    values = [math.log(r.value) for r in found]
    ends = [math.log(v) for r in found for v in (r.low, r.high) if v is not None and sane(v) and v > 0]
    most = max(abs(v) for v in values) + math.log(_REACH)
    reach = max(math.log(1.02), min(most, max((abs(v) for v in [*values, *ends]), default=0.0) * 1.12))
    return Axis(math.exp(-reach), math.exp(reach), True)


def _row(d: Difference, ratio: Interval, axis: Axis, place: int) -> Markup:
    y = ROW * place + ROW / 2
    sure = ratio.low is not None and ratio.high is not None
    kind = "unsure" if not sure or (ratio.low or 0.0) <= 1.0 <= (ratio.high or 0.0) else "s1" if ratio.value > 1 else "s0"
    line = (
        tag("line", class_="reach", x1=pc(axis.at(ratio.low or axis.lo)), x2=pc(axis.at(ratio.high or axis.hi)), y1=y, y2=y)
        if sure
        else None
    )
    mark = tag("svg", tag("path", d="M0,-6L6,0L0,6L-6,0z"), x=pc(axis.at(ratio.value)), y=y, width=1, height=1, overflow="visible")
    return join([line and tag("g", line, class_=kind), spot("g", mark, said=_said(d, ratio), class_=f"mark {kind}")])


def _said(d: Difference, ratio: Interval) -> str:
    interval = f" ({number(ratio.low)} to {number(ratio.high)})" if ratio.low is not None and ratio.high is not None else " (too few pairs)"
    return f"{d.metric.upper()}: B takes {number(ratio.value)} times as long as A{interval}, {d.pairs:,} pairs"
