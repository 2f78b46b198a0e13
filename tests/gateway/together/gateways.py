"""Gateways that only schedule and talk: in this process over lines that tests drive, or as processes of their own on a real ring."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gateway.together import wire
from gateway.together.line import Line, Received
from gateway.together.link import Together
from gateway.together.ring import Region
from routing.kv import Scheduler, Want
from routing.kv_peers import Foreign

ROOT = Path(__file__).parents[3]
BLOCK = 64
NAMES = [wire.name64("http://engine", str(i)) for i in range(4)]


class Air:
    """A line whose packets tests carry over by hand."""

    def __init__(self, near: bool = False) -> None:
        self.near = near
        self.sent: list[bytes] = []
        self.next = Received()
        self.closed = False

    def send(self, packet: bytes) -> None:
        self.sent.append(packet)

    def receive(self, now: float) -> Received:
        out, self.next = self.next, Received()
        return out

    async def close(self) -> None:
        self.closed = True


class Gate:
    """A scheduler over replicas whose caches are guessed, and what joins it to others."""

    def __init__(self, lines: Sequence[Line] | None = None, host: int = 0, wall: float = 1e9, order: Sequence[int] = (0, 1, 2)) -> None:
        self.air = Air()
        self.wall, self.now = wall, 0.0
        self.together = Together(lambda name, host: lines or [self.air], host, lambda: self.wall + self.now, lambda: self.now)
        self.s = Scheduler(len(order), BLOCK, random.Random(1), approximate=4096)
        self.order = list(order)  # our number -> which of NAMES it is
        self.together.attach("m", self.s, lambda i: NAMES[self.order[i]], lambda name: numbers.get(name))
        numbers = {NAMES[k]: i for i, k in enumerate(self.order)}

    def book(self, key: object, replica: int, tokens: int = 6400, blocks: Sequence[int] = ()) -> None:
        """A request goes to that replica, by our number."""
        self.s.force(Want(key, tokens, blocks, self.now), replica, self.now)

    def tick(self, now: float) -> bool:
        self.now = now
        return self.together.tick(now)

    def foreign(self) -> list[tuple[int, bool]]:
        """Peers' bookings, by the shared number of their replica."""
        return sorted((self.order[b.replica], b.answered) for b in self.s.load.bookings.values() if isinstance(b.key, Foreign))


def carry(*gates: Gate, now: float, rounds: int = 4) -> None:
    """What each says reaches all others, until they have answered each other."""
    for _ in range(rounds):
        for gate in gates:
            gate.tick(now)
        for gate in gates:
            for other in gates:
                if other is not gate:
                    other.air.next.packets += [(0, p) for p in gate.air.sent]
            gate.air.sent.clear()


class Child:
    """A gateway in a process of its own, on a slot of a region (None: on no ring); see `child.py`."""

    def __init__(self, region: Region | None, slot: int = 0, redis: str = "", host: int = 77) -> None:
        fd, slots = (region.fd, region.slots) if region is not None else (0, 0)
        argv = [sys.executable, "-m", "tests.gateway.together.child", *map(str, (fd, slots, slot, host, redis))]
        self.process = subprocess.Popen(
            argv, pass_fds=[fd] if slots else [], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT, bufsize=1
        )

    def __call__(self, what: str, *args: Any) -> Any:
        """Calls a method over there."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps([what, *args]) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def end(self, kill: bool = False) -> int:
        """Ends it, well or by SIGKILL, and waits for that: its exit code."""
        if kill:
            self.process.kill()
        self.process.communicate()
        return self.process.returncode
