"""The upstream client over a transport that a test plays: what sockets make hard to time."""

from __future__ import annotations

import asyncio
import itertools
import random

import pytest

from backends.connection import MAX_HEAD
from backends.types import Fault
from tests.backends.played import OK, REQUEST, Played, T, played, sent
from tests.backends.seen import Seen


def test_a_connection_is_used_again() -> None:
    async def work(pool: Played) -> None:
        for headers in ({b"content-length": b"2"}, {}, {}):  # a head that is known is not read again, and its length is the body's
            seen, _ = await sent(pool)
            pool.conn().data_received(OK)
            assert (seen.calls, seen.status, seen.body, seen.headers) == (["whole"], 200, b"{}", headers)
        assert len(pool.wires) == 1 and pool.wires[0].written == b"".join(REQUEST)  # the others are written at the end of this turn
        await asyncio.sleep(0)
        assert pool.wires[0].written == b"".join(REQUEST) * 3
        assert repr(pool) == "<Pool gpu http://h:1: 0 busy, 1 idle, 1 opened, 2 hits, 0 stale>"

    played(work)


@pytest.mark.parametrize("size", [1, 3, 7])
def test_answers_in_small_pieces(size: int) -> None:
    async def work(pool: Played) -> None:
        seen, _ = await sent(pool)
        raw = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX: y\r\n\r\n3;ext=1\r\nabc\r\n2\r\nde\r\n0\r\nTrailer: t\r\n\r\n"
        for at in range(0, len(raw), size):
            pool.conn().data_received(raw[at : at + size])
        assert seen.body == b"abcde" and seen.calls[0] == "head" and seen.calls[-1] == "end"
        assert seen.headers == {b"transfer-encoding": b"chunked", b"x": b"y"}
        seen, _ = await sent(pool)
        pool.conn().data_received(OK)
        assert seen.headers == {b"content-length": b"2"}  # the trailer belonged to the answer before

    played(work)


def test_interim_answers_are_not_the_answer() -> None:
    async def work(pool: Played) -> None:
        seen, _ = await sent(pool)
        pool.conn().data_received(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n")
        assert not seen.calls
        pool.conn().data_received(OK)
        assert seen.outcome == "ok" and b"link" not in seen.headers

    played(work)


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (OK + OK, "a second answer"),
        (b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n", "switched protocols"),
        (b"garbage\r\n\r\n", "broke HTTP"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n", "broke HTTP"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n", "broke HTTP"),
        (b"HTTP/1.1 200 OK\r\nx: " + b"y" * MAX_HEAD, "headers exceed"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" * 4000, "headers exceed"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n", "broke HTTP"),
    ],
)
def test_broken_framing(raw: bytes, says: str) -> None:
    async def work(pool: Played) -> None:
        seen, _ = await sent(pool)
        pool.conn().data_received(raw)
        assert seen.fault is not None and seen.fault.code == "bad_framing" and says in seen.fault.message and seen.body == b""
        assert pool.wires[0].aborted and not pool.busy and not pool.idle

    played(work)


