"""How long the file of experiments keeps what: raw requests, feedback and pairs go by age and size, but never before they are folded; what
was counted of them stays in the ledgers, as long as its experiment is configured. Blocking. Raises `sqlite3.Error`.
"""

from __future__ import annotations

import msgspec

from gateway.experiments.folded import Folded
from gateway.experiments.tables import Tables

ROWS = 2_000  # deleted in one transaction at most: others wait for as long as that takes
_RAW = (("chunks", "LENGTH(seen)"), ("feedback", "LENGTH(body)"), ("pairs", "LENGTH(body)"))


class Retain(msgspec.Struct, frozen=True):
    """`age`: seconds that raw rows are kept; `bytes` of all of them together. `ids`: answers that feedback can still name, for `answers`
    seconds. `idle`: seconds that the ledger of an experiment stays that is configured no more."""

    age: float = 90 * 86400.0
    bytes: int = 1 << 30
    ids: int = 4_000_000
    answers: float = 30 * 86400.0
    idle: float = 90 * 86400.0


def sweep(tables: Tables, retain: Retain, unix: float, configured: set[str]) -> int:
    """Deletes some of what is too old or too much; rows deleted. When it is not 0 there may be more."""
    cursor = Folded(tables).cursor()
    upto = {"chunks": cursor.chunks, "feedback": cursor.feedback, "pairs": cursor.pairs}
    over = _size(tables) - retain.bytes
    gone = 0
    with tables.transaction():
        for table, size in _RAW:
            gone += _aged(tables, table, upto[table], unix - retain.age)
            if over > 0:
                count, freed = _largest(tables, table, size, upto[table], over)
                gone, over = gone + count, over - freed
        gone += _answers(tables, retain, unix)
        gone += _left(tables, unix - retain.idle, configured)
    return gone


def _size(tables: Tables) -> int:
    """Bytes of raw rows. SQLite reads no row's content for its length."""
    parts = [tables.db.execute(f"SELECT COALESCE(SUM({size}), 0) FROM {table}").fetchone()[0] for table, size in _RAW]
    return int(sum(parts))


def _aged(tables: Tables, table: str, upto: int, oldest: float) -> int:
    """Goes by number, which grows with time, up to the first row that is young enough."""
    first = tables.db.execute(f"SELECT MIN(id) FROM {table}").fetchone()[0]
    if first is None:
        return 0
    rows = tables.db.execute(f"SELECT id, unix FROM {table} WHERE id <= ? ORDER BY id LIMIT ?", (upto, ROWS)).fetchall()
    last = first - 1
    for number, unix in rows:
        if unix >= oldest:
            break
        last = number
    return int(tables.db.execute(f"DELETE FROM {table} WHERE id <= ?", (last,)).rowcount)


def _largest(tables: Tables, table: str, size: str, upto: int, over: int) -> tuple[int, int]:
    """The oldest rows, until `over` bytes are freed or no row may go: how many, and their bytes."""
    freed, last = 0, 0
    for number, held in tables.db.execute(f"SELECT id, {size} FROM {table} WHERE id <= ? ORDER BY id LIMIT ?", (upto, ROWS)).fetchall():
        if freed >= over:
            break
        freed, last = freed + held, number
    return int(tables.db.execute(f"DELETE FROM {table} WHERE id <= ?", (last,)).rowcount), freed


def _answers(tables: Tables, retain: Retain, unix: float) -> int:
    """Ids by age, and the oldest beyond what may be held. What was noted together goes together: when the last of it may go, or as many
    as all of it must."""
    db, some = tables.db, "SELECT id, name FROM ids WHERE unix < ? ORDER BY unix LIMIT ?"
    oldest = unix - retain.answers
    gone = db.execute(f"DELETE FROM ids WHERE (id, name) IN ({some})", (oldest, 10 * ROWS)).rowcount
    gone += db.execute("DELETE FROM named WHERE unix < ?", (oldest,)).rowcount
    many = db.execute("SELECT number, unix, count FROM named ORDER BY number").fetchall()
    over = db.execute("SELECT COUNT(*) FROM ids").fetchone()[0] + sum(count for _, _, count in many) - retain.ids
    for number, last, count in many:
        if over <= 0:
            break
        older = db.execute(f"DELETE FROM ids WHERE (id, name) IN ({some})", (last, min(over, 10 * ROWS))).rowcount
        if older == 10 * ROWS:
            return int(gone + older)
        gone, over = gone + older, over - older
        if over > 0:
            db.execute("DELETE FROM named WHERE number = ?", (number,))
            gone, over = gone + 1, over - count
    if over > 0:
        single = "SELECT id, name FROM ids ORDER BY unix LIMIT ?"
        gone += db.execute(f"DELETE FROM ids WHERE (id, name) IN ({single})", (min(over, 10 * ROWS),)).rowcount
    return int(gone)


def _left(tables: Tables, oldest: float, configured: set[str]) -> int:
    """Ledgers, results and points of experiments that are configured no more and were last seen long ago. The audit trail stays."""
    rows = tables.db.execute("SELECT name FROM ledgers WHERE unix < ?", (oldest,)).fetchall()
    gone = [(name,) for (name,) in rows if name not in configured]
    for table in ("units", "ledgers", "results", "points", "ids"):
        tables.db.executemany(f"DELETE FROM {table} WHERE name = ?", gone)
    return len(gone)
