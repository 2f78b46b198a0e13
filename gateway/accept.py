"""Takes in all who wait for a connection, in a turn of the loop that is as long as its work.

libuv, and so uvloop, takes one connection of a listening socket a turn (libuv's pull request 3696). On a core that is full a turn lasts for
some 20 ms, so that whoever came after fifty others would wait for a second. Here the rest are taken in the same turn; asyncio's own loops
do so themselves.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable

AT_ONCE = 64  # connections taken in a turn: some 13 us each, without TLS


class Accepting:
    """Beside a loop's own server on `sock`, which stays the caller's. `protocol` makes what is put on a connection."""

    def __init__(self, sock: socket.socket, protocol: Callable[[], asyncio.Protocol], tls: ssl.SSLContext | None) -> None:
        self._protocol, self._tls = protocol, tls
        self._sock = sock.dup()  # the loop polls a descriptor for one purpose only
        self._opening: dict[asyncio.Task[None], socket.socket] = {}
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._sock.fileno(), self._take)

    def _take(self) -> None:
        """Called while somebody waits. Never blocks."""
        # Nobody is left, or too little of something: then the loop's own server does what can be done.
        with contextlib.suppress(OSError):
            for _ in range(AT_ONCE):
                try:
                    conn, _ = self._sock.accept()
                except ConnectionAbortedError:  # who gave up waiting
                    continue
                conn.setblocking(False)
                task = self._loop.create_task(self._open(conn))
                self._opening[task] = conn
                task.add_done_callback(self._opening.pop)

    async def _open(self, conn: socket.socket) -> None:
        with contextlib.suppress(OSError):  # gone already, or no handshake: as of those that the loop takes, nobody is told
            await self._loop.connect_accepted_socket(self._protocol, conn, ssl=self._tls)

    def close(self) -> None:
        """Takes no more; who was taken is connected all the same. Idempotent."""
        if self._sock.fileno() >= 0:
            self._loop.remove_reader(self._sock.fileno())
            self._sock.close()

    def cut(self) -> None:
        """Ends what is not connected yet, as an unfinished handshake, which would hold up the loop's end for a minute. Idempotent."""
        for conn in [*self._opening.values()]:
            with contextlib.suppress(OSError):
                conn.shutdown(socket.SHUT_RDWR)
