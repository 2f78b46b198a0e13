"""The upstream HTTP/1.1 client of the data path, on asyncio protocols and llhttp: pooled keep-alive connections, TLS, Unix
sockets, timeouts, bounded heads, back-pressure. No task and no queue on the pooled path: a `Receiver` is called as bytes come.

One `Pool` an origin. `Pool.send` writes a prepared request and returns a `Flight`. A pooled connection that closes before any
byte of its answer is retried once, on a fresh connection; never after one byte. Redirects are not followed: a 3xx is an answer.
Owner of all state: the event loop that calls. `Clients.tick` (every ~100 ms) enforces the timeouts and closes idle connections.
"""

from __future__ import annotations

import asyncio
import time

import httptools

from backends.origin import Origin, tls_context, unreachable
from backends.types import Fault, Receiver, Timeouts

MAX_HEAD = 64 * 1024  # bytes of an answer's head, and of framing between two bytes of its body
MAX_IDLE = 1024  # connections kept per origin
IDLE_SECONDS = 60.0
_lower = bytes.lower
_JOIN = 16 * 1024  # below this, head and body go out in one write


class Sent:
    """One request under way (a `Flight`): where its bytes go and how long it may take."""

    __slots__ = ("begun", "conn", "last", "paused", "payload", "pool", "receiver", "task", "timeouts")

    def __init__(self, pool: Pool, payload: tuple[bytes, bytes], receiver: Receiver, timeouts: Timeouts) -> None:
        self.pool, self.payload, self.timeouts = pool, payload, timeouts
        self.receiver: Receiver | None = receiver
        self.conn: Connection | None = None
        self.task: asyncio.Task[None] | None = None
        self.begun = self.last = pool.clients.now
        self.paused = False

    def pause(self) -> None:
        """Stops reading the answer: back-pressure from a slow client."""
        if not self.paused and self.receiver is not None:
            self.paused = True
            if self.conn is not None:  # while connecting, `Pool._connect` sees to it
                self.conn.transport.pause_reading()

    def resume(self) -> None:
        """Reads on. The idle clock starts anew: the time that we did not read is not the backend's."""
        if self.paused:
            self.paused = False
            self.last = self.pool.clients.now
            if self.conn is not None:
                self.conn.transport.resume_reading()

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
            conn.flight = None
            conn.transport.abort()

    def overdue(self, now: float) -> Fault | None:
        """The fault of the first time limit that has passed by `now`."""
        t = self.timeouts
        if now - self.begun > t.total:
            return self._late(f"did not finish within {t.total:g} s", "total_timeout")
        if self.paused or self.conn is None:  # connecting has its own limit in Pool._connect
            return None
        if not self.conn.answered:
            if now - self.begun > t.first_byte:
                return self._late(f"did not answer within {t.first_byte:g} s", "first_byte_timeout")
        elif now - self.last > t.idle:
            return self._late(f"sent nothing for {t.idle:g} s", "idle_timeout")
        return None

    def _late(self, what: str, code: str) -> Fault:
        return Fault("timeout", f"Backend {self.pool.name} {what}.", origin="backend", code=code, retry=True)


