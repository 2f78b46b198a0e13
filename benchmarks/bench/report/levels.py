"""The table of all levels, each figure with its definition, and the definitions themselves. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.bench.report.markup import Child, Markup, join, tag
from benchmarks.bench.report.seen import Shown
from benchmarks.bench.texts import (
    FEW,
    NONE,
    count,
    duration,
    error_share,
    is_closed,
    ms,
    number,
    offered,
    option,
    percent,
    sane,
    size,
    upper,
)
from benchmarks.bench.words import Figures, Spread

OWN = {  # what only this table shows
    "repeats": "How often the level was measured; its row holds the medians of the repeats.",
    "lag": "How late the client itself was (p99): in sending (open loop), or in waking up (closed loop). Above 5 ms it measures itself.",
    "cpu": "The share of one core that the client used. Above 90 % it measures itself.",
}
TITLES = {
    "ttft": "TTFT", "ttft_due": "TTFT from schedule", "tpot": "TPOT", "itl": "ITL", "e2e": "E2E", "e2e_due": "E2E from schedule",
    "error_rate": "failed (error rate)", "request_rate": "requests per second", "offered_rate": "offered requests per second",
    "concurrency": "requests under way", "input_rate": "tokens/s in", "output_rate": "tokens/s out", "cached_share": "tokens from cache",
    "output_share": "tokens out, of asked", "lag": "client's lag", "cpu": "client's CPU",
}  # fmt: skip
Cell = tuple[str, str]  # what stands there, and smaller below it


@dataclass(frozen=True, slots=True)
class Column:
    """One column. `term`: the name of its definition; `group`: what stands over it and its neighbours."""

    group: str
    title: str
    term: str
    cell: Callable[[Figures], Cell]


def _times(name: str, percentile: str) -> Callable[[Figures], Cell]:
    """A percentile in milliseconds; below a median, its 95 % interval."""

    def cell(f: Figures) -> Cell:
        spread: Spread = getattr(f, name)
        value = ms(getattr(spread, percentile))
        sure = percentile == "p50" and spread.low is not None and spread.high is not None
        return value, f"{ms(spread.low)} – {ms(spread.high)}" if sure else ""

    return cell


def _scheduled(name: str, percentile: str) -> Callable[[Figures], Cell]:
    """From the schedule: of a closed loop there is none."""
    found = _times(name, percentile)
    return lambda f: (NONE, "") if is_closed(f.profile) else found(f)


def _rate(f: Figures) -> Cell:
    wanted = offered(f)
    return number(f.request_rate), f"of {number(wanted)}" if wanted is not None else ""


def _failed(f: Figures) -> Cell:
    return percent(error_share(f)), f"{count(f.failed)} of {count(f.sent)}"


def columns(levels: Sequence[Shown]) -> list[Column]:
    """Rates, then of each latency the median and the highest percentile that any level has answers enough for, then tokens."""
    out = [
        Column("Requests", "failed", "error_rate", _failed),
        Column("Requests", "per second", "request_rate", _rate),
        Column("Requests", "under way", "concurrency", lambda f: (number(f.concurrency), "")),
    ]
    open_ = any(not is_closed(one.profile) for one in levels)
    for name in ("ttft", "ttft_due", "tpot", "itl", "e2e", "e2e_due"):
        if open_ or not name.endswith("_due"):
            high = upper(getattr(one.figures, name) for one in levels) or "p99"
            cell = _scheduled if name.endswith("_due") else _times
            out += [Column(f"{TITLES[name]}, ms", p, name, cell(name, p)) for p in ("p50", high)]
    return [
        *out,
        Column("Tokens/s", "in", "input_rate", lambda f: (number(sane(f.input_rate) or None), "")),
        Column("Tokens/s", "out", "output_rate", lambda f: (number(sane(f.output_rate) or None), "")),
        Column("Tokens", "from cache", "cached_share", lambda f: (percent(f.cached_share), "")),
        Column("Tokens", "out, of asked", "output_share", lambda f: (percent(f.output_share), "")),
    ]


def levels_table(levels: Sequence[Shown], definitions: Mapping[str, str]) -> Markup:
    """All levels, a row each: medians of the repeats, with how far these spread and how the client was."""
    shown = columns(levels)
    groups: dict[str, int] = {}
    for c in shown:
        groups[c.group] = groups.get(c.group, 0) + 1
    over = tag(
        "tr",
        tag("th", "", scope="col"),
        *(tag("th", g, scope="colgroup", colspan=n) for g, n in groups.items()),
        tag("th", "Repeats", colspan=2, scope="colgroup"),
        tag("th", "Client", colspan=2, scope="colgroup"),
    )
    named = [_head(c.title, c.term, definitions) for c in shown]
    last = [
        _head("n", "repeats", definitions),
        _head("spread", "spread", definitions),
        _head("lag p99", "lag", definitions),
        _head("CPU", "cpu", definitions),
    ]
    head = tag("thead", over, tag("tr", tag("th", "Level", scope="col"), *named, *last))
    table = tag("table", head, tag("tbody", *(_row(one, shown) for one in levels)))
    box = tag("div", table, class_="scroll", tabindex=0, role="region", aria_label="All levels")
    note = (
        "Medians of the repeats; below a median latency its 95 % interval. Failed requests are in no latency. "
        f"“{NONE}”: too few answers for that percentile ({FEW}), or not told by the server."
    )
    return join([tag("p", note, class_="note"), box])


def _head(title: str, term: str, definitions: Mapping[str, str]) -> Markup:
    said = definitions.get(term, "")
    inner: Child = tag("a", title, href=f"#def-{term}") if said else title
    return tag("th", inner, scope="col", title=said or None)


def _row(one: Shown, columns: Sequence[Column]) -> Markup:
    f, health = one.figures, one.figures.health
    state = tag("span", "saturated", class_="chip bad") if f.saturated else None
    name = tag("th", tag("span", f"{one.number} · {one.name}"), state, scope="row", title=option(one.profile))
    cells = [_cell(*c.cell(f), hot=c.term == "error_rate" and f.failed > 0) for c in columns]
    widest = max(one.level.spread.items(), key=lambda item: item[1], default=None)
    spread = _cell(NONE, "") if widest is None else _cell(percent(widest[1]), widest[0].replace("_", " "))
    lag = _cell(duration(health.lag_p99), f"most {duration(health.lag_most)}", hot=bool(health.trouble))
    return tag(
        "tr",
        name,
        *cells,
        _cell(count(len(one.level.repeats)), ""),
        spread,
        lag,
        _cell(percent(health.cpu), ""),
        data_level=option(one.profile),
    )


def _cell(text: str, small: str, hot: bool = False) -> Markup:
    return tag("td", text, tag("small", small) if small else None, class_="hot" if hot else None)


def glossary(definitions: Mapping[str, str]) -> Markup:
    """Every definition, where the table's heads point."""
    rows = [join([tag("dt", TITLES.get(k, k.replace("_", " ")), id=f"def-{k}"), tag("dd", text)]) for k, text in definitions.items()]
    return tag("dl", *rows, class_="terms")


