"""Made-up runs, for the report, the table and the files: a queue with one server, seeded, no clock."""

from __future__ import annotations

import functools
import math
import random
from collections.abc import Callable, Sequence

from benchmarks.bench import levels
from benchmarks.bench.figures import figures
from benchmarks.bench.words import Health, Level, Profile, Provenance, Result, Sample, Slo, Spread, Stage, Timed

NASTY = "<script>alert(\"x\")</script><img src=x onerror=alert(1)> & 'quoted' \x1b[31m\u2028 ]]> --> {{7*7}}"
SLOS = [Slo("chat", ttft=0.5, tpot=0.03), Slo("quick", ttft=0.2, e2e=1.2, share=0.9)]


def provenance(**given: str) -> Provenance:
    """Of a run that nobody made."""
    return Provenance(
        command=["pointsman", "bench", "http://127.0.0.1:8484/v1", "--model", given.get("model", "qwen3-8b"), "--profile", "sweep"],
        version="1.2.3",
        commit="0123456789ab",
        python="CPython 3.12.3",
        machine={"processor": "Some Processor 9000", "cores": "8 on line, 8 for this process", "memory": "31.2 GiB", "kernel": "Linux 6.8"},
        server={"server": given.get("server", "uvicorn"), "version": "0.9.1", "models": "qwen3-8b"},
        started="2026-11-20T10:11:12+00:00",
        seed=1,
        salt="5f3a9c",
        options={"input": "256", "output": "128", "seconds": 30.0, "slos": []},
    )


def answer(rng: random.Random, index: int, due: float, sent: float, first: float, slowed: float, tokens: int = 24) -> Timed:
    """A streamed answer whose first content comes at `first`."""
    stamps = [first]
    for _ in range(tokens - 1):
        stamps.append(stamps[-1] + slowed * rng.gammavariate(9.0, 0.012 / 9.0))
    return Timed(
        index=index, due=due, sent=sent, head=first - 0.002, stamps=stamps, counts=list(range(1, tokens + 1)), done=stamps[-1] + 0.001,
        status=200, finish="length", prompt_tokens=256, completion_tokens=tokens, cached_tokens=32, asked_prompt=256, asked_output=tokens,
    )  # fmt: skip


def stage(profile: Profile, requests: int, seed: int = 1, fail: float = 0.0, lanes: int = 8, memory: bool = True) -> Stage:
    """`requests` through a server with `lanes` lanes, first come first served; some `fail` of them are refused."""
    rng = random.Random(f"{profile.name} {profile.value} {seed}")
    open_ = profile.name in ("rate", "trace", "capture")
    wide = lanes if open_ else min(lanes, int(profile.value) or 1)
    free = [0.001] * wide
    timed: list[Timed] = []
    at = 0.0
    for i in range(requests):
        at += rng.expovariate(profile.value) if open_ else 0.0
        lane = min(range(wide), key=free.__getitem__)
        begun = max(at, free[lane])
        sent = at + 0.0004 if open_ else begun
        due = at if open_ else 0.0
        if rng.random() < fail:
            timed.append(Timed(index=i, due=due, sent=sent, head=sent + 0.01, done=sent + 0.011, status=429, error="too many requests"))
            free[lane] = begun + 0.011
            continue
        busy = sum(f > begun for f in free) / lanes
        first = begun + rng.lognormvariate(math.log(0.06), 0.25) * (1 + busy)
        made = answer(rng, i, due, sent, first, 1 + busy)
        free[lane] = made.done
        made.warm = i < requests // 20
        timed.append(made)
    seconds = max(t.done for t in timed)
    used = {"server": 3_100_000_000, "gateway": 64_000_000} if memory else {}
    samples = [Sample(float(s), 1, {k: v + s * 40_000 for k, v in used.items()}) for s in range(int(seconds) + 1)]
    health = Health(lag_p50=0.0001, lag_p99=0.0009, lag_most=0.003, cpu=0.21, null_p50=0.0004, null_p99=0.0011)
    return Stage(profile, seed, seconds, timed, health, samples)


def level(stages: Sequence[Stage], slos: Sequence[Slo] = ()) -> Level:
    """Their level."""
    return levels.level([figures(s, slos) for s in stages])


def run(by_level: Sequence[Sequence[Stage]], slos: Sequence[Slo] = (), saturation: float | None = None, model: str = "qwen3-8b") -> Result:
    """A result of stages, by level."""
    return Result("http://127.0.0.1:8484/v1", model, provenance(model=model), [level(s, slos) for s in by_level], list(slos), saturation)


