"""A `Receiver` that remembers everything, checks the order of the calls, and lets a test wait for them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from backends.types import Fault

DEADLINE = 30.0  # seconds: how long a test waits for something that must happen


class Written:
    """A transport of which only its writing matters: `write` hears it."""

    def __init__(self, write: Callable[[bytes], object]) -> None:
        self._write = write

    def write(self, data: bytes) -> None:
        self._write(data)


class Seen:
    """`calls` are the names in order; `fault` and `ended` tell how it came out."""

    def __init__(self, on_data: Callable[[Seen], None] | None = None) -> None:
        self.calls: list[str] = []
        self.status = 0
        self.headers: Mapping[bytes, bytes] = {}
        self.body = b""
        self.fault: Fault | None = None
        self.ended = False
        self.hook = on_data
        self._changed = asyncio.Event()

    def _called(self, name: str) -> None:
        assert not self.over, f"{name} after the end: {self.calls}"
        self.calls.append(name)
        self._changed.set()

    @property
    def over(self) -> bool:
        return self.ended or self.fault is not None

    def on_whole(self, status: int, headers: Mapping[bytes, bytes], body: bytes) -> None:
        assert not self.calls, self.calls
        self._called("whole")
        self.status, self.headers, self.body, self.ended = status, headers, body, True

    def on_head(self, status: int, headers: Mapping[bytes, bytes]) -> None:
        assert not self.calls, self.calls
        self._called("head")
        self.status, self.headers = status, headers

    def on_data(self, data: bytes) -> None:
        assert data and self.status, self.calls
        self._called("data")
        self.body += data
        if self.hook is not None:
            self.hook(self)

    def on_end(self) -> None:
        assert self.status
        self._called("end")
        self.ended = True

    def on_fault(self, fault: Fault) -> None:
        self._called("fault")
        self.fault = fault

    async def until(self, holds: Callable[[Seen], bool]) -> None:
        """Waits until `holds(self)`. Raises TimeoutError with what was seen."""
        try:
            async with asyncio.timeout(DEADLINE):
                while not holds(self):
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise TimeoutError(f"never came; seen: {self.calls} {self.status} {len(self.body)} bytes {self.fault!r}") from None

    async def whole(self) -> Seen:
        """Waits for the end, whatever it is."""
        await self.until(lambda s: s.over)
        return self

    @property
    def outcome(self) -> str:
        """`ok`, or the fault's code."""
        return "ok" if self.fault is None else str(self.fault.code)
