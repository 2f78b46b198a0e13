"""What a server does under load: latency against rate, throughput against latency, goodput, a user's speed against the system's. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from operator import attrgetter

from benchmarks.bench.report.axes import around, from_zero
from benchmarks.bench.report.markup import Markup, tag
from benchmarks.bench.report.plot import Plot, Point, empty, legend, panel
from benchmarks.bench.report.seen import Shown, at
from benchmarks.bench.texts import brief, compact, duration, number, offered, percent, sane, slo_words, upper
from benchmarks.bench.words import Figures, Result, Spread

ONE_LEVEL = "One level was measured. A sweep (--profile sweep) draws a line here."


@dataclass(frozen=True, slots=True)
class Series:
    """One line: its name, its look, and its points with what each tells."""

    name: str
    style: str
    shape: int
    points: Sequence[tuple[float, float, str]]

    @property
    def places(self) -> list[Point]:
        """Without words."""
        return [(x, y) for x, y, _ in self.points]


def _drawn(plot: Plot, series: Sequence[Series], said: str, *more: Markup) -> Markup:
    lines = plot.inner(*(plot.line(s.places, s.style) for s in series if len(s.points) > 1))
    marks = [plot.mark(x, y, words, s.style, s.shape) for s in series for x, y, words in s.points]
    return plot.draw(said, lines, *more, *marks)


def _legend(series: Iterable[Series]) -> Markup:
    return legend((s.name, s.style, s.shape) for s in series)


def _told(series: Sequence[Series]) -> str:
    return "; ".join(words for s in series for _, _, words in s.points[:20])


def _strain(one: Shown) -> str:
    words = " (saturated)" if one.figures.saturated else ""
    return f"{words}, {percent(one.figures.failed / one.figures.sent)} failed" if one.figures.failed and one.figures.sent else words


def _line(
    levels: Sequence[Shown], name: str, style: str, shape: int, x: Callable[[Shown], float | None], y: Callable[[Shown], float | None]
) -> Series:
    """By level, where both are known. What is told: the level, both values."""
    points = []
    for one in levels:
        a, b = sane(x(one)), sane(y(one))
        if a is not None and b is not None and b > 0:
            points.append((a, b, f"{one.name}{_strain(one)}: {name} {duration(b)} at {number(a)}"))
    return Series(name, style, shape, points)


def _spread(get: Callable[[Figures], Spread], name: str) -> Callable[[Shown], float | None]:
    return lambda one: at(get(one.figures), name)


def against_rate(levels: Sequence[Shown], saturation: float | None, title: str, short: str) -> Markup:
    """Latency by offered rate, from the schedule and from sending, with the saturation marked. `short`: ttft or e2e."""
    open_ = sorted((one for one in levels if offered(one.figures) is not None), key=lambda one: one.rate or 0.0)
    if not open_:
        return panel(title, empty("Only closed loops were measured: the server set their pace. --profile rate=R or sweep offers a rate."))
    return panel(title, _against(open_, saturation, title, attrgetter(f"{short}_due"), attrgetter(short)))


def _against(
    levels: Sequence[Shown], saturation: float | None, title: str, due: Callable[[Figures], Spread], sent: Callable[[Figures], Spread]
) -> Markup:
    high = upper(due(one.figures) for one in levels)
    wanted = [("p50 from schedule", "s0", 0, _spread(due, "p50"))]
    if high is not None:
        wanted += [(f"{high} from schedule", "s1", 1, _spread(due, high)), (f"{high} from sending", "s2 dashed", 2, _spread(sent, high))]
    series = [s for n, c, i, y in wanted if (s := _line(levels, n, c, i, attrgetter("rate"), y)).points]
    x, y = from_zero([*(p[0] for s in series for p in s.points), saturation]), around(p[1] for s in series for p in s.points)
    if x is None or y is None:
        return empty("No level has enough answers for a median.")
    plot = Plot(x, y, brief, lambda v: duration(v, short=True), "offered requests a second →", "latency, logarithmic; lower is better ↓")
    found = sane(saturation)
    flag = [] if found is None else [plot.tick_mark(found, f"saturates at {brief(found)}/s")]
    return Markup(_legend(series) + _drawn(plot, series, f"{title}. {_told(series)}", *flag))


def throughput(levels: Sequence[Shown], title: str, short: str) -> Markup:
    """Tokens a second of the system against a latency: what speed for all costs each. `short`: ttft or tpot."""
    get = attrgetter(short)
    tokens = any(sane(one.figures.output_rate) for one in levels)
    x_of: Callable[[Shown], float | None] = attrgetter("figures.output_rate" if tokens else "figures.request_rate")
    ordered = sorted(levels, key=lambda one: x_of(one) or 0.0)
    high = upper(get(one.figures) for one in levels)
    names = ["p50"] if high is None else ["p50", high]
    series = [s for i, n in enumerate(names) if (s := _line(ordered, n, f"s{i}", i, x_of, _spread(get, n))).points]
    x, y = from_zero(p[0] for s in series for p in s.points), around(p[1] for s in series for p in s.points)
    if x is None or y is None:
        return panel(title, empty("No level has enough answers for a median, or the server does not tell its tokens."))
    what = "output tokens a second, all users together →" if tokens else "requests a second (the server tells no tokens) →"
    plot = Plot(x, y, compact, lambda v: duration(v, short=True), what, "latency, logarithmic; lower is better ↓")
    note = ONE_LEVEL if len(levels) == 1 else ""
    return panel(title, _legend(series), _drawn(plot, series, f"{title}. {_told(series)}"), note=note)


def users(levels: Sequence[Shown]) -> Markup:
    """What one user gets against what all get: tokens a second, up and right is better."""
    title = "A user's speed against the system's"
    points = []
    for one in sorted(levels, key=lambda one: one.figures.output_rate):
        each, all_ = at(one.figures.tpot, "p50"), sane(one.figures.output_rate)
        if each and all_:
            points.append((all_, 1 / each, f"{one.name}{_strain(one)}: {number(1 / each)} tokens/s for each, {number(all_)} for all"))
    series = Series("tokens a second for each (1 / TPOT p50)", "s0", 0, points)
    x, y = from_zero(p[0] for p in points), from_zero(p[1] for p in points)
    if x is None or y is None:
        return panel(title, empty("Needs token counts from the server (usage) and five answers of two tokens or more."))
    plot = Plot(x, y, compact, brief, "output tokens a second, all users together →", "tokens a second for each user; up is better ↑")
    return panel(
        title, _legend([series]), _drawn(plot, [series], f"{title}. {_told([series])}"), note=ONE_LEVEL if len(levels) == 1 else ""
    )


def goodput(result: Result, levels: Sequence[Shown]) -> Markup:
    """Requests a second that keep each service level, by the rate at which they came."""
    title = "Goodput"
    names = list(dict.fromkeys([s.name for s in result.slos] + [g.slo.name for one in levels for g in one.figures.goodput]))
    if not names:
        return panel(title, empty("No service level was asked for: --slo ttft:500,tpot:30 or the name of a preset."))
    ordered = sorted((one for one in levels if one.rate), key=lambda one: one.rate or 0.0)
    series = [s for i, name in enumerate(names[:6]) if (s := _kept(ordered, name, i)).points]
    x = from_zero(p[0] for s in series for p in s.points)
    asked = tag("ul", *(tag("li", tag("b", s.name), f": {slo_words(s)}. ", _holds(ordered, s.name)) for s in result.slos), class_="asked")
    if x is None:
        return panel(title, empty("No request was sent at a known rate."), asked)
    plot = Plot(x, x, brief, brief, "requests a second as they came →", "requests a second that keep the level ↑")
    ideal = plot.inner(plot.line([(0.0, 0.0), (x.hi, x.hi)], "ideal"))
    note = "On the dashed line every request keeps its service level; a failed one keeps none."
    return panel(title, _legend(series), _drawn(plot, series, f"{title}. {_told(series)}", ideal), asked, note=note)


def _kept(levels: Sequence[Shown], name: str, place: int) -> Series:
    points = []
    for one in levels:
        for g in one.figures.goodput:
            if g.slo.name == name and one.rate and sane(g.rate) is not None:
                held = "held" if g.held else "not held"
                points.append((one.rate, g.rate, f"{name} at {number(one.rate)}/s: {number(g.rate)}/s good, {percent(g.share)}: {held}"))
    return Series(name, f"s{place}", place, points)


def _holds(levels: Sequence[Shown], name: str) -> str:
    rates = [one.rate for one in levels for g in one.figures.goodput if g.slo.name == name and g.held and one.rate]
    return f"Held up to {number(max(rates))} requests/s." if rates else "Held at no level."
