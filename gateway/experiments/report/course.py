"""The primary metric's change over time, a panel for each arm on one axis, and what was done when. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from gateway.experiments.report import figures
from gateway.experiments.report.forest import reach, tick
from gateway.experiments.report.frame import Frame, dot
from gateway.experiments.report.marks import Looks, key
from gateway.experiments.report.markup import Markup, join, pc, tag
from gateway.experiments.report.scale import Scale, around_zero
from routing.experiments.words import Audit, Point, Result

HEIGHT = 200
MOST = 60  # points that the pointer finds in a panel; all are drawn


def range_of(result: Result) -> Scale | None:
    """The axis of time: from the start, or the first point, to the last. None: there are no points."""
    times = [p.unix for p in result.points if figures.known(p.unix)]
    if not times:
        return None
    first, last = min(times), max(times)
    if result.started is not None and figures.known(result.started):
        first = min(first, result.started)
    return Scale(first, last) if last >= first + 1 else Scale(first - 1800, last + 1800)


def ticks(scale: Scale) -> list[float]:
    """Some moments at equal distances."""
    return [scale.lo + (scale.hi - scale.lo) * i / 4 for i in range(5)]


def within(result: Result, scale: Scale) -> list[tuple[int, Audit]]:
    """What was done within the time that is shown, numbered from 1 in the order of time."""
    numbered = enumerate(sorted(result.audit, key=lambda a: a.unix), 1)
    return [(i, a) for i, a in numbered if scale.lo <= a.unix <= scale.hi + 0.01 * (scale.hi - scale.lo)]


def heights(points: Sequence[Point], effect: float) -> Scale:
    """One axis for all panels: the later half of the points fits; the first intervals may be cut."""
    later = sorted(points, key=lambda p: p.unix)[len(points) // 2 :]
    return around_zero([r for p in later if (r := reach(p.change)) is not None], 2 * abs(effect))


def said_of(point: Point) -> str:
    """One point in words."""
    change = point.change
    return f"{figures.moment(point.unix)}, {figures.count(point.units)} units: {figures.change(change.value)}, {figures.changes_of(change)}"


def drawn(frame: Frame, points: Sequence[Point]) -> list[Markup]:
    """The line of estimates in its band of intervals; a point alone gets both as a mark."""
    sure = [
        (p.unix, lo, hi) for p in points if (lo := figures.sane(p.change.lo)) is not None and (hi := figures.sane(p.change.hi)) is not None
    ]
    known = [(p.unix, v) for p in points if (v := figures.sane(p.change.value)) is not None]
    out = []
    if len(sure) > 1:
        out += [
            frame.area(sure, "sure"),
            frame.line([(x, lo) for x, lo, _ in sure], "edge"),
            frame.line([(x, hi) for x, _, hi in sure], "edge"),
        ]
    out.append(frame.line(known, "curve"))
    inner = [frame.inner(*out)]
    if len(known) == 1:
        (x, value), around = known[0], sure[:1]
        inner += [
            tag("line", class_="reach", x1=pc(frame.x.at(x)), x2=pc(frame.x.at(x)), y1=frame.held(lo), y2=frame.held(hi))
            for _, lo, hi in around
        ]
        inner.append(tag("circle", class_="one", cx=pc(frame.x.at(x)), cy=frame.held(value), r=5))
    return inner


def flags(frame: Frame, marks: Sequence[tuple[int, Audit]]) -> list[Markup]:
    """A line with its number for each thing done."""
    out = []
    for number, audit in marks:
        x = pc(frame.x.held(audit.unix))
        out.append(tag("line", class_="flag", x1=x, x2=x, y1=-4, y2=frame.height))
        disc = tag("circle", class_="disc", cx=0, cy=0, r=8)
        text = tag("text", str(number), class_="disc-text", x=0, y=3.5, text_anchor="middle")
        out.append(tag("svg", disc, text, x=x, y=-10, overflow="visible", width=1, height=1))
    return out


def panel(result: Result, look: Looks, arm: str, frame: Frame) -> Markup:
    """One arm."""
    points = sorted((p for p in result.points if p.arm == arm and figures.known(p.unix)), key=lambda p: p.unix)
    effect = abs(figures.sane(result.effect) or 0.0)
    tops = frame.held(effect), frame.held(-effect)
    band = tag("rect", class_="band", x=0, width="100%", y=round(tops[0], 2), height=round(tops[1] - tops[0], 2)) if effect else None
    zero = tag("line", class_="zero", x1=0, x2="100%", y1=frame.held(0), y2=frame.held(0))
    every = -(-len(points) // MOST) or 1
    found = [*points[:-1:every], *points[-1:]]
    dots = [dot(frame, p.unix, figures.sane(p.change.value) or 0.0, said_of(p)) for p in found]
    last = f" Last: {said_of(points[-1])}." if points else ""
    said = f"Change of {look.metric(result.primary).label} over time, {arm} against control.{last}"
    drawing = frame.box(said, band, zero, *drawn(frame, points), *flags(frame, within(result, frame.x)), *dots)
    head = tag("h3", key(look, arm), arm)
    return tag("div", head, drawing, class_=f"panel {look.style(arm)}", data_arm=arm)


def numbers(result: Result) -> Markup:
    """All points as a table."""
    body = [
        tag(
            "tr",
            tag("th", tag("time", figures.moment(p.unix), datetime=figures.iso(p.unix)), scope="row"),
            tag("td", p.arm),
            tag("td", figures.count(p.units)),
            tag("td", figures.change(p.change.value), data_value="" if p.change.value is None else p.change.value),
            tag("td", figures.changes_of(p.change)),
        )
        for p in sorted(result.points, key=lambda p: (p.unix, p.arm))
    ]
    heads = tag("tr", *(tag("th", h, scope="col") for h in ("When", "Arm", "Units", "Change", "Interval")))
    table = tag("table", tag("thead", heads), tag("tbody", *body))
    scroll = tag("div", table, class_="scroll tall", tabindex=0, role="region", aria_label="Change over time in figures")
    return tag("details", tag("summary", "The same in figures"), scroll)


def course(result: Result, look: Looks) -> Markup:
    """All panels, and the list of what was done."""
    x = range_of(result)
    if x is None:
        return tag("p", "There is no history yet: the first estimate appears here as soon as there is one.", class_="empty")
    y, length = heights(result.points, result.effect), x.hi - x.lo
    frame = Frame(x, y, HEIGHT, lambda v: figures.day(v, length), tick, ticks(x))
    arms = sorted(dict.fromkeys(p.arm for p in result.points if figures.known(p.unix)), key=look.number)
    panels = tag("div", *(panel(result, look, arm, frame) for arm in arms), class_="panels" if len(arms) > 1 else "panels one")
    done = [
        tag("li", tag("time", figures.moment(a.unix), datetime=figures.iso(a.unix)), f" · {a.actor}: {a.action}", value=i)
        for i, a in within(result, x)
    ]
    note = tag(
        "p",
        "The line is the best estimate, the shade where the true change is; looking at it every day does not make it wrong.",
        class_="note",
    )
    return join([panels, note, tag("ol", *done, class_="done") if done else None, numbers(result)])
