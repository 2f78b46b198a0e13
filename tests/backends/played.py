"""The upstream client's pool over transports that a test plays."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, cast

from backends.connection import Connection
from backends.http import Clients, Pool
from backends.origin import Origin
from backends.sent import Sent
from backends.types import Timeouts
from tests.backends.seen import Seen

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"
REQUEST = (b"POST / HTTP/1.1\r\n\r\n", b"{}")
T = Timeouts(connect=5.0, first_byte=10.0, idle=20.0, total=100.0)


class Wire:
    """A transport that records. Closing tells the protocol at once, as asyncio does on its next turn."""

    def __init__(self) -> None:
        self.written = b""
        self.reading, self.closed, self.aborted, self.buffered = True, False, False, 0
        self.protocol: Connection | None = None

    def write(self, data: bytes) -> None:
        self.written += data

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = self.aborted = True

    def is_closing(self) -> bool:
        return self.closed

    def get_write_buffer_size(self) -> int:
        return self.buffered

    def pause_reading(self) -> None:
        assert self.reading
        self.reading = False

    def resume_reading(self) -> None:
        assert not self.reading
        self.reading = True


class Played(Pool):
    """A pool whose connections are `Wire`s; opening may be held back or fail."""

    def __init__(self, clients: Clients) -> None:
        super().__init__(clients, Origin("http://h:1"), "gpu", True)
        self.wires: list[Wire] = []
        self.error: Exception | None = None
        self.gate: asyncio.Event | None = None

    async def _open(self) -> Connection:
        if self.gate is not None:
            await self.gate.wait()
        if self.error is not None:
            raise self.error
        conn, wire = Connection(self), Wire()
        conn.connection_made(cast(Any, wire))
        wire.protocol = conn
        self.wires.append(wire)
        return conn

    def conn(self, n: int = -1) -> Connection:
        found = self.wires[n].protocol
        assert found is not None
        return found


def played(work: Callable[[Played], Awaitable[None]]) -> None:
    async def run() -> None:
        clients = Clients(asyncio.get_running_loop())
        pool = Played(clients)
        clients.pools[("gpu", "http://h:1", True)] = pool
        await work(pool)

    asyncio.run(run())


async def sent(pool: Played, timeouts: Timeouts = T, seen: Seen | None = None) -> tuple[Seen, Sent]:
    """A request whose connection is made."""
    seen = seen or Seen()
    flight = pool.send(REQUEST, seen, timeouts)
    assert not seen.calls
    if isinstance(flight.task, asyncio.Task):
        await asyncio.wait([flight.task])
    return seen, flight
