"""The upstream HTTP/1.1 client of the data path, on asyncio protocols and llhttp: pooled keep-alive connections, TLS, Unix
sockets, timeouts, bounded heads, back-pressure. `backends.connection` is one connection of it.

One `Pool` an origin. `Pool.send` writes a prepared request and returns a `Flight`; no task and no queue on the pooled path.
Owner of all state: the event loop that calls. `Clients.tick` (every ~100 ms) enforces the timeouts and closes idle connections.
"""

from __future__ import annotations

import asyncio
import time

from backends.connection import Connection
from backends.dial import Address, Dial, Dialing, address
from backends.loopback import is_loopback, unpaced
from backends.origin import Origin, tls_context, unreachable
from backends.outbox import Outbox
from backends.sent import Payload, Sent
from backends.types import Receiver, Timeouts

MAX_IDLE = 1024  # connections kept per origin
IDLE_SECONDS = 60.0


class Pool:
    """All connections to one origin. `repr` is written to be read."""

    near: Address | None
    lead: float
    due: float

    def __init__(self, clients: Clients, origin: Origin, name: str, verify: bool | str) -> None:
        self.clients, self.origin, self.name = clients, origin, name
        self.idle: list[Connection] = []
        self.busy: set[Sent] = set()
        self.keep = MAX_IDLE  # connections that may idle; none once the pool is closed
        self.opened = self.hits = self.stale = 0
        self.near = address(origin)
        self.dialing = Dialing(clients.loop, self._late)
        self.timeouts: Timeouts | None = None  # the last call's
        self.lead, self.due = float("inf"), 0.0  # the shortest time limit of any call, seconds; when to look at the time limits next
        self.tls = tls_context(verify) if origin.tls else None

    def __repr__(self) -> str:
        counts = f"{len(self.busy)} busy, {len(self.idle)} idle, {self.opened} opened, {self.hits} hits, {self.stale} stale"
        return f"<Pool {self.name} {self.origin}: {counts}>"

    def send(self, payload: Payload, receiver: Receiver, timeouts: Timeouts) -> Sent:
        """Sends a request (head, body) as bytes. The receiver is never called before this returns."""
        if timeouts is not self.timeouts:
            self._heed(timeouts)
        flight = Sent(self, payload, receiver, timeouts, self.clients.now)
        self.busy.add(flight)
        idle = self.idle
        while idle:
            conn = idle.pop()
            transport = conn.transport
            if not transport.is_closing():
                self.hits += 1
                conn.flight, flight.conn = flight, conn
                head, body = payload
                put = self.clients.outbox.put
                put(transport, head)
                if body:
                    put(transport, body)
                return flight
        self.connect(flight)
        return flight

    def _heed(self, timeouts: Timeouts) -> None:
        """No time limit of a call passes sooner than `lead` seconds after whatever starts it."""
        self.timeouts = timeouts
        self.lead = min(self.lead, timeouts.first_byte, timeouts.idle, timeouts.total)
        self.due = min(self.due, self.clients.now + self.lead)

    def connect(self, flight: Sent) -> None:
        """Opens a fresh connection for `flight`. Never calls it back before it returns."""
        if not self.keep:
            self.clients.leaving.add(self)  # an old call's retry
        loop = self.clients.loop
        if self.near is None:
            flight.task = loop.create_task(self._connect(flight))
            return
        conn = Connection(self)
        try:
            dial = Dial(loop, conn, self.near)
        except OSError as e:
            loop.call_soon(flight.fail, unreachable(self.name, e, flight.timeouts.connect, self.origin.authority))
            return
        conn.dial, conn.flight, flight.task = dial, flight, dial
        self.dialing.add(dial, flight.timeouts.connect)

    def _late(self, dial: Dial) -> None:
        flight = dial.conn.flight
        if flight is not None:
            flight.fail(unreachable(self.name, TimeoutError(), flight.timeouts.connect, self.origin.authority))

    async def _connect(self, flight: Sent) -> None:
        try:
            async with asyncio.timeout(flight.timeouts.connect):
                conn = await self._open()
        except (OSError, TimeoutError, ValueError) as e:  # ValueError: a host name that cannot be encoded
            flight.task = None
            flight.fail(unreachable(self.name, e, flight.timeouts.connect))
            return
        flight.task = None
        if flight.receiver is None:
            conn.transport.abort()
            return
        if conn.transport.is_closing():  # `connection_lost` knew of no flight
            flight.fail(unreachable(self.name, ConnectionResetError("the connection was closed at once"), flight.timeouts.connect))
            return
        conn.opened(flight)

    async def _open(self) -> Connection:
        loop, o = self.clients.loop, self.origin
        if o.unix is not None:
            return (await loop.create_unix_connection(self._made, o.unix))[1]
        host = o.host if self.tls else None
        transport, conn = await loop.create_connection(self._made, o.host, o.port, ssl=self.tls, server_hostname=host)
        sock = transport.get_extra_info("socket") if is_loopback(o.host) else None
        if sock is not None:
            unpaced(sock)
        return conn

    def _made(self) -> Connection:
        return Connection(self)

    def put(self, conn: Connection) -> None:
        """Takes a connection back at a message boundary."""
        if len(self.idle) >= self.keep:
            conn.transport.close()
            return
        conn.idle_since = self.clients.now
        self.idle.append(conn)

    def forget(self, conn: Connection) -> None:
        """Drops a closed connection from the idle list."""
        if conn.flight is None and conn in self.idle:
            self.idle.remove(conn)

    def drop(self) -> None:
        """Takes itself out of the clients' table: idle connections close, flights under way finish."""
        self.clients.drop(self)

    def tick(self, now: float) -> None:
        """Ends what is overdue and closes connections that have idled too long."""
        if self.busy and now >= self.due:
            self._look(now)
        if self.idle and now - self.idle[0].idle_since > IDLE_SECONDS:  # oldest first: the list is a stack
            old, self.idle = self.idle, []
            for conn in old:
                if now - conn.idle_since > IDLE_SECONDS:
                    conn.transport.close()
                else:
                    self.idle.append(conn)

    def _look(self, now: float) -> None:
        """Ends what is overdue. Until `due` nothing else can be: what begins after now has `lead` seconds at least."""
        due = now + self.lead
        for flight in [*self.busy]:
            fault = flight.overdue(now)
            if fault is not None:
                flight.fail(fault)
            else:
                due = min(due, flight.due(now))
        self.due = due

    def close(self) -> None:
        """Closes idle connections; flights under way go on, and close theirs when they end."""
        self.keep = 0
        for conn in self.idle[:]:
            conn.transport.close()


