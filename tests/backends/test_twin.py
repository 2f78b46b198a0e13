"""The httpx twin: the same seam over a real proxy and real HTTP/2, and everything that can go wrong there."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import msgspec
import pytest

from backends import tokens, wire
from backends.openai import OpenAILink
from backends.twin import TwinLink
from backends.types import Call, Target, Timeouts
from tests.backends.http2 import Http2, serving
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
    """Closes the link and waits until nothing of it is left, so that nothing warns when the loop closes."""
    link.close()
    async with asyncio.timeout(DEADLINE):
        while len(asyncio.all_tasks()) > 1:
            await asyncio.wait([task for task in asyncio.all_tasks() if task is not asyncio.current_task()])


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


@pytest.mark.parametrize(
    ("timeouts", "steps", "outcome"),
    [
        (Timeouts(first_byte=0.05), (), "first_byte_timeout"),
        (Timeouts(total=0.05), (), "total_timeout"),
        (Timeouts(idle=0.05), (b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nab",), "idle_timeout"),
        (Timeouts(total=0.3), (b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nab",), "total_timeout"),
    ],
)
def test_timeouts(timeouts: Timeouts, steps: tuple[bytes, ...], outcome: str) -> None:
    with Engine() as engine:
        engine.queue(script(*steps, ending="stall"))

        async def work() -> None:
            link = TwinLink(engine.url, "b")
            seen = Seen()
            link.send(call(), TARGET, timeouts, seen)
            await seen.whole()
            assert seen.fault is not None and seen.outcome == outcome and seen.fault.kind == "timeout" and seen.fault.retry
            await ended(link)

        go(work)
        engine.wait(lambda e: len(e.left) == 1, "the client leaving")


def test_a_paused_answer_still_ends_in_time() -> None:
    with Engine() as engine:
        engine.queue(script(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nab", ending="stall"))

        async def work() -> None:
            link = TwinLink(engine.url, "b")
            seen = Seen()
            link.send(call(), TARGET, Timeouts(idle=0.01, total=0.3), seen).pause()
            assert (await seen.whole()).outcome == "total_timeout"
            await ended(link)

        go(work)


@pytest.mark.parametrize(
    ("raw", "outcome", "says"),
    [
        (b"", "connection_lost", "without an answer"),
        (b"HTTP/1.1 200 OK\r\ncontent-le", "connection_lost", "without an answer"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nab", "connection_lost", "in the middle"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nab", "connection_lost", "in the middle"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\nab", "bad_framing", "broke HTTP"),
        (b"garbage\r\n\r\n", "bad_framing", "broke HTTP"),
        (b"HTTP/1.1 200 OK\r\nx: " + b"y" * 200_000, "bad_framing", "broke HTTP"),
    ],
)
def test_broken_answers(raw: bytes, outcome: str, says: str) -> None:
    with Engine() as engine:
        engine.queue(script(raw, ending="fin"))

        async def work() -> None:
            link = TwinLink(engine.url, "b", timeouts=QUICK)
            seen = Seen()
            link.send(call(), TARGET, None, seen)
            await seen.whole()
            assert seen.fault is not None and seen.outcome == outcome and says in seen.fault.message
            assert seen.fault.origin == "backend" and seen.fault.retry
            await ended(link)

        go(work)
        assert len(engine.requests) == 1


def test_an_answer_that_ends_with_its_connection() -> None:
    with Engine() as engine:
        engine.queue(script(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n{}", ending="fin"))

        async def work() -> None:
            link = TwinLink(engine.url, "b", timeouts=QUICK)
            seen = Seen()
            link.send(call(), TARGET, None, seen)
            await seen.whole()
            assert (seen.outcome, seen.body) == ("ok", b"{}")
            await ended(link)

        go(work)


@pytest.mark.parametrize("ways", [2, 3])
def test_a_stale_connection_is_retried_once(ways: int) -> None:
    with Engine() as engine:
        engine.queue(answers.reply({}).but(ending="stale"), *[script(b"", ending="rst")] * (ways - 2))

        async def work() -> None:
            link = TwinLink(engine.url, "b", timeouts=QUICK)
            for outcome in ("ok", "ok" if ways == 2 else "connection_lost"):
                seen = Seen()
                link.send(call(), TARGET, None, seen)
                assert (await seen.whole()).outcome == outcome
            await ended(link)

        go(work)
        assert engine.stale_drops == 1 and engine.connections == 2


def test_nobody_listens_and_no_name() -> None:
    with Engine() as engine:
        url = engine.url

    async def work() -> None:
        for at, code in ((url, "connect_failed"), ("http://" + "a" * 100 + ".invalid", "connect_failed")):
            link = TwinLink(at, "b", timeouts=QUICK)
            seen = Seen()
            link.send(call(), TARGET, None, seen)
            await seen.whole()
            assert seen.fault is not None and seen.fault.code == code and seen.fault.status == 502 and seen.fault.retry
            assert seen.fault.message.startswith("Backend b cannot be reached: ")
            await ended(link)

    go(work)


def test_connecting_takes_too_long(tmp_path: Path) -> None:
    async def work() -> None:
        holding: list[asyncio.StreamWriter] = []

        async def silent(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            holding.append(writer)  # no TLS hello ever comes

        server = await asyncio.start_server(silent, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        link = TwinLink(f"https://localhost:{port}", "b", timeouts=Timeouts(connect=0.1))
        seen = Seen()
        link.send(call(), TARGET, None, seen)
        await seen.whole()
        assert seen.fault is not None and seen.fault.code == "connect_timeout" and "no connection within 0.1 s" in seen.fault.message
        server.close()
        for writer in holding:
            writer.transport.abort()
        await ended(link)

    go(work)


def test_a_certificate_that_is_not_trusted(tmp_path: Path) -> None:
    files = certs.make(tmp_path)
    with Engine(tls=files.server) as engine:

        async def work() -> None:
            link = TwinLink(engine.url, "b", timeouts=QUICK)
            seen = Seen()
            link.send(call(), TARGET, None, seen)
            assert (await seen.whole()).outcome == "tls_failed"
            await ended(link)

        go(work)


def test_unix_sockets(tmp_path: Path) -> None:
    with Engine(unix=tmp_path / "s") as engine:

        async def work() -> None:
            link = TwinLink(engine.url, "b", timeouts=QUICK)
            seen = Seen()
            link.send(call(), TARGET, None, seen)
            assert (await seen.whole()).outcome == "ok"
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


# --- HTTP/2


def once(body: bytes = b'{"ok":true}') -> Callable[[Http2, int], None]:
    def answer(connection: Http2, stream: int) -> None:
        connection.head(stream)
        connection.data(stream, body, end=True)

    return answer


@pytest.mark.parametrize("tls", [True, False])
def test_http2(tmp_path: Path, tls: bool) -> None:
    files = certs.make(tmp_path)

    async def work() -> None:
        async with serving(once(), files.server if tls else None) as server:
            scheme = "https" if tls else "http"
            link = TwinLink(f"{scheme}://localhost:{server.port}", "b", http2=True, verify=str(files.authority), key="k", timeouts=QUICK)
            for _ in range(2):
                seen = Seen()
                link.send(call(), TARGET, None, seen)
                await seen.whole()
                assert (seen.outcome, seen.status, seen.body) == ("ok", 200, b'{"ok":true}')
            assert len(server.connections) == 1
            headers, body = server.requests[0]
            assert headers[":path"] == "/v1/chat/completions" and headers[":authority"] == f"localhost:{server.port}"
            assert headers["authorization"] == "Bearer k" and msgspec.json.decode(body)["model"] == "fake"
            await ended(link)

    go(work)


def test_http2_through_a_tunnel(tmp_path: Path) -> None:
    files = certs.make(tmp_path)

    async def work() -> None:
        async with serving(once(), files.server) as server, proxy() as via:
            link = TwinLink(
                f"https://localhost:{server.port}", "b", http2=True, verify=str(files.authority), timeouts=QUICK,
                proxy=f"http://127.0.0.1:{via.port}",
            )  # fmt: skip
            seen = Seen()
            link.send(call(), TARGET, None, seen)
            assert (await seen.whole()).outcome == "ok" and via.tunnels == 1
            await ended(link)

    go(work)


def test_http2_cancel_closes_its_connection_and_no_other(tmp_path: Path) -> None:
    held: list[tuple[Http2, int]] = []

    def answer(connection: Http2, stream: int) -> None:
        connection.head(stream)
        connection.data(stream, b"data: 1\n\n")
        held.append((connection, stream))

    async def work() -> None:
        async with serving(answer) as server:
            link = TwinLink(f"http://127.0.0.1:{server.port}", "b", http2=True, timeouts=QUICK)
            leaving, staying = Seen(), Seen()
            flight = link.send(call(), TARGET, None, leaving)
            await leaving.until(lambda s: "data" in s.calls)
            link.send(call(), TARGET, None, staying)
            await staying.until(lambda s: "data" in s.calls)
            flight.cancel()
            async with asyncio.timeout(DEADLINE):
                await held[0][0].lost.wait()
            held[1][0].data(held[1][1], b"data: 2\n\n", end=True)
            assert (await staying.whole()).outcome == "ok" and staying.body == b"data: 1\n\ndata: 2\n\n"
            assert leaving.calls == ["head", "data"]
            await ended(link)

    go(work)


@pytest.mark.parametrize(("how", "outcome"), [("reset", "bad_framing"), ("close", "connection_lost"), ("line break", "bad_framing")])
def test_http2_that_breaks(how: str, outcome: str) -> None:
    def answer(connection: Http2, stream: int) -> None:
        if how == "line break":
            connection.h2.config.validate_outbound_headers = False
            connection.h2.config.normalize_outbound_headers = False
            connection.head(stream, headers=[("content-type", "x\r\nset-cookie: y")])
            return
        connection.head(stream)
        connection.data(stream, b"{")
        if how == "reset":
            connection.reset(stream)
        else:
            connection.transport.close()

    async def work() -> None:
        async with serving(answer) as server:
            link = TwinLink(f"http://127.0.0.1:{server.port}", "b", http2=True, timeouts=QUICK)
            seen = Seen()
            link.send(call(), TARGET, None, seen)
            assert (await seen.whole()).outcome == outcome, seen.fault
            await ended(link)

    go(work)


# --- what cannot be set up


def test_clear_sentences(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"backend 'b': a SOCKS proxy needs the package socksio"):
        monkeypatch.setitem(__import__("sys").modules, "socksio", None)
        TwinLink("http://h/v1", "b", proxy="socks5://127.0.0.1:1")
    with pytest.raises(ValueError, match=r"backend 'b': HTTP/2 needs the package h2 \(pip install 'pointsman\[http2\]'\)\."):
        monkeypatch.setitem(__import__("sys").modules, "h2", None)
        TwinLink("http://h/v1", "b", http2=True)
    with pytest.raises(ValueError, match="'proxy' is not a proxy's URL"):
        TwinLink("http://h/v1", "b", proxy="ftp://secret:word@h:1")
    with pytest.raises(ValueError, match="cannot be reached through a proxy"):
        TwinLink("unix:///tmp/s", "b", proxy="http://h:1")
    with pytest.raises(ValueError, match="is not an http"):
        TwinLink("ftp://h", "b")
