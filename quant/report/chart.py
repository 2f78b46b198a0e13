"""A plot: what a model costs (bytes, or the time of a token) against how far it is from its source. Pure.

Positions along x are per cents and those along y pixels, without a view box: texts keep their size on a phone. Every point carries a
number, the same one as in the table; its name stands beside it where there is room.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from quant.report.markup import Markup, join, tag

HEIGHT, FOOT = 320, 26  # px
NARROW = 270.0  # px: how wide a plot is at least, on a phone; names have room there or are left out
RADIUS = 11.0  # px of a point
_LETTER, _LINE = 7.4, 15.0  # px of a name's letters and height


@dataclass(frozen=True, slots=True)
class Point:
    """One model. `x` in the plot's unit, `kld` with its interval in nats; `said`: for the pointer and for who cannot see."""

    number: int
    name: str
    x: float
    kld: float
    low: float | None
    high: float | None
    said: str
    kind: str = ""  # "best", "source" or ""


@dataclass(frozen=True, slots=True)
class Axis:
    """A logarithmic axis from `lo` to `hi`, both above 0. `at`: where a value lies, 0 to 1, at the edge where it lies outside."""

    lo: float
    hi: float

    def at(self, value: float) -> float:
        if value <= self.lo:
            return 0.0
        return min(1.0, math.log(value / self.lo) / math.log(self.hi / self.lo))

    def ticks(self, wanted: int) -> list[float]:
        """Round numbers on the axis, at most about `wanted`."""
        for factors in ((1.0, 1.5, 2.0, 3.0, 5.0, 7.0), (1.0, 2.0, 5.0), (1.0, 3.0), (1.0,)):
            powers = range(math.floor(math.log10(self.lo)), math.ceil(math.log10(self.hi)) + 1)
            found = [factor * 10.0**power for power in powers for factor in factors if self.lo <= factor * 10.0**power <= self.hi]
            if len(found) <= wanted:
                return found
        return found[:: math.ceil(len(found) / wanted)]


def axis(values: Sequence[float], room: float) -> Axis:
    """Around all values above 0; `room`: what is left free at both ends, as a share."""
    known = [value for value in values if value > 0 and math.isfinite(value)] or [1.0]
    lo, hi = min(known), max(known)
    reach = max(math.log(hi / lo) * room, 0.25)
    return Axis(lo * math.exp(-reach), hi * math.exp(reach))


def plot(points: Sequence[Point], good: float, x_text: Callable[[float], str], x_title: str, unit: float = 1.0) -> Markup:
    """The plot. `good`: the KLD below which models hardly differ from their source; that part is tinted. Up is better. `unit`: of which
    round numbers are shown along x."""
    x = axis([point.x / unit for point in points], 0.1)
    y = axis([good, *(value for point in points for value in (point.kld, point.low or 0.0, point.high or 0.0) if value >= 1e-5)], 0.08)

    def top(kld: float) -> float:
        return round(RADIUS + 5 + y.at(kld) * (HEIGHT - 2 * RADIUS - 10), 1)

    ticks = [value for value in y.ticks(7)]
    marks = [
        tag("rect", class_="good", x=0, y=0, width="100%", height=top(good)),
        *(_across(top(value)) for value in ticks),
        *(_along(x.at(value) * 100, x_text(value * unit)) for value in x.ticks(4)),
    ]
    names = _names([(x.at(point.x / unit), top(point.kld), point) for point in points])
    for point in points:
        marks.append(_mark(point, x.at(point.x / unit) * 100, top(point.kld), [top(v) for v in (point.low, point.high) if v is not None]))
    sides = [tag("text", _kld(value), class_="axis", x="100%", y=max(10.0, top(value) + 4), text_anchor="end") for value in ticks]
    drawing = tag("svg", *marks, *names, width="100%", height=HEIGHT + FOOT, focusable="false")
    said = f"KLD against {x_title}. " + "; ".join(point.said for point in points)
    return tag(
        "div",
        tag("p", "↑ closer to the source (KLD, nats a token)", class_="axes"),
        tag(
            "div", tag("svg", *sides, class_="sides", width="100%", height=HEIGHT + FOOT, aria_hidden="true"),
            tag("div", drawing, class_="room"), class_="plot", role="img", aria_label=said,
        ),
        tag("p", x_title, class_="axes right"),
        class_="panel",
    )  # fmt: skip


def _kld(value: float) -> str:
    return f"{value:.5f}".rstrip("0").rstrip(".") if value < 1 else f"{value:g}"


def _across(y: float) -> Markup:
    return tag("line", class_="grid", x1=0, x2="100%", y1=y, y2=y)


def _along(x: float, text: str) -> Markup:
    anchor = "start" if x < 6 else "end" if x > 94 else "middle"
    return join(
        tag("line", class_="grid", x1=f"{x:.2f}%", x2=f"{x:.2f}%", y1=0, y2=HEIGHT),
        tag("text", text, class_="axis", x=f"{x:.2f}%", y=HEIGHT + 18, text_anchor=anchor),
    )


def _mark(point: Point, x: float, y: float, ends: Sequence[float]) -> Markup:
    place = f"{x:.2f}%"
    bar = tag("line", class_="reach", x1=place, x2=place, y1=ends[0], y2=ends[1]) if len(ends) == 2 and ends[0] != ends[1] else None
    ring = tag("circle", class_="ring", cx=place, cy=y, r=RADIUS + 4) if point.kind == "best" else None
    dot = tag("circle", class_="dot", cx=place, cy=y, r=RADIUS)
    number = tag("text", str(point.number), class_="number", x=place, y=y + 4, text_anchor="middle")
    return tag("g", tag("title", point.said), bar, ring, dot, number, class_=f"point {point.kind}".strip())


def _names(placed: Sequence[tuple[float, float, Point]]) -> list[Markup]:
    """The names that find room beside their points, first that of the recommended one. Widths are those of a phone."""
    taken = [(x * NARROW - RADIUS, y - RADIUS, x * NARROW + RADIUS, y + RADIUS) for x, y, _ in placed]
    made = []
    for x, y, point in sorted(placed, key=lambda each: each[2].kind != "best"):
        width = len(point.name) * _LETTER
        for anchor, across, down in (("start", 17.0, 4.0), ("end", -17.0, 4.0), ("middle", 0.0, -18.0), ("middle", 0.0, 29.0)):
            left = x * NARROW + across - {"start": 0.0, "middle": width / 2, "end": width}[anchor]
            box = (left, y + down - 11, left + width, y + down + _LINE - 11)
            inside = box[0] >= 0 and box[2] <= NARROW and box[1] >= 0 and box[3] <= HEIGHT
            if inside and not any(_touch(box, other) for other in taken):
                taken.append(box)
                made.append(tag("text", point.name, class_="name", x=f"{x * 100:.2f}%", dx=across, y=y + down, text_anchor=anchor))
                break
    return made


def _touch(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
