"""What a server does under load: latency against rate, throughput against latency, goodput, a user's speed against the system's. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from operator import attrgetter

from benchmarks.bench.headline import saturation
from benchmarks.bench.report.axes import around, from_zero
from benchmarks.bench.report.markup import Markup, join, tag
from benchmarks.bench.report.plot import Plot, Point, empty, legend, panel
from benchmarks.bench.report.seen import Shown, at
from benchmarks.bench.texts import brief, compact, duration, error_share, is_closed, number, offered, percent, sane, slo_words, upper
from benchmarks.bench.words import Figures, Result, Spread

ONE_LEVEL = "One level was measured: a sweep (--profile sweep) draws a line here."
LOW = "latency, logarithmic; lower is better ↓"
_SLOS = 6  # drawn in one plot

Value = Callable[[Shown], float | None]


@dataclass(frozen=True, slots=True)
class Series:
    """One line: its name, its look (shape None: no marks), and its points with what each tells."""

    name: str
    style: str
    shape: int | None
    points: Sequence[tuple[float, float, str]]

    @property
    def places(self) -> list[Point]:
        """Without words."""
        return [(x, y) for x, y, _ in self.points]


def _drawn(plot: Plot, series: Sequence[Series], said: str, *more: Markup) -> Markup:
    lines = plot.inner(*(plot.line(s.places, s.style) for s in series if len(s.points) > 1))
    marks = [plot.mark(x, y, words, s.style, s.shape) for s in series if s.shape is not None for x, y, words in s.points]
    told = "; ".join(words for s in series for _, _, words in s.points[:20])
    return plot.draw(f"{said}. {told}", lines, *more, *marks)


def _legend(series: Iterable[Series]) -> Markup:
    return legend((s.name, s.style, s.shape) for s in series)


def _strain(one: Shown) -> str:
    """What to know of a level beside its latency."""
    failed = error_share(one.figures)
    return f"{' (saturated)' if one.figures.saturated else ''}{f', {percent(failed)} failed' if failed else ''}"


def _line(levels: Sequence[Shown], name: str, look: tuple[str, int | None], x: Value, y: Value, unit: str = "requests/s") -> Series:
    """By level, where both are known. What is told: the level and both values."""
    points = []
    for one in sorted(levels, key=lambda one: sane(x(one)) or 0.0):
        a, b = sane(x(one)), sane(y(one))
        if a is not None and b is not None and b > 0:
            points.append((a, b, f"{one.name}{_strain(one)}: {name} {duration(b)} at {number(a)} {unit}"))
    return Series(name, *look, points)


def _spread(get: Callable[[Figures], Spread], name: str) -> Value:
    return lambda one: at(get(one.figures), name)


def against_rate(levels: Sequence[Shown], between: tuple[float, float | None] | None, title: str, short: str) -> Markup:
    """Latency by offered rate, from the schedule and from sending, with the saturation marked (`between`: `headline.saturation`). `short`:
    ttft or e2e."""
    open_ = [one for one in levels if offered(one.figures) is not None]
    if not open_:
        return panel(title, empty("Only closed loops were measured: the server set their pace. --profile rate=R or sweep offers a rate."))
    due, sent, rate = attrgetter(f"{short}_due"), attrgetter(short), attrgetter("rate")
    high = upper((due(one.figures) for one in open_), 0.5)
    wanted = [_line(open_, "p50", ("s0", 0), rate, _spread(due, "p50"))]
    if high is not None:
        wanted.insert(0, _line(open_, f"{high} from sending", ("s2 under", None), rate, _spread(sent, high)))
        wanted.append(_line(open_, high, ("s1", 1), rate, _spread(due, high)))
    series = [s for s in wanted if s.points]
    found = between[0] if between else None
    x, y = from_zero([*(p[0] for s in series for p in s.points), found]), around(p[1] for s in series for p in s.points)
    if x is None or y is None:
        return panel(title, empty("No level has enough answers for a median."))
    plot = Plot(x, y, brief, lambda v: duration(v, short=True), "offered requests a second →", LOW)
    flag = [] if found is None else [plot.flag(found, f"{'saturates above' if between and between[1] else 'kept up to'} {brief(found)}/s")]
    note = "Times are from the schedule, as users wait. Where those from sending differ, requests were held back before they were sent."
    return panel(title, _legend([*series[1:], series[0]] if high else series), _drawn(plot, series, title, *flag), note=note)


def _both(levels: Sequence[Shown], name: str, place: int, x: Value, y: Value) -> list[Series]:
    """Open and closed loops as lines of their own: one that joined them would turn back."""
    open_, closed = ([one for one in levels if is_closed(one.profile) is kind] for kind in (False, True))
    found = [_line(open_, name, (f"s{place}", place), x, y, "tokens/s")]
    alone = f"{name}, closed loops" if open_ else name
    found.append(_line(closed, alone, (f"s{place} dashed" if open_ else f"s{place}", place + 2 if open_ else place), x, y, "tokens/s"))
    return [s for s in found if s.points]


def throughput(levels: Sequence[Shown], title: str, short: str) -> Markup:
    """Tokens a second of the system against a latency: what speed for all costs each. `short`: ttft or tpot."""
    get = attrgetter(short)
    tokens = any(sane(one.figures.output_rate) for one in levels)
    x_of: Value = attrgetter("figures.output_rate" if tokens else "figures.request_rate")
    high = upper((get(one.figures) for one in levels), 0.5)
    series = [s for i, n in enumerate(["p50", *([high] if high else [])]) for s in _both(levels, n, i, x_of, _spread(get, n))]
    x, y = from_zero(p[0] for s in series for p in s.points), around(p[1] for s in series for p in s.points)
    if x is None or y is None:
        return panel(title, empty("No level has enough answers for a median, or the server does not tell its tokens."))
    what = "output tokens a second, all users together →" if tokens else "requests a second (the server tells no tokens) →"
    plot = Plot(x, y, compact, lambda v: duration(v, short=True), what, LOW)
    return panel(title, _legend(series), _drawn(plot, series, title), note=_alone(levels))


def _alone(levels: Sequence[Shown]) -> str:
    return ONE_LEVEL if len(levels) == 1 else ""


def _each(levels: Sequence[Shown], name: str, look: tuple[str, int]) -> Series:
    points = []
    for one in sorted(levels, key=lambda one: one.figures.output_rate):
        each, all_ = at(one.figures.tpot, "p50"), sane(one.figures.output_rate)
        if each and all_:
            points.append((all_, 1 / each, f"{one.name}{_strain(one)}: {number(1 / each)} tokens/s for each, {number(all_)} for all"))
    return Series(name, *look, points)


def users(levels: Sequence[Shown]) -> Markup:
    """What one user gets against what all get: tokens a second, up and right is better."""
    title = "A user's speed against the system's"
    open_, closed = ([one for one in levels if is_closed(one.profile) is kind] for kind in (False, True))
    found = [_each(open_, "offered rates", ("s0", 0)), _each(closed, "closed loops", ("s1", 1))]
    series = [s for s in found if s.points]
    x, y = from_zero(p[0] for s in series for p in s.points), from_zero(p[1] for s in series for p in s.points)
    if x is None or y is None:
        return panel(title, empty("Needs token counts from the server (usage) and five answers of two tokens or more."))
    plot = Plot(x, y, compact, brief, "output tokens a second, all users together →", "tokens a second for each user (1 / TPOT p50) ↑")
    return panel(title, _legend(series), _drawn(plot, series, title), note=_alone(levels))


def goodput(result: Result, levels: Sequence[Shown]) -> Markup:
    """Requests a second that keep each service level, by the rate at which they came."""
    title = "Goodput"
    names = list(dict.fromkeys([s.name for s in result.slos] + [g.slo.name for one in levels for g in one.figures.goodput]))
    if not names:
        return panel(title, empty("No service level was asked for: --slo ttft:500,tpot:30 or the name of a preset."))
    open_ = [one for one in levels if offered(one.figures) is not None]
    used = sorted((one for one in open_ or levels if one.rate), key=lambda one: one.rate or 0.0)
    series = [s for i, name in enumerate(names[:_SLOS]) if (s := _kept(used, name, i)).points]
    x = from_zero(p[0] for s in series for p in s.points)
    asked = tag("ul", *(tag("li", tag("b", s.name), f": {slo_words(s)}. ", _holds(used, s.name)) for s in result.slos), class_="asked")
    if x is None:
        return panel(title, empty("No request was sent at a known rate."), asked)
    plot = Plot(x, x, brief, brief, f"{'offered ' if open_ else ''}requests a second →", "requests a second that keep the level ↑")
    ideal = plot.inner(plot.line([(0.0, 0.0), (x.hi, x.hi)], "ideal"))
    note = "On the dashed line every request keeps its service level; a failed one keeps none."
    return panel(title, _legend(series), _drawn(plot, series, title, ideal), asked, note=note)


def _kept(levels: Sequence[Shown], name: str, place: int) -> Series:
    points = []
    for one in levels:
        for g in one.figures.goodput:
            if g.slo.name == name and one.rate and sane(g.rate) is not None:
                held = "held" if g.held else "not held"
                points.append((one.rate, g.rate, f"{name} at {number(one.rate)}/s: {number(g.rate)}/s good, {percent(g.share)}: {held}"))
    return Series(name, f"s{place}", place, points)


def _holds(levels: Sequence[Shown], name: str) -> str:
    """The highest rate below the first at which it does not hold. `levels`: by rate."""
    found = [(one.rate, g.held) for one in levels for g in one.figures.goodput if g.slo.name == name]
    rates = [rate for rate, _ in takewhile(lambda pair: pair[1], found)]
    return f"Held up to {number(rates[-1])} requests/s." if rates else "Not held at the lowest rate." if found else "No request came."


def plots(result: Result, levels: Sequence[Shown]) -> Markup:
    """All of them."""
    between = saturation(result)
    return tag(
        "div",
        join(
            [
                against_rate(levels, between, "TTFT against offered rate", "ttft"),
                against_rate(levels, between, "Whole answers against offered rate", "e2e"),
                throughput(levels, "Throughput against TTFT", "ttft"),
                throughput(levels, "Throughput against TPOT", "tpot"),
                users(levels),
                goodput(result, levels),
            ]
        ),
        class_="panels",
    )
