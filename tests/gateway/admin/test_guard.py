"""Who gets in: hosts, origins, keys. Pure decisions, one table each."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from backends.types import Fault
from gateway.admin.guard import Access, Guard, check, host_allowed, key_check

NAMES = frozenset({"gpu-box.lan"})


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1", "127.0.0.1:8485", "localhost", "LOCALHOST:1", "localhost.", "[::1]:8485", "192.168.1.5:80", "gpu-box.lan",
        "GPU-Box.lan:8485",
    ],
)  # fmt: skip
def test_hosts_that_are_ours(host: str) -> None:
    assert host_allowed(host, NAMES)


@pytest.mark.parametrize(
    "host",
    [
        "", "evil.example", "127.0.0.1.evil.example", "localhost.evil.example", "evil.example:8485", "localhost@evil.example",
        "127.0.0.1 evil", "0.0.0.0:80", "[::]", "::1", "localhost, evil.example", "127.0.0.1:99999999", "a" * 300, "localhost:8485/x",
        "[evil]", "0x7f000001", "gpu-box.lan.evil",
    ],
)  # fmt: skip
def test_hosts_that_a_rebound_name_could_bear(host: str) -> None:
    assert not host_allowed(host, NAMES)


HERE = {"host": "127.0.0.1:8485"}


@pytest.mark.parametrize(
    "headers",
    [
        {}, {"origin": "http://127.0.0.1:8485"}, {"sec-fetch-site": "same-origin", "origin": "http://127.0.0.1:8485"},
        {"sec-fetch-site": "none"}, {"origin": "https://127.0.0.1:8485"},
    ],
)  # fmt: skip
def test_our_page_and_tools_may_act(headers: dict[str, str]) -> None:
    check("POST", "/api/reload", HERE | headers, Access())
    check("GET", "/api/status", HERE | headers, Access())


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"}, {"origin": "null"}, {"origin": ""}, {"origin": "http://127.0.0.1:3000"},
        {"origin": "http://localhost:8485"}, {"sec-fetch-site": "cross-site"}, {"sec-fetch-site": "same-site"},
        {"origin": "http://127.0.0.1:8485", "sec-fetch-site": "cross-site"},
        {"origin": "http://127.0.0.1:8485, http://evil.example"},
    ],
)  # fmt: skip
def test_other_pages_may_not(headers: dict[str, str]) -> None:
    for method, path in (("POST", "/api/reload"), ("DELETE", "/x"), ("GET", "/api/status")):
        with pytest.raises(Fault) as caught:
            check(method, path, HERE | headers, Access())
        assert caught.value.status == 403 and caught.value.code == "origin_not_allowed"
    check("GET", "/", HERE | {"sec-fetch-site": "cross-site"}, Access())  # a link to the page is no attack


def test_a_key_opens_everything_that_has_data_in_it() -> None:
    access = Access(authorize=key_check(["right", "other"]))
    for path in ("/", "/docs", "/static/app.js", "/favicon.ico"):
        check("GET", path, HERE, access)
    for path in ("/api/status", "/metrics", "/openapi.json", "/nothing", "/static", "//"):
        for given in ("", "Bearer wrong", "right", "Basic right", "Bearer"):
            with pytest.raises(Fault) as caught:
                check("GET", path, HERE | {"authorization": given}, access)
            assert caught.value.status == 401
        check("GET", path, HERE | {"authorization": "Bearer right"}, access)
        check("GET", path, HERE | {"authorization": "bearer other"}, access)
    with pytest.raises(Fault):
        check("POST", "/", HERE, access)


def test_no_key_at_all_opens_nothing() -> None:
    assert not key_check([])("")
    assert not key_check(["k"])("\udcff")


def test_sockets_of_the_web_are_refused_and_lifespan_passes() -> None:
    seen: list[str] = []
    sent: list[dict[str, Any]] = []

    async def inner(scope: dict[str, Any], receive: Any, send: Any) -> None:
        seen.append(scope["type"])

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    guard = Guard(inner, Access())
    asyncio.run(guard({"type": "lifespan"}, None, send))
    asyncio.run(guard({"type": "websocket"}, None, send))
    assert seen == ["lifespan"] and sent == [{"type": "websocket.close", "code": 1008}]


def test_a_second_host_header_does_not_hide_behind_the_first() -> None:
    sent: list[dict[str, Any]] = []

    async def inner(scope: dict[str, Any], receive: Any, send: Any) -> None:
        raise AssertionError("reached")

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": "/", "headers": [(b"host", b"localhost"), (b"Host", b"evil.example")]}
    asyncio.run(Guard(inner, Access())(scope, None, send))
    assert sent[0]["status"] == 421
