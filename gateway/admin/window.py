"""What happened in the last five minutes, by the second: bounded rings behind the status page's figures and sparklines.

Pure state, no clock: every method takes `now` (monotonic seconds). Times to first token are kept as counts in bins of
10 % width, so percentiles are good to 5 % and several workers' windows can be added.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import ceil
from typing import Any

import msgspec

from gateway.admin.state import History, RouteTraffic, Traffic

SECONDS = 300
STEP = 2
WINDOW = 60
ROUTES = 32  # each with its own ring; the rest is shown as "other"
RATES = 30  # points of a route's own sparkline

_LOWEST = 0.0001  # seconds: bin 0
_BINS = 180  # bin 180 begins at about 2,500 s
_EDGES = tuple(_LOWEST * 1.1**i for i in range(_BINS))  # each bin's upper edge, itself within; the last bin has none


@dataclass(slots=True)
class Second:
    """One second of one route. `ttft` counts by bin. Not a msgspec struct: setting fields of those takes twice as long."""

    at: int
    requests: int = 0
    errors: int = 0
    tokens: float = 0.0
    ttft: dict[int, int] = field(default_factory=dict)


class WindowDump(msgspec.Struct):
    """All rings as plain values, for another process on the same machine (the monotonic clock is common to them)."""

    routes: dict[str, list[Second]] = {}


class Ring:
    """The last `SECONDS` seconds of one route, made as they are needed."""

    def __init__(self) -> None:
        self.slots: list[Second | None] = [None] * SECONDS

    def at(self, second: int) -> Second:
        """The bucket of that second, emptied when it was an older one's. Mutates."""
        slot = self.slots[second % SECONDS]
        if slot is None or slot.at != second:
            slot = self.slots[second % SECONDS] = Second(second)
        return slot

    def span(self, first: int, last: int) -> list[Second]:
        """The buckets with anything in them from `first` to `last`, both included."""
        slots = (self.slots[second % SECONDS] for second in range(max(first, last - SECONDS + 1), last + 1))
        return [slot for slot in slots if slot is not None and first <= slot.at <= last]

    def spread(self, second: int, tokens: int, over: float) -> None:
        """Books tokens that were written over the `over` seconds before the end of `second`. Mutates."""
        # A long answer's tokens were written over many seconds; booking them all in the last one would draw a spike.
        count = min(SECONDS - 1, max(1, ceil(over)))
        for back in range(count):
            self.at(second - back).tokens += tokens / count

    def load(self, seconds: Iterable[Second]) -> None:
        """Adds another process's buckets. Mutates."""
        for theirs in seconds:
            mine = self.slots[theirs.at % SECONDS]
            if mine is not None and mine.at > theirs.at:
                continue
            mine = self.at(theirs.at)
            mine.requests += theirs.requests
            mine.errors += theirs.errors
            mine.tokens += theirs.tokens
            for chosen, count in theirs.ttft.items():
                mine.ttft[chosen] = mine.ttft.get(chosen, 0) + count


