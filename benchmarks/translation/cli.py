"""Measures, on loopback, the gateway's CPU for a chunk of a stream: relayed, and translated from Anthropic's and from Gemini's events."""

from __future__ import annotations

import argparse
import http.client
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.overhead import machine, meter, phases, tools
from benchmarks.overhead.peers import KEY, Peer, Site, find_pointsman
from benchmarks.overhead.run import check_ports, order, pin_self
from benchmarks.overhead.target import Broken, Mock, Target, body, check_stream

WIRES = ("relay", "anthropic", "gemini")
BAR = 3.0  # times the relay's CPU a chunk
CADENCE_MS = phases.CADENCE_MS
FAULTS = (Broken, OSError, ValueError, LookupError, http.client.HTTPException, subprocess.SubprocessError)
Rounds = dict[str, dict[str, list[phases.Phase]]]  # load, wire: one a round


def config(site: Site) -> str:
    """One gateway with every wire: a route `WIRE-MS` has chunks every so many ms. `mock` and `mock-64x0ms` are what the harness checks."""
    backends = {
        "relay": {"url": f"{site.upstream}/v1"},
        "anthropic": {"kind": "anthropic", "url": f"{site.upstream}/v1", "key": "sk-mock"},
        "gemini": {"kind": "gemini", "url": f"{site.upstream}/v1beta", "key": "mock"},
    }
    entries = [(f"{wire}-{ms}", wire, f"mock-64x{ms}ms") for wire in WIRES for ms in (0, CADENCE_MS)]
    entries += [(model, "relay", model) for model in ("mock", "mock-64x0ms")]
    # The models of a mock are unknown, so not all that the load asks for is sent to them.
    routes = {name: {"targets": [{"backend": wire, "model": model}], "on_unsupported": "drop"} for name, wire, model in entries}
    server = {"host": "127.0.0.1", "port": site.port, "admin": {"port": None}, "log": {"level": "warning"}}
    return json.dumps({"server": server, "keys": [{"name": "bench", "key": KEY}], "backends": backends, "routes": routes})


def peer(site: Site, command: tuple[str, ...]) -> Peer:
    """The gateway under test."""
    file = site.run / "pointsman.yaml"
    return Peer((*command, "serve", "--config", str(file)), files={file.name: config(site)}, headers=(f"Authorization: Bearer {KEY}",))


def measure(bench: phases.Bench, target: Target, rounds: int, streams: dict[int, int], tell: Callable[[str], None]) -> Rounds:
    """All wires under all loads, in turns. `streams`: how many at once, by the ms between two chunks of one."""
    found: Rounds = {}
    for turn in range(rounds):
        for wire in order(WIRES, turn):
            for ms, count in streams.items():
                load = f"{count} streams, a chunk every {ms} ms" if ms else f"{count} streams without pause"
                meter.drain(target.root)
                settings = (f"streams={count}", "warmup=0.5", f"measure={bench.seconds}", f"ramp={1.3 if ms else 0}")
                phase = phases.run_load(bench, target, f"{wire}-{ms}", True, *settings)
                if not phase["relay_n"] or not phase["gw_cpu"]:
                    raise Broken(f"{wire}, {load}: too little came through to be measured; give it more seconds or streams")
                phase["cpu_us"] = phase["gw_cpu"] * 1e6 / phase["relay_n"]  # a chunk of the mock; finish and usage are paid for by those
                found.setdefault(load, {}).setdefault(wire, []).append(phase)
                tell(f"[{turn + 1}] {wire}, {load}: {phase['cpu_us']:.1f} us a chunk")
    return found


def table(found: Rounds) -> str:
    """The figures as Markdown, medians over the rounds; the ratio is taken in each round."""
    head = ["wire", "chunks/s", "CPU µs/chunk", "× relay", "lowest", "highest", "gateway's core", "lost"]
    lines = []
    for load, wires in found.items():
        lines += [f"**{load}.**", "", "| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 1)]
        for wire, rounds in wires.items():
            times = [a["cpu_us"] / b["cpu_us"] for a, b in zip(rounds, wires["relay"], strict=True)]
            middle = {key: statistics.median(phase[key] for phase in rounds) for key in ("relay_n", "window_s", "cpu_us", "gw_util")}
            ratio = f"{statistics.median(times):.2f} | {min(times):.2f} | {max(times):.2f}"
            lost = sum(int(phase["lost"]) for phase in rounds)
            rate = middle["relay_n"] / middle["window_s"]
            lines.append(f"| {wire} | {rate:,.0f} | {middle['cpu_us']:.2f} | {ratio} | {middle['gw_util']:.2f} | {lost} |")
        worst = max(statistics.median([a["cpu_us"] / b["cpu_us"] for a, b in zip(r, wires["relay"], strict=True)]) for r in wires.values())
        lines += ["", f"The bar, {BAR:g} times the relay, is {'held' if worst <= BAR else 'missed'}.", ""]
    return "\n".join(lines)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(prog="python -m benchmarks.translation", description=__doc__)
    p.add_argument("--rounds", type=int, default=3, choices=range(1, 51), metavar="N", help="rounds (default 3)")
    p.add_argument("--secs", type=float, default=3.0, metavar="S", help="seconds of a load (default 3)")
    p.add_argument("--streams", type=int, default=32, choices=range(1, 1001), metavar="N", help="streams without pause (default 32)")
    p.add_argument("--paced", type=int, default=300, choices=range(2001), metavar="N", help="streams with one (default 300; 0: none)")
    p.add_argument("--port", type=int, default=18700, metavar="N", help="the mock's port; the gateway gets N+100")
    p.add_argument("--pointsman", metavar="CMD", help="how Pointsman is called (default: the one beside this Python, or on PATH)")
    p.add_argument("--cache", type=Path, default=tools.cache_dir(), metavar="DIR", help="where built programs are kept")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Runs it and prints the table. 0: measured; 1: something failed; 2: something is missing."""
    a = parser().parse_args(argv)
    command = find_pointsman(a.pointsman)
    if command is None:
        sys.stderr.write("not installed: pip install pointsman, or say how it is called with --pointsman 'COMMAND'\n")
        return 2
    try:
        programs = tools.build(a.cache)
    except tools.Missing as e:
        sys.stderr.write(f"{e}\n")
        return 2
    tools.raise_file_limit()
    cores = meter.Cores.choose(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as folder:
        site = Site(Path(folder), a.cache, a.port + 100, a.port, command)
        try:
            found = _run(site, command, programs, cores, a)
        except FAULTS as e:
            sys.stderr.write(f"failed: {e}\n")
            return 1
    sys.stdout.write("".join(f"- {name}: {value}\n" for name, value in machine.facts(cores).items()) + "\n" + table(found))
    return 0


def say(text: str) -> None:
    """One line of progress."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def _run(site: Site, command: tuple[str, ...], programs: dict[str, Path], cores: meter.Cores, a: argparse.Namespace) -> Rounds:
    check_ports(site)
    before = os.sched_getaffinity(0)
    pin_self(cores)
    target = Target("pointsman", site, peer(site, command), cores.gateway)
    try:
        with Mock(programs["mock"], site, cores.load) as mock:
            target.start()
            for wire in WIRES:  # a translation that loses chunks is cheap, too
                check_stream(*target.post(body(f"{wire}-0", True)))
            bench = phases.Bench(programs, site.run, cores, mock, a.secs)
            streams = {0: a.streams} | ({CADENCE_MS: a.paced} if a.paced else {})
            return measure(bench, target, a.rounds, streams, say)
    finally:
        target.stop()
        os.sched_setaffinity(0, before)
