"""The httpx twin over real HTTP/2."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from backends.twin import TwinLink
from tests.backends.http2 import Http2, serving
from tests.backends.proxies import proxy
from tests.backends.seen import DEADLINE, Seen
from tests.backends.test_twin import QUICK, TARGET, call, ended, go
from tests.fakes import certs


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
