"""What a link that owns its engine's slots does with requests, step by step."""

from __future__ import annotations

import asyncio
import copy
import json
from pathlib import Path
from typing import Any

import pytest

from backends.openai import OpenAILink
from backends.types import Call, Fault
from backends.wire import parse
from tests.backends.seen import Seen
from tests.backends.slots.world import LONG, TARGET, World, played


def test_one_alone_is_sent_at_once_and_as_it_is(tmp_path: Path) -> None:
    async def play(world: World) -> None:
        seen = world.send(temperature=0)
        (asked,) = world.open()  # before the loop has turned once
        assert asked.doc == {
            "messages": [{"role": "system", "content": LONG}, {"role": "user", "content": "?"}], "stream": True, "temperature": 0,
            "model": "m", "stream_options": {"include_usage": True}, "id_slot": asked.slot,
        }  # fmt: skip
        world.llama.first(asked)
        await world.answer(asked)
        assert seen.calls == ["head", "data", "data", "end"]
        world.check()
        assert [entry for entry in world.llama.log if "models" not in entry] == [f"completions {asked.slot}"]

    played(tmp_path, play)


@pytest.mark.parametrize("stream", [True, False])
def test_a_burst_computes_what_it_shares_once(tmp_path: Path, stream: bool) -> None:
    async def play(world: World) -> None:
        seen = [world.send(own=f"question {i}", stream=stream) for i in range(8)]
        assert len(world.open()) == 1
        await world.calm()
        (primed,) = world.open()  # the first is called back, and its prompt asked for once more
        assert primed.doc["max_tokens"] == 0 and "stream" not in primed.doc and not world.open("save")
        await world.answer(primed)
        assert not world.open() and len(world.open("save")) == 1
        await world.answer()
        assert len(world.open("restore")) == 7 and len(world.open()) == 1  # the first goes on
        await world.answer(*world.open("restore"))
        assert sorted(asked.slot for asked in world.open()) == [*range(8)]
        assert len({asked.doc["messages"][1]["content"] for asked in world.open()}) == 8
        await world.finish()
        assert all(each.status == 200 and each.ended for each in seen)
        counts = world.shared.figures()
        assert (counts.primes, counts.saves, counts.restores, counts.waited, counts.failed) == (1, 1, 7, 7, 0)
        assert counts.tokens_saved >= 7 * len(LONG)

    played(tmp_path, play, slots=8)


def test_one_called_back_before_the_engine_began_it_is_computed_all_the_same(tmp_path: Path) -> None:
    async def play(world: World) -> None:
        world.send(shared="before " + LONG)
        await world.finish()
        world.llama.slow = True  # its slot still holds what was there before
        seen = [world.send(own=f"question {i}") for i in range(4)]
        await world.finish()
        assert all(each.ended for each in seen) and world.shared.strikes == 0
        counts = world.shared.figures()
        assert (counts.restores, counts.failed) == (3, 0) and counts.tokens_saved >= 3 * len(LONG)

    played(tmp_path, play, slots=1 + 3)


def test_a_stream_is_called_back_at_its_first_token_and_nobody_sees_it(tmp_path: Path) -> None:
    async def play(world: World) -> None:
        world.links[0].batch = 256  # then it must not be called back before what is shared is computed, which takes 15 s
        one = world.send(own="one")
        asked = world.open()[0]
        world.llama.head(asked)
        two = world.send(own="two")
        await world.calm()
        assert world.open() == [asked] and not one.calls
        world.llama.first(asked)
        await world.calm()
        assert asked.over and not one.calls and len(world.open()) == 1
        await world.answer()
        assert not one.calls and len(world.open("save")) == 1
        await world.finish()
        assert one.ended and two.ended

    played(tmp_path, play)


def test_an_answer_that_is_over_before_it_could_be_called_back(tmp_path: Path) -> None:
    async def play(world: World) -> None:
        world.links[0].batch = 256
        one, two = world.send(own="one", stream=False), world.send(own="two")
        await world.answer(world.open()[0])
        assert one.ended and world.open("save")  # the second finds it in an idle slot, and saves that first
        await world.finish()
        assert two.ended and world.shared.counts.primes == 0

    played(tmp_path, play)


