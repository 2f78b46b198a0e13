"""Embeddings gathered in a whole gateway: which backends do, and what clients and the engine see."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from backends.batched import BatchedLink
from backends.embeddings import BatchLimits
from backends.http import Clients
from backends.openai import OpenAILink
from gateway import links
from gateway.config import ConfigError, parse
from tests.fakes.answers import body_of, openai_error
from tests.fakes.engine import Engine
from tests.fakes.openai import embeddings
from tests.fakes.request import Request
from tests.fakes.script import Gate, Script
from tests.gateway.serving import DEADLINE, eventually, serving


def backend(text: str) -> Any:
    return parse(f"backends: {{b: {{{text}}}}}\nroutes: {{r: {{targets: [{{backend: b}}]}}}}", {}).backends["b"]


def link(text: str) -> OpenAILink:
    async def made() -> OpenAILink:
        clients = Clients(asyncio.get_running_loop())
        found, _ = links.made("b", "http://h:1/v1", backend(text), clients, environ={}, on_change=lambda: None)
        assert isinstance(found, OpenAILink)
        await found.stop()
        return found

    return asyncio.run(made())


@pytest.mark.parametrize("kind", ["vllm", "sglang", "llama-server", "ollama", "lmstudio", "compatible", "openai", "together"])
@pytest.mark.parametrize("more", ["", ", prices: {input: 1}", ", http2: true", ", proxy: 'http://p:1'"])
def test_servers_of_one_s_own_gather_by_default_and_others_when_told(kind: str, more: str) -> None:
    common = f"url: 'http://h:1/v1', kind: {kind}, key: sk{more}"
    local = kind in ("vllm", "sglang", "llama-server", "ollama", "lmstudio")
    assert isinstance(link(common), BatchedLink) == local
    assert not isinstance(link(common + ", batch_embeddings: false"), BatchedLink)
    told = link(common + ", batch_embeddings: {items: 7, bytes: 64KiB}")
    assert isinstance(told, BatchedLink) and told.gather is not None
    assert told.gather.limits == BatchLimits(items=7, bytes=65536) and isinstance(link(common + ", batch_embeddings: true"), BatchedLink)


def test_engines_gather_where_together_is_as_alone() -> None:
    assert links.batches(backend("engine: llamacpp, model: builtin")) == BatchLimits()
    assert links.batches(backend("engine: llamacpp, model: builtin"), together=False) is None
    assert links.batches(backend("engine: llamacpp, model: builtin, batch_embeddings: true"), together=False) == BatchLimits()
    assert links.batches(backend("engine: vllm, model: m")) == BatchLimits()
    assert links.batches(backend("engine: command, command: [x]")) is None


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("kind: gemini, key: k, batch_embeddings: true", "only for servers that speak OpenAI's own format, which `kind: gemini` does not"),
        ("url: 'http://h/v1', batch_embeddings: {items: 1}", "batch_embeddings.items"),
        ("url: 'http://h/v1', batch_embeddings: {window: 20}", "batch_embeddings.window"),
        ("url: 'http://h/v1', batch_embeddings: {size: 2}", "unknown field"),
        ("url: 'http://h/v1', batch_embeddings: {bytes: many}", "is not a size"),
    ],
)
def test_what_cannot_be_is_said(text: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        backend(text)


@pytest.mark.parametrize("flags", [(), ("--asgi",)])
@pytest.mark.parametrize("bad", [False, True])
def test_clients_at_once(tmp_path: Path, flags: tuple[str, ...], bad: bool) -> None:
    """The first call is held at the engine until all others have come, which then are one call, and a bad input fails one client."""
    gate = Gate()
    texts = [f"text {number}" for number in range(10)] + ["bad"] * bad

    def answer(request: Request) -> Script:
        doc = request.doc or {}
        script = openai_error(400, "that input is bad") if "bad" in str(doc["input"]) else embeddings(doc)
        return Script((gate, *script.steps))

    with Engine() as engine, ThreadPoolExecutor(len(texts) + 1) as threads:
        engine.on_model("m", answer)
        config = {
            "server": {"port": 0, "admin": {"port": 0}},
            "backends": {"gpu": {"url": engine.url, "batch_embeddings": {"window": 10}}},
            "routes": {"m": {"targets": [{"backend": "gpu"}]}},
        }
        with serving(tmp_path, config, *flags) as gateway:

            def ask(text: str) -> httpx.Response:
                return httpx.post(gateway.base + "/v1/embeddings", json={"model": "m", "input": text}, timeout=DEADLINE)

            first = threads.submit(ask, "first")
            assert gate.reached.wait(DEADLINE)
            rest = [threads.submit(ask, text) for text in texts]
            eventually(lambda: gateway.status()["inflight_total"] == len(texts) + 1 or None, "all calls are under way")
            gate.open()
            assert first.result().status_code == 200
            for text, future in zip(texts, rest, strict=True):
                found = future.result()
                assert found.status_code == (400 if text == "bad" else 200)
                if text != "bad":
                    alone = body_of(embeddings({"model": "m", "input": text}).steps).partition(b"\r\n\r\n")[2]
                    assert found.content == alone
            asked = [one.doc["input"] for one in engine.posts("/v1/embeddings") if one.doc]
            assert asked[0] == "first" and sorted(asked[1]) == sorted(texts) and len(asked) == 2 + len(texts) * bad
            told = gateway.get("/metrics").text
            assert 'pointsman_embeddings_engine_calls_total{replica="gpu"} 2\n' in told
            assert f'pointsman_embeddings_joined_total{{replica="gpu"}} {len(texts)}\n' in told
            assert gateway.status()["inflight_total"] == 0
