"""Anthropic client, Anthropic backend: the relay of a stream in the format of Messages. Pure.

Source of the format: the types of Anthropic's SDK (`RawMessageStreamEvent`) and its documentation of streaming and of errors in it.
"""

from __future__ import annotations

from typing import Any

import msgspec

from backends.sse import What
from backends.types import Usage
from gateway.relay_events import EventRelay, chat_usage, count, told


class _Details(msgspec.Struct):
    thinking_tokens: Any = None


class _Usage(msgspec.Struct):
    input_tokens: Any = None
    cache_read_input_tokens: Any = None
    cache_creation_input_tokens: Any = None
    output_tokens: Any = None
    output_tokens_details: _Details | None = None


class _Message(msgspec.Struct):
    usage: _Usage | None = None


class _Event(msgspec.Struct):
    type: Any = None
    message: Any = None
    delta: Any = None
    content_block: Any = None
    usage: Any = None
    error: Any = None


_message = msgspec.json.Decoder(_Message)
_EMPTY: tuple[Any, ...] = ("", None, [], {})
# Blocks that begin empty, and deltas that may be.
_SILENT = frozenset({None, "text", "thinking", "text_delta", "thinking_delta", "input_json_delta", "signature_delta"})


class MessagesRelay(EventRelay):
    """`EventRelay` of Anthropic Messages: `message_stop` is the end, `message_delta` with a reason the finish. Counts of
    `message_start` and `message_delta` are merged: the later one is cumulative and may leave out what has not changed."""

    mark = b'"message_'  # quotation marks inside JSON strings are escaped: it begins a key or a whole value
    events = msgspec.json.Decoder(_Event)
    __slots__ = ("_usage",)

    def __init__(self, where: str, limit: int) -> None:
        super().__init__(where, limit)
        self._usage = _Usage()

    def _kind(self, seen: _Event, event: bytes, error: bool) -> What:
        """See `EventRelay._kind`."""
        if error or seen.type == "error" or seen.error is not None:
            return self.failed(seen.error if seen.error is not None else {})
        kind = seen.type
        if kind == "message_stop":
            return What.DONE
        if kind == "message_start":
            self._merge(seen.message.get("usage") if isinstance(seen.message, dict) else None)
        elif kind == "message_delta":
            self._merge(seen.usage)
            if isinstance(seen.delta, dict) and seen.delta.get("stop_reason") is not None:
                return What.FINISH
        elif kind == "content_block_start" or kind == "content_block_delta":
            return _shows(seen.content_block if kind == "content_block_start" else seen.delta)
        return What.OTHER

    def _merge(self, told: object) -> None:
        try:
            new = msgspec.convert(told, _Usage)
        except msgspec.ValidationError:
            return
        for field in new.__struct_fields__:
            if getattr(new, field) is not None:
                setattr(self._usage, field, getattr(new, field))
        self.usage_event = chat_usage(_disjoint(self._usage))


def _shows(part: object) -> What:
    """Whether a beginning block or a delta is content: not the empty beginning of a text."""
    if not isinstance(part, dict):
        return What.OTHER
    said = any(value not in _EMPTY for key, value in part.items() if key != "type")
    return What.CONTENT if said or part.get("type") not in _SILENT else What.OTHER


def _disjoint(u: _Usage) -> Usage:
    """Anthropic's counts are disjoint, but for the thinking within the output (trap 41)."""
    out = count(u.output_tokens)
    thought = min(out, count(u.output_tokens_details.thinking_tokens)) if u.output_tokens_details is not None else 0
    return Usage(count(u.input_tokens), count(u.cache_read_input_tokens), count(u.cache_creation_input_tokens), out - thought, thought)


def usage_of(body: bytes) -> bytes | None:
    """See `relay_events.told`."""
    return told(body, _message, _disjoint)
