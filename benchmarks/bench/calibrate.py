"""The client measured by itself: what it sees of a server that does nothing."""

from __future__ import annotations

import math

import msgspec

from benchmarks.bench.client import Client
from benchmarks.bench.drive import Limits, run_stage
from benchmarks.bench.health import quantile
from benchmarks.bench.nullserver import MODEL, Script, running
from benchmarks.bench.words import Ask, Profile, Target


async def calibrate(
    *, rate: float | None = None, concurrency: int = 1, chunks: int = 64, requests: int = 300, prompt: str = "word"
) -> tuple[float, float]:
    """p50 and p99 in seconds, from sent to last content, of answers of `chunks` chunks by a null server in a child process on loopback, at
    `rate` requests a second, or by `concurrency` connections where it is None. What is measured of another server below these is noise.

    With several connections this is the client's capacity and not its share of a latency: the answers come at once, and each waits for the
    others' to be read; p50 / `concurrency` is then what one answer costs it. Raises RuntimeError where the server does not start or does
    not answer.
    """
    body = msgspec.json.encode({
        "model": MODEL, "stream": True, "stream_options": {"include_usage": True}, "messages": [{"role": "user", "content": prompt}],
    })  # fmt: skip
    asks = (Ask(at, body, 1, chunks, due=at / rate if rate else 0.0) for at in range(requests))
    profile = Profile("rate", rate, math.inf) if rate else Profile("concurrent", concurrency)
    async with running(Script(chunks=chunks)) as server:
        client = Client(Target(server.url, MODEL), timeout=60.0)
        try:
            stage = await run_stage(client, profile, asks, Limits(requests, None, 0.1, None), repeat=0)
        finally:
            await client.close()
    bad = [timed for timed in stage.timed if not timed.good]
    seen = sorted(timed.stamps[-1] - timed.sent for timed in stage.timed if timed.good and not timed.warm)
    if bad or not seen:
        raise RuntimeError(f"{len(bad)} of {requests} calls of the null server failed: {bad[0].error if bad else 'none was sent'}")
    return quantile(seen, 0.5), quantile(seen, 0.99)
