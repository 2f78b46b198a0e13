"""Converse's whole answers as `chat.completion`, and the words that whole and streamed answers share. Pure."""

from __future__ import annotations

from typing import Any

import msgspec

from backends import wire
from backends.dialects.types import Context
from backends.types import Fault

_FINISH = {
    "end_turn": "stop", "stop_sequence": "stop", "tool_use": "tool_calls", "max_tokens": "length",
    "model_context_window_exceeded": "length", "guardrail_intervened": "content_filter", "content_filtered": "content_filter",
    "malformed_model_output": "stop", "malformed_tool_use": "stop",
}  # fmt: skip
_PLAIN = frozenset({"end_turn", "tool_use", "max_tokens"})  # those that OpenAI's words say whole


class Memo(msgspec.Struct):
    """What an answer must be read with: the tool whose input is the answer, and whether only the first call counts."""

    format: str | None = None
    single: bool = False


class Usage(msgspec.Struct, frozen=True):
    inputTokens: int = 0
    outputTokens: int = 0
    cacheReadInputTokens: int | None = None
    cacheWriteInputTokens: int | None = None


class ToolUse(msgspec.Struct):
    toolUseId: str
    name: str
    input: msgspec.Raw = msgspec.Raw(b"{}")


class ReasoningText(msgspec.Struct):
    text: str = ""
    signature: str | None = None


class Reasoning(msgspec.Struct):
    reasoningText: ReasoningText | None = None
    redactedContent: str | None = None


class Text(msgspec.Struct):
    text: str = ""


class Web(msgspec.Struct):
    url: str | None = None


class Location(msgspec.Struct):
    web: Web | None = None


class Citation(msgspec.Struct):
    title: str | None = None
    location: Location | None = None


class Cited(msgspec.Struct):
    content: list[Text] = []
    citations: list[Citation] = []


class Block(msgspec.Struct):
    text: str | None = None
    toolUse: ToolUse | None = None
    reasoningContent: Reasoning | None = None
    citationsContent: Cited | None = None


class Message(msgspec.Struct):
    content: list[Block]


class Output(msgspec.Struct):
    message: Message


class Answer(msgspec.Struct):
    output: Output
    stopReason: str
    usage: Usage = Usage()


_answer = msgspec.json.Decoder(Answer)


def usage(counts: Usage) -> dict[str, Any]:
    """OpenAI's usage. Bedrock's `inputTokens` excludes what was read from and written to the cache (wire trap 41)."""
    read, written = counts.cacheReadInputTokens or 0, counts.cacheWriteInputTokens or 0
    prompt = counts.inputTokens + read + written
    out: dict[str, Any] = {
        "prompt_tokens": prompt, "completion_tokens": counts.outputTokens, "total_tokens": prompt + counts.outputTokens,
    }  # fmt: skip
    if read or written:
        out["prompt_tokens_details"] = {"cached_tokens": read, "cache_write_tokens": written}
    return out


def finish(reason: str, called: bool, by_format: bool) -> dict[str, str]:
    """`finish_reason`, and Bedrock's own word where it says more. A call that was the answer by a schema is no call."""
    told = _FINISH.get(reason, "stop")
    if told == "tool_calls" and not called:
        told = "stop"
    out = {"finish_reason": told}
    if reason not in _PLAIN or (reason == "tool_use" and not called and not by_format):
        out["native_finish_reason"] = reason
    return out


def thinking(text: str, signature: str) -> dict[str, str]:
    return {"type": "thinking", "thinking": text, "signature": signature}


def redacted(data: str) -> dict[str, str]:
    return {"type": "redacted_thinking", "data": data}


def annotation(citation: Citation) -> dict[str, Any] | None:
    """A citation of a web page as OpenAI's annotation; None for places in documents, which OpenAI has no word for."""
    web = citation.location.web if citation.location else None
    if web is None or not web.url:
        return None
    return {
        "type": "url_citation",
        "url_citation": {"url": web.url, "title": citation.title or web.url, "start_index": 0, "end_index": 0},
    }


class _Gathered:
    """The parts of one message, as its blocks come by."""

    def __init__(self, memo: Memo) -> None:
        self.memo = memo
        self.text: list[str] = []
        self.formatted: str | None = None
        self.thoughts: list[str] = []
        self.blocks: list[dict[str, str]] = []
        self.calls: list[dict[str, Any]] = []
        self.annotations: list[dict[str, Any]] = []

    def take(self, block: Block) -> None:
        if block.text is not None:
            self.text.append(block.text)
        elif block.toolUse is not None:
            self._call(block.toolUse)
        elif block.reasoningContent is not None:
            self._thought(block.reasoningContent)
        elif block.citationsContent is not None:
            self.text += (part.text for part in block.citationsContent.content)
            self.annotations += filter(None, map(annotation, block.citationsContent.citations))

    def _call(self, call: ToolUse) -> None:
        arguments = bytes(call.input).decode()
        if call.name == self.memo.format:
            self.formatted = arguments
        elif not (self.memo.single and self.calls):
            self.calls.append({"id": call.toolUseId, "type": "function", "function": {"name": call.name, "arguments": arguments}})

    def _thought(self, reasoning: Reasoning) -> None:
        if reasoning.redactedContent is not None:
            self.blocks.append(redacted(reasoning.redactedContent))
        if reasoning.reasoningText is not None:
            told = reasoning.reasoningText
            self.thoughts.append(told.text)
            if told.signature:
                self.blocks.append(thinking(told.text, told.signature))

    def message(self) -> dict[str, Any]:
        text = self.formatted if self.formatted is not None else "".join(self.text)
        out: dict[str, Any] = {"role": "assistant", "content": text or None, "refusal": None}
        if self.calls:
            out["tool_calls"] = self.calls
        if any(self.thoughts):
            out["reasoning_content"] = "".join(self.thoughts)
        if self.blocks:
            out["thinking_blocks"] = self.blocks
        if self.annotations:
            out["annotations"] = self.annotations
        return out


def reply(body: bytes, memo: Memo, context: Context) -> bytes:
    """A whole answer. Raises `Fault` (upstream) when it is none."""
    try:
        answer = _answer.decode(body)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as e:
        raise Fault("upstream", f"Bedrock gave an answer that is none of Converse's: {e}.", origin="backend", retry=True) from None
    parts = _Gathered(memo)
    for block in answer.output.message.content:
        parts.take(block)
    choice = {"index": 0, "message": parts.message(), "logprobs": None}
    return wire.encode(
        {
            "id": f"chatcmpl-{context.id}",
            "object": "chat.completion",
            "created": context.unix,
            "model": context.model,
            "choices": [choice | finish(answer.stopReason, bool(parts.calls), parts.formatted is not None)],
            "usage": usage(answer.usage),
        }
    )
