"""Anthropic's answers as chat: finish reasons, token counts, whole messages. Pure.

Sources: `Message`, `Usage`, `StopReason` and the citation types of the official SDK; wire traps 15, 22, 37, 41.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from backends import wire
from backends.dialects.anthropic_turns import plain_id
from backends.dialects.types import Context
from backends.types import Fault

FINISH = {
    "end_turn": "stop", "stop_sequence": "stop", "max_tokens": "length", "model_context_window_exceeded": "length",
    "tool_use": "tool_calls", "refusal": "content_filter",
    "pause_turn": "length",  # the turn is not over; the only word of OpenAI's that says so
}  # fmt: skip
_SAID = frozenset({"end_turn", "max_tokens", "tool_use"})  # where OpenAI's word says all
_TIERS = {"standard": "default", "priority": "priority"}


class Memo(msgspec.Struct, frozen=True):
    """What an answer's translator knows of the request: the tool that stands for a response format."""

    format: str | None = None

    def stands(self, name: str | None) -> bool:
        """Whether a tool of that name is the format, and its arguments the answer."""
        return self.format is not None and name == self.format


class OutputDetails(msgspec.Struct):
    thinking_tokens: int | None = None


class Tokens(msgspec.Struct):
    """Anthropic's counts: input excludes what was read from and written to the cache. In streams they are cumulative."""

    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    cache_creation: msgspec.Raw = wire.NULL
    output_tokens_details: OutputDetails | None = None
    server_tool_use: msgspec.Raw = wire.NULL
    service_tier: str | None = None

    def update(self, other: Tokens) -> None:
        """Takes over what `other` tells. Mutates."""
        for name in self.__struct_fields__:
            found = getattr(other, name)
            if found is not None and found != wire.NULL:
                setattr(self, name, found)


class StopDetails(msgspec.Struct):
    explanation: str | None = None


class Citation(msgspec.Struct):
    type: str = ""
    url: str | None = None
    title: str | None = None


class Block(msgspec.Struct):
    """Any content block. Blocks of other types than text, thinking and tool_use are kept raw."""

    type: str
    id: str | None = None
    name: str | None = None
    text: str | None = None
    thinking: str | None = None
    signature: str | None = None
    data: str | None = None
    input: msgspec.Raw = wire.NULL
    citations: list[msgspec.Raw] | None = None


class _Message(msgspec.Struct):
    content: list[msgspec.Raw]
    stop_reason: str | None = None
    stop_details: StopDetails | None = None
    usage: Tokens | None = None
    id: str | None = None
    model: str | None = None


_message = msgspec.json.Decoder(_Message)
block_of = msgspec.json.Decoder(Block).decode
citation_of = msgspec.json.Decoder(Citation).decode


def finish(reason: str, calls: bool, memo: Memo) -> tuple[str, str | None]:
    """(finish_reason, native_finish_reason or None). `calls`: whether there are tool calls for the client. Unknown words are a stop."""
    word = FINISH.get(reason, "stop")
    if word == "tool_calls" and memo.format is not None and not calls:
        return "stop", None
    return word, None if reason in _SAID else reason


def usage(tokens: Tokens) -> dict[str, Any]:
    """OpenAI's counts, where input includes the cache and output the reasoning."""
    read, written = tokens.cache_read_input_tokens or 0, tokens.cache_creation_input_tokens or 0
    prompt, output = (tokens.input_tokens or 0) + read + written, tokens.output_tokens or 0
    details: dict[str, Any] = {"cached_tokens": read, "cache_write_tokens": written}
    if tokens.cache_creation != wire.NULL:
        details["cache_creation"] = tokens.cache_creation
    out: dict[str, Any] = {"prompt_tokens": prompt, "completion_tokens": output, "total_tokens": prompt + output}
    out["prompt_tokens_details"] = details
    if tokens.output_tokens_details is not None:
        out["completion_tokens_details"] = {"reasoning_tokens": tokens.output_tokens_details.thinking_tokens or 0}
    if tokens.server_tool_use != wire.NULL:
        out["server_tool_use"] = tokens.server_tool_use
    return out


def tier(tokens: Tokens) -> str | None:
    """OpenAI's word for the service tier that answered; None where it has none."""
    return _TIERS.get(tokens.service_tier or "")


def as_text(input: msgspec.Raw) -> str:
    """A tool's input as the text of its arguments; none is `{}`."""
    return "{}" if input == wire.NULL else bytes(input).decode()


