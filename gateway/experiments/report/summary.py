"""The top of the page: the verdict in a word and a sentence, its reasons, and a card for each arm. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from gateway.experiments.report import figures
from gateway.experiments.report.marks import SIGNS, Looks, exact, key, ordered
from gateway.experiments.report.markup import Markup, join, pc, sentence, tag
from routing.experiments.words import HOLDOUT, ArmResult, Estimate, Result, Status, Verdict

FIRST = 6  # reasons that are shown at once
STATUS: Mapping[Status, str] = {
    "planned": "Planned", "running": "Running", "stopped": "Stopped", "promoted": "Promoted", "rolled_back": "Rolled back",
}  # fmt: skip

SAID: Mapping[Verdict, str] = {
    "better": "Better found", "worse": "Worse", "same": "No difference that matters", "unsure": "Too early to say",
}  # fmt: skip


def conclusion(result: Result) -> tuple[str, str, str]:
    """(class, sign, word): what the result says so far, the most important thing first."""
    if result.ratio is not None and result.ratio.bad:
        return "bad", "!", "Do not trust this"
    if any(c.role == "guardrail" and c.verdict == "worse" for c in result.comparisons):
        return "worse", SIGNS["worse"], "Guardrail hurt"
    if result.winner is not None:
        return "better", SIGNS["better"], "Decided"
    if not result.units:
        return "unsure", "…", "No data yet"
    found = {c.verdict for c in result.comparisons if c.role == "primary"}
    if not found and len(result.arms) <= 1:
        return "unsure", "…", "Nothing to compare"
    if result.mode == "bandit" and result.status == "running":
        return "unsure", "…", "Learning"
    order: tuple[Verdict, ...] = ("better", "worse", "unsure", "same")
    verdict: Verdict = next((v for v in order if v in found), "unsure")
    return verdict, SIGNS[verdict], SAID[verdict]


def reasons(result: Result) -> list[Markup]:
    """Why: the first ones at once, the others where one asks for them."""
    items = [tag("li", sentence(w)) for w in result.words]
    first, more = items[:FIRST], items[FIRST:]
    out = [tag("ul", *first, class_="reasons")] if first else []
    if more:
        word = f"{len(more)} more reasons" if len(more) > 1 else "1 more reason"
        out.append(tag("details", tag("summary", word), tag("ul", *more, class_="reasons")))
    return out


def headline(result: Result) -> Markup:
    """What it is, the state, the verdict in one sentence, the reasons."""
    kind, sign, word = conclusion(result)
    ended = "" if result.status in ("running", "planned") else " ended"
    chips = tag(
        "p",
        tag("span", STATUS[result.status], class_=f"state{ended}", data_status=result.status),
        tag("span", tag("b", sign, aria_hidden="true"), " ", word, class_=f"chip large {kind}"),
        tag("span", "bandit", class_="state") if result.mode == "bandit" else None,
        class_="chips",
    )
    facts = f"route {result.route} · {figures.count(result.units)} units · {figures.count(result.requests)} requests"
    return tag(
        "header",
        tag("p", "Experiment ", tag("b", result.name), f" · {facts}", class_="crumb"),
        chips,
        tag("h1", sentence(result.headline or "There is nothing to say yet.")),
        *reasons(result),
        class_=f"top {kind}",
    )


def share_bar(share: float, style: str) -> Markup:
    """A share of 1 as a bar."""
    held = 100 * min(1.0, max(0.0, figures.sane(share) or 0.0))
    track, bar = (tag("rect", class_=c, width=pc(w), height=6, rx=3) for c, w in (("track", 100.0), ("bar", held)))
    return tag("svg", track, bar, class_=f"share {style}", width="100%", height=6, aria_hidden="true")


def _figure(label: str, value: str, small: str = "", **data: object) -> Markup:
    """One figure of a card."""
    return tag("div", tag("dt", label), tag("dd", tag("b", value), tag("small", small) if small else None, **data))


def _gauge(label: str, share: float, style: str, **data: object) -> Markup:
    """A share of 1 in figures and as a bar."""
    said = tag("p", tag("span", label), tag("b", figures.percent(share)), class_="gauge", **data)
    return join([said, share_bar(share, style)])


def _own(result: Result, look: Looks, arm: ArmResult) -> Markup:
    """The primary metric of one arm, large."""
    metric, estimate = look.metric(result.primary), arm.metrics.get(result.primary, Estimate())
    value = figures.value_of(metric, estimate.value)
    return tag(
        "p",
        tag("strong", value),
        tag("span", metric.label or result.primary),
        tag("small", figures.interval_of(metric, estimate) if value != figures.NONE else "not measured yet"),
        class_="own",
        data_arm=arm.name,
        data_metric=result.primary,
        **exact(estimate),
    )


def _roles(result: Result, arm: ArmResult) -> list[Markup]:
    said = [("control", "control")] if arm.control and arm.name != "control" else []
    said += [("holdout", "left alone")] if arm.name == HOLDOUT else []
    said += [("winner", f"{SIGNS['better']} winner")] if arm.name == result.winner else []
    return [tag("span", text, class_=f"role {kind}") for kind, text in said]


def others(result: Result, look: Looks, arm: ArmResult) -> Markup | None:
    """The other metrics of an arm."""
    rows = [
        tag(
            "tr",
            tag("th", look.metric(name).label or name, scope="row"),
            tag("td", figures.value_of(look.metric(name), e.value), data_arm=arm.name, data_metric=name, **exact(e)),
            tag("td", figures.interval_of(look.metric(name), e), class_="soft"),
        )
        for name, e in arm.metrics.items()
        if name != result.primary
    ]
    if not rows:
        return None
    heads = tag("thead", tag("tr", *(tag("th", h, scope="col") for h in ("Metric", "Value", "Interval"))), class_="hidden")
    return tag(
        "details",
        tag("summary", f"{len(rows)} more metrics" if len(rows) > 1 else "1 more metric"),
        tag("table", heads, tag("tbody", *rows)),
    )


def card(result: Result, look: Looks, arm: ArmResult) -> Markup:
    """One arm."""
    facts = tag(
        "dl",
        _figure("units", figures.count(arm.units), "", data_units=arm.units),
        _figure("requests", figures.count(arm.requests), "", data_requests=arm.requests),
    )
    style = look.style(arm.name)
    return tag(
        "article",
        tag("h3", key(look, arm.name), tag("span", arm.name), *_roles(result, arm)),
        _own(result, look, arm),
        facts,
        _gauge("share now", arm.weight, style, data_weight=arm.weight),
        _gauge("chance to be the best", arm.best, style, data_best=arm.best) if arm.best is not None else None,
        others(result, look, arm),
        class_=f"card arm {style}",
        data_arm=arm.name,
    )


def cards(result: Result, look: Looks) -> Markup:
    """All arms, control first."""
    if not result.arms:
        return tag("p", "This experiment has no arms yet.", class_="empty")
    return tag("div", *(card(result, look, a) for a in ordered(result.arms)), class_="cards")
