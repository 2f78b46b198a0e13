"""Signs by which arms and verdicts are told apart without colour. Pure SVG and words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gateway.experiments.report.markup import Markup, at, pc, tag
from routing.experiments.words import METRICS, ArmResult, Estimate, Metric, Result, Verdict

# Around the point 0,0; some 10 px wide.
SHAPES = (
    "M-5,0a5,5 0 1,0 10,0a5,5 0 1,0 -10,0z",  # circle: control
    "M-4.5,-4.5h9v9h-9z",  # square
    "M0,-6L5.5,4.5H-5.5z",  # triangle
    "M0,-6.3L6.3,0L0,6.3L-6.3,0z",  # diamond
    "M0,6L5.5,-4.5H-5.5z",  # triangle, down
    "M-2,-6h4v4h4v4h-4v4h-4v-4h-4v-4h4z",  # plus
)
SIGNS: Mapping[Verdict, str] = {"better": "✓", "worse": "✕", "same": "=", "unsure": "?"}
WORDS: Mapping[Verdict, str] = {"better": "better", "worse": "worse", "same": "about the same", "unsure": "not known yet"}


@dataclass(frozen=True, slots=True)
class Looks:
    """What a page knows of its result to draw it: arms by number, metrics by name."""

    arms: Mapping[str, int]
    metrics: Mapping[str, Metric]

    def number(self, arm: str) -> int:
        """An arm's place: 0 is control. Arms that are not in the result look like the last shape."""
        return self.arms.get(arm, len(SHAPES) - 1)

    def style(self, arm: str) -> str:
        """The class that gives an arm its colour and dashes."""
        return f"arm{self.number(arm) % len(SHAPES)}"

    def metric(self, name: str) -> Metric:
        """A metric by name; one that nobody described is a plain number of which more is better."""
        return self.metrics.get(name) or METRICS.get(name) or Metric(name, "mean", "higher", name)


def looks(result: Result) -> Looks:
    """Of a result: control first, the others in their order."""
    return Looks({arm.name: i for i, arm in enumerate(ordered(result.arms))}, result.metrics)


def ordered(arms: Sequence[ArmResult]) -> list[ArmResult]:
    """Control first, else as they are."""
    return sorted(arms, key=lambda a: not a.control)


def shape(look: Looks, arm: str, x: float = 50.0, y: float = 0.0, said: str = "", **given: object) -> Markup:
    """An arm's mark; `x` in per cent."""
    path = tag("path", d=SHAPES[look.number(arm) % len(SHAPES)])
    inner = tag("svg", path, x=pc(x), y=y, overflow="visible", width=1, height=1)
    return at("g", inner, said=said, class_=f"mark {look.style(arm)}", data_arm=arm, **given)


def key(look: Looks, arm: str) -> Markup:
    """An arm's mark before its name in running text."""
    path = tag("path", d=SHAPES[look.number(arm) % len(SHAPES)])
    return tag("svg", path, class_=f"key {look.style(arm)}", viewBox="-7 -7 14 14", width=14, height=14, aria_hidden="true")


def legend(look: Looks, arms: Sequence[str], lines: bool = False) -> Markup:
    """Which mark, and which line where there are `lines`, is which arm's."""
    return tag("ul", *(tag("li", swatch(look, a) if lines else key(look, a), a) for a in arms), class_="legend")


def swatch(look: Looks, arm: str) -> Markup:
    """A piece of an arm's line with its mark on it."""
    stroke = tag("line", x1=0, x2=34, y1=7, y2=7, class_=f"curve {look.style(arm)}")
    return tag("svg", stroke, shape(look, arm, 50.0, 7), class_="swatch", width=34, height=14, aria_hidden="true")


def exact(estimate: Estimate) -> dict[str, object]:
    """An estimate as `data-` attributes: exact, and empty where there is none."""
    shown = {"data_value": estimate.value, "data_lo": estimate.lo, "data_hi": estimate.hi}
    return {name: "" if value is None else value for name, value in shown.items()}


def chip(verdict: Verdict, word: str = "") -> Markup:
    """A verdict: its sign and its word."""
    return tag("span", tag("b", SIGNS[verdict], aria_hidden="true"), " ", word or WORDS[verdict], class_=f"chip {verdict}")
