"""A request whose body is sent as it comes: uploads that nobody holds whole in memory. What else a request lives through is
`backends.sent`.

An upload has a connection of its own, opened for it and closed after it. A pooled one may have been closed by the backend, and what was
written to it could not be sent again; and an answer that overtakes its request must not leave half a body before the next one.
"""

from __future__ import annotations

import asyncio

import msgspec

from backends.connection import Connection
from backends.http import Pool
from backends.sent import Sent
from backends.types import Fault, Receiver, Timeouts

HIGH_WATER = 256 * 1024  # bytes that may wait for the backend before the sender does


class Fresh(Pool):
    """The same origin as `pool`, but with connections for one request only. It is ticked until its request is over."""

    def __init__(self, pool: Pool) -> None:
        self.clients, self.origin, self.name, self.tls = pool.clients, pool.origin, pool.name, pool.tls
        self.idle: list[Connection] = []
        self.busy: set[Sent] = set()
        self.keep = self.opened = self.hits = self.stale = 0
        self.near, self.lead, self.due = None, 0.0, 0.0  # it connects in a task, and is looked at every time

    def _made(self) -> Connection:
        return Uploading(self)


class Uploading(Connection):
    """The connection of one upload: tells it when there is room to write."""

    __slots__ = ()

    def begin(self, flight: Sent) -> None:
        self.transport.set_write_buffer_limits(HIGH_WATER)
        super().begin(flight)
        if isinstance(flight, Upload):
            flight.room.set()

    def pause_writing(self) -> None:
        if isinstance(self.flight, Upload):
            self.flight.full(True)

    def resume_writing(self) -> None:
        if isinstance(self.flight, Upload):
            self.flight.full(False)

    def _retire(self, flight: Sent, reusable: bool) -> None:
        super()._retire(flight, reusable)
        if isinstance(flight, Upload):
            flight.room.set()


class Upload(Sent, eq=False):
    """One upload under way: a `Flight`. `write` as often as needed, then `finish`.

    The backend's time to answer counts from the end of the body; while that is on its way the backend may take nothing for `Timeouts.idle`
    seconds at most. `started`: monotonic seconds; `left`: bytes still to come, where that is known; `blocked`: since when the backend takes
    nothing; `room`: there is room to write, or it is over; `whole`: all has been sent.
    """

    chunked: bool = False
    left: int = 0
    started: float = 0.0
    blocked: float | None = None
    whole: bool = False
    room: asyncio.Event = msgspec.field(default_factory=asyncio.Event)

    @classmethod
    def to(cls, pool: Pool, head: bytes, length: int | None, receiver: Receiver, timeouts: Timeouts) -> Upload:
        """Begins one to `pool`'s origin. `head` ends before the line of its length. `length`: bytes of the body; None sends it in
        chunks."""
        framing = b"transfer-encoding: chunked\r\n\r\n" if length is None else b"content-length: %d\r\n\r\n" % length
        own, now = Fresh(pool), pool.clients.now
        made = cls(own, (head + framing, b""), receiver, timeouts, now, chunked=length is None, left=length or 0, started=now)
        own.busy.add(made)
        own.connect(made)
        return made

    def __repr__(self) -> str:
        return f"<Upload to {self.pool.name}: {'whole' if self.whole else 'under way'}>"

    async def write(self, data: bytes) -> bool:
        """Sends a piece once there is room. False, and nothing was sent: the answer is whole already, it failed, or it was cancelled.
        ValueError: more than `length` bytes."""
        await self.room.wait()
        conn = self.conn
        if conn is None:
            return False
        if not data:
            return True
        if self.chunked:
            conn.transport.write(b"%x\r\n%b\r\n" % (len(data), data))
            return True
        if len(data) > self.left:
            raise ValueError("an upload is longer than was said")
        self.left -= len(data)
        if not self.left:
            self._sent()  # before the backend can answer
        conn.transport.write(data)
        return True

    async def finish(self) -> bool:
        """The body is whole; the answer may come. False: it is over already. ValueError: fewer than `length` bytes were sent."""
        await self.room.wait()
        conn = self.conn
        if self.left:
            raise ValueError("an upload is shorter than was said")
        if conn is None:
            return False
        if not self.whole:
            self._sent()
            if self.chunked:
                conn.transport.write(b"0\r\n\r\n")
        return True

    def _sent(self) -> None:
        self.whole, self.begun = True, self.pool.clients.now

    def full(self, yes: bool) -> None:
        """The connection says whether it takes more."""
        if yes:
            self.room.clear()
            self.blocked = self.pool.clients.now
        else:
            self.room.set()
            self.blocked = None

    def _free(self) -> None:
        super()._free()
        self.room.set()

    def overdue(self, now: float) -> Fault | None:
        if now - self.started > self.timeouts.total:
            return self._late(f"did not finish within {self.timeouts.total:g} s", "total_timeout")
        if self.whole:
            return super().overdue(now)
        if self.blocked is not None and now - self.blocked > self.timeouts.idle:
            return self._late(f"took nothing for {self.timeouts.idle:g} s", "idle_timeout")
        return None
