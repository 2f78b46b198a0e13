"""OpenAI Responses (`POST /v1/responses`) → chat, so that its clients work on every backend. Pure.

Format: OpenAI's API reference and the types of its official SDK (`openai.types.responses`).

How a caller uses it, `asked` being the client's document:

1. `references(asked)` names stored items that the input refers to; `resolve(asked, items)` puts them in.
2. `join(doc, history(stored))` puts earlier turns before the input and takes `previous_response_id` away.
3. `Responses(strict).request(doc)` gives the chat document. `asked` itself goes to `reply` and `stream`, which tell it back.
4. `input_items(resolved, request_id)` and the Response object (`reply`'s result, or `stream.final`) are what is stored.
"""

from __future__ import annotations

from backends import wire
from backends.dialects.responses_history import counted, deleted, history, input_items, join, listing, references, resolve
from backends.dialects.responses_request import translate
from backends.dialects.responses_state import response_id, response_of
from backends.dialects.responses_stream import ResponsesStream, whole
from backends.dialects.types import Context, Note
from backends.types import Fault
from backends.wire import Doc

__all__ = [
    "Responses", "ResponsesStream", "counted", "deleted", "history", "input_items", "join", "listing", "references", "resolve",
    "response_id", "response_of",
]  # fmt: skip


class Responses:
    """The surface. `strict`: what cannot be honoured is refused (Fault bad_request naming it), else dropped with a Note."""

    name = "responses"

    def __init__(self, strict: bool = True) -> None:
        self.strict = strict

    def request(self, doc: Doc) -> tuple[Doc, tuple[Note, ...]]:
        """The chat document of a request whose earlier turns are joined already. Raises `Fault` (bad_request, client)."""
        return translate(doc, self.strict)

    def reply(self, body: bytes, asked: Doc, context: Context) -> bytes:
        """A `chat.completion` as a Response object. Raises `Fault` (upstream) when it is none."""
        return whole(body, asked, context)

    def stream(self, asked: Doc, context: Context) -> ResponsesStream:
        """A translator of chat events for one request."""
        return ResponsesStream(asked, context)

    def fault(self, fault: Fault, request_id: str) -> bytes:
        """The body of an error answer: the same object as everywhere at OpenAI. The request's id is in a header."""
        return wire.envelope(fault)
