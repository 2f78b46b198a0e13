"""Gemini's streamed answer (`alt=sse`) → chat chunks. Pure.

Every chunk is a small whole answer with more text. What ends an answer (finish reason, usage, sources) is kept until the bytes end:
newer models send calls and their finish in different chunks (wire trap 23), and only then is it known that nothing is missing.

Most chunks differ from the one before in their text and their token counts only. What stands around those is kept (`_Like`), and a
chunk with the same around it is not parsed again.
"""

from __future__ import annotations

from typing import Any

import msgspec

from backends import sse
from backends.dialects import gemini_answer as answer
from backends.dialects.gemini_answer import Answer, Candidate, Out, Turn
from backends.dialects.types import Context
from backends.wire import NULL, encode

MAX_EVENT = 64 << 20  # bytes: an image comes as one event
MAX_TURNS = 64
_TAIL = b',"finish_reason":null}]}\n\n'
_TEXT, _TEXT_TAIL = b'{"content":', b"}" + _TAIL
_LIKE_TAIL = b'"' + _TEXT_TAIL
_DONE = b"data: [DONE]\n\n"


_raw = msgspec.json.Decoder(msgspec.Raw)


class _Like:
    """The bytes of a chunk around its one text and its token counts: up to the text's quotation mark, from the other one to the counts,
    and from there on."""

    __slots__ = ("after", "before", "between")

    def __init__(self, before: bytes, between: bytes, after: bytes) -> None:
        self.before, self.between, self.after = before, between, after

    @classmethod
    def of(cls, event: bytes, text: str, counts: bytes) -> _Like | None:
        """Learnt from an event that was parsed. None where it is not certain which of its bytes the text and the counts are."""
        said = encode(text)
        if event.find(b"\\") >= 0 or event.count(said) != 1 or event.count(counts) != 1:
            return None
        at, told = event.find(said), event.find(counts)
        if told < at + len(said):
            return None
        return cls(event[: at + 1], event[at + len(said) - 1 : told], event[told + len(counts) :])

    def read(self, event: bytes) -> tuple[bytes, msgspec.Raw] | None:
        """The text, as JSON has it, and the counts of an event like that one; None when it is another. Raises one of `UNREADABLE`."""
        start = len(self.before)
        if not event.startswith(self.before) or not event.endswith(self.after):
            return None
        end = event.find(b'"', start)
        if not event.startswith(self.between, end):
            return None
        text = event[start:end]
        if not text or text.find(b"\\") >= 0 or not text.decode().isprintable():
            return None
        return text, _raw.decode(event[end + len(self.between) : len(event) - len(self.after)])


