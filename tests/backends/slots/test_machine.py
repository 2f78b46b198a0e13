"""Whatever comes in whatever order, nothing is held at the end, and every request that was not given up has exactly one end."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.backends.slots.world import World, played

ACTS = st.lists(st.tuples(st.sampled_from("ssssshhtaaaaaafccbw"), st.integers(0, 1 << 30)), max_size=60)


async def act(world: World, what: str, number: int) -> None:
    """One thing that happens: a request, a head, an answer, a fault, a cancel, saving that breaks or works again, a moment."""
    rng = random.Random(number)
    under_way = [asked for llama in world.llamas for asked in llama.ready()]
    if what == "s":
        shared = rng.choice("abcd") * rng.choice([20, 700, 1500])
        world.send(shared, str(rng.randrange(100)), replica=rng.randrange(2), stream=rng.random() < 0.5)
    elif what == "c" and world.rides:
        flight, _ = rng.choice(world.rides)
        flight.cancel()
    elif what == "b":
        llama = rng.choice(world.llamas)
        llama.broken = not llama.broken
    elif what == "w":
        await world.calm()
    elif under_way:
        asked = rng.choice(under_way)
        if what == "h" and asked.doc.get("stream") and not asked.headed:
            asked.llama.head(asked)
        elif what == "t" and asked.doc.get("stream"):
            asked.llama.first(asked)
        elif what == "a":
            asked.llama.answer(asked)
        elif what == "f":
            asked.llama.fail(asked)


@settings(max_examples=150, deadline=None)
@given(ACTS)
def test_nothing_is_left_over(acts: list[tuple[str, int]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        played(Path(folder), played_out(acts), replicas=2, slots=3)


@settings(max_examples=50, deadline=None)
@given(ACTS, ACTS)
def test_nothing_is_left_over_where_it_lasts(acts: list[tuple[str, int]], more: list[tuple[str, int]]) -> None:
    """Two gateways, one after the other, with little memory."""
    with tempfile.TemporaryDirectory() as folder:
        for each in (acts, more):
            played(Path(folder), played_out(each, memory=50_000), replicas=2, slots=3, kept=Path(folder) / "kept")


def played_out(acts: list[tuple[str, int]], memory: int = 1 << 20) -> Callable[[World], Awaitable[None]]:
    """Does all that, then answers until nobody asks."""

    async def play(world: World) -> None:
        cancelled = set()
        world.store.budget[True] = memory
        for what, number in acts:
            before = [len(seen.calls) for _, seen in world.rides]
            await act(world, what, number)
            cancelled |= {i for i, (flight, seen) in enumerate(world.rides) if getattr(flight, "over", False) and not seen.over}
            for i, count in enumerate(before):
                assert i not in cancelled or len(world.rides[i][1].calls) == count, "a request that was given up heard something"
        await world.finish()
        for i, (_, seen) in enumerate(world.rides):
            assert seen.over or i in cancelled

    return play
