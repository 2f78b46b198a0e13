"""Finding a server and its model, and asking what it can."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable

import pytest

from benchmarks.bench import server
from benchmarks.bench.errors import BenchError
from benchmarks.bench.fetch import FetchError, ask, fetch
from benchmarks.bench.words import Ask, Target, Timed
from tests.bench.doors import Answer, door, fixed


def models(*names: str) -> Answer:
    rows = [{"id": name, "object": "model", "root": f"/models/{name}", "max_model_len": 4096} for name in names]
    return 200, {}, json.dumps({"object": "list", "data": rows}).encode()


def found(url: str, model: str = "", headers: dict[str, str] | None = None) -> server.Found:
    return asyncio.run(server.find(url, model, headers or {}))


def test_the_only_model_is_taken_and_v1_is_tried() -> None:
    with door(fixed({"/v1/models": models("m"), "/version": (200, {}, b'{"version": "0.9"}')})) as url:
        for given in (url, f"{url}/v1", url.removeprefix("http://")):
            one = found(given)
            assert (one.url, one.model, one.warnings) == (f"{url}/v1", "m", [])
        assert one.facts["server"] == "door" and one.facts["version"] == "0.9" and one.facts["model.root"] == "/models/m"


def test_a_path_of_its_own() -> None:
    with door(fixed({"/openai/models": models("m"), "/other/v1/models": models("n")})) as url:
        assert found(f"{url}/openai").url == f"{url}/openai" and found(f"{url}/other").url == f"{url}/other/v1"


def test_several_models_are_named() -> None:
    with door(fixed({"/v1/models": models("a", "b")})) as url, pytest.raises(BenchError, match="a, b") as caught:
        found(url)
    assert caught.value.usage
    with door(fixed({"/v1/models": models("a", "b")})) as url:
        assert found(url, "b").model == "b"
        assert "does not list" in found(url, "c").warnings[0]


def test_a_server_that_lists_nothing() -> None:
    with door(fixed({})) as url:
        one = found(url, "m")
        assert (one.url, one.model) == (f"{url}/v1", "m") and "lists no models" in one.warnings[0]
        with pytest.raises(BenchError, match="--model"):
            found(url)


def test_a_refused_key_and_no_server() -> None:
    with door(fixed({"/v1/models": (401, {}, b"{}")})) as url, pytest.raises(BenchError, match="POINTSMAN_KEY"):
        found(url, "m", {"Authorization": "Bearer sesame"})
    with pytest.raises(BenchError, match="refused") as caught:
        found(url)  # by now nobody listens there
    assert not caught.value.usage


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"data": 3}', b"\xff", b'{"data": [1, {"id": 2}]}'])
def test_odd_lists_of_models(body: bytes) -> None:
    with door(fixed({"/v1/models": (200, {}, body)})) as url:
        assert found(url, "m").model == "m"


def test_a_fetch_tells_statuses_and_failures() -> None:
    def answer(method: str, path: str, headers: dict[str, str], body: bytes) -> Answer:
        return 418, {"X-Said": headers.get("x-ask", "")}, method.encode() + body

    with door(answer) as url:
        one = fetch(f"{url}/a?b", body=b"{}", headers={"X-Ask": "yes"})
        assert (one.status, one.headers["x-said"], one.body, one.json()) == (418, "yes", b"POST{}", None)
        assert asyncio.run(ask(url)).body == b"GET"
    with pytest.raises(FetchError, match="refused"):
        asyncio.run(ask(url))


def test_a_header_that_cannot_be_is_not_shown() -> None:
    with door(fixed({})) as url:
        for value in ("sesame\n", "sesame\u20ac"):
            with pytest.raises(FetchError) as caught:
                fetch(url, headers={"X-A": value})
            assert "sesame" not in str(caught.value)


Send = Callable[[Ask, Timed], Awaitable[None]]


def sender(
    refuses: Callable[[dict[str, bool]], bool], *, counts: bool = True, usage: int | None = server.TOKENS
) -> tuple[Send, list[bytes]]:
    seen: list[bytes] = []

    async def send(request: Ask, timed: Timed) -> None:
        seen.append(request.body)
        body = json.loads(request.body)
        timed.status = 400 if refuses(body) else 200
        timed.error = "unknown field" if timed.status == 400 else ""
        timed.completion_tokens = usage
        timed.counts = [1, 2] if counts and body["continuous"] else [0, 0]

    return send, seen


def build(exact: bool, continuous: bool) -> Ask:
    return Ask(0, json.dumps({"exact": exact, "continuous": continuous}).encode(), 0, server.TOKENS)


def test_all_that_a_server_may_be_able_to() -> None:
    send, seen = sender(lambda body: False)
    assert asyncio.run(server.abilities(send, build)) == server.Abilities(exact=True, kept=True, continuous=True, usage=True)
    assert len(seen) == 1


def test_fields_that_are_refused_are_left_out() -> None:
    send, seen = sender(lambda body: body["exact"] or body["continuous"], usage=7)
    can = asyncio.run(server.abilities(send, build))
    assert can == server.Abilities(exact=False, kept=False, continuous=False, usage=True) and len(seen) == 4
    assert any("min_tokens" in each for each in server.remarks(can, Target("u", "m")))


def test_a_server_that_tells_no_usage() -> None:
    send, _ = sender(lambda body: False, counts=False, usage=None)
    can = asyncio.run(server.abilities(send, build))
    assert not can.usage and "no usage" in server.remarks(can, Target("u", "m"))[0]


def test_a_server_that_refuses_all() -> None:
    send, seen = sender(lambda body: True)
    with pytest.raises(BenchError, match="unknown field"):
        asyncio.run(server.abilities(send, build))
    assert len(seen) == 4
