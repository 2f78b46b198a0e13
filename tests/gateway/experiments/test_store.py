"""The store of experiments: what is acknowledged is in the file, what is put in force reaches all, and nothing waits for a disk."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from backends.types import Fault
from gateway.experiments.store import Keep, TrialStore, gauges
from gateway.experiments.tables import CHUNK, Tables
from gateway.experiments.words import Feedback, Pair, State
from gateway.metrics import Metrics
from routing.experiments.words import Seen


def seen(ended: tuple[Any, ...]) -> Seen | None:
    """A tuple of these tests: (unix, unit), or (None,) for what is no request of an experiment."""
    if ended[0] is None:
        return None
    unix, unit, *tokens = ended
    return Seen(float(unix), "e", 0, "a", unit, input=tokens[0] if tokens else None)


def played(act: Callable[[TrialStore], Awaitable[None]], path: Path, keep: Keep | None = None) -> TrialStore:
    """Runs `act` over a started store and stops it."""
    store = TrialStore(str(path), keep, lambda: 1000.0, seen=seen)

    async def run() -> None:
        await store.start()
        try:
            await act(store)
        finally:
            await store.stop()

    asyncio.run(run())
    return store


def written(path: Path) -> list[int]:
    """Units of all requests in the file, in order."""
    tables = Tables(str(path), readonly=True)
    try:
        return [one.unit for chunk in tables.chunks(0, 1_000_000) for one in chunk.seen]
    finally:
        tables.close()


def said(n: int) -> Feedback:
    return Feedback(float(n), "t", "liked", "boolean", 1.0, response=f"chatcmpl-{n}", id=f"fb_{n}")


def test_what_is_put_is_in_the_file_after_the_end(tmp_path: Path) -> None:
    async def act(store: TrialStore) -> None:
        for n in range(3 * CHUNK + 5):
            store.put((n, n))

    store = played(act, tmp_path / "e.db")
    assert written(tmp_path / "e.db") == [*range(3 * CHUNK + 5)]
    assert (store.written, store.dropped, store.lost, store.queued) == (3 * CHUNK + 5, 0, 0, 0)
    assert "1541 written" in repr(store)


def test_rows_hold_many_requests(tmp_path: Path) -> None:
    async def act(store: TrialStore) -> None:
        for n in range(CHUNK + 1):
            store.put((n, n))
        await store.flush()

    played(act, tmp_path / "e.db")
    tables = Tables(str(tmp_path / "e.db"), readonly=True)
    try:
        assert [len(chunk.seen) for chunk in tables.chunks(0, 10)] == [CHUNK, 1]
    finally:
        tables.close()


def test_what_does_not_fit_is_counted(tmp_path: Path) -> None:
    async def act(store: TrialStore) -> None:
        for n in range(25):  # in one go: the thread cannot answer before the loop lets it
            store.put((n, n))
            store.pair(Pair(1.0, "e", "s", f"r{n}"))
        await store.flush()

    store = played(act, tmp_path / "e.db", Keep(queue=10, pairs=5))
    assert store.dropped + store.written == 50 and store.dropped > 0


def test_what_cannot_be_read_costs_only_itself(tmp_path: Path) -> None:
    async def act(store: TrialStore) -> None:
        for ended in ((1, 1), ("x", 2), (None,), (3,), (4, 4)):
            store.put(ended)
        await store.flush()

    store = played(act, tmp_path / "e.db")
    assert written(tmp_path / "e.db") == [1, 4]
    assert store.lost == 2


@pytest.mark.parametrize("bad", [(2, 2, 10**23), (2, 1 << 70)])
def test_numbers_that_the_file_cannot_hold_do_not_end_the_store(tmp_path: Path, bad: tuple[int, ...]) -> None:
    async def act(store: TrialStore) -> None:
        store.put(bad)
        await store.flush()
        store.put((3, 3))
        await store.flush()
        await store.feedback(said(1))

    store = played(act, tmp_path / "e.db")
    assert (written(tmp_path / "e.db"), store.lost) == ([3], 1)


def test_acknowledged_feedback_is_in_the_file_at_once(tmp_path: Path) -> None:
    async def act(store: TrialStore) -> None:
        await asyncio.gather(*(store.feedback(said(n)) for n in range(100)))
        db = sqlite3.connect(tmp_path / "e.db")
        try:
            assert db.execute("SELECT COUNT(*) FROM feedback").fetchone() == (100,)
        finally:
            db.close()

    played(act, tmp_path / "e.db")


def test_too_much_feedback_at_once_is_refused(tmp_path: Path) -> None:
    async def act(store: TrialStore) -> None:
        answers = await asyncio.gather(*(store.feedback(said(n)) for n in range(20)), return_exceptions=True)
        assert [type(a) for a in answers] == [type(None)] * 8 + [Fault] * 12
        assert {a.kind for a in answers if isinstance(a, Fault)} == {"overloaded"}

    played(act, tmp_path / "e.db", Keep(jobs=8))


def test_feedback_that_cannot_be_written_is_not_acknowledged(tmp_path: Path) -> None:
    async def act(store: TrialStore) -> None:
        db = sqlite3.connect(tmp_path / "e.db")
        try:
            db.execute("DROP TABLE feedback")
        finally:
            db.close()
        good = State("e")
        answers = await asyncio.gather(store.feedback(said(1)), store.act("e", good, "t", "start"), return_exceptions=True)
        assert isinstance(answers[0], Fault) and answers[0].kind == "unavailable"
        assert answers[1] is None and store.states == {"e": good}  # in the same batch, and not hurt by it

    played(act, tmp_path / "e.db")


def test_after_the_end_nothing_is_taken(tmp_path: Path) -> None:
    async def act(store: TrialStore) -> None:
        await store.stop()
        await store.stop()
        for wish in (store.feedback(said(1)), store.flush(), store.act("e", State("e"), "t", "stop")):
            with pytest.raises(Fault, match="shutting down"):
                await wish

    played(act, tmp_path / "e.db")


def test_a_state_and_its_audit_are_one(tmp_path: Path) -> None:
    async def act(store: TrialStore) -> None:
        heard: list[Mapping[str, State]] = []
        store.on_states = heard.append
        state = State("e", "promoted", 2, {"a": 0.25, "b": 0.75}, 7.0, "b")
        await store.act("e", state, "anna", "promote", "b is better")
        assert store.states == {"e": state} and heard == [{"e": state}]
        audit, epochs = await store.read(lambda tables: (tables.audit("e"), tables.epochs("e")))
        assert [(a.unix, a.actor, a.action, a.detail) for a in audit] == [(1000.0, "anna", "promote", "b is better")]
        assert epochs == {2: {"a": 0.25, "b": 0.75}}
        with pytest.raises(ValueError, match="was given for"):
            await store.act("f", state, "anna", "promote")

    played(act, tmp_path / "e.db")


def test_what_another_process_puts_in_force_is_followed(tmp_path: Path) -> None:
    async def act(store: TrialStore) -> None:
        other = TrialStore(str(tmp_path / "e.db"), seen=seen)
        heard: asyncio.Queue[Mapping[str, State]] = asyncio.Queue()
        other.on_states = heard.put_nowait
        await other.start()
        try:
            assert await heard.get() == {}
            for epoch in range(3):
                await store.act("e", State("e", epoch=epoch), "t", "weights")
                async with asyncio.timeout(30):
                    while other.states.get("e") != State("e", epoch=epoch):
                        await heard.get()
        finally:
            await other.stop()

    played(act, tmp_path / "e.db")


def test_several_stores_write_one_file(tmp_path: Path) -> None:
    async def run() -> None:
        stores = [TrialStore(str(tmp_path / "e.db"), seen=seen) for _ in range(4)]
        await asyncio.gather(*(store.start() for store in stores))
        for n in range(400):
            stores[n % 4].put((n, n))
            if n % 40 == 0:
                await stores[n % 3].feedback(said(n))
        await asyncio.gather(*(store.stop() for store in stores))

    asyncio.run(run())
    assert sorted(written(tmp_path / "e.db")) == [*range(400)]


def test_what_cannot_be_written_now_is_written_later(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def act(store: TrialStore) -> None:
        db = sqlite3.connect(tmp_path / "e.db", isolation_level=None)
        try:
            db.execute("ALTER TABLE chunks RENAME TO away")
            for n in range(10):
                store.put((n, n))
            await store.flush()
            assert store.written == 0 and store.queued == 10
            db.execute("ALTER TABLE away RENAME TO chunks")
        finally:
            db.close()

    store = played(act, tmp_path / "e.db")
    assert written(tmp_path / "e.db") == [*range(10)] and store.lost == 0
    assert "tried again" in caplog.text


def test_what_can_never_be_written_is_bounded_and_counted(tmp_path: Path) -> None:
    async def act(store: TrialStore) -> None:
        db = sqlite3.connect(tmp_path / "e.db", isolation_level=None)
        try:
            db.execute("DROP TABLE chunks")
        finally:
            db.close()
        for n in range(50):
            store.put((n, n))
        await store.flush()
        assert store.queued == 20 and store.lost == 30

    store = played(act, tmp_path / "e.db", Keep(unwritten=20))
    assert store.lost == 50 and store.written == 0


def test_a_file_that_cannot_be_used_is_a_clear_fault(tmp_path: Path) -> None:
    (tmp_path / "e.db").write_text("not a database, but long enough to be taken for one " * 50)
    for path in (tmp_path / "e.db", tmp_path / "nowhere" / "e.db"):
        store = TrialStore(str(path), seen=seen)
        with pytest.raises(Fault, match="cannot be used") as caught:
            asyncio.run(store.start())
        assert str(path) in caught.value.message
        asyncio.run(store.stop())


def test_figures(tmp_path: Path) -> None:
    figures, there = Metrics(), list[TrialStore]()
    gauges(figures, lambda: there[0] if there else None)
    assert "pointsman_experiment_records_written_total 0" in figures.render()

    async def act(store: TrialStore) -> None:
        there.append(store)
        store.put((1, 1))

    played(act, tmp_path / "e.db")
    assert "pointsman_experiment_records_written_total 1" in figures.render()
