"""The gateway under test and its upstreams: processes that are started, killed, and told of another topology."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.overhead import proc

UPSTREAMS = 6
SECONDS = 60.0  # until something that must happen has
TIMES = ("--prefill", "0.00002", "--token", "0.004", "--call", "0.01", "--item", "0.001")
KEYS = {"red": "sk-red", "blue": "sk-blue"}
POLICIES = ("weighted", "round_robin", "least_busy", "p2c", "latency", "session", "kv_aware")
ROUTES = ("chat", "kv", "own", "limited", "hedged", "shared", "carried")
Doc = dict[str, Any]


def free_ports(count: int) -> list[int]:
    """Ports that nothing listens on at this moment."""
    with contextlib.ExitStack() as stack:
        socks = [stack.enter_context(socket.socket()) for _ in range(count)]
        for sock in socks:
            sock.bind(("127.0.0.1", 0))
        return [int(sock.getsockname()[1]) for sock in socks]


def get(port: int, path: str, key: str = "") -> tuple[int, bytes]:
    """Status and body of a GET on this machine."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path, headers={"authorization": f"Bearer {key}"} if key else {})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def until(holds: Callable[[], bool], what: str, seconds: float = SECONDS) -> None:
    """Looks again and again until it holds; what refuses to answer does not. RuntimeError names `what`."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with contextlib.suppress(OSError, http.client.HTTPException):
            if holds():
                return
        time.sleep(0.05)
    raise RuntimeError(f"after {seconds:.0f} s still not: {what}")


class World:
    """All processes. Blocks where it starts or ends one."""

    def __init__(self, command: Sequence[str], folder: Path, rng: random.Random, workers: int, policies: Sequence[str]) -> None:
        self.command, self.folder, self.rng, self.workers, self.policies = tuple(command), folder, rng, workers, tuple(policies)
        self.port, self.admin, *self.ports = free_ports(2 + UPSTREAMS)
        self.upstreams: dict[int, subprocess.Popen[bytes]] = {}
        self.file, self.log = folder / "pointsman.json", folder / "gateway.log"
        self.process: subprocess.Popen[bytes] | None = None
        self.done = dict.fromkeys(("reloads", "upstreams killed", "engines killed"), 0)

    # --- life
    def start(self) -> None:
        """Starts everything, and returns when every route is answered."""
        for port in self.ports:
            self.begin(port)
        self.write(self.config(full=True))
        with self.log.open("wb") as log:
            self.process = proc.spawn([*self.command, "serve", "--config", str(self.file)], log)
        until(lambda: self.ready() == set(ROUTES), f"all routes answer; {self.tail()}")

    def ready(self) -> set[str]:
        """The routes whose backends are there, or all that the gateway lists."""
        assert self.process is not None
        if self.process.poll() is not None:
            raise RuntimeError(f"the gateway ended with {self.process.returncode}: {self.tail()}")
        status = self.status()
        if any(engine["state"] != "ready" for engine in status["engines"]):
            return set()
        return {model["id"] for model in json.loads(get(self.port, "/v1/models", KEYS["red"])[1])["data"]} & set(ROUTES)

    def stop(self) -> None:
        """Ends everything that was started."""
        for process in (*([self.process] if self.process is not None else []), *self.upstreams.values()):
            proc.stop(process)

    def tail(self) -> str:
        """The end of the gateway's log."""
        return self.log.read_text(errors="replace")[-800:] if self.log.exists() else ""

    # --- upstreams
    def begin(self, port: int) -> None:
        """Starts the upstream of a port, and returns when it listens."""
        with (self.folder / f"upstream-{port}.log").open("ab") as log:
            self.upstreams[port] = proc.spawn([sys.executable, "-m", "benchmarks.scripted", "--port", str(port), *TIMES], log)
        until(lambda: get(port, "/health")[0] == 200, f"the upstream on {port} listens")

    def kill_upstream(self) -> None:
        """Kills one upstream in the middle of what it does, and starts it again."""
        port = self.rng.choice(self.ports)
        self.upstreams[port].kill()
        self.upstreams[port].wait()
        self.begin(port)
        self.done["upstreams killed"] += 1

    def kill_engine(self) -> None:
        """Kills one of the engines that the gateway runs, if there is one; the gateway starts it again."""
        pids = [int(engine["pid"]) for engine in self.status()["engines"] if engine["pid"]]
        if pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.rng.choice(pids), signal.SIGKILL)
                self.done["engines killed"] += 1

    # --- configuration
    def config(self, full: bool = False) -> Doc:
        """A topology by chance: which upstreams there are, how many engines, what each route does. `full`: all of it."""
        rng = self.rng
        chosen = self.ports if full else rng.sample(self.ports, rng.randint(2, UPSTREAMS))
        several = {"urls": [f"http://127.0.0.1:{port}/v1" for port in chosen], "slots": rng.choice([None, 4, 16])}
        engine = [sys.executable, "-m", "benchmarks.scripted", "--port", "{port}", *TIMES]
        backends: Doc = {
            "many": {**several, "batch_embeddings": rng.random() < 0.7},
            "one": {"url": f"http://127.0.0.1:{rng.choice(self.ports)}/v1", "timeouts": {"first_byte": rng.choice([0.5, 2, 60])}},
            "own": {"engine": "command", "command": engine, "replicas": rng.randint(1, 2), "health_path": "/health"},
        }
        routes: Doc = {
            "chat": {"targets": self._targets(rng), "policy": rng.choice(self.policies), "retries": rng.randint(0, 2)},
            "kv": {"targets": [{"backend": "many", "model": "scripted"}], "policy": self.policies[-1], "retries": 1},
            "own": {"targets": [{"backend": "own", "model": "scripted"}], "retries": 1},
            "limited": {"targets": self._targets(rng), "concurrency": rng.randint(2, 8), "fallbacks": ["own"]},
            "hedged": {"targets": [{"backend": "many", "model": "scripted"}], "hedge": {"after": 0.05, "budget": 1.0}},
            "shared": {"targets": [{"backend": "many", "model": "scripted"}], "coalesce": True, "policy": rng.choice(self.policies)},
            "carried": {"targets": self._targets(rng), "continue": True, "retries": 2, "backoff": {"base": 0.05}},
        }
        server = {
            "port": self.port, "workers": self.workers, "admin": {"port": self.admin}, "log": {"level": "warning"}, "wait_seconds": 10,
            "limits": {"client_stall_seconds": 5, "body_seconds": 5, "header_seconds": 5},
        }  # fmt: skip
        keys = [{"name": name, "key": key, "admin": name == "red"} for name, key in KEYS.items()]
        return {"server": server, "backends": backends, "routes": routes, "keys": keys}

    def _targets(self, rng: random.Random) -> list[Doc]:
        many = {"backend": "many", "model": "scripted", "weight": rng.choice([1, 3])}
        return [many, {"backend": "one", "model": "scripted"}] if rng.random() < 0.5 else [many]

    def write(self, config: Doc) -> None:
        """Puts a configuration in the place of the present one, at once."""
        new = self.file.with_suffix(".new")
        new.write_text(json.dumps(config))
        new.replace(self.file)

    def reload(self) -> None:
        """Another topology, by SIGHUP."""
        assert self.process is not None
        self.write(self.config())
        self.process.send_signal(signal.SIGHUP)
        self.done["reloads"] += 1

    # --- what it says
    def status(self) -> Doc:
        """The control plane's view."""
        code, body = get(self.admin, "/api/status", KEYS["red"])
        if code != 200:
            raise OSError(f"/api/status answered {code}")
        found: Doc = json.loads(body)
        return found

    def metrics(self) -> str:
        """The text of /metrics."""
        code, body = get(self.port, "/metrics", KEYS["red"])
        if code != 200:
            raise OSError(f"/metrics answered {code}")
        return body.decode()


@contextmanager
def running(world: World) -> Iterator[World]:
    """A started world for the time of the block."""
    try:
        world.start()
        yield world
    finally:
        world.stop()
