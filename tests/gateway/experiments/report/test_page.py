"""The report as text: well-formed, escaped, in need of nothing, with the exact numbers of its result."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser

import msgspec
import pytest

from gateway.experiments.report import POLICY, SCRIPT, STYLE, page
from routing.experiments.words import Estimate, Result
from tests.gateway.experiments.report.kinds import KINDS
from tests.gateway.experiments.report.made import NASTY, decided

VOID = {"meta"}
ORDER = ["arms", "changes", "course", "latency", "frontier", "ratio", "outlook", "shadows", "guardrails", "comments", "audit", "details"]
Attributes = dict[str, str | None]


class Reader(HTMLParser):
    """Checks that tags are closed in order; keeps attributes, and texts with the tag around them."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, Attributes]] = []
        self.texts: list[tuple[str, str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """A tag opens. No attribute may stand twice."""
        assert len(dict(attrs)) == len(attrs), attrs
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        """A tag closes."""
        assert self.open and self.open.pop() == tag, (tag, self.open)

    def handle_data(self, data: str) -> None:
        """A text."""
        if data.strip():
            self.texts.append((self.open[-1] if self.open else "", data.strip()))

    def having(self, *names: str) -> list[Attributes]:
        """The attributes of the elements that have all of `names`."""
        return [a for _, a in self.seen if all(n in a for n in names)]


def read(text: str) -> Reader:
    """Parses a whole page, or fails."""
    reader = Reader()
    reader.feed(text)
    reader.close()
    assert reader.open == []
    return reader


def same(found: Attributes, estimate: Estimate) -> bool:
    """Whether an element's `data-` attributes are an estimate's numbers, to the last bit."""
    told = [found[f"data-{n}"] or "" for n in ("value", "lo", "hi")]
    return told == ["" if v is None else repr(v) for v in (estimate.value, estimate.lo, estimate.hi)]


@pytest.mark.parametrize("kind", KINDS)
def test_a_page_is_well_formed_and_needs_nothing_else(kind: str) -> None:
    text = page(KINDS[kind]())
    reader = read(text)
    assert text.startswith("<!doctype html>") and text.count("<html") == 1
    assert {"link", "img", "iframe", "object", "base", "form"}.isdisjoint(tag for tag, _ in reader.seen)
    assert not any(k in a or any(n.startswith("on") for n in a) for _, a in reader.seen for k in ("src", "href", "style", "xlink:href"))
    assert not re.search(r"https?://|@import|url\(", STYLE + SCRIPT)
    ids = [a["id"] for a in reader.having("id")]
    assert len(ids) == len(set(ids)) and all(a["aria-labelledby"] in ids for a in reader.having("aria-labelledby"))


@pytest.mark.parametrize("kind", KINDS)
def test_parts_come_in_their_order_each_with_a_heading(kind: str) -> None:
    made = KINDS[kind]()
    reader = read(page(made))
    shown = [a["id"] for tag, a in reader.seen if tag == "section"]
    assert shown == [*(n for n in ORDER if n != "shadows" or made.shadows), "provenance"]
    assert sum(tag == "h1" for tag, _ in reader.seen) == 1
    assert sum(tag == "h2" for tag, _ in reader.seen) == len(shown)
    assert all(a.get("aria-label") for _, a in reader.seen if a.get("role") in ("img", "table", "region"))


@pytest.mark.parametrize("kind", KINDS)
def test_the_exact_numbers_are_in_the_page(kind: str) -> None:
    made = KINDS[kind]()
    text = page(made)
    (block,) = re.findall(r'<script type="application/json" id="result">(.*?)</script>', text, re.DOTALL)
    assert not set("<>&\u2028") & set(block)
    assert json.loads(block) == json.loads(msgspec.json.encode(made))
    reader = read(text)
    rows = reader.having("data-p", "data-alpha")
    assert len(rows) == len(made.comparisons)
    for row, c in zip(rows, made.comparisons, strict=True):
        assert same(row, c.change) and (row["data-arm"], row["data-metric"], row["data-verdict"]) == (c.arm, c.metric, c.verdict)
        assert (row["data-p"], row["data-alpha"], row["data-cuped"]) == ("" if c.p is None else repr(c.p), repr(c.alpha), repr(c.cuped))
    drawn = [a for a in reader.having("data-role", "data-value")]
    assert len(drawn) == len(made.comparisons)


@pytest.mark.parametrize("kind", KINDS)
def test_every_arm_has_its_card_with_its_numbers(kind: str) -> None:
    made = KINDS[kind]()
    reader = read(page(made))
    cards = [a["data-arm"] for tag, a in reader.seen if tag == "article" and "data-arm" in a]
    arms = sorted(made.arms, key=lambda a: not a.control)
    assert cards == [a.name for a in arms]
    assert [a["data-units"] for a in reader.having("data-units")] == [str(a.units) for a in arms]
    assert [a["data-requests"] for a in reader.having("data-requests")] == [str(a.requests) for a in arms]
    assert [a["data-weight"] for a in reader.having("data-weight")] == [repr(a.weight) for a in arms]
    for arm in arms:
        own = [
            a for a in reader.having("data-arm", "data-metric", "data-value") if len(a) < 8 and not {"data-quantile", "data-role"} & set(a)
        ]
        of_arm = {a["data-metric"]: a for a in own if a["data-arm"] == arm.name and "data-p" not in a}
        assert all(same(of_arm[m], e) for m, e in arm.metrics.items())


def test_quantiles_and_shadows_have_their_numbers() -> None:
    made = decided()
    reader = read(page(made))
    quantiles = {(a["data-arm"], a["data-metric"], a["data-quantile"]): a for a in reader.having("data-quantile")}
    expected = {(a.name, m, q): e for a in made.arms for m, of in a.quantiles.items() for q, e in of.items()}
    assert quantiles.keys() == expected.keys() and all(same(quantiles[k], e) for k, e in expected.items())
    shadows = {a["data-metric"]: a for a in reader.having("data-shadow")}
    assert all(
        same(shadows[m], getattr(made.shadows[0], m)) for m in ("similarity", "same_tools", "valid", "preferred", "latency", "output")
    )


def words(made: Result) -> str:
    """All texts of a page, in a line."""
    return " ".join(t for tag, t in read(page(made)).texts if tag not in ("style", "script"))


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (
            "decided",
            [
                "Running",
                "Decided",
                "candidate answers 12 % faster",
                "−11.8 %",
                "−15.3 % to −8.3 %",
                "4,310 units are there, 3,900 were needed",
            ],
        ),
        ("empty", ["Planned", "No data yet", "There is nothing to say yet.", "This experiment has no arms yet.", "None is configured."]),
        ("early", ["Too early to say", "too early to say", "not measured yet", "no interval yet", "over 2 years"]),
        ("five", ["Stopped", "Guardrail hurt", "hurt", "quantised-to-four-bits-with-imatrix"]),
        ("bandit", ["Learning", "chance to be the best", "90.2 %"]),
        ("leaking", ["Do not trust this", "Units are not split as they should be", "2,610", "2,155"]),
        ("extreme", ["Rolled back", "×4.00×10¹⁵", "over", "and more"]),
        ("promoted", ["Promoted", "winner"]),
    ],
)
def test_what_a_kind_says(kind: str, expected: list[str]) -> None:
    said = words(KINDS[kind]())
    assert [e for e in expected if e not in said] == []


def test_hostile_texts_are_shown_as_text() -> None:
    made = KINDS["nasty"]()
    reader = read(page(made))
    assert [tag for tag, _ in reader.seen].count("script") == 2 and "img" not in {tag for tag, _ in reader.seen}
    assert [t for tag, t in reader.texts if tag == "h1"] == [NASTY]
    assert [t for tag, t in reader.texts if tag == "blockquote"] == [NASTY] * 12


def test_the_policy_names_just_what_is_inlined() -> None:
    text = page(decided())
    (style,) = re.findall(r"<style>(.*?)</style>", text, re.DOTALL)
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    for inlined in (style, script):
        assert f"'sha256-{base64.b64encode(hashlib.sha256(inlined.encode()).digest()).decode()}'" in POLICY
    (meta,) = [a for tag, a in read(text).seen if a.get("http-equiv") == "content-security-policy"]
    assert meta["content"] == POLICY and "unsafe" not in POLICY and POLICY.startswith("default-src 'none'")
