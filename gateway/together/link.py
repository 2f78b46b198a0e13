"""Joins schedulers to their peers: workers of one parent over a ring in shared memory, gateways on other hosts over Redis.

One `Together` a process, owned by its event loop. Each group of replicas has a `Peers` (routing/kv_peers); what those say is sent on every
line that there is, and what is heard goes to the group it is for. Who missed something is told so, and asks for it anew.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Sequence
from typing import Protocol
from urllib.parse import unquote, urlsplit

import msgspec

from gateway import logs
from gateway.together import wire
from gateway.together.line import Line, Received, RingLine
from gateway.together.redis import RedisLine
from gateway.together.ring import Region
from routing.kv_peers import Message, Peers

LAG_SECONDS = 0.02  # on the way, where the clocks of two hosts do not agree
LAG_LEAST, LAG_MOST = -0.05, 0.5  # what is believed of clocks on two hosts
SENDERS = 4096  # whose packets are counted

_HERE = frozenset({"localhost", "::1", "0.0.0.0", "::"})

Name = bytes | str | int


class Schedules(Protocol):
    """What is joined: a `routing.kv.Scheduler`."""

    peers: Peers


class Share(msgspec.Struct, frozen=True):
    """A worker's part of its parent's memory: the descriptor, how many slots there are and which is ours, and the parent's name."""

    fd: int
    slots: int
    slot: int
    host: int


class Counts(msgspec.Struct):
    """What went over the lines. For figures."""

    sent: int = 0
    heard: int = 0
    bytes: int = 0  # sent
    bad: int = 0  # packets or messages that could not be read
    missed: int = 0  # times that something was missed


