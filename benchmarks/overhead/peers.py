"""How each gateway under test is started: one worker, no access log, the settings that its own documentation recommends for speed.

To compare another one, add an entry to `_MAKERS`; it gets a `Site` and returns a `Peer`, or a sentence saying why it cannot run here.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from benchmarks.overhead import tools

HERE = Path(__file__).resolve().parent
BASELINES = HERE / "baselines"
WHOLE, UNPACED, PACED = "mock", "mock-64x0ms", "mock-64x20ms"  # what the phases send: whole answers, streams without pause, paced ones
BOTH = "mock-paced-16x4ms"  # whole answers at once, streams of 16 chunks, one each 4 ms
MODELS = (WHOLE, UNPACED, PACED, BOTH)
KEY = "sk-bench"


@dataclass(frozen=True)
class Site:
    """Where things are: working folder, virtual environments, the ports of the gateway and the mock, how Pointsman is called."""

    run: Path
    envs: Path
    port: int
    upstream_port: int
    pointsman: tuple[str, ...] | None = None

    @property
    def upstream(self) -> str:
        """The mock's base URL, without a path."""
        return f"http://127.0.0.1:{self.upstream_port}"

    @property
    def metrics_port(self) -> int:
        """A port for gateways that insist on a second one."""
        return self.port + 50


@dataclass(frozen=True)
class Peer:
    """One gateway: its command, what to put into its environment and files, what to send to it."""

    command: tuple[str, ...]
    env: dict[str, str] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)  # name in the working folder -> text, written before the start
    headers: tuple[str, ...] = ()  # "Name: value"
    start_seconds: float = 60.0
    version: str = ""
    about: str = ""


@dataclass(frozen=True)
class Env:
    """A virtual environment of peers: the packages, pinned, and a module by which to know that it is there."""

    packages: tuple[str, ...]
    modules: tuple[str, ...]


ENVS = {
    "baselines": Env(
        ("uvicorn==0.54.0", "uvloop==0.23.0", "httptools==0.9.0", "aiohttp==3.14.5", "msgspec==0.22.0"),
        ("uvicorn", "uvloop", "httptools", "aiohttp", "msgspec"),
    ),
    "sglang-router": Env(("sglang-router==0.3.2",), ("sglang_router",)),
    "vllm-router": Env(("vllm-router==0.1.17",), ("vllm_router",)),
}


@cache
def _has(python: str, modules: tuple[str, ...]) -> bool:
    code = f"import importlib.util as u, sys; sys.exit(not all(u.find_spec(m) for m in {modules!r}))"
    try:
        return subprocess.run([python, "-c", code], capture_output=True, check=False, timeout=60).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def _python(site: Site, env: str) -> str | None:
    """The Python of a virtual environment that has what `env` needs; for the baselines also the one that runs this."""
    candidates = [str(site.envs / env / "bin" / "python")]
    if env == "baselines":
        candidates += [str(site.envs / "pybase" / "bin" / "python"), sys.executable]
    return next((p for p in candidates if Path(p).exists() and _has(p, ENVS[env].modules)), None)


@cache
def _version(python: str, packages: tuple[str, ...]) -> str:
    code = f"from importlib.metadata import version as v; print(', '.join(f'{{p}} {{v(p)}}' for p in {packages!r}))"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    return done.stdout.strip()


def _install_hint(env: str) -> str:
    return f"not installed: python -m benchmarks.overhead --install {env}"


def _nginx(site: Site) -> Peer | str:
    program = tools.find("nginx")
    if program is None:
        return "nginx is not installed"
    text = (HERE / "csrc" / "nginx_gateway.conf.in").read_text()
    user = "user root;" if os.geteuid() == 0 else ""
    for mark, value in (
        ("@RUN@", str(site.run)),
        ("@PORT@", str(site.port)),
        ("@UPSTREAM_PORT@", str(site.upstream_port)),
        ("@USER@", user),
    ):
        text = text.replace(mark, value)
    conf = site.run / "nginx.conf"
    done = subprocess.run([program, "-v"], capture_output=True, text=True, check=False)
    return Peer(
        command=(program, "-p", str(site.run), "-e", str(site.run / "nginx.err"), "-c", str(conf)),
        files={"nginx.conf": text},
        version=done.stderr.strip().removeprefix("nginx version: "),
        about="proxy_pass, upstream keep-alive, unbuffered; no auth, one upstream, no metrics",
    )


def find_pointsman(given: str | None) -> tuple[str, ...] | None:
    """How Pointsman is called: as `given`, else the `pointsman` beside this Python or on PATH. None: not installed."""
    if given:
        return tuple(shlex.split(given))
    beside = Path(sys.executable).parent / "pointsman"
    found = str(beside) if beside.exists() else tools.find("pointsman")
    return (found,) if found else None


