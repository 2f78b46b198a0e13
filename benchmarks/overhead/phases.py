"""The phases of a measurement, and the programs that make the load: wrk for whole answers, `load` (csrc/load.c) for streams."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

from benchmarks.overhead import meter, tools
from benchmarks.overhead.peers import PACED, UNPACED
from benchmarks.overhead.peers import WHOLE as MODEL
from benchmarks.overhead.target import PATH, STREAM_EVENTS, Broken, Target, body

Phase = dict[str, float]
CADENCE_MS = 20  # of PACED
WRK = tools.CSRC / "wrk_post.lua"


class Round(TypedDict):
    """One gateway, started once. Seconds, MiB; `phases` by name, see `run_wrk` and `run_load`."""

    cold_s: float | None
    check: dict[str, int]
    rss_idle: float
    rss_load: float
    rss_peak: float
    waited_s: float
    load1: float
    phases: dict[str, Phase]


@dataclass(frozen=True)
class Whole:
    """Whole answers: so many connections, each sending its next request as soon as it has its answer."""

    name: str
    connections: int


@dataclass(frozen=True)
class Streams:
    """So many streams at once, a finished one followed by the next. Seconds: before the window, and over which they open."""

    name: str
    streams: int
    model: str
    warmup: float = 0.5
    ramp: float = 0.0


WHOLE = (Whole("c1", 1), Whole("c16", 16), Whole("c64", 64), Whole("c256", 256))
PACED_STREAMS = tuple(Streams(f"sse{n}", n, PACED, ramp=1.3) for n in (100, 500, 1000))
UNPACED_STREAMS = Streams("sse0", 32, UNPACED)
STREAMS = (UNPACED_STREAMS, *PACED_STREAMS)
PHASES: tuple[Whole | Streams, ...] = (*WHOLE, *STREAMS)


@dataclass(frozen=True)
class Bench:
    """What the phases need: the built programs, the working folder, the cores, the mock's pid, the seconds of a phase."""

    programs: dict[str, Path]
    run: Path
    cores: meter.Cores
    mock: int
    seconds: float

    def pinned(self) -> list[str]:
        """The beginning of a command line that holds a program to the load's core."""
        return [] if self.cores.load is None else ["taskset", "-c", str(self.cores.load)]

    def meter(self, target: Target) -> meter.Meter:
        """A meter of that gateway."""
        return meter.Meter(self.cores, self.mock, target.root)


def _result(text: str) -> dict[str, Any]:
    """The JSON line in the output of a load generator."""
    for line in text.splitlines():
        if line.startswith("JSON "):
            found: dict[str, Any] = json.loads(line[5:])
            return found
    raise Broken(f"the load generator gave no result: {text[-300:]}")


def run_wrk(bench: Bench, target: Target, connections: int, seconds: float) -> Phase:
    """One phase of whole answers to one request; see `wrk`."""
    text = bench.run / "body.json"
    text.write_text(body(MODEL, False))
    return wrk(bench, target, connections, seconds, WRK, {"BODY_FILE": str(text)})


def wrk(bench: Bench, target: Target, connections: int, seconds: float, script: Path, settings: Mapping[str, str]) -> Phase:
    """One phase of a wrk script, told its `settings` in the environment. requests, rps, latencies p50 p90 p99 mean max (microseconds),
    errors, CPU (see `meter.difference`)."""
    env = {**os.environ, **settings, "HDRS": "\n".join(target.headers)}
    flags = ["-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--timeout", "20s", "-s", str(script)]
    command = [*bench.pinned(), tools.find("wrk") or "wrk", *flags, f"http://127.0.0.1:{target.port}{PATH}"]
    metered = bench.meter(target)
    metered.start()
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=seconds + 60)
    cpu = metered.stop()
    if done.returncode != 0:
        raise Broken(f"wrk: {done.stdout[-300:]} {done.stderr[-300:]}")
    phase: Phase = _result(done.stdout)
    phase["rps"] = phase["requests"] / (phase["us"] / 1e6)
    if phase["requests"]:
        phase["cpu_us_per_req"] = cpu["gw_cpu"] * 1e6 / phase["requests"]
    return phase | cpu


def run_load(bench: Bench, target: Target, model: str, stream: bool, *settings: str) -> Phase:
    """One phase of the load generator with `settings` (csrc/load.c); its counts and times (microseconds), rates a second, CPU."""
    text = bench.run / "body.json"
    text.write_text(body(model, stream))
    events = f"events={STREAM_EVENTS if stream else 0}"
    command = [*bench.pinned(), str(bench.programs["load"]), str(target.port), PATH, str(text), events, *settings, *target.headers]
    metered, cpu, seen = bench.meter(target), Phase(), ""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as load:
        assert load.stdout is not None
        for line in load.stdout:
            seen += line
            if line.startswith("START"):
                metered.start(load.pid)
            elif line.startswith("END") and "START" in seen:
                cpu = metered.stop(load.pid)
    if load.returncode != 0 or not cpu:
        raise Broken(f"load ended with {load.returncode}: {seen[-300:]}")
    phase: Phase = _result(seen)
    window = max(phase["window_s"], 1e-6)
    phase["chunks_s"] = phase["events"] / window
    phase["streams_s"] = phase["finished"] / window
    phase["lost"] = phase["failed"] + phase["stalled"]
    if phase["events"]:
        phase["cpu_us_per_chunk"] = cpu["gw_cpu"] * 1e6 / phase["events"]
    return phase | cpu


def run_phase(bench: Bench, target: Target, phase: Whole | Streams) -> Phase:
    """Any one phase, after the gateway has come to rest."""
    meter.drain(target.root)
    if isinstance(phase, Whole):
        return run_wrk(bench, target, phase.connections, bench.seconds)
    times = (f"warmup={phase.warmup}", f"measure={bench.seconds}", f"ramp={phase.ramp}")
    return run_load(bench, target, phase.model, True, f"streams={phase.streams}", *times)


def measure(bench: Bench, target: Target, note: Callable[[str], None]) -> Round:
    """Starts a gateway, checks it and runs all phases; the caller stops it. `note` is called with each phase's name before it."""
    cold = target.start()
    check = target.check()
    time.sleep(0.7)
    idle = target.memory()
    run_wrk(bench, target, 16, 1)  # warm-up, not counted
    phases = {}
    for phase in PHASES:
        note(phase.name)
        phases[phase.name] = run_phase(bench, target, phase)
    return {
        "cold_s": cold,
        "check": check,
        "rss_idle": idle,
        "rss_load": target.memory(),
        "rss_peak": target.memory("VmHWM"),
        "waited_s": 0.0,
        "load1": os.getloadavg()[0],
        "phases": phases,
    }
