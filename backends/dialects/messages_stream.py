"""Chat chunks → the events of Anthropic Messages. Pure.

Order (Anthropic's documentation of streaming): `message_start`, then each block as `content_block_start`, deltas and
`content_block_stop`, then one `message_delta` with the reason and the counts, then `message_stop`. Chat tells the counts after
the finish, so the last two wait for `[DONE]`.

Chat does not order text against tool calls; blocks must not overlap. So calls come after the text before them, and text that
comes once a call has begun waits until all calls are written.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from backends import sse, wire
from backends.dialects.messages_blocks import HELD, Blocks, Calls, as_raw, too_much
from backends.dialects.messages_error import error
from backends.dialects.messages_reply import Ended, counts, details, safe, stopped, texts, thinking_blocks
from backends.dialects.messages_same import Same
from backends.dialects.types import Context
from backends.types import Fault
from backends.wire import NULL, Doc

_EMPTY = msgspec.Raw(b'""')
_QUOTE = 34
_NOTHING = (NULL, _EMPTY)


class _Function(msgspec.Struct):
    name: Any = None
    arguments: msgspec.Raw = NULL


class _Call(msgspec.Struct):
    index: Any = None
    id: Any = None
    function: _Function | None = None


class _Delta(msgspec.Struct):
    content: msgspec.Raw = NULL
    reasoning_content: msgspec.Raw = NULL
    reasoning: msgspec.Raw = NULL
    refusal: msgspec.Raw = NULL
    thinking_blocks: list[Any] | None = None
    tool_calls: list[_Call] | None = None

    def said(self) -> tuple[tuple[bytes, msgspec.Raw, str], ...]:
        """(key, JSON of the piece, kind of its block) of each way to say something."""
        return (
            (b'"content":', self.content, "text"), (b'"reasoning_content":', self.reasoning_content, "thinking"),
            (b'"reasoning":', self.reasoning, "thinking"),
        )  # fmt: skip


class _Choice(Ended):
    index: int | None = None
    delta: _Delta | None = None


class _Chunk(msgspec.Struct):
    choices: list[_Choice] | None = None
    usage: msgspec.Raw = NULL
    model: str | None = None
    error: Any = None
    object: Any = None
    message: Any = None


_decode = msgspec.json.Decoder(_Chunk).decode
_any = msgspec.json.Decoder()
TRIES = 32  # chunks of one block that are learned from
_STOP = b'event: message_stop\ndata: {"type":"message_stop"}\n\n'


class MessagesStream:
    """`SurfaceStream` of Anthropic Messages. Single use. After its end, or a failure, it gives nothing more."""

    __slots__ = (
        "_asked", "_blocks", "_calls", "_context", "_ended", "_late", "_learnt", "_over", "_refused", "_rest", "_same", "_started",
        "_usage",
    )  # fmt: skip

    def __init__(self, asked: Doc, context: Context) -> None:
        self._asked, self._context = asked, context
        self._rest = b""
        self._blocks = Blocks()
        self._same = Same()
        self._learnt = 0  # how often the chunk to compare with was replaced within one block
        self._calls = Calls(context)
        self._late: list[tuple[Callable[[Any], None], Any]] = []  # what came behind calls: how it is written, and what
        self._usage = b""  # the last event that told counts: they are cumulative
        self._ended: Ended | None = None
        self._started = self._over = self._refused = False

    def feed(self, data: bytes) -> bytes:
        """See `Stream.feed`."""
        if self._over:
            return b""
        same, blocks = self._same, self._blocks
        if same.kind and same.kind == blocks.kind and not self._rest and (said := same.only(data)) is not None:
            return blocks.before + b'"' + said + b'"}}\n\n'  # one event a read is the usual case
        whole, self._rest = sse.split(self._rest + data if self._rest else data)
        if whole:
            if b"\r" in whole:
                whole = whole.replace(b"\r\n", b"\n")
            for event in whole.split(b"\n\n"):
                if event and not self._over:
                    self._event(event)
        if len(self._rest) > HELD and not self._over:
            self._fail(too_much())
        return self._sent()

    def close(self) -> bytes:
        """See `Stream.close`. Without a finish and without `[DONE]` the answer was cut, which is an error event."""
        if self._rest.strip():
            rest, self._rest = self._rest.strip(b"\r\n"), b""
            out = self.feed(rest + b"\n\n")
        else:
            out = b""
        if not self._over:
            if self._ended is not None:
                self._end()
            else:
                self._fail(_upstream("The backend ended the stream before the answer was finished.", "stream_cut"))
        return out + self._sent()

    def fail(self, fault: Fault) -> bytes:
        """See `SurfaceStream.fail`. Nothing when the stream is over."""
        if not self._over:
            self._fail(fault)
        return self._sent()

    def _sent(self) -> bytes:
        out = self._blocks.out
        sent = b"".join(out)
        out.clear()
        return sent

    def _fail(self, fault: Fault) -> None:
        self._over = True
        self._blocks.out.append(b"event: error\ndata: %b\n\n" % error(fault, self._context.id))

    def _event(self, event: bytes) -> None:
        same = self._same
        if same.kind and same.kind == self._blocks.kind and (said := same.text(event)) is not None:
            self._blocks.delta(b'"%b"' % said)
            return
        if event.startswith(b"data: {") and b"\n" not in event:
            chunk = self._chunk(event[6:])
            if chunk is not None and self._learnt < TRIES:
                self._learn(event, chunk)
            return
        name, data = sse.payload(event)
        if data == b"[DONE]":
            self._end()
        elif name == b"error":
            self._fail(_told(data))
        elif data:
            self._chunk(data)
        elif event.startswith(b":"):
            self._blocks.out.append(event + b"\n\n")

    def _chunk(self, data: bytes) -> _Chunk | None:
        """Reads and writes one chunk; None when it was none, which ends the stream."""
        try:
            return self._read(data)
        except Fault as fault:
            self._fail(fault)
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
            self._fail(_upstream("The backend's stream has an event that is no chat chunk.", "bad_stream"))
        return None

    def _read(self, data: bytes) -> _Chunk:
        if not data.isascii():
            data.decode()  # msgspec copies raw slices without looking inside strings
        chunk = _decode(data)
        if chunk.error is not None or chunk.object == "error":
            raise _told(data)
        if chunk.usage != NULL:
            self._usage = data
        if not self._started and chunk.choices:
            self._start(chunk)
        for choice in chunk.choices or ():
            if not choice.index:
                self._choice(choice)
        return chunk

    def _learn(self, event: bytes, chunk: _Chunk) -> None:
        """Remembers a chunk that was a piece of the open block and nothing else. Some servers pad each chunk with other bytes: a few
        tries a block tell."""
        choices = chunk.choices
        if not choices or len(choices) > 1 or chunk.usage != NULL or (delta := choices[0].delta) is None or choices[0].finish_reason:
            return
        if delta.tool_calls or delta.thinking_blocks or delta.refusal not in _NOTHING:
            return
        said = [(key, bytes(raw), kind) for key, raw, kind in delta.said() if raw not in _NOTHING]
        if len(said) == 1 and said[0][2] == self._blocks.kind:
            self._learnt = self._learnt + 1 if self._same.kind == self._blocks.kind else 0
            self._same.learn(event, *said[0])

    def _start(self, chunk: _Chunk) -> None:
        self._started = True
        message: dict[str, Any] = {
            "id": f"msg_{safe(self._context.id)}", "type": "message", "role": "assistant", "model": chunk.model or self._context.model,
            "content": [], "stop_reason": None, "stop_sequence": None, "usage": counts(wire.usage(self._usage)),
        }  # fmt: skip
        self._blocks.out.append(b'event: message_start\ndata: {"type":"message_start","message":%b}\n\n' % wire.encode(message))

    def _choice(self, choice: _Choice) -> None:
        delta = choice.delta
        if delta is not None:
            if delta.reasoning_content not in _NOTHING:
                self._say(False, delta.reasoning_content)
            elif delta.reasoning not in _NOTHING:
                self._say(False, delta.reasoning)
            if delta.thinking_blocks:
                self._whole(delta.thinking_blocks)
            if delta.content not in _NOTHING:
                self._say(True, delta.content)
            if delta.refusal not in _NOTHING:
                self._refused = True
                self._say(True, delta.refusal)
            for call in delta.tool_calls or ():
                self._call(call)
        if choice.finish_reason:  # some say "" until it is there
            self._ended = choice

    def _say(self, text: bool, raw: msgspec.Raw) -> None:
        """A piece of text, or of reasoning."""
        write = self._blocks.text if text else self._blocks.thinking
        if memoryview(raw)[0] != _QUOTE:
            self._parts(raw)
        elif self._calls:
            self._later(write, bytes(raw), len(bytes(raw)))
        else:
            write(raw)

    def _later(self, write: Callable[[Any], None], what: Any, size: int) -> None:
        self._calls.hold(size)
        self._late.append((write, what))

    def _parts(self, raw: msgspec.Raw) -> None:
        """Content in parts, as Mistral streams it."""
        for text, said in zip((False, True), texts(_any.decode(raw)), strict=True):
            if said:
                self._say(text, msgspec.Raw(as_raw(said)))

    def _whole(self, given: list[Any]) -> None:
        for block in thinking_blocks(given):
            if self._calls:
                self._later(self._blocks.whole, block, len(wire.encode(block)))
            else:
                self._blocks.whole(block)

    def _call(self, call: _Call) -> None:
        function = call.function or _Function()
        given = b"" if function.arguments in _NOTHING else bytes(function.arguments)
        if given and given[0] != _QUOTE:  # an object where a string belongs
            given = as_raw(given.decode("utf-8", "replace"))
        index = call.index if isinstance(call.index, int) else None
        id = "" if call.id is None else str(call.id)
        self._calls.take(index, id, function.name if isinstance(function.name, str) else "", given, self._blocks)

    def _end(self) -> None:
        """The answer is whole: what waits, the reason, the counts."""
        self._over = True
        writer, called = self._blocks, bool(self._calls)
        if not self._started:
            self._start(_Chunk())
        self._calls.finish(writer)
        for write, what in self._late:
            write(what)
        writer.finish()
        if self._refused and not called:
            reason, sequence = "refusal", None
        else:
            reason, sequence = stopped(self._ended or Ended(), called, self._asked)
        delta: dict[str, Any] = {"stop_reason": reason, "stop_sequence": sequence}
        if reason == "refusal":
            delta["stop_details"] = details(None)
        usage = counts(wire.usage(self._usage)) if self._usage else {"output_tokens": 0}
        told = wire.encode({"type": "message_delta", "delta": delta, "usage": usage})
        writer.out += [b"event: message_delta\ndata: %b\n\n" % told, _STOP]


def _upstream(message: str, code: str) -> Fault:
    return Fault("upstream", message, origin="backend", code=code)


def _told(data: bytes) -> Fault:
    """The fault of an error event in a chat stream, wherever the message stands in it."""
    try:
        given = _any.decode(data)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return _upstream(data.decode("utf-8", "replace")[:500] or "The backend reported an error.", "upstream")
    fields = given.get("error", given) if isinstance(given, dict) else given
    message = fields.get("message") if isinstance(fields, dict) else fields
    code = fields.get("code") if isinstance(fields, dict) else None
    fault = _upstream(message if isinstance(message, str) and message else "The backend reported an error.", str(code or "upstream"))
    if isinstance(code, int) and 400 <= code < 600:
        fault.status = code
    return fault
