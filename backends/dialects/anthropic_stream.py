"""Anthropic's event stream as chat chunks. Pure.

Sources: `RawMessageStreamEvent` of the official SDK; wire traps 20, 22, 27, 28, 40, 41.
"""

from __future__ import annotations

from typing import Any

import msgspec

from backends import sse, wire
from backends.dialects import anthropic_read as read
from backends.dialects.anthropic_read import Memo, Tokens
from backends.dialects.anthropic_turns import plain_id
from backends.dialects.types import Context

MAX_EVENT = 8 << 20  # bytes of one event, and of what one block that must be whole may gather
DONE = b"data: [DONE]\n\n"
_DELTA = b"event: content_block_delta\ndata: "
_TAIL = b'},"finish_reason":null}]}\n\n'


class _Delta(msgspec.Struct, gc=False):
    text: str | None = None
    partial_json: str | None = None
    thinking: str | None = None
    signature: str | None = None
    citation: msgspec.Raw = wire.NULL
    stop_reason: str | None = None
    stop_details: read.StopDetails | None = None


class _Start(msgspec.Struct):
    id: str | None = None
    model: str | None = None
    usage: Tokens | None = None


class _Event(msgspec.Struct):
    type: str
    index: int = 0
    delta: _Delta | None = None
    content_block: msgspec.Raw = wire.NULL
    message: _Start | None = None
    usage: Tokens | None = None
    error: msgspec.Raw = wire.NULL


class _Open(msgspec.Struct):
    """The block under way. `call`: its number among the client's tool calls, or None. `start`: where its text begins in the answer."""

    block: read.Block
    raw: msgspec.Raw
    call: int | None = None
    start: int = 0
    said: bool = False  # whether any of a tool's arguments were sent
    size: int = 0
    parts: list[str] = []
    signature: str = ""
    citations: list[msgspec.Raw] = []


_UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
_BROKEN = "The backend sent an event that cannot be read."
_event = msgspec.json.Decoder(_Event)
_object = msgspec.json.Decoder(dict[str, msgspec.Raw])


