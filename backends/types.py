"""The words that every layer shares: a call, where it may go, what came back, and how it failed.

Nothing here does I/O or reads a clock. Times are seconds; monotonic unless the name says `unix`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, Protocol

import msgspec

Kind = Literal[
    "bad_request", "auth", "forbidden", "not_found", "too_large", "rate_limited", "overloaded", "unavailable", "timeout", "cancelled",
    "upstream",
]  # fmt: skip
Origin = Literal["client", "gateway", "backend"]
Reasoning = Literal["reasoning_content", "reasoning", "both", "none"]

DEFAULT_STATUS: Mapping[str, int] = {
    "bad_request": 400, "auth": 401, "forbidden": 403, "not_found": 404, "too_large": 413, "rate_limited": 429,
    "overloaded": 503, "unavailable": 503, "timeout": 504, "cancelled": 499, "upstream": 502,
}  # fmt: skip


class Fault(Exception):
    """A call that failed: what happened (`kind`), whose fault it is (`origin`), and what the client is told.

    `status` is the HTTP status for the client. `retry` says whether another replica may succeed where this one did not.
    `retry_after` is in seconds. `code`, `type` and `param` go into the OpenAI error envelope when set.
    """

    def __init__(
        self,
        kind: Kind,
        message: str,
        *,
        origin: Origin = "gateway",
        status: int = 0,
        code: str | None = None,
        type: str | None = None,
        param: str | None = None,
        retry: bool = False,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.kind, self.message, self.origin = kind, message, origin
        self.status = status or DEFAULT_STATUS[kind]
        self.code, self.type, self.param = code, type, param
        self.retry, self.retry_after = retry, retry_after

    def __repr__(self) -> str:
        return f"Fault({self.kind} {self.status} by {self.origin}: {self.message})"


class Usage(msgspec.Struct, frozen=True):
    """Token counts of one answer. The counts are disjoint and addable: total input = input + cached + cache_write."""

    input: int = 0
    cached: int = 0
    cache_write: int = 0
    output: int = 0
    reasoning: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.input + other.input, self.cached + other.cached, self.cache_write + other.cache_write,
            self.output + other.output, self.reasoning + other.reasoning,
        )  # fmt: skip


class Timeouts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Seconds a backend may take: to accept a connection, to send the first byte, between two bytes, and in all.

    `first_token`: until the first content of a stream, as comments and roles are none; None: only the other limits hold. `min_rate`:
    tokens a second that a stream must give on the mean over `rate_window` seconds, once it has begun; 0: any.
    """

    connect: float = 5.0
    first_byte: float = 600.0
    idle: float = 300.0
    total: float = 3600.0
    first_token: float | None = None
    min_rate: float = 0.0
    rate_window: float = 10.0


class Target(msgspec.Struct, frozen=True):
    """One place a route may send a call: a model on a backend. From configuration, never changed.

    For backends whose dialect is translated: `facts`, fields of `dialects.types.Facts` that configuration knows better than the table;
    `strict`, whether what cannot be honoured is refused; `reasoning`, what it is called in answers. `price`: dollars for the tokens of one
    answer, None when no price is known.
    """

    backend: str
    model: str
    weight: float = 1.0
    unsupported: frozenset[str] = frozenset()
    context: int | None = None
    labels: Mapping[str, str] = {}
    facts: Mapping[str, Any] = {}
    strict: bool = True
    reasoning: Reasoning = "reasoning_content"
    price: Callable[[Usage], float | None] | None = None


class Call(msgspec.Struct, frozen=True, gc=False):
    """One request as the client meant it. `doc` holds the JSON body's top-level values as raw slices. `surface`: which surface of ours
    reads the answer, in the hub's own form; empty for a client of `api` itself. `private`: what it says must stay here, and in memory."""

    id: bytes
    api: str
    model: str
    stream: bool
    doc: dict[str, msgspec.Raw]
    tenant: str
    headers: Mapping[bytes, bytes]
    received: float
    surface: str = ""
    private: bool = False


class Receiver(Protocol):
    """What takes an upstream answer. All methods are plain calls made on the event loop, in order:
    `on_head` once, `on_data` any number of times, then exactly one of `on_end` and `on_fault`
    (`on_fault` may also come first). `on_whole` stands for all of them when a whole answer came in one piece; its flight is over
    already. After `Flight.cancel` nothing more is called."""

    def on_whole(self, status: int, headers: Mapping[bytes, bytes], body: bytes) -> None: ...

    def on_head(self, status: int, headers: Mapping[bytes, bytes]) -> None: ...

    def on_data(self, data: bytes) -> None: ...

    def on_end(self) -> None: ...

    def on_fault(self, fault: Fault) -> None: ...


class Flight(Protocol):
    """One upstream request under way. `cancel` is idempotent and frees the connection at once."""

    def pause(self) -> None: ...

    def resume(self) -> None: ...

    def cancel(self) -> None: ...
