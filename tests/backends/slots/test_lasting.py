"""What outlives the gateway, as its links see it: what is written and when, what the next process begins with, and for whom it is not."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

from backends.engines.spec import EngineSpec
from backends.slots import lasting as module
from backends.slots import store as stores
from backends.slots.disk import NAME
from backends.slots.keeper import Keeper
from backends.slots.shared import Shared
from backends.slots.store import Limits
from tests.backends.slots.world import LONG, World, played


@pytest.fixture(autouse=True)
def in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder in memory is this test's own."""
    memory = tmp_path / "memory"
    memory.mkdir()
    monkeypatch.setattr(stores, "_SHM", memory)


def run(tmp_path: Path, play: Any, **options: Any) -> Any:
    """One gateway's life; the folder `kept` is there for the next."""
    kept = tmp_path / "kept"
    found = played(tmp_path, play, kept=kept, **options)
    assert not [*(tmp_path / "memory").iterdir()], "what does not last is gone"
    return found


def saved(tmp_path: Path) -> list[str]:
    return sorted(f.name for f in (tmp_path / "kept" / NAME).glob("*.kv"))


async def once(world: World, shared: str = LONG, own: str = "?", **more: Any) -> None:
    seen = world.send(shared, own, **more)
    await world.finish()
    assert seen.over


def computed(world: World, before: int = 0) -> list[str]:
    return world.llama.log[before:]


def test_a_prompt_that_was_computed_once_is_restored_by_the_next_gateway(tmp_path: Path) -> None:
    async def first(world: World) -> None:
        await once(world)
        assert [line for line in world.llama.log if "models" not in line] == ["completions 0", "0?action=save 0"]
        assert world.shared.figures().lasting == 1 and world.shared.figures().bytes_disk > 0
        count = len(world.llama.log)
        await once(world, own="!")
        await once(world, own="another question")
        assert not any("save" in line for line in computed(world, count)), "the prefix is on disk, what is new is short"

    run(tmp_path, first)
    assert len(saved(tmp_path)) == 1

    async def second(world: World) -> None:
        (entry,) = world.store.kept.values()
        assert not entry.near and Shared(world.store).speed.knows("prefill")
        await once(world, own="after the restart")
        assert world.shared.counts.restores == 1 and world.shared.counts.tokens_saved > len(LONG) and entry.near
        await once(world, own="and again", stream=False)
        assert world.shared.counts.restores == 1, "it lies in the slot"

    run(tmp_path, second)
    run(tmp_path, second, slots=1)
    assert len(saved(tmp_path)) == 1


def test_an_engine_of_another_context_begins_anew(tmp_path: Path) -> None:
    run(tmp_path, once)

    async def other(world: World) -> None:
        assert not world.store.kept
        await once(world)
        assert world.shared.counts.restores == 0

    run(tmp_path, other, context=4096)
    assert len(saved(tmp_path)) == 2


@pytest.mark.parametrize("harm", ["flip", "short", "gone"])
def test_a_file_that_changed_is_found_before_it_is_used_and_written_anew(tmp_path: Path, harm: str) -> None:
    run(tmp_path, once)
    file = tmp_path / "kept" / NAME / saved(tmp_path)[0]
    data = bytearray(file.read_bytes())
    data[-5] ^= 0x10

    async def second(world: World) -> None:
        if harm == "flip":
            file.write_bytes(data)
        elif harm == "short":
            file.write_bytes(data[:-1])
        else:
            file.unlink()
        await once(world, own="after the harm")
        assert world.shared.counts.restores == 0 and not any("restore" in line for line in world.llama.log)
        assert world.shared.figures().failed > 0 and world.shared.figures().lasting == 1

    run(tmp_path, second)

    async def third(world: World) -> None:
        await once(world, own="and healed")
        assert world.shared.counts.restores == 1

    run(tmp_path, third)


