"""How latencies are distributed in each arm: share of requests answered within a time, and the quantiles with their intervals. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from gateway.experiments.report import figures
from gateway.experiments.report.frame import Frame, apart, dot
from gateway.experiments.report.marks import Looks, exact, legend, ordered, shape
from gateway.experiments.report.markup import Markup, join, pc, tag
from gateway.experiments.report.scale import LEAST, Scale, span
from routing.experiments.words import ArmResult, Estimate, Result

HEIGHT = 220
LANE = 16  # px for one arm's quantile
QUANTILES = ("p50", "p95", "p99")
MARKED = (0.2, 0.5, 0.8)  # where a line carries its arm's mark
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
EDGE = 0.001  # the share of requests that may lie left of the plot


def cumulated(buckets: Sequence[tuple[float, int]]) -> list[tuple[float, float]]:
    """(seconds, share of the requests that took at most so long), ascending; empty without requests.

    A bucket without a finite bound counts for the shares but has no point.
    """
    rows = sorted((bound if bound is not None and not math.isnan(bound) else math.inf, n) for bound, n in buckets if n > 0)
    total, seen, out = sum(n for _, n in rows), 0, []
    for bound, n in rows:
        seen += n
        if LEAST <= bound <= figures.MOST:
            out.append((bound, seen / total))
    return out


def shown(result: Result) -> list[str]:
    """The metrics of which there are distributions or quantiles: the primary one first."""
    names = {m for a in result.arms for m in (*a.buckets, *a.quantiles) if cumulated(a.buckets.get(m, [])) or a.quantiles.get(m)}
    return sorted(names, key=lambda m: (m != result.primary, m))


def axis(arms: Sequence[ArmResult], metric: str) -> Scale | None:
    """The axis of seconds that fits all arms: nearly all requests and all quantiles."""
    values: list[float | None] = []
    for arm in arms:
        curve = cumulated(arm.buckets.get(metric, []))
        values += [x for x, share in curve if share >= EDGE][:1] + [x for x, share in curve if share >= 1 - EDGE][:1]
        values += [v for e in arm.quantiles.get(metric, {}).values() for v in (e.value, e.lo, e.hi)]
    return span(values, log=True, margin=0.03)


def near(curve: Sequence[tuple[float, float]], x: Scale) -> list[tuple[float, float]]:
    """A curve from the left edge of the axis to its right edge."""
    inside = [(max(bound, x.lo), share) for bound, share in curve if bound <= x.hi]
    return [(x.lo, 0.0), *inside, *([(x.hi, 1.0)] if inside and inside[-1][1] >= 1 - EDGE else [])]


def where(curve: Sequence[tuple[float, float]], share: float) -> float | None:
    """At which x a drawn curve reaches `share`, on the straight line (of the log axis) between its points. None: never."""
    for (x0, s0), (x1, s1) in pairwise(curve):
        if s0 < share <= s1:
            return x0 * math.exp(math.log(x1 / x0) * (share - s0) / (s1 - s0))
    return None


def curves(frame: Frame, look: Looks, arms: Sequence[ArmResult], metric: str) -> list[Markup]:
    """A line for each arm, with some points to read."""
    lines, dots = [], []
    marks: list[Markup] = []
    for arm in arms:
        curve = cumulated(arm.buckets.get(metric, []))
        if not curve:
            continue
        lines.append(frame.line(near(curve, frame.x), f"curve {look.style(arm.name)}", data_arm=arm.name))
        along = near(curve, frame.x)
        marks += [shape(look, arm.name, frame.x.at(x), round(frame.top(s), 2)) for s in MARKED if (x := where(along, s)) is not None]
        every = -(-len(curve) // 40)
        inside = [(x, share) for x, share in curve if frame.x.lo <= x <= frame.x.hi]
        dots += [dot(frame, x, s, f"{arm.name}: {figures.percent(s)} within {figures.seconds(x)}") for x, s in inside[::every]]
    return [frame.inner(*lines), *marks, *dots]


def lane(frame: Frame, look: Looks, arm: str, name: str, estimate: Estimate, y: float) -> list[Markup]:
    """One arm's quantile with its interval, at `y` px."""
    out, lo, hi = [], figures.sane(estimate.lo), figures.sane(estimate.hi)
    said = (
        f"{arm}, {name}: {figures.seconds(estimate.value)} ({figures.between(figures.seconds(estimate.lo), figures.seconds(estimate.hi))})"
    )
    if lo is not None or hi is not None:
        # An end that is not known yet: the line goes on to the edge, in dashes.
        left, right = (0.0 if lo is None else frame.x.held(lo)), (100.0 if hi is None else frame.x.held(hi))
        kind = "reach open" if lo is None or hi is None else "reach"
        out.append(tag("line", class_=f"{kind} {look.style(arm)}", x1=pc(left), x2=pc(right), y1=y, y2=y))
    value = figures.sane(estimate.value)
    if value is not None:
        out.append(shape(look, arm, frame.x.held(value), y, said))
    return out


