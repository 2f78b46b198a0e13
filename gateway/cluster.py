"""Several worker processes on one port. The parent alone owns engines, discovery, configuration, the control plane and the sum of
all figures; it serves no request itself. Each worker has a listening socket of its own on the shared port, made here, so that
a worker that dies loses no connection that the kernel has queued: its successor gets the same socket. What workers tell each other
goes through memory that they share (`together`), made here as well.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from backends import scratch
from backends.http import Clients
from gateway import build, views
from gateway.admin.state import INFLIGHT_LIMIT, InflightView, ReplicaView, Snapshot
from gateway.admin.window import merge_traffic
from gateway.channel import Channel, Closed
from gateway.config import Config
from gateway.metrics import Metrics
from gateway.record import Record
from gateway.recorder import Recorder
from gateway.residency_api import gauges
from gateway.residency_demand import Wants
from gateway.serve import Core
from gateway.server import SocketError, listen
from gateway.together.ring import Region
from gateway.wiring import FIRST_LOOK_SECONDS, Control, Read, opened

log = logging.getLogger("pointsman.workers")
REPORT_SECONDS = 1.0
AGAIN_SECONDS, AGAIN_MAX = 0.2, 10.0


class WorkerProcess:
    """The parent's view of one worker: its process, its line, what it last reported."""

    def __init__(self, number: int, sock: socket.socket) -> None:
        self.number, self.sock = number, sock
        self.process: asyncio.subprocess.Process | None = None
        self.channel: Channel | None = None
        self.report: dict[str, Any] | None = None
        self.ready = asyncio.Event()
        self.restarts = 0

    async def spawn(self, cluster: Cluster) -> None:
        """Starts the process and tells it what to serve. Raises OSError, Closed, TimeoutError."""
        ours, theirs = socket.socketpair()
        fds = (theirs.fileno(), self.sock.fileno(), cluster.region.fd)
        argv = [sys.executable, "-m", "gateway.worker", *map(str, (*fds, cluster.region.slots, self.number, cluster.name))]
        self.process = await asyncio.create_subprocess_exec(*argv, pass_fds=fds, stdin=asyncio.subprocess.DEVNULL)
        theirs.close()
        ours.setblocking(False)
        self.channel = Channel({"metrics": cluster.collect, "wants": partial(cluster.wanted, self.number)})
        await self.channel.open(ours)
        self.reading = asyncio.create_task(self.channel.run())
        fleet = cluster.fleet
        config = cluster.for_workers(cluster.configuration)
        await self.channel.call("start", config, cluster.asgi, fleet.told(), seconds=30.0)
        self.ready.set()
        self.tell("follow", *fleet.told())  # what changed while it started
        if cluster.core.leaving:
            self.tell("leave")

    def tell(self, name: str, *args: Any) -> None:
        """Says something to the worker if it is there."""
        if self.channel is not None and self.ready.is_set():
            with contextlib.suppress(Closed):
                self.channel.tell(name, *args)


