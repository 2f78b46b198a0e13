"""What an `Exchange` knows of its client: our own protocol, ASGI, or a recording one in tests."""

from __future__ import annotations

from typing import Protocol

from backends.outbox import Writes


class Sink(Protocol):
    """The client's side. `lines` are header lines, each ended by CRLF, without length or framing. After `respond` or `finish` the
    sink is done; `break_off` closes the connection so that the client sees a cut answer. `raw` takes what is a chunk of a begun answer
    already, framing and all, through the loop's `Outbox`; None where every event must pass `send`."""

    @property
    def raw(self) -> Writes | None: ...

    def respond(self, status: int, lines: bytes, body: bytes) -> None: ...

    def begin(self, status: int, lines: bytes, first: bytes) -> None: ...

    def send(self, data: bytes) -> None: ...

    def finish(self, last: bytes) -> None: ...

    def break_off(self) -> None: ...
