"""Restarts two gateways behind a balancer, one after the other and again, while clients call through it: SIGTERM, wait for its end, a new
one on the same port, wait until the balancer has it. With --redis the gateways share their load instead, and Redis is killed in the middle
and comes back. Every answer is read strictly; one that is wrong, short or cut off counts."""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.overhead.peers import find_pointsman
from benchmarks.rolling.load import Load, Plan, Seen, percentile, split
from benchmarks.rolling.site import FILES, TOKEN_SECONDS, Site, until


@dataclass
class Told:
    """What was done meanwhile. Windows are monotonic seconds from SIGTERM until the balancer sends calls to the new gateway."""

    windows: list[tuple[float, float]] = field(default_factory=list)
    ends: list[float] = field(default_factory=list)  # seconds from SIGTERM to the end of the process
    redis: list[str] = field(default_factory=list)  # what the gateways said of each other, in order
    problem: str = ""


@dataclass
class Course:
    """How load and mishaps go together: the load lasts at least until `enough` has happened, and nothing more happens once it is `over`."""

    pause: float = 0.0  # seconds before each restart
    restarts: int = 0  # at least
    enough: threading.Event = field(default_factory=threading.Event)
    over: threading.Event = field(default_factory=threading.Event)


def roll(site: Site, course: Course, told: Told) -> None:
    """Restarts one gateway after the other until the load is over. Blocks."""
    while True:
        for gateway in site.gateways:
            if len(told.ends) >= course.restarts:
                course.enough.set()
            if course.over.wait(course.pause):
                return
            begun = time.monotonic()
            told.ends.append(gateway.end())
            gateway.start()
            site.balancer.joined(gateway)
            told.windows.append((begun, time.monotonic()))


def lose(site: Site, seconds: float, told: Told) -> None:
    """Kills Redis after a third of the load's least time, starts it again after two, and looks that the gateways know each other, decide
    alone, and know each other again. Who is not heard for 15 s is forgotten, not before: what they said is believed so long. Blocks."""
    redis = site.redis
    assert redis is not None

    def become(figure: str, value: float, what: str) -> None:
        begun = time.monotonic()
        until(lambda: all(g.figure(figure) == value for g in site.gateways), what)
        told.redis.append(f"{what} after {time.monotonic() - begun:.1f} s")

    become("pointsman_peers", 1, "joined")
    time.sleep(seconds / 3)
    begun = time.monotonic()
    redis.kill()
    told.redis.append("Redis killed")
    become("pointsman_redis_connected", 0, "each decides alone")
    time.sleep(max(0.0, seconds / 3 - (time.monotonic() - begun)))
    known = ", ".join(f"{g.figure('pointsman_peers'):g}" for g in site.gateways)
    told.redis.append(f"Redis back after {time.monotonic() - begun:.1f} s; others still known by then: {known}")
    redis.start()
    told.windows.append((begun, time.monotonic()))
    become("pointsman_redis_connected", 1, "connected again")
    become("pointsman_peers", 1, "joined again")


def measure(site: Site, plan: Plan, course: Course) -> tuple[Seen, Told]:
    """Runs the load, and beside it what it is to survive. Raises RuntimeError."""
    told = Told()

    def beside() -> None:
        try:
            if site.redis is None:
                roll(site, course, told)
            else:
                lose(site, plan.seconds, told)
        except (RuntimeError, OSError) as e:
            told.problem = str(e)
        finally:
            course.enough.set()

    thread = threading.Thread(target=beside, name="restarts")
    thread.start()
    try:
        seen = asyncio.run(Load(site.balancer.port, plan, lambda: not course.enough.is_set()).run())
    finally:
        course.over.set()
        thread.join()
    if told.problem:
        raise RuntimeError(told.problem)
    return seen, told


