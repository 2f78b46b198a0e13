"""Chunks of a stream that pass from connection to connection as they are: what they must look like. Pure."""

from __future__ import annotations

from backends.outbox import Outbox, Writes

LONGEST = 2048  # bytes of a chunk with its framing; a longer one is the parser's
QUOTE = ord('"')  # a byte is found in bytes for a twentieth of what finding bytes in them costs
CHUNK = 1 << 48  # what a chunk that passed adds to `Splice.passed`, beside the bytes of its text


def _first_line(length: int) -> bytes | None:
    for size in (length - 5, length - 6, length - 7):
        line = b"%x\r\n" % max(0, size)
        if size > 0 and len(line) + size + 2 == length:
            return line
    return None  # no chunk is so long


# By the length of a whole chunk, how it begins as servers write it. What is written otherwise (extensions, leading zeros, capitals), or is
# longer, is the parser's.
LINES = tuple(map(_first_line, range(LONGEST)))
SIZES = {b"%x\r\n" % size: size for size in range(1, LONGEST - 7)}  # and what a first line says, of chunks that are no longer


class Splice:
    """Lets chunks of a stream pass from its connection to the client's as they are, framing and all: whole events that are like
    the last one but for their text (see `gateway.relay.StreamRelay`). `transport` is the client's, written to through
    `outbox`; `chunks` and `size` are of what passed.

    All that a chunk needs is here, in few objects: with a thousand streams each one more is fetched from far at every chunk. `before` and
    `after` stand around the text, `begin` and `end` say where it lies in the event and before the chunk's end; `passed` counts both.
    """

    __slots__ = ("_chunks", "_size", "after", "before", "begin", "end", "outbox", "passed", "transport", "writes")

    def __init__(self, transport: Writes, outbox: Outbox) -> None:
        self.transport, self.outbox, self.writes = transport, outbox, outbox.writes
        self.before, self.after = b"", b"\r\n"
        self.begin, self.end = 0, -2
        self.passed = 0
        self._chunks = self._size = 0  # before it was taught anew

    def teach(self, before: bytes, after: bytes) -> None:
        """What stands around the text of an event that may pass: `before` ends and `after` begins with the text's quotation mark."""
        self._chunks, self._size, self.passed = self.chunks, self.size, 0
        self.before, self.after = before, after + b"\r\n"
        self.begin, self.end = len(before), -len(self.after)

    def several(self, data: bytes) -> bool:
        """Lets whole chunks that came in one read pass, if each of them may; whether they did. What came together costs one read and one
        write: so who falls behind a little catches up."""
        at = passed = 0
        before, after, begin, end = self.before, self.after, self.begin, self.end
        while at < len(data):
            line = data[at : at + 5]
            while line not in SIZES:
                line = line[:-1]
                if not line:
                    return False
            stop = at + len(line) + SIZES[line] + 2
            chunk = data[at:stop]
            text = chunk[len(line) + begin : end]
            if stop > len(data) or b"".join((line, before, text, after)) != chunk or QUOTE in text:
                return False
            passed += CHUNK + len(text)
            at = stop
        self.passed += passed
        self.outbox.put(self.transport, data)
        return True

    @property
    def chunks(self) -> int:
        """Chunks that passed."""
        return self._chunks + self.passed // CHUNK

    @property
    def size(self) -> int:
        """Bytes of the events that passed."""
        return self._size + self.passed // CHUNK * (self.begin - self.end - 2) + self.passed % CHUNK
