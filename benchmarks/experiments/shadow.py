"""What mirroring every call does to the user's own latency: two gateways over the same scripted upstream take turns, one with a shadow."""

from __future__ import annotations

import http.client
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.accounting.world import free_ports, get, until
from benchmarks.overhead import proc

BAR = 1.03  # of the median, with a shadow over without
TIMES = ("--prefill", "0.0001", "--token", "0.002")
BLOCK = 50  # calls between two turns


def config(ports: Sequence[int], upstreams: Sequence[int], folder: Path, shadowed: bool) -> dict[str, Any]:
    """One route to the first upstream; with `shadowed` all calls go to the second one too."""
    experiment: dict[str, Any] = {"route": "m", "key": "user", "arms": {"control": {}}}
    experiment["shadow"] = {
        "targets": {"other": {"backend": "other", "model": "scripted"}}, "concurrency": 8, "spend_per_day": None,
    }  # fmt: skip
    return {
        "server": {
            "port": ports[0], "admin": {"port": ports[1]}, "log": {"level": "warning"},
            "experiments": {"path": str(folder / f"{ports[0]}.db")},
        },
        "backends": {name: {"url": f"http://127.0.0.1:{port}/v1"} for name, port in zip(("own", "other"), upstreams, strict=True)},
        "routes": {"m": {"targets": [{"backend": "own", "model": "scripted"}]}},
        "experiments": {"mirror": experiment} if shadowed else {},
    }  # fmt: skip


def latencies(port: int, count: int, seed: int) -> list[float]:
    """Seconds of so many calls, one after the other."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    out = []
    try:
        for turn in range(count):
            doc = {"model": "m", "user": f"u{seed}-{turn}", "max_tokens": 16, "messages": [{"role": "user", "content": "word " * 100}]}
            began = time.perf_counter()
            connection.request("POST", "/v1/chat/completions", json.dumps(doc), {"content-type": "application/json"})
            answer = connection.getresponse()
            answer.read()
            out.append(time.perf_counter() - began)
            if answer.status != 200:
                raise RuntimeError(f"status {answer.status} from the gateway on {port}")
    finally:
        connection.close()
    return out


def run(command: Sequence[str], requests: int, seed: int) -> tuple[str, bool]:
    """Half of the requests by each gateway, in turns. The table, and whether the bar is held. Blocks."""
    upstreams, plain, mirrored = free_ports(2), free_ports(2), free_ports(2)
    seen: dict[bool, list[float]] = {False: [], True: []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with (folder / "log").open("wb") as log:
            running = [proc.spawn([sys.executable, "-m", "benchmarks.scripted", "--port", str(p), *TIMES], log) for p in upstreams]
            for shadowed, ports in ((False, plain), (True, mirrored)):
                file = folder / f"{ports[0]}.json"
                file.write_text(json.dumps(config(ports, upstreams, folder, shadowed)))
                running.append(proc.spawn([*command, "serve", "--config", str(file)], log))
        try:
            for port in upstreams:
                until(lambda port=port: get(port, "/health")[0] == 200, "the upstreams listen")  # type: ignore[misc]
            for port in (plain[0], mirrored[0]):
                until(lambda port=port: get(port, "/v1/models")[0] == 200, "both gateways answer")  # type: ignore[misc]
            for turn in range(max(2, requests // (2 * BLOCK))):
                for shadowed in (False, True) if turn % 2 else (True, False):
                    seen[shadowed] += latencies((mirrored if shadowed else plain)[0], BLOCK, turn)[1:]
            until(lambda: _pairs(mirrored[1]) > 0, "shadows have been compared")
            pairs = _pairs(mirrored[1])
        finally:
            for process in running:
                proc.stop(process)
    middle = {shadowed: statistics.median(found) for shadowed, found in seen.items()}
    ratio = middle[True] / middle[False]
    held = "held" if ratio <= BAR else "missed"
    lines = [f"{len(seen[False])} calls each, in turns of {BLOCK}; {pairs} answers compared with their shadows by the end.", ""]
    lines += ["| | p50 ms | p95 ms |", "| --- | ---: | ---: |"]
    for shadowed, what in ((False, "without"), (True, "with a shadow of every call")):
        p95 = statistics.quantiles(seen[shadowed], n=20)[-1]
        lines.append(f"| {what} | {middle[shadowed] * 1000:.2f} | {p95 * 1000:.2f} |")
    lines += ["", f"p50 with / without: {ratio:.3f} (bar {BAR:g}: {held})."]
    return "\n".join(lines) + "\n", ratio <= BAR


def _pairs(admin: int) -> int:
    status, body = get(admin, "/api/experiments/mirror")
    if status != 200:
        return 0
    return sum(int(one["pairs"]) for one in json.loads(body)["shadows"])
