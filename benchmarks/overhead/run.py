"""The run: rounds over all gateways, interleaved, so that drift of the machine hits all alike."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from benchmarks.overhead import machine, meter, phases, stats
from benchmarks.overhead.peers import Peer, Site
from benchmarks.overhead.proc import port_in_use
from benchmarks.overhead.target import Broken, Mock, Target

Say = Callable[[str], None]
SCHEMA = 1
FAULTS = (Broken, OSError, ValueError, LookupError, http.client.HTTPException, subprocess.SubprocessError)


@dataclass(frozen=True)
class Plan:
    """What to measure and how long. Seconds; `peers` in the order asked for, None is the mock itself."""

    site: Site
    peers: dict[str, Peer | None]
    programs: dict[str, Path]
    cores: meter.Cores
    rounds: int = 3
    seconds: float = 3.0
    quiet: float = 0.0
    out: Path | None = None
    command: tuple[str, ...] = ()


def order(names: Sequence[str], turn: int) -> list[str]:
    """The names of round `turn` (from 0): direct first, the others moved on by one each round, so that none always follows the same."""
    rest = [n for n in names if n != "direct"]
    shift = turn % len(rest) if rest else 0
    return [n for n in names if n == "direct"] + rest[shift:] + rest[:shift]


def check_ports(site: Site) -> None:
    """Raises Broken when a port that the run needs is taken."""
    for port in (site.upstream_port, site.port):
        if port_in_use(port):
            raise Broken(f"port {port} is in use; choose others with --port")


def pin_self(cores: meter.Cores) -> None:
    """Holds this process to the load's core."""
    if cores.load is not None:
        os.sched_setaffinity(0, {cores.load})


def empty(plan: Plan) -> stats.Result:
    """A result before the first round."""
    notes = {n: {"version": p.version, "about": p.about} for n, p in plan.peers.items() if p is not None}
    return {
        "schema": SCHEMA,
        "when": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
        "command": list(plan.command),
        "repeats": plan.rounds,
        "secs": plan.seconds,
        "machine": machine.facts(plan.cores),
        "notes": notes,
        "rounds": {n: [] for n in plan.peers},
        "failed": {},
    }


def save(result: stats.Result, path: Path | None) -> None:
    """Writes the result, whole or not at all."""
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.write_text(json.dumps(result, indent=1))
    part.replace(path)


def line(turn: int, name: str, found: phases.Round) -> str:
    """One line of progress."""
    rates = [f"{w.name}={found['phases'][w.name]['rps']:.0f}" for w in phases.WHOLE]
    chunks = [f"{s.name}={found['phases'][s.name]['chunks_s']:.0f}" for s in phases.STREAMS]
    calm = sum(stats.clean(p) for p in found["phases"].values())
    return f"[{turn + 1}] {name}: {' '.join(rates + chunks)} load={found['load1']:.1f} undisturbed={calm}/{len(found['phases'])}"


def smoke(plan: Plan, say: Say) -> int:
    """Starts and checks every gateway, measures nothing; returns how many failed."""
    check_ports(plan.site)
    failed = 0
    with Mock(plan.programs["mock"], plan.site, plan.cores.load):
        for name, peer in plan.peers.items():
            target = Target(name, plan.site, peer, plan.cores.gateway)
            try:
                cold = target.start()
                check = target.check()
                started = "" if cold is None else f"cold start {cold:.2f} s, {target.memory():.0f} MiB, "
                say(f"{name}: {started}{check['events']} events, {check['bytes']} bytes, usage {'passed on' if check['usage'] else 'LOST'}")
            except FAULTS as e:
                failed += 1
                say(f"{name}: FAILED: {e}")
            finally:
                target.stop()
    return failed


def run(plan: Plan, say: Say) -> stats.Result:
    """Measures; what was measured so far is saved after every gateway, and a gateway that fails is not tried again."""
    check_ports(plan.site)
    result = empty(plan)
    with Mock(plan.programs["mock"], plan.site, plan.cores.load) as mock:
        bench = phases.Bench(plan.programs, plan.site.run, plan.cores, mock, plan.seconds)
        for turn in range(plan.rounds):
            for name in order(list(plan.peers), turn):
                if name not in result["failed"]:
                    _one(plan, bench, result, turn, name, say)
                    save(result, plan.out)
    return result


def _one(plan: Plan, bench: phases.Bench, result: stats.Result, turn: int, name: str, say: Say) -> None:
    waited = meter.wait_quiet(plan.cores, plan.quiet) if plan.quiet else 0.0
    target = Target(name, plan.site, plan.peers[name], plan.cores.gateway)
    doing = ["start"]
    try:
        found = phases.measure(bench, target, doing.append)
        found["waited_s"] = waited
        result["rounds"][name].append(found)
        say(line(turn, name, found))
    except FAULTS as e:  # one gateway's failure must not end the run
        result["failed"][name] = f"{doing[-1]}: {type(e).__name__}: {e}"
        say(f"{name}: FAILED at {doing[-1]}: {e}")
    finally:
        with suppress(ProcessLookupError):
            target.stop()
