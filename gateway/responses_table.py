"""The table of stored responses in SQLite. Blocking; used by the one thread of `responses_store`. Raises `sqlite3.Error`."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

BUSY = 10.0  # seconds to wait for another process's transaction
_VERSION = 1
_SCHEMA = """
CREATE TABLE IF NOT EXISTS responses (
    tenant TEXT NOT NULL, id TEXT NOT NULL, previous TEXT, made REAL NOT NULL, size INTEGER NOT NULL, items BLOB NOT NULL, response BLOB NOT NULL,
    PRIMARY KEY (tenant, id)
);
CREATE INDEX IF NOT EXISTS responses_made ON responses (made, size);
"""  # noqa: E501
_OLDEST = "SELECT rowid, tenant, id FROM responses ORDER BY made, rowid LIMIT ?"
_BEYOND = (
    "SELECT rowid, tenant, id FROM (SELECT rowid, tenant, id, SUM(size) OVER (ORDER BY made DESC, rowid DESC) AS upto FROM responses)"
    " WHERE upto > ?"
)

Row = tuple[str, str, bytes, bytes, float, str | None]


class Response(Protocol):
    """What is written."""

    @property
    def tenant(self) -> str: ...

    @property
    def id(self) -> str: ...

    @property
    def items(self) -> bytes: ...

    @property
    def response(self) -> bytes: ...

    @property
    def unix(self) -> float: ...

    @property
    def previous(self) -> str | None: ...


class Table:
    """One connection. `path` None: in memory. Raises `sqlite3.Error` or `OSError` when the file cannot be used."""

    def __init__(self, path: str | None) -> None:
        if path is not None:
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))  # SQLite's side files get the same access
        self.db = sqlite3.connect(path or ":memory:", timeout=BUSY, isolation_level=None)
        try:
            self._prepare()
        except BaseException:
            self.db.close()
            raise

    def _prepare(self) -> None:
        version = self.db.execute("PRAGMA user_version").fetchone()[0]
        if version > _VERSION:
            raise sqlite3.DatabaseError(f"it was written by a later version of Pointsman (format {version})")
        for pragma in ("journal_mode = WAL", "synchronous = NORMAL", "secure_delete = ON"):
            self.db.execute(f"PRAGMA {pragma}").fetchall()
        self.db.executescript(_SCHEMA)
        self.db.execute(f"PRAGMA user_version = {_VERSION}")

    def close(self) -> None:
        """Closes the connection; what is committed is in the file."""
        self.db.close()

    @contextmanager
    def transaction(self, writes: bool = True) -> Iterator[None]:
        """All or nothing of what is done within. With `writes` other processes' writes are waited for at its start."""
        self.db.execute("BEGIN IMMEDIATE" if writes else "BEGIN")
        try:
            yield
            self.db.execute("COMMIT")
        except BaseException:
            if self.db.in_transaction:  # some errors have ended it already
                self.db.execute("ROLLBACK")
            raise

    def write(self, kept: Response) -> None:
        """Inserts a response, or replaces the tenant's own one of the same id."""
        size = len(kept.items) + len(kept.response)
        row = kept.tenant, kept.id, kept.previous, kept.unix, size, kept.items, kept.response
        self.db.execute("INSERT OR REPLACE INTO responses VALUES (?, ?, ?, ?, ?, ?, ?)", row)

    def read(self, tenant: str, id: str, oldest: float) -> Row | None:
        """(tenant, id, items, response, made, previous) of a response made after `oldest`, unix seconds."""
        query = "SELECT tenant, id, items, response, made, previous FROM responses WHERE tenant = ? AND id = ? AND made > ?"
        row: Row | None = self.db.execute(query, (tenant, id, oldest)).fetchone()
        return row

    def delete(self, tenant: str, id: str, oldest: float) -> bool:
        """Whether there was one, made after `oldest`."""
        there = self.read(tenant, id, oldest) is not None
        self.db.execute("DELETE FROM responses WHERE tenant = ? AND id = ?", (tenant, id))
        return there

    def sweep(self, count: int, size: int, oldest: float) -> list[tuple[str, str]]:
        """Deletes what was made before `oldest`, and the oldest beyond `count` responses or `size` bytes. (tenant, id) of each."""
        gone = self._remove("SELECT rowid, tenant, id FROM responses WHERE made <= ?", oldest)
        rows, held = self.db.execute("SELECT COUNT(*), COALESCE(SUM(size), 0) FROM responses").fetchone()
        if rows > count:
            gone += self._remove(_OLDEST, rows - count)
        if held > size:
            gone += self._remove(_BEYOND, size)
        return gone

    def _remove(self, query: str, argument: Any) -> list[tuple[str, str]]:
        rows = self.db.execute(query, (argument,)).fetchall()
        self.db.executemany("DELETE FROM responses WHERE rowid = ?", ((row[0],) for row in rows))
        return [(tenant, id_) for _, tenant, id_ in rows]
