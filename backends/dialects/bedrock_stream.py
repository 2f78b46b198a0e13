"""ConverseStream's events as `chat.completion.chunk` events. Pure: bytes in, bytes out.

Events: messageStart, contentBlockStart (of tools only), contentBlockDelta, contentBlockStop, messageStop, metadata, and exceptions.
Source: botocore's service model of bedrock-runtime, ConverseStreamOutput.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from typing import Any

import msgspec

from backends import wire
from backends.dialects import bedrock_answer as answers
from backends.dialects.eventstream import Broken, Decoder, Message
from backends.dialects.types import Context

MAX_BLOCK = 4 * 1024 * 1024  # characters of one thinking block, or of text held back, that are kept; of more only the deltas are told
_encode = wire.encode
# What an exception in the stream means: a status that says who may be asked again, and OpenAI's word (wire trap 28).
_EXCEPTIONS: dict[str, tuple[int, str]] = {
    "throttlingException": (429, "rate_limit_error"), "serviceUnavailableException": (503, "overloaded_error"),
    "internalServerException": (500, "server_error"), "modelStreamErrorException": (502, "server_error"),
    "modelTimeoutException": (504, "server_error"), "validationException": (400, "invalid_request_error"),
}  # fmt: skip
_UNREADABLE = (msgspec.MsgspecError, RecursionError, UnicodeDecodeError)


class _Start(msgspec.Struct):
    toolUse: answers.ToolUse | None = None


class _BlockStart(msgspec.Struct):
    start: _Start
    contentBlockIndex: int = 0


class _Input(msgspec.Struct):
    input: str = ""


class _Thought(msgspec.Struct):
    text: str | None = None
    signature: str | None = None
    redactedContent: str | None = None


class _Delta(msgspec.Struct):
    text: str | None = None
    toolUse: _Input | None = None
    reasoningContent: _Thought | None = None
    citation: answers.Citation | None = None


class _BlockDelta(msgspec.Struct):
    delta: _Delta
    contentBlockIndex: int = 0


class _BlockStop(msgspec.Struct):
    contentBlockIndex: int = 0


class _Stop(msgspec.Struct):
    stopReason: str


class _Metadata(msgspec.Struct):
    usage: answers.Usage = answers.Usage()


class _Told(msgspec.Struct):
    message: str | None = None
    originalMessage: str | None = None


_block_start = msgspec.json.Decoder(_BlockStart).decode
_block_delta = msgspec.json.Decoder(_BlockDelta).decode
_block_stop = msgspec.json.Decoder(_BlockStop).decode
_stop = msgspec.json.Decoder(_Stop).decode
_metadata = msgspec.json.Decoder(_Metadata).decode
_told = msgspec.json.Decoder(_Told).decode


class _Open(msgspec.Struct):
    """A block that has begun. `number`: a call's place among the calls; None for the answer by a schema, -1 for what is left out."""

    number: int | None = -1
    empty: bool = True
    size: int = 0
    text: list[str] = []
    signature: str = ""
    redacted: list[str] = []


