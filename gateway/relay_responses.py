"""Responses client, backend that speaks Responses: the relay of a stream in OpenAI's format of events. Pure.

Source of the format: the types of OpenAI's SDK (`ResponseStreamEvent`, `ResponseUsage`, `ResponseError`).
"""

from __future__ import annotations

from typing import Any

import msgspec

from backends.sse import What
from backends.types import Usage
from gateway.relay_events import EventRelay, chat_usage, count, told


class _InputDetails(msgspec.Struct):
    cached_tokens: Any = None
    cache_write_tokens: Any = None


class _OutputDetails(msgspec.Struct):
    reasoning_tokens: Any = None


class _Usage(msgspec.Struct):
    input_tokens: Any = None
    input_tokens_details: _InputDetails | None = None
    output_tokens: Any = None
    output_tokens_details: _OutputDetails | None = None


class _Response(msgspec.Struct):
    usage: _Usage | None = None
    error: Any = None


class _Event(msgspec.Struct):
    type: Any = None
    response: msgspec.Raw = msgspec.Raw(b"null")
    delta: Any = None
    item: Any = None
    error: Any = None
    code: Any = None
    message: Any = None
    param: Any = None


_response = msgspec.json.Decoder(_Response)
_ENDS = frozenset({"response.completed", "response.incomplete"})
_FAILS = frozenset({"response.failed", "response.cancelled"})
_SILENT = frozenset({"message", "reasoning"})  # items that begin empty


class ResponsesRelay(EventRelay):
    """`EventRelay` of OpenAI Responses: `response.completed` and `response.incomplete` are the end.

    `response.failed` is a fault, and is kept in `done`: a stream that has begun may end with it, since it is whole and says
    more than an error event of ours.
    """

    # Quotation marks inside JSON strings are escaped, so this is a key; all events that tell of the response as a whole have it.
    mark = b'"response":'
    events = msgspec.json.Decoder(_Event)
    __slots__ = ()

    def _kind(self, seen: _Event, event: bytes, error: bool) -> What:
        """See `EventRelay._kind`."""
        if seen.type in _ENDS or seen.type in _FAILS:
            return self._end(seen, event)
        if error or seen.type == "error" or seen.error is not None:
            flat = {"message": seen.message, "code": seen.code, "param": seen.param}
            return self.failed(seen.error if seen.error is not None else flat)
        return _shows(seen)

    def _end(self, seen: _Event, event: bytes) -> What:
        try:
            response = _response.decode(seen.response)
        except (msgspec.MsgspecError, RecursionError):
            response = _Response()
        if response.usage is not None:
            self.usage_event = chat_usage(_disjoint(response.usage))
        if seen.type in _ENDS:
            return What.DONE
        self.done = event
        return self.failed(response.error if response.error is not None else {"message": "The response failed without a reason."})


def _shows(seen: _Event) -> What:
    """Whether an event that is neither an end nor an error shows content: a delta that says something, or an item that is more
    than the beginning of a text."""
    kind = seen.type
    if not isinstance(kind, str):
        return What.OTHER
    if kind.endswith((".delta", ".partial_image")):
        return What.CONTENT if seen.delta != "" else What.OTHER
    if kind == "response.output_item.added":
        item = seen.item if isinstance(seen.item, dict) else {}
        return What.OTHER if item.get("type") in _SILENT else What.CONTENT
    return What.CONTENT if kind.endswith(".done") else What.OTHER


def _disjoint(u: _Usage) -> Usage:
    """OpenAI's `input_tokens` includes cached ones, its `output_tokens` includes reasoning (trap 41)."""
    total, out = count(u.input_tokens), count(u.output_tokens)
    details = u.input_tokens_details or _InputDetails()
    cached = min(total, count(details.cached_tokens))
    written = min(total - cached, count(details.cache_write_tokens))
    thought = min(out, count(u.output_tokens_details.reasoning_tokens)) if u.output_tokens_details is not None else 0
    return Usage(total - cached - written, cached, written, out - thought, thought)


def usage_of(body: bytes) -> bytes | None:
    """See `relay_events.told`."""
    return told(body, _response, _disjoint)
