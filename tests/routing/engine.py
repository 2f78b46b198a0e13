"""Scripted engines with known service times, in virtual time, behind a scheduler: what a dispatcher does, without a clock."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Hashable
from itertools import count
from typing import Any

from routing.kv import Scheduler, Want

TICK = 0.01


class Engine:
    """Computes prompts one after the other, `prefill` seconds a token, and writes answers side by side, `pace` seconds a token, in at most
    `slots` slots; what is sent beyond waits inside it, first come first served."""

    def __init__(self, prefill: float, pace: float, slots: int | None = None) -> None:
        self.prefill, self.pace, self.slots = prefill, pace, slots
        self.queue: deque[Want] = deque()
        self.taken = 0
        self.free_at = 0.0


class World:
    """Arrivals, engines and one scheduler under one virtual clock. `first` and `end` by key are what came of it."""

    def __init__(self, scheduler: Scheduler, engines: list[Engine]) -> None:
        self.s, self.engines = scheduler, engines
        self.now, self.worst = 0.0, 0  # worst: most requests that were ever on one engine
        self.came: dict[Hashable, float] = {}
        self.tokens: dict[Hashable, int] = {}
        self.first: dict[Hashable, float] = {}
        self.end: dict[Hashable, float] = {}
        self._events: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._order = count()
        self._ticking = False

    def at(self, t: float, act: Callable[..., None], *args: Any) -> None:
        heapq.heappush(self._events, (t, next(self._order), act, args))

    def arrive(self, t: float, want: Want) -> None:
        self.came[want.key], self.tokens[want.key] = t, want.tokens
        self.at(t, lambda: self._send(self.s.ask(want, self.now)))

    def run(self, until: float = float("inf")) -> None:
        while self._events and self._events[0][0] <= until:
            self.now, _, act, args = heapq.heappop(self._events)
            act(*args)

    def ttft(self, chosen: Callable[[Any], bool]) -> list[float]:
        return sorted(self.first[k] - t for k, t in self.came.items() if chosen(k) and k in self.first)

    def _send(self, placed: list[tuple[Want, int]]) -> None:
        for w, i in placed:
            self.engines[i].queue.append(w)
            self.worst = max(self.worst, self.s.load.inflight(i))
            self._serve(i)
        if self.s.held and not self._ticking:
            self._ticking = True
            self.at(self.now + TICK, self._tick)

    def _tick(self) -> None:
        self._ticking = False
        self._send(self.s.place(self.now))

    def _serve(self, i: int) -> None:
        e = self.engines[i]
        while e.queue and (e.slots is None or e.taken < e.slots):
            w = e.queue.popleft()
            e.taken += 1
            e.free_at = max(e.free_at, self.now) + e.prefill * w.tokens
            self.at(e.free_at, self._answered, w, i)

    def _answered(self, w: Want, i: int) -> None:
        self.first[w.key] = self.now
        self.s.answered(w.key, self.now)
        self.at(self.now + self.engines[i].pace * (w.output or 0), self._ended, w, i)
        self._send(self.s.place(self.now))

    def _ended(self, w: Want, i: int) -> None:
        self.end[w.key] = self.now
        self.engines[i].taken -= 1
        self.s.ended(w.key, self.now, 0, w.output)
        self._serve(i)
        self._send(self.s.place(self.now))
