"""How many requests begin in one turn of the loop while many streams run.

A request costs its beginning what some thirty chunks cost. Who asks in a crowd would hold up every stream that runs for as long as the
crowd takes; a few at a time, with what has come in for the streams between them, holds up nobody by much, and takes hardly longer.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gateway.auth import Tenant
    from gateway.exchange import Exchange

MANY = 64  # streams that run; with fewer a crowd is soon over
A_TURN = 4
A_SECOND = 5_000  # so many begin at least while turns are long, as on a full core: about a third of its time
MOST = 64  # in one turn, however long the one before was


class Starts:
    """The requests of one loop that have to wait for a turn, in order of arrival. `spare`: how many more streams may run until they do;
    below zero they do. Holds no more than one request of each connection."""

    __slots__ = ("_called", "_left", "_loop", "_since", "_waiting", "spare")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.spare = MANY
        self._loop = loop
        self._left = A_TURN
        self._called = False
        self._since = 0.0  # when this turn began
        self._waiting: deque[tuple[Exchange, bytes, Tenant | None]] = deque()

    def waits(self, exchange: Exchange, body: bytes, tenant: Tenant | None) -> bool:
        """Whether the request has to wait: then it is started in a later turn, unless it is over by then. To be asked while `spare` is
        below zero."""
        if not self._called:
            self._called = True
            self._since = self._loop.time()
            self._loop.call_soon(self._turn)
        if self._left:
            self._left -= 1
            return False
        self._waiting.append((exchange, body, tenant))
        return True

    def _turn(self) -> None:
        lasted = self._loop.time() - self._since
        self._called, self._left = False, min(max(A_TURN, int(lasted * A_SECOND)), MOST)
        waiting = self._waiting
        while waiting and self._left:
            exchange, body, tenant = waiting.popleft()
            if exchange.ended:  # its client has left
                continue
            exchange.start(body, tenant)
            if exchange.paused_at is not None:
                exchange.pause()
