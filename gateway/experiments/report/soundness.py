"""Whether the experiment can be trusted, what it can still find out, and what must not get worse. Pure."""

from __future__ import annotations

from gateway.experiments.report import figures
from gateway.experiments.report.marks import Looks, chip, exact, key
from gateway.experiments.report.markup import Markup, join, pc, sentence, tag
from routing.experiments.words import Comparison, Outlook, Ratio, Result, Verdict

GUARD: dict[Verdict, tuple[Verdict, str]] = {
    "worse": ("worse", "hurt"),
    "better": ("better", "safe, even better"),
    "same": ("better", "safe"),
    "unsure": ("unsure", "no harm shown"),
}


def table(heads: tuple[str, ...], body: list[Markup], label: str, class_: str = "scroll") -> Markup:
    """A table that scrolls sideways on its own where it is too wide."""
    head = tag("tr", *(tag("th", h, scope="col") for h in heads))
    inner = tag("table", tag("thead", head), tag("tbody", *body))
    return tag("div", inner, class_=class_, tabindex=0, role="region", aria_label=label)


def shares(ratio: Ratio, total: float) -> dict[str, float]:
    """How many units should have come to each arm, of `total`."""
    weight = sum(ratio.expected.values())
    return {arm: total * x / weight if weight > 0 else 0.0 for arm, x in ratio.expected.items()}


def sample_ratio(result: Result, look: Looks) -> Markup:
    """Whether units came to the arms as they should have, in a sentence and a table."""
    ratio = result.ratio
    if ratio is None or not sum(ratio.seen.values()):
        return tag("p", "No units have been counted yet, so there is nothing to check.", class_="empty")
    total = sum(ratio.seen.values())
    expected = shares(ratio, total)
    if ratio.bad:
        said = join(
            [
                tag("span", tag("b", "!", aria_hidden="true"), " broken", class_="chip bad"),
                " Units are not split as they should be. Something loses or moves units of one arm: errors before the assignment, a client "
                "that leaves, caching. No result above can be trusted until it is found.",
            ]
        )
    else:
        said = join([chip("better", "sound"), " Units came to the arms as they should; nothing points to a leak."])
    body = []
    for arm in sorted({*ratio.seen, *expected}, key=lambda a: (look.number(a), a)):
        seen, should = ratio.seen.get(arm, 0), expected.get(arm, 0.0)
        cells = (
            tag("td", figures.count(seen), tag("small", figures.percent(seen / total)), data_seen=seen),
            tag("td", figures.count(should), tag("small", figures.percent(should / total)), data_expected=ratio.expected.get(arm, 0.0)),
            tag("td", figures.change(seen / should - 1) if should else figures.NONE),
        )
        body.append(tag("tr", tag("th", key(look, arm), arm, scope="row"), *cells, data_arm=arm))
    heads = ("Arm", "Units seen", "Expected", "Off by")
    p = tag("p", f"p at any time: {figures.chance(ratio.p)} (broken below 0.001).", class_="note", data_p=ratio.p)
    crossed = f"{figures.count(result.crossed)} units were seen in more than one arm and count for none." if result.crossed else None
    return join([tag("p", said), table(heads, body, "Sample ratio"), p, tag("p", crossed, class_="note") if crossed else None])


def outlook(result: Result) -> Markup:
    """What can still be found out, and when."""
    look, out = result.outlook, []
    if look == Outlook():
        return tag("p", "Nothing can be foretold yet: that needs some units in each arm.", class_="empty")
    if look.needed:
        share, enough = min(1.0, result.units / look.needed), result.units >= look.needed
        bar = [tag("rect", class_=c, width=pc(100 * w), height=10, rx=5) for c, w in (("track", 1.0), ("bar", share))]
        units, needed = figures.count(result.units), figures.count(look.needed)
        said = f"{units} units are there, {needed} were needed" if enough else f"{units} of {needed} units needed: {figures.percent(share)}"
        out.append(tag("p", said, class_="said"))
        out.append(tag("svg", *bar, width="100%", height=10, role="img", aria_label=said, class_="progress"))
    items = [
        ("Units needed", figures.count(look.needed), f"to find a change of {figures.percent(result.effect)}", look.needed),
        ("Days to go", _days(look.days), "at the current rate", look.days),
        ("New units a day", figures.count(look.rate) if (look.rate or 0) >= 10 else figures.number(look.rate), "lately", look.rate),
        ("Could be found now", figures.percent(look.detectable), "the smallest change, with the units that are there", look.detectable),
    ]
    names = ("needed", "days", "rate", "detectable")
    tiles = [
        tag("div", tag("dt", label), tag("dd", tag("b", value), tag("small", small)), **{f"data_{n}": exactly})
        for n, (label, value, small, exactly) in zip(names, items, strict=True)
        if exactly is not None
    ]
    if result.mode == "bandit":
        note = "A bandit has no planned size: it moves units to the better arms while it learns, and keeps trying the others a little."
        out.append(tag("p", note, class_="note"))
    return join([*out, tag("dl", *tiles, class_="tiles")])


def _days(days: float | None) -> str:
    days = figures.sane(days)
    if days is None:
        return figures.NONE
    if days <= 0:
        return "0"
    if days < 1:
        return "less than 1"
    return f"over {figures.count(days // 365)} years" if days >= 730 else figures.count(days) if days >= 10 else figures.number(days, 2)


def guardrails(result: Result, look: Looks) -> Markup:
    """What must not get worse."""
    found = [c for c in result.comparisons if c.role == "guardrail"]
    if not found:
        return tag("p", "None is configured.", class_="empty")
    return tag("ul", *(_guardrail(look, c) for c in found), class_="guards")


def _guardrail(look: Looks, found: Comparison) -> Markup:
    verdict, word = GUARD[found.verdict]
    change = f"{figures.change(found.change.value)} ({figures.changes_of(found.change)})"
    return tag(
        "li",
        chip(verdict, word),
        tag("span", tag("b", look.metric(found.metric).label or found.metric), " in ", key(look, found.arm), found.arm),
        tag("span", change, class_="soft", data_guardrail=found.metric, data_arm=found.arm, **exact(found.change)),
        tag("small", sentence(found.words)) if found.words else None,
    )
