"""Text mode: bytes that share their beginning where the prompts that an engine renders would. Pure.

It is the shape of the common templates (tools, then each message as role and content), in one canonical form: white space and the order of
keys of the JSON do not show, except inside tools, whose keys templates print as they came. Marks of a role are as long as about four tokens
of template. Media stand as their hash, repeated to the length of as many tokens as they are thought to be.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec

from backends.prompts import body, media
from backends.prompts.cache import Cache
from backends.types import Call

Digest = Callable[[bytes, int], int]
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode
TOOLS_BYTES = 8 << 20  # of canonical tools that are remembered
END = 1024  # characters at the ends of a long first message that name its conversation
ANSWER = "<|assistant|>\n"


class Canonical:
    """Renders chat calls. `formats`: the engine's templates print `response_format` (gpt-oss does). Mutates only its caches."""

    __slots__ = ("_digest", "_formats", "_seen")

    def __init__(self, digest: Digest, formats: bool = False) -> None:
        self._digest, self._formats = digest, formats
        self._seen: Cache[int, str] = Cache(TOOLS_BYTES)

    def chat(self, call: Call, messages: list[dict[str, Any]]) -> tuple[str, int]:
        """(text, tokens of media) of a call with these messages. Raises `Unreadable`."""
        found: list[media.Media] = []
        out = [self._head(call), *(self.message(m, found) for m in messages)]
        if messages and messages[-1].get("role") != "assistant" and body.flag(call, "add_generation_prompt", True):
            out.append(ANSWER)
        return "".join(out), sum(m.tokens for m in found)

    def first(self, messages: Iterable[Mapping[str, Any]]) -> str:
        """What a conversation begins with: everything up to the first message that is the user's; of long ones both ends and the length."""
        out = []
        for message in messages:
            out.append(shortened(self.message(message, [])))
            if message.get("role") == "user":
                break
        return "".join(out)

    def message(self, m: Mapping[str, Any], found: list[media.Media]) -> str:
        """One message; its media are added to `found`."""
        role, content = m.get("role"), m.get("content")
        who = "system" if role == "developer" else role if isinstance(role, str) else _json(role)
        if type(name := m.get("name")) is str:
            who = f"{who} {name}"
        text = content if isinstance(content, str) else self._content(content, found)
        if m.keys() <= _PLAIN:
            return f"<|{who}|>\n{text}<|end|>\n"
        thought = m.get("reasoning_content") or m.get("reasoning")
        before = f"<|think|>{thought}\n" if isinstance(thought, str) else ""
        return f"<|{who}|>\n{before}{text}{_calls(m)}<|end|>\n"

    def _content(self, content: object, found: list[media.Media]) -> str:
        if content is None:
            return ""
        if not isinstance(content, list):
            return _json(content)
        return "\n".join(self._part(p, found) for p in content)

    def _part(self, part: object, found: list[media.Media]) -> str:
        if not isinstance(part, dict):
            return part if isinstance(part, str) else _json(part)
        text = part.get("text", part.get("refusal"))
        if isinstance(text, str):
            return text
        seen = media.read(part, self._digest)
        if seen is None:
            return _json(part)
        found.append(seen)
        return stand_in(seen)

    def _head(self, call: Call) -> str:
        """What stands before the first message: tools and options, as they came but for white space."""
        keys = ["tools" if body.given(call, "tools") else "functions", *body.OPTIONS, *(("response_format",) if self._formats else ())]
        return "".join(f"<|{key}|>\n{self._compact(call, key)}<|end|>\n" for key in keys if body.given(call, key))

    def _compact(self, call: Call, key: str) -> str:
        raw = bytes(call.doc[key])
        known = self._digest(raw, len(raw))
        text = self._seen.get(known)
        if text is None:
            text = _json(body.value(call, key))
            self._seen.put(known, text, len(text) + 64)
        return text


def shortened(text: str) -> str:
    """Of a long text both ends and its length."""
    return text if len(text) <= 2 * END else f"{text[:END]}<|{len(text)}|>{text[-END:]}"


_PLAIN = frozenset({"role", "content", "name", "tool_call_id"})


def stand_in(seen: media.Media) -> str:
    """A text for media: differs with its content, and as long as `learned.estimated` takes for so many tokens (3.6 characters each)."""
    size = seen.tokens * 18 // 5
    mark = f"{seen.hash:016x}"
    return (mark * (size // len(mark) + 1))[:size] if size >= len(mark) else mark


def _json(value: object) -> str:
    return _encode(value).decode()


def _calls(m: Mapping[str, Any]) -> str:
    """The tool calls of an assistant. Their ids are left out: most templates do not print them."""
    calls = m.get("tool_calls")
    if isinstance(old := m.get("function_call"), dict):
        calls = [{"function": old}]
    out = []
    for call in calls if isinstance(calls, list) else ():
        function = call.get("function") if isinstance(call, dict) else None
        if isinstance(function, dict):
            out.append(f"<|call|>{function.get('name')} {arguments(function.get('arguments'))}\n")
        else:
            out.append(f"<|call|>{_json(call)}\n")
    return "".join(out)


def arguments(value: object) -> str:
    """A call's arguments without the white space that their writer chose; as they are when they are no JSON."""
    if not isinstance(value, str):
        return _json(value)
    try:
        return _json(_decode(value))
    except (msgspec.MsgspecError, RecursionError, UnicodeError):
        return value
