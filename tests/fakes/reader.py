"""An independent, strict reader of HTTP/1.1 answers and of SSE: what the gateway writes must need no tolerance.

Used by tests instead of an HTTP library, which would forgive. Raises `Malformed` for anything that RFC 9112 does not allow
a server to send, and says at once when the connection ended inside a message.
"""

from __future__ import annotations

import json
import re
import socket
from dataclasses import dataclass, field
from typing import Any, Literal

from tests.fakes.request import FIELD

STATUS_LINE = re.compile(rb"HTTP/1\.1 ([1-5][0-9]{2}) ([\x20-\x7e]*)")
CHUNK_LINE = re.compile(rb"([0-9a-fA-F]{1,15})")


class Malformed(AssertionError):
    """The gateway sent bytes that a strict client must refuse."""


class Cut(Malformed):
    """The connection ended inside a message."""

    def __init__(self, what: str, seen: bytes) -> None:
        super().__init__(f"the connection ended {what}, after {seen[-200:]!r}")


@dataclass(frozen=True)
class Answer:
    """One whole answer. `writes` is the body as it arrived, one entry a chunk (one entry when not chunked)."""

    status: int
    headers: dict[str, str]
    body: bytes
    framing: Literal["length", "chunked", "eof", "none"]
    interim: tuple[int, ...] = ()
    chunks: tuple[bytes, ...] = ()

    @property
    def doc(self) -> Any:
        """The JSON body. Raises Malformed when it is not JSON."""
        try:
            return json.loads(self.body.decode("utf-8"))
        except ValueError as error:
            raise Malformed(f"body is not JSON: {self.body[:200]!r}") from error

    @property
    def error(self) -> dict[str, Any]:
        """The error object of the envelope, checked for its shape."""
        return envelope(self.doc)

    @property
    def events(self) -> list[bytes]:
        return events(self.body)

    @property
    def keeps(self) -> bool:
        """Whether the server lets the connection be used again."""
        return self.framing != "eof" and self.headers.get("connection", "keep-alive").lower() != "close"


def envelope(doc: Any) -> dict[str, Any]:
    """The error object of an OpenAI error envelope. Raises Malformed when anything about its shape is wrong."""
    if not isinstance(doc, dict) or set(doc) != {"error"} or not isinstance(doc["error"], dict):
        raise Malformed(f"not an error envelope: {doc!r}")
    error: dict[str, Any] = doc["error"]
    missing = {"message", "type", "param", "code", "origin"} - set(error)
    if missing:
        raise Malformed(f"error without {sorted(missing)}: {error!r}")
    if not isinstance(error["message"], str) or not error["message"] or "Traceback" in error["message"]:
        raise Malformed(f"bad message: {error!r}")
    if not isinstance(error["type"], str) or error["origin"] not in ("client", "gateway", "backend"):
        raise Malformed(f"bad type or origin: {error!r}")
    if not all(isinstance(error[key], str | None) for key in ("param", "code")):
        raise Malformed(f"param and code must be texts or null: {error!r}")
    return error


def events(body: bytes) -> list[bytes]:
    """Whole SSE events, each with the empty line that ends it. Raises Malformed for a rest that is no event."""
    found, rest = [], body
    while rest:
        ends = [at + len(mark) for mark in (b"\n\n", b"\r\n\r\n") if (at := rest.find(mark)) >= 0]
        if not ends:
            raise Malformed(f"an event that never ends: {rest[:200]!r}")
        found.append(rest[: min(ends)])
        rest = rest[min(ends) :]
    return found


def event_doc(event: bytes) -> Any:
    """The JSON of an event's data lines."""
    lines = [line[5:].strip() for line in event.splitlines() if line.startswith(b"data:")]
    try:
        return json.loads(b"\n".join(lines))
    except ValueError as error:
        raise Malformed(f"event is not JSON: {event[:200]!r}") from error


