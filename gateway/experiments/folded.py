"""What the analyst alone keeps in the experiments' file: the ledgers, which answers belong to which units, feedback that waits for its
answer, and how far all of it has come. Blocking. Raises `sqlite3.Error`.

Numbers of 64 bits are kept as SQLite's signed integers.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from gateway.experiments.tables import Tables
from gateway.experiments.words import Feedback, Pair
from routing.experiments.ledger import Row

_feedback = msgspec.msgpack.Decoder(Feedback)
_pairs = msgspec.msgpack.Decoder(Pair)
_packed = msgspec.msgpack.Encoder()
_BITS = 1 << 64


class Cursor(NamedTuple):
    """The last number of each kind that is folded, and how often anything was."""

    chunks: int = 0
    feedback: int = 0
    pairs: int = 0
    folds: int = 0


class Answer(NamedTuple):
    """An answer that feedback may name: `id` is the hash of its tenant and name. `before`: the unit did not take part yet."""

    id: int
    name: str
    unit: int
    before: bool
    unix: float


class Waiting(NamedTuple):
    """Feedback that has not found its answer."""

    number: int
    item: Feedback


def signed(number: int) -> int:
    """64 bits as SQLite keeps them."""
    return number - _BITS if number >= _BITS >> 1 else number


def unsigned(number: int) -> int:
    """What `signed` was given."""
    return number % _BITS


class Folded:
    """The analyst's tables of a file."""

    def __init__(self, tables: Tables) -> None:
        self.db = tables.db

    def cursor(self) -> Cursor:
        """How far it has come."""
        found = dict(self.db.execute("SELECT what, id FROM cursors"))
        return Cursor(*(found.get(field, 0) for field in Cursor._fields))

    def set_cursor(self, cursor: Cursor) -> None:
        """Moves it."""
        self.db.executemany("INSERT OR REPLACE INTO cursors VALUES (?, ?)", list(cursor._asdict().items()))

    # Ledgers.

    def ledger(self, name: str) -> tuple[bytes, list[Row]] | None:
        """The head and the rows of an experiment's ledger."""
        head = self.db.execute("SELECT head FROM ledgers WHERE name = ?", (name,)).fetchone()
        if head is None:
            return None
        rows = self.db.execute("SELECT unit, row FROM units WHERE name = ?", (name,))
        return head[0], [(unsigned(unit), row) for unit, row in rows]

    def set_ledger(self, name: str, unix: float, head: bytes, rows: Iterable[Row], *, whole: bool) -> None:
        """Writes a ledger's head and the rows that changed; `whole`: they are all there are."""
        self.db.execute("INSERT OR REPLACE INTO ledgers VALUES (?, ?, ?)", (name, unix, head))
        if whole:
            self.db.execute("DELETE FROM units WHERE name = ?", (name,))
        self.db.executemany("INSERT OR REPLACE INTO units VALUES (?, ?, ?)", ((name, signed(unit), row) for unit, row in rows))

    # Feedback and its answers.

    def feedback(self, after: int, limit: int) -> list[Waiting]:
        """The next feedback by number."""
        query = "SELECT id, body FROM feedback WHERE id > ? ORDER BY id LIMIT ?"
        return [Waiting(number, _feedback.decode(body)) for number, body in self.db.execute(query, (after, limit))]

    def waiting(self) -> list[Waiting]:
        """Feedback that has not found its answer, the oldest first."""
        query = "SELECT number, body FROM waiting ORDER BY number"
        return [Waiting(number, _feedback.decode(body)) for number, body in self.db.execute(query)]

    def wait(self, items: Iterable[tuple[Waiting, int]]) -> None:
        """Lets feedback wait for its answer, given with the hash of that."""
        rows = [(w.number, signed(id), w.item.unix, _packed.encode(w.item)) for w, id in items]
        self.db.executemany("INSERT OR REPLACE INTO waiting VALUES (?, ?, ?, ?)", rows)

    def settle(self, numbers: Iterable[int]) -> None:
        """Forgets feedback that waited."""
        self.db.executemany("DELETE FROM waiting WHERE number = ?", [(number,) for number in numbers])

    def answers(self, id: int) -> list[Answer]:
        """What is known of an answer, once for each experiment that it was part of."""
        rows = self.db.execute("SELECT id, name, unit, before, unix FROM ids WHERE id = ?", (signed(id),))
        return [Answer(unsigned(row[0]), row[1], unsigned(row[2]), bool(row[3]), row[4]) for row in rows]

    def add_answers(self, answers: Iterable[Answer]) -> None:
        """Notes to whom answers belong."""
        rows = [(signed(a.id), a.name, signed(a.unit), a.before, a.unix) for a in answers]
        self.db.executemany("INSERT OR REPLACE INTO ids VALUES (?, ?, ?, ?, ?)", rows)

    def pairs(self, after: int, limit: int) -> list[tuple[int, Pair]]:
        """The next pairs by number."""
        query = "SELECT id, body FROM pairs WHERE id > ? ORDER BY id LIMIT ?"
        return [(number, _pairs.decode(body)) for number, body in self.db.execute(query, (after, limit))]