def test_nothing_of_a_second_answer_passes_as_the_first() -> None:
    async def work(pool: Played) -> None:
        seen, _ = await sent(pool)
        pool.conn().data_received(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nab")
        pool.conn().data_received(b"cd" + OK)
        assert seen.body == b"ab" and seen.outcome == "bad_framing"

    played(work)


def test_garbage_after_a_whole_answer_costs_the_connection_only() -> None:
    async def work(pool: Played) -> None:
        seen, _ = await sent(pool)
        pool.conn().data_received(OK + b"garbage")
        assert seen.outcome == "ok" and pool.wires[0].closed and not pool.idle
        seen, _ = await sent(pool)
        pool.conn().data_received(OK[:-2])
        pool.conn().data_received(b"{}garbage")
        assert seen.outcome == "ok" and seen.body == b"{}" and not pool.idle
        await sent(pool)
        pool.conn().data_received(OK)
        pool.conn().data_received(b"x")  # asked for by nobody
        assert pool.wires[-1].aborted

    played(work)


def test_answers_that_end_with_their_connection() -> None:
    async def work(pool: Played) -> None:
        cut = "connection_lost"
        for head, outcome in ((b"", "ok"), (b"content-length: 9\r\n", cut), (b"transfer-encoding: chunked\r\n", cut)):
            seen, _ = await sent(pool)
            conn = pool.conn()
            conn.data_received(b"HTTP/1.1 200 OK\r\n" + head + b"\r\n2\r\n")
            conn.eof_received()
            conn.connection_lost(None)
            assert seen.outcome == outcome and not pool.busy and not pool.idle
        seen, _ = await sent(pool)
        conn = pool.conn()
        conn.eof_received()
        conn.connection_lost(None)
        assert seen.fault is not None and "without an answer" in seen.fault.message

    played(work)


@pytest.mark.parametrize("head", [b"connection: close\r\n", b""])
def test_a_connection_that_is_to_close_is_not_kept(head: bytes) -> None:
    async def work(pool: Played) -> None:
        await sent(pool)
        pool.wires[0].buffered = 0 if head else 1  # or our request is not all out yet
        pool.conn().data_received(b"HTTP/1.1 200 OK\r\n" + head + b"content-length: 0\r\n\r\n")
        assert pool.wires[0].closed and not pool.idle

    played(work)


def test_a_stale_connection_is_retried_exactly_once() -> None:
    async def work(pool: Played) -> None:
        await sent(pool)
        pool.conn().data_received(OK)
        seen, flight = await sent(pool)  # on the kept connection
        pool.conn().connection_lost(None)
        assert not seen.calls and isinstance(flight.task, asyncio.Task)
        await asyncio.wait([flight.task])
        assert pool.wires[1].written == b"".join(REQUEST) and pool.stale == 1
        pool.conn().connection_lost(None)  # a fresh one closes: that is a failure
        assert seen.outcome == "connection_lost" and len(pool.wires) == 2

    played(work)


def test_after_one_byte_nothing_is_retried() -> None:
    async def work(pool: Played) -> None:
        await sent(pool)
        pool.conn().data_received(OK)
        seen, _ = await sent(pool)
        pool.conn().data_received(b"H")
        pool.conn().connection_lost(ConnectionResetError())
        assert seen.fault is not None and "in the middle" in seen.fault.message and len(pool.wires) == 1

    played(work)


def test_a_closing_connection_is_passed_over() -> None:
    async def work(pool: Played) -> None:
        await sent(pool)
        pool.conn().data_received(OK)
        pool.wires[0].closed = True
        await sent(pool)
        assert len(pool.wires) == 2
        pool.conn(0).connection_lost(None)
        pool.conn().data_received(OK)
        assert len(pool.idle) == 1
        pool.conn().connection_lost(None)
        assert not pool.idle

    played(work)


def test_cancel_is_idempotent_and_silent() -> None:
    async def work(pool: Played) -> None:
        seen, flight = await sent(pool)
        conn = pool.conn()
        flight.cancel()
        flight.cancel()
        assert pool.wires[0].aborted and not pool.busy
        conn.data_received(OK)
        conn.connection_lost(None)
        flight.pause()
        flight.resume()
        flight.fail(Fault("timeout", "late"))
        assert not seen.calls
        pool.gate = asyncio.Event()
        seen = Seen()
        flight = pool.send(REQUEST, seen, T)
        task = flight.task
        assert isinstance(task, asyncio.Task)
        await asyncio.sleep(0)
        flight.cancel()
        await asyncio.wait([task])
        assert not seen.calls and not pool.busy and len(pool.wires) == 1

    played(work)


@pytest.mark.parametrize("at", ["head", "data"])
def test_a_receiver_may_cancel_from_within(at: str) -> None:
    async def work(pool: Played) -> None:
        class Leaver(Seen):
            def _called(self, name: str) -> None:
                super()._called(name)
                if name == at:
                    flight.cancel()

        seen, flight = await sent(pool, seen=(leaver := Leaver()))
        pool.conn().data_received(OK[:-1])
        assert leaver is seen and seen.calls == (["head"] if at == "head" else ["head", "data"]) and pool.wires[0].aborted

    played(work)


def test_pause_and_resume() -> None:
    async def work(pool: Played) -> None:
        seen, flight = await sent(pool)
        for _ in range(2):
            flight.pause()
            flight.pause()
            assert not pool.wires[0].reading
            flight.resume()
            flight.resume()
            assert pool.wires[0].reading
        flight.pause()
        pool.conn().data_received(OK)  # it was on its way
        assert seen.outcome == "ok" and pool.wires[0].reading and len(pool.idle) == 1
        pool.idle.clear()
        pool.gate = asyncio.Event()
        flight = pool.send(REQUEST, Seen(), T)
        flight.pause()  # while connecting
        pool.gate.set()
        assert isinstance(flight.task, asyncio.Task)
        await asyncio.wait([flight.task])
        assert not pool.wires[1].reading
        flight.resume()
        assert pool.wires[1].reading

    played(work)


def test_time_limits() -> None:
    async def work(pool: Played) -> None:
        now = pool.clients.now
        seen, _ = await sent(pool)
        pool.tick(now + 9)
        assert not seen.over
        pool.tick(now + 11)
        assert seen.outcome == "first_byte_timeout" and pool.wires[0].aborted
        seen, flight = await sent(pool)
        pool.conn().data_received(OK[:-1])
        pool.tick(now + 19)
        flight.pause()
        pool.tick(now + 50)  # while we do not read, its silence is ours
        assert not seen.over
        pool.clients.now = now + 50
        flight.resume()
        pool.tick(now + 69)
        assert not seen.over
        pool.tick(now + 71)
        assert seen.outcome == "idle_timeout"
        now = pool.clients.now = now + 200
        seen, flight = await sent(pool)
        flight.pause()
        pool.tick(now + 101)
        assert seen.outcome == "total_timeout"
        now = pool.clients.now = now + 200
        pool.gate = asyncio.Event()
        seen = Seen()
        pool.send(REQUEST, seen, T)
        pool.tick(now + 50)  # connecting has a limit of its own
        assert not seen.over
        pool.tick(now + 101)
        assert seen.outcome == "total_timeout" and not pool.busy

    played(work)


def test_heads_that_are_known_and_nothing_else_come_around_the_parser() -> None:
    def answer(body: bytes, head: bytes = b"HTTP/1.1 200 OK\r\nX: y\r\nContent-Length: %d\r\nZ: 1\r\n\r\n") -> bytes:
        return head % len(body) + body

    async def work(pool: Played) -> None:
        async def told(*reads: bytes) -> Seen:
            seen, _ = await sent(pool)
            for read in reads:
                pool.conn().data_received(read)
            return seen

        assert (await told(answer(b"first"))).body == b"first"
        known = pool.conn().known
        assert known is not None and known.fields == {b"x": b"y", b"z": b"1"}
        for body in (b"", b"another", b"x" * 5000):
            seen = await told(answer(body))
            assert (seen.calls, seen.body, seen.headers) == (["whole"], body, known.fields)
        whole = answer(b"in pieces")
        for at in (1, 10, 30, 45, len(whole) - 1):
            assert (await told(whole[:at], whole[at:])).body == b"in pieces"
        other = await told(answer(b"{}", b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: %d\r\n\r\n"))
        assert (other.status, other.body) == (500, b"{}")
        assert (await told(answer(b"again"))).body == b"again" and len(pool.wires) == 1
        late = await told(answer(b"and") + b"more")  # bytes that nobody asked for
        assert late.body == b"and" and pool.wires[0].closed

    played(work)


def test_an_answer_that_overtakes_its_request_closes_the_connection_also_when_its_head_is_known() -> None:
    async def work(pool: Played) -> None:
        await sent(pool)
        pool.conn().data_received(OK)
        seen, flight = await sent(pool)
        flight.pause()
        pool.wires[0].buffered = 1
        pool.conn().data_received(OK)
        assert seen.calls == ["whole"] and pool.wires[0].closed and pool.wires[0].reading and not pool.idle

    played(work)


@pytest.mark.parametrize("seed", range(30))
def test_a_chunked_answer_is_the_same_however_it_is_cut(seed: int) -> None:
    rng = random.Random(seed)
    chunks = [rng.randbytes(rng.choice([1, 2, 15, 16, 255, 300, 2047, 2048, 3000])) for _ in range(12)]
    chunks.insert(3, b"\r\n")
    frames = [rng.choice([b"%x\r\n%b\r\n", b"%X\r\n%b\r\n", b"0%x\r\n%b\r\n", b"%x;ext=1\r\n%b\r\n"]) % (len(c), c) for c in chunks]
    raw = b"".join([b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", *frames, b"0\r\nT: x\r\n\r\n"])
    bounds = [0]
    for frame in [raw[: raw.find(b"\r\n\r\n") + 4], *frames]:
        bounds.append(bounds[-1] + len(frame))
    cuts = sorted({*rng.sample(bounds, rng.randint(0, len(bounds))), *rng.sample(range(len(raw)), rng.randint(0, 20)), 0, len(raw)})

    async def work(pool: Played) -> None:
        for _ in range(2):
            seen, _ = await sent(pool)
            for start, end in itertools.pairwise(cuts):
                pool.conn().data_received(raw[start:end])
            assert seen.body == b"".join(chunks) and seen.calls[-1] in ("end", "whole") and len(pool.wires) == 1

    played(work)


def test_a_chunk_that_lies_about_its_size_breaks_the_answer() -> None:
    async def work(pool: Played) -> None:
        seen, _ = await sent(pool)
        pool.conn().data_received(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n")
        assert pool.conn().between
        pool.conn().data_received(b"3\r\nabcd\r\n")
        assert seen.fault is not None and seen.fault.code == "bad_framing"

    played(work)


@pytest.mark.parametrize("tail", [b"H", b"HTTP/1.1 500 No\r\nx-of: another\r\n", OK[:-3]])
@pytest.mark.parametrize("whole", [True, False])
def test_the_beginning_of_a_second_answer_does_not_wait_for_the_next_request(tail: bytes, whole: bool) -> None:
    async def work(pool: Played) -> None:
        seen, _ = await sent(pool)
        if not whole:
            pool.conn().data_received(OK[:-1])
        pool.conn().data_received(OK + tail if whole else OK[-1:] + tail)
        assert pool.wires[0].closed and not pool.idle and seen.outcome == "ok"
        seen, _ = await sent(pool)
        pool.conn().data_received(OK)
        assert (seen.outcome, seen.status, seen.body) == ("ok", 200, b"{}") and len(pool.wires) == 2

    played(work)


@pytest.mark.parametrize("rounds", [1, 2])
def test_who_answers_early_and_reads_no_more_is_not_waited_for(rounds: int) -> None:
    async def work(pool: Played) -> None:
        for n in range(rounds):
            seen, _ = await sent(pool)
            pool.wires[0].buffered = int(n == rounds - 1)
            pool.conn().data_received(OK)
            assert seen.outcome == "ok"
        assert pool.wires[0].aborted and not pool.busy

    played(work)