def test_over_two_replicas_the_prefix_is_computed_in_one(tmp_path: Path) -> None:
    async def play(world: World) -> None:
        for i in range(8):
            world.send(own=f"question {i}", replica=i % 2)
        await world.calm()
        await world.answer()
        await world.answer()
        assert [asked.llama.name for asked in world.open("restore")] == ["m#0"] * 3 + ["m#1"] * 4
        await world.finish()
        assert world.shared.counts.primes == 1 and world.shared.counts.restores == 7

    played(tmp_path, play, replicas=2)


def test_later_requests_restore_what_the_store_has(tmp_path: Path) -> None:
    async def play(world: World) -> None:
        world.send(own="one")
        world.send(own="two")
        await world.finish()
        seen = world.send(own="three", replica=1)
        await world.calm()
        assert [asked.llama.name for asked in world.open("restore")] == ["m#1"] and not world.open()
        await world.finish()
        assert seen.ended

    played(tmp_path, play, replicas=2)


def test_the_second_of_several_while_the_first_answers_is_computed_and_saved(tmp_path: Path) -> None:
    async def play(world: World) -> None:
        world.send(own="one")
        first = world.open()[0]
        world.llama.first(first)  # its slot is taken for as long as it answers
        seen = world.send(own="two")
        world.send(own="three")
        await world.calm()
        (primed,) = [asked for asked in world.open() if asked is not first]
        assert primed.doc["max_tokens"] == 0 and "stream" not in primed.doc
        await world.answer(primed)
        await world.answer(*world.open("save"))
        await world.answer(*world.open("restore"))
        assert len(world.open()) == 3
        await world.finish()
        assert seen.ended and world.shared.counts.restores == 1

    played(tmp_path, play)


def test_what_lies_in_an_idle_slot_of_another_replica_is_fetched(tmp_path: Path) -> None:
    async def play(world: World) -> None:
        world.send(own="one")
        await world.finish()
        world.send(own="two", replica=1)
        await world.calm()
        assert [asked.llama.name for asked in world.open("save")] == ["m#0"]
        await world.answer()
        assert [asked.llama.name for asked in world.open("restore")] == ["m#1"]
        await world.finish()

    played(tmp_path, play, replicas=2)


def test_a_conversation_goes_on_in_its_slot(tmp_path: Path) -> None:
    async def play(world: World) -> None:
        messages: list[dict[str, str]] = [{"role": "user", "content": LONG}]
        for _ in range(3):
            doc = {"messages": messages}
            call = Call(b"r", "chat", "m", False, parse(json.dumps(doc, separators=(",", ":")).encode()), "", {}, 0.0)
            world.links[0].send(call, TARGET, None, Seen())
            assert [asked.slot for asked in world.open()] == [0]
            await world.finish()
            messages = [*messages, {"role": "assistant", "content": "yes"}, {"role": "user", "content": "and?"}]
        assert world.shared.counts.saves == 0

    played(tmp_path, play)


def test_a_long_prompt_is_saved_before_its_slot_is_lost(tmp_path: Path) -> None:
    async def play(world: World) -> None:
        world.send("a" * 2000)
        await world.finish()
        world.send("b" * 2000)
        await world.finish()
        world.send("c" * 2000)
        assert not world.open()
        await world.calm()
        await world.answer(*world.open("save"))
        assert len(world.open()) == 1
        await world.finish()
        world.send("a" * 2000, "again")
        await world.calm()
        await world.finish()
        assert world.shared.counts.restores == 1

    played(tmp_path, play, slots=2)


def test_who_finds_no_slot_waits_in_order_and_for_a_bounded_time(tmp_path: Path) -> None:
    async def play(world: World) -> None:
        seen = [world.send("short", f"{i}") for i in range(4)]
        assert len(world.open()) == 2
        await world.answer(world.open()[0])
        assert [asked.doc["messages"][1]["content"] for asked in world.open()] == ["1", "2"]
        world.rides[3][0].cancel()
        late = world.send("short", "late")
        await asyncio.wait_for(late.until(lambda s: s.over), 30)
        assert late.fault is not None and late.fault.kind == "timeout" and late.fault.retry
        await world.finish()
        assert [each.ended for each in seen] == [True, True, True, False]

    played(tmp_path, play, slots=2, seconds=0.05)


