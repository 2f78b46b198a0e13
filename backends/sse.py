"""Server-sent events of the OpenAI dialect: where one ends, and what it is. Pure; nothing here keeps time or does I/O.

Relayed events are not parsed. `plain` decides by a few substring searches that a run of whole events holds nothing that
needs a look (an error, a finish, the end); only then, and before the first content, are events parsed by `look`.
"""

from __future__ import annotations

from enum import Enum
from typing import Any

import msgspec

from backends.wire import NULL


class What(Enum):
    """What one event is to a relay."""

    OTHER = 0  # a comment, a role, an empty delta, something unknown
    CONTENT = 1  # text, reasoning, a tool call
    FINISH = 2  # a finish reason
    USAGE = 3  # token counts without choices
    DONE = 4  # [DONE]
    ERROR = 5


class _Choice(msgspec.Struct):
    delta: dict[str, msgspec.Raw] | None = None
    text: str | None = None
    finish_reason: Any = None


class _Chunk(msgspec.Struct):
    choices: list[_Choice] | None = None
    error: Any = None
    object: Any = None
    usage: msgspec.Raw = NULL
    message: Any = None
    code: Any = None
    type: Any = None


class Seen(msgspec.Struct):
    """What `look` found: the kind, an error's own object, and whether the event tells usage."""

    what: What
    error: Any = None
    usage: bytes | None = None


_chunk = msgspec.json.Decoder(_Chunk)
_OTHER, _DONE = Seen(What.OTHER), Seen(What.DONE)
_EMPTY = frozenset({b"null", b'""', b"[]", b"{}"})


def split(data: bytes) -> tuple[bytes, bytes]:
    """Whole events, and the beginning of one that is still to come. An event ends at an empty line (LF or CRLF, mixed or not)."""
    if data.endswith((b"\n\n", b"\n\r\n")):
        return data, b""
    lf, crlf = data.rfind(b"\n\n"), data.rfind(b"\n\r\n")
    end = max(lf + 2 if lf >= 0 else 0, crlf + 3 if crlf >= 0 else 0)
    return data[:end], data[end:]


def events(data: bytes) -> list[bytes]:
    """Whole events one by one, each with the empty line that ends it; what has none comes last. Linear."""
    if data.find(b"\r") < 0:
        parts = data.split(b"\n\n")
        rest = parts.pop()
        out = [part + b"\n\n" for part in parts]
        return [*out, rest] if rest else out
    out, at, lf, crlf = [], 0, data.find(b"\n\n"), data.find(b"\n\r\n")
    while at < len(data):
        if 0 <= lf < at:
            lf = data.find(b"\n\n", at)
        if 0 <= crlf < at:
            crlf = data.find(b"\n\r\n", at)
        end = min(lf + 2 if lf >= 0 else len(data), crlf + 3 if crlf >= 0 else len(data))
        out.append(data[at:end])
        at = end
    return out


def plain(data: bytes) -> bool:
    """True when no event in `data` (whole events) can be an error, a finish or the end. Quotation marks inside JSON strings
    are escaped, so `"error"` can only be a key or a whole string value."""
    # `find` and not `in`: asked for bytes, `in` first makes and drops an exception (CPython to 3.13), for five times the price.
    find = data.find
    return find(b'"error"') < 0 and find(b'_reason":"') < 0 and find(b'_reason": "') < 0 and find(b"[DONE]") < 0 and find(b"event:") < 0


def payload(event: bytes) -> tuple[bytes, bytes]:
    """The `event:` name and the joined `data:` of one event; both empty for a comment."""
    if event.startswith(b"data: ") and event.find(b"\n") == len(event) - 2 and event.endswith(b"\n\n") and event.find(b"\r") < 0:
        return b"", event[6:].strip()
    name, data = b"", []
    for line in event.splitlines():
        if line.startswith(b"data:"):
            data.append(line[5:].strip())
        elif line.startswith(b"event:"):
            name = line[6:].strip()
    return name, b"\n".join(data)


def look(event: bytes) -> Seen:
    """Parses one event. Never raises: what cannot be read is OTHER, unless it is named an error."""
    name, data = payload(event)
    if data == b"[DONE]":
        return _DONE
    if not data:
        return Seen(What.ERROR, {}) if name == b"error" else _OTHER
    try:
        chunk = _chunk.decode(data)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return Seen(What.ERROR, data.decode("utf-8", "replace")[:500]) if name == b"error" else _OTHER
    if chunk.error is not None:
        return Seen(What.ERROR, chunk.error)
    if name == b"error" or chunk.object == "error":
        return Seen(What.ERROR, {"message": chunk.message, "type": chunk.type, "code": chunk.code})
    usage = data if chunk.usage != NULL else None
    if not chunk.choices:
        return Seen(What.USAGE, usage=usage) if usage and chunk.choices is not None else Seen(What.OTHER, usage=usage)
    if any([c.finish_reason is not None for c in chunk.choices]):
        return Seen(What.FINISH, usage=usage)
    return Seen(What.CONTENT if _says(chunk.choices) else What.OTHER, usage=usage)


def _says(choices: list[_Choice]) -> bool:
    for choice in choices:
        if choice.text:
            return True
        for key, value in (choice.delta or {}).items():
            if key != "role" and bytes(value) not in _EMPTY:
                return True
    return False
