"""One tenant sends at its own pace, alone and while another sends 50 times as much: how long it waits for its first token. And whether a
tenant that is alone gets all there is.

Upstreams compute one prompt after the other, `--prefill` seconds each. So the capacity is known: upstreams / prefill, in requests a second.
The quiet tenant sends `--share` of half of it (its fair part); the flood is 50 times that.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import json
import random
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.accounting.world import free_ports, get, until
from benchmarks.fairness.load import Load
from benchmarks.overhead import proc, tools
from benchmarks.overhead.peers import find_pointsman

PROMPT_BYTES, FACTOR = 8000, 50
BAR, WHOLE_BAR = 1.5, 0.9  # of p95 beside alone; of the capacity
QUIET, LOUD = "sk-quiet", "sk-loud"


def config(port: int, upstreams: Sequence[int], policy: str) -> str:
    """Two keys, one route over all upstreams."""
    server = {"port": port, "admin": {"port": None}, "log": {"level": "warning"}, "wait_seconds": 120}
    backend = {"urls": [f"http://127.0.0.1:{one}/v1" for one in upstreams]}
    keys = [{"name": "quiet", "key": QUIET}, {"name": "loud", "key": LOUD}]
    route = {"targets": [{"backend": "gpu", "model": "scripted"}], "policy": policy}
    return json.dumps({"server": server, "keys": keys, "backends": {"gpu": backend}, "routes": {"m": route}})


def phase(command: Sequence[str], a: argparse.Namespace, rates: dict[str, float], seed: int) -> dict[str, Load]:
    """The loads of one phase, by key, on a gateway and upstreams of its own. Blocks until all is over."""
    port, *upstreams = free_ports(1 + a.upstreams)
    times = ("--prefill", str(a.prefill / PROMPT_BYTES), "--token", str(a.token))
    loads = {key: Load(key, rate, PROMPT_BYTES, a.tokens) for key, rate in rates.items()}
    with tempfile.TemporaryDirectory() as folder:
        file, log = Path(folder) / "pointsman.json", Path(folder) / "log"
        file.write_text(config(port, upstreams, a.policy))
        with log.open("wb") as out:
            processes = [proc.spawn([sys.executable, "-m", "benchmarks.scripted", "--port", str(one), *times], out) for one in upstreams]
            processes.append(proc.spawn([*command, "serve", "--config", str(file)], out))
        try:
            for one in upstreams:
                until(lambda one=one: get(one, "/health")[0] == 200, f"the upstream on {one} listens")  # type: ignore[misc]
            until(lambda: get(port, "/v1/models", QUIET)[0] == 200, f"the gateway answers: {log.read_text(errors='replace')[-500:]}")
            asyncio.run(_all(list(loads.values()), port, a.seconds, seed))
        finally:
            for process in processes:
                proc.stop(process)
    return loads


async def _all(loads: Sequence[Load], port: int, seconds: float, seed: int) -> None:
    await asyncio.gather(*(load.run(port, seconds, random.Random(f"{seed} {load.key}")) for load in loads))


def line(name: str, load: Load) -> str:
    """One row of the table."""
    cells = [f"{len(load.ttft)}", *(f"{load.quantile(share):.3f}" for share in (0.5, 0.95, 0.99))]
    rest = ", ".join(f"{n} {what}" for what, n in load.outcomes.most_common())
    return f"| {name} | {' | '.join(cells)} | {rest} |"


def report(a: argparse.Namespace, alone: Load, beside: dict[str, Load], whole: Load) -> tuple[str, bool]:
    """The figures as Markdown, and whether the bars are held."""
    capacity = a.upstreams / a.prefill
    refused = beside[QUIET].outcomes.total() - beside[QUIET].outcomes["200"]
    ratio = float("inf") if refused else beside[QUIET].quantile(0.95) / alone.quantile(0.95)  # who gets no answer was not served in time
    served = whole.in_time / (a.seconds * capacity)
    bars = ((f"{BAR:g}", ratio <= BAR), (f"{WHOLE_BAR:.0%}", served >= WHOLE_BAR))
    kept = [f"bar {bar}: {'held' if good else 'missed'}" for bar, good in bars]
    lines = [
        f"{a.upstreams} upstreams, {a.prefill:g} s a prompt: {capacity:g} requests/s. Policy {a.policy}, {a.seconds:g} s a phase.", "",
        "| who | first tokens | TTFT p50 s | p95 s | p99 s | answers |", "| --- | ---: | ---: | ---: | ---: | --- |",
        line("quiet, alone", alone), line("quiet, beside the flood", beside[QUIET]), line("the flood", beside[LOUD]),
        line("one tenant alone, all it can send", whole), "",
        f"p95 beside the flood / alone: {ratio:.2f} ({kept[0]}).", f"Of the capacity one tenant alone gets {served:.0%} ({kept[1]}).",
    ]  # fmt: skip
    return "\n".join(lines) + "\n", ratio <= BAR and served >= WHOLE_BAR


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="python -m benchmarks.fairness", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--seconds", type=float, default=60.0, metavar="S", help="of each of the three phases (default %(default)g)")
    p.add_argument("--upstreams", type=int, default=4, metavar="N", help="replicas (default %(default)s)")
    p.add_argument("--prefill", type=float, default=0.4, metavar="S", help="seconds a prompt (default %(default)g)")
    p.add_argument("--token", type=float, default=0.005, metavar="S", help="seconds a token (default %(default)g)")
    p.add_argument("--tokens", type=int, default=16, metavar="N", help="tokens an answer (default %(default)s)")
    p.add_argument("--share", type=float, default=0.5, metavar="X", help="part of its half that the quiet one sends (default %(default)g)")
    p.add_argument("--policy", default="kv_aware", help="of the route (default %(default)s)")
    p.add_argument("--seed", type=int, default=1, metavar="N", help="of the arrivals (default 1)")
    p.add_argument("--pointsman", metavar="CMD", help="how Pointsman is called (default: the one beside this Python, or on PATH)")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Runs it and prints the table. 0: both bars are held; 1: one is missed, or it could not be run; 2: no gateway."""
    a = parser().parse_args(argv)
    command = find_pointsman(a.pointsman)
    if command is None:
        sys.stderr.write("not installed: pip install pointsman, or say how it is called with --pointsman 'COMMAND'\n")
        return 2
    tools.raise_file_limit()
    capacity = a.upstreams / a.prefill
    rate = a.share * capacity / 2
    try:
        alone = phase(command, a, {QUIET: rate}, a.seed)[QUIET]
        beside = phase(command, a, {QUIET: rate, LOUD: FACTOR * rate}, a.seed)
        whole = phase(command, a, {LOUD: 1.5 * capacity}, a.seed)[LOUD]
    except (OSError, RuntimeError, http.client.HTTPException) as e:
        sys.stderr.write(f"failed: {e}\n")
        return 1
    text, held = report(a, alone, beside, whole)
    sys.stdout.write(text)
    return 0 if held else 1