def test_private_calls_stay_in_memory(tmp_path: Path) -> None:
    async def play(world: World) -> None:
        await once(world, private=True)
        await once(world, "p" * 1500, private=True, stream=False)
        for i in range(5):  # they are saved in memory for each other
            world.send("q" * 1500, str(i), private=True)
        await world.finish()
        assert world.shared.counts.saves > 0

    run(tmp_path, play)
    assert not saved(tmp_path)
    run(tmp_path, play, private=True)
    assert saved(tmp_path)


def test_what_is_said_in_private_and_in_public_is_public(tmp_path: Path) -> None:
    async def play(world: World) -> None:
        for i in range(3):
            world.send(LONG, str(i), private=True)
        await world.finish()
        assert {entry.private for entry in world.store.kept.values()} == {True} and not saved(tmp_path)
        await once(world, own="in public")
        assert len(saved(tmp_path)) == 1

    run(tmp_path, play)


def test_salts_share_nothing(tmp_path: Path) -> None:
    async def play(world: World) -> None:
        await once(world, cache_salt="one")
        count = len(world.llama.log)
        await once(world, cache_salt="two")
        told = world.shared.counts
        assert told.restores == 0 and world.shared.figures().lasting == 2, computed(world, count)
        await once(world)
        assert told.restores == 0
        await once(world, own="third", cache_salt="one")
        assert told.tokens_saved == 0 or told.restores == 1

    run(tmp_path, play)

    async def next_day(world: World) -> None:
        await once(world, own="new", cache_salt="three")
        assert world.shared.counts.restores == 0
        await once(world, own="new", cache_salt="two")
        assert world.shared.counts.restores == 1 and world.shared.counts.tokens_saved > len(LONG)

    run(tmp_path, next_day)


def test_a_slot_of_another_salt_is_computed_anew(tmp_path: Path) -> None:
    async def play(world: World) -> None:
        docs = []
        for salt in ("one", "one", "two", None):
            world.send("short", cache_salt=salt)
            await world.calm()
            docs += [asked.doc.get("cache_prompt", True) for asked in world.open()]
            await world.finish()
        assert docs == [False, True, False, False]

    played(tmp_path, play, slots=1)


def test_who_leaves_before_anything_is_computed_does_not_inherit_the_slot(tmp_path: Path) -> None:
    """llama.cpp drops a request that it has not begun: the slot then holds what it held before, whatever was sent last."""

    async def play(world: World) -> None:
        await once(world, cache_salt="one", private=True)
        slot = world.links[0].table.slots[0]
        assert (slot.private, slot.mixed) == (True, False)
        world.send("x" * 1500)
        await world.calm()
        await world.answer(*world.open("save"))  # what the slot loses
        (asked,) = world.open()
        assert asked.doc["cache_prompt"] is False
        held = world.llama.slots[0]
        world.rides[-1][0].cancel()
        world.llama.slots[0] = held
        assert (slot.private, slot.mixed) == (True, True)
        world.send("x" * 1500, "again")
        await world.calm()
        assert not world.open("save")
        assert [asked.doc["cache_prompt"] for asked in world.open()] == [False]
        await world.finish()
        assert (slot.private, slot.mixed) == (False, False)

    run(tmp_path, play, slots=1)


def test_a_conversation_is_written_a_few_times_and_the_longest_is_found(tmp_path: Path) -> None:
    async def play(world: World) -> None:
        for turns in range(1, 30):
            await once(world, LONG + "turn " * 60 * turns)

    run(tmp_path, play)
    assert 3 <= len(saved(tmp_path)) <= 10

    async def second(world: World) -> None:
        await once(world, LONG + "turn " * 60 * 29, "next")
        assert world.shared.counts.tokens_saved > 0.75 * (len(LONG) + 300 * 29)

    run(tmp_path, second)


def test_short_prompts_and_other_engines_leave_no_file(tmp_path: Path) -> None:
    async def play(world: World) -> None:
        await once(world, "short")
        world.llama.broken = True
        await once(world)
        assert world.shared.counts.failed > 0
        world.llama.broken = False
        await once(world, own="now it can")

    run(tmp_path, play)
    assert len(saved(tmp_path)) == 1


