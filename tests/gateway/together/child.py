"""A gateway that only schedules and talks, as a process: `python -m tests.gateway.together.child FD SLOTS SLOT HOST REDIS`.

Each line on its input is a call as a JSON array, each line of its output the answer. It ticks every 10 ms meanwhile, as a gateway does.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
from typing import Any

from gateway.together.link import Share, Together, joined
from gateway.together.wire import name64
from routing.kv import Scheduler, Want
from routing.kv_peers import Foreign


class Child:
    def __init__(self, together: Together) -> None:
        self.together = together
        self.s = Scheduler(4, 64, random.Random(), approximate=4096)
        shared = [f"engine {i}".encode() for i in range(4)]
        numbers = {name64(name): i for i, name in enumerate(shared)}
        together.attach("m", self.s, lambda i: shared[i], numbers.get)
        self.clock = asyncio.get_running_loop().time
        self.placed: dict[Any, int] = {}

    def name(self) -> int:
        return self.together.name

    def ask(self, key: str, tokens: int, first: int, blocks: int) -> None:
        """A request whose chain is `blocks` numbers from `first` on."""
        now = self.clock()
        self.note(self.s.ask(Want(key, tokens, range(first, first + blocks), now), now))

    def note(self, placed: list[tuple[Want, int]]) -> None:
        self.placed.update((want.key, i) for want, i in placed)

    def where(self) -> dict[Any, int]:
        return self.placed

    def answer(self, key: str) -> None:
        self.s.answered(key, self.clock(), None)

    def end(self, key: str) -> None:
        self.s.ended(key, self.clock())

    def foreign(self) -> list[list[Any]]:
        return sorted([b.key.gateway, b.replica, b.answered] for b in self.s.load.bookings.values() if isinstance(b.key, Foreign))

    def hits(self, first: int, blocks: int) -> list[int]:
        """How many leading blocks of that chain each replica is thought to have."""
        return self.s.caches.match(range(first, first + blocks))[0]

    def peers(self) -> int:
        return self.together.peers

    def check(self) -> dict[str, int]:
        self.s.check()
        counts = self.together.counts
        return {"bookings": len(self.s.load.bookings), "bad": counts.bad, "missed": counts.missed}

    async def ticks(self) -> None:
        while True:
            now = self.clock()
            self.together.tick(now)
            self.note(self.s.place(now))
            await asyncio.sleep(0.01)


async def main() -> None:
    fd, slots, slot, host = map(int, sys.argv[1:5])
    together = joined(sys.argv[5] or None, Share(fd, slots, slot, host) if slots else None)
    assert together is not None
    child = Child(together)
    ticking = asyncio.create_task(child.ticks())
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        what, *args = json.loads(line)
        sys.stdout.write(json.dumps(getattr(child, what)(*args)) + "\n")
        sys.stdout.flush()
    ticking.cancel()
    await together.close()


if __name__ == "__main__":
    asyncio.run(main())
