"""Measures, on loopback: how soon an upstream learns that a client has left; what the clients of an engine see that is killed with -9,
how soon it answers again, and what another route notices meanwhile."""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.overhead import proc
from benchmarks.overhead.peers import find_pointsman
from benchmarks.recovery.client import SECONDS, Reader, ask, status
from benchmarks.recovery.endless import Endless


def free_port() -> int:
    """A port that nothing listens on at this moment."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port: int = s.getsockname()[1]
        return port


@contextmanager
def gateway(command: Sequence[str], folder: Path, upstream: int, streams: int) -> Any:
    """Pointsman with a built-in engine (route `toy`) and the endless upstream (route `far`); gives its process and port."""
    port = free_port()
    config = {
        "server": {"port": port, "admin": {"port": 0}, "log": {"level": "warning"}},
        "backends": {
            "toy": {"engine": "llamacpp", "model": "builtin", "slots": streams, "context": 2048},
            "far": {"url": f"http://127.0.0.1:{upstream}/v1"},
        },
        "routes": {"toy": {"targets": [{"backend": "toy"}]}, "far": {"targets": [{"backend": "far", "model": "m"}]}},
    }
    file = folder / "pointsman.yaml"
    file.write_text(json.dumps(config))
    with (folder / "log").open("wb") as log:
        process = proc.spawn([*command, "serve", "--config", str(file)], log)
    try:
        until(lambda: status(port, "toy", "Count to 5")[0] == 200, process, folder / "log")
        yield process, port
    finally:
        proc.stop(process)


def until(holds: Any, process: subprocess.Popen[bytes], log: Path) -> float:
    """Asks again and again until it holds; the seconds that took. RuntimeError: the gateway ended, or it never did."""
    began = time.monotonic()
    while not holds():
        if process.poll() is not None or time.monotonic() - began > SECONDS:
            raise RuntimeError(f"the gateway does not answer: {log.read_text(errors='replace')[-600:]}")
        time.sleep(0.01)
    return time.monotonic() - began


def leavers(port: int, upstream: Endless, count: int) -> list[float]:
    """`count` clients that leave in the middle of a stream, one after the other: the seconds until the upstream's connection was closed."""
    seconds = []
    for _ in range(count):
        sock = ask(port, "far", "go on", True)
        while b"data: " not in sock.recv(65536):
            pass
        left = time.monotonic()
        sock.close()
        if not upstream.changed.acquire(timeout=SECONDS):
            raise RuntimeError("the upstream never learned that its client had left")
        seconds.append(upstream.lost[-1] - left)
    return sorted(seconds)


def engine_pids(root: int) -> list[int]:
    """The engine's own processes below the gateway: the last of each line of descent that runs our engine's child."""
    found = []
    for pid in proc.tree(root):
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            continue
        if re.search(rb"engines[./](child|xllamacpp)", command) and b"lifeline" not in command:
            found.append(pid)
    return found


def killed(process: subprocess.Popen[bytes], port: int, streams: int) -> dict[str, Any]:
    """Kills the engine under `streams` streams. Seconds are from the kill."""
    readers = [Reader(ask(port, "toy", "Count to 5", True, max_tokens=1800, ignore_eos=True)) for _ in range(streams)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.begun.wait(SECONDS)
    early = sum(1 for reader in readers if reader.ended)
    pids = engine_pids(process.pid)
    if not pids:
        raise RuntimeError("no engine process found below the gateway")
    at = time.monotonic()
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    other = [_first_event(port) for _ in range(20)]
    for reader in readers:
        reader.join(SECONDS)
    while status(port, "toy", "What is 2+3?")[0] != 200:
        if time.monotonic() - at > SECONDS:
            raise RuntimeError("the engine never came back")
        time.sleep(0.01)
    return {
        "streams": streams,
        "ended before the kill": early,
        "well-formed errors": sum(1 for reader in readers if reader.well_formed),
        "last error after s": max(reader.ended for reader in readers) - at,
        "serving again after s": time.monotonic() - at,
        "other route: asked meanwhile": len(other),
        "other route: slowest first event s": max(other),
    }


def _first_event(port: int) -> float:
    began = time.monotonic()
    with ask(port, "far", "go on", True) as sock:
        while b"data: " not in sock.recv(65536):
            pass
    return time.monotonic() - began


def table(left: list[float], rounds: list[dict[str, Any]]) -> str:
    """The figures as Markdown."""
    ms = [f"{1000 * x:.1f}" for x in (left[len(left) // 2], left[int(len(left) * 0.99)], left[-1])]
    lines = [f"{len(left)} clients left in the middle of a stream; its upstream connection was closed after (ms) p50 {ms[0]}, p99 {ms[1]}, "
             f"at most {ms[2]}.", "", "| the engine killed with -9 | " + " | ".join(f"round {i + 1}" for i in range(len(rounds))) + " |",
             "|---|" + "---:|" * len(rounds)]  # fmt: skip
    for key in rounds[0]:
        values = " | ".join(f"{r[key]:.3f}" if isinstance(r[key], float) else str(r[key]) for r in rounds)
        lines.append(f"| {key} | {values} |")
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs it and prints the table. 0: measured; 1: something failed; 2: not installed."""
    p = argparse.ArgumentParser(prog="python -m benchmarks.recovery", description=__doc__)
    p.add_argument("--rounds", type=int, default=3, choices=range(1, 21), metavar="N", help="kills (default 3)")
    p.add_argument("--streams", type=int, default=16, choices=range(1, 65), metavar="N", help="streams under each kill (default 16)")
    p.add_argument("--leavers", type=int, default=200, choices=range(1, 5001), metavar="N", help="clients that leave (default 200)")
    p.add_argument("--pointsman", metavar="CMD", help="how Pointsman is called (default: the one beside this Python, or on PATH)")
    a = p.parse_args(argv)
    command = find_pointsman(a.pointsman)
    if command is None:
        sys.stderr.write("not installed: pip install pointsman, or say how it is called with --pointsman 'COMMAND'\n")
        return 2
    with tempfile.TemporaryDirectory() as folder, Endless() as upstream:
        try:
            with gateway(command, Path(folder), upstream.port, a.streams) as (process, port):
                left = leavers(port, upstream, a.leavers)
                sys.stderr.write(f"{a.leavers} clients have left\n")
                rounds = []
                for n in range(a.rounds):
                    rounds.append(killed(process, port, a.streams))
                    sys.stderr.write(f"kill {n + 1} of {a.rounds}: serving again after {rounds[-1]['serving again after s']:.2f} s\n")
        except (RuntimeError, OSError) as e:
            sys.stderr.write(f"failed: {e}\n")
            return 1
    sys.stdout.write(table(left, rounds))
    return 0
