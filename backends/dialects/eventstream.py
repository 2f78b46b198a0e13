"""The AWS event stream: messages in a binary framing with checksums, read from bytes cut anywhere, and written for tests. Pure.

A message is: total length, headers' length, CRC-32 of these 8 bytes (4 bytes each, big endian); the headers; the payload; CRC-32 of
all before it. A header is a name (one byte of length), a type byte and a value. Source: "Event stream encoding", Amazon
Transcribe developer guide and smithy.io/2.0/aws/amazon-eventstream; both agree with botocore's reader.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from zlib import crc32

import msgspec

MAX_HEADERS = 128 * 1024  # bytes; AWS's own bound
MAX_MESSAGE = 16 * 1024 * 1024  # bytes; AWS's own bound for a message, which its payloads here never come near
_PRELUDE, _FRAME = 12, 16  # bytes before the headers; bytes beside headers and payload
_REMEMBERED = 32  # header blocks, of at most this many bytes each:
_REMEMBERED_BYTES = 512

_words = struct.Struct(">III").unpack_from
_word = struct.Struct(">I").unpack_from
_FIXED = {2: 1, 3: 2, 4: 4, 5: 8, 8: 8, 9: 16}  # bytes of a value by its type: byte, short, int, long, timestamp, uuid
_SIZED = (6, 7)  # byte array, string: two bytes of length first


class Broken(ValueError):
    """The bytes are no event stream: a checksum or a length is wrong. One sentence; nothing after it can be read."""


class Message(msgspec.Struct, gc=False):
    """One message. `headers` holds string values as text and all others as their bytes (booleans as b"\\x01" and b"\\x00")."""

    headers: Mapping[str, str | bytes]
    payload: bytes


class Decoder:
    """Reads messages out of bytes as they come. Holds at most one message that is not whole yet, of at most `limit` bytes."""

    __slots__ = ("_have", "_known", "_limit", "_need", "_parts")

    def __init__(self, limit: int = MAX_MESSAGE) -> None:
        self._limit = limit
        self._parts: list[bytes] = []
        self._have, self._need = 0, _PRELUDE  # bytes held, and how many it takes to go on
        self._known: dict[bytes, Mapping[str, str | bytes]] = {}  # a stream repeats the same few blocks of headers

    @property
    def empty(self) -> bool:
        """Whether the bytes so far ended with a whole message."""
        return not self._have

    def feed(self, data: bytes) -> Iterator[Message]:
        """The messages that are whole now, to be taken all. Mutates; raises `Broken` at the first that is wrong, after those
        before it."""
        if self._have + len(data) < self._need:
            self._keep(data, self._need)
            return
        if self._have:
            data = b"".join((*self._parts, data))
            self._parts.clear()
            self._have = 0
        at, end, need, known = 0, len(data), _PRELUDE, self._known
        while end - at >= _PRELUDE:
            size, headers_size, told = _words(data, at)
            if end - at < size or size < headers_size + _FRAME or size > self._limit:
                self._check(size, headers_size, told, data[at : at + 8])  # its own checksum: is it these lengths that are to be believed?
                need = size
                break
            message = data[at : at + size - 4]
            if crc32(message) != _word(data, at + size - 4)[0]:
                raise Broken("A message of the event stream has a wrong checksum.")
            headers_end = _PRELUDE + headers_size
            block = message[_PRELUDE:headers_end]
            yield Message(known.get(block) or self._headers(block), message[headers_end:])
            at += size
        self._keep(data[at:], need)

    def _keep(self, data: bytes, need: int) -> None:
        if data:
            self._parts.append(data)
        self._have, self._need = self._have + len(data), need

    def _check(self, size: int, headers_size: int, told: int, prelude: bytes) -> None:
        if crc32(prelude) != told:
            raise Broken("A message of the event stream begins with a wrong checksum.")
        if headers_size > MAX_HEADERS or size < headers_size + _FRAME:
            raise Broken(f"A message of the event stream tells impossible lengths ({size}, {headers_size}).")
        if size > self._limit:
            raise Broken(f"A message of the event stream has {size} bytes; at most {self._limit} are taken.")

    def _headers(self, block: bytes) -> Mapping[str, str | bytes]:
        if len(block) > MAX_HEADERS:
            raise Broken(f"A message of the event stream has {len(block)} bytes of headers; at most {MAX_HEADERS} are taken.")
        headers = _headers(block)
        if len(self._known) < _REMEMBERED and len(block) <= _REMEMBERED_BYTES:
            self._known[block] = headers
        return headers


def _headers(block: bytes) -> dict[str, str | bytes]:
    """The headers of one block. Raises `Broken`."""
    out: dict[str, str | bytes] = {}
    at, end = 0, len(block)
    try:
        while at < end:
            start, at = at + 1, at + 1 + block[at]
            name, kind = block[start:at].decode(), block[at]
            size, at = _extent(block, at + 1, kind)
            value = bytes((kind == 0,)) if kind < 2 else block[at : at + size]
            at += size
            out[name] = value.decode() if kind == 7 else value
    except (IndexError, UnicodeDecodeError):
        at = end + 1
    if at != end:
        raise Broken("A message of the event stream has headers that cannot be read.")
    return out


def _extent(block: bytes, at: int, kind: int) -> tuple[int, int]:
    """How many bytes a value of this type has, and where they begin. Raises IndexError and `Broken`."""
    if kind in _SIZED:
        return block[at] << 8 | block[at + 1], at + 2
    if kind < 2:  # true and false have no bytes
        return 0, at
    if kind not in _FIXED:
        raise Broken(f"A header of the event stream has the unknown type {kind}.")
    return _FIXED[kind], at


def encode(headers: Mapping[str, str], payload: bytes) -> bytes:
    """One message with string headers. For what plays the provider; names have at most 255 bytes, values at most 65,535."""
    block = bytearray()
    for name, text in headers.items():
        key, value = name.encode(), text.encode()
        block += bytes((len(key),)) + key + b"\x07" + len(value).to_bytes(2, "big") + value
    prelude = struct.pack(">II", len(block) + len(payload) + _FRAME, len(block))
    message = prelude + struct.pack(">I", crc32(prelude)) + block + payload
    return message + struct.pack(">I", crc32(message))
