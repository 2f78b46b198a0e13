"""Bytes of heads: status lines, and an offer that must be taken out of a request before a parser sees it. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from http import HTTPStatus

_H2C = re.compile(rb"(?im)^(?:upgrade|http2-settings)[ \t]*:[^\r\n]*\r\n")
_CONNECTION = re.compile(rb"(?im)^(connection[ \t]*:)([^\r\n]*)(\r\n)")
_H2C_TOKEN = re.compile(rb"(?i)\s*\b(?:upgrade|http2-settings)\b\s*,?")
_STATUS = {s.value: b"HTTP/1.1 %d %b\r\n" % (s.value, s.phrase.encode()) for s in HTTPStatus}
_STATUS[499], _STATUS[529] = b"HTTP/1.1 499 Client Closed Request\r\n", b"HTTP/1.1 529 Overloaded\r\n"
OK = _STATUS[200]
_lower = bytes.lower


def lowered(headers: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
    """The same with names in lower case."""
    return dict(zip(map(_lower, headers), headers.values(), strict=True))


def status_line(status: int) -> bytes:
    """The first line of an answer."""
    return _STATUS.get(status) or b"HTTP/1.1 %d Status\r\n" % status


def without_h2c(head: bytes) -> bytes:
    """A head without its offer to switch to HTTP/2, which stock Java clients send and the parser cannot decline (uvicorn#2722)."""
    if b"pgrade" not in head and b"PGRADE" not in head:
        return head
    if not re.search(rb"(?im)^upgrade[ \t]*:[ \t]*h2c", head):
        return head
    head = _H2C.sub(b"", head)
    return _CONNECTION.sub(lambda m: m[1] + _H2C_TOKEN.sub(b"", m[2]).rstrip(b", ") + m[3], head)
