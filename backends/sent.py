"""One request under way over a connection of ours (see `backends.connection`), from its first byte to the last of its answer."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import msgspec

from backends.types import Fault, Receiver, Timeouts

if TYPE_CHECKING:
    from backends.connection import Connection
    from backends.dial import Dial
    from backends.http import Pool
    from backends.splice import Splice

Payload = tuple[bytes, bytes]  # a request: head, body; a short body stands in the head's piece already


class Sent(msgspec.Struct, eq=False):
    """One request under way (a `Flight`): where its bytes go and how long it may take. `begun`: monotonic seconds; `task`: what connects.
    Half as dear to make as an object whose `__init__` is Python."""

    pool: Pool
    payload: Payload
    receiver: Receiver | None
    timeouts: Timeouts
    begun: float
    conn: Connection | None = None
    task: asyncio.Task[None] | Dial | None = None
    paused: bool = False

    def __repr__(self) -> str:  # without the payload, which holds a key
        return f"<Sent {'under way' if self.receiver is not None else 'over'}: {self.pool!r}>"

    def pause(self) -> None:
        """Stops reading the answer: back-pressure from a slow client."""
        if not self.paused and self.receiver is not None:
            self.paused = True
            if self.conn is not None:  # what connects sees to it
                self.conn.transport.pause_reading()

    def resume(self) -> None:
        """Reads on. The idle clock starts anew: the time that we did not read is not the backend's."""
        if self.paused:
            self.paused = False
            if self.conn is not None:
                self.conn.last = self.pool.clients.now
                self.conn.transport.resume_reading()

    def let_pass(self, splice: Splice) -> None:
        """From now on chunks that `splice` knows pass by the receiver, until another comes. Nothing changes in the middle of a chunk."""
        if self.conn is not None and self.conn.between:
            self.conn.splice = splice

    def cancel(self) -> None:
        """Gives the answer up and closes its connection at once, so that the engine stops computing."""
        if self.receiver is not None:
            self.receiver = None
            self._free()

    def fail(self, fault: Fault) -> None:
        """Ends the flight with `fault`."""
        receiver, self.receiver = self.receiver, None
        if receiver is not None:
            self._free()
            receiver.on_fault(fault)

    def _free(self) -> None:
        self.pool.busy.discard(self)
        if self.task is not None:
            self.task.cancel()
            self.task = None
        conn, self.conn = self.conn, None
        if conn is not None:
            conn.flight = conn.splice = None
            conn.transport.abort()

    def overdue(self, now: float) -> Fault | None:
        """The fault of the first time limit that has passed by `now`."""
        t = self.timeouts
        if now - self.begun > t.total:
            return self._late(f"did not finish within {t.total:g} s", "total_timeout")
        if self.paused or self.conn is None:  # connecting has a limit of its own
            return None
        if not self.conn.answered:
            if now - self.begun > t.first_byte:
                return self._late(f"did not answer within {t.first_byte:g} s", "first_byte_timeout")
        elif now - self.conn.last > t.idle:
            return self._late(f"sent nothing for {t.idle:g} s", "idle_timeout")
        return None

    def due(self, now: float) -> float:
        """When the first time limit passes, as things stand; infinity when none is running but those of what comes next."""
        t = self.timeouts
        end = self.begun + t.total
        if self.paused or self.conn is None:
            return end
        return min(end, self.conn.last + t.idle if self.conn.answered else self.begun + t.first_byte)

    def _late(self, what: str, code: str) -> Fault:
        return Fault("timeout", f"Backend {self.pool.name} {what}.", origin="backend", code=code, retry=True)
