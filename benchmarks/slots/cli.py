"""Measures, on one machine, how long the slowest of several agents waits for its first token when all begin with the same long prompt,
none of which is computed: over one cold prefill of the same run, with KV that moves between slots and without (stock llama.cpp), on one
engine and over two. Both gateways run for the whole time and take turns, so what disturbs one disturbs the other."""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from benchmarks.overhead.peers import find_pointsman
from benchmarks.slots import client, model, restart
from benchmarks.slots.serving import gateway

BAR = 1.7  # times one cold prefill: what the slowest may take


class Round(NamedTuple):
    """One turn of one gateway: seconds of a cold request alone, of the slowest and the median of the burst, tokens that the burst's
    requests found cached."""

    alone: float
    slowest: float
    middle: float
    cached: tuple[int, ...]


def turn(port: int, requests: int, shared: int, own: int, seed: int) -> Round:
    """A cold request alone, then the burst, on prefixes that are new."""
    system, users = client.prompt(shared, own, seed)
    alone = client.ask(port, system, users[0])
    system, users = client.prompt(shared, own, seed + 1)
    told = client.burst(port, system, (users * (requests // len(users) + 1))[:requests])
    times = sorted(each.ttft for each in told)
    return Round(alone.ttft, times[-1], statistics.median(times), tuple(sorted(each.cached for each in told)))


def measure(command: Sequence[str], replicas: int, arguments: argparse.Namespace) -> dict[str, list[Round]]:
    """All rounds of both gateways, taking turns."""
    rounds: dict[str, list[Round]] = {"moved": [], "stock": []}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        ports = {
            name: stack.enter_context(gateway(command, folder, name, replicas, arguments.slots, name == "moved"))
            for name in rounds
            if name in arguments.only
        }
        for number in range(arguments.rounds):
            for name in sorted(ports, reverse=number % 2 == 1):
                told = turn(ports[name], arguments.requests, arguments.shared, arguments.own, arguments.seed + 2 * number)
                rounds[name].append(told)
                write(f"  {replicas} replica(s), {name}: alone {told.alone:.2f} s, burst {told.middle:.2f} … {told.slowest:.2f} s")
    return rounds


def row(name: str, rounds: Sequence[Round]) -> str:
    """One line of the table: medians over the rounds; the ratio is taken in each round."""
    ratio = statistics.median(each.slowest / each.alone for each in rounds)
    alone = statistics.median(each.alone for each in rounds)
    middle = statistics.median(each.middle for each in rounds)
    slowest = statistics.median(each.slowest for each in rounds)
    cached = statistics.median(statistics.mean(each.cached) for each in rounds)
    return f"| {name} | {1e3 * alone:,.0f} | {1e3 * middle:,.0f} | {1e3 * slowest:,.0f} | **{ratio:.2f}** | {cached:,.0f} |"


def write(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point. 0: measured, and within the bar; 1: not within it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.slots", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=8, help="of one burst")
    parser.add_argument("--slots", type=int, default=8, help="of one engine")
    parser.add_argument("--shared", type=int, default=1000, help="tokens that all have in common")
    parser.add_argument("--own", type=int, default=20, help="tokens that each has alone")
    parser.add_argument("--replicas", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--only", nargs="+", choices=["moved", "stock"], default=["moved", "stock"])
    parser.add_argument("--restart", action="store_true", help="measure a prompt that outlives engine and gateway instead")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--pointsman", help="the command; default: the one beside this Python")
    arguments = parser.parse_args(argv)
    command = find_pointsman(arguments.pointsman)
    if command is None:
        parser.error("there is no pointsman beside this Python or on PATH; name it with --pointsman")
    if arguments.restart:
        return restart.main(command, arguments.rounds, arguments.slots, arguments.seed)
    results = {replicas: measure(command, replicas, arguments) for replicas in arguments.replicas}
    write(f"\n{os.cpu_count()} cores, {platform.machine()}; {model.path().name}; {arguments.requests} at once,")
    write(f"{arguments.shared} shared tokens and {arguments.own} own each, {arguments.slots} slots an engine;")
    write(f"medians of {arguments.rounds} rounds, ms to the first token.\n")
    write("| | alone, cold | burst, median | burst, slowest | slowest over alone | cached tokens, mean |\n|---|---|---|---|---|---|")
    within = True
    for replicas, rounds in results.items():
        for name, label in (("moved", "KV moved"), ("stock", "stock (`kv_transfer: false`)")):
            if rounds[name]:
                write(row(f"{replicas} replica{'s' * (replicas > 1)}, {label}", rounds[name]))
        if rounds["moved"]:
            within &= statistics.median(each.slowest / each.alone for each in rounds["moved"]) <= BAR
    return 0 if within else 1
