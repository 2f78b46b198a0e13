"""What every dialect is made of: the words that translators share. Pure: no I/O, no clock, no event loop.

The hub is the OpenAI chat document. A *provider dialect* turns it into what one provider takes and that provider's answers back
(`chat → anthropic`); a *surface* turns what a client sends into it and chat answers into what that client reads (`messages → chat`).
Same dialect on both sides is a relay and comes through neither.

Beyond OpenAI's own fields the hub carries, so that nothing is lost between any two sides:

- assistant `reasoning_content` (text; `reasoning` is accepted as another name for it),
- assistant `thinking_blocks`: Anthropic's blocks, whole and in order (`{"type":"thinking","thinking":…,"signature":…}`,
  `{"type":"redacted_thinking","data":…}`), in streams as a delta of whole blocks sent when a block has ended,
- `tool_calls[i].extra_content.google.thought_signature`, and `extra_content` of a message for a signature on its text,
- `cache_control` on messages, content parts and tools,
- `native_finish_reason` of a choice where the provider's own word says more than OpenAI's enum.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Protocol

import msgspec

from backends.types import Fault
from backends.wire import Doc

Fate = Literal["mapped", "emulated", "clamped", "dropped", "refused"]


class Note(msgspec.Struct, frozen=True):
    """What became of one parameter that was not simply sent. `param` is a path in the client's document (`messages[2].name`)."""

    param: str
    fate: Fate
    why: str


class Facts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one model on one kind of backend can do, as far as translators need to know. Tokens are counts."""

    context: int | None = None
    max_output: int | None = None  # fills a mandatory max_tokens
    sampling: bool = True  # temperature, top_p, top_k are taken at all
    temperature_with_top_p: bool = True  # both at once
    temperature_max: float = 2.0
    thinking: Literal["none", "budget", "adaptive", "level"] = "none"  # how reasoning is asked for
    forced_tools: bool = True  # tool_choice may force a tool
    prefill: bool = True  # a last message of the assistant is continued
    json_schema: Literal["native", "tool", "none"] = "native"  # structured output
    full_schema: bool = True  # the whole of JSON Schema, or only a subset without $ref
    images: bool = True
    documents: bool = True
    audio: bool = False
    logprobs: bool = False
    seed: bool = False
    many: bool = False  # n > 1
    late_system: bool = False  # a system message after the first turn


class Context(msgspec.Struct, frozen=True):
    """What a translator is told beside the document. `unix`: seconds, for `created`; `id`: this request's id."""

    id: str
    unix: int
    model: str  # the target's own name for the model
    stream: bool = False
    facts: Facts = Facts()
    strict: bool = True  # what cannot be honoured is refused (Fault bad_request with `param`), else dropped with a Note


class Request(msgspec.Struct):
    """A request as a provider takes it. `path` is below the carrier's base. `memo` is the translator's own: what its `reply` and
    `stream` must know of the request (tool names by id, an emulated format)."""

    path: str
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()
    notes: tuple[Note, ...] = ()
    memo: Any = None


class Stream(Protocol):
    """A translator of one streamed answer. `feed` takes bytes cut anywhere and gives whole events, or nothing yet. `close` is called
    once at the clean end of the bytes and gives what is still to be sent. Neither raises: what cannot be read becomes an
    error event (`data: {"error": …}`) of the dialect written."""

    def feed(self, data: bytes) -> bytes: ...

    def close(self) -> bytes: ...


class Dialect(Protocol):
    """chat → one provider. All pure; `request` raises `Fault` (bad_request, client) for what must not be sent."""

    name: str

    def request(self, doc: Doc, context: Context) -> Request: ...

    def reply(self, body: bytes, request: Request, context: Context) -> bytes:
        """A whole good answer as a `chat.completion`. Raises `Fault` (upstream) when it is none."""
        ...

    def stream(self, request: Request, context: Context) -> Stream:
        """Provider's bytes → `chat.completion.chunk` events, usage event and `[DONE]`. An answer that was cut ends without a finish
        reason and without `[DONE]`: the relay then knows."""
        ...


class SurfaceStream(Stream, Protocol):
    """chat events → the surface's. Comments (`: …`) pass as they are. `fail` ends a stream that has begun with the surface's own error."""

    def fail(self, fault: Fault) -> bytes: ...


class Surface(Protocol):
    """One client surface → chat. All pure; `request` raises `Fault` (bad_request, client) with the surface's own parameter names."""

    name: str

    def request(self, doc: Doc) -> tuple[Doc, tuple[Note, ...]]: ...

    def reply(self, body: bytes, asked: Doc, context: Context) -> bytes:
        """A `chat.completion` → the surface's answer. `asked` is the client's own document."""
        ...

    def stream(self, asked: Doc, context: Context) -> SurfaceStream: ...

    def fault(self, fault: Fault, request_id: str) -> bytes:
        """The body of an error answer."""
        ...


Headers = Mapping[bytes, bytes]
