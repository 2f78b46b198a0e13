"""The status page in a real Chromium: what a person sees and does, and that nothing in it breaks its own policy."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from gateway.admin.app import create
from gateway.admin.chat import DataPort
from gateway.admin.guard import Access, key_check
from tests.gateway.admin import fake
from tests.gateway.admin.browser import Page, browser, find

pytestmark = [pytest.mark.browser, pytest.mark.skipif(find() is None, reason="no Chromium on this machine")]

LIVE = "document.querySelector('#live b')?.textContent === 'live'"


@pytest.fixture(scope="module")
def chromium() -> Iterator[Page]:
    with browser() as page:
        yield page


@pytest.fixture
def page(chromium: Page) -> Iterator[Page]:
    chromium.problems.clear()
    yield chromium
    chromium.send("Page.navigate", url="about:blank")


def words(page: Page, selector: str) -> str:
    found: str = page.js(f"document.querySelector({json.dumps(selector)}).innerText")
    return found


def press(page: Page, selector: str, label: str = "") -> None:
    page.js(f"[...document.querySelectorAll({json.dumps(selector)})].find((b) => b.textContent.includes({json.dumps(label)})).click()")


def visible(page: Page, selector: str) -> bool:
    return bool(page.js(f"document.querySelector({json.dumps(selector)}).checkVisibility()"))


def test_everything_is_shown_and_nothing_breaks(page: Page) -> None:
    with fake.served(create(fake.busy(), data=DataPort("http://127.0.0.1:9"))) as url:
        page.open(url + "/")
        page.until(LIVE)
        assert words(page, "#base-url") == "http://127.0.0.1:8484/v1"
        assert "curl http://127.0.0.1:8484/v1/chat/completions" in words(page, "#snippet")
        assert "1 of 4 models ready" in words(page, "#summary")
        assert "cannot load x.gguf" in words(page, "#models")
        assert "should have 4,920,734,272" in words(page, "#engines") and "downloading 23 of 37 MB" in words(page, "#engines")
        assert "the server: http://10.0.0.5:8000 closed the connection" in words(page, "#recent")
        assert page.js("document.querySelectorAll('#inflight tr').length") == 4
        assert page.js("document.querySelector('.tile svg path.area').getAttribute('d').length") > 100
        page.js("document.querySelector('#only-failed').click()")
        assert 0 < page.js("document.querySelectorAll('#recent tr').length") < 24
        assert page.problems == []


def test_hostile_names_stay_text(page: Page) -> None:
    state = fake.busy()
    nasty = "<img src=x onerror=alert(1)>'\"; $(x)"
    state.shown.models[0].name = state.shown.engines[0].name = state.records[0].route = nasty
    state.shown.warnings = [nasty]
    with fake.served(create(state)) as url:
        page.open(url + "/")
        page.until(LIVE)
        assert words(page, ".banner") == nasty and page.js("document.querySelectorAll('main img').length") == 0
        page.js(f"document.querySelector('#model').value = {json.dumps(nasty)}")
        page.js("document.querySelector('#model').dispatchEvent(new Event('change'))")
        body = words(page, "#snippet").split("-d '", 1)[1].removesuffix("'").replace("'\\''", "'")
        assert json.loads(body)["model"] == nasty
        assert page.problems == []


def test_nothing_served_says_what_to_do(page: Page) -> None:
    with fake.served(create(fake.empty())) as url:
        page.open(url + "/")
        page.until(LIVE)
        assert "pointsman serve --model" in words(page, "#models-empty")
        assert not visible(page, "#start") and "No requests yet." in words(page, "#recent-empty")


@pytest.mark.parametrize("width", [390, 820, 1280])
def test_the_page_is_never_wider_than_the_screen(page: Page, width: int) -> None:
    with fake.served(create(fake.busy())) as url:
        page.open(url + "/", width=width, height=900, dark=width == 390)
        page.until(LIVE)
        assert page.js("document.documentElement.scrollWidth <= window.innerWidth")
        wide = "[...document.querySelectorAll('main .card')].filter((c) => c.getBoundingClientRect().right > window.innerWidth).length"
        assert page.js(wide) == 0


def test_a_new_state_moves_nothing_and_keeps_the_focus(page: Page) -> None:
    state = fake.busy()
    with fake.served(create(state)) as url:
        page.open(url + "/")
        page.until(LIVE)
        top = "document.querySelector('#h-recent').getBoundingClientRect().top"
        before = page.js(top)
        page.js("document.querySelector('.engine button').focus()")
        later = msgspec.json.decode(msgspec.json.encode(state.shown), type=type(state.shown))
        later.inflight, later.inflight_total, later.generation = [], 0, 4
        state.shown = later
        page.until("document.querySelector('#generation').textContent.includes('4')")
        assert "Nothing is being answered" in words(page, "#inflight-empty")
        assert page.js(top) == before
        assert page.js("document.activeElement.textContent") == "Log"


def test_an_engines_log_and_restart(page: Page) -> None:
    state = fake.busy()
    with fake.served(create(state)) as url:
        page.open(url + "/")
        page.until(LIVE)
        press(page, "[aria-label='Engine toy'] button", "Log")
        page.until("document.querySelector('#dialog-log').textContent.includes('released')")
        press(page, "#dialog-close")
        page.until("!document.querySelector('#dialog').open")
        press(page, "[aria-label='Engine toy'] button", "Restart")
        assert state.calls == [], "it asks first"
        press(page, "#dialog-actions button", "Restart")
        page.until("document.querySelector('#banners').textContent.includes('toy is being restarted')")
        press(page, "#reload")
        page.until("document.querySelector('#banners').textContent.includes('nothing changed')")
        assert state.calls == ["restart toy", "reload"] and page.problems == []


def test_a_lost_connection_is_said_and_found_again(page: Page) -> None:
    app = create(fake.busy())
    with fake.served(app) as url:
        page.open(url + "/")
        page.until(LIVE)
    page.until("document.querySelector('#live b').textContent === 'lost'")
    assert "Connection lost" in words(page, "#banners") and "stale" in page.js("document.body.className")
    with fake.served(app, port=int(url.rsplit(":", 1)[1])):
        page.until(LIVE)
        assert "Connection lost" not in words(page, "#banners")


def test_the_admin_key_is_asked_for(page: Page) -> None:
    with fake.served(create(fake.busy(), access=Access(authorize=key_check(["right"])))) as url:
        page.open(url + "/")
        page.until("document.querySelector('#live b').textContent === 'locked'")
        assert visible(page, "#login") and not visible(page, "#content")
        for key, wanted in (("wrong", "document.querySelector('#login-note').textContent.includes('not right')"), ("right", LIVE)):
            page.js(f"document.querySelector('#admin-key').value = '{key}'")
            press(page, "#login button")
            page.until(wanted)
        assert visible(page, "#content") and "right" not in page.js("location.href")


def test_a_question_is_answered_as_it_is_written(page: Page) -> None:
    go = asyncio.Event()
    loops: list[asyncio.AbstractEventLoop] = []

    async def data(scope: Any, receive: Any, send: Any) -> None:
        loops.append(asyncio.get_running_loop())
        body = json.loads((await receive())["body"])
        assert body["stream"] and body["messages"][-1] == {"role": "user", "content": "Who are you?"}
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        for part in ("I am ", "a toy."):
            event = json.dumps({"choices": [{"delta": {"content": part}}]})
            await send({"type": "http.response.body", "body": f"data: {event}\n\n".encode(), "more_body": True})
            if part == "I am ":
                await go.wait()
        usage = b'data: {"choices":[],"usage":{"completion_tokens":5}}\n\ndata: [DONE]\n\n'
        await send({"type": "http.response.body", "body": usage})

    with fake.served(data, lifespan=False) as behind, fake.served(create(fake.busy(), data=DataPort(behind))) as url:
        page.open(url + "/")
        page.until(LIVE)
        press(page, ".ideas button", "Who")
        page.until("document.querySelector('#chat-log').lastChild.textContent === 'I am '")
        loops[0].call_soon_threadsafe(go.set)
        page.until("document.querySelector('#chat-log').lastChild.textContent === 'I am a toy.'")
        page.until("document.querySelector('#chat-figures').textContent.includes('5 tokens')")
        page.until("document.querySelector('#chat-send').textContent === 'Send'")
        assert page.problems == []


def test_the_api_document_works_offline(page: Page) -> None:
    with fake.served(create(fake.busy())) as url:
        page.open(url + "/docs")
        page.until("document.querySelectorAll('details').length >= 7")
        page.js("document.querySelector('details').open = true")
        press(page, "details button", "Get it")
        page.until("[...document.querySelectorAll('details pre')].some((p) => p.textContent.startsWith('200'))")
        assert page.problems == []
