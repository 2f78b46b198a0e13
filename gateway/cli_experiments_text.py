"""Experiments as text for a terminal. Pure."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

from gateway.client import plain
from gateway.experiments.api import ExperimentView
from routing.experiments.words import Comparison, Estimate, Metric, Outlook, Ratio, Result, Shadowed

_ACTS = 5  # of the audit trail
_SIGNS = {"better": "better", "worse": "WORSE", "same": "same", "unsure": "unsure"}


def grid(rows: Sequence[Sequence[str]], right: Iterable[int] = ()) -> list[str]:
    """Lines of a table whose first row is its head; columns in `right` are aligned to the right."""
    if not rows:
        return []
    to_right = frozenset(right)
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(c.rjust(w) if i in to_right else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))).rstrip()
        for row in rows
    ]


def listing(views: Sequence[ExperimentView]) -> str:
    """`pointsman experiments ls`."""
    if not views:
        return "no experiments are configured\n"
    rows = [("NAME", "ROUTE", "STATUS", "USERS", "REQUESTS", "")]
    for one in views:
        said = one.headline if one.trusted else f"do not trust this yet: {one.headline}"
        rows.append((one.name, one.route, _status(one.status), f"{one.units:,}", f"{one.requests:,}", said))
    return _text(grid(rows, (3, 4)))


def result(found: Result, now: float) -> str:
    """`pointsman experiments show NAME`. `now`: unix seconds."""
    lines = [f"{found.name}: {found.headline}", *(f"  {words}" for words in found.words), "", _facts(found, now), ""]
    lines += [*_arms(found), ""]
    lines += _changes(found)
    if found.ratio is not None:
        lines += [_split(found.ratio)]
    lines += _outlook(found.outlook, found)
    lines += _shadows(found.shadows)
    if found.crossed or found.left:
        lines.append(f"left out: {found.crossed:,} users seen in more than one arm; {found.left:,} requests that ended early or were wrong")
    if found.feedback:
        lines.append(f"feedback: {found.feedback:,}" + (f", last comment: {found.comments[0][:200]}" if found.comments else ""))
    if found.audit:
        lines += ["", "what was done:"]
        lines += [
            f"  {stamp(act.unix)}  {act.actor}: {act.action}{', ' + act.detail if act.detail else ''}" for act in found.audit[-_ACTS:]
        ]
    return _text(lines)


def _facts(found: Result, now: float) -> str:
    parts = [f"route {found.route}", _status(found.status)]
    if found.winner is not None:
        parts.append(f"winner {found.winner}")
    if found.started is not None:
        parts.append(f"since {stamp(found.started)}")
    parts += [f"{found.units:,} users", f"{found.requests:,} requests", f"as of {span(max(0.0, now - found.unix))} ago"]
    return ", ".join(parts)


def _arms(found: Result) -> list[str]:
    """Each arm with its share and its own value of the primary metric."""
    metric = _metric(found, found.primary)
    best = any(arm.best is not None for arm in found.arms)
    rows = [["ARM", "SHARE", "USERS", "REQUESTS", (metric.label or metric.name).upper(), *(["BEST"] if best else [])]]
    for arm in found.arms:
        name = f"{arm.name} (control)" if arm.control else arm.name
        row = [name, f"{arm.weight:.1%}", f"{arm.units:,}", f"{arm.requests:,}", _between(arm.metrics.get(found.primary), metric)]
        rows.append(row + ([f"{arm.best:.0%}" if arm.best is not None else "-"] if best else []))
    return grid(rows, (1, 2, 3, 5))


def _changes(found: Result) -> list[str]:
    """Every comparison with control, the primary metric first."""
    if not found.comparisons:
        return []
    rows = [["ARM", "METRIC", "", "CHANGE", "BETWEEN", "VERDICT"]]
    order = {"primary": 0, "guardrail": 1, "secondary": 2}
    for one in sorted(found.comparisons, key=lambda c: order[c.role]):
        rows.append([one.arm, _metric(found, one.metric).label or one.metric, one.role, *_change(one), _SIGNS[one.verdict]])
    return [*grid(rows, (3,)), ""]


def _change(one: Comparison) -> tuple[str, str]:
    change = one.change
    middle = "-" if change.value is None else f"{change.value:+.1%}"
    between = "-" if change.lo is None or change.hi is None else f"{change.lo:+.1%} and {change.hi:+.1%}"
    return middle, between


def _split(ratio: Ratio) -> str:
    if not ratio.bad:
        return f"users are split as they should be (p = {ratio.p:.2g})"
    total = sum(ratio.seen.values()) or 1
    parts = [f"{arm} {seen / total:.1%} instead of {ratio.expected.get(arm, 0.0) / _sum(ratio):.1%}" for arm, seen in ratio.seen.items()]
    return f"USERS ARE NOT SPLIT AS THEY SHOULD BE (p = {ratio.p:.1g}): {'; '.join(parts)}. Do not trust the figures."


def _sum(ratio: Ratio) -> float:
    return sum(ratio.expected.values()) or 1.0


def _outlook(outlook: Outlook, found: Result) -> list[str]:
    out = []
    if outlook.needed is not None:
        need = f"about {rounded(outlook.needed)} users are needed to see a change of {found.effect:.1%}"
        if outlook.days:
            need += f"; at {rounded(outlook.rate or 0.0)} new ones a day that takes {days(outlook.days)} more"
        out.append(need)
    if outlook.detectable is not None:
        out.append(f"with those that there are, a change of {outlook.detectable:.1%} could be seen")
    return out


def _shadows(shadows: Sequence[Shadowed]) -> list[str]:
    if not shadows:
        return []
    rows = [["SHADOW", "PAIRS", "LIKE THE USER'S", "SAME TOOLS", "PREFERRED", "TIME", "COST", "FAILED"]]
    for one in shadows:
        time_ = "-" if one.latency.value is None else f"x {one.latency.value:.2f}"
        cost = "-" if one.cost is None else f"${one.cost:,.2f}"
        row = [
            one.arm,
            f"{one.pairs:,}",
            _share(one.similarity),
            _share(one.same_tools),
            _share(one.preferred),
            time_,
            cost,
            f"{one.failed:,}",
        ]
        rows.append(row)
    return ["", *grid(rows, range(1, 8))]


def _share(one: Estimate) -> str:
    return "-" if one.value is None else f"{one.value:.0%}"


def _metric(found: Result, name: str) -> Metric:
    return found.metrics[name] if name in found.metrics else Metric(name, "mean", "higher", name)


def _between(one: Estimate | None, metric: Metric) -> str:
    """A value with its interval: `312 ms (298 to 330 ms)`."""
    if one is None or one.value is None:
        return "-"
    middle = value(one.value, metric)
    return middle if one.lo is None or one.hi is None else f"{middle} ({value(one.lo, metric)} to {value(one.hi, metric)})"


def value(number: float, metric: Metric) -> str:
    """A metric's value with its unit, rounded for people."""
    if metric.kind == "boolean":
        return f"{number:.2%}" if 0 < number < 0.1 else f"{number:.1%}"
    if metric.unit == "s":
        return f"{number * 1000:.3g} ms" if abs(number) < 1 else f"{number:.3g} s"
    if metric.unit == "$":
        return f"${number:.3g}" if abs(number) < 1 else f"${number:,.2f}"
    short = f"{number:,.0f}" if abs(number) >= 1000 else f"{number:.3g}"
    return f"{short} {metric.unit}".rstrip()


def rounded(number: float) -> str:
    """A count to three digits: nobody plans closer."""
    if number < 1000:
        return f"{number:.3g}"
    step = 10 ** (len(str(int(number))) - 3)
    return f"{round(number / step) * step:,}"


def days(number: float) -> str:
    """A span of days for people."""
    if number < 1:
        return f"{max(1, round(number * 24))} hours" if number > 1 / 24 else "less than an hour"
    return f"{number:.1f} days" if number < 10 else f"{rounded(round(number))} days"


def span(seconds: float) -> str:
    """Seconds for people."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else days(seconds / 86400)


def stamp(unix: float) -> str:
    """A time in this machine's own zone."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(unix))


def _status(status: str) -> str:
    return status.replace("_", " ")


def _text(lines: Iterable[str]) -> str:
    out: list[str] = []
    for line in lines:
        if line or (out and out[-1]):
            out.append(plain(" ".join(line.splitlines())))
    return "".join(f"{line}\n" for line in out)
