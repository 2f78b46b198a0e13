"""The report of a run: one HTML file that needs nothing else, no network, no fonts, no script of others. Pure but for its own style sheet,
which is read at import.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path

import msgspec

from benchmarks.bench.figures import DEFINITIONS
from benchmarks.bench.plain import to_json
from benchmarks.bench.report import cdf, levels, load, timeline, top
from benchmarks.bench.report.markup import Child, Markup, attributes, join, tag
from benchmarks.bench.report.plot import empty
from benchmarks.bench.report.script import SCRIPT
from benchmarks.bench.report.seen import Shown, shown
from benchmarks.bench.words import Result, Stage

STYLE = (Path(__file__).parent / "page.css").read_text("utf-8")


def _hash(text: str) -> str:
    return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"


# What the page may do: nothing but its own style and script, known by their hashes.
POLICY = f"default-src 'none'; style-src {_hash(STYLE)}; script-src {_hash(SCRIPT)}; base-uri 'none'; form-action 'none'"


def section(name: str, title: str, *children: Child) -> Markup:
    """A part of the page with its heading."""
    return tag("section", tag("h2", title, id=f"h-{name}"), *children, id=name, aria_labelledby=f"h-{name}")


def embedded(data: msgspec.Raw) -> Markup:
    """Exact data in the page, as JSON in `#result`. Nothing in it can end the element: `<`, `>` and `&` are escapes."""
    text = bytes(data).decode()
    for char in "<>&\u2028\u2029":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return Markup(f'<script type="application/json" id="result">{text}</script>')


def document(title: str, body: Markup, data: msgspec.Raw) -> bytes:
    """A whole page around its parts."""
    policy = attributes({"http_equiv": "content-security-policy", "content": POLICY})
    head = join(
        [
            Markup(f'<meta charset="utf-8"><meta{policy}><meta name="viewport" content="width=device-width, initial-scale=1">'),
            Markup('<meta name="color-scheme" content="light dark"><meta name="referrer" content="no-referrer">'),
            tag("title", title),
            Markup(f"<style>{STYLE}</style>"),
        ]
    )
    main = tag("main", body, tag("footer", "pointsman bench"))
    script = Markup(f"<script>{SCRIPT}</script>")
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>{main}{embedded(data)}{script}</body></html>\n'.encode()


def _curves(result: Result, found: Sequence[Shown]) -> Markup:
    return join(
        [section("latency", "How long answers take", cdf.latencies(found)), section("load", "Under load", load.plots(result, found))]
    )


def _times(found: Sequence[Shown], stages: Sequence[Stage]) -> Markup:
    parts = [timeline.concurrency(found), timeline.timelines(found), timeline.memory(stages), levels.peaks(found)]
    return section("time", "Over time", *parts)


def body(result: Result, stages: Sequence[Stage]) -> Markup:
    """All parts, in the order in which they matter."""
    found = shown(result, stages)
    terms = {**DEFINITIONS, **levels.OWN}
    table = (
        join([levels.levels_table(found, terms), levels.repeats_table(found), top.client(result)]) if found else empty("No level was run.")
    )
    parts = [
        top.heading(result),
        top.notices(result),
        top.tiles(result),
        section("levels", "All levels", table),
        top.failures(result),
        _curves(result, found) if found else None,
        _times(found, stages) if found else None,
        section("definitions", "What each figure means", levels.glossary(terms)),
        section("provenance", "How to run this again", top.provenance(result)),
    ]
    return join(parts)


def page(result: Result, stages: Sequence[Stage] = ()) -> bytes:
    """One run as UTF-8 HTML. `stages`: its raw requests, for distributions and timelines; without them these are drawn from percentiles, or
    say why they are not drawn. Blocks for seconds with 100,000 requests; changes nothing.

    Whatever stands in names, errors and options is shown as text. The exact numbers are in `#result`, as in the JSON summary.
    """
    return document(top.title(result), body(result, stages), msgspec.Raw(to_json(result)))
