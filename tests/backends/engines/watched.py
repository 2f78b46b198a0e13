"""What the supervisor's tests share: a supervisor whose changes can be awaited, specs, and calls to an engine."""

from __future__ import annotations

import asyncio
import json
import sys
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

from backends.engines.instance import Instance
from backends.engines.probe import Pace
from backends.engines.spec import EngineSpec
from backends.engines.supervisor import Supervisor

QUICK = Pace(check=0.05, timeout=0.3, grace=2.0, drain=5.0)
# Answers /health with 200; /hang makes it deaf, /die kills it. What it was given is at /seen.
SERVER = """
import http.server, json, os, sys
class H(http.server.BaseHTTPRequestHandler):
    def log_message(self, *a): pass
    def do_GET(self):
        if self.path == '/die': os._exit(9)
        if self.path == '/hang': import time; [time.sleep(1) for _ in iter(int, 1)]
        body = json.dumps({'argv': sys.argv, 'env': dict(os.environ), 'auth': self.headers['Authorization']}).encode()
        self.send_response(200); self.send_header('Content-Length', str(len(body))); self.end_headers(); self.wfile.write(body)
print('serving', os.environ['POINTSMAN_API_KEY'], flush=True)
http.server.HTTPServer(('127.0.0.1', int(sys.argv[1])), H).serve_forever()
"""


class Watched:
    """A supervisor whose changes can be awaited."""

    def __init__(self, pace: Pace = QUICK, drain: Callable[[Instance], Awaitable[None]] | None = None) -> None:
        self.changed = asyncio.Event()
        self.states: list[tuple[str, str]] = []
        self.supervisor = Supervisor(self._on_change, pace=pace, drain=drain)

    def _on_change(self, instance: Instance) -> None:
        if not self.states or self.states[-1] != (instance.name, instance.state):
            self.states.append((instance.name, instance.state))
        self.changed.set()

    def __getitem__(self, name: str) -> Instance:
        return next(instance for instance in self.supervisor.instances if instance.name == name)

    async def until(self, name: str, good: Callable[[Instance], bool]) -> Instance:
        async with asyncio.timeout(60):
            while True:
                for instance in self.supervisor.instances:
                    if instance.name == name and good(instance):
                        return instance
                self.changed.clear()
                await self.changed.wait()

    async def ready(self, name: str) -> Instance:
        return await self.until(name, lambda instance: instance.state == "ready")

    async def failed(self, name: str) -> Instance:
        return await self.until(name, lambda instance: instance.state == "failed")


def run(scenario: Callable[[Watched], Coroutine[Any, Any, None]], pace: Pace = QUICK) -> None:
    async def main() -> None:
        watched = Watched(pace)
        try:
            await scenario(watched)
        finally:
            await watched.supervisor.stop()
            assert watched.supervisor.instances == ()

    asyncio.run(main())


def command(name: str = "srv", script: str = SERVER, **fields: Any) -> EngineSpec:
    return EngineSpec(name, "command", command=(sys.executable, "-c", script, "{port}"), **fields)


def llamacpp(model: Path, name: str = "toy", **fields: Any) -> EngineSpec:
    return EngineSpec(name, "llamacpp", model=str(model), threads=1, **fields)


def _call(instance: Instance, path: str, body: object | None = None, key: str | None = None) -> tuple[int, Any]:
    headers = {"Authorization": f"Bearer {instance.api_key if key is None else key}", "Content-Type": "application/json"}
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(instance.base_url + path, data, headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as reply:
            return reply.status, json.loads(reply.read() or b"null")
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read() or b"null")


async def call(instance: Instance, path: str, body: object | None = None, key: str | None = None) -> tuple[int, Any]:
    return await asyncio.to_thread(_call, instance, path, body, key)


def gone(pid: int | None) -> bool:
    assert pid is not None
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return True
    return state == "Z"


def parent(pid: int | None) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def arguments(pid: int | None) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text()
