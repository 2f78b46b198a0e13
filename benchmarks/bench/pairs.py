"""Two servers or more, measured request by request in turn, so that whatever disturbs one disturbs the others.

A pair is one request to each, one right after the other, in an order that is drawn anew for each pair; so many pairs at a time as
connections were asked for. All requests of a pair are of the same lengths. Their texts differ by a salt, so that no server warms another's
cache where they lead to the same engine, unless the same prompts are asked for.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence

import msgspec

from benchmarks.bench.client import Client
from benchmarks.bench.health import Pulse
from benchmarks.bench.options import Options
from benchmarks.bench.words import Ask, Health, Timed

Asks = Iterator[Ask]
AHEAD = 1000  # pairs that are built before the first is sent
AHEAD_BYTES = 64 << 20  # ... and their bodies
WARM = 10  # pairs, where a share of an unknown number is asked for


class Side(msgspec.Struct):
    """One server: its client, its requests, and what was seen of them, by pair."""

    client: Client
    asks: Asks
    timed: list[Timed] = []
    health: Health = msgspec.field(default_factory=Health)


class Bounds(msgspec.Struct, frozen=True):
    """When it ends: after so many counted pairs, or so many seconds; `warm` pairs before them are not counted."""

    concurrency: int
    pairs: int | None
    seconds: float | None
    warm: int


class _Feed:
    """Requests of all sides, pair by pair, built ahead: what building costs shall not delay what is being timed."""

    def __init__(self, sides: Sequence[Side], most: int | None) -> None:
        self._sides, self._left = sides, most
        self._ready: deque[list[Ask]] = deque()
        size = 0
        while len(self._ready) < AHEAD and size < AHEAD_BYTES and (pair := self._built()) is not None:
            self._ready.append(pair)
            size += sum(len(ask.body) for ask in pair)

    def _built(self) -> list[Ask] | None:
        if self._left == 0:
            return None
        pair = [ask for side in self._sides if (ask := next(side.asks, None)) is not None]
        if len(pair) < len(self._sides):
            self._left = 0
            return None
        self._left = None if self._left is None else self._left - 1
        return pair

    def take(self) -> list[Ask] | None:
        """The next pair; None: there is none."""
        return self._ready.popleft() if self._ready else self._built()


class _Run:
    """The state of one run: which pair is next, and which are done."""

    def __init__(self, sides: Sequence[Side], bounds: Bounds, rng: random.Random, stop: asyncio.Event) -> None:
        self._sides, self._bounds, self._rng, self._stop = sides, bounds, rng, stop
        self._feed = _Feed(sides, bounds.pairs + bounds.warm if bounds.pairs is not None else None)
        self._next = 0
        self._ends: float | None = None  # by the monotonic clock, once the first counted pair is begun
        self._done: dict[int, list[Timed]] = {}
        self.origin = time.monotonic()

    def _take(self) -> tuple[int, list[Ask]] | None:
        """The next pair and its number; None: no more."""
        bounds = self._bounds
        if self._stop.is_set():
            return None
        if self._next >= bounds.warm and bounds.seconds is not None:
            now = time.monotonic()
            self._ends = now + bounds.seconds if self._ends is None else self._ends
            if now >= self._ends:
                return None
        asks = self._feed.take()
        self._next += 1
        return (self._next - 1, asks) if asks is not None else None

    async def _work(self, tell: Callable[[int], None]) -> None:
        while (taken := self._take()) is not None:
            number, asks = taken
            timed = [Timed(index=number, due=0.0, warm=number < self._bounds.warm) for _ in asks]
            for which in self._rng.sample(range(len(asks)), len(asks)):
                timed[which].due = time.monotonic() - self.origin
                await self._sides[which].client.send(asks[which], timed[which])
            self._done[number] = timed
            tell(len(self._done))

    async def run(self, tell: Callable[[int], None]) -> None:
        """Works until the bounds are reached; with `stop` set, what is under way is dropped."""
        workers = [asyncio.ensure_future(self._work(tell)) for _ in range(self._bounds.concurrency)]
        stopped = asyncio.ensure_future(self._stop.wait())
        every = asyncio.gather(*workers)
        try:
            await asyncio.wait((every, stopped), return_when=asyncio.FIRST_COMPLETED)
            if every.done():
                every.result()
        finally:
            for task in (every, stopped):
                task.cancel()
            await asyncio.gather(every, stopped, *workers, return_exceptions=True)
        for number in sorted(self._done):
            for side, timed in zip(self._sides, self._done[number], strict=True):
                side.timed.append(timed)


async def measure(sides: Sequence[Side], bounds: Bounds, seed: int, stop: asyncio.Event, tell: Callable[[int], None]) -> None:
    """Fills the sides' `timed`, pair by pair. `tell`: called with how many pairs are done. Raises nothing for what servers do."""
    work = _Run(sides, bounds, random.Random(f"pairs {seed}"), stop)
    for side in sides:
        side.client.origin = work.origin
    pulse = Pulse()
    pulse.start()
    try:
        await work.run(tell)
    finally:
        health = pulse.stop()
    for side in sides:
        side.health = health


def warm(options: Options) -> int:
    """How many pairs are not counted: so many, or a share of the requests, or 10 where a share of seconds is meant."""
    if options.warmup >= 1 or not options.warmup:
        return int(options.warmup)
    return max(1, round(options.requests * options.warmup)) if options.requests is not None else WARM
