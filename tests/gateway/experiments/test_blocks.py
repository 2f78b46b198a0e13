"""Plain requests on their way to the file: they wait within bounds, and all of them are in it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from gateway.experiments import plain as plain_module
from gateway.experiments.plain import Blocks, ended_of, together
from gateway.experiments.store import Keep, TrialStore
from gateway.experiments.tables import CHUNK
from tests.gateway.experiments.plains import (
    add,
    kind_of,
    left,
    plain_of,
)  # fmt: skip
from tests.gateway.experiments.recorded import opened
from tests.gateway.serving import eventually


def added(most: int, *batches: int) -> Blocks:
    """Blocks of so many requests each."""
    blocks, n = Blocks(most, [].append, lambda: 0.0), 0
    for batch in batches:
        group = [left(n + at) for at in range(batch)]
        add(blocks, group)
        n += batch
    return blocks


def test_batches_wait_for_the_thread() -> None:
    blocks = added(1000, 64, 64, 1)
    add(blocks, [plain_of((), 7, b"{}")])
    assert len(blocks) == 129
    assert [(block.requests, block.unix) for block in blocks.ready()] == [(64, 126.25), (64, 254.25), (1, 256.25)]
    blocks.written(2)
    assert (len(blocks), len(blocks.ready())) == (1, 1)


def test_what_does_not_fit_is_counted() -> None:
    blocks = added(100, 64, 64, 36, 1)
    assert (len(blocks), blocks.dropped) == (100, 65)
    kind = kind_of("a", "t")
    for marks in (((kind, 1), (kind, 2)), (), ((kind, 3),)):
        blocks.missed(plain_of(marks, 1, b"{}"))
    assert blocks.dropped == 68


def test_what_cannot_be_read_together_goes_one_by_one() -> None:
    others: list[Any] = []
    blocks = Blocks(100, others.append, lambda: 0.0)
    odd: Any = plain_of(((kind_of("a", "t"), 2),), 2, b"{}", tail="no bytes")  # type: ignore[arg-type]
    blocks.add((*zip(left(1), odd, strict=True),), [None, None], priced=True)
    assert others == [*ended_of(left(1)), *ended_of(odd)] and not blocks.ready()


def test_blocks_share_rows() -> None:
    blocks = added(1000, 10, 10, 10, 10, 10)
    assert [(row.requests, row.unix) for row in together(blocks.ready(), 25)] == [(20, 38.25), (20, 78.25), (10, 98.25)]
    assert [*together([], 25)] == []


def test_the_file_has_them_with_all_others(tmp_path: Path) -> None:
    count = 2 * CHUNK + 3
    store = TrialStore(str(tmp_path / "e.db"))
    held = [left(n) for n in range(count)]

    def hand_over() -> None:
        while held:
            group, held[:] = held[:64], held[64:]
            add(store.plain, group)

    async def act() -> None:
        await store.start()
        store.hurry = hand_over
        (ended,) = ended_of(left(count))
        store.put(ended)
        assert store.queued == 1
        await store.flush()
        assert (store.queued, store.written) == (0, count + 1)
        held.append(left(count + 1))
        await store.stop()

    asyncio.run(act())
    assert (store.written, store.dropped, store.lost) == (count + 2, 0, 0)
    with opened(tmp_path / "e.db") as tables:
        chunks = tables.chunks(0, 100)
    found = [one for chunk in chunks for one in chunk.seen]
    assert sorted(one.unit for one in found) == [*range(count + 2)]
    assert max(len(chunk.seen) for chunk in chunks) <= CHUNK and {one.experiment for one in found} == {"e"}
    assert [bool(chunk.blocks) for chunk in chunks].count(False) == 1


def test_without_a_hint_they_are_written_within_a_second(tmp_path: Path) -> None:
    async def act() -> None:
        store = TrialStore(str(tmp_path / "e.db"))
        await store.start()
        try:
            add(store.plain, [left(1)])
            await asyncio.to_thread(eventually, lambda: store.written or None, "the request")
        finally:
            await store.stop()

    asyncio.run(act())


def test_a_store_that_is_full_says_so(tmp_path: Path) -> None:
    store = TrialStore(str(tmp_path / "e.db"), Keep(queue=100))
    for n in range(3):
        group = [left(50 * n + at) for at in range(50)]
        add(store.plain, group)
    assert (store.queued, store.dropped) == (100, 50)


def test_a_bug_costs_the_batch_and_nobody_else(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("boom")

    monkeypatch.setattr(plain_module, "block_of", broken)
    blocks = added(10, 3)
    assert (blocks.dropped, len(blocks)) == (3, 0) and "a bug: requests of experiments" in caplog.text
