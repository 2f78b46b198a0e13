"""The pages: well-formed, offline, escaped, and bars as long as they should be."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from benchmarks.overhead import html
from benchmarks.overhead.charts import Bar, bars, line, ticks
from benchmarks.overhead.soak import Point, Soak
from tests.benchmarks.samples import one_round, result, small

VOID = {"meta"}


class Reader(HTMLParser):
    """Checks that tags are closed in order; keeps attributes, texts and tables."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """A tag opens."""
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """A tag that closes itself."""
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        """A tag closes."""
        assert self.open and self.open.pop() == tag, (tag, self.open)

    def handle_data(self, data: str) -> None:
        """A text."""
        if data.strip():
            self.texts.append((self.open[-1], data.strip()))


def read(text: str) -> Reader:
    """Parses a whole page, or fails."""
    reader = Reader()
    reader.feed(text)
    reader.close()
    assert reader.open == []
    return reader


def soaks() -> list[Soak]:
    """One that grew by 1.5 and 0.2 MiB, and one that broke."""
    points = [
        Point("idle", 0, 0, 40.0, 2.0),
        Point("20,000 answers", 20_000, 0, 50.0, 10.0),
        Point("200,000 answers", 200_000, 0, 51.5, 40.0),
    ]
    points += [Point("200,000 chunks", 200_000, 200_046, 52.0, 50.0), Point("2,000,000 chunks", 200_000, 2_000_064, 52.2, 90.0)]
    return [Soak("pointsman", points, [(0.5, 40.0), (45.0, 60.0), (90.0, 52.2)]), Soak("nginx", [], [], "Broken: <gone>")]


PAGES = {
    "small": lambda: html.page(small()),
    "one": lambda: html.page(result({"only": [one_round(10, 5)]}, failed={"other": "no <b>luck</b>"})),
    "none": lambda: html.page(result({"only": []}, repeats=1)),
    "soak": lambda: html.soak_page("2026", {"kernel": "Linux"}, soaks()),
    "no soak": lambda: html.soak_page("2026", {}, []),
}


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_well_formed_and_needs_nothing_else(name: str) -> None:
    text = PAGES[name]()
    reader = read(text)
    assert text.startswith("<!doctype html>") and text.count("<html") == 1
    assert {"script", "link", "img", "iframe", "object", "base"}.isdisjoint(tag for tag, _ in reader.seen)
    assert not any(k in a for _, a in reader.seen for k in ("src", "href", "style", "xlink:href"))
    assert not re.search(r"https?://|@import|url\(", text)
    assert ("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}) in reader.seen


def test_the_page_of_a_run() -> None:
    reader = read(html.page(small()))
    tiles = [text for tag, text in reader.texts if tag == "strong"]
    assert tiles == ["42,000", "12 µs", "0.15 ms", "0"]
    assert [t for tag, t in reader.texts if tag == "small"] == ["0.84 of nginx", "64 connections", "1 connection", "of 1,000 at once"]
    charts = [a["aria-label"] or "" for tag, a in reader.seen if tag == "svg"]
    assert charts[0] == "Requests a second. direct: 100,000; nginx: 50,000; pointsman: 42,000"
    assert charts[1] == "CPU microseconds a request. nginx: 10 µs; pointsman: 12 µs"
    assert charts[2] == "Added latency. nginx: 0.150 ms; pointsman: 0.150 ms"
    assert charts[3] == "Chunks a second. direct: 50,000; nginx: 50,000; pointsman: 25,000"
    assert charts[4] == "p99 delay of a chunk. direct: 2.00 ms; nginx: 2.00 ms; pointsman: 2.00 ms"
    assert charts[5] == "Peak memory. nginx: 40 MiB; pointsman: 40 MiB"
    assert len(charts) == 6
    assert sum(tag == "table" for tag, _ in reader.seen) == 7


def test_without_pointsman_there_are_no_tiles_and_what_failed_is_said() -> None:
    text = PAGES["one"]()
    assert 'class="tiles"' not in text and "Not measured: other: no &lt;b&gt;luck&lt;/b&gt;." in text


def test_lost_streams_and_lower_bounds_stand_with_the_figures() -> None:
    rounds = [one_round(100, 10, c256={"core0": 0.5, "core1": 0.99, "rps": 900.0, "requests": 2700.0}, sse1000={"lost": 7.0})]
    labels = [a["aria-label"] for tag, a in read(html.page(result({"x": rounds}))).seen if tag == "svg"]
    assert "Requests a second. x: 900*" in labels and "Chunks a second. x: 10, 7 lost" in labels


def test_a_busy_machine_is_said() -> None:
    bad = {name: {"foreign0": 0.5} for name in ("c1", "c16", "c64", "c256", "sse0")}
    assert "This machine was busy: 5 of 8 phases" in html.page(result({"x": [one_round(100, 10, 0.25, **bad)]}))


def test_hostile_names_are_escaped() -> None:
    name = '<script>alert("1")</script>&'
    made = result(
        {name: [one_round(10, 5)]}, machine={name: name}, notes={name: {"version": name, "about": name}}, command=[name], when=name
    )
    reader = read(html.page(made))
    assert "script" not in {tag for tag, _ in reader.seen}


def test_the_page_of_a_soak() -> None:
    text = html.soak_page("2026", {"kernel": "Linux"}, soaks())
    assert "Growth: +1.5 over the answers, +0.2 over the chunks." in text
    assert "Not finished: Broken: &lt;gone&gt;" in text
    assert "<title>2,000,000 chunks: 52.2 MiB</title>" in text


def test_bars_are_in_proportion_to_the_greatest_of_values_and_ranges() -> None:
    items = [Bar("a", 50, "50", "ours", 40, 80), Bar("b", 20, "20", low=20, high=20), Bar("c", -1, "-1")]
    seen = read(bars("Title", items)).seen
    assert [a["width"] for tag, a in seen if tag == "rect" and a["class"] == "bar"] == ["62.50%", "25.00%", "0.00%"]
    ranges = [(a["x1"], a["x2"]) for tag, a in seen if tag == "line"]
    assert ranges == [("50.00%", "100.00%"), ("50.00%", "50.00%"), ("100.00%", "100.00%")]  # none for a range of nothing
    assert [a["class"] for tag, a in seen if tag == "g"] == ["ours", "other", "other"]


def test_bars_of_nothing() -> None:
    assert 'height="0"' in bars("Title", [])
    assert 'width="0.00%"' in bars("Title", [Bar("a", 0, "0")])


@pytest.mark.parametrize(
    ("top", "expected"), [(0, [0, 1]), (1, [0, 0.5, 1]), (14.8, [0, 5, 10, 15]), (30, [0, 10, 20, 30]), (170, [0, 50, 100, 150, 200])]
)
def test_ticks_are_round_and_reach_the_top(top: float, expected: list[float]) -> None:
    assert ticks(top) == pytest.approx(expected)


def test_a_line_spans_its_time_and_starts_at_zero() -> None:
    text = line("Memory", [(0.0, 0.0), (5.0, 10.0), (10.0, 5.0)], "MiB", [(10.0, 5.0, "end")])
    reader = read(text)
    assert [a["points"] for tag, a in reader.seen if tag == "polyline"] == ["0.00,100.00 50.00,0.00 100.00,50.00"]
    assert [(a["cx"], a["cy"]) for tag, a in reader.seen if tag == "circle"] == [("100.00%", "94.0")]
    assert "10 MiB" in text and "10 s" in text
