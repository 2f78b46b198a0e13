"""Builds a running gateway from a configuration, and takes it down again: the only place that knows all parts."""

from __future__ import annotations

import asyncio
import importlib
import logging
import socket
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import msgspec

from backends import prices
from backends.http import Clients
from backends.loopback import is_loopback
from backends.types import Fault
from gateway import build, gauges, leaving, process, scheduling, views
from gateway.admin.chat import DataPort
from gateway.admin.guard import Access
from gateway.admin.state import Snapshot
from gateway.app import App, safely
from gateway.auth import digest
from gateway.checks import Checks
from gateway.cli_banner import origin
from gateway.config import Config, ConfigError, Secret
from gateway.experiments import wired
from gateway.experiments.api import Experiments
from gateway.experiments.feedback import Feedbacks
from gateway.experiments.feedback import gauges as feedback_gauges
from gateway.experiments.wired import Wired
from gateway.fleet import Fleet
from gateway.front import Front
from gateway.logs import HIDDEN
from gateway.metrics import Metrics
from gateway.record import Record
from gateway.recorder import Recorder
from gateway.residency_api import ResidencyApi
from gateway.residency_api import gauges as residency_gauges
from gateway.residency_demand import Demand, Tell
from gateway.responses_store import Keep, ResponsesStore
from gateway.scheduling import Scheduling
from gateway.serve import Core, Generation
from gateway.server import Server, SocketError, listen, settings
from gateway.together.link import Share, Together, joined
from gateway.version import VERSION
from routing.types import Replica

log = logging.getLogger("pointsman")
FIRST_LOOK_SECONDS = 3.0
SWEEP_SECONDS = 1.0
FIXED = (
    "host",
    "port",
    "share_port",
    "workers",
    "tls",
    "admin",
    "responses",
    "experiments",
    "redis",
)  # of the server: what a reload does not change
Read = Callable[[], Config]


