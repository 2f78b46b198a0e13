"""The gateway's store of responses as a capture: each response with the conversation before it, at the time it was made.

The store is an SQLite file; its table `responses` holds for each response its new input items, the Response object, when it was made (unix
seconds) and the id of the one before it. It is opened for reading only; a gateway may be writing it. Blocks on the disk.

What was said in private is not read: a replay may go to another server than the one it was meant for.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.bench.captures import MOST, Line, from_items
from benchmarks.bench.errors import BenchError

MAGIC = b"SQLite format 3\0"
_PRIVATE = " private"  # how the tenant of a private response ends
_VERSION = 1
_DEEPEST = 1000  # responses in one conversation
_LARGEST = 8 << 20  # bytes of one conversation
_ONE = "SELECT items, response, previous FROM responses WHERE tenant = ? AND id = ?"
_any = msgspec.json.Decoder()


def lines(path: Path) -> Iterator[Line | None]:
    """One line a response, the oldest first, numbered from 1; None for what cannot be replayed. Raises `BenchError`."""
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as table:
            version = table.execute("PRAGMA user_version").fetchone()[0]
            if version > _VERSION:
                raise BenchError(f"{path.name} was written by a later version of Pointsman (format {version}); use that one")
            rows = table.execute("SELECT tenant, id, made FROM responses ORDER BY made, rowid")
            for number, (tenant, name, made) in enumerate(rows, 1):
                yield _line(table, number, tenant, name, made)
    except sqlite3.Error as error:
        raise BenchError(f"{path.name} is no store of responses that can be read: {error}", usage=True) from None


def _line(table: sqlite3.Connection, number: int, tenant: object, name: object, made: object) -> Line | None:
    if not isinstance(tenant, str) or tenant.endswith(_PRIVATE) or not isinstance(made, float):
        return None
    try:
        items, told = _conversation(table, tenant, name)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, TypeError, ValueError, LookupError):
        return None
    body = from_items(items, told)
    if body is None:
        return None
    usage = told.get("usage")
    counts = [_count(usage, "input_tokens"), _count(usage, "output_tokens")]
    return Line(made, counts[0], counts[1], body=msgspec.json.encode(body), number=number)


def _conversation(table: sqlite3.Connection, tenant: str, name: object) -> tuple[list[object], dict[str, Any]]:
    """What the model read for one response, and that response's object. Raises ValueError where some of it is gone or it is too much."""
    parts: list[list[object]] = []
    told: dict[str, Any] | None = None
    size, seen = 0, set()
    while name is not None:
        row = table.execute(_ONE, (tenant, name)).fetchone()
        if row is None or name in seen or len(parts) >= _DEEPEST:
            raise ValueError
        seen.add(name)
        items, answer, name = row
        size += len(items) + len(answer)
        if size > _LARGEST:
            raise ValueError
        response = _any.decode(answer)
        if not isinstance(response, dict):
            raise ValueError
        parts.append([*_any.decode(items), *(response["output"] if told is not None else ())])
        told = response if told is None else told
    return [item for part in reversed(parts) for item in part], told or {}


def _count(usage: object, name: str) -> int:
    value = usage.get(name) if isinstance(usage, dict) else None
    return value if type(value) is int and 0 <= value <= MOST else 0
