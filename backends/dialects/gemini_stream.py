"""Gemini's streamed answer (`alt=sse`) → chat chunks. Pure.

Every chunk is a small whole answer with more text. What ends an answer (finish reason, usage, sources) is kept until the bytes end:
newer models send calls and their finish in different chunks (wire trap 23), and only then is it known that nothing is missing.
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
_DONE = b"data: [DONE]\n\n"


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
        elif 0 < data.find(b"\n\r\n") == len(data) - 3 and b"\n\n" not in data:  # one whole event, as Google mostly writes them
            return self._event(data)
        whole, left = sse.split(data)
        if left:
            self._rest += left
        return b"".join([self._event(event) for event in sse.events(whole)])

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
        data = _data(event)
        if not data or self._over:
            return b""
        try:
            chunk = answer.decode(data)
            return self._chunk(chunk) if chunk.error is None else self._error(answer.error(chunk.error))
        except answer.UNREADABLE:
            return self._fail("The backend sent an event that cannot be read.") if whole else b""

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
        parts = candidate.content.parts if candidate.content is not None else None
        if candidate.logprobs_result == NULL and parts is not None and len(parts) == 1 and turn.begun:
            part = parts[0]
            if part.text and part.thought is None and part.thought_signature is None and part.function_call is None:
                return b"".join((self._heads[turn.index], _TEXT, encode(part.text), _TEXT_TAIL))
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


def _data(event: bytes) -> bytes:
    """The data of one event: mostly one line. Google also answers with bare JSON where an error comes before the first event."""
    line = event.strip()
    if line.find(b"\n") < 0:
        if line[:5] == b"data:":
            return line[5:]
        return line if line[:1] in (b"{", b"[") else b""
    return line if line[:1] in (b"{", b"[") else sse.payload(event)[1]
