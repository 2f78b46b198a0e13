"""The pool, what requests say, what errors do not."""

from __future__ import annotations

import asyncio
import errno
import gc
import socket
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import uvloop

from benchmarks.bench.client import Client, address, fields
from benchmarks.bench.words import Target, Timed
from tests.bench.sockets import GOOD, Peer, always, ask, client, says, scripted, sent
from tests.fakes import certs

Run = Callable[[Coroutine[Any, Any, None]], None]


def test_what_a_request_says() -> None:
    async def main() -> None:
        async with scripted(always) as server:
            target = server.target(key="sk-secret", headers={"X-Team": "a", "Host": "evil", "content-length": "7"})
            async with client(target) as made:
                assert (await sent(made, ask(5))).good
                assert (await sent(made, ask(6, headers={"x-team": "b", "X-More": "1", "Transfer-Encoding": "chunked"}))).good
            (line, headers, body), (_, more, _) = server.requests
            assert line == "POST /v1/chat/completions HTTP/1.1" and body == b'{"n": 5}'
            assert headers == {
                "host": f"localhost:{server.port}", "user-agent": "pointsman-bench", "accept": "text/event-stream",
                "content-type": "application/json", "accept-encoding": "identity", "authorization": "Bearer sk-secret", "x-team": "a",
                "content-length": "8",
            }  # fmt: skip
            assert more == {**headers, "x-team": "b", "x-more": "1"}

    asyncio.run(main())


def test_completions_have_their_own_path() -> None:
    async def main() -> None:
        async with scripted(always) as server, client(server.target(api="completions", stream=False)) as made:
            await sent(made)
            line, headers, _ = server.requests[0]
            assert line == "POST /v1/completions HTTP/1.1" and headers["accept"] == "application/json" and "authorization" not in headers

    asyncio.run(main())


def test_connections_are_as_many_as_needed_and_used_again() -> None:
    async def main() -> None:
        together = asyncio.Barrier(5)

        async def act(peer: Peer) -> None:
            while await peer.request():
                if len(server.requests) <= 5:
                    await together.wait()
                await peer.send(GOOD)

        async with scripted(act) as server, client(server.target()) as made:
            found = await asyncio.gather(*(sent(made, ask(n)) for n in range(5)))
            assert all(each.good for each in found) and {each.connection for each in found} == {1, 2, 3, 4, 5}
            last = [(await sent(made, ask(n))).connection for n in range(5, 9)]
            assert len(set(last)) == 1 and len(server.peers) == 5

    asyncio.run(main())


def test_a_kept_connection_that_the_server_closes_on_a_request_is_no_failure_and_is_counted() -> None:
    async def act(peer: Peer) -> None:
        await peer.request()
        await peer.send(GOOD)
        if peer.number == 1:
            await peer.request()  # and closes without an answer
            return
        await always(peer)

    async def main() -> None:
        async with scripted(act) as server, client(server.target()) as made:
            assert (await sent(made)).good
            again = await sent(made)
            assert again.good and again.connection == 2 and made.resent == 1
            assert [len(peer.requests) for peer in server.peers] == [2, 1]
            assert again.sent <= again.head

    asyncio.run(main())


def test_a_second_close_is_a_failure() -> None:
    async def act(peer: Peer) -> None:
        await peer.request()
        if peer.number == 1:
            await peer.send(GOOD)
            await peer.request()

    async def main() -> None:
        async with scripted(act) as server, client(server.target()) as made:
            assert (await sent(made)).good
            again = await sent(made)
            assert again.error == "the connection was closed before an answer" and made.resent == 1 and len(server.peers) == 2

    asyncio.run(main())


