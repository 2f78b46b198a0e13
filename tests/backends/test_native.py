"""Calls that pass as their client wrote them: who takes them, and how they are written."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from backends.native import natives
from tests.fakes.answers import openai_error, reply
from tests.fakes.engine import Engine
from tests.gateway.test_surface import ASK, MESSAGE, ask, routed
from tests.harness import running


@pytest.mark.parametrize(
    ("kind", "spoken"),
    [
        ("anthropic", {"messages"}), ("openai", {"responses"}), ("azure", {"responses"}), ("openrouter", {"messages"}),
        ("vllm", set()), ("llama-server", set()), ("compatible", set()), ("groq", set()), ("no such kind", set()),
    ],
)  # fmt: skip
def test_who_takes_what(kind: str, spoken: set[str]) -> None:
    assert natives(kind) == spoken


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_messages_over_openais_wire(stream: bool) -> None:
    """A provider that has Messages beside chat: its key is a bearer, the client's betas and trace go with it."""
    answer = {"type": "message", "content": [], "usage": {"input_tokens": 1, "output_tokens": 2}}
    with Engine(responder=lambda _: reply(answer)) as engine:
        backend = {"kind": "openrouter", "url": engine.url, "key": "sk-or-v1"}
        with running(routed({"r": backend}, [{"backend": "r", "model": "x/y"}])) as gateway:
            headers = {"anthropic-beta": "b-1,b-2", "anthropic-version": "2023-01-01", "traceparent": "00-1-2-01"}
            ask(gateway, "messages", headers, stream=stream)
            ask(gateway, "messages")
            httpx.post(f"{gateway.url}/messages/count_tokens", json={"model": "m", "messages": []})
    first, second, counted = engine.posts()
    assert first.path == "/v1/messages" and first.doc == {**MESSAGE, "model": "x/y", "stream": stream}
    told: Any = {name: first.header(name) for name in ("authorization", *headers)}
    assert told == {"authorization": "Bearer sk-or-v1", **headers}
    assert (second.header("anthropic-version"), second.header("anthropic-beta")) == ("2023-06-01", None)
    assert counted.path == "/v1/messages/count_tokens"


def test_a_count_that_is_refused_is_told_as_the_surface_tells() -> None:
    with Engine(responder=lambda _: openai_error(401, "wrong key")) as engine:
        backends = {"r": {"kind": "openrouter", "url": engine.url, "key": "x"}, "o": {"kind": "openai", "url": engine.url, "key": "x"}}
        routes = {"m": {"targets": [{"backend": "r", "model": "x"}]}, "o": {"targets": [{"backend": "o", "model": "x"}]}}
        with running(routed(backends, [], routes=routes)) as gateway:
            told = httpx.post(f"{gateway.url}/messages/count_tokens", json={"model": "m", "messages": []})
            assert told.status_code >= 400 and told.json()["type"] == "error"
            told = httpx.post(f"{gateway.url}/responses/input_tokens", json={**ASK, "model": "o"})
            assert told.status_code >= 400 and "wrong key" in told.json()["error"]["message"]
