"""The httpx twin when things go wrong: late, broken and missing servers, and what cannot be set up."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from backends.twin import TwinLink
from backends.types import Timeouts
from tests.backends.seen import Seen
from tests.backends.test_twin import QUICK, TARGET, call, ended, go
from tests.fakes import answers, certs
from tests.fakes.engine import Engine
from tests.fakes.script import script


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
