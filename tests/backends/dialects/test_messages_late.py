"""Late system messages of Messages' clients, for templates that allow one, at the beginning."""

from __future__ import annotations

import json
from typing import Any

import pytest

from backends import wire
from backends.dialects.messages import Messages
from backends.dialects.messages_late import settled


def said(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


LATE = said("<system-reminder>\nlate\n</system-reminder>")
USER, ASSISTANT, SYSTEM = ({"role": role, "content": text} for role, text in (("user", "u"), ("assistant", "a"), ("system", "late")))
CASES: list[tuple[list[Any], list[Any]]] = [
    ([USER, SYSTEM], [{"role": "user", "content": [said("u"), LATE]}]),
    ([USER, SYSTEM, ASSISTANT, USER], [{"role": "user", "content": [said("u"), LATE]}, ASSISTANT, USER]),
    ([USER, ASSISTANT, SYSTEM, USER], [USER, ASSISTANT, {"role": "user", "content": [LATE, said("u")]}]),
    ([USER, ASSISTANT, SYSTEM], [USER, ASSISTANT, {"role": "user", "content": [LATE]}]),
    ([USER, SYSTEM, SYSTEM], [{"role": "user", "content": [said("u"), LATE, LATE]}]),
    ([USER], [USER]),
    ([{"role": "user", "content": 'say "system"'}], [{"role": "user", "content": 'say "system"'}]),
]


@pytest.mark.parametrize("system", [None, "first"])
@pytest.mark.parametrize(("given", "wanted"), CASES)
def test_they_become_text_of_the_users_turn(given: list[Any], wanted: list[Any], system: str | None) -> None:
    asked = {"model": "m", "max_tokens": 5, "messages": given, **({"system": system} if system else {})}
    chat, _ = Messages().request(wire.parse(json.dumps(asked).encode()))
    doc, notes = settled(chat)
    first = [{"role": "system", "content": system}] if system else []
    assert json.loads(bytes(doc["messages"])) == [*first, *wanted]
    assert [note.fate for note in notes] == ["emulated"] * sum(m["role"] == "system" for m in given)
    assert bool(notes) or doc is chat


def test_cache_marks_stay() -> None:
    late = {"role": "system", "content": [{"type": "text", "text": "late", "cache_control": {"type": "ephemeral"}}]}
    doc, _ = settled({"messages": wire.raw([USER, late])})
    assert json.loads(bytes(doc["messages"]))[0]["content"][1]["cache_control"] == {"type": "ephemeral"}
