"""What the analyst alone keeps in the experiments' file: the ledgers, which answers belong to which units, feedback that waits for its
answer, and how far all of it has come. Blocking. Raises `sqlite3.Error`.

Numbers of 64 bits are kept as SQLite's signed integers.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import msgspec

from gateway.experiments.tables import Tables
from gateway.experiments.words import Feedback, Pair
from routing.experiments.ledger import Row

_feedback = msgspec.msgpack.Decoder(Feedback)
_pairs = msgspec.msgpack.Decoder(Pair)
_packed = msgspec.msgpack.Encoder()
_BITS = 1 << 64
MANY = 4_096  # answers: so many at once are kept in one row

Place = tuple[int, bool, float]  # whose answer it is: the unit, whether that did not take part yet, when (unix)
Answers = dict[str, dict[int, Place]]  # by experiment, and by the hash of tenant and name
AnswerRows = tuple[float, int, bytes] | list[tuple[int, str, int, bool, float]]  # one for all: the latest (unix), how many, all; or each


class _Named(msgspec.Struct, array_like=True):
    """Many answers in one row: their hashes in order, and at the same places their units (both 64 bits each) and, in 16, whose they are."""

    hashes: bytes
    units: bytes
    whose: bytes
    parts: list[tuple[str, bool]]  # experiment, and whether before it


_named = msgspec.msgpack.Decoder(_Named)


class Cursor(NamedTuple):
    """The last number of each kind that is folded, and how often anything was."""

    chunks: int = 0
    feedback: int = 0
    pairs: int = 0
    folds: int = 0


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
        self._hashes: dict[int, array[int]] = {}  # of the rows of many answers that were looked at

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

    def answers(self, hash: int) -> dict[str, Place]:
        """Whose an answer is, by each experiment that it was part of."""
        found: dict[str, Place] = {}
        numbers = [number for (number,) in self.db.execute("SELECT number FROM named ORDER BY number")]
        for gone in self._hashes.keys() - numbers:
            del self._hashes[gone]
        for number in numbers:
            hashes = self._hashes.get(number)
            if hashes is None:
                row = self._many(number)
                if row is None:  # another process has swept it away just now
                    continue
                hashes = self._hashes[number] = array("Q", row[0].hashes)
            at = bisect_left(hashes, hash)
            row = self._many(number) if at < len(hashes) and hashes[at] == hash else None
            while row is not None and at < len(hashes) and hashes[at] == hash:
                many, unix = row
                name, before = many.parts[array("H", many.whose)[at]]
                found[name] = (array("Q", many.units)[at], before, unix)
                at += 1
        for name, unit, before, unix in self.db.execute("SELECT name, unit, before, unix FROM ids WHERE id = ?", (signed(hash),)):
            if name not in found or found[name][2] < unix:
                found[name] = (unsigned(unit), bool(before), unix)
        return found

    def _many(self, number: int) -> tuple[_Named, float] | None:
        row = self.db.execute("SELECT body, unix FROM named WHERE number = ?", (number,)).fetchone()
        return None if row is None else (_named.decode(row[0]), row[1])

    def add_answers(self, rows: AnswerRows) -> None:
        """Notes to whom answers belong."""
        if isinstance(rows, tuple):
            self.db.execute("INSERT INTO named (unix, count, body) VALUES (?, ?, ?)", rows)
        else:
            self.db.executemany("INSERT OR REPLACE INTO ids VALUES (?, ?, ?, ?, ?)", rows)

    def pairs(self, after: int, limit: int) -> list[tuple[int, Pair]]:
        """The next pairs by number."""
        query = "SELECT id, body FROM pairs WHERE id > ? ORDER BY id LIMIT ?"
        return [(number, _pairs.decode(body)) for number, body in self.db.execute(query, (after, limit))]


def rows_of_answers(answers: Answers) -> AnswerRows:
    """What `Folded.add_answers` writes: one row for each, or one for all where they are many. Pure."""
    count = sum(map(len, answers.values()))
    if count >= MANY:
        return max(place[2] for by in answers.values() for place in by.values()), count, _many_of(answers)
    return [
        (signed(hash), name, signed(unit), before, unix) for name, by in answers.items() for hash, (unit, before, unix) in by.items()
    ]


def _many_of(answers: Mapping[str, Mapping[int, Place]]) -> bytes:
    parts = [(name, before) for name in answers for before in (False, True)]
    if len(answers) == 1:  # as nearly always
        (by,) = answers.values()
        hashes = sorted(by)
        places = [by[hash] for hash in hashes]
        units, whose = [place[0] for place in places], [int(place[1]) for place in places]
    else:
        found = sorted((hash, at, place) for at, by in enumerate(answers.values()) for hash, place in by.items())
        hashes, units = [hash for hash, _, _ in found], [place[0] for _, _, place in found]
        whose = [2 * at + place[1] for _, at, place in found]
    return _packed.encode(_Named(array("Q", hashes).tobytes(), array("Q", units).tobytes(), array("H", whose).tobytes(), parts))
