"""What plots with two axes have in common: grid, ticks, lines and bands, and the box around them. Pure.

Positions along x are per cents and there is no view box, so texts keep their size on a phone. Lines and bands stand in an inner drawing
that is stretched, whose strokes are not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gateway.experiments.report.markup import Child, Markup, at, pc, tag
from gateway.experiments.report.scale import Scale

FOOT = 24  # px below a plot for the texts of its axis


@dataclass(frozen=True, slots=True)
class Frame:
    """A plot's room: its axes and its height in px. `x_text`, `y_text`: how a value of each is written."""

    x: Scale
    y: Scale
    height: float
    x_text: Callable[[float], str]
    y_text: Callable[[float], str]
    x_ticks: Sequence[float] | None = None
    y_ticks: Sequence[float] | None = None

    def top(self, value: float) -> float:
        """px from the top of a value of y, where greater ones are higher unless the axis is flipped."""
        return self.height * (1 - self.y.at(value) / 100)

    def held(self, value: float) -> float:
        """Like `top`, at the edge where it lies outside."""
        return self.height * (1 - self.y.held(value) / 100)

    def grid(self) -> list[Markup]:
        """Lines at the ticks of y, and texts below at those of x."""
        out = [
            tag("line", class_="grid", x1=0, x2="100%", y1=round(self.top(v), 2), y2=round(self.top(v), 2))
            for v in (self.y.ticks() if self.y_ticks is None else self.y_ticks)
        ]
        for i, value in enumerate(apart(self.x) if self.x_ticks is None else self.x_ticks):
            x = self.x.at(value)
            anchor = "start" if x < 5 else "end" if x > 95 else "middle"
            out.append(tag("line", class_="grid", x1=pc(x), x2=pc(x), y1=0, y2=self.height))
            kind = "axis" if i % 2 == 0 else "axis spare"
            out.append(tag("text", self.x_text(value), x=pc(x), y=self.height + 17, text_anchor=anchor, class_=kind))
        return out

    def sides(self) -> Markup:
        """The texts of y, in a column of their own."""
        texts = [
            tag(
                "text",
                self.y_text(v),
                x="100%",
                y=round(min(self.height - 1, max(9, self.top(v) + 4)), 2),
                text_anchor="end",
                class_="axis",
            )
            for v in (self.y.ticks() if self.y_ticks is None else self.y_ticks)
        ]
        return tag("svg", *texts, class_="sides", width="100%", height=self.height + FOOT, aria_hidden="true")

    def spot(self, x: float, y: float) -> str:
        """A point of an inner drawing of 100 by 100."""
        return f"{self.x.at(x):.3f},{100 - self.y.at(y):.3f}"

    def inner(self, *children: Child) -> Markup:
        """A stretched drawing for `line` and `area`; what lies outside is cut."""
        given: dict[str, object] = {"viewBox": "0 0 100 100", "preserveAspectRatio": "none", "class_": "cut"}
        return tag("svg", *children, x=0, y=0, width="100%", height=self.height, **given)

    def line(self, points: Sequence[tuple[float, float]], class_: str, **given: object) -> Markup:
        """A line through points."""
        drawn = " ".join(self.spot(x, y) for x, y in points)
        return tag("polyline", points=drawn, class_=class_, **{"vector-effect": "non-scaling-stroke"}, **given)

    def area(self, points: Sequence[tuple[float, float, float]], class_: str) -> Markup:
        """The room between two lines: (x, low, high)."""
        drawn = [self.spot(x, hi) for x, _, hi in points] + [self.spot(x, lo) for x, lo, _ in reversed(points)]
        return tag("polygon", points=" ".join(drawn), class_=class_)

    def box(self, said: str, *children: Child, extra: float = 0.0) -> Markup:
        """The whole plot: texts of y beside the drawing. `extra`: px that `children` need below. `said`: for who cannot see it."""
        drawing = tag("svg", *self.grid(), *children, width="100%", height=self.height + FOOT + extra, focusable="false")
        return tag("div", self.sides(), tag("div", drawing, class_="room"), class_="plot", role="img", aria_label=said)


def apart(scale: Scale, wanted: int = 6, least: float = 13.0) -> list[float]:
    """Ticks whose texts do not touch: at least `least` per cent of the axis between two."""
    out: list[float] = []
    for value in scale.ticks(wanted):
        if not out or scale.at(value) - scale.at(out[-1]) >= least:
            out.append(value)
    return out


def cross(
    frame: Frame, x: float, y: float, across: tuple[float, float] | None, along: tuple[float, float] | None, class_: str
) -> list[Markup]:
    """Error bars around a point: `across` in x, `along` in y; each where it is known."""
    out = []
    if across is not None:
        ends = [pc(frame.x.held(v)) for v in across]
        out.append(tag("line", class_=class_, x1=ends[0], x2=ends[1], y1=round(frame.held(y), 2), y2=round(frame.held(y), 2)))
    if along is not None:
        tops = [round(frame.held(v), 2) for v in along]
        out.append(tag("line", class_=class_, x1=pc(frame.x.held(x)), x2=pc(frame.x.held(x)), y1=tops[0], y2=tops[1]))
    return out


def dot(frame: Frame, x: float, y: float, said: str) -> Markup:
    """A point that is not drawn, but found by pointer and keyboard."""
    return at("circle", said=said, class_="spot", cx=pc(frame.x.held(x)), cy=round(frame.held(y), 2), r=3)
