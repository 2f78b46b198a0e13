"""What an answer says: read as it comes, noted in a `Timed`. Pure: the time of each read is an argument.

A chunk has content when its delta (chat) has a non-empty text, reasoning, refusal, or a name or arguments of a tool call, or when its
choice (completions) has a non-empty text. Most chunks of a stream are like the one before but for that text; such a chunk is known by its
bytes and not decoded.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from benchmarks.bench.sse import Splitter, TooLong, data_of
from benchmarks.bench.words import Timed

SHOWN = 200  # characters of an error
MOST_WHOLE = 64 << 20  # bytes of an answer that is not streamed
MOST_ERROR = 64 << 10  # bytes of an error's body that are looked at
MOST_CHUNKS = 1_000_000  # with content, of one answer
_TEXTS = ("content", "reasoning_content", "reasoning", "refusal", "text")
_KEYS = tuple(f'"{name}":{space}"'.encode() for name in _TEXTS for space in ("", " "))
Hide = Callable[[str], str]


class _Choice(msgspec.Struct):
    delta: Any = None
    text: Any = None
    finish_reason: Any = None


class _Chunk(msgspec.Struct):
    choices: list[_Choice] | None = None
    usage: Any = None
    error: Any = None
    timings: Any = None
    object: Any = None
    message: Any = None


_decode = msgspec.json.Decoder(_Chunk).decode
_any = msgspec.json.Decoder().decode


def content_of(choice: _Choice) -> str:
    """The text that a choice of a chunk brings, tool calls' names and arguments too; empty: none. Its delta may be any JSON."""
    delta, text = choice.delta, choice.text
    if isinstance(text, str) and text:
        return text
    if not isinstance(delta, dict):
        return ""
    for name in _TEXTS[:4]:
        text = delta.get(name)
        if text and isinstance(text, str | list):
            return text if isinstance(text, str) else "…"  # parts, as Mistral sends its thinking
    return _called(delta)


def _called(delta: dict[str, Any]) -> str:
    calls = delta.get("tool_calls")
    functions = [call.get("function") for call in calls if isinstance(call, dict)] if isinstance(calls, list) else []
    for function in (*functions, delta.get("function_call")):
        if isinstance(function, dict):
            for name in ("name", "arguments"):
                if isinstance(function.get(name), str) and function[name]:
                    return str(function[name])
    return ""


def shown(text: str, hide: Hide) -> str:
    """A text of the server as one short line without secrets."""
    line = " ".join(hide(text).split())
    return line if len(line) <= SHOWN else line[: SHOWN - 1] + "…"


