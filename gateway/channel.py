"""A private line between the parent process and one of its workers: calls and notices as pickles over a socket pair.

Both ends are this program, started by the other end with the socket as its only address, so what comes in can be trusted.
"""

from __future__ import annotations

import asyncio
import itertools
import pickle
import socket
import struct
from collections.abc import Awaitable, Callable
from typing import Any

_SIZE = struct.Struct("!I")
MAX_MESSAGE = 64 << 20
Handler = Callable[..., Awaitable[Any]]


class Closed(ConnectionError):
    """The other end is gone."""


class Channel:
    """One end. `handlers` answer the other end's calls; `run` reads until the line closes."""

    def __init__(self, handlers: dict[str, Handler]) -> None:
        self.handlers = handlers
        self._ids = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._writer: asyncio.StreamWriter | None = None

    async def open(self, sock: socket.socket) -> None:
        """Takes over the socket. Call `run` next."""
        self._reader, self._writer = await asyncio.open_connection(sock=sock, limit=1 << 20)

    async def run(self) -> None:
        """Serves the line; returns when the other end has closed it."""
        try:
            while True:
                (size,) = _SIZE.unpack(await self._reader.readexactly(_SIZE.size))
                if size > MAX_MESSAGE:
                    return
                self._take(*pickle.loads(await self._reader.readexactly(size)))
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            self.close()

    def _take(self, number: int, name: str, value: Any) -> None:
        if name == "":  # an answer
            future = self._waiting.pop(number, None)
            if future is not None and not future.done():
                future.set_result(value)
            return
        task = asyncio.create_task(self._answer(number, name, value))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, number: int, name: str, args: tuple[Any, ...]) -> None:
        result = await self.handlers[name](*args)
        if number:
            self._send(number, "", result)

    def _send(self, number: int, name: str, value: Any) -> None:
        if self._writer is None or self._writer.is_closing():
            raise Closed("the other process is gone")
        message = pickle.dumps((number, name, value))
        self._writer.write(_SIZE.pack(len(message)) + message)

    def tell(self, name: str, *args: Any) -> None:
        """Says something and waits for nothing. Raises Closed."""
        self._send(0, name, args)

    async def call(self, name: str, *args: Any, seconds: float = 5.0) -> Any:
        """Asks something and waits for the answer. Raises Closed, or TimeoutError."""
        number = next(self._ids)
        future = self._waiting[number] = asyncio.get_running_loop().create_future()
        try:
            self._send(number, name, args)
            async with asyncio.timeout(seconds):
                return await future
        finally:
            self._waiting.pop(number, None)

    def close(self) -> None:
        """Closes the line; whoever waits gets Closed."""
        if self._writer is not None:
            self._writer.close()
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(Closed("the other process is gone"))
