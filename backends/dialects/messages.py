"""The surface Anthropic Messages (`POST /v1/messages`, `/v1/messages/count_tokens`) → chat, so that the Anthropic SDK and
Claude Code work on every backend. Pure. Headers (`anthropic-version`, `anthropic-beta`) are not read: what a beta adds to the
document is mapped, or noted, by its own name.
"""

from __future__ import annotations

from backends import wire
from backends.dialects.messages_error import error
from backends.dialects.messages_params import params, value
from backends.dialects.messages_read import Report
from backends.dialects.messages_reply import reply
from backends.dialects.messages_stream import MessagesStream
from backends.dialects.messages_turns import system, turns
from backends.dialects.types import Context, Note, SurfaceStream
from backends.types import Fault
from backends.wire import Doc


class Messages:
    """`Surface` of Anthropic Messages. `strict`: what only Anthropic can do is refused by name; else it is dropped with a note."""

    name = "messages"

    def __init__(self, strict: bool = True) -> None:
        self.strict = strict

    def request(self, doc: Doc) -> tuple[Doc, tuple[Note, ...]]:
        """See `Surface.request`. Raises `Fault` (bad_request, client) whose `param` is a path in the client's document."""
        return self._read(doc, counting=False)

    def counted(self, doc: Doc) -> tuple[Doc, tuple[Note, ...]]:
        """The same for `count_tokens`, which takes no `max_tokens`: the chat document whose prompt is to be counted."""
        return self._read(doc, counting=True)

    def _read(self, doc: Doc, counting: bool) -> tuple[Doc, tuple[Note, ...]]:
        report = Report(self.strict)
        out = params(doc, report, counting=counting)
        messages = turns(value(doc, "messages"), report)
        said = system(value(doc, "system"), report)
        if said is not None:
            messages.insert(0, {"role": "system", "content": said})
        out["messages"] = wire.raw(messages)
        return out, tuple(report.notes)

    def reply(self, body: bytes, asked: Doc, context: Context) -> bytes:
        """See `Surface.reply`. Raises `Fault` (upstream) when `body` is no chat completion."""
        return reply(body, asked, context)

    def stream(self, asked: Doc, context: Context) -> SurfaceStream:
        """See `Surface.stream`."""
        return MessagesStream(asked, context)

    def fault(self, fault: Fault, request_id: str) -> bytes:
        """The body of an error answer, as Anthropic writes it."""
        return error(fault, request_id)
