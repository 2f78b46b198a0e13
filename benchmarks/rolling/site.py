"""What runs on this host for a measurement: scripted upstreams, Redis, gateways, and a balancer with the files of deploy/balancers."""

from __future__ import annotations

import http.client
import json
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from benchmarks.overhead import proc
from benchmarks.overhead.tools import find

BALANCERS = Path(__file__).resolve().parents[2] / "deploy" / "balancers"
WRITTEN = ("127.0.0.1:8080", "127.0.0.1:8484", "127.0.0.1:8494")  # in those files: where clients come, and two gateways
FILES = {"haproxy": "haproxy.cfg", "nginx": "nginx.conf"}
START_SECONDS, STOP_SECONDS = 60.0, 90.0
LOOK_SECONDS = 0.02
TOKEN_SECONDS = 0.02  # an upstream's time for a token

Process = subprocess.Popen[bytes]


def free_port() -> int:
    """A port that nothing listens on at this moment."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port: int = s.getsockname()[1]
        return port


def until(holds: Callable[[], bool], what: str, process: Process | None = None, log: Path | None = None) -> None:
    """Asks again and again until it holds. RuntimeError: the process ended, or it did not come within a minute."""
    end = time.monotonic() + START_SECONDS
    while not holds():
        if time.monotonic() > end or (process is not None and process.poll() is not None):
            told = f": {log.read_text(errors='replace')[-800:]}" if log is not None and log.exists() else ""
            raise RuntimeError(f"{what} did not come{told}")
        time.sleep(LOOK_SECONDS)


def get(port: int, path: str) -> tuple[int, str]:
    """Status and text of a GET; 0 where nobody answers."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5.0)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode(errors="replace")
    except (OSError, http.client.HTTPException):
        return 0, ""
    finally:
        connection.close()


class Gateway:
    """One gateway on a port of its own, through all its restarts."""

    def __init__(self, command: Sequence[str], folder: Path, name: str, config: dict[str, object], port: int) -> None:
        self.name, self.port = name, port
        self.log = folder / f"{name}.log"
        file = folder / f"{name}.yaml"
        file.write_text(json.dumps(config))
        self._argv = [*command, "serve", "--config", str(file)]
        self._process: Process | None = None

    @property
    def ready(self) -> bool:
        """Whether it says that it takes calls."""
        return get(self.port, "/ready")[0] == 200

    @property
    def pid(self) -> int:
        """Of the running process. ValueError: there is none."""
        if self._process is None:
            raise ValueError(f"gateway {self.name} was not started")
        return self._process.pid

    def start(self) -> None:
        """Returns when it is ready. Raises RuntimeError."""
        with self.log.open("ab") as log:
            self._process = proc.spawn(self._argv, log)
        until(lambda: self.ready, f"gateway {self.name}", self._process, self.log)

    def end(self) -> float:
        """SIGTERM; returns when it has ended, the seconds that took. Raises RuntimeError when it does not, or ends badly."""
        assert self._process is not None
        begun = time.monotonic()
        self._process.send_signal(signal.SIGTERM)
        try:
            code = self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            raise RuntimeError(f"gateway {self.name} did not end within {STOP_SECONDS:g} s of SIGTERM") from None
        if code:
            raise RuntimeError(f"gateway {self.name} ended with {code}: {self.log.read_text(errors='replace')[-800:]}")
        return time.monotonic() - begun

    def close(self) -> None:
        """Ends it whatever it does."""
        if self._process is not None:
            proc.stop(self._process)

    def figure(self, name: str) -> float | None:
        """A figure of its /metrics without labels; None where there is none."""
        found = re.search(rf"^{name} (\S+)$", get(self.port, "/metrics")[1], re.MULTILINE)
        return float(found[1]) if found else None


