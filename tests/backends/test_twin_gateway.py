"""A whole gateway whose backend is behind a proxy, or cannot be set up."""

from __future__ import annotations

import asyncio
import json
import sys

import pytest

from tests.backends.proxies import proxy
from tests.fakes.engine import Engine
from tests.harness import both_ways, chat, config_for, running


@both_ways
def test_chat_streams_and_discovery_through_a_proxy(asgi: bool) -> None:
    def use(url: str, engine: Engine) -> None:
        config = config_for([engine], backend={"proxy": url, "discover": True})
        with running(config, asgi) as gateway:
            whole = gateway.ask(chat())
            assert whole.status == 200 and json.loads(whole.body)["choices"]
            stream = gateway.ask(chat(stream=True))
            assert stream.status == 200 and stream.body.endswith(b"data: [DONE]\n\n")
            assert gateway.ask(chat() | {"prompt": "a b"}, "/tokenize").status == 200
            listed = json.loads(gateway.get("/v1/models").body)["data"]
            assert {"m", "fake"} <= {model["id"] for model in listed}

    async def work(engine: Engine) -> None:
        async with proxy() as via:
            await asyncio.to_thread(use, f"http://127.0.0.1:{via.port}", engine)
            assert all(b" http://127.0.0.1:%d/" % engine.port in line for line in via.asked) and via.tunnels

    with Engine() as engine:
        asyncio.run(work(engine))


def test_a_backend_that_cannot_be_set_up_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "h2", None)
    with Engine() as engine, running(config_for([engine], backend={"http2": True})) as gateway:
        answer = gateway.ask(chat())
        assert answer.status == 503
        message = json.loads(answer.body)["error"]["message"]
        assert message == "backend 'fake': HTTP/2 needs the package h2 (pip install 'pointsman[http2]')."
