"""Stored responses: what is put is found at once, survives a stop, belongs to its tenant, and does not grow without bound."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from backends.types import Fault
from gateway import responses_store
from gateway.responses_store import Keep, Kept, ResponsesStore
from gateway.responses_table import Table


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def kept(n: int, tenant: str = "a", previous: int | None = None, size: int = 0, unix: float | None = None) -> Kept:
    before = None if previous is None else f"resp_{previous}"
    return Kept(tenant, f"resp_{n}", b"[%d]" % n, b"x" * size, 1000.0 + n if unix is None else unix, before)


def played(
    act: Callable[[ResponsesStore], Awaitable[Any]], path: Path | None = None, keep: Keep | None = None, *, shared: bool = False
) -> Any:
    """What `act` gives on a store that is started before it and stopped after."""

    async def main() -> Any:
        store = ResponsesStore(str(path) if path else None, keep, shared=shared, clock=Clock())
        await store.start()
        try:
            return await act(store)
        finally:
            await store.stop()

    return asyncio.run(main())


def refusal(fault: pytest.ExceptionInfo[Fault]) -> tuple[str, str | None]:
    return fault.value.kind, fault.value.code


@pytest.fixture(params=[False, True], ids=["alone", "shared"])
def shared(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def test_what_is_put_is_found_at_once_and_after_it_is_written(tmp_path: Path, shared: bool) -> None:
    async def act(store: ResponsesStore) -> None:
        one = kept(1)
        assert store.put(one)
        assert store.peek("a", "resp_1") is one
        assert await store.get("a", "resp_1") is one
        await store.flush()
        assert await store.get("a", "resp_1") == one
        assert (store.peek("a", "resp_1") is None) is shared  # another process may have deleted it
        assert (store.written, store.lost, store.refused) == (1, 0, 0)
        assert repr(store) == f"ResponsesStore({0 if shared else 1} in memory, 0 waiting, 1 written, 0 lost)"

    played(act, tmp_path / "r.db", shared=shared)


def test_nothing_taken_is_lost_by_a_stop(tmp_path: Path) -> None:
    async def put(store: ResponsesStore) -> None:
        assert all(store.put(kept(n)) for n in range(1000))

    async def look(store: ResponsesStore) -> list[Kept | None]:
        return [await store.get("a", f"resp_{n}") for n in range(1000)]

    played(put, tmp_path / "r.db")
    assert played(look, tmp_path / "r.db") == [kept(n) for n in range(1000)]


def test_a_tenant_sees_only_its_own() -> None:
    async def act(store: ResponsesStore) -> None:
        store.put(kept(1, "a"))
        store.put(kept(1, "b", size=9))
        for _ in range(2):
            assert await store.get("a", "resp_1") == kept(1, "a")
            assert await store.get("b", "resp_1") == kept(1, "b", size=9)
            assert await store.get("c", "resp_1") is None
            assert not await store.delete("c", "resp_1")
            await store.flush()
        with pytest.raises(Fault) as e:
            await store.chain("c", "resp_1")
        assert refusal(e) == ("bad_request", "previous_response_not_found") and "'resp_1'" in e.value.message
        assert await store.delete("a", "resp_1")
        assert await store.get("a", "resp_1") is None
        assert await store.get("b", "resp_1") is not None

    played(act)


def test_a_deleted_response_is_gone_from_memory_and_file(tmp_path: Path) -> None:
    async def act(store: ResponsesStore) -> None:
        store.put(kept(1))
        reading = asyncio.ensure_future(store.get("a", "resp_1"))
        assert await store.delete("a", "resp_1")
        await reading
        assert store.peek("a", "resp_1") is None and await store.get("a", "resp_1") is None
        assert not await store.delete("a", "resp_1")
        store.put(kept(1, size=3))  # a name may be used again
        assert await store.get("a", "resp_1") == kept(1, size=3)

    played(act, tmp_path / "r.db")


def test_a_read_on_its_way_does_not_bring_back_what_is_deleted(tmp_path: Path) -> None:
    async def put(store: ResponsesStore) -> None:
        store.put(kept(1))

    async def act(store: ResponsesStore) -> None:
        got, gone = await asyncio.gather(store.get("a", "resp_1"), store.delete("a", "resp_1"))
        assert got == kept(1) and gone
        assert store.peek("a", "resp_1") is None

    played(put, tmp_path / "r.db")
    played(act, tmp_path / "r.db")


def test_conversations_are_followed_to_their_beginning(tmp_path: Path) -> None:
    async def put(store: ResponsesStore) -> None:
        for n in range(5):
            store.put(kept(n, previous=n - 1 if n else None))

    async def act(store: ResponsesStore) -> None:
        assert [k.id for k in await store.chain("a", "resp_4")] == [f"resp_{n}" for n in range(5)]
        await store.delete("a", "resp_2")
        with pytest.raises(Fault) as e:
            await store.chain("a", "resp_4")
        assert refusal(e) == ("bad_request", "previous_response_not_found") and "'resp_2'" in e.value.message
        assert e.value.param == "previous_response_id"

    played(put, tmp_path / "r.db")
    played(act, tmp_path / "r.db")


def test_a_conversation_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    async def act(store: ResponsesStore) -> None:
        store.put(kept(1, previous=2))
        store.put(kept(2, previous=1))  # a circle, as clients can make that choose their request ids
        with pytest.raises(Fault) as e:
            await store.chain("a", "resp_1")
        assert refusal(e) == ("bad_request", "conversation_too_long")
        store.put(kept(3, size=100))
        store.put(kept(4, previous=3, size=100))
        monkeypatch.setattr(responses_store, "MOST_HISTORY", 150)
        assert len(await store.chain("a", "resp_4")) == 2
        store.put(kept(5, previous=4, size=100))
        with pytest.raises(Fault) as e:
            await store.chain("a", "resp_5")
        assert refusal(e) == ("bad_request", "conversation_too_long")

    played(act)


def test_memory_is_bounded_and_keeps_what_was_used_last(tmp_path: Path) -> None:
    async def act(store: ResponsesStore) -> None:
        for n in range(3):
            store.put(kept(n, size=97))
        await store.flush()
        assert store.peek("a", "resp_0") is not None
        store.put(kept(3, size=97))
        await store.flush()
        assert [n for n in range(4) if store.peek("a", f"resp_{n}")] == [0, 2, 3]
        assert await store.get("a", "resp_1") == kept(1, size=97)
        store.put(kept(9, size=1000))  # more than memory holds: only in the file
        await store.flush()
        assert store.peek("a", "resp_9") is None and await store.get("a", "resp_9") is not None

    played(act, tmp_path / "r.db", Keep(memory=300))


class Held:
    """A job that holds the thread until it is let go."""

    def __init__(self, store: ResponsesStore) -> None:
        self.go, self.reached = threading.Event(), threading.Event()
        self.task = asyncio.ensure_future(store._ask(self._hold))

    def _hold(self, table: Table) -> None:
        self.reached.set()
        self.go.wait(30)

    async def __aenter__(self) -> Held:
        await asyncio.sleep(0)
        await asyncio.to_thread(self.reached.wait, 30)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.go.set()
        await self.task


def test_a_full_queue_says_no_and_blocks_nobody() -> None:
    async def act(store: ResponsesStore) -> None:
        async with Held(store):
            assert store.put(kept(1)) and store.put(kept(2)) and not store.put(kept(3))
            assert store.peek("a", "resp_3") is None and store.refused == 1
            reading = asyncio.ensure_future(store.get("a", "resp_9"))
            await asyncio.sleep(0)
            with pytest.raises(Fault) as e:
                await store.get("a", "resp_8")
            assert e.value.kind == "overloaded" and e.value.retry_after
        assert await reading is None
        assert store.put(kept(3))

    async def large(store: ResponsesStore) -> None:
        async with Held(store):
            assert store.put(kept(1, size=60)) and not store.put(kept(2, size=60))
            assert store.put(kept(1, size=30)) and store.put(kept(2, size=30))  # the same name counts once
        await store.flush()
        assert store.put(kept(3, size=60))

    played(act, keep=Keep(waiting=2))
    played(large, keep=Keep(waiting_bytes=100))


def test_a_reader_that_leaves_disturbs_nobody() -> None:
    async def act(store: ResponsesStore) -> None:
        async with Held(store):
            reading = asyncio.ensure_future(store.get("a", "resp_1"))
            await asyncio.sleep(0)
            reading.cancel()
        await store.flush()
        assert reading.cancelled()

    played(act)


def test_one_bad_write_costs_only_itself(caplog: pytest.LogCaptureFixture) -> None:
    async def act(store: ResponsesStore) -> None:
        async with Held(store):
            for n in range(3):
                store.put(kept(n) if n != 1 else Kept("a", "resp_1", b"", b"", None))  # type: ignore[arg-type]
        await store.flush()
        assert (store.written, store.lost) == (2, 1)
        assert await store.get("a", "resp_2") == kept(2)

    played(act)
    assert "could not be stored" in caplog.text


def test_a_thread_that_breaks_leaves_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise MemoryError

    async def main() -> None:
        store = ResponsesStore()
        await store.start()
        monkeypatch.setattr(Table, "read", broken)
        with pytest.raises(Fault) as e:
            await store.get("a", "resp_1")
        assert e.value.kind == "unavailable"
        assert not store.put(kept(1))
        await store.stop()

    ended: list[object] = []
    monkeypatch.setattr(threading, "excepthook", ended.append)
    asyncio.run(main())
    assert len(ended) == 1


def test_errors_of_the_file_are_told_without_its_details(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: object) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    async def act(store: ResponsesStore) -> None:
        with monkeypatch.context() as m:
            m.setattr(Table, "read", failing)
            with pytest.raises(Fault) as e:
                await store.get("a", "resp_1")
            assert e.value.kind == "unavailable" and "disk" not in e.value.message
            m.setattr(Table, "sweep", failing)
            store.put(kept(1))
            await store.flush()
        assert await store.get("a", "resp_1") == kept(1)

    played(act)
    assert "disk I/O error" in caplog.text and "could not be deleted" in caplog.text


def test_a_closed_store_takes_and_gives_nothing() -> None:
    async def main() -> None:
        store = ResponsesStore()
        assert not store.put(kept(1))
        await store.start()
        await store.stop()
        await store.stop()
        assert not store.put(kept(1))
        with pytest.raises(Fault) as e:
            await store.get("a", "resp_1")
        assert e.value.kind == "unavailable"

    asyncio.run(main())


def test_two_processes_worth_of_stores_share_a_file(tmp_path: Path) -> None:
    async def main() -> None:
        stores = [ResponsesStore(str(tmp_path / "r.db"), shared=True, clock=Clock()) for _ in range(2)]
        for store in stores:
            await store.start()
        one, two = stores
        one.put(kept(1))
        await one.flush()
        assert await two.get("a", "resp_1") == kept(1)
        assert await two.delete("a", "resp_1")
        assert await one.get("a", "resp_1") is None
        for n in range(200):
            stores[n % 2].put(kept(n, previous=n - 1 if n else None))
        for store in stores:
            await store.flush()
        assert len(await one.chain("a", "resp_199")) == 200
        for store in stores:
            await store.stop()
        assert [store.lost for store in stores] == [0, 0]

    asyncio.run(main())


@pytest.mark.parametrize("id_", ["resp_\ud800", "resp_" + "x" * 300, "resp_é", "resp_\0"])
def test_ids_that_cannot_be_ours_are_not_found(id_: str) -> None:
    async def act(store: ResponsesStore) -> None:
        assert await store.get("a", id_) is None
        assert not await store.delete("a", id_)

    played(act)
