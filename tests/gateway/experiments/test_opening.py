"""Several processes open one new file of experiments at once."""

from __future__ import annotations

import sqlite3
import threading
import time
from pathlib import Path

import pytest

from gateway.experiments import tables
from gateway.experiments.tables import Tables


def held(path: Path) -> sqlite3.Connection:
    """Another process that is about to make the tables: readers pass, the journal cannot be changed."""
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    other.execute("CREATE TABLE another (a)")
    return other


def test_one_waits_for_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "experiments.db"
    other, waits, opened = held(path), threading.Event(), list[sqlite3.Error | str]()
    real = time.sleep

    def sleep(seconds: float) -> None:
        waits.set()
        real(seconds)

    monkeypatch.setattr(tables.time, "sleep", sleep)

    def opens() -> None:
        try:
            found = Tables(str(path))
            opened.append(found.db.execute("PRAGMA journal_mode").fetchone()[0])
            found.close()
        except sqlite3.Error as error:
            opened.append(error)

    thread = threading.Thread(target=opens)
    thread.start()
    try:
        assert waits.wait(60)
        other.execute("COMMIT")
    finally:
        other.close()
        thread.join(60)
    assert opened == ["wal"]


def test_it_does_not_wait_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "BUSY", 0.0)
    path = tmp_path / "experiments.db"
    other = held(path)
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        Tables(str(path))
    other.close()


def test_what_is_no_file_of_sqlite_is_told_at_once(tmp_path: Path) -> None:
    path = tmp_path / "experiments.db"
    path.write_bytes(b"no database at all, " * 100)
    with pytest.raises(sqlite3.DatabaseError):
        Tables(str(path))
