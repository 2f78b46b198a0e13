"""Chat answers, whole and streamed, as Responses. Pure.

A stream begins with `response.created` and `response.in_progress` at the first chunk and ends with one of `response.completed`,
`response.incomplete` and, after an `error` event, `response.failed`. There is no `[DONE]` here. The `error` event has the documented flat
members and OpenAI's `error` object: with that the official clients raise instead of passing over it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from backends import sse, wire
from backends.dialects.responses_answer import Answer, Delta
from backends.dialects.responses_items import Score
from backends.dialects.responses_object import Envelope, error
from backends.dialects.responses_request import wants_logprobs, wants_summary
from backends.dialects.types import Context
from backends.types import Fault
from backends.wire import Doc

MOST_EVENT = 16 << 20  # bytes of one chat event


class _Logprobs(msgspec.Struct):
    content: list[Score] | None = None


class _Choice(msgspec.Struct):
    index: int = 0
    delta: Delta | None = None
    message: Delta | None = None
    finish_reason: str | None = None
    logprobs: _Logprobs | None = None


class _Chunk(msgspec.Struct):
    choices: list[_Choice] | None = None
    model: str | None = None
    usage: msgspec.Raw = wire.NULL
    service_tier: msgspec.Raw = wire.NULL
    error: msgspec.Raw = wire.NULL
    object: Any = None


_chunk = msgspec.json.Decoder(_Chunk)
_QUOTE = b'"'[0]
_ESCAPED = b'"\\' + bytes(range(32))
_ONE_LINE = bytes.maketrans(b"\r\n", b"  ")
_BAD = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


def custom_names(asked: Doc) -> frozenset[str]:
    """The names of the client's custom tools, which chat knows as functions."""
    try:
        tools = wire.items(asked, "tools")
        return frozenset(wire.text(tool, "name") or "" for tool in tools if wire.text(tool, "type") == "custom")
    except Fault:
        return frozenset()  # the request with them was refused already


def _asks(test: Any, asked: Doc) -> bool:
    try:
        return bool(test(asked))
    except Fault:
        return False


class _Shape:
    """What surrounds the text in an event whose chunk is text and nothing else. The next chunks of a stream differ from it in their text
    alone, and need not be parsed: with the same bytes around it, and nothing in it that JSON escapes, a text can be nothing else."""

    __slots__ = ("after", "before", "begin", "end", "take")

    def __init__(self, before: bytes, after: bytes, take: Callable[[bytes], None]) -> None:
        self.before, self.after, self.take = b'data: %b"' % before, b'"%b\n\n' % after, take
        self.begin, self.end = len(self.before), len(self.after)

    def fits(self, event: bytes) -> bool:
        """Takes the text out of `event` when it is of this shape."""
        if not (event.startswith(self.before) and event.endswith(self.after)):
            return False
        inner = event[self.begin : -self.end]
        if not inner or len(inner.translate(None, _ESCAPED)) != len(inner):
            return False
        self.take(inner)
        return True


