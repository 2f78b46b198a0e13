"""What reasoning is called in answers: every dialect of ours gives `reasoning_content`; a route may want another name, both, or none. Pure.

Chunks without reasoning pass after three substring searches.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from backends import sse, wire
from backends.types import Reasoning
from backends.wire import Doc

OURS, OTHER, BLOCKS = "reasoning_content", "reasoning", "thinking_blocks"
_NAMES: Mapping[Reasoning, tuple[str, ...]] = {"reasoning_content": (OURS,), "reasoning": (OTHER,), "both": (OURS, OTHER), "none": ()}
_KEYS = (b'"reasoning_content"', b'"reasoning"', b'"thinking_blocks"')
_EMPTY = frozenset({b"null", b'""', b"{}"})
_doc = msgspec.json.Decoder(Doc)
_docs = msgspec.json.Decoder(list[Doc])
_UNREADABLE = (msgspec.MsgspecError, RecursionError)


def events(data: bytes, style: Reasoning) -> bytes:
    """Whole events of a stream of chunks with their reasoning under the name that a route wants."""
    if not _concerned(data):
        return data
    return b"".join(_event(event, style) if _concerned(event) else event for event in sse.events(data))


def _event(event: bytes, style: Reasoning) -> bytes:
    body = sse.payload(event)[1]
    out = renamed(body, "delta", style)
    if out is body:
        return event
    return b"" if style == "none" and _silent(out) else b"data: " + out + b"\n\n"


def _concerned(data: bytes) -> bool:
    find = data.find
    return any(find(key) >= 0 for key in _KEYS)


def _silent(chunk: bytes) -> bool:
    """Whether a chunk has nothing left to say: without this a client that sees no reasoning would be sent an empty chunk for each."""
    doc = _doc.decode(chunk)
    choices = _docs.decode(doc["choices"])
    said = [value for choice in choices for value in (choice.get("delta", wire.NULL), choice.get("finish_reason", wire.NULL))]
    return all(bytes(value) in _EMPTY for value in (*said, doc.get("usage", wire.NULL)))


def renamed(body: bytes, part: str, style: Reasoning) -> bytes:
    """A `chat.completion` (`part`: message) or chunk (delta) with its reasoning renamed; `body` itself when there is none to rename, or it
    is nothing of the kind."""
    if not _concerned(body):
        return body
    try:
        doc = _doc.decode(body)
        choices = [_choice(choice, part, style) for choice in _docs.decode(doc["choices"])]
    except (*_UNREADABLE, KeyError):
        return body
    return wire.encode({**doc, "choices": choices})


def _choice(choice: Doc, part: str, style: Reasoning) -> dict[str, Any]:
    if part not in choice:
        return choice
    inner = _doc.decode(choice[part])
    text = inner.get(OURS, inner.get(OTHER))
    out: Doc = {key: value for key, value in inner.items() if key not in (OURS, OTHER)}
    if style == "none":
        out.pop(BLOCKS, None)  # they hold the same text
    elif text is not None:
        out |= dict.fromkeys(_NAMES[style], text)
    return {**choice, part: out}
