"""What gathers calls for embeddings: who waits for whom, what one engine call holds, and that all get what they would have got alone."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

import pytest

from backends.embeddings import BatchLimits
from backends.gather import RESTING
from backends.prepare import prepare
from backends.types import Fault, Flight, Target, Usage
from tests.backends.gathering import JSON, TARGET, World, good
from tests.backends.seen import Seen


def test_one_by_itself_leaves_at_the_end_of_its_turn_as_it_came() -> None:
    async def run() -> None:
        world = World()
        seen, flight = world.ask("alone", {b"traceparent": b"00-a-b-01"}, x=1)
        assert world.sent == []
        await world.turn()
        assert len(world.sent) == 1 and world.sent[0].doc == {"model": "own", "input": "alone", "x": 1}
        assert b"x-request-id: req-1\r\n" in world.sent[0].head and b"traceparent: 00-a-b-01" in world.sent[0].head
        flight.pause()
        flight.resume()
        assert world.sent[0].asked == ["pause", "resume"]
        world.sent[0].answer()
        good(seen, 5, id="req-1")
        assert world.at_rest()

    asyncio.run(run())


def test_those_of_one_turn_go_together_and_the_next_wait_for_the_answer() -> None:
    async def run() -> None:
        world = World()
        first = [world.ask(given)[0] for given in ("a", ["bb", "ccc"])]
        await world.turn()
        later = [world.ask(given)[0] for given in ("dddd", "eeeee")]
        await world.turn()
        assert [sent.inputs for sent in world.sent] == [["a", "bb", "ccc"]]
        assert b"req-" not in world.sent[0].head and b"x-request-id: joint-" in world.sent[0].head
        world.sent[0].answer()
        good(first[0], 1, id="req-1")
        good(first[1], 2, 3, id="req-2")
        await world.turn()
        assert [sent.inputs for sent in world.sent[1:]] == [["dddd", "eeeee"]]
        world.sent[1].answer(parts=True)
        good(later[0], 4, id="req-3")
        good(later[1], 5, id="req-4")
        assert world.at_rest() and (world.gather.calls, world.gather.members) == (2, 4)

    asyncio.run(run())


def test_nobody_waits_longer_than_the_window() -> None:
    async def run() -> None:
        world = World(BatchLimits(window=0.002))
        world.ask("first")
        await world.turn()
        world.ask("second")
        assert len(world.sent) == 1
        await world.carrier.until(2)  # though the first has no answer yet
        world.ask("third")
        world.ask("fourth")
        await world.carrier.until(3)
        assert [sent.inputs for sent in world.sent] == [["first"], ["second"], ["third", "fourth"]]

    asyncio.run(run())


def test_one_engine_call_holds_so_many_and_no_more() -> None:
    async def run() -> None:
        world = World(BatchLimits(window=10.0, items=4, bytes=40))
        for one in (["a", "b", "c"], ["d", "e"], "f", "x" * 34, "y" * 50, ["1", "2", "3", "4", "5"], "g"):
            world.ask(one)
        await world.turn()
        assert [sent.inputs for sent in world.sent] == [["a", "b", "c"], ["d", "e", "f"], ["y" * 50], ["1", "2", "3", "4", "5"]]
        for sent in world.sent[:2]:
            sent.answer()
        await world.turn()
        assert [sent.inputs for sent in world.sent[4:]] == [["x" * 34, "g"]]

    asyncio.run(run())


def test_only_the_same_question_is_joined() -> None:
    async def run() -> None:
        world = World()
        for more in ({"dimensions": 2}, {"dimensions": 3}, {"dimensions": 2}):
            world.ask("a", **more)
        world.ask([1, 2], dimensions=2)
        world.link.send(world.call("b", dimensions=2), Target("gpu", "another"), None, Seen())
        await world.turn()
        assert sorted(json.dumps([sent.doc["input"], sent.doc["model"], sent.doc["dimensions"]]) for sent in world.sent) == [
            '["a", "own", 3]', '["b", "another", 2]', '[["a", "a"], "own", 2]', '[[1, 2], "own", 2]',
        ]  # fmt: skip

    asyncio.run(run())


def test_a_bad_input_fails_its_own_call_alone() -> None:
    async def run() -> None:
        world = World()
        seen = [world.ask(given)[0] for given in ("a", ["b", "bad"], "ccc")]
        await world.turn()
        world.sent[0].answer()
        assert [sent.inputs for sent in world.sent[1:]] == [["a"], ["b", "bad"], ["ccc"]]
        for sent in world.sent[1:]:
            sent.answer()
        good(seen[0], 1, id="req-1")
        good(seen[2], 3, id="req-3")
        assert seen[1].status == 400 and b"that input is bad" in seen[1].body
        assert world.at_rest() and world.gather.refused == 1 and world.gather.allowed == 256

    asyncio.run(run())


@pytest.mark.parametrize("status", [401, 403, 404, 429, 503])
def test_what_is_no_input_s_fault_is_told_to_all_without_asking_again(status: int) -> None:
    async def run() -> None:
        world = World()
        seen = [world.ask(given)[0] for given in ("a", "b")]
        await world.turn()
        world.sent[0].refuse(status)
        assert [one.status for one in seen] == [status] * 2 and len(world.sent) == 1 and world.at_rest()

    asyncio.run(run())


@pytest.mark.parametrize("kind", ["timeout", "unavailable"])
def test_no_connection_and_no_time_are_everybody_s(kind: Any) -> None:
    async def run() -> None:
        world = World()
        seen = [world.ask(given)[0] for given in ("a", "b")]
        await world.turn()
        world.sent[0].fail(Fault(kind, "gone", origin="backend", code="x", retry=True, retry_after=2.0))
        one, two = (s.fault for s in seen)
        assert one is not None and two is not None and one is not two
        assert (repr(one), one.code, one.retry, one.retry_after) == (repr(two), two.code, two.retry, two.retry_after)
        assert len(world.sent) == 1 and world.at_rest()

    asyncio.run(run())


@pytest.mark.parametrize("body", [b"", b"{}", b'{"data":[{"index":0}]}', b'{"data":[{"index":5},{"index":1}]}'])
def test_a_connection_that_breaks_and_an_answer_that_is_none_are_asked_again_singly(body: bytes) -> None:
    async def run() -> None:
        world = World()
        seen = [world.ask(given)[0] for given in ("a", "b")]
        await world.turn()
        if body:
            world.sent[0].refuse(200, body)
        else:
            world.sent[0].fail(Fault("upstream", "cut", origin="backend", retry=True))
        assert len(world.sent) == 3
        world.sent[1].answer()
        world.sent[2].fail(Fault("upstream", "cut", origin="backend", retry=True))  # its second end is its end
        good(seen[0], 1, id="req-1")
        assert seen[1].fault is not None and len(world.sent) == 3 and world.at_rest()

    asyncio.run(run())


def test_a_server_with_a_small_bound_is_found_out_and_tried_again() -> None:
    async def run() -> None:
        world = World()
        bound = 3

        async def round_of(count: int) -> None:
            seen = [world.ask("a")[0] for _ in range(count)]
            while not all(one.over for one in seen):
                await world.turn()
                for sent in [sent for sent in world.sent if not sent.over]:
                    if len(sent.inputs) > bound:
                        sent.refuse(422)
                    else:
                        sent.answer()
            assert all(one.status == 200 for one in seen) and not any(not sent.over for sent in world.sent)

        await round_of(8)
        assert world.gather.allowed == 256  # once may be chance
        await round_of(2)
        await round_of(8)
        assert world.gather.allowed == 4
        await round_of(8)  # four, twice
        assert world.gather.allowed == 2
        await round_of(2)
        assert world.gather.allowed == 3
        bound = 1
        await round_of(2)
        await round_of(2)
        assert world.gather.resting == RESTING
        before = len(world.sent)
        await round_of(2)
        assert len(world.sent) == before + 2 and world.gather.resting == RESTING - 2

    asyncio.run(run())


def test_who_leaves_takes_nobody_along() -> None:
    async def run() -> None:
        world = World()
        (_, waiting), (seen, _) = world.ask("a"), world.ask("bb")
        waiting.cancel()
        waiting.cancel()
        await world.turn()
        assert [sent.inputs for sent in world.sent] == [["bb"]]
        two, three = world.ask("ccc"), world.ask("dddd")
        world.sent[0].answer()
        await world.turn()
        two[1].cancel()
        assert world.sent[1].asked == []
        world.sent[1].answer()
        good(seen, 2, id="req-2")
        good(three[0], 4, id="req-4")
        assert two[0].calls == [] and world.at_rest()

    asyncio.run(run())


def test_the_joint_call_ends_with_its_last_member_and_a_lone_one_with_its_only() -> None:
    async def run() -> None:
        world = World()
        flights = [world.ask("a")[1] for _ in range(3)]
        await world.turn()
        for flight in flights:
            assert world.sent[0].asked == []
            flight.cancel()
        assert world.sent[0].asked == ["cancel"] and world.at_rest()
        _, alone = world.ask("b")
        await world.turn()
        alone.cancel()
        assert world.sent[1].asked == ["cancel"] and world.at_rest()
        _, never = world.ask("c")
        never.cancel()
        await world.turn()
        assert len(world.sent) == 2 and world.at_rest()

    asyncio.run(run())


def test_who_leaves_between_a_refusal_and_its_second_chance() -> None:
    async def run() -> None:
        world = World()
        flights: list[Flight] = []

        class First(Seen):
            def on_fault(self, fault: Fault) -> None:
                super().on_fault(fault)
                flights[1].cancel()

        first, second = First(), Seen()
        flights += [world.link.send(world.call("a"), TARGET, None, one) for one in (first, second)]
        await world.turn()
        world.carrier.refusing = Fault("unavailable", "closed")
        world.sent[0].refuse(500)
        assert first.fault is not None and second.calls == [] and world.at_rest()

    asyncio.run(run())


def test_a_fault_on_the_way_out_comes_by_the_receiver() -> None:
    async def run() -> None:
        world = World()
        world.carrier.refusing = Fault("unavailable", "closed")
        seen = [world.ask("a")[0]]
        await world.turn()
        seen += [world.ask("b")[0], world.ask("c")[0]]
        await world.turn()
        assert all(one.fault is not None and one.fault.message == "closed" for one in seen) and world.at_rest()
        with pytest.raises(Fault, match="closed"):
            world.ask({"an": "object"})

    asyncio.run(run())


def test_a_bug_of_one_receiver_is_its_own(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Seen):
        def on_whole(self, status: int, headers: Mapping[bytes, bytes], body: bytes) -> None:
            raise RuntimeError("a bug")

    async def run() -> None:
        world = World()
        broken = Broken()
        world.link.send(world.call("a"), TARGET, None, broken)
        seen, _ = world.ask("b")
        await world.turn()
        world.sent[0].answer()
        good(seen, 1, id="req-2")
        assert broken.fault is not None and broken.fault.code == "internal_error" and "a bug" in caplog.text

    asyncio.run(run())


def test_a_guard_refuses_its_own_call_before_it_is_joined() -> None:
    async def run() -> None:
        world = World()
        world.link.guard = lambda doc: Fault("bad_request", "unsafe") if b"unsafe" in bytes(doc["input"]) else None
        seen, _ = world.ask("a")
        with pytest.raises(Fault, match="unsafe"):
            world.ask("unsafe")
        await world.turn()
        assert [sent.inputs for sent in world.sent] == [["a"]] and not seen.over

    asyncio.run(run())


def test_a_trace_goes_on_where_all_are_of_it() -> None:
    async def run() -> None:
        world = World()
        for dimensions, traces in ((1, (b"t1", b"t1")), (2, (b"t1", b"t2")), (3, (b"t1", None))):
            for trace in traces:
                world.ask("a", {b"traceparent": trace, b"cookie": b"c"} if trace else {}, dimensions=dimensions)
        await world.turn()
        assert [b"traceparent: t1\r\n" in sent.head for sent in world.sent] == [True, False, False]
        assert not any(b"cookie" in sent.head for sent in world.sent)

    asyncio.run(run())


def test_each_member_is_told_its_own_cost() -> None:
    async def run() -> None:
        world = World(priced=True)
        target = Target("gpu", "own", price=lambda usage: usage.input / 1000 if isinstance(usage, Usage) else None)
        seen = [Seen() for _ in range(2)]
        for one, text in zip(seen, ("a", "bbb"), strict=True):
            world.link.send(world.call(text), target, None, one)
        await world.turn()
        world.sent[0].answer()
        assert [one.headers[b"x-pointsman-cost"] for one in seen] == [b"0.001000000", b"0.003000000"]

    asyncio.run(run())


def test_an_endless_answer_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        monkeypatch.setattr("backends.gather.MAX_ANSWER", 100)
        monkeypatch.setattr("backends.gather.MAX_ERROR", 100)
        world = World()
        for status, again in ((200, 2), (503, 0)):
            before = len(world.sent)
            seen = [world.ask("a")[0], world.ask("b")[0]]
            await world.turn()
            sent = world.sent[before]
            sent.receiver.on_head(status, JSON)
            sent.receiver.on_data(b"x" * 101)
            assert sent.asked == ["cancel"] and len(world.sent) == before + 1 + again
            for one in world.sent[before + 1 :]:
                one.answer()
            assert all(one.over for one in seen) and world.at_rest()

    asyncio.run(run())


def test_what_a_link_would_send_is_told_without_gathering() -> None:
    world = World()
    made = prepare(world.link, world.call(["a", "b"]), TARGET)
    assert json.loads(made.requests[0].body) == {"model": "own", "input": ["a", "b"]} and world.sent == []