def table(balancer: str, plan: Plan, seen: Seen, told: Told) -> str:
    """The figures as Markdown."""
    during, outside = split(seen.calls, told.windows)
    what = "Redis away" if told.redis else "restarts"
    rows: list[tuple[str, str]] = [
        ("balancer", balancer),
        ("requests, failed", f"{len(seen.calls):,}, {seen.failed.total()}"),
        (f"streams of {plan.tokens * TOKEN_SECONDS:.1f} s, broken", f"{len(seen.streams):,}, {seen.broken.total()}"),
        ("restarts", str(len(told.ends))),
        ("SIGTERM to end, s: median, most", f"{percentile(told.ends, 0.5):.1f}, {max(told.ends, default=math.nan):.1f}"),
        (f"requests during {what}: p50, p99, most ms", _ms(during)),
        (f"requests outside {what}: p50, p99, most ms", _ms(outside)),
        ("sent late by at most ms", f"{1000 * seen.late:.0f}"),
    ]
    lines = ["| | |", "|---|---:|", *(f"| {name} | {value} |" for name, value in rows)]
    lines += [f"| {said} | |" for said in told.redis]
    lines += [
        f"| {kind}: {reason} | {count} |"
        for kind, all in (("failed", seen.failed), ("broken", seen.broken))
        for reason, count in all.items()
    ]
    return "\n".join(lines) + "\n"


def _ms(seconds: list[float]) -> str:
    return ", ".join(f"{1000 * percentile(seconds, p):.1f}" for p in (0.5, 0.99, 1.0)) + f" ({len(seconds):,})"


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(prog="python -m benchmarks.rolling", description=__doc__)
    p.add_argument("--requests", type=int, default=20_000, metavar="N", help="whole answers (default 20000)")
    p.add_argument("--streams", type=int, default=500, metavar="N", help="streams, spread over the same time (default 500)")
    p.add_argument("--rate", type=float, default=300.0, metavar="R", help="requests a second (default 300)")
    p.add_argument("--tokens", type=int, default=200, metavar="N", help=f"of a stream, {TOKEN_SECONDS:g} s each (default 200)")
    p.add_argument("--notice", type=float, default=3.0, metavar="S", help="the gateways' drain_notice_seconds (default 3)")
    p.add_argument("--pause", type=float, default=2.0, metavar="S", help="between two restarts (default 2)")
    p.add_argument("--restarts", type=int, default=6, metavar="N", help="at least; the load goes on until then (default 6)")
    p.add_argument("--workers", type=int, default=1, metavar="N", help="worker processes of each gateway (default 1)")
    p.add_argument("--balancer", choices=[*FILES], default="haproxy", help="with the file of deploy/balancers (default haproxy)")
    p.add_argument(
        "--redis", action="store_true", help="no restarts: the gateways share their load over Redis, which is killed and comes back"
    )
    p.add_argument("--json", metavar="FILE", help="where raw figures go")
    p.add_argument("--pointsman", metavar="CMD", help="how Pointsman is called (default: the one beside this Python, or on PATH)")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Runs it and prints the table. 0: nothing was lost; 1: something was, or it did not run; 2: not installed."""
    a = arguments().parse_args(argv)
    command = find_pointsman(a.pointsman)
    if command is None:
        sys.stderr.write("not installed: pip install pointsman, or say how it is called with --pointsman 'COMMAND'\n")
        return 2
    plan = Plan(a.requests, a.streams, a.rate, a.tokens)
    with tempfile.TemporaryDirectory(prefix="rolling-") as folder:
        try:
            with Site(command, Path(folder), a.balancer, a.notice, a.redis, a.workers) as site:
                seen, told = measure(site, plan, Course(a.pause, a.restarts))
        except FileNotFoundError as e:
            sys.stderr.write(f"not installed: {e}\n")
            return 2
        except (RuntimeError, OSError) as e:
            sys.stderr.write(f"failed: {e}\n")
            return 1
    sys.stdout.write(table(a.balancer, plan, seen, told))
    if a.json:
        Path(a.json).write_text(json.dumps({"plan": vars(plan), "seen": vars(seen), "told": vars(told)}))
    return 1 if seen.failed or seen.broken else 0
