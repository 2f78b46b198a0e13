"""The report in a real Chromium: nothing breaks, nothing is wider than the screen, and the numbers are the result's."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway.experiments.report import page
from routing.experiments.words import Result
from tests.gateway.admin.browser import Page, browser, find
from tests.gateway.experiments.report.kinds import KINDS
from tests.gateway.experiments.report.made import NASTY, decided

pytestmark = [pytest.mark.browser, pytest.mark.skipif(find() is None, reason="no Chromium on this machine")]

READY = "location.protocol === 'file:' && 'ready' in document.documentElement.dataset"


@pytest.fixture(scope="module")
def chromium() -> Iterator[Page]:
    with browser() as tab:
        yield tab


@pytest.fixture
def tab(chromium: Page) -> Iterator[Page]:
    chromium.problems.clear()
    yield chromium
    chromium.send("Page.navigate", url="about:blank")


def show(tab: Page, made: Result, folder: Path, width: int = 1280, dark: bool = False) -> None:
    """Opens a result's page, as a file."""
    path = folder / "report.html"
    path.write_text(page(made), "utf-8")
    tab.open(path.as_uri(), width=width, height=900, dark=dark)
    tab.until(READY)


def test_numbers_in_the_page_are_the_results(tab: Page, tmp_path: Path) -> None:
    made = decided()
    show(tab, made, tmp_path)
    assert json.loads(tab.js("document.querySelector('#result').textContent")) == json.loads(msgspec.json.encode(made))
    rows = tab.js("[...document.querySelectorAll('#details tbody tr')].map((r) => ({...r.dataset}))")
    assert [(r["arm"], r["metric"], float(r["value"]), float(r["lo"]), float(r["hi"]), float(r["p"])) for r in rows] == [
        (c.arm, c.metric, c.change.value, c.change.lo, c.change.hi, c.p) for c in made.comparisons
    ]
    cards = tab.js("[...document.querySelectorAll('#arms article')].map((r) => r.innerText)")
    assert "1.84 s" in cards[0] and "10,787" in cards[0] and "winner" in cards[1]
    assert tab.problems == []


def test_where_things_are_drawn(tab: Page, tmp_path: Path) -> None:
    """The forest's diamonds stand where their numbers are, on one axis; a better value of the frontier is higher up."""
    made = decided()
    show(tab, made, tmp_path)
    code = """[...document.querySelectorAll('#changes .drawn > svg')].map((s) => {
        const box = s.getBoundingClientRect(), mark = s.querySelector('.estimate').getBoundingClientRect();
        return (mark.left + mark.width / 2 - box.left) / box.width; })"""
    places: list[float] = tab.js(code)
    values = [c.change.value or 0.0 for c in made.comparisons]
    scale = (places[0] - 0.5) / values[0]
    assert [round(p - 0.5, 2) for p in places] == [round(v * scale, 2) for v in values]
    spots: dict[str, Any] = tab.js("""Object.fromEntries([...document.querySelectorAll('#frontier .panel:first-child .mark[data-say]')].map(
        (m) => { const b = m.getBoundingClientRect(); return [m.dataset.arm, [b.left, b.top]]; }))""")
    assert spots["candidate"][0] < spots["control"][0] and spots["candidate"][1] < spots["control"][1]


WIDE = """[document.documentElement.scrollWidth - window.innerWidth,
    [...document.querySelectorAll('section, article, .panel, .plot, header, .scroll, h1, h3, li')].filter((e) =>
    !e.parentElement.closest('.scroll') && e.getBoundingClientRect().right > document.documentElement.clientWidth + 0.5).length]"""


@pytest.mark.parametrize("kind", KINDS)
def test_no_page_is_wider_than_the_screen(tab: Page, tmp_path: Path, kind: str) -> None:
    show(tab, KINDS[kind](), tmp_path)
    for width in (360, 768, 1280):
        tab.send("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600)
        beyond, parts = tab.js(WIDE)
        assert (beyond <= 0, parts) == (True, 0), width
    assert tab.problems == []


def test_hostile_texts_stay_text(tab: Page, tmp_path: Path) -> None:
    show(tab, KINDS["nasty"](), tmp_path)
    assert tab.js("document.querySelector('h1').textContent") == NASTY
    assert tab.js("document.querySelectorAll('img').length + document.querySelectorAll('script').length") == 2
    assert tab.problems == []


def test_plots_are_read_by_pointer_and_keys(tab: Page, tmp_path: Path) -> None:
    show(tab, decided(), tmp_path)
    tab.js("document.querySelector('#course .plot').focus()")
    for _ in range(2):
        tab.send("Input.dispatchKeyEvent", type="keyDown", key="ArrowRight")
    assert "units: " in tab.js("document.querySelector('#course .tip').textContent")
    assert tab.js("document.querySelectorAll('#course .now').length") == 1
    tab.send("Input.dispatchKeyEvent", type="keyDown", key="Escape")
    assert tab.js("document.querySelector('#course .tip').hidden")
    box = tab.js("""(() => { const m = document.querySelector('#frontier .mark[data-say]'); m.scrollIntoView({block: 'center'});
        const b = m.getBoundingClientRect(); return [b.left + b.width / 2, b.top + b.height / 2]; })()""")
    tab.send("Input.dispatchMouseEvent", type="mouseMoved", x=box[0], y=box[1])
    assert tab.js("document.querySelector('#frontier .tip').textContent").startswith("control: $0.0021")
    assert tab.problems == []


@pytest.mark.parametrize("dark", [False, True])
def test_texts_have_contrast(tab: Page, tmp_path: Path, dark: bool) -> None:
    """At least 4.5 to 1 for every text, against what is behind it (WCAG 2.2, 1.4.3)."""
    show(tab, KINDS["five"](), tmp_path, dark=dark)
    code = """(() => {
        const part = (v) => { v /= 255; return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; };
        const parts = (c) => c.match(/[\\d.]+/g).map(Number);
        const light = (c) => { const [r, g, b] = parts(c); return .2126 * part(r) + .7152 * part(g) + .0722 * part(b); };
        const back = (e) => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor;
            if (!/, 0\\)$/.test(c)) return c; } return 'rgb(255, 255, 255)'; };
        const bad = [];
        for (const e of document.querySelectorAll('main *')) {
            if (![...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim()) || !e.checkVisibility()) continue;
            const svg = e.closest('svg');
            if (e.matches('title') || e.matches('.disc-text')) continue;
            const style = getComputedStyle(e), a = light(svg ? style.fill : style.color), b = light(back(svg ? svg.parentElement : e));
            if ((Math.max(a, b) + .05) / (Math.min(a, b) + .05) < 4.5) bad.push(e.textContent.slice(0, 40));
        }
        return bad; })()"""
    assert tab.js(code) == []