@pytest.mark.parametrize("who", ["leader", "member"])
@pytest.mark.parametrize("when", ["computing", "saving", "restoring"])
def test_who_leaves_takes_nobody_along(tmp_path: Path, who: str, when: str) -> None:
    async def play(world: World) -> None:
        seen = [world.send(own=f"question {i}") for i in range(3)]
        gone = 0 if who == "leader" else 1
        if when == "computing":
            world.rides[gone][0].cancel()
        await world.calm()
        await world.answer()
        if when == "saving":
            world.rides[gone][0].cancel()
        await world.answer(*world.open("save"))
        if when == "restoring":
            world.rides[gone][0].cancel()
        await world.finish()
        assert [each.ended for each in seen] == [i != gone for i in range(3)]

    played(tmp_path, play)


def test_without_saving_each_goes_its_own_way(tmp_path: Path) -> None:
    async def play(world: World) -> None:
        world.llama.broken = True
        seen = [world.send(own=f"question {i}") for i in range(4)]
        await world.calm()
        await world.answer()
        await world.answer()
        assert len(world.open()) == 4
        await world.finish()
        assert all(each.ended for each in seen) and world.shared.counts.failed == 1

    played(tmp_path, play)


def test_a_restore_that_fails_costs_its_request_nothing_but_time(tmp_path: Path) -> None:
    async def play(world: World) -> None:
        seen = [world.send(own=f"question {i}") for i in range(3)]
        await world.calm()
        await world.answer()
        world.llama.broken = True
        await world.finish()
        assert all(each.ended for each in seen) and world.shared.counts.restores == 0

    played(tmp_path, play)


def test_an_engine_that_dies_fails_everybody(tmp_path: Path) -> None:
    async def play(world: World) -> None:
        seen = [world.send(own=f"question {i}") for i in range(4)]
        await world.calm()
        for _ in range(20):
            for asked in [*world.llama.open]:
                world.llama.fail(asked)
            await world.calm()
        world.check()
        assert all(each.fault is not None and each.fault.retry for each in seen)

    played(tmp_path, play)


def test_kv_that_the_engine_makes_nothing_of_is_not_moved_any_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def play(world: World) -> None:
        monkeypatch.setattr("tests.backends.slots.llama.common", lambda one, other: 0)
        for i in range(6):
            world.send(own=f"question {i}")
        await world.finish()
        assert not world.shared.figures().moving
        world.send(own="after")
        assert len(world.open()) == 1
        await world.finish()

    played(tmp_path, play, slots=6)


def test_what_has_a_slot_of_its_own_or_needs_none_passes(tmp_path: Path) -> None:
    async def play(world: World) -> None:
        docs: list[tuple[str, dict[str, Any]]] = [
            ("chat", {"messages": [], "id_slot": 1}), ("chat", {"messages": [], "n": 2}), ("embeddings", {"input": "x"}),
            ("chat", {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}), ("completions", {"prompt": [1, 2]}),
        ]  # fmt: skip
        for api, doc in docs:
            call = Call(b"r", api, "m", False, parse(json.dumps(doc, separators=(",", ":")).encode()), "", {}, 0.0)
            world.links[0].send(call, TARGET, None, Seen())
        assert [asked.doc.get("id_slot") for asked in world.llama.open] == [1, None, None, None, None]
        for asked in [*world.llama.open]:
            world.llama.fail(asked)
        world.check()

    played(tmp_path, play)


def test_a_guard_is_asked_before_anything_happens(tmp_path: Path) -> None:
    asked = []

    def guard(doc: Any) -> Fault | None:
        asked.append(doc)
        return Fault("bad_request", "no") if "grammar" in doc else None

    async def play(world: World) -> None:
        with pytest.raises(Fault, match="no"):
            world.send(grammar="root ::= x")
        world.check()
        world.send()
        await world.finish()
        assert len(asked) == 2  # once a request
        twin = copy.copy(world.links[0])
        assert type(twin) is OpenAILink and twin.guard is guard  # what a dry run writes with

    played(tmp_path, play, guard=guard)
