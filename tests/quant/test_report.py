"""The page of an evaluation: everything is in it, nothing else is loaded, and no name can become markup."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser

import msgspec
import pytest

from quant.evaluate import Evaluation, Measured, recommended
from quant.evaluate_figures import Estimate, Scores, share
from quant.evaluate_figures import TaskScores as Tasks
from quant.evaluate_jobs import Speed
from quant.label import Identity
from quant.report import STYLE, page, size
from quant.report.chart import Axis, Point, axis, plot

HOSTILE = 'x"><script>alert(1)</script>&amp;\u2028.gguf'
VOID = {"meta", "br"}


class Reader(HTMLParser):
    """Checks that elements are closed in order; collects text and attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def read(text: str) -> Reader:
    reader = Reader()
    reader.feed(text)
    reader.close()
    assert reader.open == []
    return reader


def model(name: str, kind: str, gib: float, kld: float | None, **given: object) -> Measured:
    on = Scores(20, 5000, Estimate(6.4, 6.0, 6.8))
    if kld is not None:
        on = Scores(
            20, 5000, on.perplexity, Estimate(6.2), Estimate(1.03, 1.02, 1.04), Estimate(kld, kld * 0.9, kld * 1.1), kld * 9, kld * 60,
            "code_c", Estimate(0.92, 0.9, 0.94), Estimate(0.03, 0.02, 0.04), 0.05,
        )  # fmt: skip
    made = Measured(
        f"/m/{name}", name, kind, Identity(int(gib * (1 << 30)), "s", "f" * 64), gib, False, on, None, None, Speed(60 / gib, 500.0)
    )
    return msgspec.structs.replace(made, **given)


def evaluation(*models: Measured, source: Measured | None = None, **given: object) -> Evaluation:
    best, why = recommended(models)
    made = Evaluation("2026-11-22T10:00:00+00:00", "xllamacpp 1", 4, "abc", source, models, recommended=best, why=why)
    return msgspec.structs.replace(made, **given)


F16 = model("f16.gguf", "F16", 15.0, None)
Q8, Q4, Q2 = model("q8.gguf", "Q8_0", 8.0, 0.0014), model("q4.gguf", "Q4_K_M", 4.6, 0.0281), model("q2.gguf", "Q2_K", 3.2, 0.44)


def test_everything_is_on_it() -> None:
    tasks = Tasks(32, share(30, 32), share(31, 32), share(1, 32))
    q4 = msgspec.structs.replace(Q4, tasks=tasks, prompts=Q4.scores)
    ill = model("ill.gguf", "", 1.0, None, scores=None, failed="ill.gguf is cut off.")
    found = evaluation(Q8, q4, Q2, ill, source=F16, own="def", own_count=7, notes=("One was left out.",))
    text = page(found)
    reader = read(text)
    said = " ".join(reader.texts)
    for part in (
        "Take Q4_K_M", "Q4_K_M is the smallest with a KLD below 0.03 (0.028).", "92 % same first choice as the source, 31 % of its size",
        "20 texts, 5000 tokens", "0.025 to 0.031", "30 of 32", "1 changed", "small", "severe", "negligible", "7 prompts",
        "ill.gguf is cut off.",
        "One was left out.", "recommended", "f" * 64, "4.6 GiB",
    ):  # fmt: skip
        assert part in said, part
    assert reader.tags.count("circle") == 2 * (4 + 1)  # four models in two plots, and a ring around the best in each
    exact = re.search(r'<script type="application/json" id="evaluation">(.*?)</script>', text)
    assert exact is not None and msgspec.convert(json.loads(exact[1]), Evaluation) == found


def test_it_needs_nothing_else() -> None:
    text = page(evaluation(Q8, Q4, source=F16))
    (policy,) = [value for name, value in read(text).attributes if name == "content" and "default-src" in value]
    digest = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
    assert digest in policy and policy.startswith("default-src 'none';")
    assert f"<style>{STYLE}</style>" in text
    assert not re.search(r"https?://|src=|href=|@import|url\(", text)
    assert text.count("<script") == 1 and "style=" not in text and "onload" not in text


def test_no_name_becomes_markup() -> None:
    ill = model(HOSTILE, HOSTILE, 1.0, None, scores=None, failed=HOSTILE)
    text = page(
        evaluation(model(HOSTILE, HOSTILE, 4.0, 0.2), ill, source=model(HOSTILE, HOSTILE, 9.0, None), notes=(HOSTILE,), why=HOSTILE)
    )
    reader = read(text)
    assert reader.tags.count("script") == 1 and HOSTILE in reader.texts


@pytest.mark.parametrize("found", [
    evaluation(F16), evaluation(Q4, source=None), evaluation(model("a", "", 1.0, 0.0), model("b", "", 1.0, 0.0), source=F16),
    evaluation(model("a", "Q2_K", 2.0, 0.5), source=F16), evaluation(model("a", "x", 1e-6, 5.0, speed=None), source=F16),
])  # fmt: skip
def test_with_little_to_show(found: Evaluation) -> None:
    said = " ".join(read(page(found)).texts)
    assert "How this was made" in said and "nan" not in said and "None" not in said.replace("None of them", "").replace("None has", "")


def test_points_lie_where_they_belong() -> None:
    points = [
        Point(at, f"K{at}", size, kld, None, None, f"K{at}") for at, (size, kld) in enumerate(((1e9, 0.5), (2e9, 0.1), (4e9, 0.0)), 1)
    ]
    text = plot(points, 0.03, size, "size", float(1 << 30))
    places = [(float(x), float(y)) for x, y in re.findall(r'class="dot" cx="([\d.]+)%" cy="([\d.]+)"', text)]
    assert [x for x, _ in places] == sorted(x for x, _ in places) and all(5 < x < 95 for x, _ in places)
    assert [y for _, y in places] == sorted((y for _, y in places), reverse=True)  # what is closer to the source is higher
    band = re.search(r'class="good"[^>]* height="([\d.]+)"', text)
    assert band is not None and places[2][1] < float(band[1]) < places[1][1]
    assert re.findall(r'class="name"[^>]*>(K\d)<', text) == ["K1", "K2", "K3"]


def test_names_without_room_are_left_out() -> None:
    points = [Point(at, f"Q4_K_M_{at}", 1e9, 0.1, None, None, "x", "best" if at == 7 else "") for at in range(1, 12)]
    names = re.findall(r'class="name"[^>]*>([^<]+)<', plot(points, 0.03, size, "size"))
    assert names[0] == "Q4_K_M_7" and 0 < len(names) < 11


def test_axes() -> None:
    for lo, hi in ((1e-5, 20.0), (0.9, 1.1), (1.0, 16.0), (2.4, 2.7), (1e-4, 0.03)):
        found = Axis(lo, hi)
        ticks = found.ticks(6)
        assert ticks == sorted(ticks) and len(ticks) <= 7 and all(0 <= found.at(tick) <= 1 for tick in ticks)
    assert Axis(1.0, 100.0).at(10.0) == pytest.approx(0.5) and Axis(1.0, 10.0).at(0.0) == 0.0 and Axis(1.0, 10.0).at(99.0) == 1.0
    assert axis([], 0.1).lo < 1.0 < axis([0.0], 0.1).hi


def test_sizes() -> None:
    assert [size(value) for value in (512.0, 1.5 * (1 << 20), 4.58 * (1 << 30), 16.0 * (1 << 30))] == [
        "0.5 KiB",
        "1.5 MiB",
        "4.58 GiB",
        "16 GiB",
    ]
