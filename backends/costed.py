"""The cost of a whole answer as a header of it: `x-pointsman-cost`, in dollars. Only for targets that have a price; others never come here.

A stream has no cost before its end, so it has no such header; its cost is in the record.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from backends import wire
from backends.openai import OpenAILink
from backends.types import Call, Fault, Flight, Receiver, Target, Timeouts, Usage

HEADER = b"x-pointsman-cost"
HELD = 1 << 20  # bytes of an answer that are held for its end; a longer one goes on without its cost
Price = Callable[[Usage], float | None]


def written(dollars: float) -> bytes:
    """Dollars as a header has them: plain digits, down to a billionth."""
    return b"%.9f" % dollars


class Costed:
    """A `Receiver` that holds a whole answer until its usage is there, adds the header, and hands it on to `receiver`."""

    __slots__ = ("headers", "held", "parts", "price", "receiver", "size", "status")

    def __init__(self, receiver: Receiver, price: Price) -> None:
        self.receiver, self.price = receiver, price
        self.status, self.size = 0, 0
        self.headers: Mapping[bytes, bytes] = {}
        self.parts: list[bytes] = []
        self.held = False

    def on_whole(self, status: int, headers: Mapping[bytes, bytes], body: bytes) -> None:
        if status == 200:
            tail = wire.usage_tail(body)
            usage = wire.usage(tail) if tail is not None else None
            dollars = self.price(usage) if usage is not None else None
            if dollars is not None:
                headers = {**headers, HEADER: written(dollars)}
        self.receiver.on_whole(status, headers, body)

    def on_head(self, status: int, headers: Mapping[bytes, bytes]) -> None:
        self.status, self.headers = status, headers
        self.held = status == 200 and not headers.get(b"content-type", b"").lower().startswith(b"text/event-stream")
        if not self.held:
            self.receiver.on_head(status, headers)

    def on_data(self, data: bytes) -> None:
        if not self.held:
            self.receiver.on_data(data)
            return
        self.parts.append(data)
        self.size += len(data)
        if self.size > HELD:
            self.held = False
            self.receiver.on_head(self.status, self.headers)
            self.receiver.on_data(b"".join(self.parts))

    def on_end(self) -> None:
        if self.held:
            self.on_whole(self.status, self.headers, b"".join(self.parts))
        else:
            self.receiver.on_end()

    def on_fault(self, fault: Fault) -> None:
        self.receiver.on_fault(fault)


def costed(call: Call, target: Target, receiver: Receiver) -> Receiver:
    """`receiver`, or one before it that tells the cost, where there is one to tell."""
    return receiver if target.price is None or call.stream else Costed(receiver, target.price)


class PricedLink(OpenAILink):
    """An `OpenAILink` to a provider whose answers cost something."""

    __slots__ = ()

    def send(self, call: Call, target: Target, timeouts: Timeouts | None, receiver: Receiver) -> Flight:
        return super().send(call, target, timeouts, costed(call, target, receiver))
