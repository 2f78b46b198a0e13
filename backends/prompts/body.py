"""A call's body as prompts need it: messages, tools, and what is asked besides.

Only what the template would read is decoded; what only the engine must judge is not judged here. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec

from backends.prompts.media import KINDS
from backends.prompts.types import Unreadable
from backends.types import Call

_WRONG = (msgspec.MsgspecError, RecursionError, UnicodeError)
_any = msgspec.json.Decoder()
_NOTHING = (None, b"null", b"[]", b"{}", b'""', b"false")
OPTIONS = ("chat_template_kwargs", "reasoning_effort", "documents", "chat_template")  # that templates are given besides


def value(call: Call, key: str) -> Any:
    """The decoded value under `key`; None when absent. Raises `Unreadable`."""
    raw = call.doc.get(key)
    if raw is None:
        return None
    try:
        return _any.decode(raw)
    except _WRONG:
        raise Unreadable(f"'{key}' is not valid JSON.") from None


def given(call: Call, key: str) -> bool:
    """Whether `key` is there and says something. Looks at the raw bytes only."""
    raw = call.doc.get(key)
    return raw is not None and b"".join(bytes(memoryview(raw)[:16]).split()) not in _NOTHING


def messages(call: Call) -> list[dict[str, Any]]:
    """The messages, each an object. Raises `Unreadable`."""
    found = value(call, "messages")
    if not isinstance(found, list) or not all(isinstance(m, dict) for m in found):
        raise Unreadable("'messages' is not a list of objects.")
    return found


def tools(call: Call) -> list[Any] | None:
    """The tools; None when there are none. Raises `Unreadable`."""
    found = value(call, "tools")
    return found if isinstance(found, list) and found else None


def flag(call: Call, key: str, default: bool) -> bool:
    """A boolean; `default` for anything else."""
    raw = call.doc.get(key)
    return default if raw is None or bytes(raw) not in (b"true", b"false") else bytes(raw) == b"true"


def parts(message: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The content parts of a message that are objects; none when its content is a text."""
    content = message.get("content")
    if isinstance(content, list):
        for part in content:
            if isinstance(part, dict):
                yield part


def needs(call: Call, found: Iterable[Mapping[str, Any]]) -> frozenset[str]:
    """What the model must be able to do for this call whose messages are `found`."""
    out = {KINDS[kind] for m in found for p in parts(m) if isinstance(kind := p.get("type"), str) and kind in KINDS}
    if given(call, "tools") or given(call, "functions"):
        out.add("tools")
    if given(call, "documents"):
        out.add("documents")
    form = value(call, "response_format")
    if isinstance(form, dict) and form.get("type") == "json_schema":
        out.add("json_schema")
    modalities = value(call, "modalities")
    if isinstance(modalities, list) and "audio" in modalities:
        out.add("audio")
    return frozenset(out)


def output(call: Call) -> int | None:
    """Tokens of answer that the client allows; None when it does not say."""
    doc = call.doc
    for raw in (doc.get("max_completion_tokens"), doc.get("max_tokens")):
        if raw is not None and (digits := bytes(raw)).isdigit():
            return int(digits[:12])
    return None
