"""The report's page, without a browser: whatever a run is, it is drawn, and nothing in it is more than text."""

from __future__ import annotations

import json
import math
import re
from html.parser import HTMLParser

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.bench.figures import DEFINITIONS
from benchmarks.bench.paired import Difference, Interval, paired
from benchmarks.bench.plain import plain
from benchmarks.bench.report import POLICY, cdf, forest, page, seen, timeline
from benchmarks.bench.report.axes import Axis, around, from_zero
from benchmarks.bench.report.markup import plain as escaped
from benchmarks.bench.words import Figures, Profile, Sample, Timed
from tests.bench.made_runs import KINDS, NASTY, run, small_sweep, stage

VOID = {"meta", "br", "hr", "img", "link", "input"}


class Read(HTMLParser):
    """What stands in a page. Every element must be closed in its turn."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


@pytest.mark.parametrize("raw", [True, False], ids=["raw", "summary"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_run_has_a_page(kind: str, raw: bool) -> None:
    result, stages = KINDS[kind]()
    text = page(result, stages if raw else ()).decode()
    read = Read(text)
    assert [tag for tag, _ in read.tags].count("script") == 2
    assert not re.search(r'(?:href|src|action)="(?!#)', text)
    assert "url(" not in text and "@import" not in text
    assert not any(name.startswith("on") or name == "style" for _, given in read.tags for name in given)
    drawn = [value or "" for _, given in read.tags for name, value in given.items() if name in ("x", "y", "points", "cx", "cy", "x1", "y2")]
    assert not any("nan" in value or "inf" in value for value in drawn)
    ids = [given["id"] for _, given in read.tags if "id" in given]
    assert len(ids) == len(set(ids))
    targets = {(given["href"] or "")[1:] for tag, given in read.tags if tag == "a"}
    assert targets <= set(ids)


def test_the_whole_result_is_in_the_page() -> None:
    result, stages = KINDS["nasty"]()
    found = re.search(r'<script type="application/json" id="result">(.*?)</script>', page(result, stages).decode(), re.S)
    assert found is not None and "<" not in found[1]
    assert json.loads(found[1]) == plain(result)


def test_what_a_server_says_is_text() -> None:
    result, stages = KINDS["nasty"]()
    text = page(result, stages).decode()
    assert "<img" not in text and "<script>alert" not in text and "\x1b" not in text
    said = "".join(Read(text).words)
    assert NASTY.replace("\x1b", "\ufffd") in said


@given(st.text(st.characters(), max_size=40))
def test_no_text_is_markup(text: str) -> None:
    assert not set(escaped(text)) & set("<>\"'\x00\x1b\ud800\u202e")
    escaped(text).encode()


def test_a_definition_stands_beside_each_figure() -> None:
    read = Read(page(*small_sweep()).decode())
    heads = [given for tag, given in read.tags if tag == "th" and given.get("title")]
    assert {given["title"] for given in heads} >= {DEFINITIONS[k] for k in ("ttft", "tpot", "itl", "e2e", "ttft_due", "error_rate")}
    words = " ".join(read.words)
    assert all(text in words for text in DEFINITIONS.values())


def test_the_page_says_what_was_measured_and_how_to_repeat_it() -> None:
    result, stages = small_sweep()
    words = " ".join(Read(page(result, stages).decode()).words)
    for said in (
        "saturates above 9/s",
        "4 · 4 requests/s",
        "pointsman bench http://127.0.0.1:8484/v1",
        "0123456789ab",
        "5f3a9c",
        "31.2 GiB",
    ):
        assert said in words
    for plot in ("TTFT against offered rate", "Throughput against TPOT", "Goodput", "Memory", "Requests under way", "Whole answer (E2E)"):
        assert plot in words


def test_without_requests_percentiles_are_drawn_and_the_rest_says_why() -> None:
    words = " ".join(Read(page(small_sweep()[0]).decode()).words)
    assert "Drawn from percentiles" in words and "The single requests were not kept" in words


def test_the_clients_trouble_comes_first() -> None:
    result, stages = KINDS["starved"]()
    text = page(result, stages).decode()
    assert text.index("The client was late by 31 ms") < text.index('id="levels"')
    assert 'class="top bad"' in text


@given(st.lists(st.floats(1e-6, 100), min_size=1, max_size=500))
def test_a_distribution_rises_to_one(values: list[float]) -> None:
    ordered = sorted(values)
    points = cdf.curve(ordered)
    assert points[-1] == (ordered[-1], 1.0)
    assert points == sorted(points)
    assert all(share == sum(v <= x for v in ordered) / len(ordered) or ordered.count(x) > 1 for x, share in points)


@given(st.lists(st.tuples(st.floats(0.01, 50), st.floats(0.001, 9)), min_size=1, max_size=60))
def test_requests_under_way_add_up(spans: list[tuple[float, float]]) -> None:
    timed = [Timed(i, 0.0, sent=a, done=a + d, status=200) for i, (a, d) in enumerate(spans)]
    made = stage(Profile("sync"), 1)
    made.timed = timed
    moments, counts = timeline.under_way(made)
    assert counts[-1] == 0 and min(counts) >= 0
    area = sum(n * (b - a) for n, a, b in zip(counts, moments, moments[1:], strict=False))
    assert math.isclose(area, sum(t.done - t.sent for t in timed), rel_tol=1e-6)
    pieces = timeline.binned(moments, counts, moments[-1])
    assert math.isclose(sum(mean for _, _, mean, _ in pieces) * moments[-1] / len(pieces), area, rel_tol=1e-6)
    assert all(low <= mean + 1e-9 and mean <= most + 1e-9 for _, low, mean, most in pieces)


def test_a_window_is_around_the_busiest_moment() -> None:
    made = stage(Profile("rate", 8.0), 900)
    found = timeline.window(made.timed, 60.0)
    assert timeline.FEW <= len(found) <= timeline.MOST
    assert found[0].due < 60.0 < found[-1].due
    assert [t.index for t in found] == list(range(found[0].index, found[0].index + len(found)))
    assert len(timeline.window(made.timed[:10], 1.0)) == 10


def test_a_bars_parts_are_its_times() -> None:
    t = Timed(0, due=1.0, sent=1.5, stamps=[2.0, 2.5], done=2.6, status=200)
    assert timeline.parts(t) == [("wait", 1.0, 1.5), ("prefill", 1.5, 2.0), ("decode", 2.0, 2.6)]
    t.error = "it broke"
    assert timeline.parts(t) == [("wait", 1.0, 1.5), ("bad", 1.5, 2.6)]


def test_memory_runs_on_over_stages() -> None:
    stages = [stage(Profile("sync"), 5, seed) for seed in range(2)]
    for i, one in enumerate(stages):
        one.seconds = 10.0
        one.samples = [Sample(float(s), 1, {"server": (100 + i) << 20}) for s in range(10)]
    words = " ".join(Read(timeline.memory(stages) or "").words)
    assert "101 MiB at most, 1.00 MiB more at the end than at first (1.0 %)" in words
    assert timeline.memory([]) is None


@given(st.floats(1e-9, 1e9), st.floats(1e-9, 1e9))
def test_an_axis_holds_its_values_and_has_ticks(a: float, b: float) -> None:
    for axis in (from_zero([a, b]), around([a, b])):
        assert axis is not None
        ticks = axis.ticks()
        assert 1 <= len(ticks) <= 9 and ticks == sorted(ticks)
        assert 0 <= axis.at(a) <= 100 and (axis.at(a) <= axis.at(b)) == (a <= b or axis.at(a) == axis.at(b))
        assert all(axis.lo * 0.999 <= t <= axis.hi * 1.001 for t in ticks)


def test_there_is_no_axis_of_nothing() -> None:
    assert from_zero([None, 0.0, math.nan]) is None and around([0.0, -1.0, math.inf, None]) is None
    assert Axis(1.0, 100.0, True).ticks(7) == [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0]
    assert Axis(0.0, 10.0).ticks() == [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]


def test_many_levels_are_thinned_evenly() -> None:
    levels = seen.shown(run([[stage(Profile("rate", float(r)), 5)] for r in range(20, 0, -1)]), ())
    assert [one.profile.value for one in levels] == [float(r) for r in range(1, 21)]
    some = seen.chosen(levels, 8)
    assert len(some) == 8 and some[0] is levels[0] and some[-1] is levels[-1]


@settings(max_examples=40)
@given(st.data())
def test_figures_of_any_kind_are_drawn(data: st.DataObject) -> None:
    """Fields are taken away or made odd, one by one."""
    result, stages = KINDS["one_request"]()
    odd: dict[str, object] = {}
    for name in ("request_rate", "offered_rate", "output_rate", "concurrency", "cached_share", "output_share"):
        odd[name] = data.draw(st.sampled_from([0.0, 1.0, -1.0, math.nan, math.inf, 1e308, 1e-320]))
    odd["profile"] = Profile("rate", data.draw(st.sampled_from([0.0, 3.0, math.inf, math.nan])))
    median: Figures = msgspec.structs.replace(result.levels[0].median, **odd)
    result.levels[0] = msgspec.structs.replace(result.levels[0], profile=median.profile, median=median)
    Read(page(result, stages).decode())


def test_ratios_of_a_comparison() -> None:
    a, b = stage(Profile("sync"), 80, seed=1), stage(Profile("sync"), 80, seed=1)
    for t in b.timed:
        t.stamps = [s + 0.02 for s in t.stamps]
    read = Read(forest.ratios(paired(a.timed, b.timed), (NASTY, "B")))
    said = [given["data-say"] or "" for _, given in read.tags if "data-say" in given]
    assert [s.split(":")[0] for s in said] == ["TTFT", "TPOT", "E2E"]
    kinds = [(given["class"] or "").split()[-1] for _, given in read.tags if "data-say" in given]
    assert kinds == ["s1", "unsure", "s1"]
    assert "No pair was answered whole" in " ".join(Read(forest.ratios(paired(a.timed, []), ("A", "B"))).words)


@given(st.lists(st.tuples(*[st.sampled_from([None, 0.0, 1e-9, 0.5, 1.0, 2.0, 1e9, math.inf])] * 3), min_size=1, max_size=4))
def test_ratios_of_any_kind_are_drawn(found: list[tuple[float | None, ...]]) -> None:
    made = {
        f"m{i}": Difference(f"m{i}", 9, 1.0, 1.0, None, None if v is None else Interval(v, low, high), None, "")
        for i, (v, low, high) in enumerate(found)
    }
    text = forest.ratios(made, ("A", "B"))
    Read(text)
    assert "nan" not in text and "inf" not in text.replace("infinite", "")


def test_the_policy_lets_nothing_else_run() -> None:
    assert POLICY.startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in POLICY and "http" not in POLICY
