"""An answer that goes on elsewhere: what was told of a stream, how another target is asked for the rest, and how the rest is written so
that the client sees one stream. Pure: no clock, no I/O.

Only plain text is continued. Reasoning, tool calls, several choices, log probabilities and structured output are not: what was begun of
them cannot be taken up elsewhere without a guess. Tokens that were told are counted by the upstream's running usage where it gives one,
else one for each event with text, which may be fewer than there were but never more.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from backends import sse, wire
from backends.types import Call, Fault
from gateway.relay import DONE, StreamRelay
from routing.plan import Continues

DIGEST = 64 * 1024  # bytes of events that are kept unread
MAX_TEXT = 8 << 20  # characters: a longer answer is not continued
SURE = 32  # characters: an answer that begins with all that was told is an echo only when that was so long
Doc = dict[str, msgspec.Raw]


class _Choice(msgspec.Struct):
    index: int = 0
    delta: Doc | None = None
    text: str | None = None
    finish_reason: Any = None
    logprobs: msgspec.Raw = wire.NULL


class _Usage(msgspec.Struct):
    completion_tokens: int | None = None


class _Event(msgspec.Struct):
    id: msgspec.Raw = wire.NULL
    object: msgspec.Raw = wire.NULL
    created: msgspec.Raw = wire.NULL
    model: msgspec.Raw = wire.NULL
    choices: list[_Choice] | None = None
    usage: _Usage | None = None


_event = msgspec.json.Decoder(_Event)
_doc = msgspec.json.Decoder(Doc)
_docs = msgspec.json.Decoder(list[Doc])
_raws = msgspec.json.Decoder(list[msgspec.Raw])
_text = msgspec.json.Decoder(str)
_any = msgspec.json.Decoder(dict[str, Any])
_whole = msgspec.json.Decoder(int)
_UNREADABLE = (msgspec.MsgspecError, RecursionError, UnicodeDecodeError)
_EMPTY = frozenset({b"null", b'""', b"[]", b"{}"})
_IDLE = frozenset({b"null", b"false", b"0", b"[]", b"{}"})
# Parameters under which an answer is no plain text of one choice, or not one that can be cut anywhere.
_BARRED = frozenset({
    "logprobs", "top_logprobs", "prompt_logprobs", "best_of", "echo", "suffix", "audio", "functions", "return_token_ids",
    "guided_json", "guided_regex", "guided_choice", "guided_grammar", "structured_outputs", "grammar", "json_schema", "regex", "ebnf",
})  # fmt: skip
_PLAIN_FORMAT = frozenset({b'{"type":"text"}', b'{"type": "text"}', b"null"})
_PLAIN_MODES = frozenset({b'["text"]', b"null"})
_LIMITS = ("max_completion_tokens", "max_tokens")


class Story:
    """What was told to the client of one stream. Owned by the call's guide; events are kept as they are and read when it is asked for."""

    __slots__ = ("_raw", "_size", "_texts", "api", "finished", "head", "length", "replicas", "sound", "tokens")

    def __init__(self, api: str) -> None:
        self.api = api
        self.head: Doc = {}  # id, object, created and model of the first event
        self.tokens = 0
        self.length = 0  # characters
        self.finished = False
        self.sound = True  # nothing but text was told
        self.replicas: list[str] = []  # which went on with it
        self._raw: list[bytes] = []
        self._size = 0
        self._texts: list[str] = []

    def told(self, events: bytes) -> None:
        """Takes whole events that the client gets."""
        self._raw.append(events)
        self._size += len(events)
        if self._size > DIGEST:
            self.digest()

    def digest(self) -> None:
        """Reads what was told. Call it before anything of the story is used."""
        data, self._size = b"".join(self._raw), 0
        self._raw.clear()
        for event in sse.events(data):
            payload = sse.payload(event)[1]
            if payload and payload != b"[DONE]":
                try:
                    self._take(_event.decode(payload))
                except _UNREADABLE:
                    self.sound = False

    def _take(self, event: _Event) -> None:
        if not self.head:
            self.head = {"id": event.id, "object": event.object, "created": event.created, "model": event.model}
        counted = event.usage.completion_tokens if event.usage is not None else None
        before = self.tokens
        for choice in event.choices or ():
            if choice.index or choice.logprobs != wire.NULL:
                self.sound = False
            self._choice(choice)
        if counted is not None:
            self.tokens = max(before, counted)

    def _choice(self, choice: _Choice) -> None:
        self.finished = self.finished or choice.finish_reason is not None
        if choice.text:
            self._add(choice.text)
        for key, value in (choice.delta or {}).items():
            if key == "role" or bytes(value) in _EMPTY:
                continue
            if key == "content":
                self._add(_text.decode(value))
            else:
                self.sound = False

    def _add(self, text: str) -> None:
        self.tokens += 1
        self.length += len(text)
        if self.length > MAX_TEXT:
            self.sound = False
            self._texts.clear()
        elif self.sound:
            self._texts.append(text)

    @property
    def text(self) -> str:
        """All text that was told."""
        return "".join(self._texts)

    @property
    def comment(self) -> bytes:
        """The comment that tells who went on; empty when nobody had to."""
        return b": continued on %b\n\n" % ", ".join(self.replicas).encode() if self.replicas else b""

    def event(self, text: str, finish: str | None = None) -> bytes:
        """An event of this stream, as its own would be."""
        choice: dict[str, Any] = {"index": 0, "finish_reason": finish}
        choice |= {"text": text} if self.api == "completions" else {"delta": {"content": text} if text else {}}
        return b"data: " + wire.encode({**self.head, "choices": [choice]}) + b"\n\n"