def test_who_is_not_there_is_a_result() -> None:
    with socket.socket() as taken:  # bound, not listening: nobody else gets the port
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]

        async def main() -> None:
            async with client(Target(f"http://127.0.0.1:{port}/v1", "m")) as made:
                timed = await sent(made)
                assert timed.error == f"cannot connect to 127.0.0.1:{port}: connection refused"
                assert (timed.status, timed.sent) == (0, 0.0) and timed.done > 0 and timed.asked_output == 4

        asyncio.run(main())


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (OSError(errno.EMFILE, "Too many open files"), "the client has no file descriptor left; raise `ulimit -n`"),
        (OSError(errno.ENETUNREACH, "Network is unreachable"), "Network is unreachable"),
        (socket.gaierror(-2, "Name or service not known"), "Name or service not known"),
        (TimeoutError(), "no whole answer within 600 s"),
    ],
)
def test_reasons_why_there_is_no_connection(error: OSError, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async def create(*_: object, **__: object) -> None:
            raise error

        monkeypatch.setattr(asyncio.get_running_loop(), "create_connection", create)
        async with client(Target("http://127.0.0.1:9/v1", "m")) as made:
            assert text in (await sent(made)).error

    asyncio.run(main())


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_tls_with_an_authority_of_ones_own(tmp_path: Path, run: Run) -> None:
    files = certs.make(tmp_path)

    async def main() -> None:
        async with scripted(always, files.server) as server:
            async with client(server.target(), ca=str(files.authority)) as made:
                first, second = await sent(made), await sent(made)
                assert first.good and second.good and first.connection == second.connection, first.error
                assert first.sent <= first.head
            async with client(server.target()) as stranger:
                timed = await sent(stranger)
                assert "its certificate is not trusted" in timed.error and timed.status == 0

    run(main())


def test_no_secret_is_shown() -> None:
    echo = b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 60\r\n\r\nbad sk-secret or Bearer tok-123456 or tea-987654 " + b"." * 11

    async def main() -> None:
        async with scripted(says(echo)) as server:
            target = server.target(key="sk-secret", headers={"x-key": "tea-987654"})
            async with client(target) as made:
                timed = await sent(made, ask(headers={"authorization": "Bearer tok-123456"}))
                assert timed.error.startswith("status 401: bad *** or Bearer *** or *** ...")
                assert "secret" not in repr(made) + repr(target)

    asyncio.run(main())


@pytest.mark.parametrize("headers", [{"a b": "1"}, {"": "1"}, {"x": "1\r\ny: 2"}, {"x": "\u00e9"}, {"x:": "1"}])
def test_headers_that_cannot_be_are_refused(headers: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="header"):
        fields(headers)
    with pytest.raises(ValueError, match="header"):
        Client(Target("http://127.0.0.1:9/v1", "m", headers=headers))

    async def main() -> None:
        async with client(Target("http://127.0.0.1:9/v1", "m")) as made:
            timed = await sent(made, ask(headers=headers))
            assert "header" in timed.error and timed.status == 0 and "y: 2" not in timed.error

    asyncio.run(main())


@pytest.mark.parametrize(
    ("url", "authority", "path"),
    [
        ("http://a:8/v1", "a:8", "/v1/chat/completions"),
        ("http://a:80/v1/", "a", "/v1/chat/completions"),
        ("https://a", "a", "/chat/completions"),
        ("http://[::1]:9/x/v1", "[::1]:9", "/x/v1/chat/completions"),
    ],
)
def test_addresses(url: str, authority: str, path: str) -> None:
    found = address(url, "chat")
    assert (found.authority, found.path, found.tls) == (authority, path, url.startswith("https"))


@pytest.mark.parametrize(
    "url",
    [
        "a/v1",
        "ftp://a/v1",
        "http:///v1",
        "http://a:x/v1",
        "http://u:hunter2@a/v1",
        "http://a/v1?x=1",
        "http://a/v1#x",
        "http://a/v 1",
        "http://a/\u00e9",
    ],
)
def test_urls_that_cannot_be_are_refused(url: str) -> None:
    with pytest.raises(ValueError, match="URL") as told:
        address(url, "chat")
    assert "hunter2" not in str(told.value)


def test_cancelled_it_leaves_no_connection_behind() -> None:
    async def main() -> None:
        arrived = asyncio.Event()

        async def act(peer: Peer) -> None:
            await peer.request()
            arrived.set()
            assert await peer.reader.read() == b""  # the client has left

        async with scripted(act) as server, client(server.target()) as made:
            task = asyncio.ensure_future(sent(made))
            await arrived.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert not made._idle
            gone = [each.gone for each in made._all]
            await asyncio.gather(*gone)
            await asyncio.sleep(0)
            assert not made._all

    asyncio.run(main())


def test_close_ends_what_is_under_way_as_a_failure() -> None:
    async def main() -> None:
        arrived = asyncio.Event()

        async def act(peer: Peer) -> None:
            await peer.request()
            arrived.set()
            await peer.reader.read()

        async with scripted(act) as server, client(server.target()) as made:
            task = asyncio.ensure_future(sent(made))
            await arrived.wait()
            await made.close()
            assert (await task).error == "the connection was closed before an answer"

    asyncio.run(main())


def test_requests_leave_nothing_to_the_garbage_collector() -> None:
    async def main() -> None:
        async with scripted(always) as server, client(server.target()) as made:
            await sent(made)
            gc.collect()
            gc.disable()
            try:
                kept = [await sent(made) for _ in range(50)]
                assert all(isinstance(each, Timed) for each in kept)
                assert gc.collect() < 50  # the server's streams, at most
            finally:
                gc.enable()

    asyncio.run(main())
