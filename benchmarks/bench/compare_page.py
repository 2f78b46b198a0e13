"""The report of a comparison: one HTML file, made of the parts of a run's report. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from benchmarks.bench.figures import DEFINITIONS
from benchmarks.bench.paired import Difference, Interval
from benchmarks.bench.plain import to_json
from benchmarks.bench.report import cdf, document, forest, levels, section, timeline, top
from benchmarks.bench.report.markup import Markup, join, tag
from benchmarks.bench.report.seen import Shown
from benchmarks.bench.texts import NONE, ms, number, percent
from benchmarks.bench.words import Result, Stage

if TYPE_CHECKING:
    from benchmarks.bench.compare import Comparison

_TERMS = {
    "difference": "Median over pairs of B's latency less A's, with its 95 % interval: the wider of a sign test's and a block bootstrap's.",
    "ratio": "Median over pairs of B's latency by A's.",
    "wins": "Share of pairs in which A was faster; ties count half.",
    "pair": "One request to each server, right after the other, in random order; pairs that one of them did not answer whole are left out.",
}


@dataclass(frozen=True, slots=True)
class _Side(Shown):
    """One of both servers, shown as if it were a level of load."""

    called: str = ""

    @property
    def name(self) -> str:
        """The server's name."""
        return self.called


def page(found: Comparison, names: tuple[str, str], stages: Sequence[Stage] = ()) -> bytes:
    """A comparison as UTF-8 HTML; what stands in names and errors is shown as text. `stages`: A's and B's raw requests, where at hand."""
    raw = [[stage] for stage in stages] if stages else [[], []]
    called = [f"{letter}: {name}" for letter, name in zip("AB", names, strict=True)]
    sides = [_Side(i + 1, result.levels[0], raw[i], "AB"[i]) for i, result in enumerate((found.a, found.b))]
    terms = {**DEFINITIONS, **levels.OWN, **_TERMS}
    body = join(
        [
            _heading(found, called),
            *(_notices(name, each) for name, each in zip(called, (found.a, found.b), strict=True)),
            section("difference", "What is sure of their difference", _table(found.differences), forest.ratios(found.differences, names)),
            section("levels", "Each by itself", levels.levels_table(sides, terms)),
            section("latency", "How long answers take", cdf.latencies(sides)),
            section("time", "Over time", timeline.timelines(sides)) if stages else None,
            section("definitions", "What each figure means", levels.glossary(terms)),
            section("provenance-a", "How to run this again", top.provenance(found.a)),
            section("provenance-b", "The other server", top.provenance(found.b)),
        ]
    )
    return document(f"{names[0]} and {names[1]} compared", body, msgspec.Raw(to_json(found)))


def _heading(found: Comparison, called: Sequence[str]) -> Markup:
    sides = f"{called[0]} ({found.a.model or 'a model'}) · {called[1]} ({found.b.model or 'a model'})"
    crumb = tag("p", f"{sides} · {found.a.provenance.started}", class_="crumb")
    sentences = [each.sentence for each in found.differences.values()]
    headline = sentences[0] if sentences else "Nothing could be compared."
    return tag("header", crumb, tag("h1", headline), *(tag("p", sentence, class_="note") for sentence in sentences[1:]), class_="top")


def _notices(name: str, result: Result) -> Markup | None:
    notices = top.notices(result)
    return None if notices is None else join([tag("p", name, class_="note"), notices])


def _table(differences: dict[str, Difference]) -> Markup:
    heads = ("Latency", "pairs", "A p50, ms", "B p50, ms", "B - A, ms", "95 % interval", "B / A", "95 % interval", "A faster in")
    rows = [
        tag(
            "tr",
            tag("th", each.metric.upper(), scope="row"),
            *(tag("td", cell) for cell in (f"{each.pairs:,}", ms(each.a), ms(each.b), *_interval(each.difference, 1e3))),
            *(tag("td", cell) for cell in (*_interval(each.ratio, 1.0), percent(each.wins))),
        )
        for each in differences.values()
    ]
    table = tag("table", tag("thead", tag("tr", *(tag("th", head, scope="col") for head in heads))), tag("tbody", *rows))
    return tag("div", table, class_="scroll", tabindex=0, role="region", aria_label="Differences")


def _interval(found: Interval | None, scale: float) -> tuple[str, str]:
    if found is None:
        return NONE, NONE
    if found.low is None or found.high is None:
        return number(found.value * scale), NONE
    return number(found.value * scale), f"{number(found.low * scale)} to {number(found.high * scale)}"
