"""Connections to literal addresses, opened without a task: a socket that is on its way becomes a transport at once, and what is written
to it goes out when the peer accepts. Linux only, where writing to such a socket means to wait; elsewhere, and for names, TLS and Unix
sockets, `http.Pool` connects in a task.

Who refuses, or cannot be reached, closes the connection with that error. Who says nothing is given up by one timer of all that a pool
is opening.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import os
import socket
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from backends.loopback import unpaced
from backends.origin import Origin

if TYPE_CHECKING:
    from backends.connection import Connection

Address = tuple[int, tuple[str, int], bool]  # family; host, port; whether it is this machine
# With these a connection ends that never was one.
_UNMADE = frozenset({errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN, errno.ENETDOWN, errno.ETIMEDOUT})


def address(origin: Origin) -> Address | None:
    """Where to dial; None where it takes more than that: a name, TLS, a Unix socket, another system."""
    if origin.tls or origin.unix is not None or not sys.platform.startswith("linux"):
        return None
    try:
        ip = ipaddress.ip_address(origin.host)
    except ValueError:
        return None
    if isinstance(ip, ipaddress.IPv4Address):
        return socket.AF_INET, (origin.host, origin.port), ip.is_loopback
    return None if ip.scope_id else (socket.AF_INET6, (origin.host, origin.port), ip.is_loopback)


class Dial:
    """One connection on its way: `conn.dialled` is called within the loop's next turns, connected or not.

    Raises OSError when it failed at once. Does not block.
    """

    __slots__ = ("conn", "sock", "waiting")

    def __init__(self, loop: asyncio.AbstractEventLoop, conn: Connection, to: Address) -> None:
        self.conn = conn
        self.sock = sock = socket.socket(to[0], socket.SOCK_STREAM | socket.SOCK_NONBLOCK, socket.IPPROTO_TCP)
        if to[2]:
            unpaced(sock)
        failed = sock.connect_ex(to[1])
        if failed and failed != errno.EINPROGRESS:
            sock.close()
            raise OSError(failed, os.strerror(failed))
        # Waits only for its own `connection_made`, a callback or two: no work for a task.
        self.waiting = loop.create_connection(lambda: conn, sock=sock)
        self._go_on()

    def _go_on(self, _: object = None) -> None:
        try:
            pending: asyncio.Future[Any] = self.waiting.send(None)
        except StopIteration:
            self.conn.dialled()
        except (OSError, RuntimeError) as e:  # the loop is closing
            self.sock.close()
            self.conn.connection_lost(e)
        else:
            pending.add_done_callback(self._go_on)

    def cancel(self) -> None:
        """Gives it up: `dialled` will close what nobody wants. Idempotent."""
        self.conn.flight = None

    @property
    def made(self) -> bool:
        """Whether the peer has accepted."""
        try:
            self.sock.getpeername()
        except OSError:
            return False
        return True


def unmade(error: Exception | None) -> bool:
    """Whether a connection that ended with `error` never was one."""
    return isinstance(error, OSError) and error.errno in _UNMADE


class Dialing:
    """What a pool is opening, and the timer that gives up what takes too long. Bounded by the calls under way."""

    def __init__(self, loop: asyncio.AbstractEventLoop, late: Callable[[Dial], None]) -> None:
        self.loop, self.late = loop, late
        self.until: dict[Dial, float] = {}  # loop's seconds
        self.timer: asyncio.TimerHandle | None = None

    def add(self, dial: Dial, seconds: float) -> None:
        """`late` is called for it unless it is made, or dropped, within `seconds`."""
        self.until[dial] = at = self.loop.time() + seconds
        if self.timer is None or at < self.timer.when():
            self._arm(at)

    def drop(self, dial: Dial) -> None:
        """It is over. Idempotent."""
        self.until.pop(dial, None)

    def _arm(self, at: float) -> None:
        if self.timer is not None:
            self.timer.cancel()
        self.timer = self.loop.call_at(at, self._look)

    def _look(self) -> None:
        self.timer, now = None, self.loop.time()
        made = [dial for dial in self.until if dial.made]
        for dial in made:
            del self.until[dial]
        # A clock of whole milliseconds may wake us just before the time.
        for dial in [dial for dial, at in self.until.items() if at - now < 0.001]:
            del self.until[dial]
            self.late(dial)
        if self.until and self.timer is None:
            self._arm(min(self.until.values()))
