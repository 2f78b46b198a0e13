"""A head that came before: what need not be parsed twice.

Who keeps a connection open sends the same head again and again, but for the number after `content-length`. The first one goes
through the real parser; what that said of it holds for every later head that equals it byte for byte around the number.
Only plain heads are learned: one content-length, no transfer-encoding, nothing that changes what follows them. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

MAX_LEARNED = 8 * 1024  # bytes of a head that is kept
PAUSE = 0.5  # seconds from one head that is learned to the next of a connection: a `date` makes another one each second, an id each time
DECIMALS = 8 * 1024
DECIMAL = tuple([b"%d" % n for n in range(DECIMALS)])  # lengths as text: a look-up costs a fraction of what formatting does
_LENGTH = re.compile(rb"\r\n(?i:content-length):[ \t]*([0-9]+)[ \t]*\r\n")
_CHANGES = frozenset({b"transfer-encoding", b"upgrade", b"expect", b"trailer", b"content-encoding"})


class Known:
    """A learned head: the bytes before its number and those after, and its fields (names in lower case, without the length)."""

    __slots__ = ("after", "before", "digits", "fields", "least", "most", "size")

    def __init__(self, before: bytes, after: bytes, fields: Mapping[bytes, bytes]) -> None:
        self.before, self.after, self.fields = before, after, fields
        self.digits = 1  # of the last length
        self.least, self.most = 0, 10  # lengths of so many digits, as far as `DECIMAL` goes: the first, and the one after the last
        self.size = len(before) + self.digits + len(after)

    def body(self, data: bytes) -> bytes | None:
        """The body of a whole message in `data` whose head is this one but for its length; None for anything else."""
        # The length is compared as text: what is written otherwise (zeros before it, thousands of digits) is the parser's. It is negative
        # where the last one had more digits, or where `data` is shorter than the head.
        length = len(data) - self.size
        if self.least <= length < self.most:
            text = DECIMAL[length]
        else:
            text = b"%d" % length
            if length < 0 or len(text) != self.digits:
                text = self._length(length + self.digits)
                if not text:
                    return None
        # To join is half as dear as two additions, and `removeprefix` a third of looking and cutting; it gives `data` itself where it finds
        # nothing.
        body = data.removeprefix(b"".join((self.before, text, self.after)))
        return None if body is data else body

    def _length(self, left: int) -> bytes:
        """What the length must be where that and the body have `left` bytes together; empty where there is no such length."""
        for digits in (len(b"%d" % left), len(b"%d" % left) - 1):
            text = b"%d" % (left - digits)
            if len(text) == digits and left >= digits:
                self.size += digits - self.digits
                self.digits = digits
                self.least, self.most = 10 ** (digits - 1) if digits > 1 else 0, min(10**digits, DECIMALS)
                return text
        return b""


def learn(head: bytes, fields: Mapping[bytes, bytes]) -> Known | None:
    """What a head that the parser has accepted teaches. `head` ends with its empty line; `fields` are what the parser read."""
    if len(head) > MAX_LEARNED or not _CHANGES.isdisjoint(fields) or head.lower().count(b"content-length") != 1:
        return None
    found = _LENGTH.search(head)
    if found is None:
        return None
    rest = {name: value for name, value in fields.items() if name != b"content-length"}
    return Known(head[: found.start(1)], head[found.end(1) :], rest)
