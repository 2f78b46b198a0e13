"""The experiment of the issue, live: two files of one model behind a route, checkable questions, feedback; a restart and other workers in
the middle. Then the report must be what the clients saw.

`--same`: both arms have the first file, so that nothing may be found. `--shadow`: what mirroring every call to a second target does to the
user's own latency.
"""

from __future__ import annotations

import argparse
import http.client
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.accounting.world import free_ports, get, until
from benchmarks.experiments import shadow
from benchmarks.experiments.live import METRIC, NAME, Tally, ask, differences
from benchmarks.overhead import proc
from benchmarks.overhead.peers import find_pointsman

ARMS = ("first", "second")


def config(ports: Sequence[int], folder: Path, models: Sequence[str], workers: int, requests: int) -> dict[str, Any]:
    """Two engines, a route, an experiment whose primary metric is what clients say."""
    engine = {"engine": "llamacpp", "slots": 4, "context": 1024}
    return {
        "server": {
            "port": ports[0], "admin": {"port": ports[1]}, "workers": workers, "log": {"level": "warning"},
            "experiments": {"path": str(folder / "experiments.db")},
        },
        "backends": {arm: {**engine, "model": model} for arm, model in zip(ARMS, models, strict=True)},
        "routes": {"m": {"targets": [{"backend": ARMS[0]}]}},
        "experiments": {
            NAME: {
                "route": "m", "key": "user", "primary": f"feedback:{METRIC}", "feedback": {METRIC: {"kind": "boolean", "better": "higher"}},
                "secondary": ["latency", "output_tokens"], "effect": 0.05, "planned": max(200, requests // 10), "least": 50,
                "arms": {ARMS[0]: {}, ARMS[1]: {"targets": [{"backend": ARMS[1]}]}},
            }
        },
    }  # fmt: skip


def result(admin: int) -> dict[str, Any]:
    """The experiment as the admin API has it; empty while it has none."""
    status, body = get(admin, f"/api/experiments/{NAME}")
    found: dict[str, Any] = json.loads(body) if status == 200 else {}
    return found


def live(command: Sequence[str], a: argparse.Namespace) -> tuple[Tally, dict[str, Any], list[str]]:
    """Half of the requests on one process, half on `--workers` after a restart. The tally, the report, and what differs."""
    models = [a.models[0], a.models[0]] if a.same else a.models
    tally = Tally()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for turn, workers in enumerate((1, a.workers)):
            ports = free_ports(2)
            file, log = folder / "pointsman.json", folder / "log"
            file.write_text(json.dumps(config(ports, folder, models, workers, a.requests)))
            with log.open("ab") as out:
                process = proc.spawn([*command, "serve", "--config", str(file)], out)
            try:
                until(lambda port=ports[1]: _ready(port), f"both engines are loaded; {log.read_text(errors='replace')[-600:]}")  # type: ignore[misc]
                ask(ports[0], "m", a.requests // 2, a.users, a.threads, a.seed + turn, tally)
                total = sum(tally.asked.values())
                until(lambda port=ports[1], total=total: _folded(port, total), f"the report has all {total} requests")  # type: ignore[misc]
                told = result(ports[1])
            finally:
                proc.stop(process)
    return tally, told, differences(tally, told, ARMS)


def _ready(admin: int) -> bool:
    engines = json.loads(get(admin, "/api/status")[1])["engines"]
    return len(engines) == len(ARMS) and all(engine["state"] == "ready" for engine in engines)


def _folded(admin: int, total: int) -> bool:
    told = result(admin)
    return bool(told) and told["requests"] >= total and told["feedback"] >= total


def told_live(tally: Tally, told: dict[str, Any], differ: list[str], seconds: float) -> str:
    """The table."""
    lines = [f"{sum(tally.asked.values())} requests of {len(tally.backends)} users in {seconds:.0f} s; {len(tally.failed)} failed.", ""]
    lines += ["| arm | users | requests | right answers | between |", "| --- | ---: | ---: | ---: | --- |"]
    for arm in told["arms"]:
        metric = arm["metrics"].get(f"feedback:{METRIC}", {})
        between = "–" if metric.get("lo") is None else f"{metric['lo']:.3f} and {metric['hi']:.3f}"
        lines.append(f"| {arm['name']} | {arm['units']} | {arm['requests']} | {metric.get('value') or 0:.3f} | {between} |")
    lines += ["", *(f"{c['metric']}: {c['verdict']}. {c['words']}" for c in told["comparisons"]), "", told["headline"]]
    lines += [f"DIFFERS: {one}" for one in differ[:20]] + [f"FAILED: {one}" for one in tally.failed[:5]]
    return "\n".join(lines) + "\n"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="python -m benchmarks.experiments", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("models", nargs="*", metavar="GGUF", help="two files of one model: control's, and the other's")
    p.add_argument("--same", action="store_true", help="both arms with the first file: nothing may be found")
    p.add_argument("--shadow", action="store_true", help="instead: the user's latency with and without a shadow")
    p.add_argument("--requests", type=int, default=5000, metavar="N")
    p.add_argument("--users", type=int, default=500, metavar="N")
    p.add_argument("--workers", type=int, default=4, metavar="N", help="of the second half (default %(default)s)")
    p.add_argument("--threads", type=int, default=8, metavar="N", help="clients at once (default %(default)s)")
    p.add_argument("--seed", type=int, default=1, metavar="N")
    p.add_argument("--pointsman", metavar="CMD", help="how Pointsman is called (default: the one beside this Python, or on PATH)")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Runs it and prints the table. 0: all holds; 1: something differs, or it could not be run; 2: a wrong command line."""
    p = parser()
    a = p.parse_args(argv)
    command = find_pointsman(a.pointsman)
    if command is None:
        sys.stderr.write("not installed: pip install pointsman, or say how it is called with --pointsman 'COMMAND'\n")
        return 2
    if not a.shadow and len(a.models) < (1 if a.same else 2):
        p.error("give two GGUF files of one model, or one and --same")
    began = time.monotonic()
    try:
        if a.shadow:
            text, good = shadow.run(command, a.requests, a.seed)
            sys.stdout.write(text)
            return 0 if good else 1
        tally, told, differ = live(command, a)
    except (OSError, RuntimeError, http.client.HTTPException) as e:
        sys.stderr.write(f"failed: {e}\n")
        return 1
    sys.stdout.write(told_live(tally, told, differ, time.monotonic() - began))
    verdict = next(c["verdict"] for c in told["comparisons"] if c["role"] == "primary")
    expected = verdict in ("unsure", "same") if a.same else verdict == "worse"
    return 0 if expected and not differ and not tally.failed else 1
