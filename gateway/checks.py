"""Active health checks of servers that run elsewhere: one GET now and then, never a completion. What is not there is sent no calls, so
that no client is the one to find out; what comes back is used again at once."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from time import monotonic

from backends import catalog
from backends.openai import OpenAILink
from backends.types import Fault, Timeouts
from gateway.config import BackendConfig
from gateway.fleet import Fleet
from routing import health
from routing.types import Replica

USUAL_SECONDS = 15.0  # between two looks at a server of one's own
TURN_SECONDS = 0.5
AGAIN_SECONDS = 1.0  # after a first look that failed; only the second counts
MOST = 32  # looks at once
_LOOK = Timeouts(connect=2.0, first_byte=5.0, idle=5.0, total=5.0)
# These answer GET /health for nothing and without a key. SGLang's would generate a token (its `SGLANG_ENABLE_HEALTH_ENDPOINT_GENERATION`
# is on as it comes), so it is asked for its models, as everything else.
_HEALTH = frozenset({"vllm", "llama-server", "llamacpp", "tgi"})


def interval(backend: BackendConfig) -> float:
    """Seconds between two looks at a backend; 0: none. Commercial providers and servers of no known kind are looked at only when asked."""
    if backend.engine is not None:
        return 0.0  # its supervisor looks
    if backend.health_seconds is not None:
        return backend.health_seconds
    row = catalog.find(backend.kind)
    return USUAL_SECONDS if row is not None and row.local else 0.0


class Checks:
    """Looks at the fleet's replicas, each in its own time with some jitter. `draw`: in [0, 1). Owned by the loop that runs it."""

    def __init__(self, fleet: Fleet, draw: Callable[[], float] = random.random) -> None:
        self.fleet, self.draw = fleet, draw
        self.due: dict[Replica, float] = {}  # monotonic seconds
        self.missed: dict[Replica, int] = {}  # looks that failed in a row
        self.tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Looks for ever; cancel it to stop."""
        try:
            while True:
                await asyncio.sleep(TURN_SECONDS)
                self.turn(monotonic())
        finally:
            for task in self.tasks:
                task.cancel()

    def turn(self, now: float) -> None:
        """Begins the looks that are due, each a task in `tasks`. A replica that is new is looked at within one interval."""
        known: dict[Replica, float] = {}
        for name, replicas in self.fleet.replicas.items():
            seconds = interval(self.fleet.configs[name])
            if seconds:
                known.update(dict.fromkeys(replicas, seconds))
        self.due = {replica: self.due.get(replica, now + self.draw() * seconds) for replica, seconds in known.items()}
        self.missed = {replica: count for replica, count in self.missed.items() if replica in known}
        for replica, seconds in known.items():
            if self.due[replica] <= now and len(self.tasks) < MOST:
                self.due[replica] = now + seconds * (0.8 + 0.4 * self.draw())
                task = asyncio.get_running_loop().create_task(self._look(replica, seconds))
                self.tasks.add(task)
                task.add_done_callback(self.tasks.discard)

    async def _look(self, replica: Replica, seconds: float) -> None:
        link = replica.link
        if not isinstance(link, OpenAILink):
            return
        path = f"{link.root}/health" if link.kind in _HEALTH else f"{link.base}/models"
        try:
            status, _, _ = await link.ask(link.get(path), _LOOK)
            why = f"{replica.name} answered {status} to GET {path}." if status >= 500 else ""
        except Fault as fault:
            why = fault.message
        self.judge(replica, why, seconds, monotonic())

    def judge(self, replica: Replica, why: str, seconds: float, now: float) -> None:
        """What a look found: `why` it is not there, or nothing. Two in a row put it to rest until past the next look."""
        before = self.missed.pop(replica, 0)
        if not why:
            if before > 1:
                health.good(replica)
            return
        self.missed[replica] = before + 1
        if before:
            health.absent(replica, why, now + 2 * seconds + AGAIN_SECONDS)
        elif replica in self.due:
            self.due[replica] = min(self.due[replica], now + AGAIN_SECONDS)