class Redis:
    """A redis-server of our own, without any file."""

    def __init__(self, folder: Path) -> None:
        self.port, self._folder = free_port(), folder
        self._process: Process | None = None

    def start(self) -> None:
        """Returns when it answers. Raises RuntimeError."""
        log = self._folder / "redis.log"
        words = ["--port", str(self.port), "--bind", "127.0.0.1", "--appendonly", "no", "--save", "", "--dir", str(self._folder)]
        with log.open("ab") as out:
            self._process = proc.spawn([find("redis-server") or "redis-server", *words], out)
        until(lambda: proc.port_in_use(self.port), "Redis", self._process, log)

    def kill(self) -> None:
        """As by kill -9, and waits until it is gone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


class Balancer:
    """HAProxy or nginx with the project's own file, its addresses replaced by free ones."""

    def __init__(self, kind: str, folder: Path, gateways: Sequence[Gateway]) -> None:
        program = find(kind)
        if program is None:
            raise FileNotFoundError(f"{kind} is not installed: apt-get install {'haproxy' if kind == 'haproxy' else 'nginx-light'}")
        self.kind, self.port, self._gateways = kind, free_port(), gateways
        self._control, self._log = folder / "control", folder / f"{kind}.log"
        text = replaced((BALANCERS / FILES[kind]).read_text(), self.port, [g.port for g in gateways], folder)
        file = folder / FILES[kind]
        file.write_text(text)
        self._argv = (
            [program, "-db", "-f", str(file)] if kind == "haproxy" else [program, "-e", "stderr", "-g", "daemon off;", "-c", str(file)]
        )
        self._process: Process | None = None

    def start(self) -> None:
        """Returns when it takes calls and knows every gateway. Raises RuntimeError."""
        with self._log.open("ab") as log:
            self._process = proc.spawn(self._argv, log)
        until(lambda: proc.port_in_use(self.port), self.kind, self._process, self._log)
        for gateway in self._gateways:
            self.joined(gateway)

    def joined(self, gateway: Gateway) -> None:
        """Returns when it sends calls to this gateway. The free nginx needs no telling: it tries."""
        if self.kind == "haproxy":
            until(lambda: f",{gateway.name},UP" in self.states(), f"{gateway.name} in HAProxy's eyes", self._process, self._log)

    def states(self) -> str:
        """`,NAME,STATE` of each server, a line each (HAProxy's management guide, 9.1: fields 2 and 18)."""
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(5.0)
            try:
                s.connect(str(self._control))
                s.sendall(b"show stat\n")
                data = b""
                while piece := s.recv(65536):
                    data += piece
            except OSError:
                return ""
        rows = [line.split(",") for line in data.decode(errors="replace").splitlines()]
        return "\n".join(f",{row[1]},{row[17]}" for row in rows if len(row) > 17)

    def close(self) -> None:
        """Ends it."""
        if self._process is not None:
            proc.stop(self._process)


def replaced(text: str, port: int, gateways: Sequence[int], folder: Path) -> str:
    """A balancer's file with free ports, and what it writes in `folder`. ValueError: it does not say what is replaced."""
    new = (f"127.0.0.1:{p}" for p in (port, *gateways))
    for old, there in zip(WRITTEN, new, strict=True):
        if old not in text:
            raise ValueError(f"the balancer's file must say {old}")
        text = text.replace(old, there)
    return text.replace("/run/haproxy/pointsman.sock", str(folder / "control")).replace(
        "/run/nginx-pointsman.pid", str(folder / "nginx.pid")
    )


class Site:
    """All of it. A context: whatever was started is ended."""

    def __init__(self, command: Sequence[str], folder: Path, balancer: str, notice: float, redis: bool, workers: int = 1) -> None:
        self._stack = ExitStack()
        self.folder = folder
        self.redis = Redis(folder) if redis else None
        self._upstreams = [free_port(), free_port()]
        self.gateways = [self._gateway(command, name, notice, workers) for name in ("a", "b")]
        self.balancer = Balancer(balancer, folder, self.gateways)

    def _gateway(self, command: Sequence[str], name: str, notice: float, workers: int) -> Gateway:
        port = free_port()
        server: dict[str, object] = {
            "port": port, "admin": {"port": None}, "workers": workers, "metrics_public": True, "log": {"level": "warning"},
            "drain_notice_seconds": notice, "drain_seconds": 60,
        }  # fmt: skip
        if self.redis is not None:
            server["redis"] = f"redis://127.0.0.1:{self.redis.port}/0"
        config: dict[str, object] = {
            "server": server,
            "backends": {"up": {"urls": [f"http://127.0.0.1:{p}/v1" for p in self._upstreams]}},
            "routes": {"m": {"targets": [{"backend": "up", "model": "scripted"}], "policy": "kv_aware" if self.redis else "weighted"}},
        }
        return Gateway(command, self.folder, name, config, port)

    def __enter__(self) -> Site:
        try:
            for port in self._upstreams:
                argv = [sys.executable, "-m", "benchmarks.scripted", "--port", str(port), "--token", str(TOKEN_SECONDS)]
                upstream = proc.spawn(argv, subprocess.DEVNULL)
                self._stack.callback(proc.stop, upstream)
                until(lambda port=port: proc.port_in_use(port), "a scripted upstream", upstream)  # type: ignore[misc]
            if self.redis is not None:
                self._stack.callback(self.redis.kill)
                self.redis.start()
            for gateway in self.gateways:
                self._stack.callback(gateway.close)
                gateway.start()
            self._stack.callback(self.balancer.close)
            self.balancer.start()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
