"""Builds a running gateway from a configuration, and takes it down again: the only place that knows all parts."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from backends.http import Clients
from gateway import build, logs, views
from gateway.admin.app import create
from gateway.admin.chat import DataPort
from gateway.admin.guard import Access
from gateway.admin.state import Snapshot
from gateway.app import App, safely
from gateway.config import Config, ConfigError
from gateway.config_check import is_loopback
from gateway.fleet import Fleet
from gateway.front import Front
from gateway.metrics import Metrics
from gateway.record import Record
from gateway.recorder import Recorder
from gateway.serve import Core
from gateway.server import Server, SocketError, listen, settings
from routing.types import Replica

log = logging.getLogger("pointsman")
FIRST_LOOK_SECONDS = 3.0
SWEEP_SECONDS = 1.0
Read = Callable[[], Config]
Banner = Callable[[int, int | None, Sequence[str]], None]


class Gateway:
    """One process's gateway. `read` gives the configuration anew for a reload. An `AdminState` for the control plane."""

    def __init__(self, config: Config, *, asgi: bool = False, read: Read | None = None) -> None:
        self.configuration, self.asgi, self.read = config, asgi, read
        self.started = time.time()
        self.port = 0
        self.admin_port: int | None = None
        self._tasks: list[asyncio.Task[Any]] = []
        self._servers: list[Server] = []
        self._number = 1
        self._problem = ""  # why the last reload was refused

    async def start(self) -> None:
        """Listens when it returns; engines may still be loading. Raises SocketError. Needs a running loop."""
        config = self.configuration
        data = listen(config.server.host, config.server.port)
        admin = None
        try:
            if config.server.admin.port is not None:
                admin = listen(config.server.admin.host, config.server.admin.port)
        except SocketError:
            data.close()
            raise
        self.clients = Clients(asyncio.get_running_loop())
        self.figures = Metrics()
        self.recorder = Recorder(self.figures)
        self.recorder.soon = self.clients.loop.call_soon
        self.fleet = Fleet(self.clients, self._on_health, self._rebuild)
        await self.fleet.apply(config)
        await self.fleet.first_look(FIRST_LOOK_SECONDS)
        self.core = Core(build.generation(1, config, self.fleet), self.clients, self.recorder)
        self._gauges()
        await self._listen(config, data, admin)
        self._tasks = [asyncio.create_task(w) for w in (self.core.run(), self.recorder.run(), self._sweep())]

    async def _listen(self, config: Config, data: Any, admin: Any) -> None:
        self.app = safely(App(self.core, self.metrics))
        server = settings(config.server, self.app, "httptools" if self.asgi else Front)
        server.app_core = self.core  # type: ignore[attr-defined]
        self._servers = [Server(server, data)]
        self.port = self._servers[0].port
        if admin is not None:
            loopback = is_loopback(config.server.admin.host)
            plane = create(self, access=self._access(), loopback=loopback, data=self._data_port())
            self._servers.append(Server(settings(config.server, plane, tls=False), admin))
            self.admin_port = self._servers[1].port
        for s in self._servers:
            await s.start()

    def _access(self) -> Access:
        def admin_key(key: str) -> bool:
            from gateway.auth import digest

            tenant = self.core.door.tenants.get(digest(key))
            return tenant is not None and tenant.admin

        has_admin = any(t.admin for t in self.core.door.tenants.values())
        return Access(authorize=admin_key) if has_admin else Access()

    def _data_port(self) -> DataPort:
        return DataPort(self.base_url.removesuffix("/v1"), self.configuration.server.tls.cert if self.configuration.server.tls else "")

    @property
    def base_url(self) -> str:
        """What a client on this machine puts into its SDK."""
        from gateway.cli_banner import origin

        server = self.configuration.server
        return origin(server.host, self.port, server.tls is not None) + "/v1"

    # --- what changes while it runs
    def _on_health(self, replica: Replica) -> None:
        if hasattr(self, "core"):
            self.core.wake(replica)

    def _rebuild(self) -> None:
        """New routes from what the fleet has found."""
        if hasattr(self, "core"):
            self._number += 1
            self.core.swap(build.generation(self._number, self.configuration, self.fleet))

    async def _sweep(self) -> None:
        """Once a second: connections that idle or dawdle."""
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            for connection in [*self._servers[0].connections]:
                if isinstance(connection, Front):
                    connection.tick(self.clients.now)

    async def stop(self) -> None:
        """Takes no more, lets what is under way finish for `drain_seconds`, ends the rest with an error, stops the engines."""
        core = getattr(self, "core", None)
        if core is None:
            return
        core.draining = True
        await self._drain(core)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.fleet.stop()
        self.clients.close()

    async def _drain(self, core: Core) -> None:
        stopping = [asyncio.create_task(s.stop(self.configuration.server.drain_seconds + 5)) for s in self._servers]
        if not stopping:
            return
        await asyncio.wait(stopping, timeout=self.configuration.server.drain_seconds)
        core.cut()
        await asyncio.gather(*stopping)

    # --- AdminState
    def snapshot(self) -> Snapshot:
        warnings = [f"The last reload was refused: {self._problem}"] if self._problem else []
        return views.snapshot(
            self.core, self.fleet, started=self.started, base_url=self.base_url, traffic=self.recorder.traffic(), warnings=warnings
        )

    def recent(self, limit: int) -> list[Record]:
        return self.recorder.recent(limit)

    def engine_log(self, name: str, lines: int) -> list[str]:
        instance = self.fleet.instance(name)
        if instance is None:
            raise KeyError(name)
        return instance.log.tail(lines)

    def config(self) -> dict[str, object]:
        built: dict[str, object] = msgspec.to_builtins(self.configuration, enc_hook=str)
        return built

    def metrics(self) -> str:
        return self.figures.render()

    async def restart_engine(self, name: str) -> None:
        if self.fleet.instance(name) is None:
            raise KeyError(name)
        self.fleet.supervisor.restart(name)

    async def reload(self) -> dict[str, object]:
        """Builds the new generation beside the old one and swaps; a configuration with an error changes nothing. ValueError then."""
        if self.read is None:
            raise ValueError("this gateway was started without a configuration to read again")
        try:
            config = self.read()
        except ConfigError as e:
            self._problem = str(e)
            log.error("reload refused, the old configuration runs on: %s", e)
            raise ValueError(str(e)) from None
        return await self.adopt(config)

    async def adopt(self, config: Config) -> dict[str, object]:
        """Makes `config` the one in force for new requests; those under way finish as they began."""
        old = self.configuration
        fixed = [f for f in ("host", "port", "workers", "tls", "admin") if getattr(old.server, f) != getattr(config.server, f)]
        await self.fleet.apply(config)
        await self.fleet.first_look(FIRST_LOOK_SECONDS)
        self.configuration = config
        self._problem = f"server.{', server.'.join(fixed)} changed: that needs a restart" if fixed else ""
        self._rebuild()
        log.info("configuration %d is in force: %d routes", self._number, len(self.core.generation.routes))
        return {"generation": self._number, "routes": sorted(self.core.generation.routes), "needs_restart": fixed}

    def _gauges(self) -> None:
        core, figures, fleet = self.core, self.figures, self.fleet
        figures.callback("pointsman_requests_in_flight", "Requests under way.", lambda: len(core.inflight))
        figures.callback("pointsman_requests_waiting", "Requests that wait for a replica.", lambda: len(core.parked))
        figures.callback(
            "pointsman_replica_in_flight", "Calls under way by replica.", lambda: [({"replica": r.name}, r.inflight) for r in fleet.every()]
        )
        figures.callback(
            "pointsman_replica_up", "1: the replica can be sent calls.", lambda: [({"replica": r.name}, float(r.health == "ready")) for r in fleet.every()]
        )
        for name, help, field in (
            ("pointsman_upstream_connections_opened_total", "Connections opened to backends.", "opened"),
            ("pointsman_upstream_pool_hits_total", "Calls that found an open connection.", "hits"),
            ("pointsman_upstream_stale_total", "Pooled connections that had been closed by the backend.", "stale"),
        ):
            figures.callback(name, help, lambda f=field: sum(getattr(p, f) for p in self.clients.pools.values()), kind="counter")  # type: ignore[misc]


