"""Made-up results for the tests of what is computed and shown from them."""

from __future__ import annotations

from typing import Any

from benchmarks.overhead.phases import PHASES, Phase, Round, Whole
from benchmarks.overhead.stats import Result

CPU = {"wall": 3.0, "gw_cpu": 1.5, "gw_util": 0.5, "core0": 0.5, "core1": 0.5, "foreign0": 0.0, "foreign1": 0.0, "steal": 0.0}


def whole(rps: float, **changes: float) -> Phase:
    """A phase of whole answers: latencies 200 and 800 microseconds, half of the core."""
    base = {"requests": rps * 3, "us": 3e6, "p50": 200, "p90": 400, "p99": 800, "mean": 250.0, "max": 2000, "bad_status": 0, "sock_err": 0}
    return {**base, "rps": rps, "cpu_us_per_req": 1.5e6 / (rps * 3) if rps else 0.0, **CPU, **changes}


def streams(chunks: float, **changes: float) -> Phase:
    """A streaming phase: TTFT 1 and 4 ms, gap 20 and 25 ms, relay 0.5 and 2 ms, nothing lost."""
    base: dict[str, float] = {"events": chunks * 3, "window_s": 3.0, "finished": 30, "failed": 0, "stalled": 0, "lost": 0, "streams_s": 10}
    for name, low, high in (("ttft", 1000, 4000), ("gap", 20000, 25000), ("relay", 500, 2000)):
        base |= {f"{name}_p50": low, f"{name}_p99": high, f"{name}_max": high, f"{name}_n": 100}
    return {**base, "chunks_s": chunks, "cpu_us_per_chunk": 1.5e6 / (chunks * 3), **CPU, **changes}


def one_round(rps: float, chunks: float, cold: float | None = 0.25, **changes: dict[str, float]) -> Round:
    """One start of a gateway; `changes` by phase name."""
    phases: dict[str, Phase] = {}
    for p in PHASES:
        made = whole(rps) if isinstance(p, Whole) else streams(chunks)
        phases[p.name] = {**made, **changes.get(p.name, {})}
    return {"cold_s": cold, "check": {"events": 67, "usage": 1, "bytes": 16551}, "rss_idle": 30.0, "rss_load": 35.0, "rss_peak": 40.0,
            "waited_s": 0.0, "load1": 0.1, "phases": phases}  # fmt: skip


def result(rounds: dict[str, list[Round]], **changes: Any) -> Result:
    """A whole run."""
    made: dict[str, Any] = {
        "schema": 1,
        "when": "2026-01-02 03:04:05 UTC",
        "command": ["python", "-m", "benchmarks.overhead"],
        "repeats": max(len(r) for r in rounds.values()),
        "secs": 3.0,
        "machine": {"processor": "A processor", "kernel": "Linux 6"},
        "notes": {"nginx": {"version": "nginx/1.2.3", "about": "a reference"}},
        "rounds": rounds,
        "failed": {},
        **changes,
    }
    return made  # type: ignore[return-value]


def small() -> Result:
    """direct at 100,000 req/s, nginx at 50,000, pointsman at 40,000 and 44,000 (its second round at c64 disturbed)."""
    quick = {"p50": 50.0, "p99": 100.0}
    direct = one_round(100_000, 50_000, None, c1=quick, c16=quick)
    direct["rss_idle"] = direct["rss_peak"] = 0.0
    ours = [one_round(40_000, 25_000), one_round(44_000, 25_000, c64={"foreign0": 0.2})]
    return result({"direct": [direct], "nginx": [one_round(50_000, 50_000)], "pointsman": ours})
