"""The upstream client on real sockets: TLS, Unix sockets, nobody there, nobody answering."""

from __future__ import annotations

import asyncio
import gc
import warnings
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from backends.http import Clients, Pool
from backends.openai import OpenAILink
from backends.origin import Origin, tls_context
from backends.types import Timeouts
from tests.backends.seen import Seen
from tests.backends.test_twin import TARGET, call
from tests.fakes import certs
from tests.fakes.engine import Engine


def with_pool(url: str, work: Callable[[Pool], Awaitable[None]], verify: bool | str = True) -> None:
    async def run() -> None:
        clients = Clients(asyncio.get_running_loop())
        pool = clients.pool(url, "gpu", verify)
        assert clients.pool(url, "gpu", verify) is pool
        await work(pool)
        clients.close()
        for _ in range(3):  # closing a TLS transport takes turns of the loop
            await asyncio.sleep(0)

    asyncio.run(run())
    sweep()


def sweep() -> None:
    """asyncio leaves the socket of a failed handshake closing when its loop ends; nothing of that may surface in a later test."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


async def asked(pool: Pool, timeouts: Timeouts | None = None) -> Seen:
    seen = Seen()
    OpenAILink(pool, timeouts=Timeouts()).send(call(), TARGET, timeouts, seen)
    return await seen.whole()


def test_tls_with_an_authority_without_checks_and_untrusted(tmp_path: Path) -> None:
    files = certs.make(tmp_path)
    for verify, outcome in ((str(files.authority), "ok"), (False, "ok"), (True, "tls_failed")):
        with Engine(tls=files.server) as engine:

            async def work(pool: Pool, outcome: str = outcome) -> None:
                seen = await asked(pool)
                assert seen.outcome == outcome
                assert seen.fault is None or ("TLS failed" in seen.fault.message and seen.fault.status == 502 and seen.fault.retry)

            with_pool(engine.url, work, verify)
        sweep()


def test_a_unix_socket(tmp_path: Path) -> None:
    with Engine(unix=tmp_path / "s") as engine:

        async def work(pool: Pool) -> None:
            assert (await asked(pool)).outcome == "ok"

        with_pool(engine.url, work)
        assert engine.posts()[0].path == "/v1/chat/completions"


def test_nobody_there(tmp_path: Path) -> None:
    with Engine() as engine:
        url = engine.url

    async def work(pool: Pool) -> None:
        seen = await asked(pool)
        assert seen.fault is not None and (seen.fault.code, seen.fault.status, seen.fault.retry) == ("connect_failed", 502, True)
        assert seen.fault.message.startswith("Backend gpu cannot be reached: ")

    for nowhere in (url, f"unix://{tmp_path}/none", "http://" + "a" * 100 + ".invalid"):
        with_pool(nowhere, work)


def test_a_handshake_that_never_comes() -> None:
    async def work() -> None:
        holding: list[asyncio.StreamWriter] = []

        async def silent(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            holding.append(writer)

        server = await asyncio.start_server(silent, "127.0.0.1", 0)
        clients = Clients(asyncio.get_running_loop())
        pool = clients.pool(f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}", "gpu")
        seen = await asked(pool, Timeouts(connect=0.1))
        assert seen.fault is not None and seen.fault.code == "connect_timeout" and "no connection within 0.1 s" in seen.fault.message
        server.close()
        for writer in holding:
            writer.transport.abort()
        clients.close()

    asyncio.run(work())


@pytest.mark.parametrize(
    ("url", "authority", "port", "path"),
    [
        ("http://h", "h", 80, ""),
        ("https://h/v1/", "h", 443, "/v1"),
        ("http://h:8000/a/b", "h:8000", 8000, "/a/b"),
        ("http://[::1]:9/v1", "[::1]:9", 9, "/v1"),
        ("unix:///run/x.sock:/v1/", "localhost", 0, "/v1"),
        ("unix:///run/x.sock", "localhost", 0, ""),
    ],
)
def test_origins(url: str, authority: str, port: int, path: str) -> None:
    origin = Origin(url)
    assert (origin.authority, origin.port, origin.path, str(origin)) == (authority, port, path, url)
    assert (origin.unix is not None) == url.startswith("unix:") and origin.tls == url.startswith("https:")


@pytest.mark.parametrize("url", ["", "h:80", "ftp://h", "http://", "http://h:99999"])
def test_what_is_no_origin(url: str) -> None:
    with pytest.raises(ValueError):
        Origin(url)


def test_a_missing_authority_is_said_at_once() -> None:
    with pytest.raises(OSError):
        tls_context("/nowhere.pem")