def pointsman_config(site: Site, log: str = "level: warning") -> str:
    """Two replicas behind every model, a key that is checked, the control plane on a free port; records and metrics are on by default.
    With this `log` there is no line a request, as for the others."""
    url = f"{site.upstream}/v1"
    lines = [
        f"server: {{port: {site.port}, host: 127.0.0.1, admin: {{port: 0}}, log: {{{log}}}}}",
        f'keys: [{{name: bench, key: "{KEY}"}}]',
        "backends:",
        f'  a: {{url: "{url}"}}',
        f'  b: {{url: "{url}"}}',
        "routes:",
        *(f'  "{m}": {{targets: [{{backend: a, model: "{m}"}}, {{backend: b, model: "{m}"}}]}}' for m in MODELS),
    ]
    return "\n".join(lines) + "\n"


def _pointsman(site: Site, *flags: str, log: str = "") -> Peer | str:
    if site.pointsman is None:
        return "not installed: pip install pointsman, or say how it is called with --pointsman 'COMMAND'"
    config = site.run / "pointsman.yaml"
    more = ("; every call through the ASGI application" if flags else "") + ("; a line of JSON a request in a file" if log else "")
    return Peer(
        command=(*site.pointsman, "serve", *flags, "--config", str(config), "--port", str(site.port)),
        files={"pointsman.yaml": pointsman_config(site, log) if log else pointsman_config(site)},
        headers=(f"Authorization: Bearer {KEY}",),
        version=_pointsman_version(site.pointsman),
        about="auth, two replicas, metrics and records on" + more,
    )


@cache
def _pointsman_version(command: tuple[str, ...]) -> str:
    try:
        done = subprocess.run([*command, "--version"], capture_output=True, text=True, check=False, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip().splitlines()[0] if done.returncode == 0 and done.stdout.strip() else ""


def _sglang(site: Site) -> Peer | str:
    python = _python(site, "sglang-router")
    if python is None:
        return _install_hint("sglang-router")
    return Peer(
        command=(python, "-m", "sglang_router.launch_router", *_router_flags(site), "--max-concurrent-requests", "-1"),
        version=_version(python, ("sglang-router",)),
        about="Rust; round robin over one worker, retries and circuit breaker off",
    )


def _vllm(site: Site) -> Peer | str:
    python = _python(site, "vllm-router")
    if python is None:
        return _install_hint("vllm-router")
    program = str(Path(python).parent / "vllm-router")
    limits = ("--max-concurrent-requests", "32768", "--rate-limit-tokens-per-second", "1000000")
    return Peer(
        command=(program, *_router_flags(site), *limits),
        version=_version(python, ("vllm-router",)),
        about="Rust; round robin over one worker, retries and circuit breaker off",
    )


def _router_flags(site: Site) -> tuple[str, ...]:
    flags = ("--host", "127.0.0.1", "--port", str(site.port), "--worker-urls", site.upstream, "--policy", "round_robin")
    quiet = ("--disable-retries", "--disable-circuit-breaker", "--request-timeout-secs", "600", "--log-level", "error")
    return (*flags, *quiet, "--prometheus-port", str(site.metrics_port))


def _aiohttp(site: Site) -> Peer | str:
    python = _python(site, "baselines")
    if python is None:
        return _install_hint("baselines")
    flags = "--workers 1 --loop uvloop --http httptools --no-access-log --log-level error --backlog 4096 --timeout-keep-alive 600"
    command = (python, "-m", "uvicorn", "--host", "127.0.0.1", "--port", str(site.port), *flags.split(), "--no-server-header")
    return Peer(
        command=(*command, "--no-date-header", "aiohttp_app:app"),
        env={"PYTHONPATH": str(BASELINES), "PYTHONDONTWRITEBYTECODE": "1", "UPSTREAM": site.upstream},
        version=_version(python, ("uvicorn", "aiohttp")),
        about="plain ASGI application, body read and model rewritten with msgspec; no auth, one upstream, no metrics",
    )


def _protocol(site: Site) -> Peer | str:
    python = _python(site, "baselines")
    if python is None:
        return _install_hint("baselines")
    return Peer(
        command=(python, str(BASELINES / "protocol_relay.py"), str(site.port), "127.0.0.1", str(site.upstream_port)),
        env={"PYTHONDONTWRITEBYTECODE": "1"},
        version=_version(python, ("uvloop", "httptools")),
        about="hand-written asyncio protocols on both sides, body read with msgspec; no auth, one upstream, no metrics",
    )


_MAKERS: dict[str, Callable[[Site], Peer | str]] = {
    "nginx": _nginx,
    "pointsman": _pointsman,
    "pointsman-log": lambda site: _pointsman(site, log="level: info, format: json"),
    "pointsman-asgi": lambda site: _pointsman(site, "--asgi"),
    "sglang-router": _sglang,
    "vllm-router": _vllm,
    "uvicorn-aiohttp": _aiohttp,
    "protocol-relay": _protocol,
}
NAMES = ("direct", *_MAKERS)


def make(name: str, site: Site) -> Peer | str:
    """The gateway of that name, or a sentence saying why it cannot run here. KeyError for a name that is not known."""
    return _MAKERS[name](site)