class Control(ABC):
    """What one process and the parent of several have in common: the fleet, the configuration and its reload, the control plane.
    `read` gives the configuration anew for a reload. An `AdminState`."""

    core: Core
    clients: Clients
    fleet: Fleet
    figures: Metrics
    recorder: Recorder

    def __init__(self, config: Config, *, asgi: bool = False, read: Read | None = None) -> None:
        self.configuration, self.asgi, self.read = config, asgi, read
        self.started, self.began = time.time(), time.monotonic()
        self.port = 0
        self.admin_port: int | None = None
        self._tasks: list[asyncio.Task[Any]] = []
        self._plane: Server | None = None
        self._number = 1
        self.scheduling: Scheduling | None = None  # where calls are served: not in a parent of workers
        self.experiments, self.feedback = Experiments(), Feedbacks()  # both follow the store of experiments
        self.wired = Wired(owner=True)
        self._problem = ""  # why the last reload was refused
        self.hurried = False  # told to stop without notice

    def _fleet(self, *, follows: bool = False) -> Fleet:
        return Fleet(self.clients, self._on_health, self._rebuild, follows=follows)

    # --- the control plane
    async def _control(self, config: Config) -> None:
        """Starts the control plane where it is wanted. Raises SocketError."""
        place = config.server.admin
        if place.port is None:
            return
        sock = listen(place.host, place.port, shared=config.server.share_port)
        # FastAPI takes longer to import than all the rest: requests are served meanwhile.
        create = (await asyncio.to_thread(importlib.import_module, "gateway.admin.app")).create
        tls = config.server.tls
        data = DataPort(self.base_url.removesuffix("/v1"), tls.cert if tls is not None else "")
        plane = create(self, access=self._access(), loopback=is_loopback(place.host), data=data)
        how = settings(config.server, plane, tls=False)
        how.lifespan = "on"  # it holds a client of the data port, which must be closed
        self._plane = Server(how, sock)
        self.admin_port = self._plane.port
        await self._plane.start()

    def _access(self) -> Access:
        def is_admin(key: str) -> bool:
            tenant = self.core.door.tenants.get(digest(key))
            return tenant is not None and tenant.admin

        has_admin = any(t.admin for t in self.core.door.tenants.values())
        return Access(frozenset(h.lower() for h in self.configuration.server.hosts), is_admin if has_admin else None)

    async def _stop_control(self) -> None:
        plane, self._plane = self._plane, None
        if plane is not None:
            await plane.stop(1.0)

    @property
    def base_url(self) -> str:
        """What a client on this machine puts into its SDK."""
        server = self.configuration.server
        return origin(server.host, self.port, server.tls is not None) + "/v1"

    # --- what changes while it runs
    def _on_health(self, replica: Replica) -> None:
        if hasattr(self, "core"):
            if self.scheduling is not None:
                self.scheduling.changed(replica)
            self.core.wake(replica)

    def _rebuild(self) -> None:
        """New routes from what the fleet has found."""
        if hasattr(self, "core"):
            self._number += 1
            self.core.swap(self._generation())
            self.figures.known = self.core.generation.known

    def _generation(self) -> Generation:
        made = build.generation(self._number, self.configuration, self.fleet)
        if self.scheduling is not None:
            self.scheduling.attach(made, build.written(self.configuration, self.fleet), self.configuration)
        return made

    async def reload(self) -> dict[str, object]:
        """Builds the new generation beside the old one and swaps; a configuration with an error changes nothing. ValueError then."""
        if self.read is None:
            raise ValueError("this gateway was started without a configuration to read again")
        try:
            config = self.read()
        except ConfigError as e:
            self._problem = f"The last reload was refused: {e}"
            log.error("reload refused, the old configuration runs on: %s", e)
            raise ValueError(str(e)) from None
        return await self.adopt(config)

    async def adopt(self, config: Config) -> dict[str, object]:
        """Makes `config` the one in force for new requests; those under way finish as they began."""
        old = self.configuration
        fixed = [f for f in FIXED if getattr(old.server, f) != getattr(config.server, f)]
        try:
            await self.wired.open(config)
        except Fault as fault:
            self._problem = f"The last reload was refused: {fault.message}"
            log.error("reload refused, the old configuration runs on: %s", fault.message)
            raise ValueError(fault.message) from None
        await self.fleet.apply(config)
        await self.fleet.first_look(FIRST_LOOK_SECONDS)
        self.configuration = config
        self._problem = f"server.{', server.'.join(fixed)} changed: that needs a restart" if fixed else ""
        self._rebuild()
        self._experiment(config)
        log.info("configuration %d is in force: %d routes", self._number, len(self.core.generation.routes))
        return {"generation": self._number, "routes": sorted(self.core.generation.routes), "needs_restart": fixed}

    def _experiment(self, config: Config) -> None:
        self.wired.follow(config, None if self.scheduling is None else self.core, self.experiments, self.feedback)

    # --- AdminState
    @property
    def residency(self) -> ResidencyApi:
        """What is in memory, and what may be done about it. Not in a worker, which has no control plane."""
        assert self.fleet.keeper is not None
        return ResidencyApi(self.fleet.keeper, self.core)

    def warnings(self) -> list[str]:
        """What an operator should know."""
        return [*([self._problem] if self._problem else []), *self.fleet.places.warnings()]

    def snapshot(self) -> Snapshot:
        shown = views.snapshot(
            self.core, self.fleet, started=self.started, base_url=self.base_url, traffic=self.recorder.traffic(), warnings=self.warnings()
        )
        shown.experiments = len(self.experiments)
        if self.fleet.keeper is not None:
            shown.residency = self.residency.view()
        return shown

    def who(self, key: str) -> str:
        tenant = self.core.door.tenants.get(digest(key))
        return tenant.name if tenant is not None and tenant.admin else ""

    def recent(self, limit: int) -> list[Record]:
        return self.recorder.recent(limit)

    def engine_log(self, name: str, lines: int) -> list[str]:
        instance = self.fleet.instance(name)
        if instance is None:
            raise KeyError(name)
        return instance.log.tail(lines)

    def config(self) -> dict[str, object]:
        built: dict[str, object] = msgspec.to_builtins(self.configuration, enc_hook=_shown)
        return built

    def metrics(self) -> str:
        return self.figures.render()

    async def restart_engine(self, name: str) -> None:
        self.fleet.supervisor.restart(name)

    @abstractmethod
    async def start(self) -> None:
        """Listens when it returns. Raises SocketError."""

    @abstractmethod
    def announce(self) -> None:
        """Says from now on that this gateway goes, and serves on. Idempotent."""

    async def leave(self, hurry: asyncio.Event) -> None:
        """Announces the end, and waits as long as the configuration says, or until there is a hurry. `stop` is to follow."""
        seconds = self.configuration.server.drain_notice_seconds
        if seconds and not hurry.is_set() and hasattr(self, "core"):
            self.announce()
            if self.configuration.server.share_port:  # who comes for the control plane means the gateway that stays
                await self._stop_control()
            await leaving.noticed(seconds, hurry)
        self.hurried = hurry.is_set()

    @abstractmethod
    async def stop(self) -> None:
        """Lets what is under way finish, bounded, and takes everything down."""


def _shown(value: object) -> str:
    """A value of the configuration as anybody may see it."""
    return HIDDEN if isinstance(value, Secret) and value else str(value)