def sweep(requests: int = 400, repeats: int = 2) -> tuple[Result, list[Stage]]:
    """One at a time, thirty-two at once, and seven rates, the last of them beyond what the server can do."""
    profiles = [Profile("sync"), Profile("concurrent", 32.0), *(Profile("rate", r) for r in (2.0, 4.0, 6.0, 8.0, 9.0, 10.0, 12.0))]
    by_level = []
    for p in profiles:
        many = 60 if p.name == "sync" else requests
        by_level.append([stage(p, many, seed, fail=0.04 if p.value >= 10 and p.name == "rate" else 0.0) for seed in range(repeats)])
    found = run(by_level, SLOS, saturation=9.0)
    found.levels[-1].median.saturated = True
    return found, [s for repeats_ in by_level for s in repeats_]


def nasty() -> tuple[Result, list[Stage]]:
    """A server that writes markup wherever it can."""
    stages = [stage(Profile("rate", 3.0), 12, fail=0.3)]
    for t in stages[0].timed:
        if t.error:
            t.error = NASTY
    stages[0].samples = [Sample(float(i), 1, {NASTY: 5_000_000 + i}) for i in range(4)]
    stages[0].health.trouble = NASTY
    found = run([stages], [Slo(NASTY, ttft=0.2)], model=NASTY)
    found.target = NASTY
    found.provenance.command.append(NASTY)
    found.provenance.server[NASTY] = NASTY
    found.provenance.options[NASTY] = [NASTY, {"x": math.inf}]
    found.warnings.append(NASTY)
    return found, stages


def one_request() -> tuple[Result, list[Stage]]:
    """The least that can be measured."""
    stages = [stage(Profile("sync"), 1, memory=False)]
    return run([stages]), stages


def refused() -> tuple[Result, list[Stage]]:
    """A server that answers nothing."""
    stages = [stage(Profile("rate", 5.0), 30, fail=1.0), stage(Profile("concurrent", 4.0), 10, fail=1.0)]
    return run([[s] for s in stages], SLOS), stages


def untold() -> tuple[Result, list[Stage]]:
    """A server without usage, and without streams."""
    streamed, whole = stage(Profile("concurrent", 4.0), 300), stage(Profile("rate", 4.0, shape=math.inf), 40)
    for t in (*streamed.timed, *whole.timed):
        t.prompt_tokens = t.completion_tokens = t.cached_tokens = None
        t.counts = [0] * len(t.stamps)
    for t in whole.timed:
        t.stamps, t.counts = t.stamps[-1:], t.counts[-1:]
    return run([[streamed], [whole]], SLOS), [streamed, whole]


def nothing() -> tuple[Result, list[Stage]]:
    """A run that was interrupted before its first level."""
    return run([]), []


def unsent() -> tuple[Result, list[Stage]]:
    """A level of which no request was ever sent."""
    stages = [Stage(Profile("rate", 2.0), 0, 0.0, [], Health())]
    return run([stages], SLOS), stages


def starved() -> tuple[Result, list[Stage]]:
    """A client that could not keep up, a stage that was cut, many levels."""
    stages = [stage(Profile("rate", float(r)), 30, memory=False) for r in range(1, 21)]
    stages[3].health.trouble = "The client was late by 31 ms (p99): it measures itself. Use fewer requests a second."
    stages[4].cut, stages[4].cut_off, stages[5].held = "interrupted", 7, 12
    return run([[s] for s in stages]), stages


def broken() -> tuple[Result, list[Stage]]:
    """Numbers that no clock gives."""
    made, stages = one_request()
    for f in (made.levels[0].median, *made.levels[0].repeats):
        f.request_rate, f.output_rate, f.input_rate, f.concurrency = math.nan, math.inf, -1.0, 1e300
        f.cached_share, f.output_share = math.nan, -math.inf
        f.health = Health(math.nan, math.inf, -1.0, 7.0, math.nan, 1e-300, "")
        f.ttft = Spread(1, p50=0.0, p99=math.inf, low=math.nan, high=0.0, most=math.inf)
    made.saturation = math.nan
    stages[0].timed[0].stamps = [math.nan, 0.0, -5.0, math.inf]
    stages[0].timed[0].counts = [1, 2, 3, 4]
    stages[0].samples = [Sample(math.nan, 1, {"server": -5}), Sample(1.0, 1, {"server": 0})]
    return made, stages


@functools.cache
def small_sweep() -> tuple[Result, list[Stage]]:
    """One sweep for all who only look at it."""
    return sweep(120)


KINDS: dict[str, Callable[[], tuple[Result, list[Stage]]]] = {
    "sweep": small_sweep,
    "nasty": nasty,
    "one_request": one_request,
    "refused": refused,
    "untold": untold,
    "nothing": nothing,
    "unsent": unsent,
    "starved": starved,
    "broken": broken,
}
