"""What a translation to Anthropic Messages says about parameters, and small readers of a chat document. Pure."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from backends import wire
from backends.dialects.types import Fate, Note

T = TypeVar("T")
Block = dict[str, Any]


class Report:
    """Gathers the notes of one request. `strict`: what cannot be honoured is refused instead of dropped."""

    __slots__ = ("notes", "strict")

    def __init__(self, strict: bool) -> None:
        self.strict = strict
        self.notes: list[Note] = []

    def tell(self, param: str, fate: Fate, why: str) -> None:
        """Adds a note. `param` is a path in the client's document."""
        self.notes.append(Note(param, fate, why))

    def cannot(self, param: str, why: str) -> None:
        """`param` cannot be honoured. Raises `Fault` (bad_request) when strict, else notes that it is dropped."""
        if self.strict:
            raise wire.bad(f"'{param}' {why}.", param=param, code="unsupported_parameter")
        self.tell(param, "dropped", why)


def value(doc: wire.Doc, key: str, kind: type[T]) -> T | None:
    """The value under `key` as `kind`; None when absent or null. Raises `Fault` (bad_request) naming the place that is wrong."""
    raw = doc.get(key)
    if raw is None or raw == wire.NULL:
        return None
    try:
        return msgspec.json.decode(raw, type=kind)
    except RecursionError:
        raise wire.bad(f"'{key}' is nested too deeply.", param=key) from None
    except msgspec.MsgspecError as e:
        problem, _, where = str(e).partition(" - at `$")
        place = key + where.rstrip("`")
        raise wire.bad(f"'{place}' is not what the chat API has there: {problem}.", param=place) from None