class Windows:
    """The rings of all routes."""

    def __init__(self, started: float) -> None:
        self._started = started
        self._routes: dict[str, Ring] = {}

    def add(self, now: float, route: str, failed: bool, ttft: float | None, tokens: int, over: float) -> None:
        """Counts a request that ended at `now` and wrote `tokens` over its last `over` seconds.

        Mutates; constant time but for an answer that took many seconds.
        """
        second = int(now)
        ring = self._routes.get(route) or self._ring(route)
        # Not `ring.at`: nearly always the bucket is there, and a call costs more than the look.
        slot = ring.slots[second % SECONDS]
        if slot is None or slot.at != second:
            slot = ring.at(second)
        slot.requests += 1
        if failed:
            slot.errors += 1
        if ttft is not None:
            bins, chosen = slot.ttft, bisect_left(_EDGES, ttft)
            bins[chosen] = bins[chosen] + 1 if chosen in bins else 1
        if tokens and over <= 1.0:
            slot.tokens += tokens
        elif tokens:
            ring.spread(second, tokens, over)

    def add_plain(self, now: float, route: str, ttfts: list[float], tokens: int) -> None:
        """Counts good requests that ended at `now` after less than a second each, one per entry of `ttfts`, sorted. Mutates."""
        slot = (self._routes.get(route) or self._ring(route)).at(int(now))
        slot.requests += len(ttfts)
        slot.tokens += tokens
        done, bins = 0, slot.ttft
        while done < len(ttfts):
            chosen = bisect_left(_EDGES, ttfts[done])
            upto = bisect_right(ttfts, _EDGES[chosen]) if chosen < len(_EDGES) else len(ttfts)
            bins[chosen] = bins.get(chosen, 0) + upto - done
            done = upto

    def _ring(self, route: str) -> Ring:
        ring = self._routes.get(route)
        if ring is not None:
            return ring
        name = route[:128] if len(self._routes) < ROUTES else "other"
        return self._routes.setdefault(name, Ring())

    def traffic(self, now: float, dropped: int = 0) -> Traffic:
        """The figures of the last minute and the history of the last five. Forgets idle routes. A millisecond or so."""
        # The present second is still filling up: a rate over it would always read too low.
        last = int(now) - 1
        self._forget(last)
        seen = max(1.0, min(float(WINDOW), last + 1 - self._started))
        routes = [_figures(name, ring, last, seen) for name, ring in self._routes.items()]
        routes.sort(key=lambda r: (-r.requests, r.route))
        # Summed only when somebody looks: counting each request twice would cost every request.
        total = Ring()
        for ring in self._routes.values():
            total.load(ring.span(last - SECONDS + 1, last))
        return Traffic(float(WINDOW), float(STEP), _figures("", total, last, seen), routes, _history(total, last), dropped)

    def _forget(self, last: int) -> None:
        idle = [name for name, ring in self._routes.items() if not ring.span(last - SECONDS + 1, last + 1)]
        for name in idle:
            del self._routes[name]

    def dump(self, now: float) -> dict[str, Any]:
        """Everything as plain JSON values, for `load` in the parent of several workers."""
        first, last = int(now) - SECONDS + 1, int(now)
        rings = {name: ring.span(first, last) for name, ring in self._routes.items()}
        built: dict[str, Any] = msgspec.to_builtins(WindowDump(rings), str_keys=True)
        return built

    def load(self, raw: Mapping[str, Any]) -> None:
        """Adds what `dump` gave in another process. Mutates. msgspec.ValidationError: another shape."""
        dump = msgspec.convert(raw, WindowDump, strict=False)
        for name, seconds in dump.routes.items():
            self._ring(name).load(seconds)


def merge_traffic(dumps: Iterable[Mapping[str, Any]], now: float, started: float, dropped: int = 0) -> Traffic:
    """The traffic of several workers from their `Recorder.window()`s. Pure. `now` and `started` are monotonic seconds."""
    windows = Windows(started)
    for raw in dumps:
        windows.load(raw)
    return windows.traffic(now, dropped)


def bin_of(seconds: float) -> int:
    """The bin of a time, 0.._BINS."""
    return bisect_left(_EDGES, seconds)


def _middle(chosen: int) -> float:
    return float(_LOWEST * 1.1 ** (chosen - 0.5)) if chosen else _LOWEST


def percentile(seconds: Iterable[Second], share: float) -> float | None:
    """The time that `share` (0..1) of the requests did not exceed, in seconds; None without any. Pure."""
    bins: dict[int, int] = {}
    for second in seconds:
        for chosen, count in second.ttft.items():
            bins[chosen] = bins.get(chosen, 0) + count
    wanted = ceil(sum(bins.values()) * share)
    for chosen in sorted(bins):
        wanted -= bins[chosen]
        if wanted <= 0:
            return _middle(chosen)
    return None


def _figures(name: str, ring: Ring, last: int, seen: float) -> RouteTraffic:
    span = ring.span(last - WINDOW + 1, last)
    requests = sum(s.requests for s in span)
    rates = [_sum(ring.span(end - STEP + 1, end), "requests") / STEP for end in _ends(last, RATES)]
    return RouteTraffic(
        name, requests, sum(s.errors for s in span), round(requests / seen, 3), round(sum(s.tokens for s in span) / seen, 3),
        _rounded(percentile(span, 0.5)), _rounded(percentile(span, 0.95)), rates,
    )  # fmt: skip


def _history(ring: Ring, last: int) -> History:
    points = [ring.span(end - STEP + 1, end) for end in _ends(last, SECONDS // STEP - 1)]
    return History(
        [_sum(p, "requests") / STEP for p in points],
        [_sum(p, "errors") / STEP for p in points],
        [round(_sum(p, "tokens") / STEP, 2) for p in points],
        [_rounded(percentile(p, 0.5)) for p in points],
        [_rounded(percentile(p, 0.95)) for p in points],
    )


def _ends(last: int, points: int) -> range:
    """The last second of each point, oldest first; aligned, so that a point's figure does not change as time goes on."""
    end = last - (last + 1) % STEP
    return range(end - (points - 1) * STEP, end + 1, STEP)


def _sum(seconds: Iterable[Second], name: str) -> float:
    return float(sum(getattr(second, name) for second in seconds))


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
