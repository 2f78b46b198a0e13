"""Load for tests: requests without end, and a stage of them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks.bench.client import Client
from benchmarks.bench.drive import Limits, run_stage
from benchmarks.bench.nullserver import Running
from benchmarks.bench.words import Ask, Profile, Stage, Target, Timed

RATE, SYNC = Profile("rate", 100.0), Profile("sync")
BODY = json.dumps({"model": "null", "stream": True, "messages": [{"role": "user", "content": "x"}]}).encode()


def asks(count: int | None = None, gap: float = 0.0, built: list[int] | None = None) -> Iterator[Ask]:
    index = 0
    while count is None or index < count:
        if built is not None:
            built.append(index)
        yield Ask(index, BODY, 1, 1, due=index * gap)
        index += 1


async def staged(server: Running, profile: Profile, requests: Iterator[Ask], limits: Limits, **more: Any) -> Stage:
    made = Client(Target(server.url, "null"), timeout=60)
    try:
        return await run_stage(made, profile, requests, limits, repeat=2, **more)
    finally:
        await made.close()


def overlap(timed: Sequence[Timed]) -> int:
    """The most requests that were under way at a time."""
    edges = sorted([(one.sent, 1) for one in timed] + [(one.done, -1) for one in timed], key=lambda edge: (edge[0], edge[1]))
    most = now = 0
    for _, step in edges:
        now += step
        most = max(most, now)
    return most
