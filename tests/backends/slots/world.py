"""A link, its engines and its store for a test, and calls made of letters."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

from backends.openai import Guard, OpenAILink
from backends.slots.link import SlotLink
from backends.slots.shared import Shared
from backends.slots.store import Store
from backends.slots.table import Learned, Speed
from backends.types import Call, Flight, Target, Timeouts
from backends.wire import parse
from tests.backends.seen import Seen
from tests.backends.slots.llama import Asked, Llama

T = TypeVar("T")
TARGET = Target("m", "m")
LONG = "s" * 1500


class Steady(Speed):
    """Computing takes 10 ms a token, whatever the clock says: this engine computes nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.prefill, self.ratio = 0.01, 1.0

    def learn(self, name: Learned, value: float) -> None:
        if name != "prefill":
            super().learn(name, value)


class World:
    """`links` are replicas of one model, `llamas` their engines."""

    def __init__(
        self, folder: Path, *, slots: int = 4, replicas: int = 1, guard: Guard | None = None, seconds: float = 600.0,
        kept: Path | None = None, private: bool = False, context: int = 2048,
    ) -> None:  # fmt: skip
        """`kept`: the folder in which KV is to last."""
        if kept is None:
            near, far = folder / "near", folder / "far"
            near.mkdir()
            far.mkdir()
            self.store = Store(near, far, 1 << 20, 1 << 20, b"model")
        else:
            self.store = Store.lasts(1 << 20, 1 << 20, str(kept), b"m" * 16, private)
            self.store.fits(context)
            near = self.store.near
        self.shared = Shared(self.store)
        self.shared.speed = Steady()
        self.llamas = [Llama(near, slots, f"m#{i}") for i in range(replicas)]
        limits = Timeouts(first_byte=seconds)
        bares = [OpenAILink(llama, kind="llamacpp", timeouts=limits) for llama in self.llamas]
        self.links = [SlotLink(bare, self.shared, slots, guard=guard) for bare in bares]
        self.rides: list[tuple[Flight, Seen]] = []

    @property
    def llama(self) -> Llama:
        return self.llamas[0]

    def send(
        self, shared: str = LONG, own: str = "?", *, replica: int = 0, stream: bool = True, private: bool = False, **more: Any
    ) -> Seen:
        doc = {"messages": [{"role": "system", "content": shared}, {"role": "user", "content": own}], "stream": stream, **more}
        call = Call(b"r", "chat", "m", stream, parse(json.dumps(doc, separators=(",", ":")).encode()), "", {}, 0.0, "", private)
        seen = Seen()
        self.rides.append((self.links[replica].send(call, TARGET, None, seen), seen))
        return seen

    def open(self, what: str = "completions") -> list[Asked]:
        """What the engines are asked now, of one kind: completions, save, restore."""
        return [asked for llama in self.llamas for asked in llama.open if asked.path.endswith(what)]

    async def calm(self) -> None:
        """Until nothing happens by itself any more: all that waits, waits for an engine or a timer."""
        loop = asyncio.get_running_loop()
        for _ in range(12):
            await asyncio.sleep(0)
            await loop.run_in_executor(self.store.thread, lambda: None)
            if self.store.lasting is not None:
                await loop.run_in_executor(self.store.lasting.thread, lambda: None)
            for asked in self.open("/models"):
                asked.llama.answer(asked)

    async def answer(self, *asked: Asked) -> None:
        """Answers these, or all that can be answered now."""
        for each in asked or [one for llama in self.llamas for one in llama.ready()]:
            if not each.over:
                each.llama.answer(each)
        await self.calm()

    async def finish(self) -> None:
        """Answers until nobody asks."""
        for _ in range(200):
            await self.calm()
            if not any(llama.open for llama in self.llamas):
                break
            await self.answer()
        self.check()

    def check(self) -> None:
        """Nothing is held by anybody."""
        assert not self.shared.groups
        assert all(entry.pins == 0 for entry in self.store.kept.values())
        for link in self.links:
            assert not link.tasks and not len(link.line) and not any(slot.busy for slot in link.table.slots), (link.table, link.tasks)
        assert self.store.bytes[True] == sum(e.size for e in self.store.kept.values() if e.near)
        assert self.store.bytes[False] == sum(e.size for e in self.store.kept.values() if not e.near)
        assert {f.name for f in self.store.near.iterdir()} == {e.name for e in self.store.kept.values() if e.near}


def played(folder: Path, play: Callable[[World], Awaitable[T]], **options: Any) -> T:
    """Runs a play in a loop of its own."""

    async def run() -> T:
        world = World(folder, **options)
        await world.calm()
        try:
            return await play(world)
        finally:
            for link in world.links:
                await link.stop()
            await asyncio.to_thread(world.store.close)

    return asyncio.run(run())