def strip(frame: Frame, look: Looks, arms: Sequence[ArmResult], metric: str) -> Markup | None:
    """The quantiles of all arms on the axis of the curves."""
    names = [q for q in QUANTILES if any(q in a.quantiles.get(metric, {}) for a in arms)]
    if not names:
        return None
    out, texts, y = [], [], 12.0
    for name in names:
        texts.append(tag("text", name, x="100%", y=y + LANE * len(arms) / 2 - 4, text_anchor="end", class_="axis"))
        for arm in arms:
            out += lane(frame, look, arm.name, name, arm.quantiles.get(metric, {}).get(name, Estimate()), y)
            y += LANE
        out.append(tag("line", class_="grid", x1=0, x2="100%", y1=y - 4, y2=y - 4))
        y += 8
    grid = [tag("line", class_="grid", x1=pc(frame.x.at(v)), x2=pc(frame.x.at(v)), y1=0, y2=y - 12) for v in frame.x_ticks or ()]
    side = tag("svg", *texts, class_="sides", width="100%", height=y, aria_hidden="true")
    room = tag("div", tag("svg", *grid, *out, width="100%", height=y, focusable="false"), class_="room")
    return tag("div", side, room, class_="plot strip", role="img", aria_label=said_of(arms, metric))


def said_of(arms: Sequence[ArmResult], metric: str) -> str:
    """All quantiles in words."""
    rows = []
    for arm in arms:
        found = arm.quantiles.get(metric, {})
        rows.append(
            f"{arm.name}: " + ", ".join(f"{q} {figures.seconds(e.value)}" for q, e in found.items()) if found else f"{arm.name}: none yet"
        )
    return "Quantiles. " + "; ".join(rows)


def numbers(arms: Sequence[ArmResult], metric: str, label: str) -> Markup | None:
    """The quantiles as a table."""
    names = list(dict.fromkeys(q for a in arms for q in a.quantiles.get(metric, {})))
    if not names:
        return None
    body = []
    for arm in arms:
        found = arm.quantiles.get(metric, {})
        cells = []
        for q in names:
            e = found.get(q, Estimate())
            small = tag("small", figures.between(figures.seconds(e.lo), figures.seconds(e.hi)))
            cells.append(tag("td", figures.seconds(e.value), small, data_arm=arm.name, data_metric=metric, data_quantile=q, **exact(e)))
        body.append(tag("tr", tag("th", arm.name, scope="row"), *cells))
    head = tag("tr", tag("th", "Arm", scope="col"), *(tag("th", q, scope="col") for q in names))
    table = tag("table", tag("thead", head), tag("tbody", *body))
    return tag("div", table, class_="scroll", tabindex=0, role="region", aria_label=f"Quantiles of {label}")


def distribution(result: Result, look: Looks, metric: str) -> Markup:
    """One metric: curves, quantiles, table."""
    arms, label = ordered(result.arms), look.metric(metric).label or metric
    head = tag("h3", label[:1].upper() + label[1:])
    x = axis(arms, metric)
    if x is None:
        return tag("div", head, tag("p", "No request has been measured yet.", class_="empty"), class_="panel")
    frame = Frame(
        x, Scale(0.0, 1.0), HEIGHT, lambda v: figures.short(figures.seconds(v)), lambda v: f"{v:.0%}".replace("%", " %"), apart(x), SHARES
    )
    with_curve = [a for a in arms if cumulated(a.buckets.get(metric, []))]
    said = f"Share of requests within a time, {label}. {said_of(arms, metric)}."
    plot = frame.box(said, *curves(frame, look, with_curve, metric)) if with_curve else None
    names = [a.name for a in arms]
    return tag(
        "div", head, legend(look, names, lines=True), plot, strip(frame, look, arms, metric), numbers(arms, metric, label), class_="panel"
    )


def latencies(result: Result, look: Looks) -> Markup:
    """Every metric that has a distribution."""
    names = shown(result)
    if not names:
        return tag("p", "No latency has been measured yet.", class_="empty")
    note = tag(
        "p",
        "Each line tells which share of an arm's requests was answered within a time: further left is faster. Below, half of the requests "
        "(p50), 95 % and 99 % with the interval of each.",
        class_="note",
    )
    return join([note, tag("div", *(distribution(result, look, m) for m in names), class_="panels" if len(names) > 1 else "panels one")])
