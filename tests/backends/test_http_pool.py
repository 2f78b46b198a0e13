"""What a pool keeps, for how long, and what becomes of it when it is dropped; and small requests that are waited for."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from backends.connection import Connection
from backends.fetch import fetch
from backends.http import IDLE_SECONDS, MAX_IDLE
from backends.types import Fault
from tests.backends.played import OK, REQUEST, Played, T, played, sent
from tests.backends.seen import Seen


def test_idle_connections_are_bounded_in_number_and_time() -> None:
    async def work(pool: Played) -> None:
        flights = [await sent(pool) for _ in range(3)]
        pool.keep = 2
        for wire in pool.wires:
            cast(Connection, wire.protocol).data_received(OK)
        assert len(pool.idle) == 2 and [w.closed for w in pool.wires] == [False, False, True] and all(s.outcome == "ok" for s, _ in flights)
        pool.idle[1].idle_since += 30
        pool.clients.tick()
        pool.tick(pool.clients.now + IDLE_SECONDS + 1)
        assert len(pool.idle) == 1 and pool.wires[0].closed and MAX_IDLE >= 2

    played(work)


def test_a_dropped_pool_keeps_its_limits_and_no_connections() -> None:
    async def work(pool: Played) -> None:
        clients = pool.clients
        idle, _ = await sent(pool)
        slow, _ = await sent(pool)
        done, _ = await sent(pool)
        pool.conn(0).data_received(OK)
        pool.drop()
        pool.drop()
        assert pool.wires[0].closed and not clients.pools and clients.leaving == {pool} and idle.outcome == "ok"
        pool.conn(2).data_received(OK)
        assert done.outcome == "ok" and pool.wires[2].closed
        slow_flight = next(iter(pool.busy))
        slow_flight.begun -= 1000
        clients.tick()
        assert slow.outcome == "total_timeout" and not clients.leaving
        late, _ = await sent(pool)  # a retry of an old call
        assert clients.leaving == {pool}
        pool.conn().data_received(OK)
        assert late.outcome == "ok" and pool.wires[-1].closed
        clients.tick()
        assert not clients.leaving

    played(work)


def test_closing_ends_everything() -> None:
    async def work(pool: Played) -> None:
        kept, _ = await sent(pool)
        seen, _ = await sent(pool)
        pool.conn(0).data_received(OK)
        pool.clients.close()
        assert all(w.closed for w in pool.wires) and not pool.clients.pools and not seen.calls and kept.outcome == "ok"

    played(work)


def test_a_name_that_cannot_be_encoded_is_a_fault() -> None:
    async def work(pool: Played) -> None:
        pool.error = UnicodeError("label too long")
        seen, _ = await sent(pool)
        assert seen.fault is not None and seen.fault.code == "connect_failed" and "label too long" in seen.fault.message

    played(work)


def test_a_head_and_a_large_body_are_two_writes() -> None:
    async def work(pool: Played) -> None:
        seen = Seen()
        flight = pool.send((b"head", b"x" * 20_000), seen, T)
        assert isinstance(flight.task, asyncio.Task)
        await asyncio.wait([flight.task])
        assert pool.wires[0].written == b"head" + b"x" * 20_000

    played(work)


def test_fetch_is_bounded_and_cancels_with_its_caller() -> None:
    async def work(pool: Played) -> None:
        async def answer(raw: bytes, limit: int) -> Any:
            task = asyncio.ensure_future(fetch(pool, REQUEST, T, limit))
            await asyncio.sleep(0)
            (flight,) = pool.busy
            if isinstance(flight.task, asyncio.Task):
                await asyncio.wait([flight.task])
            pool.conn().data_received(raw)
            return await task

        assert await answer(OK, 2) == (200, {b"content-length": b"2"}, b"{}")
        with pytest.raises(Fault, match="exceeds 1 bytes"):
            await answer(OK, 1)
        with pytest.raises(Fault, match="exceeds 1 bytes"):
            await answer(OK[:-2] + b"{}", 1)
        with pytest.raises(Fault, match="broke HTTP"):
            await answer(b"garbage\r\n\r\n", 9)
        task = asyncio.ensure_future(fetch(pool, REQUEST, T))
        await asyncio.sleep(0)
        assert pool.busy
        task.cancel()
        await asyncio.wait([task])
        assert not pool.busy

    played(work)


def test_a_connection_that_closes_before_it_is_used_is_a_fault() -> None:
    async def work(pool: Played) -> None:
        opening = pool._open

        async def fleeting() -> Connection:
            conn = await opening()
            pool.wires[-1].closed = True
            conn.connection_lost(None)
            return conn

        pool._open = fleeting  # type: ignore[method-assign]
        seen, _ = await sent(pool)
        assert seen.outcome == "connect_failed" and not pool.busy

    played(work)