def test_what_memory_has_no_room_for_is_still_on_disk(tmp_path: Path) -> None:
    async def play(world: World) -> None:
        world.store.budget[True] = 40_000  # two of them
        for letter in "abcd":
            await once(world, letter * 1500)
        assert sum(e.near for e in world.store.kept.values()) <= 2 and len(world.store.kept) == 4
        assert len(saved(tmp_path)) == 4
        for i in range(3):  # all slots have something else now
            await once(world, "a" * 1500, f"{i} again")
        assert world.shared.counts.restores <= 1 and world.shared.counts.failed == 0

    run(tmp_path, play)


def test_a_disk_that_cannot_be_written_costs_no_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(file: int, length: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "ftruncate", full)

    async def play(world: World) -> None:
        await once(world)
        assert world.shared.figures().failed == 1 and world.shared.figures().lasting == 0 and len(world.store.kept) == 1

    run(tmp_path, play)
    assert not saved(tmp_path)


def test_what_an_engine_refuses_is_forgotten(tmp_path: Path) -> None:
    run(tmp_path, once)

    async def second(world: World) -> None:
        (entry,) = world.store.kept.values()
        world.llama.broken = True
        await once(world, own="first")
        assert entry.refused == 1 and entry.name in world.store.kept
        await once(world, "x" * 1500)
        for slot in world.links[0].table.slots:
            slot.hold(b"", False)
        await once(world, own="second")
        assert entry.name not in world.store.kept and not saved(tmp_path)

    run(tmp_path, second)


def test_a_gateway_that_ends_at_once_still_saves(tmp_path: Path) -> None:
    async def play(world: World) -> None:
        world.send()
        await world.calm()
        await world.answer(*world.open())
        (saving,) = world.open("save")
        stopping = asyncio.ensure_future(world.links[0].stop())
        await world.calm()
        assert not stopping.done()
        await world.answer(saving)
        await stopping

    run(tmp_path, play)
    assert len(saved(tmp_path)) == 1


def test_a_folder_that_cannot_be_used_ends_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = tmp_path / "model.gguf"
    model.write_bytes(b"weights" * 100)
    (tmp_path / NAME).mkdir(mode=0o755)
    spec = EngineSpec("m", "llamacpp", str(model), slots=1)

    async def play() -> None:
        keeper = Keeper()
        found = await keeper.prepare(spec, Limits(1 << 20, 1 << 20, str(tmp_path), True))
        assert found.slot_save_path and keeper.shared["m"].store.lasting is None and keeper.shared["m"].store.far is not None
        assert await keeper.prepare(spec, Limits(1 << 20, 1 << 20, str(tmp_path))) is spec, "one slot is only owned for what lasts"
        (tmp_path / NAME).chmod(0o700)
        found = await keeper.prepare(spec, Limits(None, 1 << 20, str(tmp_path), True))
        assert keeper.shared["m"].store.lasting is not None
        assert await keeper.prepare(spec, Limits(None, 1 << 20, str(tmp_path), True)) == found
        keeper.close()

    asyncio.run(play())
    assert "must be a folder that belongs to this user" in caplog.text


def test_few_files_wait_to_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_PENDING", 0)
    run(tmp_path, once)
    assert not saved(tmp_path)


def test_two_gateways_on_one_folder_hear_of_each_other(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    for name in ("one", "two"):
        (tmp_path / name).mkdir()

    async def both(one: World) -> None:
        two = World(tmp_path / "two", kept=kept)
        await once(one, "a" * 1500)
        await once(two, "a" * 1500, "computed again, as nobody told")
        await once(two, "b" * 1500)
        assert two.shared.counts.restores == 0 and len(saved(tmp_path)) == 3
        await once(one, "c" * 1500)
        assert len(one.store.kept) == 4, "what others have put there is known from the next write on"
        await once(one, "b" * 1500, "own")
        assert one.shared.counts.restores == 1
        for link in two.links:
            await link.stop()
        await asyncio.to_thread(two.store.close)

    played(tmp_path / "one", both, kept=kept)
    assert len(saved(tmp_path)) == 4
