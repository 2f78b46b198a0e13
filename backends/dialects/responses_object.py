"""The Response object around the items: the client's settings told back, usage, and why an answer ended. Pure."""

from __future__ import annotations

from typing import Any

import msgspec

from backends import wire
from backends.dialects import responses_state as state
from backends.dialects.types import Context
from backends.types import Fault, Usage
from backends.wire import Doc

# Members that are told back as they were sent, and what is told when they were not. A backend's own default is not known here: null.
_DEFAULTS: dict[str, Any] = {
    "instructions": None, "max_output_tokens": None, "max_tool_calls": None, "metadata": {}, "parallel_tool_calls": True,
    "previous_response_id": None, "prompt_cache_key": None, "prompt_cache_retention": None, "safety_identifier": None, "store": True,
    "temperature": None, "tool_choice": "auto", "top_logprobs": 0, "top_p": None, "truncation": "disabled", "user": None,
}  # fmt: skip
_TOLD = {key: wire.raw(value) for key, value in _DEFAULTS.items()}
_TOOL: Doc = {"description": wire.NULL, "parameters": wire.NULL, "strict": wire.NULL}
_FUNCTION = wire.raw("function")
_NULLED = frozenset({"metadata", "parallel_tool_calls", "store", "tool_choice", "top_logprobs", "truncation"})  # null is no value of theirs


def settings(asked: Doc) -> bytes:
    """The settings as members of a JSON object, without braces."""
    told: dict[str, Any] = {"background": False}
    for key, default in _TOLD.items():
        value = asked.get(key, default)
        told[key] = default if value == wire.NULL and key in _NULLED else value
    told["reasoning"] = {"effort": None, "summary": None, **_sub(asked, "reasoning")}
    told["text"] = {"format": {"type": "text"}, **{k: v for k, v in _sub(asked, "text").items() if v != wire.NULL}}
    told["tools"] = [{**_TOOL, **tool} if tool.get("type") == _FUNCTION else tool for tool in _items(asked, "tools")]
    return wire.encode(told)[1:-1]


def _sub(asked: Doc, key: str) -> Doc:
    try:
        return wire.sub(asked, key)
    except Fault:
        return {}  # the request with it was refused already


def _items(asked: Doc, key: str) -> list[Doc]:
    try:
        return wire.items(asked, key)
    except Fault:
        return []


def usage(counts: Usage | None) -> bytes:
    """Token counts as Responses writes them: the input includes cached tokens, the output reasoning."""
    if counts is None:
        return b"null"
    read, written = counts.input + counts.cached + counts.cache_write, counts.output + counts.reasoning
    return wire.encode({
        "input_tokens": read,
        "input_tokens_details": {"cached_tokens": counts.cached, "cache_write_tokens": counts.cache_write},
        "output_tokens": written,
        "output_tokens_details": {"reasoning_tokens": counts.reasoning},
        "total_tokens": read + written,
    })


_INCOMPLETE = {"length": b'{"reason":"max_output_tokens"}', "content_filter": b'{"reason":"content_filter"}'}


class Envelope:
    """What surrounds the items of one response. Mutable: the backend's model name, tier and usage come with its answer."""

    __slots__ = ("head", "incomplete", "model", "settings", "tier", "usage")

    def __init__(self, asked: Doc, context: Context) -> None:
        told = wire.encode({"id": state.response_id(context.id), "object": "response", "created_at": context.unix})
        self.head = told[:-1]
        self.settings = settings(asked)
        self.model = context.model
        self.tier: msgspec.Raw = asked.get("service_tier", wire.NULL)
        self.incomplete = b"null"
        self.usage: Usage | None = None

    def finish(self, reason: str | None) -> bytes:
        """Takes a chat finish reason; gives the status. Reasons that are not known end an answer as `stop` does."""
        self.incomplete = _INCOMPLETE.get(reason or "", b"null")
        return b"completed" if self.incomplete == b"null" else b"incomplete"

    def json(self, status: bytes, output: bytes = b"", error: bytes = b"null") -> bytes:
        """The whole object."""
        return b'%b,"status":"%b","error":%b,"incomplete_details":%b,"model":%b,"output":[%b],"usage":%b,"service_tier":%b,%b}' % (
            self.head, status, error, self.incomplete if status == b"incomplete" else b"null", wire.encode(self.model), output,
            usage(self.usage), self.tier, self.settings,
        )  # fmt: skip


# Codes that clients act upon although the published list does not have them, and what else becomes of a fault.
_KEPT = frozenset({"context_length_exceeded", "insufficient_quota"})
_CODES = {"rate_limited": "rate_limit_exceeded", "bad_request": "invalid_prompt", "too_large": "invalid_prompt"}


def error(fault: Fault) -> bytes:
    """The `error` of a failed response."""
    code = fault.code if fault.code in _KEPT else _CODES.get(fault.kind, "server_error")
    return wire.encode({"code": code, "message": fault.message})
