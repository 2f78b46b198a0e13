"""Saved KV in files: what is there is what was written, within its budgets, and gone at the end."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from backends.slots import files
from backends.slots import store as module
from backends.slots.files import MAGIC, fingerprint
from backends.slots.store import Kept, Store


def saved(tokens: bytes, kv: int = 100) -> bytes:
    return MAGIC + struct.pack("<II", 4, len(tokens)) + struct.pack(f"<{len(tokens)}I", *tokens) + bytes(kv)


async def put(store: Store, text: bytes, kv: int = 100) -> Kept | None:
    part, data = store.part(), saved(text, kv)
    (store.near / part).write_bytes(data)
    return await store.adopt(part, text, len(text), len(data))


def played(tmp_path: Path, play: Callable[[Store], Awaitable[None]], memory: int = 10_000, disk: int = 10_000) -> None:
    near, far = tmp_path / "near", tmp_path / "far"
    near.mkdir()
    far.mkdir()
    store = Store(near, far if disk else None, memory, disk, b"model")

    async def run() -> None:
        await play(store)
        for is_near in (True, False):
            assert store.bytes[is_near] == sum(e.size for e in store.kept.values() if e.near == is_near) <= store.budget[is_near]
        store.close()

    asyncio.run(run())
    assert not near.exists() and not store.kept


def test_what_is_adopted_is_found_once(tmp_path: Path) -> None:
    async def play(store: Store) -> None:
        text = b"a" * 600
        one, two = await put(store, text), await put(store, text)
        assert one is two and one is not None and [f.name for f in store.near.iterdir()] == [one.name]
        assert (store.near / one.name).stat().st_mode & 0o777 == 0o600
        assert store.find(text + b"more", 1.0) == (one, 600) and await store.ready(one)

    played(tmp_path, play)


def test_what_is_no_saved_slot_is_not_adopted(tmp_path: Path) -> None:
    async def play(store: Store) -> None:
        whole = saved(b"a" * 600)
        for data in (b"", b"qs", b"GGUF" + whole[4:], whole[:500], MAGIC + struct.pack("<II", 4, 1 << 30)):
            part = store.part()
            (store.near / part).write_bytes(data)
            assert await store.adopt(part, b"a", 1, len(data)) is None
        part = store.part()
        (store.near / part).write_bytes(whole)
        assert await store.adopt(part, b"a", 1, len(whole) + 1) is None  # shorter than the engine said
        assert await store.adopt("never.part", b"a", 1, 1) is None
        assert not [*store.near.iterdir()]

    played(tmp_path, play)


@pytest.mark.parametrize("harm", ["tokens", "short", "gone", "other"])
def test_a_file_that_is_not_what_it_was_is_never_restored(tmp_path: Path, harm: str) -> None:
    async def play(store: Store) -> None:
        kept = await put(store, b"a" * 600)
        assert kept is not None
        file = store.near / kept.name
        data = bytearray(file.read_bytes())
        if harm == "tokens":
            data[20] ^= 1
        elif harm == "short":
            del data[-1:]
        elif harm == "other":
            data[4:8] = struct.pack("<I", 5)
        file.write_bytes(data) if harm != "gone" else file.unlink()
        assert not await store.ready(kept) and not store.kept and not [*store.near.iterdir()]
        assert not await store.ready(kept)

    played(tmp_path, play)


def test_what_memory_has_no_room_for_goes_to_disk_and_comes_back(tmp_path: Path) -> None:
    async def play(store: Store) -> None:
        entries = [await put(store, letter * 600) for letter in (b"a", b"b", b"c")]  # 2,512 bytes each, two fit
        a, b, c = entries
        assert a is not None and b is not None and c is not None
        assert [e.near for e in (a, b, c)] == [False, True, True]
        assert len([*store.near.iterdir()]) == 2 and store.far is not None and len([*store.far.iterdir()]) == 1
        assert await store.ready(a)
        assert [e.near for e in (a, b, c)] == [True, False, True]
        assert (store.near / a.name).read_bytes() == saved(b"a" * 600)

    played(tmp_path, play, memory=6000)


def test_beyond_both_budgets_what_was_longest_unused_is_gone(tmp_path: Path) -> None:
    async def play(store: Store) -> None:
        entries = [await put(store, bytes([letter]) * 600) for letter in b"abcdef"]
        assert [store.kept.get(e.name) is e for e in entries if e is not None] == [False, False, True, True, True, True]
        first = entries[2]
        assert first is not None and not first.near

    played(tmp_path, play, memory=6000, disk=6000)


def test_without_disk_it_is_gone_and_what_is_being_read_stays(tmp_path: Path) -> None:
    async def play(store: Store) -> None:
        a = await put(store, b"a" * 600)
        assert a is not None
        a.pins += 1
        b = await put(store, b"b" * 600)
        assert b is None and [*store.kept.values()] == [a]  # one fits, and that one is being read
        assert not await store.room(2000)
        a.pins -= 1
        assert await store.room(2000) and not store.kept
        assert not await store.room(4001)

    played(tmp_path, play, memory=4000, disk=0)


def test_a_folder_without_free_space_takes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def play(store: Store) -> None:
        assert await store.room(100)
        monkeypatch.setattr(files, "free", lambda folder: 150)
        assert not await store.room(100)

    played(tmp_path, play)


def test_entries_and_texts_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def play(store: Store) -> None:
        for i in range(6):
            await put(store, bytes([i]) * 10, 0)
        assert len(store.kept) == 3 and len([*store.near.iterdir()]) == 3
        assert await put(store, b"x" * 1001) is None

    monkeypatch.setattr(module, "MAX_ENTRIES", 3)
    monkeypatch.setattr(module, "MAX_TEXT", 1000)
    played(tmp_path, play)


def test_folders_are_private_and_named_by_the_process(tmp_path: Path) -> None:
    store = Store.open(1000, 1000, str(tmp_path / "kv"), b"m")
    for folder in (store.near, store.far):
        assert folder is not None and folder.stat().st_mode & 0o777 == 0o700
    store.close()
    assert not [*(tmp_path / "kv").iterdir()]


def test_where_no_memory_is_a_folder_all_is_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SHM", tmp_path / "none")
    store = Store.open(1000, 5000, str(tmp_path), b"m")
    assert store.near.parent == tmp_path and store.far is None and store.budget == {True: 5000, False: 0}
    store.close()


def test_a_fingerprint_tells_models_and_settings_apart(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    data = bytearray(1 << 20)
    one.write_bytes(data)
    data[1 << 19] = 1
    other.write_bytes(data)
    prints = {fingerprint(str(one), ()), fingerprint(str(other), ()), fingerprint(str(one), ("cache_type_k=1",))}
    assert len(prints) == 3 and fingerprint(str(one), ()) in prints


def test_a_store_that_is_closed_takes_and_gives_nothing(tmp_path: Path) -> None:
    async def run() -> None:
        near = tmp_path / "near"
        near.mkdir()
        store = Store(near, None, 10_000, 0, b"m")
        kept = await put(store, b"a" * 600)
        assert kept is not None
        store.close()
        assert not await store.ready(kept) and not await store.room(10) and await store.adopt("1.part", b"a", 1, 1) is None
        await store.discard("1.part")

    asyncio.run(run())
