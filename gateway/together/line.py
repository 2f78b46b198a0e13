"""What carries packets between gateways: the ring on one host, Redis between hosts. Two implementations of one small interface."""

from __future__ import annotations

import os
from typing import Protocol

import msgspec

from gateway.together.ring import Reader, Region, Writer

ALIVE_SECONDS = 0.1  # between two looks whether the other processes live


class Received(msgspec.Struct):
    """What came since the last time: packets in the order of each sender, with the name of the one who must have sent it (0: anybody)."""

    packets: list[tuple[int, bytes]] = []
    lost: list[int] = []  # gateways of which something was missed
    dead: list[int] = []  # gateways that are gone for certain
    deaf: bool = False  # something was missed, of anybody


class Line(Protocol):
    """Carries packets to all others and brings theirs. No method blocks or raises for what happens on the way."""

    near: bool  # all who are on it share this host's clocks

    def send(self, packet: bytes) -> None:
        """Gives a packet to all others, or loses it, which they will notice."""

    def receive(self, now: float) -> Received:
        """What came since the last call."""

    async def close(self) -> None:
        """Says no more. What was sent before may still go out, for a bounded time."""


class RingLine:
    """The workers of one parent. `slot` is ours; `pid` of this process."""

    near = True

    def __init__(self, region: Region, slot: int, name: int, pid: int) -> None:
        self._region = region
        self._writer = Writer(region, slot, name, pid)
        self._readers = [Reader(region, i) for i in range(region.slots) if i != slot]
        self._looked = float("-inf")
        self.dropped = 0  # packets too long for the ring

    def send(self, packet: bytes) -> None:
        if not self._writer.put(packet):
            self.dropped += 1

    def receive(self, now: float) -> Received:
        out = Received()
        look = now - self._looked >= ALIVE_SECONDS
        if look:
            self._looked = now
        for reader in self._readers:
            before = reader.name
            if reader.look() and before:
                out.dead.append(before)
            if not reader.name:
                continue
            packets, missed = reader.read()
            out.packets += [(reader.name, p) for p in packets]
            if missed:
                out.lost.append(reader.name)
            if look and not alive(reader.pid):
                out.dead.append(reader.name)
        return out

    async def close(self) -> None:
        self._writer.close()
        for reader in self._readers:
            reader.close()
        self._region.close()


def alive(pid: int) -> bool:
    """Whether there is such a process (any user's)."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True
