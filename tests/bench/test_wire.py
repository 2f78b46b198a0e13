"""One connection, against servers that say what no good server would."""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from itertools import pairwise

import pytest
import uvloop
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.bench import answers
from benchmarks.bench.answers import Answer
from benchmarks.bench.wire import Connection
from benchmarks.bench.words import Timed
from tests.bench.sockets import CHUNK, DONE, END, FINISH, GOOD, HEAD, Peer, always, ask, client, framed, says, scripted, sent

WHOLE = b'{"choices":[{"message":{"content":"x"},"finish_reason":"stop"}]}'
EVENTS = CHUNK + FINISH + DONE


def with_length(body: bytes, more: bytes = b"", status: bytes = b"200 OK") -> bytes:
    return b"HTTP/1.1 %b\r\ncontent-type: text/event-stream\r\n%bcontent-length: %d\r\n\r\n%b" % (status, more, len(body), body)


@pytest.mark.parametrize(
    ("answer", "kept"),
    [
        (GOOD, True),
        (HEAD + b"".join(framed(EVENTS[at : at + 7]) for at in range(0, len(EVENTS), 7)) + END, True),
        (HEAD + framed(EVENTS) + b"0\r\nx-trailer: content-length\r\n\r\n", True),
        (with_length(EVENTS), True),
        (with_length(EVENTS, b"connection: close\r\n"), False),
        (b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n" + EVENTS, False),
        (b"HTTP/1.0 200 OK\r\n\r\n" + EVENTS, False),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + GOOD, True),
        (b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" + GOOD, True),
        (GOOD.replace(b"transfer-encoding", b"content-encoding: identity\r\ntransfer-encoding"), True),
    ],
)
@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_bodies_of_all_framings_are_read(answer: bytes, kept: bool, run: object) -> None:
    async def main() -> None:
        async with scripted(says(answer) if not kept else says(answer, answer)) as server, client(server.target()) as made:
            first, second = await sent(made), await sent(made)
            for timed in (first, second):
                assert timed.good and timed.finish == "stop" and len(timed.stamps) == 1, timed.error
                assert 0 < timed.sent <= timed.head <= timed.stamps[0] <= timed.done
                assert timed.bytes_in == len(answer)
            assert (second.connection == first.connection) is kept
            assert len(server.peers) == (1 if kept else 2) and made.resent == 0

    run(main())  # type: ignore[operator]


@pytest.mark.parametrize(
    ("answer", "status", "error"),
    [
        (b"", 0, "the connection was closed before an answer"),
        (b"HTTP/1.1 200 OK\r\ncontent-type: text/ev", 0, "the connection was closed before an answer"),
        (HEAD + framed(CHUNK), 200, "the connection was closed before the answer was whole"),
        (HEAD + framed(EVENTS), 200, "the connection was closed before the answer was whole"),
        (with_length(EVENTS)[:-3], 200, "the connection was closed before the answer was whole"),
        (HEAD + framed(CHUNK) + END, 200, "the stream ended without a finish reason and without [DONE]"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", 0, "what came is no HTTP/1.1 answer: "),
        (HEAD + b"nonsense\r\n", 200, "what came is no HTTP/1.1 answer: "),
        (b"HTTP/1.1 101 Switching Protocols\r\nupgrade: h2c\r\nconnection: upgrade\r\n\r\n", 0, "what came is no HTTP/1.1 answer: "),
        (with_length(EVENTS, b"content-encoding: gzip\r\n"), 0, "the answer is compressed (gzip), which was not asked for"),
        (with_length(b"busy", status=b"503 Service Unavailable"), 503, "status 503: busy"),
        (with_length(b"", status=b"204 No Content"), 204, "the stream ended without a finish reason and without [DONE]"),
        (with_length(b"", b"location: /x\r\n", b"307 Temporary Redirect"), 307, "status 307"),
    ],
)
def test_failures_are_results(answer: bytes, status: int, error: str) -> None:
    async def main() -> None:
        async with scripted(says(answer)) as server, client(server.target()) as made:
            timed = await sent(made)
            assert timed.error.startswith(error) and timed.status == status and not timed.good
            assert timed.done >= timed.sent > 0
            assert len(server.peers) == 1  # nothing was sent twice

    asyncio.run(main())


def test_each_read_has_its_stamp() -> None:
    async def act(peer: Peer) -> None:
        assert await peer.request()
        for piece in (HEAD, framed(CHUNK), framed(CHUNK + CHUNK), framed(CHUNK[:9]), framed(CHUNK[9:]), framed(FINISH + DONE) + END):
            await peer.send(piece)
            await seen.wait()
            seen.clear()

    seen = asyncio.Event()

    async def main() -> None:
        async with scripted(act) as server, client(server.target()) as made:
            connection = None
            task = asyncio.ensure_future(sent(made))
            while connection is None:
                await asyncio.sleep(0)
                connection = next((each for each in made._all if each.usable), None)
            parse = connection.data_received

            def heard(data: bytes) -> None:
                parse(data)
                seen.set()

            connection.data_received = heard  # type: ignore[method-assign]
            timed = await task
            a, b, c, d = timed.stamps
            assert timed.head < a < b == c < d <= timed.done

    asyncio.run(main())


def test_a_request_that_the_kernel_does_not_take_at_once_is_sent_when_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    read = asyncio.Event()
    began: list[float] = []
    pause = Connection.pause_writing

    def paused(connection: Connection) -> None:
        pause(connection)
        read.set()

    monkeypatch.setattr(Connection, "pause_writing", paused)

    async def act(peer: Peer) -> None:
        await read.wait()
        began.append(time.monotonic())
        if await peer.request():
            await peer.send(GOOD)

    async def main() -> None:
        async with scripted(act) as server, client(server.target()) as made:
            request = ask()
            request = type(request)(0, b'"' + b"x" * (32 << 20) + b'"', 1, 1)
            timed = await sent(made, request)
            assert timed.good and timed.sent >= began[0]
            assert len(server.requests[0][2]) == (32 << 20) + 2

    asyncio.run(main())


def test_an_answer_before_the_request_is_out_ends_it() -> None:
    async def act(peer: Peer) -> None:
        await peer.send(with_length(b"too long", status=b"413 Content Too Large"))
        await peer.reader.read()

    async def main() -> None:
        async with scripted(act) as server, client(server.target()) as made:
            timed = await sent(made, type(ask())(0, b"x" * (32 << 20), 1, 1))
            assert timed.error == "status 413: too long" and timed.sent == timed.done
            assert not made._idle

    asyncio.run(main())


def test_a_deadline_ends_a_request_and_its_connection() -> None:
    async def act(peer: Peer) -> None:
        await peer.request()
        await peer.send(HEAD + framed(CHUNK))
        await peer.reader.read()

    async def main() -> None:
        async with scripted(act) as server, client(server.target(), timeout=0.2) as made:
            timed = await sent(made)
            assert timed.error == "no whole answer within 0.2 s" and timed.status == 200 and len(timed.stamps) == 1
            assert not made._idle

    asyncio.run(main())


def test_bytes_that_nobody_asked_for_close_the_connection() -> None:
    async def main() -> None:
        async with scripted(says(GOOD + GOOD, GOOD)) as server, client(server.target()) as made:
            assert (await sent(made)).good
            assert not made._idle or not made._idle[0].usable
            assert (await sent(made)).good and len(server.peers) == 2

    asyncio.run(main())


def test_a_connection_says_what_it_is() -> None:
    async def main() -> None:
        async with scripted(always) as server, client(server.target()) as made:
            await sent(made)
            (connection,) = made._idle
            assert repr(connection) == "<Connection 1 idle, 1 answers>"
            assert "1 connections, 1 idle" in repr(made)
            await made.close()
            assert repr(connection) == "<Connection 1 closed, 1 answers>"

    asyncio.run(main())


def test_a_reset_is_said() -> None:
    async def act(peer: Peer) -> None:
        await peer.request()
        await peer.send(HEAD + framed(CHUNK))
        raw = peer.writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        peer.writer.transport.abort()

    async def main() -> None:
        async with scripted(act) as server, client(server.target()) as made:
            timed = await sent(made)
            assert timed.error == "the connection was closed before the answer was whole (Connection reset by peer)" or (
                timed.error.startswith("the connection was closed before an answer")  # the reset overtook the data
            )

    asyncio.run(main())


def test_what_is_longer_than_anything_closes_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "MOST_CHUNKS", 3)

    async def act(peer: Peer) -> None:
        await peer.request()
        await peer.send(HEAD + framed(CHUNK) * 5)
        await peer.reader.read()

    async def main() -> None:
        async with scripted(act) as server, client(server.target()) as made:
            timed = await sent(made)
            assert "million" in timed.error and len(timed.stamps) == 3 and not made._idle

    asyncio.run(main())


class Nowhere(asyncio.Transport):
    """A transport that takes everything."""

    def __init__(self) -> None:
        super().__init__()
        self.closed = False

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        assert high == 0

    def write(self, data: object) -> None:
        assert not self.closed

    def abort(self) -> None:
        self.closed = True


EDITS = st.lists(
    st.tuples(st.integers(0, len(GOOD)), st.integers(0, 4), st.sampled_from([b"", b"\r\n", b"0", b"\xff", b"{", b"\n\n", b'"', b"9" * 20]))
)


@given(EDITS, st.lists(st.integers(0, len(GOOD) + 40), max_size=6))
def test_whatever_comes_ends_in_an_answer_or_in_an_error(edits: list[tuple[int, int, bytes]], cuts: list[int]) -> None:
    data = GOOD
    for at, gone, new in edits:
        data = data[:at] + new + data[at + gone :]
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]

    async def main() -> None:
        connection, transport, timed = Connection(1), Nowhere(), Timed(0, 0.0)
        connection.connection_made(transport)
        task = asyncio.ensure_future(connection.exchange(b"x", Answer(timed, stream=True), 0.0, time.monotonic() + 60, "late"))
        await asyncio.sleep(0)
        for a, b in pairwise(edges):
            if not transport.closed and b > a:
                connection.data_received(data[a:b])
        connection.connection_lost(None)
        assert await task is True and connection.gone.done() and not connection.usable
        assert timed.good or timed.error
        assert timed.done >= timed.sent > 0 and timed.stamps == sorted(timed.stamps) and len(timed.counts) == len(timed.stamps)
        if not edits:
            assert timed.good

    asyncio.run(main())