def serve(config: Config, *, asgi: bool = False, banner: Banner | None = None, config_path: Path | None = None, read: Read | None = None) -> int:
    """Runs a gateway until SIGINT or SIGTERM; SIGHUP and a changed file reload. Blocks; returns the exit code."""
    import uvloop

    logs.setup(config.server.log.level, config.server.log.format, bodies=config.server.log.bodies)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        try:
            return runner.run(_serve(config, asgi, banner, config_path, read))
        except SocketError as e:
            sys.stderr.write(f"pointsman: {e}\n")
            return 1


async def _serve(config: Config, asgi: bool, banner: Banner | None, path: Path | None, read: Read | None) -> int:
    gateway = Gateway(config, asgi=asgi, read=read)
    await gateway.start()
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for sig in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(sig, stop.set)
    reload = asyncio.Event()
    loop.add_signal_handler(signal.SIGHUP, reload.set)
    watching = asyncio.create_task(_reloads(gateway, reload, path))
    if banner is not None:
        banner(gateway.port, gateway.admin_port, list(gateway.core.generation.routes))
    await stop.wait()
    watching.cancel()
    await gateway.stop()
    return 0


async def _reloads(gateway: Gateway, asked: asyncio.Event, path: Path | None) -> None:
    """Reloads when asked to, or when the file has changed (looked at once a second: works on every file system)."""
    seen = _stamp(path)
    while True:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1.0):
                await asked.wait()
        now = _stamp(path)
        if asked.is_set() or (now != seen and now is not None):
            asked.clear()
            seen = now
            with contextlib.suppress(ValueError):  # logged, and shown on the status page
                await gateway.reload()


def _stamp(path: Path | None) -> tuple[int, int, int] | None:
    try:
        stat = path.stat() if path is not None else None
    except OSError:
        return None
    return None if stat is None else (stat.st_mtime_ns, stat.st_size, stat.st_ino)
