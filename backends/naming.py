"""Between a translated target and who asked it: reasoning under the name that the route wants (`backends.dialects.reasoning`)."""

from __future__ import annotations

from collections.abc import Mapping

from backends.dialects.reasoning import events, renamed
from backends.types import Fault, Reasoning, Receiver


class Naming:
    """A `Receiver` that renames reasoning in chat answers on their way to `receiver`. Error answers pass as they came."""

    __slots__ = ("good", "receiver", "style")

    def __init__(self, receiver: Receiver, style: Reasoning) -> None:
        self.receiver, self.style = receiver, style
        self.good = False

    def on_whole(self, status: int, headers: Mapping[bytes, bytes], body: bytes) -> None:
        if status == 200:
            streamed = headers.get(b"content-type", b"").startswith(b"text/event-stream")
            body = events(body, self.style) if streamed else renamed(body, "message", self.style)
        self.receiver.on_whole(status, headers, body)

    def on_head(self, status: int, headers: Mapping[bytes, bytes]) -> None:
        self.good = status == 200  # a translated one is a stream, then: what is whole comes in one piece
        self.receiver.on_head(status, headers)

    def on_data(self, data: bytes) -> None:
        out = events(data, self.style) if self.good else data
        if out:
            self.receiver.on_data(out)

    def on_end(self) -> None:
        self.receiver.on_end()

    def on_fault(self, fault: Fault) -> None:
        self.receiver.on_fault(fault)
