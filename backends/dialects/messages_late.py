"""System messages within a conversation, which newer clients of Messages send, for chat targets: many a chat template allows one system
message, at the beginning, and refuses all others (wire trap 3). Pure.

A late one becomes text of the user's turn beside it, in the marks that Claude Code itself uses for such text. Moved to the front it would
keep its rank, but change the beginning of the prompt at every turn, which an engine would then have to read anew each time.
"""

from __future__ import annotations

from typing import Any

import msgspec

from backends import wire
from backends.dialects.types import Note
from backends.wire import Doc

_messages = msgspec.json.Decoder(list[dict[str, Any]])
_SYSTEM = b'"system"'
Message = dict[str, Any]
Part = dict[str, Any]


def settled(doc: Doc) -> tuple[Doc, tuple[Note, ...]]:
    """A chat document made by the surface, without late system messages, and what was done to it; itself when there are none."""
    raw = bytes(doc["messages"])
    if raw.find(_SYSTEM, raw.find(_SYSTEM) + 1) < 0 and raw.startswith(b'[{"role":"system"'):
        return doc, ()
    out: list[Message] = []
    notes: list[Note] = []
    late: list[Part] = []
    for i, message in enumerate(_messages.decode(raw)):
        if message["role"] == "system" and i > 0:
            late += [{**part, "text": f"<system-reminder>\n{part['text']}\n</system-reminder>"} for part in _parts(message["content"])]
            notes.append(Note(f"messages[{i}].role", "emulated", "a late system message became text of the user's turn beside it"))
            continue
        if late and message["role"] == "user":
            message = _joined(late, message["content"])
        elif late:
            _flush(out, late)
        late = []
        out.append(message)
    if late:
        _flush(out, late)
    return (doc | {"messages": wire.raw(out)} if notes else doc), tuple(notes)


def _parts(content: str | list[Part]) -> list[Part]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _joined(first: list[Part], then: str | list[Part]) -> Message:
    return {"role": "user", "content": [*first, *_parts(then)]}


def _flush(out: list[Message], late: list[Part]) -> None:
    """Puts late text at the end of the user's turn before, or into one of its own."""
    if out and out[-1]["role"] == "user":
        out[-1] = _joined(_parts(out[-1]["content"]), late)
    else:
        out.append({"role": "user", "content": late})