class GeminiStream:
    """One answer. `feed` and `close` as `dialects.types.Stream` has them."""

    def __init__(self, context: Context, *, single: bool = False) -> None:
        self._context, self._single = context, single
        self._rest = bytearray()
        self._turns: dict[int, Turn] = {}
        self._heads: dict[int, bytes] = {}
        self._start = b""
        self._usage: msgspec.Raw = NULL
        self._over = False
        self._like: _Like | None = None
        self._text = b""  # what stands before the text in a chunk of the candidate that `_like` is of

    def feed(self, data: bytes) -> bytes:
        """Takes bytes cut anywhere; gives whole chat events, or nothing yet."""
        if self._over:
            return b""
        if self._rest:
            at = max(0, len(self._rest) - 3)
            self._rest += data
            if self._rest.find(b"\n\n", at) < 0 and self._rest.find(b"\n\r\n", at) < 0:
                return self._fail("The backend sent an event that is too large.") if len(self._rest) > MAX_EVENT else b""
            data = bytes(self._rest)
            self._rest = bytearray()
        whole, left = sse.split(data)
        if left:
            self._rest += left
        if whole.find(b"\r") >= 0:
            whole = whole.replace(b"\r\n", b"\n")
        return b"".join([self._event(event) for event in whole.split(b"\n\n") if event])

    def close(self) -> bytes:
        """The clean end: finishes, usage and `[DONE]`; nothing of these when the answer is not whole."""
        last = bytes(self._rest)
        self._rest = bytearray()
        out = [self._event(last, whole=False)] if last.strip() else []
        turns = [self._turns[i] for i in sorted(self._turns)]
        if self._over or not turns or any(t.native is None for t in turns):
            return b"".join(out)
        self._over = True
        out += [self._finish(turn) for turn in turns]
        if (usage := answer.usage(self._usage)) is not None:
            out.append(b'data: %b"choices":[],"usage":%b}\n\n' % (self._start, encode(usage)))
        return b"".join((*out, _DONE))

    def _event(self, event: bytes, *, whole: bool = True) -> bytes:
        """One event. Comments and what has no data give nothing; an error ends the stream. The last one may lack its end (`whole`):
        if it cannot be read it is a piece of one, and the answer was cut."""
        if self._over:
            return b""
        try:
            if self._like is not None and (found := self._like.read(event)) is not None:
                text, self._usage = found
                return b"%b%b%b" % (self._text, text, _LIKE_TAIL)
        except answer.UNREADABLE:
            self._like = None
        data = _data(event)
        if not data:
            return b""
        try:
            chunk = answer.decode(data)
            if chunk.error is not None:
                return self._error(answer.error(chunk.error))
            out = self._chunk(chunk)
            self._learn(event, chunk)
            return out
        except answer.UNREADABLE:
            return self._fail("The backend sent an event that cannot be read.") if whole else b""

    def _learn(self, event: bytes, chunk: Answer) -> None:
        """Keeps what stands around a chunk that has only text and counts."""
        candidates = chunk.candidates
        if candidates is None or len(candidates) != 1 or chunk.usage_metadata == NULL or chunk.prompt_feedback is not None:
            return
        candidate = candidates[0]
        turn = self._turns[candidate.index or 0]
        text = _plain(candidate) if candidate.finish_reason is None and not answer.sourced(candidate) and turn.begun else None
        like = _Like.of(event, text, bytes(chunk.usage_metadata)) if text is not None else None
        if like is not None:
            self._like = like
            self._text = b'%b%b"' % (self._heads[turn.index], _TEXT)

    def _fail(self, message: str) -> bytes:
        return self._error({"message": message, "type": "upstream_error", "param": None, "code": 502})

    def _error(self, error: Out) -> bytes:
        self._over = True
        self._rest = bytearray()
        return b"data: %b\n\n" % encode({"error": error})

    def _chunk(self, chunk: Answer) -> bytes:
        if chunk.usage_metadata != NULL:
            self._usage = chunk.usage_metadata
        if not self._start:
            self._begin(chunk)
        candidates = chunk.candidates
        if not candidates:
            if chunk.prompt_feedback is not None and chunk.prompt_feedback.block_reason:
                answer.block(self._turn(0), chunk.prompt_feedback)
            return b""
        if len(candidates) == 1:
            return self._candidate(candidates[0])
        return b"".join([self._candidate(candidate) for candidate in candidates])

    def _begin(self, chunk: Answer) -> None:
        """What all events of this answer begin with; the first chunk says it."""
        context = self._context
        start: Out = {
            "id": chunk.response_id or context.id, "object": "chat.completion.chunk", "created": context.unix,
            "model": chunk.model_version or context.model,
        }  # fmt: skip
        self._start = encode(start)[:-1] + b","

    def _turn(self, index: int) -> Turn:
        turn = self._turns.get(index)
        if turn is None:
            if len(self._turns) >= MAX_TURNS:
                raise msgspec.ValidationError("too many candidates")
            turn = self._turns[index] = Turn(index, answer.prefix(self._context), self._single)
            self._heads[index] = b'data: %b"choices":[{"index":%d,"delta":' % (self._start, index)
        return turn

    def _candidate(self, candidate: Candidate) -> bytes:
        turn = self._turn(candidate.index or 0)
        if candidate.finish_reason is not None or answer.sourced(candidate):
            answer.settle(turn, candidate)
        if turn.begun and (text := _plain(candidate)) is not None:
            return b"".join((self._heads[turn.index], _TEXT, encode(text), _TEXT_TAIL))
        parts = candidate.content.parts if candidate.content is not None else None
        return self._deltas(turn, [made for part in parts or () if (made := answer.delta(part, turn)) is not None], candidate)

    def _deltas(self, turn: Turn, deltas: list[Out], candidate: Candidate) -> bytes:
        """An event for each delta; the first of a turn says the role, the first of a chunk has its log probabilities."""
        probabilities = answer.logprobs(candidate.logprobs_result)
        if probabilities is not None and not deltas:
            deltas = [{}]
        if deltas and not turn.begun:
            turn.begun = True
            deltas[0] = {"role": "assistant", **deltas[0]}
        out = []
        for made in deltas:
            told = b',"logprobs":' + encode(probabilities) if probabilities is not None else b""
            out.append(b"".join((self._heads[turn.index], encode(made), told, _TAIL)))
            probabilities = None
        return b"".join(out)

    def _finish(self, turn: Turn) -> bytes:
        reason, native = answer.finish(turn)
        made: dict[str, Any] = {} if turn.begun else {"role": "assistant", "content": ""}
        made |= answer.last_words(turn, reason)
        told = b',"native_finish_reason":' + encode(native) if native is not None else b""
        return b"".join((self._heads[turn.index], encode(made), b',"finish_reason":', encode(reason), told, b"}]}\n\n"))


def _plain(candidate: Candidate) -> str | None:
    """The text of a candidate that has one part, text for the user, and nothing beside."""
    parts = candidate.content.parts if candidate.content is not None else None
    if parts is None or len(parts) != 1 or candidate.logprobs_result != NULL:
        return None
    part = parts[0]
    if part.thought is None and part.thought_signature is None and part.function_call is None:
        return part.text or None
    return None


def _data(event: bytes) -> bytes:
    """The data of one event: mostly one line. Google also answers with bare JSON where an error comes before the first event."""
    line = event.strip()
    if line.find(b"\n") < 0:
        if line[:5] == b"data:":
            return line[5:]
        return line if line[:1] in (b"{", b"[") else b""
    return line if line[:1] in (b"{", b"[") else sse.payload(event)[1]