@dataclass
class AnswerReader:
    """Reads answers from a blocking socket, strictly, one after the other. Keeps what came early for the next one."""

    sock: socket.socket
    buffer: bytearray = field(default_factory=bytearray)
    ended: bool = False

    def _more(self) -> bool:
        """Blocks for more bytes; False at the end of the stream. A reset counts as the end."""
        if self.ended:
            return False
        try:
            data = self.sock.recv(262_144)
        except (ConnectionResetError, BrokenPipeError):
            data = b""
        self.ended = not data
        self.buffer += data
        return not self.ended

    def _until(self, mark: bytes, what: str) -> bytes:
        while (at := self.buffer.find(mark)) < 0:
            if len(self.buffer) > 1 << 20:
                raise Malformed(f"{what} too long")
            if not self._more():
                raise Cut(f"in {what}", bytes(self.buffer))
        data = bytes(self.buffer[:at])
        del self.buffer[: at + len(mark)]
        return data

    def _exactly(self, size: int) -> bytes:
        while len(self.buffer) < size:
            if not self._more():
                raise Cut("in the body", bytes(self.buffer))
        data = bytes(self.buffer[:size])
        del self.buffer[:size]
        return data

    def head(self) -> tuple[int, dict[str, str]]:
        """A status line and headers. Duplicates are refused, except for fields that are lists."""
        lines = self._until(b"\r\n\r\n", "the head").split(b"\r\n")
        match = STATUS_LINE.fullmatch(lines[0])
        if match is None:
            raise Malformed(f"bad status line {lines[0][:100]!r}")
        headers: dict[str, str] = {}
        for line in lines[1:]:
            found = FIELD.fullmatch(line)
            if found is None:
                raise Malformed(f"bad header line {line[:100]!r}")
            name = found[1].decode().lower()
            if name in headers and name not in ("vary", "set-cookie"):
                raise Malformed(f"duplicate header {name}")
            headers[name] = found[2].decode("latin-1")
        return int(match[1]), headers

    def read(self, method: str = "POST") -> Answer:
        """One answer with its interim ones. Raises Cut or Malformed; TimeoutError when the socket's timeout passes."""
        interim = []
        status, headers = self.head()
        while 100 <= status < 200 and status != 101:
            interim.append(status)
            status, headers = self.head()
        length, coding = headers.get("content-length"), headers.get("transfer-encoding")
        if length is not None and coding is not None:
            raise Malformed("both Content-Length and Transfer-Encoding")
        if method == "HEAD" or status in (204, 304):
            return Answer(status, headers, b"", "none", tuple(interim))
        if coding is not None:
            if coding.lower() != "chunked":
                raise Malformed(f"transfer coding {coding!r}")
            chunks = self._chunks()
            return Answer(status, headers, b"".join(chunks), "chunked", tuple(interim), chunks)
        if length is not None:
            if not re.fullmatch(r"0|[1-9][0-9]*", length):
                raise Malformed(f"Content-Length {length!r}")
            return Answer(status, headers, self._exactly(int(length)), "length", tuple(interim))
        while self._more():
            pass
        body = bytes(self.buffer)
        self.buffer.clear()
        return Answer(status, headers, body, "eof", tuple(interim))

    def _chunks(self) -> tuple[bytes, ...]:
        chunks: list[bytes] = []
        while (part := self.chunk()) is not None:
            chunks.append(part)
        return tuple(chunks)

    def chunk(self) -> bytes | None:
        """The next chunk of a chunked body; None for the last one."""
        line = self._until(b"\r\n", "a chunk's size")
        match = CHUNK_LINE.fullmatch(line)
        if match is None:
            raise Malformed(f"chunk size {line[:100]!r}")
        part = self._exactly(int(match[1], 16))
        if self._exactly(2) != b"\r\n":
            raise Malformed("a chunk does not end with CRLF")
        return part if part else None

    def at_end(self) -> bool:
        """Blocks until the server closes; True when it sent nothing more before."""
        while self._more():
            pass
        return not self.buffer