class AnthropicStream:
    """One streamed answer (`dialects.types.Stream`). Blocks of Anthropic never overlap: one is open at a time.

    Text, reasoning and arguments go on as they come. A thinking block, a block of Anthropic's own tools and the citations of a text
    go when their block has ended, whole. The finish waits for `message_stop`, so that usage is complete.
    """

    __slots__ = (
        "calls", "context", "counts", "finish", "head", "id", "memo", "model", "open", "over", "place", "refusal", "rest", "text_head",
        "tokens",
    )  # fmt: skip

    def __init__(self, memo: Memo, context: Context) -> None:
        self.memo, self.context = memo, context
        self.id, self.model = context.id, context.model
        self.rest = b""
        self.over = False
        self.open: _Open | None = None
        self.counts: dict[str, int] = {}  # entries sent of each list that goes in parts
        self.calls = 0  # tool calls for the client so far
        self.place = 0  # characters of text so far
        self.finish: str | None = None
        self.refusal: str | None = None
        self.tokens = Tokens()
        self._heads()

    def _heads(self) -> None:
        """What every chunk begins with, up to its delta."""
        meta = {"id": self.id, "object": "chat.completion.chunk", "created": self.context.unix, "model": self.model}
        self.head = b"data: " + wire.encode(meta)[:-1] + b',"choices":['
        self.text_head = self.head + b'{"index":0,"delta":{"content":'

    def feed(self, data: bytes) -> bytes:
        """Chunks for the events that `data` completes. Never raises; after an error or the end nothing more comes."""
        if self.over:
            return b""
        if self.rest or not data.endswith(b"\n\n"):
            data, self.rest = sse.split(self.rest + data)
            if len(self.rest) > MAX_EVENT:
                return self._fail(f"The backend sent an event of more than {MAX_EVENT} bytes.")
        if b"\r" in data:
            data = data.replace(b"\r\n", b"\n")
        out: list[bytes] = []
        for event in data.split(b"\n\n"):
            if event and not self.over:
                self._take(event, out)
        return b"".join(out)

    def close(self) -> bytes:
        """The clean end of the bytes: the finish, when only `message_stop` is missing. A cut answer gives nothing."""
        if self.over:
            return b""
        out = b""
        if self.rest.strip():
            out = self.feed(b"\n\n")
        if not self.over and self.finish is not None:
            try:
                out += self._end()
            except _UNREADABLE:
                out += self._fail(_BROKEN)
        return out

    def _take(self, event: bytes, out: list[bytes]) -> None:
        """One event. Comments, `ping` and events of unknown names are passed over."""
        if event.startswith(_DELTA) and event.find(b"\n", len(_DELTA)) < 0:
            data = event[len(_DELTA) :]  # the usual one
        else:
            data = sse.payload(event)[1]
            if not data:
                return
        try:
            if not data.isascii():
                data.decode()  # msgspec copies raw slices without looking inside strings
            out.append(self._event(_event.decode(data)))
        except _UNREADABLE:
            out.append(self._fail(_BROKEN))

    def _event(self, event: _Event) -> bytes:
        kind = event.type
        if kind == "content_block_delta":
            delta = event.delta
            if delta is None or self.open is None:
                return b""
            return self._text(delta.text) if delta.text else self._delta(self.open, delta)
        if kind == "content_block_start":
            return self._closed() + self._started(event.content_block)
        if kind == "content_block_stop":
            return self._closed()
        if kind == "message_start":
            return self._begin(event.message)
        if kind == "message_delta":
            self._last(event)
            return b""
        if kind == "message_stop":
            return self._end()
        return self._error(event.error) if kind == "error" else b""

    # --- message
    def _begin(self, message: _Start | None) -> bytes:
        if message is not None:
            self.id, self.model = message.id or self.id, message.model or self.model
            self.tokens.update(message.usage or Tokens())
            self._heads()
        return self._chunk(b'{"role":"assistant","content":""}')

    def _last(self, event: _Event) -> None:
        if event.usage is not None:
            self.tokens.update(event.usage)
        delta = event.delta
        if delta is not None:
            self.finish = delta.stop_reason or self.finish
            if delta.stop_details is not None:
                self.refusal = delta.stop_details.explanation

    def _end(self) -> bytes:
        """The finish, the token counts and the end. Without a stop reason the answer is cut: nothing says that it is whole."""
        if self.finish is None:
            return b""
        self.over = True
        out = [self._closed()]
        if self.refusal:
            out.append(self._delta_chunk({"refusal": self.refusal}))
        word, native = read.finish(self.finish, self.calls > 0, self.memo)
        choice: dict[str, Any] = {"index": 0, "delta": {}, "finish_reason": word}
        if native is not None:
            choice["native_finish_reason"] = native
        out.append(self.head + wire.encode(choice) + b"]}\n\n")
        served = read.tier(self.tokens)
        tail = {"usage": read.usage(self.tokens), **({"service_tier": served} if served is not None else {})}
        out.append(self.head + b"]," + wire.encode(tail)[1:] + b"\n\n")
        out.append(DONE)
        return b"".join(out)

    # --- blocks
    def _started(self, raw: msgspec.Raw) -> bytes:
        block = read.block_of(raw)
        opened = self.open = _Open(block, raw, start=self.place)
        if block.type == "text":
            return self._text(block.text or "")
        if block.type == "thinking":
            return self._thought(opened, block.thinking or "")
        if block.type == "tool_use" and not self.memo.stands(block.name):
            opened.call, self.calls = self.calls, self.calls + 1
            function = {"name": block.name or "", "arguments": ""}
            call = {"index": opened.call, "id": plain_id(block.id or ""), "type": "function", "function": function}
            return self._delta_chunk({"tool_calls": [call]})
        return b""

    def _delta(self, opened: _Open, delta: _Delta) -> bytes:
        if delta.partial_json is not None:
            return self._argument(opened, delta.partial_json)
        if delta.thinking is not None:
            return self._thought(opened, delta.thinking)
        if delta.signature is not None:
            opened.signature += delta.signature
            return self._grown(opened, len(delta.signature))
        if delta.citation != wire.NULL:
            opened.citations.append(msgspec.Raw(bytes(delta.citation)))
            return self._grown(opened, len(delta.citation))
        return b""

    def _text(self, text: str) -> bytes:
        if not text:
            return b""
        self.place += len(text)
        return b"".join((self.text_head, wire.encode(text), _TAIL))

    def _thought(self, opened: _Open, text: str) -> bytes:
        if not text:
            return b""
        opened.parts.append(text)
        if over := self._grown(opened, len(text)):
            return over
        return b'%b{"index":0,"delta":{"reasoning_content":%b},"finish_reason":null}]}\n\n' % (self.head, wire.encode(text))

    def _argument(self, opened: _Open, text: str) -> bytes:
        if not text:
            return b""
        opened.said = True
        if opened.call is not None:
            return b'%b{"index":0,"delta":{"tool_calls":[{"index":%d,"function":{"arguments":%b}}]},"finish_reason":null}]}\n\n' % (
                self.head, opened.call, wire.encode(text),
            )  # fmt: skip
        if opened.block.type == "tool_use":
            return self._text(text)  # the arguments of the tool that stands for a response format are the answer
        opened.parts.append(text)
        return self._grown(opened, len(text))

    def _grown(self, opened: _Open, size: int) -> bytes:
        """Counts what a block has gathered; an error event when that is too much."""
        opened.size += size
        return b"" if opened.size <= MAX_EVENT else self._fail(f"The backend sent a block of more than {MAX_EVENT} bytes.")

    def _closed(self) -> bytes:
        """The end of the block under way, if there is one: what had to wait until it was whole."""
        opened, self.open = self.open, None
        if opened is None:
            return b""
        kind = opened.block.type
        if kind == "tool_use":
            if opened.said:
                return b""
            return self._argument(opened, read.as_text(opened.block.input))
        if kind == "text":
            return self._cited(opened)
        if kind == "thinking":
            opened.block.thinking = "".join(opened.parts)
            opened.block.signature = opened.signature or opened.block.signature
        if kind in ("thinking", "redacted_thinking"):
            return self._delta_chunk({"thinking_blocks": [self._numbered("thinking", read.thinking_block(opened.block))]})
        return self._delta_chunk({"extra_content": read.kept([self._numbered("blocks", _whole(opened))], [])})

    def _numbered(self, kind: str, entry: dict[str, Any]) -> dict[str, Any]:
        """An entry of a list in a delta under its number in the whole message: the official SDK refuses to join lists whose entries
        have no `index`."""
        number = self.counts.get(kind, 0)
        self.counts[kind] = number + 1
        return {"index": number, **entry}

    def _cited(self, opened: _Open) -> bytes:
        cited = [*(opened.block.citations or ()), *opened.citations]
        if not cited:
            return b""
        kept = [self._numbered("citations", _object.decode(c)) for c in cited]
        delta: dict[str, Any] = {"extra_content": read.kept([], kept)}
        found = [a for a in (read.annotation(c, opened.start, self.place) for c in cited) if a is not None]
        if found:
            delta["annotations"] = [self._numbered("annotations", a) for a in found]
        return self._delta_chunk(delta)

    # --- out
    def _chunk(self, delta: bytes) -> bytes:
        return b'%b{"index":0,"delta":%b,"finish_reason":null}]}\n\n' % (self.head, delta)

    def _delta_chunk(self, delta: dict[str, Any]) -> bytes:
        return self._chunk(wire.encode(delta))

    def _error(self, error: msgspec.Raw) -> bytes:
        """An error event of Anthropic's: its own object."""
        self.over = True
        return b'data: {"error":%b}\n\n' % (b"{}" if error == wire.NULL else bytes(error))

    def _fail(self, message: str) -> bytes:
        self.over, self.rest = True, b""
        return b'data: {"error":%b}\n\n' % wire.encode({"message": message, "type": "upstream_error", "code": "unreadable_answer"})


def _whole(opened: _Open) -> dict[str, Any]:
    """The whole of a block of one of Anthropic's own tools: as it was started, with the input that came after."""
    block: dict[str, Any] = _object.decode(opened.raw)
    if opened.parts:
        text = "".join(opened.parts)
        try:
            _object.decode(text)
            block["input"] = msgspec.Raw(text.encode())
        except (msgspec.MsgspecError, RecursionError):
            block["input"] = {"invalid_arguments": text}
    return block
