"""Gathered calls for embeddings in any order of events: everybody gets what they would have got alone."""

from __future__ import annotations

import asyncio
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from backends import wire
from backends.embeddings import BatchLimits
from backends.gather import RESTING
from backends.types import Call, Fault, Flight
from tests.backends.gathering import JSON, TARGET, Sent, World, engine, good
from tests.backends.seen import Seen

STEP = st.one_of(
    st.tuples(st.just("ask"), st.sampled_from(["a", "bb", "bad", ["ccc", "d"], ["e", "bad!"], [1, 2, 3], [[4], [5, 6]], ""])),
    st.tuples(st.sampled_from(["turn", "answer", "pieces", "break", "cancel"]), st.integers(0, 5)),
)


class Story:
    """A world in which things happen in any order."""

    def __init__(self) -> None:
        self.world = World(BatchLimits(window=10.0, items=5, bytes=64))
        self.asked: list[tuple[Call, Seen, Flight]] = []
        self.left: set[int] = set()
        self.broken = False

    @property
    def open(self) -> list[Sent]:
        return [sent for sent in self.world.sent if not sent.over]

    async def step(self, what: str, value: Any) -> None:
        if what == "ask":
            call, seen = self.world.call(value), Seen()
            self.asked.append((call, seen, self.world.link.send(call, TARGET, None, seen)))
        elif what == "turn":
            await self.world.turn()
        elif what == "cancel":
            if self.asked:
                self.left.add(value % len(self.asked))
                self.asked[value % len(self.asked)][2].cancel()
        elif self.open:
            sent = self.open[value % len(self.open)]
            if what == "break":
                self.broken = True
                sent.fail(Fault("upstream", "cut", origin="backend"))
            else:
                sent.answer(parts=what == "pieces")

    async def end(self) -> None:
        while not self.world.at_rest() or self.open:
            await self.world.turn()
            for sent in self.open:
                sent.answer()

    def check(self) -> None:
        assert all(len(sent.inputs) <= 5 and {*sent.asked} <= {"cancel"} for sent in self.world.sent)
        for index, (call, seen, _) in enumerate(self.asked):
            assert seen.over or index in self.left
            assert self.broken or seen.fault is None
            if seen.over and seen.fault is None:
                alone = Sent(b"x-request-id: %b\r\n\r\n" % call.id, wire.encode({**call.doc, "model": wire.raw("own")}), Seen())
                assert (seen.status, seen.body) == engine(alone)


@given(st.lists(STEP, max_size=40))
def test_whatever_happens_everybody_gets_what_they_would_have_got_alone(steps: list[tuple[str, Any]]) -> None:
    async def run() -> None:
        story = Story()
        for what, value in steps:
            await story.step(what, value)
        await story.end()
        story.check()

    asyncio.run(run())


def test_one_by_itself_in_pieces_and_left_in_between() -> None:
    async def run() -> None:
        world = World()
        seen, _ = world.ask("a")
        await world.turn()
        world.sent[0].answer(parts=True)
        assert seen.calls == ["head", "data", "data", "end"]
        good(seen, 1, id="req-1")
        left, flight = world.ask("b")
        flight.pause()  # before it is sent
        await world.turn()
        sent = world.sent[1]
        assert sent.asked == ["pause"]
        sent.receiver.on_head(200, JSON)
        flight.cancel()
        for tell in (lambda: sent.receiver.on_data(b"{"), sent.receiver.on_end, lambda: sent.receiver.on_fault(Fault("timeout", "late"))):
            tell()  # a carrier says no more after `cancel`; here it makes no difference
        sent.receiver.on_head(200, JSON)
        sent.receiver.on_whole(200, JSON, b"{}")
        assert left.calls == ["head"] and world.at_rest()

    asyncio.run(run())


def test_a_second_chance_in_pieces_counts_as_one() -> None:
    async def run() -> None:
        world = World()
        for _ in range(2):
            before = len(world.sent)
            world.ask("a")
            world.ask("b")
            await world.turn()
            world.sent[before].refuse(500)
            for sent in world.sent[before + 1 :]:
                sent.answer(parts=True)
        assert world.gather.allowed == 2 and world.gather.resting == RESTING and world.at_rest()
        assert "1 at once" not in repr(world.gather) and "2 at once" in repr(world.gather)

    asyncio.run(run())


def test_what_comes_late_to_a_joint_call_is_nothing() -> None:
    async def run() -> None:
        world = World()
        flights = [world.ask("a")[1], world.ask("b")[1]]
        await world.turn()
        sent = world.sent[0]
        for flight in flights:
            flight.cancel()
        sent.receiver.on_whole(200, JSON, b"{}")
        sent.receiver.on_fault(Fault("timeout", "late"))
        assert len(world.sent) == 1 and world.at_rest()

    asyncio.run(run())
