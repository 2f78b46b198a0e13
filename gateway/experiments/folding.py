"""Folds what the file of experiments has gathered into their ledgers. Blocking; for one thread.

What was read and the cursor that says so are written in one transaction: whatever ends the process, nothing is lost and nothing counts
twice. The ledgers in memory are only ever ahead of the file between reading and that transaction; when it fails, or when another process
has folded meanwhile (the cursor is not where we left it), they are read again.

With `readonly` nothing is written: a look at a file, whoever else uses it.

Feedback finds its unit by the hash of its tenant and the answer's id, or of the session. What finds none waits in a table for it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from functools import partial

from xxhash import xxh3_64_intdigest

from gateway.experiments.aside import Aside, here
from gateway.experiments.folded import AnswerRows, Answers, Cursor, Folded, Waiting, rows_of_answers
from gateway.experiments.tables import Chunk, Tables
from gateway.experiments.words import Feedback, Pair, unit_of
from routing.experiments.counted import rows_of
from routing.experiments.ledger import UNITS, Ledger, Row
from routing.experiments.words import BEFORE, Block, Design, PlainRow, Seen

CHUNKS = 64  # rows of requests in one step: other processes' writes wait for as long as a step is written
ITEMS = 2_000  # feedback, and pairs, in one step
PAIRS = 20_000  # of an experiment, the latest, that are summed up
WAITING = 20_000  # pieces of feedback without their answer


class Folding:
    """The ledgers of a file. `designs`: the experiments that count; requests of others are passed over. `limit`: units of each. `aside`:
    does what takes long and holds no lock."""

    def __init__(
        self, tables: Tables, designs: Iterable[Design] = (), *, limit: int = UNITS, readonly: bool = False, aside: Aside = here
    ) -> None:
        self._aside = aside
        self.tables, self.folded, self.limit, self.readonly = tables, Folded(tables), limit, readonly
        self.ledgers: dict[str, Ledger] = {}
        self.pairs: dict[str, deque[Pair]] = {}
        self.designs: dict[str, Design] = {}
        self.oldest = 0.0  # unix: feedback that is older waits no more
        self._cursor: Cursor | None = None  # None: nothing is in memory
        self._answers: dict[int, list[Waiting]] = {}  # feedback that waits, by the hash of its answer
        self._sessions: dict[int, list[Waiting]] = {}  # or by its unit
        self._unwritten: Answers = {}  # where nothing is written
        self.follow(designs)

    def __repr__(self) -> str:
        return f"Folding({[*self.ledgers.values()]}, {self._cursor})"

    def follow(self, designs: Iterable[Design]) -> None:
        """Counts for these designs from now on; an experiment's ledger goes over to its new design."""
        found = {design.name: design for design in designs}
        if found != self.designs:
            self.designs, self._cursor = found, None

    def step(self) -> bool:
        """Folds some of what is new; whether there may be more. Raises `sqlite3.Error`; then nothing has changed."""
        if self._cursor is None or (not self.readonly and self.folded.cursor() != self._cursor):
            self._load()
        cursor = self._cursor
        assert cursor is not None
        self._cursor = None  # until all of it is written
        fold = _Fold(self)
        chunks = self.tables.chunks(cursor.chunks, CHUNKS)
        self._aside(partial(fold.take_all, chunks))
        items = self.folded.feedback(cursor.feedback, ITEMS)
        fold.hear(items)
        pairs = self.folded.pairs(cursor.pairs, ITEMS)
        for _, pair in pairs:
            if pair.experiment in self.pairs:
                self.pairs[pair.experiment].append(pair)
        if not chunks and not items and not pairs:
            self._cursor = cursor
            return False
        after = Cursor(
            chunks[-1].id if chunks else cursor.chunks,
            items[-1].number if items else cursor.feedback,
            pairs[-1][0] if pairs else cursor.pairs,
            cursor.folds + 1,
        )
        if self.readonly:
            for name, answers in fold.answers.items():
                self._unwritten.setdefault(name, {}).update(answers)
        elif not self._write(fold, cursor, after):
            return True
        self._cursor = after
        return len(chunks) == CHUNKS or len(items) == ITEMS or len(pairs) == ITEMS

    def _write(self, fold: _Fold, cursor: Cursor, after: Cursor) -> bool:
        """Whether it is written; if not, somebody else has folded the same."""
        self._aside(fold.prepare)  # before others have to wait for us
        with self.tables.transaction():
            if self.folded.cursor() != cursor:
                return False
            fold.write()
            self.folded.set_cursor(after)
        return True

    def all(self) -> bool:
        """Folds all that there is; whether there was anything. Raises `sqlite3.Error`."""
        before = self._cursor
        while self.step():
            pass
        return self._cursor != before

    def _load(self) -> None:
        with self.tables.transaction(writes=False):
            cursor = self.folded.cursor()
            self.ledgers = {name: self._ledger(design) for name, design in self.designs.items()}
            self.pairs = {name: deque(self.tables.pairs(name, PAIRS, upto=cursor.pairs), PAIRS) for name in self.designs}
            waiting = self.folded.waiting()
        self._answers, self._sessions, self._unwritten = {}, {}, {}
        for one in waiting:
            self._keep(one)
        self._cursor = cursor

    def _ledger(self, design: Design) -> Ledger:
        found = self.folded.ledger(design.name)
        return Ledger(design, limit=self.limit) if found is None else Ledger.load(design, *found, limit=self.limit)

    def _keep(self, one: Waiting) -> int:
        """Lets feedback wait. The hash that it waits for."""
        by, key = (
            (self._sessions, session_of(one.item)) if one.item.session else (self._answers, answer_of(one.item.tenant, one.item.response))
        )
        by.setdefault(key, []).append(one)
        return key

    def crowd(self) -> list[int]:
        """Numbers of the feedback that is too old or too much to wait, which is forgotten. Mutates."""
        items = sorted((one.number, one.item.unix) for by in (self._answers, self._sessions) for ones in by.values() for one in ones)
        gone = {number for number, _ in items[: max(0, len(items) - WAITING)]} | {n for n, unix in items if unix < self.oldest}
        if gone:
            for by in (self._answers, self._sessions):
                for key, ones in [*by.items()]:
                    by[key] = [one for one in ones if one.number not in gone]
                    if not by[key]:
                        del by[key]
        return sorted(gone)


