"""The httpx twin: the same seam over a real proxy and real HTTP/2, and everything that can go wrong there."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from backends import tokens, wire
from backends.openai import OpenAILink
from backends.twin import TwinLink
from backends.types import Call, Target, Timeouts
from tests.backends.proxies import proxy
from tests.backends.seen import DEADLINE, Seen
from tests.fakes import answers, certs
from tests.fakes.engine import Engine
from tests.fakes.script import Gate, script

QUICK = Timeouts(connect=5.0, first_byte=20.0, idle=20.0, total=25.0)
TARGET = Target("b", "fake")


def call(doc: dict[str, Any] | None = None, api: str = "chat", headers: dict[bytes, bytes] | None = None) -> Call:
    body = {"model": "m", "messages": [{"role": "user", "content": "two words"}], **(doc or {})}
    return Call(b"req-1", api, "m", bool(body.get("stream")), wire.parse(json.dumps(body).encode()), "", headers or {}, 0.0)


async def ended(link: TwinLink) -> None:
    """Closes the link as the gateway does at its end; nothing of it may be left."""
    async with asyncio.timeout(DEADLINE):
        await link.stop()
    assert not link.twin.busy


def go(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(work())


def test_a_whole_answer_and_a_stream() -> None:
    with Engine() as engine:

        async def work() -> None:
            link = TwinLink(engine.url, "b", key="sk-secret", headers={"x-team": "red"}, timeouts=QUICK)
            assert isinstance(link, OpenAILink) and "b" in repr(link.pool)
            traced = {b"traceparent": b"00-1-2-03", b"cookie": b"private"}
            whole = Seen()
            link.send(call({"temperature": 0.5}, headers=traced), TARGET, None, whole)
            assert not whole.calls  # never before send returns
            await whole.whole()
            assert (whole.outcome, whole.status) == ("ok", 200) and whole.headers[b"content-type"] == b"application/json"
            assert json.loads(whole.body)["choices"]
            stream = Seen()
            link.send(call({"stream": True}), TARGET, QUICK, stream)
            await stream.whole()
            assert stream.body.endswith(b"data: [DONE]\n\n") and stream.outcome == "ok"
            await ended(link)

        go(work)
        first, second = engine.posts()
        assert first.doc == {"model": "fake", "messages": [{"role": "user", "content": "two words"}], "temperature": 0.5}
        sent = dict(first.headers)
        assert sent["authorization"] == "Bearer sk-secret" and sent["x-team"] == "red" and sent["traceparent"] == "00-1-2-03"
        assert sent["x-request-id"] == "req-1" and sent["accept-encoding"] == "identity" and "cookie" not in sent
        assert sent["host"] == f"127.0.0.1:{engine.port}" and sent["content-type"] == "application/json"
        assert second.doc["stream_options"] == {"include_usage": True}
        assert engine.connections == 1


def test_small_calls_and_token_counts() -> None:
    with Engine() as engine:

        async def work() -> None:
            link = TwinLink(engine.url, "b", kind="vllm", timeouts=QUICK)
            status, _, body = await link.ask(link.get(link.base + "/models"))
            assert status == 200 and json.loads(body)["data"]
            assert json.loads(await tokens.tokenize(link, wire.parse(b'{"prompt":"a b"}'), "fake", 0.0))["count"] == 2
            await ended(link)

        go(work)


@pytest.mark.parametrize("password", ["", "user:p4ss"])
def test_through_a_proxy_in_absolute_form(password: str) -> None:
    with Engine() as engine:

        async def work() -> None:
            async with proxy(password) as via:
                at = f"http://{password}@127.0.0.1:{via.port}" if password else f"http://127.0.0.1:{via.port}"
                link = TwinLink(engine.url, "b", proxy=at, timeouts=QUICK)
                seen = Seen()
                link.send(call(), TARGET, None, seen)
                await seen.whole()
                assert seen.outcome == "ok" and seen.status == 200
                assert via.asked == [f"POST http://127.0.0.1:{engine.port}/v1/chat/completions HTTP/1.1".encode()]
                await ended(link)

        go(work)
        assert len(engine.posts()) == 1


def test_through_a_tunnel_to_tls(tmp_path: Path) -> None:
    files = certs.make(tmp_path)
    with Engine(tls=files.server) as engine:

        async def work() -> None:
            async with proxy("user:p4ss") as via:
                at = f"http://user:p4ss@127.0.0.1:{via.port}"
                link = TwinLink(engine.url, "b", proxy=at, verify=str(files.authority), timeouts=QUICK)
                seen = Seen()
                link.send(call(), TARGET, None, seen)
                await seen.whole()
                assert seen.outcome == "ok" and seen.status == 200
                assert via.asked == [f"CONNECT localhost:{engine.port} HTTP/1.1".encode()]
                await ended(link)

        go(work)


def test_a_proxy_that_refuses(tmp_path: Path) -> None:
    files = certs.make(tmp_path)
    with Engine(tls=files.server) as engine:

        async def work() -> None:
            async with proxy("user:p4ss") as via:
                link = TwinLink(engine.url, "b", proxy=f"http://user:WRONGWRONG@127.0.0.1:{via.port}", verify=False, timeouts=QUICK)
                seen = Seen()
                link.send(call(), TARGET, None, seen)
                await seen.whole()
                assert seen.fault is not None and seen.fault.code == "connect_failed" and seen.fault.retry and seen.fault.status == 502
                assert seen.fault.message == "Backend b cannot be reached: the proxy said: 407 Proxy Authentication Required."
                await ended(link)

        go(work)
        assert not engine.requests


def test_the_environments_proxies_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    with Engine() as engine:

        async def work() -> None:
            link = TwinLink(engine.url, "b", timeouts=QUICK)
            seen = Seen()
            link.send(call(), TARGET, None, seen)
            assert (await seen.whole()).outcome == "ok"
            await ended(link)

        go(work)


def test_redirects_are_answers() -> None:
    with Engine() as engine:
        engine.queue(answers.respond([b"{}"], status=307, headers=[("location", "/v1/elsewhere")]))

        async def work() -> None:
            link = TwinLink(engine.url, "b", timeouts=QUICK)
            seen = Seen()
            link.send(call(), TARGET, None, seen)
            await seen.whole()
            assert (seen.outcome, seen.status, seen.headers[b"location"]) == ("ok", 307, b"/v1/elsewhere")
            await ended(link)

        go(work)
        assert len(engine.requests) == 1


def test_cancel_closes_at_once_and_nothing_is_called_after() -> None:
    gate = Gate()
    with Engine() as engine:
        engine.queue(answers.sse([answers.data({"n": 1}), gate, answers.data({"n": 2})]), script(gate))

        async def work() -> None:
            link = TwinLink(engine.url, "b", timeouts=QUICK)
            streaming, silent = Seen(), Seen()
            flights = [link.send(call({"stream": True}), TARGET, None, streaming)]
            await streaming.until(lambda s: "data" in s.calls)
            flights.append(link.send(call(), TARGET, None, silent))
            await asyncio.to_thread(engine.wait, lambda e: len(e.requests) == 2, "both requests")
            early = Seen()
            flights.append(link.send(call(), TARGET, None, early))  # given up before it began
            before = [*streaming.calls]
            for flight in flights:
                flight.cancel()
                flight.cancel()
            await asyncio.to_thread(engine.wait, lambda e: len(e.left) == 2, "both clients leaving")
            await ended(link)
            assert streaming.calls == before and not silent.calls and not early.calls
            assert not link.pool.busy  # type: ignore[attr-defined]

        go(work)
        assert len(engine.requests) == 2


def test_pause_holds_the_engine_back() -> None:
    parts = [answers.data({"x": "y" * 65536})] * 200
    with Engine(sndbuf=65536) as engine:
        engine.queue(answers.sse(parts))

        async def work() -> None:
            link = TwinLink(engine.url, "b", timeouts=QUICK)
            seen = Seen()
            flight = link.send(call({"stream": True}), TARGET, None, seen)
            flight.pause()
            await asyncio.to_thread(engine.wait, lambda e: e.blocks > 0, "a write that blocks")
            assert "data" not in seen.calls
            flight.resume()
            await seen.whole()
            assert seen.outcome == "ok" and seen.body == b"".join(parts)
            await ended(link)

        go(work)


@pytest.mark.parametrize("stage", ["on_head", "on_data"])
def test_a_receiver_that_cancels_from_within(stage: str) -> None:
    with Engine() as engine:
        engine.queue(answers.sse([answers.data({"n": n}) for n in range(9)]))

        async def work() -> None:
            link = TwinLink(engine.url, "b", timeouts=QUICK)
            calls: list[str] = []

            class Leaver(Seen):
                def _called(self, name: str) -> None:
                    super()._called(name)
                    calls.append(name)
                    if "on_" + name == stage:
                        flight.cancel()

            flight = link.send(call({"stream": True}), TARGET, None, leaver := Leaver())
            await leaver.until(lambda s: bool(s.calls) and "on_" + s.calls[-1] == stage)
            await ended(link)
            assert not leaver.over and "on_" + calls[-1] == stage

        go(work)


def test_a_dropped_link_lets_its_flights_finish() -> None:
    gate = Gate()
    with Engine() as engine:
        engine.queue(answers.sse([answers.data({"n": 1}), gate, answers.data({"n": 2})]))

        async def work() -> None:
            link = TwinLink(engine.url, "b", timeouts=QUICK)
            seen = Seen()
            link.send(call({"stream": True}), TARGET, None, seen)
            await seen.until(lambda s: "data" in s.calls)
            link.close()
            link.close()
            gate.open()
            assert (await seen.whole()).outcome == "ok" and b'"n":2' in seen.body
            late = Seen()  # a retry of an old call
            link.send(call(), TARGET, None, late)
            assert (await late.whole()).outcome == "ok"
            await ended(link)
            await asyncio.to_thread(engine.wait, lambda e: e.open_connections == 0, "its connections closing")

        go(work)