class Connection(asyncio.Protocol):
    """One pooled connection: llhttp framing, lent to one `Sent` at a time."""

    __slots__ = (
        "answered", "complete", "extra", "fields", "flight", "head", "head_told", "headers", "idle_since", "interim", "on_body",
        "on_header", "overhead", "parser", "parts", "pool", "reused", "transport",
    )  # fmt: skip

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.flight: Sent | None = None
        self.headers: dict[bytes, bytes] = {}
        self.fields: dict[bytes, bytes] = {}  # the answer's headers, names in lower case
        self.parts: list[bytes] = []
        self.on_header = self.headers.__setitem__  # C callables: the parser fills these without a Python frame
        self.on_body = self.parts.append
        self.parser = httptools.HttpResponseParser(self)
        self.reused = False
        self.idle_since = 0.0
        self._reset()

    def _reset(self) -> None:
        self.head = 0  # status, once the head is complete
        self.head_told = self.complete = self.interim = self.extra = self.answered = False
        self.overhead = 0

    # --- asyncio's side
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.Transport = transport  # type: ignore[assignment]

    def begin(self, flight: Sent) -> None:
        """Writes the flight's request. The connection must be idle."""
        self.flight, flight.conn = flight, self
        head, body = flight.payload
        if len(body) < _JOIN:
            self.transport.write(head + body)
        else:
            self.transport.write(head)
            self.transport.write(body)

    def data_received(self, data: bytes) -> None:
        flight = self.flight
        if flight is None:  # bytes that nobody asked for: whatever they are, they must not reach the next request
            self.transport.abort()
            return
        self.answered = True
        flight.last = self.pool.clients.now
        broken = None
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError as e:
            broken = str(e) or type(e).__name__
        except httptools.HttpParserUpgrade:
            broken = "it switched protocols"
        parts = self.parts
        if parts:
            body = parts[0] if len(parts) == 1 else b"".join(parts)
            parts.clear()
            self.overhead = 0
        else:
            body = b""
            self.overhead += len(data)
        if self.complete and not self.head_told and not self.extra:
            receiver = flight.receiver
            if receiver is not None:
                status, self.head_told = self.head, True
                self._retire(flight, broken is None)
                receiver.on_whole(status, self.fields, body)
            return
        if self.extra:
            broken, self.complete, body = "it sent a second answer", False, b""  # none of that one may pass as part of the first
        elif self.overhead > MAX_HEAD and not self.complete:
            broken = f"its headers exceed {MAX_HEAD} bytes"
        self._deliver(flight, body, broken)

    def _deliver(self, flight: Sent, body: bytes, broken: str | None) -> None:
        """Hands on what one read brought, in order; any callback may end the flight."""
        receiver = flight.receiver
        if receiver is None:
            return
        if self.head and not self.head_told and not self.extra:
            self.head_told = True
            receiver.on_head(self.head, self.fields)
            if flight.receiver is None:
                return
        if body and self.head_told:
            receiver.on_data(body)
            if flight.receiver is None:
                return
        if self.complete:
            self._finish(flight, reusable=broken is None)
        elif broken is not None:
            flight.fail(_upstream(f"Backend {self.pool.name} broke HTTP: {broken}.", "bad_framing"))

    def on_headers_complete(self) -> None:
        if self.complete:
            self.extra = True
            return
        status = self.parser.get_status_code()
        if 100 <= status < 200:
            self.interim = True
            return
        self.head = status
        headers = self.headers
        self.fields = dict(zip(map(_lower, headers), headers.values(), strict=True))
        headers.clear()

    def on_message_complete(self) -> None:
        if self.interim:
            self.interim = False
            self.headers.clear()
            return
        self.complete = True
        if self.headers:
            self.headers.clear()  # trailers
        # Only inside this callback does llhttp know whether the connection may stay open.
        self.reused = self.parser.should_keep_alive()

    def _finish(self, flight: Sent, reusable: bool) -> None:
        receiver = flight.receiver
        self._retire(flight, reusable)
        assert receiver is not None
        receiver.on_end()

    def _retire(self, flight: Sent, reusable: bool) -> None:
        """The flight is over and the connection goes back to the pool, or is closed."""
        flight.receiver = flight.conn = self.flight = None
        self.pool.busy.discard(flight)
        # An early answer may have overtaken our request: then the rest of its body is still on its way.
        keep = reusable and self.reused and self.transport.get_write_buffer_size() == 0
        self._reset()
        if keep and not self.transport.is_closing():
            if flight.paused:
                self.transport.resume_reading()
            self.pool.put(self)
        else:
            self.transport.close()

    def eof_received(self) -> None:
        flight = self.flight
        fields = self.fields
        framed = b"content-length" in fields or b"chunked" in fields.get(b"transfer-encoding", b"").lower()
        if flight is not None and self.head and not framed and not self.complete:
            self._finish(flight, reusable=False)  # the end of such an answer is the end of the connection (RFC 9112, 6.3)

    def connection_lost(self, exc: Exception | None) -> None:
        self.pool.forget(self)
        flight, self.flight = self.flight, None
        # The parser holds this object and this object the parser's callbacks: break the cycle so that memory goes at once.
        self.parser = self.on_header = self.on_body = None  # type: ignore[assignment]
        if flight is None or flight.receiver is None:
            return
        flight.conn = None
        if self.reused and not self.answered:
            self.pool.stale += 1
            flight.pool.connect(flight)  # closed while idle, most likely: one fresh connection, once
        else:
            what = "closed the connection in the middle of its answer" if self.answered else "closed the connection without an answer"
            flight.fail(_upstream(f"Backend {self.pool.name} {what}.", "connection_lost"))


