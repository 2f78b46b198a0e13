"""A plot with two axes as HTML and SVG. Pure.

Positions along x are per cents of the width, so texts keep their size on a phone. Lines stand in an inner drawing of 100 by 100 that is
stretched, whose strokes are not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from benchmarks.bench.report.axes import Axis
from benchmarks.bench.report.markup import Child, Markup, join, pc, plain, spot, tag

FOOT = 22  # px below a plot for the texts of its axis
COLOURS = 8  # how many series are told apart; more are not drawn in one plot
# Around the point 0,0; some 10 px wide. A series has its shape as well as its colour.
SHAPES = (
    "M-4.5,0a4.5,4.5 0 1,0 9,0a4.5,4.5 0 1,0 -9,0z",
    "M-4.2,-4.2h8.4v8.4h-8.4z",
    "M0,-5.6L5.2,4.2H-5.2z",
    "M0,-6L6,0L0,6L-6,0z",
    "M0,5.6L5.2,-4.2H-5.2z",
    "M-2,-5.6h4v3.6h3.6v4h-3.6v3.6h-4v-3.6h-3.6v-4h3.6z",
)
Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Plot:
    """A plot's room. `x_text`, `y_text`: how a tick is written; `x_name`, `y_name`: what the axes are, with units and which way is good."""

    x: Axis
    y: Axis
    x_text: Callable[[float], str]
    y_text: Callable[[float], str]
    x_name: str
    y_name: str
    height: float = 220.0
    gap: float = 14.0  # per cent of the width that two ticks of x are apart at least

    @property
    def rows(self) -> int:
        """How many ticks of y have room."""
        return max(3, round(self.height / 44))

    def top(self, value: float) -> float:
        """px from the top of a value of y."""
        return self.height * (1 - self.y.at(value) / 100)

    def line(self, points: Iterable[Point], class_: str) -> Markup:
        """A line through points, for `inner`."""
        drawn = " ".join(f"{self.x.at(x):.2f},{100 - self.y.at(y):.2f}" for x, y in points)
        return tag("polyline", points=drawn, class_=f"curve {class_}", vector_effect="non-scaling-stroke")

    def band(self, points: Sequence[tuple[float, float, float]], class_: str) -> Markup:
        """The room between two lines, (x, low, high), for `inner`."""
        upper = [f"{self.x.at(x):.2f},{100 - self.y.at(hi):.2f}" for x, _, hi in points]
        lower = [f"{self.x.at(x):.2f},{100 - self.y.at(lo):.2f}" for x, lo, _ in reversed(points)]
        return tag("polygon", points=" ".join(upper + lower), class_=f"band {class_}")

    def inner(self, *children: Child) -> Markup:
        """The stretched drawing of `line` and `band`."""
        return tag("svg", *children, width="100%", height=self.height, viewBox="0 0 100 100", preserveAspectRatio="none")

    def mark(self, x: float, y: float, said: str, class_: str, shape: int = 0) -> Markup:
        """A point with its shape; `said` is read out."""
        path = tag("path", d=SHAPES[shape % len(SHAPES)])
        placed = tag("svg", path, x=pc(self.x.at(x)), y=self.top(y), width=1, height=1, overflow="visible")
        return spot("g", placed, said=said, class_=f"mark {class_}")

    def dot(self, x: float, y: float, said: str) -> Markup:
        """A point that is not drawn, but found by the pointer and by keys."""
        return spot("circle", said=said, class_="spot", cx=pc(self.x.at(x)), cy=self.top(y), r=4)

    def flag(self, x: float, text: str) -> Markup:
        """A vertical line at `x` with a text at its top, on the side where there is room."""
        where = self.x.at(x)
        left = where > 60
        label = tag("text", text, x=pc(where), dx=-5 if left else 5, y=10, text_anchor="end" if left else "start", class_="flagged")
        return join([tag("line", x1=pc(where), x2=pc(where), y1=0, y2=self.height, class_="flag"), label])

    def _grid(self) -> list[Markup]:
        out = [tag("line", class_="grid", x1=0, x2="100%", y1=self.top(v), y2=self.top(v)) for v in self.y.ticks(self.rows)]
        ticks = self.x.apart(6, self.gap)
        for i, value in enumerate(ticks):
            x = self.x.at(value)
            anchor = "start" if x < 4 else "end" if x > 96 else "middle"
            out.append(tag("line", class_="grid", x1=pc(x), x2=pc(x), y1=0, y2=self.height))
            spare = " spare" if i % 2 and len(ticks) > 3 else ""
            out.append(tag("text", self.x_text(value), x=pc(x), y=self.height + 16, text_anchor=anchor, class_=f"axis{spare}"))
        return out

    def draw(self, said: str, *children: Child) -> Markup:
        """The whole plot with the names of its axes. `said`: what it shows, for who cannot see it."""
        texts = [
            tag("text", self.y_text(v), x="100%", y=min(self.height - 1, max(9.0, self.top(v) + 4)), text_anchor="end", class_="axis")
            for v in self.y.ticks(self.rows)
        ]
        side = tag("svg", *texts, width="100%", height=self.height + FOOT, aria_hidden="true")
        room = tag("div", tag("svg", *self._grid(), *children, width="100%", height=self.height + FOOT, focusable="false"), class_="room")
        return join(
            [
                tag("p", self.y_name, class_="axis-name") if self.y_name else None,
                tag("div", side, room, class_="plot", role="img", aria_label=said),
                tag("p", self.x_name, class_="axis-name right") if self.x_name else None,
            ]
        )


def legend(entries: Iterable[tuple[str, str, int | None]]) -> Markup:
    """Which line is which: (text, class, shape; None: a line without marks)."""
    items = []
    for text, class_, shape in entries:
        stroke = tag("line", x1=0, x2=30, y1=7, y2=7, class_=f"curve {class_}")
        path = (
            None
            if shape is None
            else tag("g", tag("path", d=SHAPES[shape % len(SHAPES)], transform="translate(15 7)"), class_=f"mark {class_}")
        )
        items.append(tag("li", tag("svg", stroke, path, width=30, height=14, aria_hidden="true"), text))
    return tag("ul", *items, class_="legend")


def panel(title: str, *children: Child, note: str = "", wide: bool = False) -> Markup:
    """A plot's card: its title, a sentence on how it is read, the rest."""
    read = tag("p", note, class_="note") if note else None
    return tag("article", tag("h3", title), read, *children, class_="panel wide" if wide else "panel")


def empty(text: str) -> Markup:
    """What stands where nothing can be drawn: why."""
    return Markup(f'<p class="empty">{plain(text)}</p>')
