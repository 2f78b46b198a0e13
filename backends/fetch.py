"""One small request whose whole answer is waited for: probes, model lists, token counts."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Protocol

from backends.origin import Origin
from backends.types import Fault, Flight, Receiver, Timeouts

Answer = tuple[int, Mapping[bytes, bytes], bytes]  # status, headers with names in lower case, body


class Carrier(Protocol):
    """What sends prepared requests (head, body) to one origin: `http.Pool`, or its twin on httpx."""

    name: str
    origin: Origin

    def send(self, payload: tuple[bytes, bytes], receiver: Receiver, timeouts: Timeouts) -> Flight: ...

    def drop(self) -> None: ...


class Gather:
    """A `Receiver` that keeps an answer in memory. A subclass says when there is enough (`_grown`, after every piece) and what is told of
    the end (`on_end`, `on_fault`)."""

    def __init__(self) -> None:
        self.status = self.size = 0
        self.headers: Mapping[bytes, bytes] = {}
        self.parts: list[bytes] = []

    @property
    def body(self) -> bytes:
        """All bytes so far."""
        return b"".join(self.parts)

    def on_whole(self, status: int, headers: Mapping[bytes, bytes], body: bytes) -> None:
        self.on_head(status, headers)
        self.on_data(body)
        self.on_end()

    def on_head(self, status: int, headers: Mapping[bytes, bytes]) -> None:
        self.status, self.headers = status, headers

    def on_data(self, data: bytes) -> None:
        self.parts.append(data)
        self.size += len(data)
        self._grown()

    def _grown(self) -> None:
        raise NotImplementedError

    def on_end(self) -> None:
        raise NotImplementedError


class Whole(Gather):
    """Gathers a whole answer of at most `limit` bytes and resolves a future: for probes and small calls."""

    def __init__(self, future: asyncio.Future[Answer], limit: int) -> None:
        super().__init__()
        self.future, self.limit = future, limit
        self.flight: Flight | None = None

    def _grown(self) -> None:
        if self.size > self.limit and self.flight is not None:
            self.flight.cancel()
            message = f"The answer exceeds {self.limit} bytes."
            self.on_fault(Fault("upstream", message, origin="backend", code="answer_too_large", retry=True))

    def on_end(self) -> None:
        if not self.future.done():
            self.future.set_result((self.status, self.headers, self.body))

    def on_fault(self, fault: Fault) -> None:
        if not self.future.done():
            self.future.set_exception(fault)


async def fetch(carrier: Carrier, payload: tuple[bytes, bytes], timeouts: Timeouts, limit: int = 8 << 20) -> Answer:
    """Sends one request and waits for the whole answer: (status, headers in lower case, body). Raises `Fault`. Cancelling
    the caller cancels the request."""
    receiver = Whole(asyncio.get_running_loop().create_future(), limit)
    receiver.flight = carrier.send(payload, receiver, timeouts)
    try:
        return await receiver.future
    finally:
        receiver.flight.cancel()