class Together:
    """What this gateway and others tell each other. Every method but `close` is plain, bounded and never blocks.

    `lines`: what carries it, for a gateway of this name and host; `host`: a number that those on our ring share, so that nothing is heard
    twice. `wall` and `steady` are clocks in seconds, Unix time and this host's.
    """

    def __init__(
        self, lines: Callable[[int, int], Sequence[Line]], host: int = 0, wall: Callable[[], float] = time.time,
        steady: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self.name = secrets.randbits(47) + 1
        self.host = host or secrets.randbits(63) + 1
        self.lines = list(lines(self.name, self.host))
        self.counts = Counts()
        self._wall, self._steady = wall, steady
        self._groups: dict[int, Peers] = {}
        self._count = 0
        self._heard: dict[int, int] = {}  # gateway -> the number of its last packet

    def attach(
        self, group: str, scheduler: Schedules, name_of: Callable[[int], Name | None], number_of: Callable[[int], int | None]
    ) -> None:
        """Joins a scheduler to those that serve the same `group` elsewhere; another one of this name is left. `name_of` gives for our
        number of a replica what it is called everywhere: a 64-bit number (`wire.name64`), or bytes or a text that we hash; None for one
        that nobody else has. `number_of` is the way back from that 64-bit number. Mutates the scheduler's `peers`."""
        self.detach(group, scheduler.peers)
        peers = scheduler.peers
        peers.name = self.name
        peers.name_of = lambda number: None if (name := name_of(number)) is None else _number(name)
        peers.number_of = number_of
        self._groups[wire.name64(group)] = peers

    def called(self, url: str, model: str) -> int:
        """What a replica is called everywhere: by its URL and model, and where the URL leads to this host itself, by the host too."""
        host = urlsplit(url).hostname or ""
        here = host in _HERE or host.startswith("127.") or not host
        return wire.name64(url.rstrip("/"), model, str(self.host) if here else "")

    def detach(self, group: str, but: Peers | None = None) -> None:
        """Leaves a group: the others forget what we had booked there. Nothing happens when it is not ours, or is `but` already."""
        name = wire.name64(group)
        peers = self._groups.get(name)
        if peers is not None and peers is not but:
            del self._groups[name]
            self._send(name, peers.farewell(0.0), 0.0)

    def tick(self, now: float) -> bool:
        """To be called every 10 to 20 ms with the schedulers' own time: sends what they have to say, hears what came. True when a booking
        or a cache changed, so that something held may be placed now."""
        changed = False
        for line in self.lines:
            changed |= self._receive(line, line.receive(now), now)
        for group, peers in self._groups.items():
            changed |= peers.sweep(now)
            self._send(group, peers.fetch(now), now)
        return changed

    async def close(self) -> None:
        """Says farewell and leaves; waits half a second at most for Redis. Idempotent."""
        for group, peers in self._groups.items():
            self._send(group, peers.farewell(0.0), 0.0)
        self._groups.clear()
        for line in self.lines:
            await line.close()
        self.lines.clear()

    @property
    def peers(self) -> int:
        """How many other gateways are known in any group."""
        return max((peers.gateways - 1 for peers in self._groups.values()), default=0)

    @property
    def connected(self) -> bool | None:
        """Whether the way to other hosts is open; None where there is none."""
        return next((line.connected.is_set() for line in self.lines if isinstance(line, RedisLine)), None)

    def _send(self, group: int, messages: Sequence[Message], now: float) -> None:
        if not messages or not self.lines:
            return
        self._count += 1
        packet = wire.encode(self.host, self.name, self._count, self._wall(), self._steady(), group, messages, now)
        self.counts.sent += len(messages)
        self.counts.bytes += len(packet)
        for line in self.lines:
            line.send(packet)

    def _receive(self, line: Line, received: Received, now: float) -> bool:
        changed = False
        for source, data in received.packets:
            changed |= self._hear(line, source, data, now)
        for gateway in received.lost:
            self._missed(gateway, now)
        for gateway in received.dead:
            self._heard.pop(gateway, None)
            for peers in self._groups.values():
                changed |= peers.gone(gateway, now)
        if received.deaf:
            self.counts.missed += 1
            for peers in self._groups.values():
                peers.lost_all(now)
        return changed

    def _hear(self, line: Line, source: int, data: bytes, now: float) -> bool:
        try:
            packet = wire.decode(data)
        except wire.BadPacket:
            self.counts.bad += 1
            return False
        if packet.gateway == self.name or (source and source != packet.gateway) or (packet.host == self.host) is not line.near:
            return False
        if not self._counted(packet, now):
            return False
        peers = self._groups.get(packet.group)
        if peers is None:
            return False
        found, bad = wire.messages(packet, now - self._lag(line, packet))
        self.counts.heard += len(found)
        self.counts.bad += bad
        return peers.hear(found, now)

    def _counted(self, packet: wire.Packet, now: float) -> bool:
        """Notices gaps. False for a packet that was heard before."""
        last = self._heard.get(packet.gateway)
        if last is None and len(self._heard) >= SENDERS:
            self._heard.pop(next(iter(self._heard)))
        if last is not None and packet.count <= last:
            return False
        self._heard[packet.gateway] = packet.count
        if last is not None and packet.count > last + 1:
            self._missed(packet.gateway, now)
        return True

    def _missed(self, gateway: int, now: float) -> None:
        self.counts.missed += 1
        for peers in self._groups.values():
            peers.lost(gateway, now)

    def _lag(self, line: Line, packet: wire.Packet) -> float:
        """Seconds since the packet was sent. Where two hosts' clocks cannot both be right, what is usual on the way."""
        if line.near:
            return max(0.0, self._steady() - packet.steady)
        lag = self._wall() - packet.unix
        return max(0.0, lag) if LAG_LEAST <= lag <= LAG_MOST else LAG_SECONDS


def _number(name: Name) -> int:
    return name if isinstance(name, int) else wire.name64(name)


def joined(redis: str | None, share: Share | None) -> Together | None:
    """What this process needs in order to act as one with others; None when there are none. Needs a running loop for Redis."""
    if redis is None and share is None:
        return None
    if redis is not None and (password := urlsplit(redis).password):
        logs.hide(password)
        logs.hide(unquote(password))

    def lines(name: int, host: int) -> list[Line]:
        out: list[Line] = []
        if share is not None:
            out.append(RingLine(Region(share.fd, share.slots), share.slot, name, os.getpid()))
        if redis is not None:
            out.append(RedisLine(redis, host))
        return out

    return Together(lines, 0 if share is None else share.host)
