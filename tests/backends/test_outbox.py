"""What is written in one turn of the loop goes out at its end, in order, and what is gone keeps nobody from the rest."""

from __future__ import annotations

import asyncio
from functools import partial

import pytest

from backends.outbox import Outbox
from tests.backends.seen import Written


def test_writes_go_out_in_order_when_the_turn_is_over() -> None:
    async def play() -> None:
        outbox, seen = Outbox(asyncio.get_running_loop()), list[str]()
        for name, data in (("a", b"1"), ("b", b"2"), ("a", b"3")):
            outbox.put(Written(partial(lambda name, data: seen.append(f"{name}{data.decode()}"), name)), data)
        assert not seen
        await asyncio.sleep(0)
        assert seen == ["a1", "b2", "a3"]
        outbox.put(Written(lambda data: seen.append(data.decode())), b"4")
        await asyncio.sleep(0)
        assert seen[3:] == ["4"]

    asyncio.run(play())


def test_flushed_they_go_at_once_and_once() -> None:
    async def play() -> None:
        outbox, seen = Outbox(asyncio.get_running_loop()), list[bytes]()
        outbox.put(Written(seen.append), b"1")
        outbox.flush()
        outbox.put(Written(seen.append), b"2")
        assert seen == [b"1"]
        await asyncio.sleep(0)
        assert seen == [b"1", b"2"]
        outbox.flush()
        assert seen == [b"1", b"2"]

    asyncio.run(play())


def test_what_one_connection_raises_stops_no_other(caplog: pytest.LogCaptureFixture) -> None:
    def gone(data: bytes) -> None:
        raise RuntimeError("the handler is closed")

    def bug(data: bytes) -> None:
        raise ValueError("what nobody thought of")

    async def play() -> None:
        outbox, seen = Outbox(asyncio.get_running_loop()), list[bytes]()
        outbox.put(Written(gone), b"1")
        outbox.put(Written(bug), b"2")
        outbox.put(Written(seen.append), b"3")
        await asyncio.sleep(0)
        assert seen == [b"3"]

    asyncio.run(play())
    assert [record.message for record in caplog.records] == ["a bug: a write"]