class Clients:
    """All pools, the coarse clock (`now`, monotonic seconds, set by `tick`) that the data path reads, and what is written at the end of a
    turn of the loop (`outbox`), to clients too."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop, self.outbox = loop, Outbox(loop)
        self.now = time.monotonic()
        self.pools: dict[tuple[str, str, bool | str], Pool] = {}
        self.leaving: set[Pool] = set()  # dropped, with flights under way: their timeouts still hold

    def pool(self, url: str, name: str, verify: bool | str = True) -> Pool:
        """The pool of a backend's URL, made on first need; `name` is how errors call it. Raises ValueError for a URL that is none."""
        key = (name, url, verify)
        found = self.pools.get(key)
        if found is None:
            found = self.pools[key] = Pool(self, Origin(url), name, verify)
        return found

    def drop(self, pool: Pool) -> None:
        """Forgets a pool: idle connections close, flights under way finish."""
        self.pools = {key: p for key, p in self.pools.items() if p is not pool}
        self.leaving.add(pool)
        pool.close()

    def tick(self) -> None:
        """Call every ~100 ms."""
        self.now = now = time.monotonic()
        for pool in [*self.pools.values(), *self.leaving]:
            pool.tick(now)
        self.leaving = {pool for pool in self.leaving if pool.busy}

    def close(self) -> None:
        """Cancels every flight and closes every connection."""
        for pool in [*self.pools.values(), *self.leaving]:
            for flight in [*pool.busy]:
                flight.cancel()
            pool.close()
        self.pools.clear()
        self.leaving.clear()