def _upstream(message: str, code: str) -> Fault:
    return Fault("upstream", message, origin="backend", code=code, retry=True)


class Pool:
    """All connections to one origin. `repr` is written to be read."""

    def __init__(self, clients: Clients, origin: Origin, name: str, verify: bool | str) -> None:
        self.clients, self.origin, self.name = clients, origin, name
        self.idle: list[Connection] = []
        self.busy: set[Sent] = set()
        self.keep = MAX_IDLE  # connections that may idle; none once the pool is closed
        self.opened = self.hits = self.stale = 0
        self.tls = tls_context(verify) if origin.tls else None

    def __repr__(self) -> str:
        counts = f"{len(self.busy)} busy, {len(self.idle)} idle, {self.opened} opened, {self.hits} hits, {self.stale} stale"
        return f"<Pool {self.name} {self.origin}: {counts}>"

    def send(self, payload: tuple[bytes, bytes], receiver: Receiver, timeouts: Timeouts) -> Sent:
        """Sends a request (head, body) as bytes. The receiver is never called before this returns."""
        flight = Sent(self, payload, receiver, timeouts)
        self.busy.add(flight)
        idle = self.idle
        while idle:
            conn = idle.pop()
            if not conn.transport.is_closing():
                self.hits += 1
                conn.begin(flight)
                return flight
        self.connect(flight)
        return flight

    def connect(self, flight: Sent) -> None:
        """Opens a fresh connection for `flight`, in a task of its own."""
        if not self.keep:
            self.clients.leaving.add(self)  # an old call's retry
        flight.task = self.clients.loop.create_task(self._connect(flight))

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
        self.opened += 1
        flight.last = self.clients.now
        conn.begin(flight)
        if flight.paused:
            conn.transport.pause_reading()

    async def _open(self) -> Connection:
        loop, o = self.clients.loop, self.origin
        if o.unix is not None:
            return (await loop.create_unix_connection(lambda: Connection(self), o.unix))[1]
        host = o.host if self.tls else None
        return (await loop.create_connection(lambda: Connection(self), o.host, o.port, ssl=self.tls, server_hostname=host))[1]

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
        for flight in [*self.busy]:
            fault = flight.overdue(now)
            if fault is not None:
                flight.fail(fault)
        if self.idle and now - self.idle[0].idle_since > IDLE_SECONDS:  # oldest first: the list is a stack
            old, self.idle = self.idle, []
            for conn in old:
                if now - conn.idle_since > IDLE_SECONDS:
                    conn.transport.close()
                else:
                    self.idle.append(conn)

    def close(self) -> None:
        """Closes idle connections; flights under way go on, and close theirs when they end."""
        self.keep = 0
        for conn in self.idle[:]:
            conn.transport.close()


class Clients:
    """All pools, and the coarse clock (`now`, monotonic seconds, set by `tick`) that the data path reads."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
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
