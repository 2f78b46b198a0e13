"""The AWS event stream against botocore's own reader, cut everywhere, and broken in every byte."""

from __future__ import annotations

import struct
from zlib import crc32

import pytest
from botocore.eventstream import EventStreamBuffer
from hypothesis import given
from hypothesis import strategies as st

from backends.dialects.eventstream import Broken, Decoder, Message, encode

HEADERS = {":event-type": "contentBlockDelta", ":content-type": "application/json", ":message-type": "event"}
names = st.text(st.characters(codec="ascii", exclude_characters="\0"), min_size=1, max_size=40)
messages = st.lists(st.tuples(st.dictionaries(names, st.text(max_size=60), max_size=4), st.binary(max_size=200)), min_size=1, max_size=5)


def read(data: bytes, decoder: Decoder | None = None) -> list[Message]:
    return list((decoder or Decoder()).feed(data))


@given(messages)
def test_botocore_reads_what_is_written_and_so_does_the_decoder(parts: list[tuple[dict[str, str], bytes]]) -> None:
    data = b"".join(encode(headers, payload) for headers, payload in parts)
    theirs = EventStreamBuffer()
    theirs.add_data(data)
    assert [(dict(e.headers), e.payload) for e in theirs] == parts
    assert [(dict(m.headers), m.payload) for m in read(data)] == parts


def test_byte_by_byte_and_cut_in_two_everywhere() -> None:
    data = encode(HEADERS, b'{"a":1}') + encode({}, b"") + encode(HEADERS, b"x" * 300)
    whole = read(data)
    assert [len(m.payload) for m in whole] == [7, 0, 300]
    one = Decoder()
    assert [m for i in range(len(data)) for m in one.feed(data[i : i + 1])] == whole
    assert one.empty
    for i in range(len(data) + 1):
        two = Decoder()
        assert [*two.feed(data[:i]), *two.feed(data[i:])] == whole
        assert two.empty


def test_a_cut_is_seen() -> None:
    data = encode(HEADERS, b"{}")
    for i in range(1, len(data)):
        decoder = Decoder()
        assert read(data[:i], decoder) == []
        assert not decoder.empty


def test_every_flipped_byte_is_found() -> None:
    data = encode(HEADERS, b'{"delta":{"text":"Hi"}}')
    for i in range(len(data)):
        wrong = bytearray(data)
        wrong[i] ^= 0x10
        with pytest.raises(Broken):
            read(bytes(wrong) + b"\0" * 16)


def test_what_was_whole_before_the_break_is_given() -> None:
    got = []
    with pytest.raises(Broken, match="wrong checksum"):
        for message in Decoder().feed(encode(HEADERS, b"good") + b"\0" * 12):
            got.append(message.payload)
    assert got == [b"good"]


def framed(headers: bytes, payload: bytes = b"", *, size: int | None = None, headers_size: int | None = None) -> bytes:
    """A message of raw header bytes, with lengths that may lie and checksums that hold."""
    told = (len(headers) + len(payload) + 16 if size is None else size, len(headers) if headers_size is None else headers_size)
    prelude = struct.pack(">II", *told)
    message = prelude + struct.pack(">I", crc32(prelude)) + headers + payload
    return message + struct.pack(">I", crc32(message))


def header(kind: int, value: bytes) -> bytes:
    return b"\x01h" + bytes((kind,)) + value


@pytest.mark.parametrize(
    ("kind", "wire", "read_as"),
    [
        (0, b"", b"\x01"), (1, b"", b"\x00"), (2, b"\x7f", b"\x7f"), (3, b"ab", b"ab"), (4, b"abcd", b"abcd"),
        (5, b"abcdefgh", b"abcdefgh"),
        (6, b"\0\2ab", b"ab"), (7, b"\0\2ab", "ab"), (8, b"abcdefgh", b"abcdefgh"), (9, b"0123456789abcdef", b"0123456789abcdef"),
    ],
)  # fmt: skip
def test_every_type_of_header(kind: int, wire: bytes, read_as: str | bytes) -> None:
    [message] = read(framed(header(kind, wire) + b"\x01z\x00"))
    assert message.headers == {"h": read_as, "z": b"\x01"}


@pytest.mark.parametrize("block", [header(7, b"\0\x09ab"), header(10, b""), header(7, b"\0\1\xff"), b"\x05h", b"\x01", header(6, b"\0")])
def test_headers_that_cannot_be_read(block: bytes) -> None:
    with pytest.raises(Broken, match="header"):
        read(framed(block))


def test_lengths_have_bounds() -> None:
    with pytest.raises(Broken, match="impossible lengths"):
        read(framed(b"", size=15))
    with pytest.raises(Broken, match="impossible lengths"):
        read(framed(b"", size=1 << 20, headers_size=(1 << 17) + 1))
    with pytest.raises(Broken, match="of headers; at most 131072"):
        read(framed(header(6, b"\xff\xff" + b"x" * 65_535) * 3))
    with pytest.raises(Broken, match="at most 100 are taken"):
        read(framed(b"", size=101), Decoder(100))  # refused from its first bytes, before any of it is held
    assert len(read(framed(b"", b"x" * 84), Decoder(100))) == 1


def test_what_is_remembered_of_headers_is_bounded() -> None:
    decoder = Decoder()
    for i in range(100):
        [message] = decoder.feed(encode({"n": str(i)}, b""))
        assert message.headers == {"n": str(i)}
    [message] = decoder.feed(encode({"n": "x" * 1000}, b""))
    assert message.headers == {"n": "x" * 1000}
    assert len(decoder._known) == 32