def thinking_block(block: Block) -> dict[str, str]:
    """A thinking block as it must be given back."""
    if block.type == "redacted_thinking":
        return {"type": block.type, "data": block.data or ""}
    return {"type": block.type, "thinking": block.thinking or "", "signature": block.signature or ""}


def annotation(raw: msgspec.Raw, start: int, end: int) -> dict[str, Any] | None:
    """A citation of a web page as OpenAI's annotation of the characters `start` to `end`; None for other citations."""
    try:
        found = citation_of(raw)
    except msgspec.MsgspecError:
        return None
    if found.url is None:
        return None
    cited = {"start_index": start, "end_index": end, "url": found.url, "title": found.title or found.url}
    return {"type": "url_citation", "url_citation": cited}


class _Gathered:
    """The parts of one chat message, filled block by block."""

    def __init__(self, memo: Memo) -> None:
        self.memo = memo
        self.text: str | None = None
        self.reasoning: list[str] = []
        self.thinking: list[dict[str, str]] = []
        self.calls: list[dict[str, Any]] = []
        self.annotations: list[dict[str, Any]] = []
        self.citations: list[msgspec.Raw] = []
        self.other: list[msgspec.Raw] = []

    def add(self, raw: msgspec.Raw) -> None:
        """Takes one block. Raises msgspec's errors for what is none."""
        block = block_of(raw)
        if block.type == "text":
            self._text(block)
        elif block.type in ("thinking", "redacted_thinking"):
            self.thinking.append(thinking_block(block))
            if block.thinking:
                self.reasoning.append(block.thinking)
        elif block.type != "tool_use":
            self.other.append(raw)
        elif self.memo.stands(block.name):
            self.text = (self.text or "") + as_text(block.input)
        else:
            function = {"name": block.name or "", "arguments": as_text(block.input)}
            self.calls.append({"id": plain_id(block.id or ""), "type": "function", "function": function})

    def _text(self, block: Block) -> None:
        start = len(self.text or "")
        self.text = (self.text or "") + (block.text or "")
        for citation in block.citations or ():
            self.citations.append(citation)
            if (found := annotation(citation, start, len(self.text))) is not None:
                self.annotations.append(found)

    def message(self, refusal: str | None) -> dict[str, Any]:
        """The chat message."""
        content = self.text if self.text is not None or self.calls else ""
        out: dict[str, Any] = {"role": "assistant", "content": content, "refusal": refusal}
        if self.reasoning:
            out["reasoning_content"] = "\n\n".join(self.reasoning)
        if self.thinking:
            out["thinking_blocks"] = self.thinking
        if self.calls:
            out["tool_calls"] = self.calls
        if self.annotations:
            out["annotations"] = self.annotations
        if extra := kept(self.other, self.citations):
            out["extra_content"] = extra
        return out


def kept(blocks: Sequence[object], citations: Sequence[object]) -> dict[str, Any] | None:
    """What chat has no field for, so that it is not lost: blocks of Anthropic's own tools, and citations."""
    own = {key: found for key, found in (("blocks", blocks), ("citations", citations)) if found}
    return {"anthropic": own} if own else None


def reply(body: bytes, memo: Memo, context: Context) -> bytes:
    """A whole `Message` as a `chat.completion`. Raises `Fault` (upstream) when it is none."""
    try:
        found = _message.decode(body)
        gathered = _Gathered(memo)
        for raw in found.content:
            gathered.add(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as e:
        raise unreadable(str(e)) from None
    if found.stop_reason is None:
        raise unreadable("it has no stop_reason")
    explained = found.stop_details.explanation if found.stop_details is not None else None
    word, native = finish(found.stop_reason, bool(gathered.calls), memo)
    choice: dict[str, Any] = {"index": 0, "message": gathered.message(explained), "logprobs": None, "finish_reason": word}
    if native is not None:
        choice["native_finish_reason"] = native
    tokens = Tokens()
    tokens.update(found.usage or Tokens())
    out: dict[str, Any] = {
        "id": found.id or context.id, "object": "chat.completion", "created": context.unix, "model": found.model or context.model,
        "choices": [choice], "usage": usage(tokens),
    }  # fmt: skip
    if (served := tier(tokens)) is not None:
        out["service_tier"] = served
    return wire.encode(out)


def unreadable(why: str) -> Fault:
    """The fault of a 200 that is no message of Anthropic's."""
    return Fault("upstream", f"The answer is no Anthropic message: {why}.", origin="backend", code="not_a_message", retry=True)
