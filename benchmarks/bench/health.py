"""Whether the client was up to it: how late it was, how much of a core it used."""

from __future__ import annotations

import asyncio
import math
import os
import time
from array import array
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from benchmarks.bench.words import SECONDS_OF_LAG, STOLEN, Health

TICK = 0.010  # seconds between two looks at the loop
STAT = Path("/proc/stat")
BUSY = 0.90  # of one core: a client that uses more is at its limit
MOST_TICKS = 1_000_000  # kept of one stage: almost three hours


def quantile(ordered: Sequence[float], share: float) -> float:
    """Of sorted values, by linear interpolation (Hyndman and Fan's type 7, numpy's default); 0 of none. Pure."""
    if not ordered:
        return 0.0
    at = (len(ordered) - 1) * share
    low = math.floor(at)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (at - low)


class Pulse:
    """Watches the loop that it is started on. `start`, then `sent` for every request of an open loop, then `stop`.

    Every 10 ms it looks how late it is called. A loop that is blocked for a second missed a hundred looks, and all of them count: else a
    starved client would hide that it is (the same omission as a closed loop's).
    """

    def __init__(self) -> None:
        self._ticks: array[float] = array("d")
        self._sends: array[float] = array("d")
        self._due = self._begun = self._worked = self._taken = 0.0
        self._handle: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begins; the loop must be running."""
        self._begun, self._worked, self._taken = time.monotonic(), time.process_time(), stolen()
        self._due = self._begun
        self._next()

    def _next(self) -> None:
        self._due += TICK
        delay = max(0.0, self._due - time.monotonic())
        self._handle = asyncio.get_running_loop().call_later(delay, self._look)

    def _look(self) -> None:
        now = time.monotonic()
        if len(self._ticks) < MOST_TICKS:
            self._ticks.append(max(0.0, now - self._due))  # uvloop's timers may be early by less than a millisecond
        while self._due + TICK <= now:
            self._due += TICK
            if len(self._ticks) < MOST_TICKS:
                self._ticks.append(now - self._due)
        self._next()

    def sent(self, late: float) -> None:
        """A request of an open loop was taken in hand so many seconds after it was due, and nothing but the client delayed it."""
        self._sends.append(late)

    def stop(self) -> Health:
        """Ends, and says how it went. `lag`: of requests where there were any of an open loop, else of the looks at the loop."""
        if self._handle is not None:
            self._handle.cancel()
        wall = time.monotonic() - self._begun
        late = sorted(self._sends or self._ticks)
        ticks = sorted(self._ticks)
        health = Health(
            lag_p50=quantile(late, 0.5),
            lag_p99=quantile(late, 0.99),
            lag_most=late[-1] if late else 0.0,
            cpu=(time.process_time() - self._worked) / wall if wall > 0 else 0.0,
            stolen=(stolen() - self._taken) / wall if wall > 0 else 0.0,
        )
        health.trouble = trouble(health, quantile(ticks, 0.99))
        return health


def trouble(health: Health, loop_p99: float) -> str:
    """A sentence where a stage measured the client rather than the server, else nothing. `loop_p99`: how late the event loop woke, in
    seconds: what was read then was stamped late, whatever was sent in time. Pure."""
    taken = f" The hypervisor kept {health.stolen:.1%} of a core from this machine meanwhile." if health.stolen >= STOLEN else ""
    cure = "use a lower rate, fewer connections, shorter prompts, or a faster or idler machine for the client"
    if health.lag_p99 > SECONDS_OF_LAG:
        return f"The client was {_ms(health.lag_p99)} late at p99 (limit {_ms(SECONDS_OF_LAG)}): it measured itself; {cure}.{taken}"
    if loop_p99 > SECONDS_OF_LAG:
        late = f"{_ms(loop_p99)} late at p99 (limit {_ms(SECONDS_OF_LAG)})"
        return f"The client's event loop woke {late}: its stamps are late; {cure}.{taken}"
    if health.cpu > BUSY:
        return f"The client used {health.cpu:.0%} of a core (limit {BUSY:.0%}): it may be what limits the rate; {cure}."
    return ""


def stolen() -> float:
    """Seconds since the machine's start that its processors, all together, were ready to run and the hypervisor ran others instead: the
    eighth figure of the first line of /proc/stat (proc(5)). 0 where that is not told. Blocks for some microseconds."""
    try:
        with STAT.open("rb") as file:
            return int(file.readline().split()[8]) / os.sysconf("SC_CLK_TCK")
    except (OSError, IndexError, ValueError):
        return 0.0


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.3g} ms"


def memory_of(pids: Mapping[str, int]) -> Callable[[], dict[str, int]]:
    """A function that tells the resident memory of processes, in bytes, by the names given; one that is gone is left out. It reads
    /proc/PID/statm (proc(5)); elsewhere than on Linux it tells nothing."""
    page = os.sysconf("SC_PAGE_SIZE")

    def look() -> dict[str, int]:
        found = {}
        for name, pid in pids.items():
            try:
                found[name] = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * page
            except (OSError, IndexError, ValueError):
                continue
        return found

    return look
