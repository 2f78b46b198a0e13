"""What each arm costs against how good it is. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gateway.experiments.report import figures
from gateway.experiments.report.frame import Frame, apart, cross
from gateway.experiments.report.marks import Looks, legend, ordered, shape
from gateway.experiments.report.markup import Markup, join, pc, tag
from gateway.experiments.report.scale import span
from routing.experiments.words import Estimate, Metric, Result

HEIGHT = 240
COST = "cost"


@dataclass(frozen=True, slots=True)
class Spot:
    """One arm: what it costs and how good it is; both are known."""

    arm: str
    cost: Estimate
    quality: Estimate

    def place(self) -> tuple[float, float]:
        """(dollars, quality)."""
        return self.cost.value or 0.0, self.quality.value or 0.0


def qualities(result: Result, look: Looks) -> list[str]:
    """What stands for quality: the primary metric, and the first other one of which more is better; never the cost itself."""
    measured = list(dict.fromkeys(m for a in result.arms for m in a.metrics))
    others = [m for m in measured if m not in (COST, result.primary) and look.metric(m).better == "higher" and m != "output_tokens"]
    return [m for m in (result.primary, *others[:1]) if m != COST and m in measured]


def spots(result: Result, quality: str) -> list[Spot]:
    """The arms of which both are known."""
    out = []
    for arm in ordered(result.arms):
        cost, good = arm.metrics.get(COST, Estimate()), arm.metrics.get(quality, Estimate())
        if figures.sane(cost.value) is not None and figures.sane(good.value) is not None:
            out.append(Spot(arm.name, cost, good))
    return out


def frontier(found: Sequence[Spot], lower: bool) -> list[Spot]:
    """The arms that no other one beats in both, by cost ascending. `lower`: less quality is better."""
    sign = -1.0 if lower else 1.0

    def beaten(spot: Spot) -> bool:
        cost, good = spot.place()
        for other in found:
            c, g = other.place()
            if c <= cost and sign * g >= sign * good and (c, g) != (cost, good):
                return True
        return False

    return sorted((s for s in found if not beaten(s)), key=Spot.place)


def ends(estimate: Estimate) -> tuple[float, float] | None:
    """Its interval, where both ends are known."""
    lo, hi = figures.sane(estimate.lo), figures.sane(estimate.hi)
    return None if lo is None or hi is None else (lo, hi)


def short(name: str) -> str:
    """A name that has room in a plot."""
    return name if len(name) <= 22 else name[:21] + "…"


def sides(frame: Frame, found: Sequence[Spot]) -> list[tuple[bool, bool]]:
    """At which side of its mark each name stands (right, below), so that no two cover each other where that can be had.

    Reckons with a plot of 260 px and letters of 8 px: a wider one has more room.
    """
    taken: list[tuple[float, float, float]] = []
    out = []
    for spot in found:
        x, y = spot.place()
        left, top, wide = 2.6 * frame.x.held(x), frame.held(y), 8.0 * len(short(spot.arm)) + 12
        inward = frame.x.held(x) <= 55
        ways = [(inward, False), (inward, True), (not inward, False), (not inward, True)]
        rooms = [((left if right else left - wide), top + (16 if down else -14), wide) for right, down in ways]
        free = [not any(a < c + w and c < a + b and abs(t - u) < 16 for c, u, w in taken) for a, t, b in rooms]
        best = free.index(True) if any(free) else 0
        taken.append(rooms[best])
        out.append(ways[best])
    return out


def drawn(frame: Frame, look: Looks, spot: Spot, metric: Metric, side: tuple[bool, bool]) -> list[Markup]:
    """One arm: error bars, mark, and its name at `side` (to the right or the left, below or above)."""
    x, y = spot.place()
    left, top = frame.x.held(x), frame.held(y)
    said = (
        f"{spot.arm}: {figures.dollars(x)} ({figures.between(figures.dollars(spot.cost.lo), figures.dollars(spot.cost.hi))}) a request; "
        f"{metric.label} {figures.value_of(metric, y)} ({figures.interval_of(metric, spot.quality)})"
    )
    right, down = side
    anchor, across = ("start", 10) if right else ("end", -10)
    text = tag("text", short(spot.arm), class_="name", x=0, y=0, dx=across, dy=20 if down else -9, text_anchor=anchor)
    return [
        *cross(frame, x, y, ends(spot.cost), ends(spot.quality), f"reach {look.style(spot.arm)}"),
        shape(look, spot.arm, left, round(top, 2), said),
        tag("svg", text, x=pc(left), y=round(top, 2), overflow="visible", width=1, height=1),
    ]


def overlap(estimates: Sequence[Estimate]) -> bool:
    """Whether one value could be that of all."""
    known = [found for e in estimates if (found := ends(e)) is not None]
    return len(known) == len(estimates) and max(lo for lo, _ in known) <= min(hi for _, hi in known)


def conclusion(best: Sequence[Spot], found: Sequence[Spot]) -> str:
    """What the plot says, by the best estimates."""
    if len(found) < 2:
        return "Only one arm can be drawn yet."
    beaten = [s.arm for s in found if s not in best]
    if len(best) == 1:
        return f"By the best estimates {best[0].arm} is both the cheapest and the best."
    text = "By the best estimates more quality costs more here: " + ", ".join(s.arm for s in best) + " from the cheapest up."
    alike = [word for word, es in (("quality", [s.quality for s in best]), ("cost", [s.cost for s in best])) if overlap(es)]
    if alike:
        text += f" Their intervals overlap, though: there may be no difference in {' or in '.join(alike)}."
    return text + (f" These cost no less and give no more: {', '.join(beaten)}." if beaten else "")


def plot(result: Result, look: Looks, quality: str) -> Markup | None:
    """Cost against one metric. None: fewer than one arm can be drawn."""
    found, metric = spots(result, quality), look.metric(quality)
    lower = metric.better == "lower"
    x = span([v for s in found for v in (s.cost.value, s.cost.lo, s.cost.hi)], margin=0.1)
    y = span([v for s in found for v in (s.quality.value, s.quality.lo, s.quality.hi)], margin=0.12, flip=lower)
    if x is None or y is None:
        return None
    frame = Frame(
        x, y, HEIGHT, lambda v: figures.short(figures.dollars(v)), lambda v: figures.short(figures.value_of(metric, v)), apart(x, least=20)
    )
    best = frontier(found, lower)
    label = metric.label or quality
    path = [frame.inner(frame.line([s.place() for s in best], "front"))] if len(best) > 1 else []
    marks = [m for s, side in zip(found, sides(frame, found), strict=True) for m in drawn(frame, look, s, metric, side)]
    said = f"Cost of a request against {label}. " + "; ".join(
        f"{s.arm}: {figures.dollars(s.cost.value)}, {figures.value_of(metric, s.quality.value)}" for s in found
    )
    up = tag("p", f"↑ better: {label}", class_="axes")
    left = tag("p", "← cheaper: cost of a request", class_="axes right")
    end = tag("p", conclusion(best, found), class_="note")
    return tag("div", up, frame.box(said, *path, *marks), left, legend(look, [s.arm for s in found]), end, class_="panel")


def cost_quality(result: Result, look: Looks) -> Markup:
    """All its plots; a sentence where no cost is known."""
    made = [p for m in qualities(result, look) if (p := plot(result, look, m)) is not None]
    if not made:
        return tag(
            "p", "No cost is known of these arms (a price a token on the targets gives one), or nothing to set against it.", class_="empty"
        )
    return join([tag("div", *made, class_="panels" if len(made) > 1 else "panels one")])
