"""The changes against control, one row a comparison: interval, best estimate, zero line, the planned effect's band. Pure.

A grid of texts and small drawings instead of one drawing: on a phone the drawing goes below its texts, and all readers meet a table.
"""

from __future__ import annotations

from collections.abc import Sequence

from gateway.experiments.report import figures
from gateway.experiments.report.marks import Looks, chip, exact, key
from gateway.experiments.report.markup import Markup, at, join, pc, tag
from gateway.experiments.report.scale import Scale, around_zero
from routing.experiments.words import Comparison, Estimate, Result, Role

ROLES: Sequence[tuple[Role, str]] = (("primary", "Primary"), ("guardrail", "Guardrail"), ("secondary", "Secondary, exploratory"))
HEIGHT = 30
LEFT, RIGHT = "M0,0l8,-6v12z", "M0,0l-8,-6v12z"  # arrows whose tip is at 0,0


def reach(change: Estimate) -> float | None:
    """How far a change's interval goes from zero; of one without an interval the value. None: nothing is known."""
    known = [abs(v) for x in (change.lo, change.hi, change.value) if (v := figures.sane(x)) is not None]
    return max(known, default=None)


def axis(result: Result) -> Scale:
    """One axis for all rows."""
    return around_zero([r for c in result.comparisons if (r := reach(c.change)) is not None], 2 * abs(result.effect))


def interval(scale: Scale, change: Estimate, y: float) -> list[Markup | None]:
    """A horizontal interval with its ends; an arrow where it goes on beyond the axis, or where that end is not known."""
    lo, hi = figures.sane(change.lo), figures.sane(change.hi)
    if lo is None and hi is None:
        return []
    left, right = (0.0 if lo is None else scale.held(lo)), (100.0 if hi is None else scale.held(hi))
    if left == right:  # all of it beyond the axis: as its estimate says
        return []
    out: list[Markup | None] = [tag("line", class_="reach", x1=pc(left), x2=pc(right), y1=y, y2=y)]
    for value, x, arrow in ((lo, left, LEFT), (hi, right, RIGHT)):
        if value is None or not 0 <= scale.at(value) <= 100:
            out.append(_arrow(x, y, arrow))
        else:
            out.append(tag("line", class_="reach", x1=pc(x), x2=pc(x), y1=y - 5, y2=y + 5))
    return out


def _arrow(x: float, y: float, path: str) -> Markup:
    return tag("svg", tag("path", d=path, class_="arrow"), x=pc(x), y=y, overflow="visible", width=1, height=1)


def drawing(scale: Scale, effect: float, comparison: Comparison) -> Markup:
    """One row's interval above the zero line and the band of changes too small to matter."""
    effect = figures.sane(effect) or 0.0
    middle, change = HEIGHT / 2, comparison.change
    left, right, zero = scale.held(-abs(effect)), scale.held(abs(effect)), pc(scale.at(0.0))
    parts: list[Markup | None] = [
        tag("rect", class_="band", x=pc(left), y=0, width=pc(right - left), height=HEIGHT) if effect else None,
        *(tag("line", class_="grid", x1=pc(x), x2=pc(x), y1=0, y2=HEIGHT) for x in map(scale.at, scale.ticks(6))),
        tag("line", class_="zero", x1=zero, x2=zero, y1=0, y2=HEIGHT),
        *interval(scale, change, middle),
    ]
    value = figures.sane(change.value)
    if value is None:
        parts.append(tag("text", "too early to say", class_="axis", x=pc(scale.at(0.0) + 1), y=middle + 4))
    elif 0 <= scale.at(value) <= 100:
        path = tag("path", d="M0,-6.5L6.5,0L0,6.5L-6.5,0z", class_="estimate")
        inner = tag("svg", path, x=pc(scale.held(value)), y=middle, overflow="visible", width=1, height=1)
        said = f"{comparison.arm}: {figures.change(value)}, {figures.changes_of(change)}"
        parts.append(at("g", inner, said=said, data_arm=comparison.arm))
    else:
        parts.append(_arrow(scale.held(value), middle, RIGHT if value > 0 else LEFT))
    return tag("svg", *parts, width="100%", height=HEIGHT, class_=comparison.verdict, aria_hidden="true", focusable="false")


def row(look: Looks, scale: Scale, effect: float, comparison: Comparison) -> Markup:
    """One comparison: whose, drawn, in figures, and what follows."""
    change = comparison.change
    cells = (
        tag("div", key(look, comparison.arm), tag("span", comparison.arm), role="rowheader", class_="who"),
        tag("div", drawing(scale, effect, comparison), role="cell", class_="drawn"),
        tag(
            "div",
            tag("b", figures.change(change.value)),
            tag("small", figures.changes_of(change)),
            role="cell",
            class_="figures",
            data_arm=comparison.arm,
            data_metric=comparison.metric,
            data_role=comparison.role,
            **exact(change),
        ),
        tag("div", chip(comparison.verdict), role="cell", class_="verdict"),
    )
    return tag("div", *cells, role="row", class_="row")


def tick(value: float) -> str:
    """A change beside an axis."""
    return "0" if abs(value) < 1e-12 else figures.short(figures.change(value))


def ruler(scale: Scale) -> Markup:
    """The axis below the rows."""
    ticks = scale.ticks(6)
    texts = []
    for value in ticks:
        x = scale.at(value)
        anchor = "start" if x < 6 else "end" if x > 94 else "middle"
        texts.append(tag("text", tick(value), x=pc(x), y=14, text_anchor=anchor, class_="axis"))
    return tag("div", tag("svg", *texts, width="100%", height=18), class_="row ruler", aria_hidden="true")


def groups(result: Result) -> list[tuple[str, str, list[Comparison]]]:
    """The comparisons by role and metric: (heading of the role, metric, rows)."""
    out: list[tuple[str, str, list[Comparison]]] = []
    for role, word in ROLES:
        of_role = [c for c in result.comparisons if c.role == role]
        for metric in dict.fromkeys(c.metric for c in of_role):
            out.append((word, metric, [c for c in of_role if c.metric == metric]))
    return out


def forest(result: Result, look: Looks) -> Markup:
    """All comparisons; a sentence where there are none yet."""
    if not result.comparisons:
        return tag("p", "There is nothing to compare yet: that needs two arms with units in both.", class_="empty")
    scale = axis(result)
    heads = ("Arm", "Change against control", "In figures", "What follows")
    out = [tag("div", *(tag("div", h, role="columnheader") for h in heads), role="row", class_="hidden")]
    for word, name, rows in groups(result):
        metric = look.metric(name)
        way = "less is better" if metric.better == "lower" else "more is better"
        title = tag("div", tag("b", metric.label or name), tag("small", f"{word} · {way}"), role="cell", aria_colspan=4)
        out.append(tag("div", title, role="row", class_="metric"))
        out += [row(look, scale, result.effect, c) for c in rows]
    table = tag("div", *out, role="table", aria_label="Relative changes against control", class_="forest")
    band = f" The grey band is ±{figures.percent(abs(result.effect))}: smaller changes do not matter here." if result.effect else ""
    cut = " An arrow: it lies, or goes on, beyond the axis." if goes_on(result, scale) else ""
    note = f"Diamonds are best estimates, lines are where the true change is.{band}{cut}"
    return join([table, ruler(scale), tag("p", note, class_="note")])


def goes_on(result: Result, scale: Scale) -> bool:
    """Whether any interval is cut."""
    return any(r > scale.hi for c in result.comparisons if (r := reach(c.change)) is not None)