def answer_of(tenant: str, id: str) -> int:
    """The hash by which an answer of a tenant is known, by the id in its body or by our own."""
    return xxh3_64_intdigest(_prefix(tenant) + id.encode())


def _prefix(tenant: str) -> bytes:
    return b"%b\0answer\0" % tenant.encode()


def session_of(item: Feedback) -> int:
    """The unit that feedback of a session is about."""
    return unit_of(item.tenant, item.session.encode())


class _Fold:
    """One step: what it changes in memory, and writes in the end."""

    def __init__(self, owner: Folding) -> None:
        self.owner = owner
        self.touched: set[str] = set()  # experiments
        self.latest = 0.0
        self.answers: Answers = {}
        self.found: set[int] = set()  # units for which feedback waits
        self.waits: list[tuple[Waiting, int]] = []
        self.settled: list[int] = []
        self.gone: list[int] = []  # feedback that waits no more
        self.rows: AnswerRows = []
        self.ledgers: dict[str, tuple[bool, bytes, list[Row]]] = {}  # all rows or those that changed, and the head

    def take_all(self, chunks: Iterable[Chunk]) -> None:
        """Rows of requests. Raises msgspec.MsgspecError where one cannot be read."""
        for chunk in chunks:
            blocks = chunk.blocks
            if blocks:
                self.take_blocks(blocks)
            else:
                self.take(chunk.seen)

    def take(self, chunk: Sequence[Seen]) -> None:
        """Requests that came together."""
        ledgers = self.owner.ledgers
        for seen in chunk:
            ledger = ledgers.get(seen.experiment)
            if ledger is None:
                continue
            ledger.take(seen)
            self.touched.add(seen.experiment)
            self.latest = max(self.latest, seen.unix)
            if not seen.gone and (seen.arm == BEFORE or seen.arm in ledger.requests):
                self._index(seen)

    def _index(self, seen: Seen) -> None:
        if seen.unit in self.owner._sessions:
            self.found.add(seen.unit)
        answers, place = self.answers.setdefault(seen.experiment, {}), (seen.unit, seen.arm == BEFORE, seen.unix)
        for name in {seen.response, seen.request}:
            if name:
                answers[answer_of(seen.tenant, name)] = place

    def take_blocks(self, blocks: Iterable[Block]) -> None:
        """Plain requests: a third of the steps that one by one would take."""
        together: dict[tuple[str, int, str, str], list[PlainRow]] = {}
        for block in blocks:
            parts = [together.setdefault(kind, []) for kind in block.kinds]
            for row in rows_of(block):
                parts[row[0]].append(row)
        for (name, epoch, arm, tenant), rows in together.items():
            ledger = self.owner.ledgers.get(name)
            if ledger is None or not rows:
                continue
            self.touched.add(name)
            self.latest = max(self.latest, max([row[4] for row in rows]))
            if ledger.take_plain(epoch, arm, rows):
                self._index_plain(name, tenant, arm == BEFORE, rows)

    def _index_plain(self, name: str, tenant: str, before: bool, rows: Iterable[PlainRow]) -> None:
        answers, sessions, begun = self.answers.setdefault(name, {}), self.owner._sessions, _prefix(tenant)
        for _, unit, request, response, unix, *_rest in rows:
            place = (unit, before, unix)
            answers[xxh3_64_intdigest(begun + request)] = place
            if response:
                answers[xxh3_64_intdigest(begun + response)] = place
            if sessions and unit in sessions:
                self.found.add(unit)

    def hear(self, items: Iterable[Waiting]) -> None:
        """Feedback that has waited for what was taken, and what is new."""
        owner = self.owner
        found = {key for key in owner._answers if any(key in answers for answers in self.answers.values())}
        for by, keys in ((owner._answers, found), (owner._sessions, self.found)):
            for key in sorted(keys):
                for one in by.pop(key, ()):
                    if self._apply(one.item):
                        self.settled.append(one.number)
                    else:
                        owner._keep(one)
        for one in items:
            if not self._apply(one.item):
                self.waits.append((one, self.owner._keep(one)))

    def _apply(self, item: Feedback) -> bool:
        """Adds feedback to the units that it is about. False: they are not known."""
        owners = self._of_session(item) if item.session else self._of_answer(item)
        for name, unit, before in owners:
            ledger = self.owner.ledgers[name]
            counted = item.value is not None and ledger.feedback(unit, item.name, item.value, before=before)
            if item.comment:
                ledger.comment(item.unix, item.comment, alone=not counted)
            self.touched.add(name)
            self.latest = max(self.latest, item.unix)
        return bool(owners)

    def _of_session(self, item: Feedback) -> list[tuple[str, int, bool]]:
        """Every experiment in which the unit was seen. What was said before it took part is history."""
        unit, out = session_of(item), list[tuple[str, int, bool]]()
        for name, ledger in self.owner.ledgers.items():
            if unit in ledger:
                first = ledger.exposed(unit)
                out.append((name, unit, first is None or item.unix < first))
        return out

    def _of_answer(self, item: Feedback) -> list[tuple[str, int, bool]]:
        key = answer_of(item.tenant, item.response)
        found = self.owner.folded.answers(key)
        for more in (self.owner._unwritten, self.answers):
            found |= {name: answers[key] for name, answers in more.items() if key in answers}
        return [(name, unit, before) for name, (unit, before, _) in found.items() if name in self.owner.ledgers]

    def prepare(self) -> None:
        """Makes what `write` writes: most of the work. Mutates what waits."""
        self.gone = self.owner.crowd()
        self.rows = rows_of_answers(self.answers)
        for name in sorted(self.touched):
            ledger = self.owner.ledgers[name]
            whole = ledger.rewritten
            self.ledgers[name] = whole, ledger.dump(), ledger.changed()

    def write(self) -> None:
        """Writes what has changed, within the caller's transaction."""
        owner, dropped = self.owner, {*self.gone}
        owner.folded.add_answers(self.rows)
        owner.folded.wait(wait for wait in self.waits if wait[0].number not in dropped)
        owner.folded.settle([*self.settled, *self.gone])
        for name, (whole, head, rows) in self.ledgers.items():
            owner.folded.set_ledger(name, self.latest, head, rows, whole=whole)
