"""The report in a real Chromium: nothing breaks, nothing is wider than the screen, and it says what it draws."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.bench.plain import plain
from benchmarks.bench.report import page
from benchmarks.bench.report.script import SCRIPT
from benchmarks.bench.words import Result, Stage
from tests.bench.made_runs import KINDS, small_sweep
from tests.gateway.admin.browser import Page, browser, find

pytestmark = [pytest.mark.browser, pytest.mark.skipif(find() is None, reason="no Chromium on this machine")]

READY = "location.protocol === 'file:' && 'ready' in document.documentElement.dataset"
WIDE = """[document.documentElement.scrollWidth - window.innerWidth,
    [...document.querySelectorAll('section, article, .panel, .plot, header, .scroll, h1, h3, li, pre, dd')].filter((e) =>
    !e.parentElement.closest('.scroll') && e.getBoundingClientRect().right > document.documentElement.clientWidth + 0.5).length]"""


@pytest.fixture(scope="module")
def chromium() -> Iterator[Page]:
    with browser() as tab:
        yield tab


@pytest.fixture
def tab(chromium: Page) -> Iterator[Page]:
    chromium.problems.clear()
    yield chromium
    chromium.send("Page.navigate", url="about:blank")


def show(tab: Page, made: tuple[Result, list[Stage]], folder: Path, width: int = 1280, dark: bool = False) -> None:
    """Opens a run's page, as a file."""
    path = folder / "report.html"
    path.write_bytes(page(*made))
    tab.open(path.as_uri(), width=width, height=900, dark=dark)
    tab.until(READY)


@pytest.mark.parametrize("kind", KINDS)
def test_no_page_is_wider_than_the_screen(tab: Page, tmp_path: Path, kind: str) -> None:
    made = KINDS[kind]()
    show(tab, made, tmp_path)
    assert json.loads(tab.js("document.querySelector('#result').textContent")) == plain(made[0])
    tab.js("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    for width in (360, 768, 1280):
        tab.send("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600)
        beyond, parts = tab.js(WIDE)
        assert (beyond <= 0, parts) == (True, 0), width
    assert tab.js("document.querySelectorAll('img').length + document.querySelectorAll('script').length") == 2
    assert tab.problems == []


def test_marks_stand_where_their_numbers_are(tab: Page, tmp_path: Path) -> None:
    """Offered rates along x are linear from zero; a greater latency is higher up."""
    result, _ = made = small_sweep()
    show(tab, made, tmp_path)
    places = tab.js("""(() => { const panel = document.querySelector('#load .panel');
        const room = panel.querySelector('.room').getBoundingClientRect();
        return [...panel.querySelectorAll('.mark.s0[data-say]')].map((m) => { const b = m.getBoundingClientRect();
            return [(b.left + b.width / 2 - room.left) / room.width, b.top]; }); })()""")
    rates = sorted((one.median.offered_rate, one.median.ttft_due.p50 or 0.0) for one in result.levels if one.profile.name == "rate")
    scale = places[-1][0] / rates[-1][0]
    assert [round(x, 2) for x, _ in places] == [round(rate * scale, 2) for rate, _ in rates]
    order = sorted(range(len(rates)), key=lambda i: rates[i][1])
    assert order == sorted(range(len(places)), key=lambda i: -places[i][1])


def test_plots_are_read_by_pointer_and_keys(tab: Page, tmp_path: Path) -> None:
    show(tab, small_sweep(), tmp_path)
    tab.js("document.querySelector('#latency .plot').focus()")
    for _ in range(2):
        tab.send("Input.dispatchKeyEvent", type="keyDown", key="ArrowRight")
    assert " within " in tab.js("document.querySelector('#latency .tip').textContent")
    assert tab.js("document.querySelectorAll('#latency .now').length") == 1
    tab.send("Input.dispatchKeyEvent", type="keyDown", key="Escape")
    assert tab.js("document.querySelector('#latency .tip').hidden")
    box = tab.js("""(() => { const m = document.querySelector('details[open] .row[data-say] rect'); m.scrollIntoView({block: 'center'});
        const b = m.getBoundingClientRect(); return [b.left + 2, b.top + b.height / 2]; })()""")
    tab.send("Input.dispatchMouseEvent", type="mouseMoved", x=box[0], y=box[1])
    assert tab.js("document.querySelector('details[open] .tip').textContent").startswith("request ")
    assert tab.problems == []


def test_a_figures_name_leads_to_its_definition(tab: Page, tmp_path: Path) -> None:
    show(tab, small_sweep(), tmp_path)
    tab.js("document.querySelector('#levels th a[href=\"#def-tpot\"]').click()")
    assert tab.js("document.querySelector(':target').textContent") == "TPOT"


def test_the_page_is_whole_without_its_script(tab: Page, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_bytes(page(*small_sweep()).replace(f"<script>{SCRIPT}</script>".encode(), b""))
    tab.open(path.as_uri(), width=1280, height=900)
    tab.until("location.protocol === 'file:' && document.querySelector('#result')")
    assert tab.js("document.querySelectorAll('.plot svg').length") > 20
    assert tab.js("document.querySelectorAll('#load .mark title').length") > 20
    assert tab.js("document.querySelectorAll('.tip').length") == 0
    assert tab.problems == []


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("kind", ["sweep", "starved"])
def test_texts_have_contrast(tab: Page, tmp_path: Path, kind: str, dark: bool) -> None:
    """At least 4.5 to 1 for every text against what is behind it, 3 to 1 for lines (WCAG 2.2, 1.4.3 and 1.4.11)."""
    show(tab, KINDS[kind](), tmp_path, dark=dark)
    code = """(() => {
        const part = (v) => { v /= 255; return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; };
        const light = (c) => { const [r, g, b] = c.match(/[\\d.]+/g).map(Number);
            return .2126 * part(r) + .7152 * part(g) + .0722 * part(b); };
        const ratio = (x, y) => { const a = light(x), b = light(y); return (Math.max(a, b) + .05) / (Math.min(a, b) + .05); };
        const back = (e) => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor;
            if (!/, 0\\)$/.test(c)) return c; } return 'rgb(255, 255, 255)'; };
        const bad = [];
        for (const e of document.querySelectorAll('main *')) {
            if (!e.checkVisibility()) continue;
            const svg = e.closest('svg'), style = getComputedStyle(e);
            if (e.matches('.curve:not(.ideal):not(.under)') &&
                ratio(style.stroke, back(svg.parentElement)) < 3) bad.push(e.outerHTML.slice(0, 60));
            if (e.matches('title, .disc-text') || ![...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim())) continue;
            if (ratio(svg ? style.fill : style.color, back(svg ? svg.parentElement : e)) < 4.5) bad.push(e.textContent.slice(0, 40));
        }
        return bad; })()"""
    assert tab.js(code) == []
