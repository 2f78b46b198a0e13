"""Requests made by hand, and a queue that makes them."""

from __future__ import annotations

import heapq
import random
from collections.abc import Sequence

from benchmarks.bench.words import Health, Profile, Stage, Timed


def answer(
    index: int = 0,
    sent: float = 1.0,
    stamps: Sequence[float] = (1.5, 2.0),
    tokens: int | None = 2,
    counts: Sequence[int] | None = None,
    due: float = 0.0,
    **more: object,
) -> Timed:
    """A good answer, whose last byte came with its last content."""
    made = Timed(index, due, sent=sent, stamps=list(stamps), status=200, finish="stop", completion_tokens=tokens)
    made.counts = [0] * len(stamps) if counts is None else list(counts)
    made.done = stamps[-1] if stamps else sent
    for name, value in more.items():
        assert name in Timed.__struct_fields__
        setattr(made, name, value)
    return made


def failure(index: int = 0, sent: float = 1.0, done: float = 1.2, error: str = "overloaded", status: int = 503) -> Timed:
    return Timed(index, 0.0, sent=sent, done=done, status=status, error=error)


def stage(timed: Sequence[Timed], profile: Profile | None = None, **more: object) -> Stage:
    made = Stage(profile or Profile("concurrent", value=4), 0, 0.0, list(timed), Health())
    for name, value in more.items():
        assert name in Stage.__struct_fields__
        setattr(made, name, value)
    return made


def queue(rng: random.Random, rate: float, servers: int, count: int, *, patience: float = 0.0) -> list[Timed]:
    """An open loop against M/M/c: Poisson arrivals, exponential times of service with a mean of one second, first come first served. A
    request that waits longer than `patience` (0: for ever) is refused then."""
    free, now, out = [0.0] * servers, 0.0, []
    for index in range(count):
        now += rng.expovariate(rate)
        begin = max(now, free[0])
        if patience and begin - now > patience:
            out.append(Timed(index, now, sent=now, done=now + patience, status=503, error="overloaded"))
            continue
        done = begin + rng.expovariate(1.0)
        heapq.heapreplace(free, done)
        out.append(answer(index, now, (min(done, begin + 0.05), done), due=now))
    return out


def closed(rng: random.Random, connections: int, servers: int, count: int) -> list[Timed]:
    """A closed loop against the same server."""
    free, clients, out = [0.0] * servers, [0.0] * connections, []
    for index in range(count):
        now = heapq.heappop(clients)
        begin = max(now, free[0])
        done = begin + rng.expovariate(1.0)
        heapq.heapreplace(free, done)
        heapq.heappush(clients, done)
        out.append(answer(index, now, (min(done, begin + 0.05), done)))
    return out
