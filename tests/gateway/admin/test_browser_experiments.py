"""Experiments on the status page, and the report that it links to, in a real Chromium."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from backends.types import Fault
from gateway.admin.app import create
from gateway.admin.guard import Access, key_check
from gateway.experiments.words import State
from routing.experiments.words import Ratio
from tests.gateway.admin import fake
from tests.gateway.admin.browser import Page, browser, find
from tests.gateway.experiments.test_api import DESIGN, OTHER, Shelf, analysed

pytestmark = [pytest.mark.browser, pytest.mark.skipif(find() is None, reason="no Chromium on this machine")]
ROWS = "document.querySelectorAll('#experiments tr').length"


@pytest.fixture(scope="module")
def chromium() -> Iterator[Page]:
    with browser() as page:
        yield page


@pytest.fixture
def page(chromium: Page) -> Iterator[Page]:
    chromium.problems.clear()
    yield chromium
    chromium.send("Page.navigate", url="about:blank")


@pytest.fixture
def shelf() -> Shelf:
    found = Shelf()
    found.states, found.results = {"mini": State("mini", started=1.0)}, {"mini": analysed()}
    return found


def state_of(shelf: Shelf | None) -> fake.FakeState:
    state = fake.busy()
    if shelf is not None:
        state.experiments.follow(shelf, [DESIGN, OTHER])
    state.shown.experiments = len(state.experiments)
    return state


def words(page: Page, selector: str) -> str:
    found: str = page.js(f"document.querySelector({json.dumps(selector)}).innerText")
    return found


def test_the_card_lists_them_with_their_headline(page: Page, shelf: Shelf) -> None:
    with fake.served(create(state_of(shelf))) as url:
        page.open(url + "/")
        page.until(f"{ROWS} === 2")
        assert words(page, "#experiments-note") == "2 of 2 running"
        shown = words(page, "#experiments")
        assert "mini" in shown and "small answers 12 % faster." in shown and "4,310" in shown and "Nothing has been seen yet." in shown
        link = page.js("document.querySelector('#experiments a').href")
        assert link == f"{url}/api/experiments/mini/report"
        assert page.problems == []


def test_without_experiments_there_is_no_card(page: Page) -> None:
    with fake.served(create(state_of(None))) as url:
        page.open(url + "/")
        page.until("document.querySelector('#live b')?.textContent === 'live'")
        assert page.js("document.querySelector('#experiments-card').checkVisibility()") is False
        assert page.problems == []


@pytest.mark.parametrize("width", [360, 768, 1280])
def test_hostile_and_broken_ones_fit(page: Page, shelf: Shelf, width: int) -> None:
    bad = Ratio({"control": 600, "small": 400}, {"control": 500.0, "small": 500.0}, 1e-9, True)
    shelf.results["mini"] = msgspec.structs.replace(analysed(), headline="<img src=x onerror=alert(1)> " + "very " * 60, ratio=bad)
    with fake.served(create(state_of(shelf))) as url:
        page.open(url + "/", width=width)
        page.until(f"{ROWS} === 2")
        assert "Do not trust this yet: <img src=x" in page.js("document.querySelector('#experiments').textContent")
        assert page.js("document.querySelectorAll('#experiments img').length") == 0
        assert page.js("document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0
        assert page.js("[...document.querySelectorAll('#experiments a')].every((a) => a.getBoundingClientRect().right <= innerWidth)")
        assert page.problems == []


def test_a_store_that_cannot_be_read_is_told(page: Page, shelf: Shelf) -> None:
    with fake.served(create(state_of(shelf))) as url:
        page.open(url + "/")
        page.until(f"{ROWS} === 2")
        shelf.fault = Fault("unavailable", "The store of experiments cannot be used now.")
        page.until("document.querySelector('#experiments-note').textContent.includes('cannot be used now')")
        assert page.js("document.querySelector('#live b').textContent") == "live", "all else is shown as ever"
        assert page.js(ROWS) == 2


def test_the_report_opens_under_its_own_policy(page: Page, shelf: Shelf) -> None:
    shelf.results["mini"] = analysed(comments=["<script>window.hacked = 1</script>"])
    with fake.served(create(state_of(shelf))) as url:
        page.open(url + "/api/experiments/mini/report")
        page.until("document.querySelector('h1') && document.querySelector('#result')")
        told: Any = page.js("document.body.innerText")
        assert "small answers 12 % faster." in told and page.js("window.hacked === undefined")
        assert page.js("getComputedStyle(document.body).fontFamily") != "", "its style has passed its policy"
        assert page.js("origin") == "null", "it is in a sandbox"
        assert page.problems == []


def test_with_an_admin_key_the_report_is_saved(page: Page, shelf: Shelf, tmp_path: Path) -> None:
    app = create(state_of(shelf), access=Access(frozenset(), key_check(["open-sesame"])))
    with fake.served(app) as url:
        page.open(url + "/")
        page.until("document.querySelector('#login')?.checkVisibility()")
        page.send("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
        page.js("document.querySelector('#admin-key').value = 'open-sesame'; document.querySelector('#login button').click()")
        page.until(f"{ROWS} === 2")
        page.js("document.querySelector('#experiments a').click()")
        page.until("document.querySelector('#banners').textContent.includes('was saved')")
