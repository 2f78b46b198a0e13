"""Runs a gateway until it is told to stop: one process, or several workers; signals, and reloads when the file changes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from gateway import logs, process
from gateway.cluster import Cluster
from gateway.config import Config
from gateway.server import SocketError
from gateway.wiring import Control, Gateway, Read
from routing.pool import out

log = logging.getLogger("pointsman")
Stamp = tuple[int, int, int]  # of a file: time of its last change in ns, size, inode
Banner = Callable[[int, int | None, Mapping[str, str]], None]


def serve(
    config: Config, *, asgi: bool = False, banner: Banner | None = None, config_path: Path | None = None, read: Read | None = None
) -> int:
    """Runs a gateway until SIGINT or SIGTERM; SIGHUP and a changed file reload. SIGTERM gives notice as the configuration says; SIGINT and
    a second signal cut it short. Blocks; returns the exit code."""
    import uvloop

    logs.setup(config.server.log.level, config.server.log.format, bodies=config.server.log.bodies)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        try:
            return runner.run(_serve(config, asgi, banner, config_path, read))
        except SocketError as e:
            sys.stderr.write(f"pointsman: {e}\n")
            return 1


async def _serve(config: Config, asgi: bool, banner: Banner | None, path: Path | None, read: Read | None) -> int:
    read_at = _stamp(path)  # before anything else: what changes while we start is a change
    many = config.server.workers > 1
    gateway: Control = Cluster(config, asgi=asgi, read=read) if many else Gateway(config, asgi=asgi, read=read)
    loop, stop, hurry, reload = asyncio.get_running_loop(), asyncio.Event(), asyncio.Event(), asyncio.Event()

    def told(quickly: bool) -> None:
        if quickly or stop.is_set():  # who says it twice does not want to wait
            hurry.set()
        stop.set()

    for sig in (signal.SIGINT, signal.SIGTERM):  # before anything listens: whoever sees us ready may also stop us
        loop.add_signal_handler(sig, told, sig == signal.SIGINT)
    loop.add_signal_handler(signal.SIGHUP, reload.set)
    try:
        await gateway.start()
    except BaseException:
        await gateway.stop()
        raise
    process.settle()
    watching = asyncio.create_task(_reloads(gateway, reload, path, read_at))
    if banner is not None and not stop.is_set():
        banner(gateway.port, gateway.admin_port, {name: out(route) for name, route in gateway.core.generation.routes.items()})
    await stop.wait()
    watching.cancel()
    await gateway.leave(hurry)
    await gateway.stop()
    return 0


async def _reloads(gateway: Control, asked: asyncio.Event, path: Path | None, seen: Stamp | None) -> None:
    """Reloads when asked to, or when the file has changed (looked at once a second: works on every file system)."""
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


def _stamp(path: Path | None) -> Stamp | None:
    try:
        stat = path.stat() if path is not None else None
    except OSError:
        return None
    return None if stat is None else (stat.st_mtime_ns, stat.st_size, stat.st_ino)
