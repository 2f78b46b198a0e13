"""Chunks of a stream that pass from connection to connection as they are: what they must look like. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

LONGEST = 2048  # bytes of a chunk with its framing; a longer one is the parser's
QUOTE = ord('"')  # a byte is found in bytes for a twentieth of what finding bytes in them costs
KINDS = 16  # lengths of a stream's chunks that are kept; most have fewer


def _first_line(length: int) -> bytes | None:
    for size in (length - 5, length - 6, length - 7):
        line = b"%x\r\n" % max(0, size)
        if size > 0 and len(line) + size + 2 == length:
            return line
    return None  # no chunk is so long


# By the length of a whole chunk, how it begins as servers write it. What is written otherwise (extensions, leading zeros, capitals), or is
# longer, is the parser's.
LINES = tuple(map(_first_line, range(LONGEST)))


class Splice:
    """Lets chunks of a stream pass from its connection to the client's as they are, framing and all: whole events that are like
    the last one but for their text (see `gateway.relay.StreamRelay`). `write` is the client's; `chunks` and `size` are of what passed.

    `kinds`: what a chunk must look like, by its length: how it begins, where its text does, where that must end, how it ends, and how many
    have passed.
    """

    __slots__ = ("_chunks", "_size", "after", "before", "kinds", "write")

    def __init__(self, write: Callable[[bytes], None]) -> None:
        self.write = write
        self.kinds: dict[int, list[Any]] = {}
        self.before = self.after = b""
        self._chunks = self._size = 0  # of what has been forgotten

    def teach(self, before: bytes, after: bytes) -> None:
        """What stands around the text of an event that may pass: `before` ends and `after` begins with the text's quotation mark."""
        self._forget()
        self.before, self.after = before, after + b"\r\n"

    def learn(self, length: int) -> list[Any]:
        """What a chunk of another length must look like; kept in `kinds`."""
        if len(self.kinds) >= KINDS:
            self._forget()
        line = LINES[length] if length < LONGEST else None
        if line is None:
            found = [b"", 0, -2, b"", 0]  # a part is never the whole: none passes
        else:
            head = line + self.before
            found = [head, len(head), length - len(self.after), self.after, 0]
        self.kinds[length] = found
        return found

    def _forget(self) -> None:
        self._chunks, self._size = self.chunks, self.size
        self.kinds.clear()

    @property
    def chunks(self) -> int:
        """Chunks that passed."""
        passed: int = sum([kind[4] for kind in self.kinds.values()])
        return self._chunks + passed

    @property
    def size(self) -> int:
        """Bytes of the events that passed."""
        more = len(self.before) - 2  # of the beginning all but the chunk's first line counts, and its last line end does not
        passed: int = sum([kind[4] * (length - kind[1] + more) for length, kind in self.kinds.items()])
        return self._size + passed
