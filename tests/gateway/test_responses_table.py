"""The file of stored responses: what is deleted when there is too much, which files are refused, who may read it."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import stat
from pathlib import Path

import pytest

from backends.types import Fault
from gateway.responses_store import Keep, ResponsesStore
from gateway.responses_table import Table
from tests.gateway.test_responses_store import Clock, kept, played


def rows(path: Path) -> list[str]:
    db = sqlite3.connect(path)
    try:
        return [row[0] for row in db.execute("SELECT id FROM responses ORDER BY made")]
    finally:
        db.close()


def test_the_oldest_go_when_there_are_too_many(tmp_path: Path) -> None:
    async def act(store: ResponsesStore) -> None:
        for n in range(30):
            store.put(kept(n, unix=1000.0 + n % 10))
            await store.flush()
        assert store.peek("a", "resp_27") is None and store.peek("a", "resp_28") is not None

    played(act, tmp_path / "r.db", Keep(count=4))
    assert rows(tmp_path / "r.db") == ["resp_28", "resp_9", "resp_19", "resp_29"]


def test_the_oldest_go_when_they_are_too_large(tmp_path: Path) -> None:
    async def act(store: ResponsesStore) -> None:
        for n in range(9):
            store.put(kept(n, size=97))
            await store.flush()
        assert not store.put(kept(10, size=1000))  # alone it is more than may be kept
        assert store.refused == 1
        assert await store.get("a", "resp_5") is None and await store.get("a", "resp_6") is not None

    played(act, tmp_path / "r.db", Keep(bytes=300))
    assert rows(tmp_path / "r.db") == ["resp_6", "resp_7", "resp_8"]


def test_what_is_too_old_is_not_found_and_deleted(tmp_path: Path) -> None:
    async def act(store: ResponsesStore) -> None:
        clock = store.clock
        assert isinstance(clock, Clock)
        store.put(kept(1))
        await store.flush()
        clock.now = 1060.9
        assert await store.get("a", "resp_1") is not None
        clock.now = 1061.0
        assert store.peek("a", "resp_1") is None and await store.get("a", "resp_1") is None
        assert not await store.delete("a", "resp_1")
        store.put(kept(2, unix=900.0))
        await store.flush()

    played(act, tmp_path / "r.db", Keep(age=60.0))
    assert rows(tmp_path / "r.db") == []


@pytest.mark.parametrize("content", [b"this is no database, but long enough to be looked at" * 30, None])
def test_a_file_that_cannot_be_used_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "r.db"
    path.mkdir() if content is None else path.write_bytes(content)

    async def main() -> None:
        store = ResponsesStore(str(path))
        with pytest.raises(Fault) as e:
            await store.start()
        assert str(path) in e.value.message
        await store.stop()

    asyncio.run(main())


def test_a_file_of_a_later_version_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "r.db"
    db = sqlite3.connect(path)
    db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(sqlite3.DatabaseError, match="later version"):
        Table(str(path))


@pytest.mark.skipif(os.name != "posix", reason="modes of files")
def test_the_file_is_its_owners_alone(tmp_path: Path) -> None:
    def modes() -> list[int]:
        return [stat.S_IMODE(p.stat().st_mode) for p in tmp_path.iterdir()]

    async def act(store: ResponsesStore) -> list[int]:
        store.put(kept(1))
        await store.flush()
        return modes()

    assert played(act, tmp_path / "r.db") == [0o600] * 3  # the table, its log and the log's index
