"""Chunks of a stream that pass from connection to connection as they are: what they must look like. Pure."""

from __future__ import annotations

from collections.abc import Callable

LONGEST = 2048  # bytes of a chunk with its framing; a longer one is the parser's


def _first_line(length: int) -> bytes:
    for size in (length - 5, length - 6, length - 7):
        line = b"%x\r\n" % max(0, size)
        if size > 0 and len(line) + size + 2 == length:
            return line
    return b"\0"  # no chunk is so long


# By the length of a whole chunk, how it begins as servers write it. What is written otherwise (extensions, leading zeros, capitals), or is
# longer, is the parser's.
LINES = tuple(map(_first_line, range(LONGEST)))


class Splice:
    """Lets chunks of a stream pass from its connection to the client's as they are, framing and all: whole events that are like
    the last one but for their text (see `gateway.relay.StreamRelay`). `write` is the client's; `chunks` and `size` are of what passed."""

    __slots__ = ("after", "before", "chunks", "head", "rest", "tail", "write")

    def __init__(self, write: Callable[[bytes], None]) -> None:
        self.write = write
        self.before = self.after = b""
        self.head = self.tail = self.chunks = 0
        self.rest = 0  # bytes that passed, without the chunks' first lines

    def teach(self, before: bytes, after: bytes) -> None:
        """What stands around the text of an event that may pass: `before` ends and `after` begins with the text's quotation mark."""
        self.before, self.after = before, after + b"\r\n"
        self.head, self.tail = len(before), len(self.after)

    @property
    def size(self) -> int:
        """Bytes of the events that passed."""
        return self.rest - 2 * self.chunks
