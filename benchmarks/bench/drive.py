"""One stage: load of one profile is put on a server, and what the client saw is kept.

A closed loop (sync, concurrent) sends when an answer has come. An open loop (rate, trace, capture) sends when a request is due, whatever
the server does: a stall then shows in the latencies of all requests due during it, counted from when they were due (G. Tene's coordinated
omission). Where a limit on concurrency holds a request back, its `due` stays: what it waited is the server's doing and is in its
schedule-based latencies; it is not in the client's own lag.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import math
import resource
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any

import msgspec

from benchmarks.bench.client import Client
from benchmarks.bench.health import Pulse, quantile
from benchmarks.bench.words import Ask, Profile, Sample, Stage, Timed

AHEAD = 1000  # requests that are built before they are due
AHEAD_BYTES = 64 << 20  # ... and their bodies
JUDGED = 1000  # requests that `saturated` is shown at most, evenly chosen: it runs on the loop that stamps
SAMPLE = 1.0  # seconds
JUDGE = 5  # samples between two questions whether the server is saturated
MOST_WAITING = 100_000  # requests that wait for a free connection; more, and the server is saturated beyond doubt
MOST_FILES = 65536
PAUSE = 0.1  # seconds until a closed loop tries again where there was no answer at all: a server that is gone is not hammered
EARLIEST = 1e-9  # when a request is due that is due at once: a `due` of 0 says that there was no schedule
SPARE_FILES = 128  # descriptors that are not connections

Watch = Callable[[Sample], None]
Saturated = Callable[[Sequence[Timed], float], bool]


class Limits(msgspec.Struct, frozen=True):
    """When a stage ends: after so many requests, or when no request may be sent any more because `seconds` have passed (those under way
    are waited for); None: no limit. `warmup`: below 1 a share of the requests and of the seconds, whichever of them ends first; from 1 on a
    number of requests; these are sent as all others and marked. `max_concurrency`: requests under way at a time."""

    requests: int | None = None
    seconds: float | None = None
    warmup: float = 0.0
    max_concurrency: int | None = None

    def warm(self, number: int, at: float) -> bool:
        """Whether the request that is the `number`th from 0, sent or due at `at`, belongs to the warm-up. Pure."""
        if self.warmup >= 1:
            return number < self.warmup
        counts = self.requests is None or number < min(math.ceil(self.warmup * self.requests), self.requests - 1)
        early = self.seconds is None or at < self.warmup * self.seconds
        return counts and early and not (self.requests is None and self.seconds is None)


async def run_stage(
    client: Client,
    profile: Profile,
    asks: Iterator[Ask],
    limits: Limits,
    *,
    repeat: int,
    watch: Watch | None = None,
    stop: asyncio.Event | None = None,
    saturated: Saturated | None = None,
    memory: Callable[[], dict[str, int]] | None = None,
) -> Stage:
    """Runs one stage to its end; changes the client's `origin`. `watch` gets a sample each second. `stop` ends it at once, as does
    `saturated` (asked every five seconds, with 1,000 at most of the requests that have begun and the seconds since the start); what is
    under way then is cancelled, counted in `cut_off` and in no figure. `memory` tells the memory of watched processes.

    Failures of requests are results. Raises ValueError for a profile that is no single level (sweep) and for what `asks` raises.
    """
    running = _Running(client, asks, limits, watch, saturated, memory)
    work = running.open_loop() if profile.name in ("rate", "trace", "capture") else running.closed_loop(_connections(profile, limits))
    pulse = running.pulse
    with _uncollected():
        client.origin = time.monotonic()
        pulse.start()
        try:
            cut = await running.run(work, stop or asyncio.Event())
        finally:
            health = pulse.stop()
    if running.no_files:
        health.trouble = health.trouble or f"Requests waited because the client may open {running.room} connections; raise `ulimit -n`."
    timed = sorted(running.timed, key=lambda one: one.index)
    return Stage(profile, repeat, _seconds(timed), timed, health, running.samples, cut, running.cut_off, running.held)


def _connections(profile: Profile, limits: Limits) -> int:
    if profile.name not in ("sync", "concurrent"):
        raise ValueError(f"a stage has one level of load; {profile.name!r} has several: run it as stages of its own")
    number = 1 if profile.name == "sync" else int(profile.value)
    if number < 1:
        raise ValueError(f"concurrent={profile.value:g} sends nothing; write concurrent=1 or more")
    return min(number, limits.max_concurrency or number)


def _seconds(timed: Sequence[Timed]) -> float:
    """From the first counted request to the last answer. Pure."""
    counted = [one for one in timed if not one.warm]
    return max(one.done for one in counted) - min(one.sent or one.due or one.done for one in counted) if counted else 0.0


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """Nothing pauses a stage to look for cycles of garbage (which requests do not leave)."""
    was = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def _files() -> int:
    """How many connections this process may have: raises its soft limit of open files as far as it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
    return MOST_FILES if soft == resource.RLIM_INFINITY else max(1, soft - SPARE_FILES)