def sound(call: Call, story: Story) -> bool:
    """Whether the rest of this answer can be asked for elsewhere. Reads the story."""
    story.digest()
    doc = call.doc
    if not story.sound or not story.length or call.api not in ("chat", "completions"):
        return False
    if any(bytes(doc[key]) not in _IDLE for key in _BARRED.intersection(doc)) or bytes(doc.get("n", b"1")) not in (b"1", b"null"):
        return False
    if bytes(doc.get("response_format", b"null")) not in _PLAIN_FORMAT or bytes(doc.get("modalities", b"null")) not in _PLAIN_MODES:
        return False
    return True


def spent(call: Call, story: Story) -> bool:
    """Whether the client's own limit of tokens was reached by what was told."""
    return any((limit := _number(call.doc.get(key))) is not None and limit <= story.tokens for key in _LIMITS)


def _number(raw: msgspec.Raw | None) -> int | None:
    try:
        return None if raw is None else _whole.decode(raw)
    except msgspec.MsgspecError:
        return None


def onward(call: Call, story: Story, mode: Continues) -> Call | None:
    """The call that asks for the rest: the same with what was told at its end, and fewer tokens. None when it cannot be written."""
    doc, told = dict(call.doc), story.text
    for key in _LIMITS:
        if (limit := _number(doc.get(key))) is not None:
            doc[key] = wire.raw(limit - story.tokens)
    if call.api == "completions":
        try:
            doc["prompt"] = wire.raw(_text.decode(doc["prompt"]) + told)
        except (KeyError, msgspec.MsgspecError):  # token ids, or several prompts
            return None
        return msgspec.structs.replace(call, doc=doc)
    messages = _continued(doc, told, mode)
    if messages is None:
        return None
    doc["messages"] = messages
    if mode == "flag":
        doc["continue_final_message"], doc["add_generation_prompt"] = wire.TRUE, msgspec.Raw(b"false")
    return msgspec.structs.replace(call, doc=doc)


def _continued(doc: Mapping[str, msgspec.Raw], told: str, mode: Continues) -> msgspec.Raw | None:
    """The messages with the assistant's at their end; one of the client's own beginning is gone on with."""
    try:
        turns = _raws.decode(doc["messages"])
        last = _doc.decode(turns[-1])
        if wire.text(last, "role") == "assistant":
            if "tool_calls" in last:
                return None
            told = _text.decode(last["content"]) + told
            turns.pop()
    except (KeyError, IndexError, msgspec.MsgspecError, Fault):
        return None
    text = told.rstrip() if mode == "trimmed" else told
    return wire.raw([*turns, {"role": "assistant", "content": text}]) if text else None


class Watched(StreamRelay):
    """A relay that remembers what it let through, so that another target can go on with it."""

    __slots__ = ("story",)

    def __init__(self, where: str, strip_usage: bool, limit: int, story: Story) -> None:
        super().__init__(where, strip_usage, limit)
        self.story = story

    def feed(self, data: bytes) -> bytes:
        out = super().feed(data)
        if out:
            self.story.told(out)
        return out

    def close(self) -> bytes:
        out = super().close()
        self.story.told(out)
        return out


