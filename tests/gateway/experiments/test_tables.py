"""The file of experiments: who may read it, which files are refused, what a look may do, and what is in force."""

from __future__ import annotations

import sqlite3
import stat
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.experiments.folded import Cursor, Folded, signed, unsigned
from gateway.experiments.tables import AUDITED, Tables
from gateway.experiments.words import Feedback, Pair, State
from routing.experiments.words import Audit, Estimate, Outlook, Point, Result, Seen


def result(name: str, unix: float = 1.0) -> Result:
    return Result(
        name=name, route="r", mode="test", status="running", unix=unix, started=None, primary="latency", alpha=0.05, effect=0.05, units=3,
        requests=4, arms=[], comparisons=[], ratio=None, outlook=Outlook(), headline="too early", words=["wait"],
    )  # fmt: skip


def test_the_file_is_its_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "e.db"
    with closing(Tables(str(path))) as tables:
        tables.add_chunk([Seen(1.0, "e", 0, "a", 1)])
        files = sorted(tmp_path.iterdir())
        assert len(files) == 3  # with the write-ahead log
        assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}


def test_files_that_are_refused(tmp_path: Path) -> None:
    later, other, text = tmp_path / "later.db", tmp_path / "other.db", tmp_path / "text.db"
    with closing(sqlite3.connect(later)) as db:
        db.execute("PRAGMA user_version = 99")
    with closing(sqlite3.connect(other)) as db:
        db.execute("CREATE TABLE t (x)")
    text.write_text("no database " * 100)
    with pytest.raises(sqlite3.DatabaseError, match="later version"):
        Tables(str(later))
    with pytest.raises(sqlite3.DatabaseError, match="not a file of experiments"):
        Tables(str(other), readonly=True)
    with pytest.raises(sqlite3.DatabaseError, match="not a database"):
        Tables(str(text))
    with pytest.raises(FileNotFoundError):
        Tables(str(tmp_path / "none.db"), readonly=True)
    assert not (tmp_path / "none.db").exists()


def test_a_look_cannot_write(tmp_path: Path) -> None:
    path = tmp_path / "odd ?#% name.db"
    with closing(Tables(str(path))) as tables:
        tables.add_chunk([Seen(1.0, "e", 0, "a", 1)])
        with closing(Tables(str(path), readonly=True)) as look:
            assert look.chunks(0, 9)[0].seen[0].unit == 1
            with pytest.raises(sqlite3.OperationalError, match="readonly"):
                look.add_chunk([Seen(2.0, "e", 0, "a", 2)])


def test_a_file_of_the_first_version_can_be_looked_at(tmp_path: Path) -> None:
    path = str(tmp_path / "e.db")
    with closing(Tables(path)) as tables:
        tables.add_chunk([Seen(1.0, "e", 0, "a", 1)])
        tables.db.executescript("DROP TABLE named; PRAGMA user_version = 1;")
    with closing(Tables(path, readonly=True)) as look:
        assert Folded(look).answers(7) == {} and look.chunks(0, 9)[0].seen[0].unit == 1
    with closing(Tables(path)) as tables:  # and goes on as one of this version
        assert tables.db.execute("SELECT count(*) FROM named").fetchone() == (0,)


def test_all_or_nothing_and_others_are_noticed(tmp_path: Path) -> None:
    with closing(Tables(str(tmp_path / "e.db"))) as one, closing(Tables(str(tmp_path / "e.db"))) as other:
        before = other.version()
        with pytest.raises(KeyError), one.transaction(durable=True):
            one.act(State("e"), Audit(1.0, "t", "start"))
            raise KeyError
        assert one.states() == {} and one.audit("e") == [] and other.version() == before
        assert one.db.execute("PRAGMA synchronous").fetchone() == (1,)  # as before
        with one.transaction(durable=True):
            assert one.db.execute("PRAGMA synchronous").fetchone() == (2,)
            one.act(State("e", weights={"a": 1.0}, epoch=3), Audit(1.0, "t", "weights", "why"))
        assert other.version() != before
        assert other.state("e") == State("e", weights={"a": 1.0}, epoch=3) and other.state("f") is None
        assert other.epochs("e") == {3: {"a": 1.0}} and other.audit("e") == [Audit(1.0, "t", "weights", "why")]


def test_the_audit_trail_is_bounded() -> None:
    with closing(Tables(None)) as tables:
        with tables.transaction():
            for n in range(AUDITED + 30):
                tables.act(State("e", epoch=n), Audit(float(n), "t", "weights"))
            tables.act(State("f"), Audit(0.0, "t", "start"))
        assert [done.unix for done in tables.audit("e", 10**6)] == [float(n) for n in range(30, AUDITED + 30)]
        assert len(tables.audit("e")) == 200 and len(tables.audit("f")) == 1


def test_what_is_written_is_read() -> None:
    item, pair = Feedback(1.0, "t", "liked", "boolean", None, session="s", comment="good"), Pair(2.0, "e", "s", "r", similarity=0.5)
    with closing(Tables(None)) as tables:
        folded = Folded(tables)
        tables.add_feedback(item)
        tables.add_pairs([pair])
        assert [one.item for one in folded.feedback(0, 10)] == [item] and folded.pairs(0, 10) == [(1, pair)]
        assert tables.pairs("e", 5) == [pair] and tables.pairs("e", 5, upto=0) == [] and tables.pairs("f", 5) == []
        point = Point(1.0, 3, "b", Estimate(0.1, None, 0.2))
        tables.add_points("e", [point], 10)
        assert tables.points("e") == [point]
        assert tables.result("e") is None
        for one in (result("f"), result("e"), result("e", 2.0)):
            tables.set_result(one)
        assert tables.result("e") == result("e", 2.0) and tables.results() == [result("e", 2.0), result("f")]
        folded.set_cursor(Cursor(1, 2, 3, 4))
        assert folded.cursor() == Cursor(1, 2, 3, 4) and folded.ledger("e") is None


@given(st.integers(0, 2**64 - 1))
def test_numbers_of_64_bits_come_back(number: int) -> None:
    assert -(2**63) <= signed(number) < 2**63 and unsigned(signed(number)) == number
