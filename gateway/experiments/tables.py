"""The file of the experiments in SQLite: what was seen and said, what is in force, what was found out. Blocking; one connection belongs to
one thread. Raises `sqlite3.Error`.

Several processes use one file (WAL): workers append chunks, feedback and pairs, whose numbers only grow in the order in which they are
committed, so that the analyst's cursor misses none. The tables of the analyst alone are in `folded`.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import msgspec

from gateway.experiments.words import Feedback, Pair, State
from routing.experiments.counted import rows_of
from routing.experiments.words import Audit, Block, Point, Result, Seen

BUSY = 10.0  # seconds to wait for another process's transaction
AGAIN = 0.01  # seconds between two tries to set the journal
CHUNK = 512  # requests in one row at most
_VERSION = 4  # 2: blocks of plain requests, answers in bulk; 3: a block may have its ids in one; 4: without what all begin with
_ALL = (1 << 63) - 1
_SCHEMA = """
CREATE TABLE IF NOT EXISTS chunks (id INTEGER PRIMARY KEY AUTOINCREMENT, unix REAL NOT NULL, count INTEGER NOT NULL, seen BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS feedback (id INTEGER PRIMARY KEY AUTOINCREMENT, unix REAL NOT NULL, key TEXT UNIQUE, body BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS pairs (
    id INTEGER PRIMARY KEY AUTOINCREMENT, unix REAL NOT NULL, name TEXT NOT NULL, body BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS pairs_name ON pairs (name, id);
CREATE TABLE IF NOT EXISTS states (name TEXT PRIMARY KEY, body BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS epochs (
    name TEXT NOT NULL, epoch INTEGER NOT NULL, weights BLOB NOT NULL, PRIMARY KEY (name, epoch)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS audit (
    id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL, unix REAL NOT NULL, actor TEXT NOT NULL, action TEXT NOT NULL,
    detail TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS audit_name ON audit (name, id);
CREATE TABLE IF NOT EXISTS results (name TEXT PRIMARY KEY, unix REAL NOT NULL, body BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS points (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL, unix REAL NOT NULL, body BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS points_name ON points (name, id);
CREATE TABLE IF NOT EXISTS ledgers (name TEXT PRIMARY KEY, unix REAL NOT NULL, head BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS units (name TEXT NOT NULL, unit INTEGER NOT NULL, row BLOB NOT NULL, PRIMARY KEY (name, unit)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS ids (
    id INTEGER NOT NULL, name TEXT NOT NULL, unit INTEGER NOT NULL, before INTEGER NOT NULL, unix REAL NOT NULL, PRIMARY KEY (id, name)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS ids_unix ON ids (unix);
CREATE TABLE IF NOT EXISTS named (
    number INTEGER PRIMARY KEY AUTOINCREMENT, unix REAL NOT NULL, count INTEGER NOT NULL, body BLOB NOT NULL
);
CREATE TABLE IF NOT EXISTS waiting (number INTEGER PRIMARY KEY, id INTEGER NOT NULL, unix REAL NOT NULL, body BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS cursors (what TEXT PRIMARY KEY, id INTEGER NOT NULL);
"""
AUDITED = 1000  # acts of one experiment that are kept
_packed = msgspec.msgpack.Encoder()
_states = msgspec.msgpack.Decoder(State)
_weights = msgspec.msgpack.Decoder(dict[str, float])
_seen = msgspec.msgpack.Decoder(list[Seen])
_BLOCKS = b"\xc1"  # begins a row of blocks; nothing in MessagePack begins so
_bodies = msgspec.msgpack.Decoder(list[bytes])
_block = msgspec.msgpack.Decoder(Block)
_results = msgspec.json.Decoder(Result)
_points = msgspec.msgpack.Decoder(Point)
_pairs = msgspec.msgpack.Decoder(Pair)


class Chunk(NamedTuple):
    """Requests that were written together, oldest number first. Raises msgspec.MsgspecError where they cannot be read."""

    id: int
    body: bytes

    @property
    def blocks(self) -> list[Block]:
        """Where they are plain ones; else none."""
        return [_block.decode(body) for body in _bodies.decode(memoryview(self.body)[1:])] if self.body[:1] == _BLOCKS else []

    @property
    def seen(self) -> list[Seen]:
        """One by one."""
        return [seen for block in self.blocks for seen in seen_of(block)] if self.body[:1] == _BLOCKS else _seen.decode(self.body)


def seen_of(block: Block) -> Iterator[Seen]:
    """The requests of a block one by one."""
    for kind, unit, request, response, unix, seconds, refused, asked, said, cost in rows_of(block):
        experiment, epoch, arm, tenant = block.kinds[kind]
        yield Seen(
            unix, experiment, epoch, arm, unit, tenant, request.decode("latin-1"), response.decode(), seconds, refused=refused, input=asked,
            output=said, cost=cost,
        )  # fmt: skip


class Tables:
    """One connection. `path`: a file, made with access for its owner only; None: in memory. `readonly`: nothing is made or changed, for a
    look at a file. Raises `sqlite3.Error` or `OSError` when the file cannot be used."""

    def __init__(self, path: str | None, *, readonly: bool = False) -> None:
        if readonly and path is not None:
            os.close(os.open(path, os.O_RDONLY))  # says more clearly than SQLite what is wrong
            uri = f"file:{_escaped(path)}?mode=ro"
            self.db = sqlite3.connect(uri, timeout=BUSY, isolation_level=None, uri=True)
        else:
            if path is not None:
                os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))  # SQLite's side files get the same access
            self.db = sqlite3.connect(path or ":memory:", timeout=BUSY, isolation_level=None)
        try:
            self._prepare(readonly)
        except BaseException:
            self.db.close()
            raise

    def _prepare(self, readonly: bool) -> None:
        version = self.db.execute("PRAGMA user_version").fetchone()[0]
        if version > _VERSION:
            raise sqlite3.DatabaseError(f"it was written by a later version of Pointsman (format {version})")
        if readonly:
            if not version:
                raise sqlite3.DatabaseError("it is not a file of experiments")
            if version < 2:  # what came later is empty there
                self.db.execute("CREATE TEMP TABLE named (number INTEGER PRIMARY KEY, unix REAL, count INTEGER, body BLOB)")
            return
        self._log_ahead()
        for pragma in ("synchronous = NORMAL", "secure_delete = OFF"):
            self.db.execute(f"PRAGMA {pragma}").fetchall()
        if version < _VERSION:
            self.db.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA user_version = {_VERSION}; COMMIT;")

    def _log_ahead(self) -> None:
        """Sets the file's journal. Where several processes open a new file SQLite does not wait for the one that does it, but fails at once
        (its busy handler is not asked): so we wait."""
        end = time.monotonic() + BUSY
        while True:
            try:
                self.db.execute("PRAGMA journal_mode = WAL").fetchall()
                return
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > end:
                    raise
                time.sleep(AGAIN)

    def close(self) -> None:
        """Closes the connection; what is committed is in the file."""
        self.db.close()

    @contextmanager
    def transaction(self, writes: bool = True, *, durable: bool = False) -> Iterator[None]:
        """All or nothing of what is done within. With `writes` other processes' writes are waited for at its start. `durable`: when it
        returns, the change is on the disk, so that it outlives a loss of power."""
        if durable:
            self.db.execute("PRAGMA synchronous = FULL")
        try:
            self.db.execute("BEGIN IMMEDIATE" if writes else "BEGIN")
            try:
                yield
                self.db.execute("COMMIT")
            except BaseException:
                if self.db.in_transaction:  # some errors have ended it already
                    self.db.execute("ROLLBACK")
                raise
        finally:
            if durable:
                self.db.execute("PRAGMA synchronous = NORMAL")

    def version(self) -> int:
        """Another number when another connection has changed the file."""
        found: int = self.db.execute("PRAGMA data_version").fetchone()[0]
        return found

    # What comes in.

    def add_chunk(self, seen: Sequence[Seen]) -> None:
        """Appends requests, at least one and at most CHUNK."""
        row = seen[-1].unix, len(seen), _packed.encode(seen)
        self.db.execute("INSERT INTO chunks (unix, count, seen) VALUES (?, ?, ?)", row)

    def add_blocks(self, unix: float, count: int, bodies: bytes) -> None:
        """Appends plain requests: `count` of them in a MessagePack list of blocks. `unix`: when the last of them ended."""
        self.db.execute("INSERT INTO chunks (unix, count, seen) VALUES (?, ?, ?)", (unix, count, _BLOCKS + bodies))

    def add_pairs(self, pairs: Iterable[Pair]) -> None:
        """Appends pairs of a shadow."""
        rows = [(pair.unix, pair.experiment, _packed.encode(pair)) for pair in pairs]
        self.db.executemany("INSERT INTO pairs (unix, name, body) VALUES (?, ?, ?)", rows)

    def add_feedback(self, item: Feedback) -> None:
        """Appends what a client said; not again, when it has an `id` and the same was said under it before."""
        key = "\n".join((item.id, item.name, item.response, item.session)) if item.id else None
        self.db.execute("INSERT OR IGNORE INTO feedback (unix, key, body) VALUES (?, ?, ?)", (item.unix, key, _packed.encode(item)))

    def chunks(self, after: int, limit: int) -> list[Chunk]:
        """The next chunks by number."""
        query = "SELECT id, seen FROM chunks WHERE id > ? ORDER BY id LIMIT ?"
        return [Chunk(number, seen) for number, seen in self.db.execute(query, (after, limit))]

    def pairs(self, name: str, latest: int, *, upto: int = _ALL) -> list[Pair]:
        """The latest pairs of an experiment with numbers up to `upto`, the oldest of them first."""
        query = "SELECT body FROM pairs WHERE name = ? AND id <= ? ORDER BY id DESC LIMIT ?"
        return [_pairs.decode(body) for (body,) in self.db.execute(query, (name, upto, latest))][::-1]

    # What is in force.

    def states(self) -> dict[str, State]:
        """What is in force, by name."""
        return {name: _states.decode(body) for name, body in self.db.execute("SELECT name, body FROM states ORDER BY name")}

    def state(self, name: str) -> State | None:
        """What is in force of an experiment."""
        row = self.db.execute("SELECT body FROM states WHERE name = ?", (name,)).fetchone()
        return None if row is None else _states.decode(row[0])

    def act(self, state: State, done: Audit) -> None:
        """Puts a state in force and writes down who did it and why."""
        self.db.execute("INSERT OR REPLACE INTO states VALUES (?, ?)", (state.name, _packed.encode(state)))
        if state.weights:
            self.set_epoch(state.name, state.epoch, state.weights)
        row = state.name, done.unix, done.actor, done.action, done.detail
        self.db.execute("INSERT INTO audit (name, unix, actor, action, detail) VALUES (?, ?, ?, ?, ?)", row)
        limit = "DELETE FROM audit WHERE name = ? AND id <= (SELECT id FROM audit WHERE name = ? ORDER BY id DESC LIMIT 1 OFFSET ?)"
        self.db.execute(limit, (state.name, state.name, AUDITED))

    def set_epoch(self, name: str, epoch: int, weights: Mapping[str, float]) -> None:
        """Notes which weights an epoch has."""
        self.db.execute("INSERT OR REPLACE INTO epochs VALUES (?, ?, ?)", (name, epoch, _packed.encode(dict(weights))))

    def epochs(self, name: str) -> dict[int, dict[str, float]]:
        """The weights of each epoch that are known."""
        query = "SELECT epoch, weights FROM epochs WHERE name = ? ORDER BY epoch"
        return {epoch: _weights.decode(weights) for epoch, weights in self.db.execute(query, (name,))}

    def audit(self, name: str, latest: int = 200) -> list[Audit]:
        """What was done to an experiment, the oldest first."""
        query = "SELECT unix, actor, action, detail FROM audit WHERE name = ? ORDER BY id DESC LIMIT ?"
        return [Audit(*row) for row in self.db.execute(query, (name, latest))][::-1]

    # What was found out.

    def result(self, name: str) -> Result | None:
        """The last result of an experiment. None: it has not been analysed yet."""
        row = self.db.execute("SELECT body FROM results WHERE name = ?", (name,)).fetchone()
        return None if row is None else _results.decode(row[0])

    def results(self) -> list[Result]:
        """The last result of each experiment, by name."""
        return [_results.decode(body) for (body,) in self.db.execute("SELECT body FROM results ORDER BY name")]

    def set_result(self, result: Result) -> None:
        """Replaces an experiment's result."""
        row = result.name, result.unix, msgspec.json.encode(result)
        self.db.execute("INSERT OR REPLACE INTO results VALUES (?, ?, ?)", row)

    def points(self, name: str) -> list[Point]:
        """The estimate over time, the oldest first."""
        query = "SELECT body FROM points WHERE name = ? ORDER BY id"
        return [_points.decode(body) for (body,) in self.db.execute(query, (name,))]

    def add_points(self, name: str, points: Iterable[Point], most: int) -> None:
        """Appends to the estimate over time. Of more than `most` moments those stay that are evenly apart, about half of them."""
        self.db.executemany("INSERT INTO points (name, unix, body) VALUES (?, ?, ?)", [(name, p.unix, _packed.encode(p)) for p in points])
        moments = [unix for (unix,) in self.db.execute("SELECT DISTINCT unix FROM points WHERE name = ? ORDER BY unix", (name,))]
        if len(moments) > most:
            gone = [(name, unix) for unix in _crowded(moments, max(1, most // 2))]
            self.db.executemany("DELETE FROM points WHERE name = ? AND unix = ?", gone)


def _crowded(moments: Sequence[float], most: int) -> list[float]:
    """Which moments are too near to the one before that stays, so that about `most` stay. The first and the last one do."""
    apart = (moments[-1] - moments[0]) / most
    gone, last = list[float](), moments[0]
    for moment in moments[1:-1]:
        if moment - last < apart:
            gone.append(moment)
        else:
            last = moment
    return gone


def _escaped(path: str) -> str:
    return path.replace("%", "%25").replace("?", "%3f").replace("#", "%23")