class Cluster(Control):
    """The parent process. Like `Gateway` for whoever runs it: `start`, `stop`, `reload`, and an `AdminState`."""

    def __init__(self, config: Config, *, asgi: bool = False, read: Read | None = None) -> None:
        super().__init__(config, asgi=asgi, read=read)
        self.workers: list[WorkerProcess] = []
        self.name = secrets.randbits(63) + 1  # of us and our workers, unlike any other's
        self._folder: Path | None = None  # of the responses that no file was named for
        self._buried: list[dict[str, Any]] = []  # the last metrics of workers that have died: their counts must not be lost

    async def start(self) -> None:
        """Listens when it returns, with every worker ready. Raises SocketError."""
        config = self.configuration
        count = config.server.workers
        sockets = [listen(config.server.host, config.server.port, shared=True, later=True)]
        self.port = sockets[0].getsockname()[1]
        sockets += [listen(config.server.host, self.port, shared=True, later=True) for _ in range(count - 1)]
        try:
            await opened(self.wired, config)  # before any worker: they find the file made
        except SocketError:
            for sock in sockets:
                sock.close()
            raise
        self.clients = Clients(asyncio.get_running_loop())
        self.figures, self.recorder = Metrics(), Recorder(Metrics())
        self.fleet = self._fleet()
        await self.fleet.apply(config)
        await self.fleet.first_look(FIRST_LOOK_SECONDS)
        self.core = Core(build.generation(1, config, self.fleet), self.clients, self.recorder)
        self.fleet.places.gauges(self.figures)
        self._experiment(config)
        self.region = Region.create(count)
        self.workers = [WorkerProcess(i, s) for i, s in enumerate(sockets)]
        self._tasks = [asyncio.create_task(self._keep(w)) for w in self.workers]
        self._tasks += [asyncio.create_task(self.core.run()), asyncio.create_task(self._reports())]
        if self.fleet.keeper is not None:
            self.fleet.keeper.ask = self._busy
            gauges(self.figures, self.fleet.keeper)
            self._tasks.append(asyncio.create_task(self.fleet.keeper.run()))
        await asyncio.gather(*(w.ready.wait() for w in self.workers))
        await self._control(config)

    def for_workers(self, config: Config) -> Config:
        """`config` as workers get it: what one process would keep of responses in its memory, they keep in a file for all, which goes when
        the parent goes."""
        if config.server.responses.path is not None:
            return config
        if self._folder is None:
            self._folder = scratch.folder("answers", Path(tempfile.gettempdir()))
        kept = msgspec.structs.replace(config.server.responses, path=f"{self._folder}/responses.db")
        return msgspec.structs.replace(config, server=msgspec.structs.replace(config.server, responses=kept))

    async def _keep(self, worker: WorkerProcess) -> None:
        """Runs one worker for ever: a crash is followed by a new process, sooner or later by how often that happens."""
        while True:
            began = time.monotonic()
            try:
                await worker.spawn(self)
                process = worker.process
                assert process is not None
                await process.wait()
                log.error("worker %d ended with code %s; a new one starts", worker.number, process.returncode)
            except (OSError, TimeoutError) as e:  # Closed is an OSError
                log.error("worker %d did not start: %s", worker.number, e)
                _kill(worker.process)
            worker.ready.clear()
            if self.fleet.keeper is not None:
                self.fleet.keeper.deaf(worker.number)
            if worker.report is not None:
                self._bury(worker.report["metrics"])
                worker.report = None
            worker.restarts = 0 if time.monotonic() - began > 60 else worker.restarts + 1
            await asyncio.sleep(min(AGAIN_MAX, AGAIN_SECONDS * 2**worker.restarts))

    def _bury(self, metrics: dict[str, Any]) -> None:
        self._buried = [Metrics.merge([*self._buried, {**metrics, "extras": []}]).snapshot()]

    async def _reports(self) -> None:
        while True:
            await asyncio.gather(*(self._ask(w) for w in self.workers))
            await asyncio.sleep(REPORT_SECONDS)

    async def _ask(self, worker: WorkerProcess) -> None:
        if worker.channel is not None and worker.ready.is_set():
            with contextlib.suppress(Closed, TimeoutError):
                worker.report = await worker.channel.call("report")

    async def stop(self) -> None:
        """Lets every worker finish what it has under way, then stops the engines."""
        if not hasattr(self, "core"):
            return
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for worker in self.workers:
            worker.sock.close()  # or the kernel would go on queueing what no worker accepts
            worker.tell("stop", self.hurried)
        await asyncio.gather(*(self._ended(w) for w in self.workers))
        await self._stop_control()
        await self.wired.stop()
        await self.fleet.stop()
        self.clients.close()
        self.region.close()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def announce(self) -> None:
        self.core.leaving = True
        for worker in self.workers:
            worker.tell("leave")

    async def wanted(self, worker: int, wants: Mapping[str, Wants]) -> None:
        """A worker says what its calls want of engines."""
        if self.fleet.keeper is not None:
            self.fleet.keeper.heard(worker, wants)

    async def _busy(self, backend: str) -> int | None:
        """Calls that workers have under way on an engine that they have been told is shut; None where one does not say."""

        async def one(worker: WorkerProcess) -> int | None:
            if worker.channel is None:
                return 0
            try:
                calls: int = await worker.channel.call("busy", backend)
            except Closed:
                return 0  # it is gone, and its calls with it
            except TimeoutError:
                return None
            return calls

        told = await asyncio.gather(*(one(worker) for worker in self.workers))
        return None if None in told else sum(calls for calls in told if calls is not None)

    async def _ended(self, worker: WorkerProcess) -> None:
        process = worker.process
        if process is not None and process.returncode is None:
            try:
                async with asyncio.timeout(self.configuration.server.drain_seconds + 8):
                    await process.wait()
            except TimeoutError:
                _kill(process)

    # --- what changes
    def _tell_all(self) -> None:
        for worker in self.workers:
            worker.tell("follow", *self.fleet.told())

    def _on_health(self, replica: Any) -> None:
        self._tell_all()

    def _rebuild(self) -> None:
        super()._rebuild()
        self._tell_all()

    async def adopt(self, config: Config) -> dict[str, object]:
        done = await super().adopt(config)
        for worker in self.workers:
            worker.tell("adopt", self.for_workers(config))
        self._tell_all()
        return done

    # --- AdminState, summed
    def _reported(self) -> list[dict[str, Any]]:
        return [w.report for w in self.workers if w.report is not None]

    async def collect(self) -> str:
        """Fresh figures of every worker, as Prometheus text."""
        await asyncio.gather(*(self._ask(w) for w in self.workers))
        return self.metrics()

    def metrics(self) -> str:
        return Metrics.merge([*self._buried, self.figures.snapshot(), *(r["metrics"] for r in self._reported())]).render()

    def recent(self, limit: int) -> list[Record]:
        records: list[Record] = [record for r in self._reported() for record in r["recent"]]
        return sorted(records, key=lambda record: -(record.unix + record.duration))[:limit]

    def snapshot(self) -> Snapshot:
        reports = self._reported()
        theirs: list[Snapshot] = [r["snapshot"] for r in reports]
        traffic = merge_traffic([r["window"] for r in reports], time.monotonic(), self.began)
        mine = views.snapshot(
            self.core, self.fleet, started=self.started, base_url=self.base_url, traffic=traffic, warnings=self.warnings()
        )
        inflight: list[InflightView] = sorted((i for s in theirs for i in s.inflight), key=lambda i: -i.age)
        total = sum(s.inflight_total for s in theirs)
        return msgspec.structs.replace(
            mine, replicas=[_sum(r, theirs) for r in mine.replicas], inflight=inflight[:INFLIGHT_LIMIT], inflight_total=total,
            experiments=len(self.experiments), residency=self.residency.view(),
            limits={**mine.limits, "workers": len(self.workers), "waiting": sum(int(s.limits.get("waiting") or 0) for s in theirs)},
        )  # fmt: skip


def _sum(replica: ReplicaView, snapshots: list[Snapshot]) -> ReplicaView:
    """One replica over all workers: counts added, the worst state shown."""
    same = [r for s in snapshots for r in s.replicas if r.name == replica.name]
    resting = next((r for r in same if r.state == "resting"), None)
    return msgspec.structs.replace(
        replica, inflight=sum(r.inflight for r in same), total=sum(r.total for r in same),
        failures=max((r.failures for r in same), default=0),
        state=resting.state if resting is not None and replica.state == "up" else replica.state,
        reason=resting.reason if resting is not None and not replica.reason else replica.reason,
    )  # fmt: skip


def _kill(process: asyncio.subprocess.Process | None) -> None:
    if process is not None and process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