class Gateway(Control):
    """A process that serves the data port: the only one, or a worker.

    A worker gets its listening socket from its parent (`sock`) and its part of the memory that workers share (`share`), has no control
    plane and follows the parent's fleet.
    """

    def __init__(
        self, config: Config, *, asgi: bool = False, read: Read | None = None, sock: socket.socket | None = None, share: Share | None = None
    ) -> None:
        super().__init__(config, asgi=asgi, read=read)
        self.sock, self.share = sock, share
        self.wired.owner = sock is None
        self.together: Together | None = None  # what joins this process to the other workers and gateways
        self.ask_metrics: Callable[[], Awaitable[str]] | None = None
        self.tell_wants: Tell | None = None  # who owns the engines hears here what calls want of them
        self._data: Server | None = None

    async def start(self) -> None:
        """Listens when it returns; engines may still be loading. Raises SocketError. Needs a running loop."""
        config = self.configuration
        sock = self.sock or listen(config.server.host, config.server.port, shared=config.server.share_port, later=True)
        try:
            self.store = await _store(config)
            await opened(self.wired, config, self.store)
        except SocketError:
            sock.close()
            raise
        self.clients = Clients(asyncio.get_running_loop())
        self.figures = Metrics()
        self.recorder = Recorder(self.figures)
        self.recorder.soon = self.clients.loop.call_soon
        self.together = joined(config.server.redis, self.share)
        self.fleet = self._fleet(follows=self.sock is not None)
        await self.fleet.apply(config)
        await self.fleet.first_look(FIRST_LOOK_SECONDS)
        self.scheduling = Scheduling(self.fleet, self.together)
        self.core = Core(self._generation(), self.clients, self.recorder)
        self._residency()
        self.figures.known = self.core.generation.known
        process.measure(self.figures, VERSION, self.started)
        gauges.register(self.figures, self.core, self.fleet)
        scheduling.gauges(self.figures, self.scheduling)
        wired.gauges(self.figures, self.wired)
        feedback_gauges(self.figures, self.feedback)
        self._experiment(config)
        self.checks = Checks(self.fleet)
        server = settings(
            config.server, safely(App(self.core, self.all_metrics, self.store, self.feedback)), "httptools" if self.asgi else Front
        )
        server.app_core = self.core  # type: ignore[attr-defined]
        self._data = Server(server, sock)
        self.port = self._data.port
        await self._data.start()
        self._tasks += [asyncio.create_task(w) for w in (self.core.run(), self.recorder.run(), self._sweep(self._data), self._price())]
        self._tasks += [asyncio.create_task(self.checks.run()), asyncio.create_task(self.scheduling.run())]
        if self.sock is None:
            await self._control(config)

    def _residency(self) -> None:
        """Who hears what calls want of engines that come and go: their owner in this process, or the parent."""
        keeper = self.fleet.keeper
        if keeper is not None:
            residency_gauges(self.figures, keeper)
            self.core.residency = Demand(self.core, self.fleet, partial(keeper.heard, 0))
            self._tasks.append(asyncio.create_task(keeper.run()))
        elif self.tell_wants is not None:
            self.core.residency = Demand(self.core, self.fleet, self.tell_wants)

    async def adopt(self, config: Config) -> dict[str, object]:
        done = await super().adopt(config)
        await self._price()
        return done

    async def _price(self) -> None:
        """Reads the table of prices, in a thread, when there is a backend whose provider it lists."""
        kinds = sorted({backend.kind for backend in self.configuration.backends.values() if build.listed(backend.kind)})
        if kinds and not await asyncio.to_thread(prices.load):
            log.info("costs of %s are told only where `prices` are configured: genai-prices is not installed", ", ".join(kinds))

    async def _sweep(self, server: Server) -> None:
        """Once a second: connections that idle or dawdle."""
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            for connection in [*server.connections]:
                if isinstance(connection, Front):
                    connection.tick(self.clients.now)

    async def stop(self) -> None:
        """Takes no more, lets what is under way finish for `drain_seconds`, ends the rest with an error, stops the engines."""
        if not hasattr(self, "core"):
            return
        if self._data is not None:
            gentle = self.core.leaving and not self.hurried
            self.announce()
            await leaving.depart(self.core, self._data, self.configuration.server.drain_seconds, gentle)
        if self.core.shadows is not None:
            await self.core.shadows.stop()
        await self._stop_control()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self.scheduling is not None:
            await self.scheduling.close()
        if self.together is not None:
            await self.together.close()
        await self.store.stop()
        await self.wired.stop()
        if self.sock is None:
            await self.fleet.stop()
        self.clients.close()

    def announce(self) -> None:
        self.core.leaving = True
        if self._data is not None:
            self._data.leave()
            leaving.announce(self._data.connections)

    async def all_metrics(self) -> str:
        """What the data port shows; a worker asks its parent, who has everybody's."""
        return self.metrics() if self.ask_metrics is None else await self.ask_metrics()


async def _store(config: Config) -> ResponsesStore:
    """The store of responses that the configuration wants, started. Raises SocketError."""
    kept = config.server.responses
    keep = Keep(count=kept.count, bytes=kept.bytes, age=kept.age_seconds, memory=kept.memory_bytes)
    store = ResponsesStore(kept.path, keep, shared=config.server.workers > 1)
    try:
        await store.start()
    except Fault as fault:
        raise SocketError(fault.message) from fault
    return store


async def opened(experiments: Wired, config: Config, responses: ResponsesStore | None = None) -> None:
    """Opens the file of experiments where it is needed; when that fails the responses are closed again. Raises SocketError."""
    try:
        await experiments.open(config)
    except Fault as fault:
        if responses is not None:
            await responses.stop()
        raise SocketError(fault.message) from fault
