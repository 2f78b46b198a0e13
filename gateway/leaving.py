"""How a data port is left without losing what is under way, nor what a balancer has just sent.

1. *Notice* (`server.drain_notice_seconds`): /ready says no, so a balancer that looks sends no more; what comes is served as ever, but each
   answer says `Connection: close`, so that no proxy keeps the connection (RFC 9112, 9.6). Nobody is refused.
2. The port closes (`quiet`): first it is deaf to new connections, then those that the kernel has made already are taken, then it goes.
   A proxy that still tries is refused before it has sent anything, and may ask another gateway whatever the method.
3. What is under way, or on its way in, is finished (`server.drain_seconds`). A connection whose last answer could not say that it closes,
   a stream that began before the notice, stays for `GRACE_SECONDS` without a request, since a proxy may be sending on it now.

Without notice (Ctrl-C, or 0 seconds) idle connections close at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import logging
import select
import socket
import struct
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from gateway.cold import at_boundary, closes
from gateway.front import BUSY, COLD, IDLE, Front
from gateway.server import Server

if TYPE_CHECKING:
    from gateway.serve import Core

log = logging.getLogger("pointsman")
GRACE_SECONDS = 1.0  # that an unannounced connection idles before it is closed
HANDSHAKE_SECONDS = 0.05  # for handshakes under way when the port goes deaf: a round trip
ACCEPT_TURNS = 1000  # of the loop at most, a millisecond each, for what the kernel holds
LOOK_SECONDS = 0.1
BATCH = 16  # connections between two turns of the loop: what has come on others is seen before they are closed

_SO_ATTACH_FILTER = 26  # socket(7), Linux
# Classic BPF over the TCP header (filter.txt of the kernel): byte 13 has the flags; SYN: drop, else keep.
_NO_SYN = ((0x30, 0, 0, 13), (0x45, 0, 1, 0x02), (0x06, 0, 0, 0), (0x06, 0, 0, 0xFFFFFFFF))


async def noticed(seconds: float, hurry: asyncio.Event) -> None:
    """The time of notice, which ends early when there is a hurry."""
    log.info("told to stop: not ready any more, takes calls for %g s yet", seconds)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await hurry.wait()


async def depart(core: Core, data: Server, seconds: float, gentle: bool) -> None:
    """Closes the port and then, at the latest after `seconds`, every connection; what has no answer by then is answered with an error.
    `gentle`: others were told beforehand, and may still rely on connections that they hold."""
    if gentle and data.sock.fileno() >= 0:  # not stopped before
        await quiet(data.sock)
    core.idle = GRACE_SECONDS if gentle else 0.0
    stopping = asyncio.create_task(data.stop(seconds + 5))
    retiring = asyncio.create_task(retire(core, data))
    try:
        await asyncio.wait([stopping], timeout=seconds)
        core.draining = True
        core.cut()
        await stopping
    finally:
        retiring.cancel()
        await asyncio.gather(retiring, return_exceptions=True)


def announce(connections: Iterable[Any]) -> None:
    """Every connection of ours says with its next answer that it closes. One whose answer has begun cannot; its next one will."""
    for connection in connections:
        if isinstance(connection, Front):
            connection.known = None  # the next head is parsed, which asks `core.leaving`
            if connection.state == BUSY and connection.exchange is not None and not connection.exchange.begun:
                connection.keep = False
        closes(getattr(connection, "inner", connection))


async def quiet(sock: socket.socket) -> None:
    """Lets the listening socket take what the kernel has connected and nothing more; then it may be closed without a reset for anybody.
    Takes 0.05 s, seldom longer, at most some seconds. Needs a server of the running loop that accepts on `sock`. Whole on Linux only:
    elsewhere new connections are not kept out meanwhile."""
    deafen(sock)
    await asyncio.sleep(HANDSHAKE_SECONDS)
    for _ in range(ACCEPT_TURNS):
        if not queued(sock):
            return
        await asyncio.sleep(0.001)  # the loop accepts


def deafen(sock: socket.socket) -> bool:
    """New connections get no answer, and are tried again a second later by who wants them; connections made already are not touched. False
    where the system cannot do that."""
    if not sys.platform.startswith("linux"):
        return False
    code = b"".join(struct.pack("HBBI", *line) for line in _NO_SYN)
    kept = ctypes.create_string_buffer(code)  # alive until the kernel has copied it
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HP", len(_NO_SYN), ctypes.addressof(kept)))
    except OSError:  # a sandbox without filters
        return False
    return True


def queued(sock: socket.socket) -> bool:
    """Whether the kernel holds a connection that nobody has accepted."""
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(0))


async def retire(core: Core, data: Server) -> None:
    """Closes connections of ours as they have idled for long enough (`core.idle`), a few at a time. For ever; cancel it."""
    while True:
        for number, connection in enumerate([*data.connections]):
            if isinstance(connection, Front):
                _settle(connection, core.clients.now)
                connection.tick(core.clients.now)
            if number % BATCH == BATCH - 1:
                await asyncio.sleep(0)
        await asyncio.sleep(LOOK_SECONDS)


def _settle(connection: Front, now: float) -> None:
    """A connection that the inner protocol has answered on is ours again, and idle from now on."""
    inner = connection.inner
    if connection.state == COLD and inner is not None and at_boundary(inner):
        inner._unset_keepalive_if_required()
        connection.state, connection.since = IDLE, now
