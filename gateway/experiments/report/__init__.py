"""The report of an experiment: one HTML file that needs nothing else, no network, no fonts, no script of others. Pure but for two files of
our own that are read at import.
"""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

import msgspec

from gateway.experiments.report import course, details, forest, frontier, latency, soundness, story, summary
from gateway.experiments.report.marks import looks
from gateway.experiments.report.markup import Child, Markup, attributes, join, tag
from routing.experiments.words import Result

_FOLDER = Path(__file__).parent
STYLE = (_FOLDER / "page.css").read_text("utf-8")
SCRIPT = (_FOLDER / "page.js").read_text("utf-8")


def _hash(text: str) -> str:
    return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"


# What the page may do, for its own `meta` and for the header of who serves it: nothing but its own style and script, known by their hashes.
POLICY = f"default-src 'none'; style-src {_hash(STYLE)}; script-src {_hash(SCRIPT)}; base-uri 'none'; form-action 'none'"


def exact(result: Result) -> Markup:
    """The whole result as JSON in the page. Nothing in it can end the element: `<`, `>` and `&` are escapes."""
    text = msgspec.json.encode(result).decode()
    for char in "<>&\u2028\u2029":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return Markup(f'<script type="application/json" id="result">{text}</script>')


def section(name: str, title: str, *children: Child) -> Markup:
    """A part of the page with its heading."""
    return tag("section", tag("h2", title, id=f"h-{name}"), *children, id=name, aria_labelledby=f"h-{name}")


def body(result: Result) -> Markup:
    """All parts, in the order in which they matter."""
    look = looks(result)
    label = look.metric(result.primary).label or result.primary
    pair = tag(
        "div",
        section("ratio", "Are units split as they should be?", soundness.sample_ratio(result, look)),
        section("outlook", "What can still be found out", soundness.outlook(result)),
        class_="pair",
    )
    parts = [
        section("arms", "The arms", summary.cards(result, look)),
        section("changes", "What changes against control", forest.forest(result, look)),
        section("course", f"Over time: {label}", course.course(result, look)),
        section("latency", "How long requests take", latency.latencies(result, look)),
        section("frontier", "Cost against quality", frontier.cost_quality(result, look)),
        pair,
        section("shadows", "Shadows", story.shadows(result, look)) if result.shadows else None,
        section("guardrails", "Guardrails", soundness.guardrails(result, look)),
        section("comments", "Comments", story.comments(result)),
        section("audit", "What was done", story.audit(result)),
        section("details", "All comparisons", details.comparisons(result, look)),
        section("provenance", "How this was made", details.provenance(result)),
    ]
    return join([summary.headline(result), *parts])


def page(result: Result) -> str:
    """One experiment's page. Blocks for some milliseconds; changes nothing, reads nothing but `result`.

    Whatever stands in names, words and comments is shown as text. The exact numbers are in `#result` (JSON, as the API gives it) and in
    `data-` attributes. Serve it with `POLICY` as its content security policy: the control plane's own does not let inline styles pass.
    """
    policy = attributes({"http_equiv": "content-security-policy", "content": POLICY})
    head = join(
        [
            Markup(f'<meta charset="utf-8"><meta{policy}><meta name="viewport" content="width=device-width, initial-scale=1">'),
            Markup('<meta name="color-scheme" content="light dark"><meta name="referrer" content="no-referrer">'),
            tag("title", f"{result.name}: {result.headline}" if result.headline else result.name),
            Markup(f"<style>{STYLE}</style>"),
        ]
    )
    main = tag("main", body(result), tag("footer", "Pointsman"))
    script = Markup(f"<script>{SCRIPT}</script>")
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>{main}{exact(result)}{script}</body></html>\n'