def repeats_table(levels: Sequence[Shown]) -> Markup | None:
    """Each repeat by itself. None: nothing was repeated."""
    if not any(len(one.level.repeats) > 1 for one in levels):
        return None
    names = ("Level", "repeat", "sent", "failed", "requests/s", "TTFT p50, ms", "TPOT p50, ms", "E2E p50, ms", "tokens/s out", "seconds")
    rows = [_repeat(one, f) for one in levels for f in one.level.repeats]
    table = tag("table", tag("thead", tag("tr", *(tag("th", n, scope="col") for n in names))), tag("tbody", *rows))
    box = tag("div", table, class_="scroll tall", tabindex=0, role="region", aria_label="All repeats")
    return tag("details", tag("summary", "Every repeat by itself"), box)


def _repeat(one: Shown, f: Figures) -> Markup:
    texts = [
        count(f.repeat + 1), count(f.sent), count(f.failed), number(f.request_rate), ms(f.ttft.p50), ms(f.tpot.p50), ms(f.e2e.p50),
        number(f.output_rate), number(f.seconds),
    ]  # fmt: skip
    return tag("tr", tag("th", one.name, scope="row"), *(tag("td", t) for t in texts))


def peaks(levels: Sequence[Shown]) -> Markup | None:
    """The most memory of each watched process by level. None: none was watched."""
    names = list(dict.fromkeys(n for one in levels for n in one.figures.memory_most))[:12]
    if not names:
        return None
    head = tag("tr", tag("th", "Level", scope="col"), *(tag("th", n, scope="col") for n in names))
    rows = [
        tag("tr", tag("th", one.name, scope="row"), *(tag("td", size(one.figures.memory_most.get(n))) for n in names)) for one in levels
    ]
    table = tag("table", tag("thead", head), tag("tbody", *rows))
    box = tag("div", table, class_="scroll", tabindex=0, role="region", aria_label="Most memory by level")
    return tag("details", tag("summary", "Most memory by level"), box)
