"""A strict HTTP/1.1 request reader: what the gateway sends to an engine must need no tolerance at all.

Pure: bytes in, requests out. Anything that a lenient server would let through is a `Violation`, and the engine
that sees one fails its test: a gateway that sends such bytes can be used to smuggle requests.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

MAX_HEAD = 256 * 1024
MAX_BODY = 64 * 1024 * 1024
REQUEST_LINE = re.compile(rb"([A-Z]+) (/[\x21-\x7e]*) HTTP/1\.1")
FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\x20-\x7e\x80-\xff\t]*?)[ \t]*")


FORM = "multipart/form-data; boundary="


class Violation(Exception):
    """The peer broke HTTP/1.1 or sent a body that is not the JSON that it declared."""


@dataclass(frozen=True)
class Request:
    """One request as it came. `doc` is the decoded JSON body (None without one); `connection` counts from 1."""

    method: str
    target: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    raw: bytes
    connection: int
    doc: Any = None

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    def header(self, name: str) -> str | None:
        """The value of a header, or None. Raises Violation if it came twice."""
        found = [value for key, value in self.headers if key == name.lower()]
        if len(found) > 1:
            raise Violation(f"header {name} came {len(found)} times")
        return found[0] if found else None

    @property
    def keep_alive(self) -> bool:
        return (self.header("connection") or "keep-alive").lower() != "close"


class Twice(dict[str, Any]):
    """A JSON object in which a key came more than once."""


def pairs(found: list[tuple[str, Any]]) -> dict[str, Any]:
    """`object_pairs_hook` that marks duplicate keys: two readers could take different ones."""
    doc = dict(found)
    return doc if len(doc) == len(found) else Twice(doc)


def fields(lines: list[bytes]) -> tuple[tuple[str, str], ...]:
    """Header lines to (lower-case name, value). Raises Violation for folds, bad names and control characters."""
    found = []
    for line in lines:
        match = FIELD.fullmatch(line)
        if match is None:
            raise Violation(f"malformed header line {line[:80]!r}")
        found.append((match[1].decode().lower(), match[2].decode("latin-1")))
    return tuple(found)


@dataclass
class RequestReader:
    """Collects bytes of one connection; `feed` gives the requests that are whole. Mutates only itself."""

    connection: int = 0
    buffer: bytearray = field(default_factory=bytearray)

    @property
    def idle(self) -> bool:
        return not self.buffer

    def feed(self, data: bytes) -> Iterator[Request]:
        """Adds data and yields every whole request. Raises Violation."""
        self.buffer += data
        while (request := self._next()) is not None:
            yield request

    def _next(self) -> Request | None:
        end = self.buffer.find(b"\r\n\r\n")
        if end < 0:
            if len(self.buffer) > MAX_HEAD:
                raise Violation("request head too long")
            return None
        head = bytes(self.buffer[:end])
        method, target, headers = self._head(head)
        if ("transfer-encoding", "chunked") in headers and dict(headers).get("content-type", "").startswith(FORM):
            return self._chunked(method, target, headers, end + 4)
        length = self._length(method, headers)
        if len(self.buffer) < end + 4 + length:
            return None
        raw = bytes(self.buffer[: end + 4 + length])
        del self.buffer[: end + 4 + length]
        request = Request(method, target, headers, raw[end + 4 :], raw, self.connection)
        return self._decoded(request)

    def _chunked(self, method: str, target: str, headers: tuple[tuple[str, str], ...], at: int) -> Request | None:
        """A form that came in chunks, once it is whole. Nothing else may: many an engine reads only bodies with a length."""
        if "content-length" in dict(headers):
            raise Violation("both a length and chunks")
        body = b""
        while (line := self.buffer.find(b"\r\n", at)) >= 0:
            size = bytes(self.buffer[at:line])
            if not re.fullmatch(rb"0|[1-9a-f][0-9a-f]{0,7}", size):
                raise Violation(f"malformed chunk size {size!r}")
            at = line + 2 + int(size, 16) + 2
            if len(self.buffer) < at:
                return None
            if self.buffer[at - 2 : at] != b"\r\n":
                raise Violation("a chunk is not as long as it says")
            body += self.buffer[line + 2 : at - 2]
            if size == b"0":
                raw = bytes(self.buffer[:at])
                del self.buffer[:at]
                return Request(method, target, headers, body, raw, self.connection)
        return None

    @staticmethod
    def _head(head: bytes) -> tuple[str, str, tuple[tuple[str, str], ...]]:
        lines = head.split(b"\r\n")
        if any(b"\r" in line or b"\n" in line for line in lines):
            raise Violation("bare CR or LF in the head")
        match = REQUEST_LINE.fullmatch(lines[0])
        if match is None:
            raise Violation(f"malformed request line {lines[0][:80]!r}")
        headers = fields(lines[1:])
        names = [name for name, _ in headers]
        for single in ("host", "content-length", "content-type", "authorization", "connection"):
            if names.count(single) > 1:
                raise Violation(f"duplicate {single}")
        if "host" not in names:
            raise Violation("no Host")
        return match[1].decode(), match[2].decode(), headers

    @staticmethod
    def _length(method: str, headers: tuple[tuple[str, str], ...]) -> int:
        values = dict(headers)
        for hop in ("transfer-encoding", "upgrade", "te", "trailer", "keep-alive", "proxy-connection", "expect"):
            if hop in values:
                raise Violation(f"hop-by-hop header {hop}: {values[hop]!r} was sent to the engine")
        text = values.get("content-length", "0" if method in ("GET", "HEAD", "DELETE") else "")
        if not re.fullmatch(r"0|[1-9][0-9]{0,9}", text):
            raise Violation(f"{method} with Content-Length {text!r}")
        if int(text) > MAX_BODY:
            raise Violation("request body too long")
        return int(text)

    @staticmethod
    def _decoded(request: Request) -> Request:
        if not request.body or (request.header("content-type") or "").startswith(FORM):
            return request
        try:
            doc = json.loads(request.body.decode("utf-8"), object_pairs_hook=pairs)
        except (ValueError, RecursionError) as error:
            raise Violation(f"body is not JSON: {error}") from error
        if isinstance(doc, Twice):  # nested values pass through as they are; the top level is the gateway's to settle
            raise Violation("duplicate top-level key")
        return Request(request.method, request.target, request.headers, request.body, request.raw, request.connection, doc)
