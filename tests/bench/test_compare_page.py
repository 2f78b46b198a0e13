"""The page of a comparison: what it says, and how it stands in a real Chromium."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.bench.compare import Comparison, text
from benchmarks.bench.compare_page import page
from benchmarks.bench.paired import paired
from benchmarks.bench.plain import plain
from benchmarks.bench.words import Profile, Stage
from tests.bench import made_runs
from tests.gateway.admin.browser import browser, find


def made(fail: float = 0.0) -> tuple[Comparison, tuple[str, str], list[Stage]]:
    stages = [made_runs.stage(Profile("concurrent", value=2), 60, seed=seed, fail=fail, memory=False) for seed in (1, 2)]
    a, b = (made_runs.run([[stage]], model=made_runs.NASTY) for stage in stages)
    return Comparison(a, b, paired(stages[0].timed, stages[1].timed)), ("http://one/v1", made_runs.NASTY), stages


@pytest.mark.parametrize("fail", [0.0, 1.0])
def test_it_says_what_is_sure_and_escapes_the_rest(fail: float) -> None:
    found, names, stages = made(fail)
    for raw in (stages, []):
        told = page(found, names, raw).decode()
        assert "<img src=x" not in told and "<script>alert" not in told
        assert "http://one/v1" in told and "95 % interval" in told
    shown = text(found)
    assert "A by itself" in shown and "\x1b" not in shown and ("too few" in shown or "no pair" in shown or "B - A" in shown)


@pytest.mark.browser
@pytest.mark.skipif(find() is None, reason="no Chromium on this machine")
def test_it_is_no_wider_than_the_screen(tmp_path: Path) -> None:
    found, names, stages = made()
    path = tmp_path / "compare.html"
    path.write_bytes(page(found, names, stages))
    with browser() as tab:
        tab.open(path.as_uri(), width=1280, height=900, dark=False)
        tab.until("'ready' in document.documentElement.dataset")
        assert json.loads(tab.js("document.querySelector('#result').textContent")) == plain(found)
        tab.js("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
        for width in (360, 1280):
            tab.send("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600)
            assert tab.js("document.documentElement.scrollWidth - window.innerWidth") <= 0, width
        rows = tab.js("[...document.querySelectorAll('#difference tbody tr')].map((r) => r.innerText)")
        assert [row.split()[0] for row in rows] == ["TTFT", "TPOT", "E2E"] and tab.problems == []
