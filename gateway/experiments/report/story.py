"""Shadows, comments and what was done: the parts of the page that tell rather than measure. Pure."""

from __future__ import annotations

from gateway.experiments.report import figures
from gateway.experiments.report.marks import Looks, exact, key
from gateway.experiments.report.markup import Markup, join, pc, tag
from gateway.experiments.report.scale import Scale
from gateway.experiments.report.soundness import table
from routing.experiments.words import Estimate, Result, Shadowed

FIRST = 8  # comments that are shown at once
UNIT = Scale(0.0, 1.0)
SHARES = (
    ("similarity", "Similar text", "0: nothing in common, 1: equal"),
    ("same_tools", "Same tool calls", "share of answers with tool calls"),
    ("valid", "Fits its schema", "share of answers that had to"),
    ("preferred", "Preferred by the judge", "over the user's answer; 50 % is a draw"),
)
RATIOS = (("latency", "Time"), ("output", "Output tokens"))


def _lane(estimate: Estimate) -> Markup:
    """A share of 1 with its interval, drawn."""
    value, lo, hi = (figures.sane(v) for v in (estimate.value, estimate.lo, estimate.hi))
    out = [tag("line", class_="grid", x1=0, x2="100%", y1=8, y2=8)]
    if lo is not None and hi is not None:
        out.append(tag("line", class_="reach", x1=pc(UNIT.held(lo)), x2=pc(UNIT.held(hi)), y1=8, y2=8))
    if value is not None:
        out.append(tag("circle", class_="estimate", cx=pc(UNIT.held(value)), cy=8, r=5))
    return tag("svg", *out, width="100%", height=16, class_="lane", aria_hidden="true")


def _rows(found: Shadowed) -> list[Markup]:
    out = []
    for name, label, small in SHARES:
        e: Estimate = getattr(found, name)
        text = f"{e.value:.2f}" if name == "similarity" and figures.sane(e.value) is not None else figures.percent(e.value)
        ends = [f"{v:.2f}" if name == "similarity" and figures.sane(v) is not None else figures.percent(v) for v in (e.lo, e.hi)]
        out.append(_row(found, name, label, small, text, figures.between(ends[0], ends[1]), e, _lane(e)))
    for name, label in RATIOS:
        e = getattr(found, name)
        text = f"×{figures.number(e.value)}" if figures.sane(e.value) is not None else figures.NONE
        ends = [f"×{figures.number(v)}" if figures.sane(v) is not None else figures.NONE for v in (e.lo, e.hi)]
        out.append(_row(found, name, label, "of the user's own answer", text, figures.between(ends[0], ends[1]), e, None))
    return out


def _row(found: Shadowed, name: str, label: str, small: str, text: str, ends: str, e: Estimate, lane: Markup | None) -> Markup:
    known = text != figures.NONE
    return tag(
        "div",
        tag("dt", label, tag("small", small)),
        tag(
            "dd", tag("b", text), tag("small", ends) if known else tag("small", "does not apply, or not yet known"), lane if known else None
        ),
        data_shadow=found.arm,
        data_metric=name,
        **exact(e),
    )


def shadow(look: Looks, found: Shadowed) -> Markup:
    """One candidate that answers beside the users' own arm."""
    left = "; ".join(f"{reason}: {figures.count(n)}" for reason, n in sorted(found.left_out.items(), key=lambda x: (-x[1], x[0])))
    facts = [f"{figures.count(found.pairs)} pairs compared", f"{figures.count(found.failed)} failed"]
    facts += [f"{figures.dollars(found.cost)} spent"] if found.cost is not None else []
    return tag(
        "article",
        tag("h3", key(look, found.arm), tag("span", found.arm)),
        tag("p", " · ".join(facts), class_="note", data_pairs=found.pairs, data_failed=found.failed, data_cost=found.cost),
        tag("dl", *_rows(found), class_="lanes"),
        tag("p", f"Left out: {left}.", class_="note") if left else None,
        class_="card",
    )


def shadows(result: Result, look: Looks) -> Markup:
    """All candidates that were mirrored to."""
    note = tag("p", "Requests were sent to these as well, after the user's own answer; users never saw what came back.", class_="note")
    return join([note, tag("div", *(shadow(look, s) for s in result.shadows), class_="cards wide")])


def comments(result: Result) -> Markup:
    """What users wrote, the last ones."""
    if not result.comments:
        return tag("p", "Nobody has left a comment.", class_="empty")
    quotes = [tag("li", tag("blockquote", text)) for text in result.comments]
    more = quotes[FIRST:]
    first = tag("ul", *quotes[:FIRST], class_="comments")
    word = f"{len(more)} more comments" if len(more) > 1 else "1 more comment"
    return join([first, tag("details", tag("summary", word), tag("ul", *more, class_="comments")) if more else None])


def audit(result: Result) -> Markup:
    """What was done to the experiment, in the order of time."""
    if not result.audit:
        return tag("p", "Nothing has been done to this experiment yet.", class_="empty")
    body = [
        tag(
            "tr",
            tag("th", tag("time", figures.moment(a.unix), datetime=figures.iso(a.unix)), scope="row"),
            tag("td", str(i)),
            tag("td", a.actor),
            tag("td", a.action),
            tag("td", a.detail, class_="free"),
        )
        for i, a in enumerate(sorted(result.audit, key=lambda a: a.unix), 1)
    ]
    return table(("When", "No.", "Who", "What", "Why"), body, "Audit trail", "scroll texts")
