"""Reading an Anthropic Messages document: what kind of value stands where, and the report of what cannot be kept. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from backends import wire
from backends.dialects.types import Fate, Note
from backends.types import Fault

Obj = Mapping[str, Any]
MAX_NOTES = 64  # a long history says the same of each turn; one note a kind is enough, and never more than this


class Report:
    """Collects notes for one request. Owns nothing else; mutable, used once.

    `strict`: what cannot be honoured is refused; otherwise it is dropped, and the note says so.
    """

    __slots__ = ("_seen", "notes", "strict")

    def __init__(self, strict: bool) -> None:
        self.strict = strict
        self.notes: list[Note] = []
        self._seen: set[tuple[str, str]] = set()

    def note(self, param: str, fate: Fate, why: str) -> None:
        """Adds a note, unless the same was said of the same key elsewhere already."""
        key = (param.rsplit(".", 1)[-1].rstrip("]0123456789["), why)
        if key not in self._seen and len(self.notes) < MAX_NOTES:
            self._seen.add(key)
            self.notes.append(Note(param, fate, why))

    def cannot(self, param: str, why: str) -> None:
        """What no other model can be asked. Raises `Fault` (bad_request, client) when strict, else adds a note."""
        if self.strict:
            told = f"{param}: {why} Leave it out, or set on_unsupported: drop on the route."
            raise wire.bad(told, param=param, code="unsupported_parameter")
        self.note(param, "dropped", why)

    def extras(self, block: Obj, known: frozenset[str], path: str) -> None:
        """Notes the keys of `block` that are not `known` and say something."""
        if block.keys() <= known:
            return
        for key in sorted(block.keys() - known):
            if block[key] not in _NOTHING:
                self.note(f"{path}.{key}", "dropped", "It has no counterpart in the chat format.")


_NOTHING: tuple[Any, ...] = (None, False, {"type": "direct"}, {"enabled": False}, [], {}, ["direct"])


def wrong(path: str, want: str) -> Fault:
    """The 400 for a value of another kind than the format says."""
    return wire.bad(f"{path}: Input should be {want}.", param=path)


def missing(path: str) -> Fault:
    """The 400 for what the format demands, in Anthropic's own words."""
    return wire.bad(f"{path}: Field required.", param=path, code="missing_parameter")


def an_object(value: object, path: str) -> Obj:
    """`value` as an object, or the 400."""
    if not isinstance(value, dict):
        raise wrong(path, "an object")
    return value


def a_list(value: object, path: str) -> list[Any]:
    """`value` as a list, or the 400."""
    if not isinstance(value, list):
        raise wrong(path, "a list")
    return value


def a_string(block: Obj, key: str, path: str) -> str:
    """The string under `key`, which must be there, or the 400."""
    value = block.get(key)
    if value is None:
        raise missing(f"{path}.{key}")
    if not isinstance(value, str):
        raise wrong(f"{path}.{key}", "a string")
    return value


def maybe_string(block: Obj, key: str, path: str) -> str:
    """The string under `key`; "" when absent or null."""
    return "" if block.get(key) is None else a_string(block, key, path)
