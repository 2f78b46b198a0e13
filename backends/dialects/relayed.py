"""chat → chat, for servers of OpenAI's wire format whose path or credentials change from call to call. Pure; nothing is translated.

Azure's deployments have the model in the path, deployed Vertex endpoints take a token that is renewed: both go through the link for
dialects, with this one.
"""

from __future__ import annotations

from urllib.parse import quote

from backends import sse, wire
from backends.dialects.types import Context, Request, Stream
from backends.wire import Doc

MAX_EVENT = 4 * 1024 * 1024  # bytes of one event
_TOO_LONG = b'data: {"error":{"message":"The backend sent an event that is too long.","type":"server_error","code":502}}\n\n'


class Relayed:
    """A `backends.dialects.types.Dialect`. `path` is below the carrier's base; `{model}` in it stands for the target's model."""

    name = "chat"

    def __init__(self, path: str = "/chat/completions") -> None:
        self.path = path

    def request(self, doc: Doc, context: Context) -> Request:
        """The document with the target's model and, in streams, asking for usage. Raises `Fault` when `stream_options` is no object."""
        out = {**doc, "model": wire.raw(context.model)}
        if context.stream:
            out["stream_options"] = wire.raw({**wire.sub(doc, "stream_options"), "include_usage": True})
        return Request(self.path.replace("{model}", quote(context.model, safe="")), wire.encode(out))

    def reply(self, body: bytes, request: Request, context: Context) -> bytes:
        return body

    def stream(self, request: Request, context: Context) -> Stream:
        return _Whole()


class _Whole:
    """A `Stream` that passes whole events as they came."""

    __slots__ = ("_rest",)

    def __init__(self) -> None:
        self._rest: bytes | None = b""

    def feed(self, data: bytes) -> bytes:
        if self._rest is None:
            return b""
        events, self._rest = sse.split(self._rest + data)
        if len(self._rest) > MAX_EVENT:
            self._rest = None
            return events + _TOO_LONG
        return events

    def close(self) -> bytes:
        return b""  # an event without its end is a cut
