"""What is in memory, on the status page in a real Chromium: the row, and its button."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from gateway.admin.app import create
from gateway.residency_view import ResidencyView, ResidentView
from tests.gateway.admin import fake
from tests.gateway.admin.browser import Page, browser, find

pytestmark = [pytest.mark.browser, pytest.mark.skipif(find() is None, reason="no Chromium on this machine")]


@pytest.fixture
def page() -> Iterator[Page]:
    with browser() as found:
        yield found


def engine(name: str, state: str, *, always: bool = False, reason: str = "", busy: int = 0) -> ResidentView:
    until = 90.0 if state == "loaded" else None
    return ResidentView(name, [name], state, 3 << 30, 0, 1.0, until, 2.0, False, always, busy, 2, 1, reason)


class Api:
    """Notes what was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def unload(self, name: str, wait: float) -> ResidentView:
        self.asked.append(f"unload {name}")
        return engine(name, "unloading")


def test_engines_that_come_and_go_have_a_row_and_a_button(page: Page) -> None:
    state, api = fake.busy(), Api()
    state.residency = api
    rows = [engine("a", "loaded", busy=1), engine("b", "failed", reason="<b>no file</b>"), engine("fixed", "loaded", always=True)]
    state.shown.residency = ResidencyView(8 << 30, 3 << 30, rows)
    with fake.served(create(state)) as url:
        page.open(url)
        page.until("document.querySelectorAll('#residents tr').length === 2")
        text = page.js("document.querySelector('#residents-card').innerText")
        assert "3.0 GiB set aside of 8.0 GiB" in text and "1 min 30 s" in text and "<b>no file</b>" in text and "fixed" not in text
        page.js("document.querySelector('#residents tr button').click()")
        page.until("document.body.innerText.includes('a is unloading.')")
    assert api.asked == ["unload a"] and not page.problems