class Continued(StreamRelay):
    """The relay of the rest of an answer: under the first stream's id, model and time, without a role, without what the client has.

    What is cut from the beginning: white space that had to be left off the end of what was told (`trimmed`), and an echo of all that
    was told, which some servers give with a prefill. Usage counts the prompt once and the answer as a whole.
    """

    __slots__ = ("echo", "held_text", "owed", "patched", "sent", "story")

    def __init__(self, where: str, strip_usage: bool, limit: int, story: Story, mode: Continues) -> None:
        super().__init__(where, strip_usage, limit)
        self.story, self.sent = story, story.tokens
        self.patched: bytes | None = None
        text = story.text
        self.owed = text[len(text.rstrip()) :] if mode == "trimmed" else ""
        said = text.rstrip() if mode == "trimmed" else text
        self.echo = said if mode != "flag" and len(said) >= SURE else ""
        self.held_text = ""

    def feed(self, data: bytes) -> bytes:
        out = super().feed(data)
        return self._written(out) if out else out

    def close(self) -> bytes:
        out = super().close()
        if self.fault is not None:
            return self._written(out)
        done = self.done or DONE
        written = self._written(out[: -len(done)])
        return written if self.fault is not None else written + self.story.comment + done

    def _event(self, event: bytes, out: list[bytes]) -> None:
        super()._event(event, out)
        if self.usage_event is not None and self.usage_event is not self.patched:  # for the record
            self.usage_event = self.patched = self._counted(self.usage_event)

    def _written(self, data: bytes) -> bytes:
        """Whole events as the client gets them."""
        out: list[bytes] = []
        for event in sse.events(data):
            try:
                out.append(self._one(event))
            except _UNREADABLE:
                self.fault = _unsound(f"Backend '{self.where}' went on with the answer in a way that cannot be read.")
            if self.fault is not None:
                break
        whole = b"".join(out)
        self.story.told(whole)
        return whole

    def _one(self, event: bytes) -> bytes:
        payload = sse.payload(event)[1]
        if not payload:
            return event
        doc = _doc.decode(payload)
        doc.update((key, value) for key, value in self.story.head.items() if value != wire.NULL)
        choices = _docs.decode(doc["choices"]) if "choices" in doc else []
        before = b""
        if choices:
            text, shows = self._choice(choices[0])
            if not shows:
                return b""
            before = text
            doc["choices"] = wire.raw(choices)
        if doc.get("usage", wire.NULL) != wire.NULL:
            return before + b"data: " + self._counted(wire.encode(doc)) + b"\n\n"
        return before + b"data: " + wire.encode(doc) + b"\n\n"

    def _choice(self, choice: Doc) -> tuple[bytes, bool]:
        """What must go out before this event, and whether it goes out itself. Changes the choice."""
        ends = choice.get("finish_reason", wire.NULL) != wire.NULL
        place, key = (choice, "text") if "text" in choice else (_doc.decode(choice.get("delta", b"{}")), "content")
        place.pop("role", None)
        others = {k for k, v in place.items() if k != key and bytes(v) not in _EMPTY} if key == "content" else set()
        if others and others != {"tool_calls"}:
            what = ", ".join(sorted(others))
            self.fault = _unsound(f"Backend '{self.where}' began the answer anew instead of going on with it ({what}).")
            return b"", False
        raw = place.get(key, wire.NULL)
        text = self._fresh(_text.decode(raw)) if raw != wire.NULL else ""
        before = b""
        if ends or others:  # no more text to compare with
            held, self.held_text, self.echo = self.held_text, "", ""
            before = self.story.event(held) if held else b""
        if raw != wire.NULL:
            place[key] = wire.raw(text)
        if key == "content":
            choice["delta"] = wire.raw(place)
        return before, bool(text or ends or others)

    def _fresh(self, text: str) -> str:
        """What the client does not have yet of a text that came. Held back while it may be an echo."""
        if self.echo:
            self.held_text += text
            if self.echo.startswith(self.held_text) and len(self.held_text) < len(self.echo):
                return ""
            text, self.held_text = self.held_text, ""
            text, self.echo = text.removeprefix(self.echo), ""
        if self.owed and text:
            same = len(_common(self.owed, text))
            self.owed = self.owed[same:] if same == len(text) else ""
            text = text[same:]
        return text

    def _counted(self, payload: bytes) -> bytes:
        """A chunk with usage: the prompt counts once, and what was told before counts as answer."""
        doc = _any.decode(payload)
        usage = doc.get("usage")
        if isinstance(usage, dict):
            prompt, out = usage.get("prompt_tokens"), usage.get("completion_tokens")
            if isinstance(prompt, int) and isinstance(out, int):
                moved = min(self.sent, prompt)
                usage["prompt_tokens"], usage["completion_tokens"] = prompt - moved, out + moved
                details = usage.get("prompt_tokens_details")
                if isinstance(details, dict) and isinstance(details.get("cached_tokens"), int):
                    details["cached_tokens"] = min(details["cached_tokens"], prompt - moved)
        return wire.encode(doc)


def _common(one: str, other: str) -> str:
    """The longest beginning that both have."""
    at = 0
    for a, b in zip(one, other, strict=False):
        if a != b:
            break
        at += 1
    return one[:at]


def _unsound(message: str) -> Fault:
    return Fault("upstream", message, origin="backend", code="not_continued")