class ResponsesStream:
    """One chat stream → Responses events. `final` is the Response object once the stream has ended, to be stored; None before."""

    __slots__ = ("answer", "begun", "envelope", "final", "finished", "logprobs", "rest", "shape")

    def __init__(self, asked: Doc, context: Context) -> None:
        self.answer = Answer(context.id, custom_names(asked), _asks(wants_summary, asked))
        self.envelope = Envelope(asked, context)
        self.logprobs = _asks(wants_logprobs, asked)
        self.begun = False
        self.finished: str | None = None  # the finish reason
        self.final: bytes | None = None
        self.rest = b""
        self.shape: _Shape | None = None

    def feed(self, data: bytes) -> bytes:
        """Whole events of what can be told now. What follows the end is not part of the answer."""
        if self.final is not None:
            return b""
        out = self.answer.events
        try:
            if self.shape is not None and not self.rest and self.shape.fits(data):
                return out.pop() if len(out) == 1 else self._told()
            whole, self.rest = sse.split(self.rest + data if self.rest else data)
            for event in whole.split(b"\n\n") if b"\r" not in whole else sse.events(whole):
                if self.final is not None:
                    break
                self._event(event)
            if len(self.rest) > MOST_EVENT:
                raise Fault("upstream", f"The backend sent an event of more than {MOST_EVENT} bytes.", origin="backend")
        except Fault as e:
            self._fail(e)
        return self._told()

    def _told(self) -> bytes:
        """The events gathered."""
        told = b"".join(self.answer.events)
        self.answer.events.clear()
        return told

    def _event(self, event: bytes) -> None:
        if event[:6] == b"data: " and b"\n" not in event and b"\r" not in event:
            if self.shape is not None and self.shape.fits(event + b"\n\n"):
                return
            data = event[6:]
        else:
            name, data = sse.payload(event)
            if name == b"error":
                raise _reported(sse.look(event).error)
            if not data:
                self._comment(event)
                return
            data = data.translate(_ONE_LINE)
        if data[:6] == b"[DONE]":
            self._complete()
        else:
            self.take(data)

    def _comment(self, event: bytes) -> None:
        if event.startswith(b":"):
            self.answer.events.append(event.strip() + b"\n\n")

    def take(self, data: bytes) -> None:
        """One chunk, or a whole answer. Raises `Fault` (upstream) when it is neither."""
        try:
            chunk = _chunk.decode(data)
        except _BAD as e:
            raise Fault("upstream", f"The backend sent what is no chat completion: {e}", origin="backend", code="bad_answer") from None
        if chunk.error != wire.NULL or chunk.object == "error":
            raise _reported(sse.look(b"data: %b\n\n" % data).error)
        if not self.begun:
            self._begin(chunk)
        if chunk.usage != wire.NULL:
            self.envelope.usage = wire.usage(data) or self.envelope.usage
        if chunk.service_tier != wire.NULL:
            self.envelope.tier = chunk.service_tier
        for choice in chunk.choices or ():
            if choice.index == 0:
                self._choice(choice)
        self.shape = self._learnt(data, chunk) or self.shape

    def _learnt(self, data: bytes, chunk: _Chunk) -> _Shape | None:
        """The shape of a chunk whose only effect was one text."""
        choices = chunk.choices or ()
        if len(choices) != 1 or chunk.usage != wire.NULL or chunk.service_tier != wire.NULL:
            return None
        choice = choices[0]
        if choice.delta is None or choice.finish_reason is not None or choice.logprobs is not None or choice.index != 0:
            return None
        for field, take in (("content", self.answer.speak), ("reasoning_content", self.answer.think)):
            text = bytes(getattr(choice.delta, field))
            if len(text) > 2 and text[0] == _QUOTE and b"\\" not in text and choice.delta == Delta(**{field: getattr(choice.delta, field)}):
                before, found, after = data.partition(text)
                return _Shape(before, after, take) if found and text not in after else None
        return None

    def _choice(self, choice: _Choice) -> None:
        delta = choice.delta or choice.message
        if delta is not None:
            self.answer.add(delta, choice.logprobs.content if self.logprobs and choice.logprobs else None)
        if choice.finish_reason is not None:
            self.finished = choice.finish_reason
            self.answer.status = self.envelope.finish(choice.finish_reason)
            self.answer.settle()

    def _begin(self, chunk: _Chunk | None) -> None:
        self.begun = True
        if chunk is not None and chunk.model:
            self.envelope.model = chunk.model
        response = b'"response":%b' % self.envelope.json(b"in_progress")
        self.answer.emit(b"response.created", response)
        self.answer.emit(b"response.in_progress", response)

    def _complete(self) -> None:
        if not self.begun:
            self._begin(None)
        status, final = self.end()
        self.answer.emit(b"response.%b" % status, b'"response":%b' % final)

    def end(self) -> tuple[bytes, bytes]:
        """Ends the answer; gives its status and `final`."""
        status = self.envelope.finish(self.finished)
        self.answer.status = status
        self.answer.settle()
        self.final = self.envelope.json(status, self.answer.output())
        return status, self.final

    def _fail(self, fault: Fault) -> None:
        if not self.begun:
            self._begin(None)
        told = wire.encode({"code": fault.code, "message": fault.message, "param": fault.param})[1:-1]
        self.answer.emit(b"error", b'%b,%b' % (told, wire.envelope(fault)[1:-1]))
        self.final = self.envelope.json(b"failed", self.answer.output(), error(fault))
        self.answer.emit(b"response.failed", b'"response":%b' % self.final)

    def fail(self, fault: Fault) -> bytes:
        """Ends the stream with an error; nothing when it has ended already."""
        if self.final is None:
            self._fail(fault)
        return self._told()

    def close(self) -> bytes:
        """The clean end of the bytes: the end of the answer where it was finished, else an error."""
        told = self.feed(b"\n\n") if self.rest.strip() else b""
        if self.final is not None:
            return told
        if self.finished is not None:
            return told + self.feed(b"data: [DONE]\n\n")
        return told + self.fail(Fault("upstream", "The answer ended before it was finished.", origin="backend", code="stream_cut"))


def _reported(found: object) -> Fault:
    """The fault of an error object in a stream."""
    fields = found if isinstance(found, dict) else {"message": found}
    message, code, type_ = (fields.get(key) for key in ("message", "code", "type"))
    told = message if isinstance(message, str) and message else "The backend reported an error and gave no message."
    limited = "rate_limit" in f"{type_} {code}" or code == 429
    return Fault("rate_limited" if limited else "upstream", told, origin="backend", code=str(code) if code is not None else None)


def whole(body: bytes, asked: Doc, context: Context) -> bytes:
    """A `chat.completion` as a Response. Raises `Fault` (upstream) when it is none."""
    stream = ResponsesStream(asked, context)
    stream.take(body)
    if not stream.begun or (stream.finished is None and not stream.answer.items):
        raise Fault("upstream", "The backend's answer has no choice.", origin="backend", code="bad_answer")
    return stream.end()[1]
