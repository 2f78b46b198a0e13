"""Chunks that differ from one parsed before in nothing but their text. Pure.

The chunks of one answer are alike: the same id, model and fields, other words. So once one was parsed, the next is known by what stands
before and behind its text, and costs a few searches instead of a parse. Sound because the text between holds no quotation mark and no
backslash: then it is one JSON string in the place where the parsed chunk had one, and everything else is equal byte by byte.
"""

from __future__ import annotations


class Same:
    """Remembers one chunk. `kind` is the block that its text belongs to; "" while there is nothing to compare with. Mutable, one owner."""

    __slots__ = ("_after", "_before", "_ending", "_fixed", "kind")

    def __init__(self) -> None:
        self.kind = ""
        self._before = self._after = self._ending = b""
        self._fixed = 0  # bytes of an event without its text

    def learn(self, event: bytes, key: bytes, raw: bytes, kind: str) -> None:
        """Takes a parsed event whose only content is `raw` (a JSON string) under `key` (`"content":`). Forgets the one before."""
        at = event.find(key)
        start = event.find(b'"', at + len(key))
        self.kind = ""
        if at < 0 or event.find(key, start) >= 0 or event[at + len(key) : start].strip() or not event.startswith(raw, start):
            return
        self.kind = kind
        self._before, self._after = event[: start + 1], event[start + len(raw) - 1 :]
        self._ending = self._after + b"\n\n"
        self._fixed = len(self._before) + len(self._after)

    def text(self, event: bytes) -> bytes | None:
        """The text of an event that is like the one learned, without quotation marks; None when it is not, or not surely."""
        if len(event) > self._fixed and event.startswith(self._before) and event.endswith(self._after):
            return _sure(event[len(self._before) : -len(self._after)])
        return None

    def only(self, data: bytes) -> bytes | None:
        """The same of bytes that are one such event with the empty line that ends it."""
        if len(data) > self._fixed + 2 and data.startswith(self._before) and data.endswith(self._ending):
            return _sure(data[len(self._before) : -len(self._ending)])
        return None


# ASCII that stands for itself in a JSON string.
_PLAIN = bytes(c for c in range(0x20, 0x7F) if c not in b'"\\')


def _sure(said: bytes) -> bytes | None:
    """`said` when it is surely the inside of one JSON string. Control characters are no JSON; whatever is odd takes the longer way."""
    if not said.strip(_PLAIN):  # nothing but plain ASCII: strip stops at the first byte that is not
        return said
    if b'"' in said or b"\\" in said:
        return None
    try:
        return said if said.decode().isprintable() else None
    except UnicodeDecodeError:
        return None
