"""Charts as inline SVG, without scripts. Pure.

Positions along x are per cents of the width and there is no view box, so text keeps its size on a phone and bars take what room there is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

ROW = 46  # px: a line of text, its bar, and the range of the rounds under it
BAR = 12
LINE_HEIGHT = 200
LABEL = 20


@dataclass(frozen=True)
class Bar:
    """One bar. `text` is what is printed of `value`; `low` and `high` are drawn as a range; `kind`: ours, reference, none or other."""

    name: str
    value: float
    text: str
    kind: str = "other"
    low: float | None = None
    high: float | None = None
    note: str = ""


def _percent(value: float, top: float) -> float:
    return max(0.0, min(100.0, 100.0 * value / top)) if top > 0 else 0.0


def bars(title: str, items: Sequence[Bar]) -> str:
    """Horizontal bars from zero, in the order given. `title` is read out by screen readers."""
    top = max([0.0, *(b.value for b in items), *(b.high for b in items if b.high is not None)])
    said = "; ".join(f"{b.name}: {b.text}" for b in items)
    out = [
        f'<svg class="bars" width="100%" height="{ROW * len(items)}" role="img" aria-label="{escape(title)}. {escape(said)}">',
    ]
    for i, b in enumerate(items):
        y = i * ROW
        note = f'<tspan class="note" dx="6">{escape(b.note)}</tspan>' if b.note else ""
        out.append(f'<g class="{escape(b.kind)}"><text class="name" x="0" y="{y + 17}">{escape(b.name)}{note}</text>')
        out.append(f'<text class="value" x="100%" y="{y + 17}" text-anchor="end">{escape(b.text)}</text>')
        out.append(f'<rect class="track" x="0" y="{y + 24}" width="100%" height="{BAR}" rx="3"/>')
        out.append(f'<rect class="bar" x="0" y="{y + 24}" width="{_percent(b.value, top):.2f}%" height="{BAR}" rx="3"/>')
        if b.low is not None and b.high is not None and b.high > b.low:
            at = [_percent(x, top) for x in (b.low, b.high)]
            middle = y + 24 + BAR + 5
            out.append(f'<line class="range" x1="{at[0]:.2f}%" y1="{middle}" x2="{at[1]:.2f}%" y2="{middle}"/>')
            out += [f'<line class="range" x1="{x:.2f}%" y1="{middle - 2}" x2="{x:.2f}%" y2="{middle + 2}"/>' for x in at]
        out.append("</g>")
    return "".join([*out, "</svg>"])


def ticks(top: float, wanted: int = 4) -> list[float]:
    """Round numbers from 0 to at least `top`: steps of 1, 2 or 5 times a power of ten, some `wanted` of them."""
    if top <= 0:
        return [0.0, 1.0]
    step = 1e-6
    while True:
        for factor in (1, 2, 5):
            if top / (step * factor) <= wanted:
                size = step * factor
                return [size * i for i in range(int(-(-top // size)) + 1)]
        step *= 10


def line(title: str, series: Sequence[tuple[float, float]], unit: str, marks: Sequence[tuple[float, float, str]] = ()) -> str:
    """One line over seconds, y from zero. `marks`: (seconds, value, what) drawn as dots."""
    span = max([t for t, _ in series] + [t for t, _, _ in marks] + [1.0])
    scale = ticks(max([v for _, v in series] + [v for _, v, _ in marks] + [0.0]))
    top = scale[-1]
    height = LINE_HEIGHT - LABEL - 8

    def at(t: float, v: float) -> tuple[float, float]:
        return 100.0 * t / span, 8 + height * (1 - v / top)

    out = [f'<svg class="line" width="100%" height="{LINE_HEIGHT}" role="img" aria-label="{escape(title)}">']
    heights = [(v, at(0, v)[1]) for v in scale]
    out += [f'<line class="grid" x1="0" y1="{y:.1f}" x2="100%" y2="{y:.1f}"/>' for _, y in heights]
    points = " ".join(f"{at(t, v)[0]:.2f},{100 * (1 - v / top):.2f}" for t, v in series)
    out.append(f'<svg x="0" y="8" width="100%" height="{height}" viewBox="0 0 100 100" preserveAspectRatio="none">')
    out.append(f'<polyline class="path" points="{points}" vector-effect="non-scaling-stroke"/></svg>')
    out += [f'<text class="axis" x="0" y="{y - 3:.1f}">{v:,.6g}{f" {unit}" if v == top else ""}</text>' for v, y in heights]
    for t, v, what in marks:
        x, y = at(t, v)
        out.append(f'<circle class="mark" cx="{x:.2f}%" cy="{y:.1f}" r="4"><title>{escape(what)}</title></circle>')
    out.append(f'<text class="axis" x="0" y="{LINE_HEIGHT - 4}">0 s</text>')
    out.append(f'<text class="axis" x="100%" y="{LINE_HEIGHT - 4}" text-anchor="end">{span:,.0f} s</text></svg>')
    return "".join(out)