class _Feed:
    """Requests, built ahead: what building one costs shall not delay another that is due."""

    def __init__(self, asks: Iterator[Ask], most: int | None) -> None:
        self._asks = asks
        self._left = most if most is not None else -1
        self._ready: deque[Ask] = deque()
        self._bytes = 0
        while len(self._ready) < AHEAD and self._bytes < AHEAD_BYTES and self._build():
            pass

    def _build(self) -> bool:
        if self._left == 0:
            return False
        ask = next(self._asks, None)
        if ask is None:
            self._left = 0
            return False
        self._left -= 1
        self._ready.append(ask)
        self._bytes += len(ask.body)
        return True

    def take(self) -> Ask | None:
        """The next; None: there is none."""
        if not self._ready and not self._build():
            return None
        ask = self._ready.popleft()
        self._bytes -= len(ask.body)
        return ask

    def refill(self) -> None:
        """Builds another one, where there is room."""
        if len(self._ready) < AHEAD and self._bytes < AHEAD_BYTES:
            self._build()


class _Running:
    """The state of a stage; its event loop's own."""

    def __init__(
        self,
        client: Client,
        asks: Iterator[Ask],
        limits: Limits,
        watch: Watch | None,
        saturated: Saturated | None,
        memory: Callable[[], dict[str, int]] | None,
    ) -> None:
        self._client, self._limits = client, limits
        self._watch, self._saturated, self._memory = watch, saturated, memory
        self._feed = _Feed(asks, limits.requests)
        self.room = _files()
        self._cap = min(limits.max_concurrency or self.room, self.room)
        self._waiting: deque[tuple[Ask, Timed]] = deque()
        self._live: dict[int, Timed] = {}  # under way
        self._taken = self._places = self._failed = 0
        self._recent: list[float] = []
        self.pulse = Pulse()
        self.timed: list[Timed] = []
        self.samples: list[Sample] = []
        self.held = self.cut_off = 0
        self.no_files = False

    def _now(self) -> float:
        return time.monotonic() - self._client.origin

    async def run(self, work: Coroutine[Any, Any, None], stop: asyncio.Event) -> str:
        """Runs `work` to its end; why it was ended before, or nothing. Raises what `work`, `watch` or `saturated` raise."""
        loop = asyncio.get_running_loop()
        main, stopped, sampling = loop.create_task(work), loop.create_task(stop.wait()), loop.create_task(self._sampling())
        tasks: tuple[asyncio.Task[Any], ...] = (main, stopped, sampling)
        cut = ""
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if not main.done():
                cut = "interrupted" if stopped.done() else "saturated"
                self.cut_off = len(self._live)
        finally:
            for task in tasks:
                task.cancel()
            for ended in await asyncio.gather(*tasks, return_exceptions=True):
                _raise(ended)
        return cut

    async def closed_loop(self, connections: int) -> None:
        """So many connections, each of which sends its next request when it has an answer."""
        async with asyncio.TaskGroup() as group:
            for _ in range(connections):
                group.create_task(self._connection())

    async def _connection(self) -> None:
        while self._early(self._now()) and (ask := self._feed.take()) is not None:
            timed = self._begun(ask, 0.0)
            await self._one(ask, timed)
            self._feed.refill()
            if not timed.status:
                await asyncio.sleep(PAUSE)

    async def open_loop(self) -> None:
        """Each request when it is due."""
        async with asyncio.TaskGroup() as group:
            while (ask := self._feed.take()) is not None and self._early(ask.due):
                await self._until(ask.due)
                timed = self._begun(ask, max(ask.due, EARLIEST))
                if self._places < self._cap:
                    self._places += 1
                    group.create_task(self._place(ask, timed))
                else:
                    self.held += 1
                    self.no_files = self.no_files or self._cap == self.room
                    self._waiting.append((ask, timed))
                self._feed.refill()

    def _early(self, at: float) -> bool:
        """Whether a request may still begin."""
        return self._limits.seconds is None or at < self._limits.seconds

    async def _until(self, due: float) -> None:
        """Waits for `due`. Requests that are due together go out in order; what was read is seen to in between."""
        await asyncio.sleep(max(0.0, due - self._now()))
        if self._now() < due:
            await asyncio.sleep(0.001)  # uvloop counts whole milliseconds, and had rounded down

    async def _place(self, ask: Ask, timed: Timed) -> None:
        """One place of an open loop: a request, and then those that wait for a place."""
        self.pulse.sent(self._now() - timed.due)
        await self._one(ask, timed)
        while self._waiting:
            await self._one(*self._waiting.popleft())
        self._places -= 1

    def _begun(self, ask: Ask, due: float) -> Timed:
        timed = Timed(index=ask.index, due=due, warm=self._limits.warm(self._taken, due or self._now()))
        self._taken += 1
        return timed

    async def _one(self, ask: Ask, timed: Timed) -> None:
        """Sends one request; cancelled, it is as if it had not been."""
        key = id(timed)
        self._live[key] = timed
        try:
            await self._client.send(ask, timed)
        finally:
            del self._live[key]
        self.timed.append(timed)
        self._failed += not timed.good
        if timed.stamps:
            self._recent.append(timed.stamps[0] - timed.sent)

    async def _sampling(self) -> None:
        """A sample each second; returns when the server is saturated."""
        due = 0.0
        while True:
            due += SAMPLE
            await asyncio.sleep(max(0.0, due - self._now()))
            now = self._now()
            first = quantile(sorted(self._recent), 0.5) if self._recent else None
            self._recent.clear()
            memory = self._memory() if self._memory is not None else {}
            sample = Sample(now, len(self._live), memory, len(self.timed), self._failed, first)
            self.samples.append(sample)
            if self._watch is not None:
                self._watch(sample)
            if len(self._waiting) > MOST_WAITING or self._hopeless(now):
                return

    def _hopeless(self, now: float) -> bool:
        return self._saturated is not None and len(self.samples) % JUDGE == 0 and self._saturated(self._thinned(), now)

    def _thinned(self) -> list[Timed]:
        """All that have begun, or so many of them, evenly chosen."""
        begun = [*self.timed, *self._live.values(), *(timed for _, timed in self._waiting)]
        return begun[:: math.ceil(len(begun) / JUDGED) or 1]


def _raise(ended: object) -> None:
    """Raises what a task ended with, unless it was cancelled; of several reasons the first."""
    while isinstance(ended, BaseExceptionGroup):
        ended = ended.exceptions[0]
    if isinstance(ended, BaseException) and not isinstance(ended, asyncio.CancelledError):
        raise ended
