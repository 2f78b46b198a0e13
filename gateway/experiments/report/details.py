"""All comparisons with all their figures, and where the page comes from. Pure."""

from __future__ import annotations

from gateway.experiments.report import figures
from gateway.experiments.report.marks import Looks, chip, exact, key
from gateway.experiments.report.markup import Markup, join, tag
from gateway.experiments.report.soundness import table
from routing.experiments.words import Result

HEADS = ("Arm", "Metric", "Role", "Change", "Interval", "p", "α", "Less variance by history", "Verdict", "In words")


def comparisons(result: Result, look: Looks) -> Markup:
    """Every comparison as a row."""
    if not result.comparisons:
        return tag("p", "There are no comparisons yet.", class_="empty")
    body = [
        tag(
            "tr",
            tag("th", key(look, c.arm), c.arm, scope="row"),
            tag("td", look.metric(c.metric).label or c.metric),
            tag("td", c.role),
            tag("td", figures.change(c.change.value)),
            tag("td", figures.changes_of(c.change)),
            tag("td", figures.chance(c.p)),
            tag("td", figures.chance(c.alpha)),
            tag("td", figures.percent(c.cuped) if c.cuped else figures.NONE),
            tag("td", chip(c.verdict)),
            tag("td", c.words, class_="free"),
            data_arm=c.arm,
            data_metric=c.metric,
            data_p="" if c.p is None else c.p,
            data_alpha=c.alpha,
            data_cuped=c.cuped,
            data_verdict=c.verdict,
            **exact(c.change),
        )
        for c in result.comparisons
    ]
    return table(HEADS, body, "All comparisons", "scroll texts")


def counted(result: Result) -> str:
    """What counts, and what does not."""
    units, requests, feedback = map(figures.count, (result.units, result.requests, result.feedback))
    text = f"{units} units with {requests} requests and {feedback} pieces of feedback"
    left = f" {figures.count(result.left)} requests count for nothing: their client left, or they were wrong." if result.left else ""
    return f"{text}.{left}"


def provenance(result: Result) -> Markup:
    """When and how this came about, and how to read it."""
    started = f", started {figures.moment(result.started)}" if result.started is not None else ""
    made = f"Made {figures.moment(result.unix)}{started}. {counted(result)}"
    sure = figures.percent(1 - result.alpha)
    method = (
        "Units, not requests, are what is compared: a unit is who was assigned to an arm, and its requests are alike. "
        f"Intervals are confidence sequences: with {sure} probability all those of the primary metric hold at all times together, "
        "so that one may look every day and stop at any time; α is split over the arms."
    )
    reading = (
        "Reading an interval: −15 % to −8 % means that the true change lies there, as far as the data can tell; one that holds 0 leaves "
        "open which arm is better, and gets shorter with more units. Secondary metrics are for ideas, not for proof."
    )
    return join(
        [
            tag("p", made, data_unix=result.unix, data_alpha=result.alpha, data_effect=result.effect),
            tag("p", method),
            tag("p", reading),
            tag("p", "Plots can be read value by value: with the pointer, by touch, or with the arrow keys."),
        ]
    )
