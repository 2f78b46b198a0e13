"""Thousands of requests whose clients leave in every state, while upstreams and engines are killed and the topology changes by SIGHUP; then
all must be at rest: no call, slot, booking or place in a queue may be left, in the gateway or at an upstream.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import json
import random
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from benchmarks.accounting.clients import crowd
from benchmarks.accounting.world import POLICIES, World, get, running
from benchmarks.overhead import tools
from benchmarks.overhead.peers import find_pointsman

REST_SECONDS = 60.0
# Gauges of what is under way: each is zero when nothing is.
_GAUGE = re.compile(r"^(\w*(?:in_?flight|waiting|parked|held|holding|bookings|queued|queue_depth|under_way)\w*)(\{.*\})? (\S+)$", re.M)
_BUG = re.compile(r"Traceback|a bug")


def left_over(world: World) -> list[str]:
    """What is not at rest; empty when all is. OSError when the gateway does not answer."""
    found = [f"{name}{labels or ''} = {value}" for name, labels, value in _GAUGE.findall(world.metrics()) if float(value)]
    status = world.status()
    if status["inflight_total"]:
        found.append(f"/api/status: inflight_total = {status['inflight_total']}")
    found += [f"/api/status: {one['name']} has {one['inflight']} in flight" for one in status["replicas"] if one["inflight"]]
    for port in world.ports:
        counts = json.loads(get(port, "/counts")[1])
        if counts["begun"] != counts["over"]:
            found.append(f"the upstream on {port} works for {counts['begun'] - counts['over']} that are gone")
    return found


def gauges(world: World) -> list[str]:
    """The names of the gauges that are looked at."""
    return sorted({name for name, _, _ in _GAUGE.findall(world.metrics())})


def rest(world: World, seconds: float = REST_SECONDS) -> list[str]:
    """Waits until all is at rest, at most so long; what is left."""
    end = time.monotonic() + seconds
    found = ["the gateway does not answer"]
    while time.monotonic() < end:
        try:
            found = left_over(world)
        except (OSError, http.client.HTTPException) as e:
            found = [f"the gateway does not answer: {e}"]
        if not found:
            return []
        time.sleep(0.1)
    return found


def report(world: World, outcomes: Counter[str], seconds: float, left: Sequence[str], bugs: int) -> str:
    """The figures as Markdown."""
    lines = [
        f"{sum(outcomes.values()):,} requests in {seconds:.0f} s; " + ", ".join(f"{n} {what}" for what, n in world.done.items()) + ".",
        "",
    ]
    lines += ["| what came of them | requests |", "| --- | ---: |", *(f"| {what} | {n} |" for what, n in outcomes.most_common()), ""]
    lines.append(f"At rest: {'everything' if not left else 'NOT'}; looked at {', '.join(gauges(world))}, the admin API, the upstreams.")
    lines += [f"- {one}" for one in left]
    if bugs:
        lines.append(f"The gateway's log tells of {bugs} bugs.")
    return "\n".join(lines) + "\n"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(prog="python -m benchmarks.accounting", description=__doc__)
    p.add_argument("--requests", type=int, default=10_000, metavar="N", help="requests (default %(default)s)")
    p.add_argument("--at-once", type=int, default=48, metavar="N", help="clients at once (default %(default)s)")
    p.add_argument("--every", type=int, default=60, metavar="N", help="requests between two acts of chaos (default %(default)s)")
    p.add_argument("--workers", type=int, default=1, metavar="N", help="worker processes of the gateway (default 1)")
    p.add_argument("--seed", type=int, default=1, metavar="N", help="of all chance (default 1)")
    p.add_argument("--policies", default=",".join(POLICIES), metavar="A,B", help="of routes; the last is kv's (default %(default)s)")
    p.add_argument("--pointsman", metavar="CMD", help="how Pointsman is called (default: the one beside this Python, or on PATH)")
    p.add_argument("--keep", type=Path, metavar="DIR", help="where configurations and logs stay (default: nowhere)")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Runs it and prints what came of it. 0: all at rest; 1: something was left or broken, or a bug; 2: no gateway."""
    a = parser().parse_args(argv)
    command = find_pointsman(a.pointsman)
    if command is None:
        sys.stderr.write("not installed: pip install pointsman, or say how it is called with --pointsman 'COMMAND'\n")
        return 2
    tools.raise_file_limit()
    if a.keep is not None:
        a.keep.mkdir(parents=True, exist_ok=True)
        return _run(a, command, a.keep.resolve())
    with tempfile.TemporaryDirectory() as folder:
        return _run(a, command, Path(folder))


def _run(a: argparse.Namespace, command: Sequence[str], folder: Path) -> int:
    rng = random.Random(a.seed)
    world = World(command, folder, random.Random(rng.random()), a.workers, a.policies.split(","))
    acts = [world.kill_upstream, world.kill_engine, world.reload, world.reload]
    dice = random.Random(rng.random())
    try:
        with running(world):
            began = time.monotonic()
            outcomes = asyncio.run(crowd(world.port, a.requests, a.at_once, rng, a.every, lambda: dice.choice(acts)()))
            seconds = time.monotonic() - began
            left = rest(world)
            bugs = len(_BUG.findall(world.log.read_text(errors="replace")))
            sys.stdout.write(report(world, outcomes, seconds, left, bugs))
    except (OSError, RuntimeError, http.client.HTTPException) as e:
        sys.stderr.write(f"failed: {e}\n{world.tail()}\n")
        return 1
    return 1 if left or bugs or any(what.startswith("BROKEN") for what in outcomes) else 0
