"""The load: so many calls and streams, spread evenly over their time, whatever becomes of those before (an open loop)."""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter, deque
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from typing import Any

from benchmarks.rolling.wire import Broken, Client

MOST_AT_ONCE = 4096  # calls and streams under way; more would say that the machine is too slow for this rate


@dataclass
class Plan:
    """What is sent at least. `requests` whole answers of one token at `rate` a second; `streams` of `tokens` each, spread over that."""

    requests: int
    streams: int
    rate: float
    tokens: int

    @property
    def seconds(self) -> float:
        """How long it begins calls at least."""
        return self.requests / self.rate

    def dues(self) -> Iterator[tuple[float, bool]]:
        """When calls are due, in seconds from the beginning and in order, and whether each is a stream. Without end."""
        every = self.seconds / self.streams if self.streams else math.inf
        requests = streams = 0
        while True:
            request, stream = requests / self.rate, streams * every if streams else 0.0 if self.streams else math.inf
            if stream <= request:
                streams += 1
                yield stream, True
            else:
                requests += 1
                yield request, False


@dataclass
class Seen:
    """What came of it. Times are monotonic seconds: when a call was due, when its answer was whole."""

    calls: list[tuple[float, float]] = field(default_factory=list)
    streams: list[tuple[float, float]] = field(default_factory=list)
    failed: Counter[str] = field(default_factory=Counter)
    broken: Counter[str] = field(default_factory=Counter)
    late: float = 0.0  # seconds at most that a call was sent after it was due: beyond the machine, not the gateway


class Load:
    """Sends a plan to `port`, and goes on at its pace while `more()`. Owned by one event loop."""

    def __init__(self, port: int, plan: Plan, more: Callable[[], bool] = bool) -> None:
        self.port, self.plan, self.more, self.seen = port, plan, more, Seen()
        self._idle: deque[Client] = deque()
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> Seen:
        """Sends all of it and waits for the last answer. Raises RuntimeError where too much is under way."""
        begun, planned = time.monotonic(), self.plan.requests + self.plan.streams
        for number, (offset, stream) in enumerate(self.plan.dues()):
            if number >= planned and not self.more():
                break
            due = begun + offset
            wait = due - time.monotonic()
            if wait > 0:
                await asyncio.sleep(wait)
            self.seen.late = max(self.seen.late, time.monotonic() - due)
            if len(self._tasks) >= MOST_AT_ONCE:
                raise RuntimeError(f"{MOST_AT_ONCE} calls are under way: this machine is too slow for this rate, choose a lower --rate")
            self._start(self._one(due, stream))
        while self._tasks:
            await asyncio.wait(self._tasks)
        while self._idle:
            await self._idle.pop().close()
        return self.seen

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _one(self, due: float, stream: bool) -> None:
        client = self._idle.pop() if self._idle else Client(self.port)
        try:
            await client.call(self.plan.tokens if stream else 1, stream)
        except Broken as e:
            (self.seen.broken if stream else self.seen.failed)[" ".join(str(e).split())[:300]] += 1
        (self.seen.streams if stream else self.seen.calls).append((due, time.monotonic()))
        self._idle.append(client)


def percentile(values: list[float], p: float) -> float:
    """The smallest value that at least `p` of all do not exceed (nearest rank); NaN of none."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(p * len(ordered)) - 1)] if ordered else math.nan


def split(times: list[tuple[float, float]], windows: list[tuple[float, float]]) -> tuple[list[float], list[float]]:
    """Seconds of the calls that overlap a window, and of the others."""
    inside: list[float] = []
    outside: list[float] = []
    for begun, ended in times:
        touched = any(begun < last and ended > first for first, last in windows)
        (inside if touched else outside).append(ended - begun)
    return inside, outside
