"""One worker process of several: `python -m gateway.worker CHANNEL_FD LISTEN_FD MEMORY_FD SLOTS SLOT PARENT`. Serves the data port on a
socket that its parent made; knows of engines and models what the parent says; ends when the parent is gone."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import sys
from collections.abc import Mapping
from typing import Any

import uvloop

from gateway import logs, process
from gateway.channel import Channel, Closed
from gateway.config import Config
from gateway.discovery.finder import Located
from gateway.fleet_types import EngineState, Found
from gateway.residency_demand import Wants
from gateway.together.link import Share
from gateway.wiring import Gateway


class Worker:
    """The worker's end of the channel, and its gateway once the parent has said what to serve."""

    def __init__(self, sock: socket.socket, share: Share) -> None:
        self.sock, self.share = sock, share
        self.gateway: Gateway | None = None
        self.stop, self.began = asyncio.Event(), asyncio.Event()
        self.channel = Channel({
            "start": self.start, "adopt": self.adopt, "follow": self.follow, "report": self.report, "stop": self.ask_stop,
            "busy": self.busy, "leave": self.leave,
        })  # fmt: skip

    async def start(self, config: Config, asgi: bool, told: tuple[Any, ...]) -> bool:
        logs.setup(config.server.log.level, config.server.log.format, bodies=config.server.log.bodies)
        gateway = Gateway(config, asgi=asgi, sock=self.sock, share=self.share)
        gateway.ask_metrics = self._metrics
        gateway.tell_wants = self._wants
        await gateway.start()
        gateway.fleet.follow(*told)
        self.gateway = gateway
        self.began.set()
        process.settle()
        return True

    async def _metrics(self) -> str:
        text: str = await self.channel.call("metrics")
        return text

    def _wants(self, wants: Mapping[str, Wants]) -> None:
        with contextlib.suppress(Closed):  # then this process ends
            self.channel.tell("wants", wants)

    async def busy(self, backend: str) -> int:
        """Calls under way on an engine that `follow` has shut: none will join them. What this process wants is told before the answer."""
        await self.began.wait()
        gateway = self.gateway
        assert gateway is not None
        if gateway.core.residency is not None:
            gateway.core.residency.tick()
        return gateway.fleet.under_way(backend)

    async def adopt(self, config: Config) -> None:
        if self.gateway is not None:
            await self.gateway.adopt(config)

    async def follow(self, states: list[EngineState], found: dict[str, tuple[Found, ...]], located: list[Located]) -> None:
        if self.gateway is not None:
            self.gateway.fleet.follow(states, found, located)

    async def report(self) -> dict[str, Any] | None:
        """Everything that the parent adds up over its workers."""
        gateway = self.gateway
        if gateway is None:
            return None
        return {
            "snapshot": gateway.snapshot(), "recent": gateway.recent(200), "metrics": gateway.figures.snapshot(),
            "window": gateway.recorder.window(),
        }  # fmt: skip

    async def leave(self) -> None:
        if self.gateway is not None:
            self.gateway.announce()

    async def ask_stop(self, hurried: bool) -> None:
        if self.gateway is not None:
            self.gateway.hurried = hurried
        self.stop.set()

    async def run(self, line: socket.socket) -> None:
        """Serves until told to stop, or until the parent is gone."""
        await self.channel.open(line)
        reading = asyncio.create_task(self.channel.run())
        waiting = asyncio.create_task(self.stop.wait())
        await asyncio.wait([reading, waiting], return_when=asyncio.FIRST_COMPLETED)
        if self.gateway is not None:
            await self.gateway.stop()
        self.channel.close()
        waiting.cancel()
        await reading


async def _main(line: socket.socket, listening: socket.socket, share: Share) -> None:
    loop = asyncio.get_running_loop()
    for sig in (signal.SIGINT, signal.SIGHUP):  # a terminal sends them to the whole group; only the parent acts on them
        loop.add_signal_handler(sig, lambda: None)
    await Worker(listening, share).run(line)


def main() -> int:
    """Entry point of the process."""
    line, listening = (socket.socket(fileno=int(fd)) for fd in sys.argv[1:3])
    line.setblocking(False)
    listening.setblocking(False)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_main(line, listening, Share(*map(int, sys.argv[3:7]))))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