def message_of(body: bytes) -> str:
    """What an error's body says: its message where it is JSON of a known form, else the text itself; empty: nothing."""
    try:
        found: Any = _any(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return body.decode("utf-8", "replace")
    return message_in(found)


def message_in(found: Any) -> str:
    """The message within an error's JSON."""
    for name in ("error", "message", "detail", "msg"):
        if isinstance(found, list) and found:
            found = found[0]
        if isinstance(found, dict) and found.get(name):
            found = found[name]
    return found if isinstance(found, str) else msgspec.json.encode(found).decode()


class Answer:
    """One answer on its way. `begin`, then `feed` for every piece of the body, then `end` or `fail`: all note what they learn in `timed`.
    None raises for anything that a server may send. `over`: it is longer than anything that is read; nothing more of it is wanted."""

    __slots__ = ("_asked_stream", "_body", "_counted", "_done", "_hide", "_prefix", "_split", "_suffix", "_whole", "over", "timed")

    def __init__(self, timed: Timed, *, stream: bool, hide: Hide = str) -> None:
        self.timed = timed
        self._asked_stream = stream
        self._hide = hide
        self._split = Splitter()
        self._whole = False
        self._body = bytearray()
        self._done = False  # [DONE] came
        self._counted = False  # usage told the completion's tokens
        self.over = False
        self._prefix = self._suffix = b""

    def begin(self, status: int, kind: str, at: float) -> None:
        """The head is there: the status and the content type, in lower case."""
        self.timed.status, self.timed.head = status, at
        if not 200 <= status < 300:
            self._whole = True
        elif "event-stream" in kind:
            self._whole = False
        else:
            self._whole = not self._asked_stream or "json" in kind  # a server that does not stream though asked to

    def feed(self, data: bytes, at: float) -> None:
        """A piece of the body, read at `at`."""
        if self.over:
            return
        if self._whole:
            self._gather(data)
            return
        try:
            events = self._split.feed(data)
        except TooLong:
            self._stop("an event of the stream is longer than 4 MiB")
            return
        prefix, suffix = self._prefix, self._suffix
        for event in events:
            if (
                prefix
                and event.startswith(prefix)
                and event.endswith(suffix)
                and len(event) > len(prefix) + len(suffix)
                and event.find(b'"', len(prefix), -len(suffix)) < 0
                and event[-len(suffix) - 1] != 92  # a backslash: the quotation mark after it ends nothing
            ):
                self._content(0, at)
            elif event:
                self._read(event, at)
                prefix, suffix = self._prefix, self._suffix

    def _gather(self, data: bytes) -> None:
        room = (MOST_WHOLE if 200 <= self.timed.status < 300 else MOST_ERROR) - len(self._body)
        self._body += data[: max(0, room)]
        if len(data) > room and self.timed.status < 300:
            self._stop("the answer is longer than 64 MiB")

    def _content(self, count: int, at: float) -> None:
        stamps = self.timed.stamps
        if len(stamps) >= MOST_CHUNKS:
            self._stop("the answer has more than a million chunks")
            return
        stamps.append(at)
        self.timed.counts.append(count)

    def _read(self, event: bytes, at: float) -> None:
        """One event that is not known by its bytes."""
        data, kind = data_of(event)
        if not data:
            return
        if data == b"[DONE]":
            self._done = True
            return
        if kind == b"error":
            self.fail(f"error event: {shown(message_of(data), self._hide)}")
            return
        try:
            chunk = _decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            self.fail(f"a chunk is not what the API says: {shown(data[:400].decode('utf-8', 'replace'), self._hide)}")
            return
        if chunk.error or (chunk.object == "error" and chunk.message):
            self.fail(f"error event: {shown(message_in(chunk.error or chunk.message), self._hide)}")
            return
        self._chunk(event, chunk, at)

    def _chunk(self, event: bytes, chunk: _Chunk, at: float) -> None:
        choices, content = chunk.choices or (), ""
        finish = False
        for choice in choices:
            content = content_of(choice) or content
            if choice.finish_reason:
                finish = True
                self._finish(choice.finish_reason)
        if chunk.usage is not None:
            self._usage(chunk.usage)
        if chunk.timings is not None:
            self._timings(chunk.timings)
        if content:
            told = self.timed.completion_tokens if chunk.usage is not None or chunk.timings is not None else 0
            self._content(told or 0, at)
            if len(choices) == 1 and not finish and chunk.usage is None and chunk.timings is None:
                self._learn(event, content)

    def _learn(self, event: bytes, content: str) -> None:
        """Keeps what stands before and after the text, where that is certain: the next event may differ in the text only."""
        if "\\" in content or not event.startswith(b"data: {"):
            return
        quoted = content.encode("utf-8", "surrogatepass")
        for key in _KEYS:
            start = event.find(key + quoted + b'"')
            if start >= 0:
                start += len(key)
                self._prefix, self._suffix = event[:start], event[start + len(quoted) :]
                if event.count(key) != 1 or b"\n" in self._suffix or b"\n" in self._prefix:
                    self._prefix = self._suffix = b""
                return

    def _finish(self, reason: Any) -> None:
        self.timed.finish = str(reason)[:40]
        if reason == "error":
            self.fail('the server finished with "error"')

    def _usage(self, usage: Any) -> None:
        if not isinstance(usage, dict):
            return
        timed = self.timed
        timed.prompt_tokens = _count(usage, "prompt_tokens", timed.prompt_tokens)
        if (made := _count(usage, "completion_tokens", None)) is not None:
            timed.completion_tokens, self._counted = made, True
        timed.cached_tokens = _count(usage.get("prompt_tokens_details"), "cached_tokens", timed.cached_tokens)
        if timed.cached_tokens is None:
            timed.cached_tokens = _count(usage, "prompt_cache_hit_tokens", None)  # DeepSeek's name for it
        timed.reasoning_tokens = _count(usage.get("completion_tokens_details"), "reasoning_tokens", timed.reasoning_tokens)

    def _timings(self, timings: Any) -> None:
        """llama.cpp's own figures: `cache_n` tokens of the prompt were there, `prompt_n` were computed, `predicted_n` were made."""
        if not isinstance(timings, dict):
            return
        timed = self.timed
        timed.timings = {str(k): float(v) for k, v in list(timings.items())[:40] if isinstance(v, int | float)}
        cached, computed = _count(timings, "cache_n", None), _count(timings, "prompt_n", None)
        made = _count(timings, "predicted_n", None)
        if timed.cached_tokens is None:
            timed.cached_tokens = cached
        if timed.prompt_tokens is None and computed is not None:
            timed.prompt_tokens = computed + (cached or 0)
        if made is not None and not self._counted:
            timed.completion_tokens = made

    def end(self, at: float) -> None:
        """The body is whole, as HTTP says; what it says may still be an error."""
        timed = self.timed
        timed.done = at
        if timed.error:
            return
        if not 200 <= timed.status < 300:
            told = shown(message_of(bytes(self._body)), self._hide)
            self.fail(f"status {timed.status}: {told}" if told else f"status {timed.status}")
        elif self._whole:
            self._document(at)
        else:
            rest = self._split.rest()
            if rest.strip():
                self._read(rest, at)
            if not (timed.finish or self._done or timed.error):
                self.fail("the stream ended without a finish reason and without [DONE]")

    def _document(self, at: float) -> None:
        """An answer that was not streamed."""
        try:
            found = _decode(self._body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            self.fail(f"the answer is not what the API says: {shown(self._body[:400].decode('utf-8', 'replace'), self._hide)}")
            return
        if found.error or not found.choices:
            told = shown(message_in(found.error), self._hide) if found.error else "it has no choices"
            self.fail(f"an error as an answer: {told}")
            return
        self._usage(found.usage)
        self._timings(found.timings)
        self._content(self.timed.completion_tokens or 0, at)
        if found.choices[0].finish_reason:
            self._finish(found.choices[0].finish_reason)

    def _stop(self, error: str) -> None:
        self.over = True
        self.fail(error)

    def fail(self, error: str) -> None:
        """Notes that it failed; the first reason stays."""
        self.timed.error = self.timed.error or error


def _count(found: Any, name: str, known: int | None) -> int | None:
    """A count of tokens within JSON; `known` where there is none."""
    value = found.get(name) if isinstance(found, dict) else None
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else known
