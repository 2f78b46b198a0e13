"""Server-sent events, as they come: where one ends, and what its data is. Pure.

The format is WHATWG HTML, section 9.2 "Server-sent events": lines end in LF, CRLF or CR, an empty line ends an event, `data` lines are
joined by LF, a line that begins with a colon is a comment.
"""

from __future__ import annotations

import re

MOST = 4 << 20  # bytes of one event that is still to end
_END = re.compile(rb"(?:\r\n|\n|\r(?!\n))(?:\r\n|\n|\r(?!\n))")  # a line's end and an empty line
_LINE = re.compile(rb"\r\n|\n|\r")
_MARK = b"\xef\xbb\xbf"  # a byte order mark, which may stand before everything


class TooLong(Exception):
    """An event is longer than `MOST` bytes."""


class Splitter:
    """Cuts a stream into events, whatever pieces it comes in. `feed` and `rest` change it."""

    __slots__ = ("_begun", "_buffer", "_seen")

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._seen = 0  # bytes of the buffer that hold no end
        self._begun = False

    def feed(self, data: bytes) -> list[bytes]:
        """The events that are whole now, each without the empty line that ended it; some may hold no data. Raises TooLong."""
        if self._begun and not self._buffer and data.endswith(b"\n\n") and b"\r" not in data:
            return data[:-2].split(b"\n\n")  # nearly always: a read is whole events
        return self._slow(data)

    def _slow(self, data: bytes) -> list[bytes]:
        buffer = self._buffer
        buffer += data
        if not self._begun:
            if _MARK.startswith(buffer[:3]) and len(buffer) < 3:
                return []
            if buffer.startswith(_MARK):
                del buffer[:3]
            self._begun = True
        found, at = [], 0
        for end in _END.finditer(buffer, self._seen):
            found.append(bytes(buffer[at : end.start()]))
            at = end.end()
        del buffer[:at]
        if len(buffer) > MOST:
            raise TooLong
        self._seen = max(0, len(buffer) - 3)  # an end has four bytes at most
        return found

    def rest(self) -> bytes:
        """What came after the last whole event, at the end of the stream; afterwards there is none."""
        left = bytes(self._buffer)
        self._buffer.clear()
        self._seen = 0
        return left


def data_of(event: bytes) -> tuple[bytes, bytes]:
    """An event's data and its type (empty: none is named). Data is empty where the event has none, as a comment has."""
    if event.startswith(b"data: ") and b"\n" not in event and b"\r" not in event:
        return event[6:], b""
    lines, kind = [], b""
    for line in _LINE.split(event):
        name, _, value = line.partition(b":")
        value = value[1:] if value.startswith(b" ") else value
        if name == b"data":
            lines.append(value)
        elif name == b"event":
            kind = value
    return b"\n".join(lines), kind