class BedrockStream:
    """A `backends.dialects.types.Stream`. Holds the blocks that are open and, until the counts are known, the finish."""

    def __init__(self, memo: answers.Memo, context: Context) -> None:
        self._memo, self._decoder = memo, Decoder()
        said = {"id": f"chatcmpl-{context.id}", "object": "chat.completion.chunk", "created": context.unix, "model": context.model}
        start = wire.encode(said)[:-1]
        self._before = b"data: " + start + b',"choices":[{"index":0,"delta":'
        self._after = b',"finish_reason":null}]}\n\n'
        self._bare = b"data: " + start + b',"choices":'
        self._open: dict[int, _Open] = {}
        self._calls = 0
        self._held: list[str] = []  # text that waits until it is known whether the answer comes by the schema's tool
        self._held_size = 0
        self._by_format = self._dead = self._done = False
        self._reason: str | None = None
        self._on: dict[str, Callable[[bytes], bytes]] = {
            "contentBlockDelta": self._delta, "messageStart": self._message_start, "contentBlockStart": self._block_start,
            "contentBlockStop": self._block_stop, "messageStop": self._message_stop, "metadata": self._metadata,
        }  # fmt: skip

    def feed(self, data: bytes) -> bytes:
        if self._dead:
            return b""
        out: list[bytes] = []
        try:
            for message in self._decoder.feed(data):
                out.append(self._event(message))
                if self._dead:
                    break
        except Broken as e:
            out.append(self._fail(502, "server_error", str(e)))
        except _UNREADABLE as e:
            out.append(self._fail(502, "server_error", f"Bedrock sent an event that cannot be read: {e}."))
        return b"".join(out)

    def close(self) -> bytes:
        if self._dead or self._reason is None or not self._decoder.empty:
            return b""  # a cut: no finish, no [DONE]
        return self._finish() + b"data: [DONE]\n\n"

    def _event(self, message: Message) -> bytes:
        kind = message.headers.get(":event-type")
        handle = self._on.get(kind) if isinstance(kind, str) else None
        if handle is not None:
            return handle(message.payload)
        if message.headers.get(":message-type") == "exception":
            return self._exception(str(message.headers.get(":exception-type", "")), message.payload)
        if message.headers.get(":message-type") == "error":
            told = str(message.headers.get(":error-message", "")) or "Bedrock ended the stream with an error."
            return self._fail(502, "server_error", told)
        return b""  # an event that is newer than this

    def _exception(self, name: str, payload: bytes) -> bytes:
        status, kind = _EXCEPTIONS.get(name, (502, "server_error"))
        told = _told(payload) if payload else _Told()
        return self._fail(status, kind, told.message or told.originalMessage or f"Bedrock ended the stream with {name}.")

    def _fail(self, status: int, kind: str, message: str) -> bytes:
        self._dead = True
        return b"data: " + _encode({"error": {"message": message, "type": kind, "code": status}}) + b"\n\n"

    def _chunk(self, delta: dict[str, Any]) -> bytes:
        return self._before + _encode(delta) + self._after

    def _message_start(self, payload: bytes) -> bytes:
        return self._chunk({"role": "assistant", "content": ""})

    def _delta(self, payload: bytes) -> bytes:
        event = _block_delta(payload)
        delta = event.delta
        if delta.text is not None:
            if self._memo.format is not None:
                return self._hold(delta.text)
            return b'%b{"content":%b}%b' % (self._before, _encode(delta.text), self._after)
        if delta.toolUse is not None:
            return self._arguments(event.contentBlockIndex, delta.toolUse.input)
        if delta.reasoningContent is not None:
            return self._thought(event.contentBlockIndex, delta.reasoningContent)
        cited = None if delta.citation is None else answers.annotation(delta.citation)
        return b"" if cited is None else self._chunk({"annotations": [cited]})

    def _hold(self, text: str) -> bytes:
        """Keeps text back while the answer may still come by the schema's tool, beside which text would spoil it."""
        if self._by_format:
            return b""
        self._held_size += len(text)
        if self._held_size > MAX_BLOCK:
            return self._fail(502, "server_error", "Bedrock's model answered in text far longer than any schema's.")
        self._held.append(text)
        return b""

    def _block_start(self, payload: bytes) -> bytes:
        event = _block_start(payload)
        call = event.start.toolUse
        if call is None:
            return b""
        self._open[event.contentBlockIndex] = block = _Open()
        if call.name == self._memo.format:
            self._by_format, block.number = True, None
            self._held.clear()
            return b""
        if self._memo.single and self._calls:
            return b""
        block.number, self._calls = self._calls, self._calls + 1
        function = {"name": call.name, "arguments": ""}
        return self._chunk({"tool_calls": [{"index": block.number, "id": call.toolUseId, "type": "function", "function": function}]})

    def _arguments(self, index: int, text: str) -> bytes:
        block = self._open.get(index)
        if block is None or block.number == -1 or not text:
            return b""
        block.empty = False
        return self._said(block, text)

    def _said(self, block: _Open, text: str) -> bytes:
        if block.number is None:
            return b'%b{"content":%b}%b' % (self._before, _encode(text), self._after)
        return b'%b{"tool_calls":[{"index":%d,"function":{"arguments":%b}}]}%b' % (
            self._before, block.number, _encode(text), self._after,
        )  # fmt: skip

    def _thought(self, index: int, thought: _Thought) -> bytes:
        block = self._open.setdefault(index, _Open())
        for told, parts in ((thought.text, block.text), (thought.redactedContent, block.redacted)):
            if told and block.size <= MAX_BLOCK:
                block.size += len(told)
                parts.append(told)
        block.signature += thought.signature or ""
        return self._chunk({"reasoning_content": thought.text}) if thought.text else b""

    def _block_stop(self, payload: bytes) -> bytes:
        block = self._open.pop(_block_stop(payload).contentBlockIndex, None)
        if block is None:
            return b""
        if block.number != -1:
            return self._said(block, "{}") if block.empty else b""  # a tool without arguments may have no delta (wire trap 20)
        whole = [] if block.size > MAX_BLOCK else _thoughts(block)
        return self._chunk({"thinking_blocks": whole}) if whole else b""

    def _message_stop(self, payload: bytes) -> bytes:
        self._reason = _stop(payload).stopReason
        return b""

    def _metadata(self, payload: bytes) -> bytes:
        counts = answers.usage(_metadata(payload).usage)
        return self._finish() + self._bare + b"[]," + b'"usage":' + _encode(counts) + b"}\n\n"

    def _finish(self) -> bytes:
        """The finish, once; before it the text that was held back for nothing."""
        if self._done or self._reason is None:
            return b""
        self._done = True
        held = "".join(self._held)
        text = self._chunk({"content": held}) if held else b""
        choice = {"index": 0, "delta": {}, **answers.finish(self._reason, self._calls > 0, self._by_format)}
        return text + self._bare + _encode([choice]) + b"}\n\n"


def _thoughts(block: _Open) -> list[dict[str, str]]:
    """The state to be given back with the next turn: signed thinking, and what is redacted."""
    out: list[dict[str, str]] = []
    if block.signature:
        out.append(answers.thinking("".join(block.text), block.signature))
    if len(block.redacted) == 1:
        out.append(answers.redacted(block.redacted[0]))
    elif block.redacted:
        try:
            data = b"".join(base64.b64decode(part, validate=True) for part in block.redacted)
        except (binascii.Error, ValueError):
            return out  # what cannot be put together cannot be given back
        out.append(answers.redacted(base64.b64encode(data).decode()))
    return out
