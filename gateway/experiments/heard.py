"""What an answer says, whatever its dialect and form: text, tool calls, token counts. Pure; reads bytes of at most a megabyte."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec

from backends import sse, wire

_any = msgspec.json.Decoder()
_NONE: Mapping[str, Any] = {}


class Answer(msgspec.Struct, frozen=True):
    """What was answered. `text` None: nothing that can be read. `tools`: name and arguments as JSON text, in order. `output`: tokens, as
    told."""

    text: str | None = None
    tools: tuple[tuple[str, str], ...] = ()
    output: int | None = None
    usage: bytes | None = None  # of a chat answer: a document that `wire.usage` reads


class _Heard:
    """What has been heard so far of one answer."""

    __slots__ = ("output", "texts", "tools", "usage")

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.tools: dict[int | str | None, list[str]] = {}  # by index: the name, then pieces of the arguments
        self.output: int | None = None
        self.usage: bytes | None = None

    def text(self, value: object) -> None:
        if isinstance(value, str):
            self.texts.append(value)

    def tool(self, index: object, name: object, arguments: object) -> None:
        pieces = self.tools.setdefault(index if isinstance(index, int | str) else None, [""])
        if isinstance(name, str) and name:
            pieces[0] = name
        if isinstance(arguments, str):
            pieces.append(arguments)

    def tokens(self, value: object) -> None:
        if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
            self.output = value

    def answer(self) -> Answer:
        tools = tuple((pieces[0], "".join(pieces[1:])) for pieces in self.tools.values())
        return Answer("".join(self.texts), tools, self.output, self.usage)


def read(api: str, stream: bool, body: bytes) -> Answer:
    """An answer's content; `api`: chat, messages or responses, in which the client speaks. Of several choices the first. What cannot be
    read gives an empty `Answer`. Never raises."""
    heard = _Heard()
    try:
        (_STREAMS if stream else _WHOLES)[api](heard, body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, KeyError):
        return Answer()
    return heard.answer()


# --- chat
def _chat(heard: _Heard, body: bytes) -> None:
    doc = _map(_any.decode(body))
    message = _map(_map(_first(doc.get("choices"))).get("message"))
    _content(heard, message.get("content"))
    for index, call in enumerate(_list(message.get("tool_calls"))):
        function = _map(call.get("function"))
        heard.tool(index, function.get("name"), function.get("arguments"))
    heard.usage = wire.usage_tail(body)
    heard.tokens(_map(doc.get("usage")).get("completion_tokens"))


def _content(heard: _Heard, content: object) -> None:
    heard.text(content)
    for part in _list(content):
        heard.text(part.get("text"))


def _chat_stream(heard: _Heard, body: bytes) -> None:
    for event in _events(body):
        for choice in _list(event.get("choices")):
            if choice.get("index", 0) == 0:
                _delta(heard, _map(choice.get("delta")))
        usage = _map(event.get("usage"))
        if usage:
            heard.usage = wire.encode({"usage": usage})
            heard.tokens(usage.get("completion_tokens"))


def _delta(heard: _Heard, delta: Mapping[str, Any]) -> None:
    heard.text(delta.get("content"))
    for call in _list(delta.get("tool_calls")):
        function = _map(call.get("function"))
        heard.tool(call.get("index", 0), function.get("name"), function.get("arguments"))


# --- messages
def _messages(heard: _Heard, body: bytes) -> None:
    doc = _map(_any.decode(body))
    for index, block in enumerate(_list(doc.get("content"))):
        if block.get("type") == "tool_use":
            heard.tool(index, block.get("name"), wire.encode(block.get("input")).decode())
        elif block.get("type") == "text":
            heard.text(block.get("text"))
    heard.tokens(_map(doc.get("usage")).get("output_tokens"))


def _messages_stream(heard: _Heard, body: bytes) -> None:
    for event in _events(body):
        kind, index = event.get("type"), event.get("index")
        if kind == "content_block_start":
            block = _map(event.get("content_block"))
            if block.get("type") == "tool_use":
                heard.tool(index, block.get("name"), None)
            elif block.get("type") == "text":
                heard.text(block.get("text"))
        elif kind == "content_block_delta":
            delta = _map(event.get("delta"))
            if delta.get("type") == "input_json_delta":
                heard.tool(index, None, delta.get("partial_json"))
            elif delta.get("type") == "text_delta":
                heard.text(delta.get("text"))
        elif kind == "message_delta":
            heard.tokens(_map(event.get("usage")).get("output_tokens"))


# --- responses
def _responses(heard: _Heard, body: bytes) -> None:
    _response(heard, _map(_any.decode(body)))


def _response(heard: _Heard, doc: Mapping[str, Any]) -> None:
    for index, item in enumerate(_list(doc.get("output"))):
        if item.get("type") == "function_call":
            heard.tool(index, item.get("name"), item.get("arguments"))
        elif item.get("type") == "message":
            _content(heard, item.get("content"))
    heard.tokens(_map(doc.get("usage")).get("output_tokens"))


def _responses_stream(heard: _Heard, body: bytes) -> None:
    for event in _events(body):
        if event.get("type") in ("response.completed", "response.incomplete"):
            _response(heard, _map(event.get("response")))  # all of it once more


_WHOLES: Mapping[str, Callable[[_Heard, bytes], None]] = {"chat": _chat, "messages": _messages, "responses": _responses}
_STREAMS: Mapping[str, Callable[[_Heard, bytes], None]] = {
    "chat": _chat_stream, "messages": _messages_stream, "responses": _responses_stream,
}  # fmt: skip


# --- JSON of unknown shape
def _events(body: bytes) -> Iterator[Mapping[str, Any]]:
    for event in sse.events(body):
        data = sse.payload(event)[1]
        if data[:1] == b"{":
            yield _map(_any.decode(data))


def _map(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else _NONE


def _list(value: object) -> list[Mapping[str, Any]]:
    """The objects of a list; nothing of anything else."""
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def _first(value: object) -> object:
    return value[0] if isinstance(value, list) and value else None
