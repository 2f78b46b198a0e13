"""What an image, a document or a sound really is, read from its bytes, and small real ones to send. Pure."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

PDF = b"%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj\n2 0 obj<</Type/Pages/Kids[]/Count 0>>endobj\ntrailer<</Root 1 0 R>>\n%%EOF\n"


@dataclass(frozen=True)
class Media:
    """One file as a request carried it. `media_type` is what the sender claims; `kind` what the bytes are."""

    media_type: str
    data: bytes

    @property
    def kind(self) -> str:
        return sniff(self.data)

    def describe(self) -> str:
        """`a png image of 3 by 2 pixels`, `a pdf of 120 bytes`."""
        size = dimensions(self.data)
        name = self.kind.rpartition("/")[2] or "unknown"
        return f"a {name} image of {size[0]} by {size[1]} pixels" if size else f"a {name} of {len(self.data)} bytes"


def sniff(data: bytes) -> str:
    """The media type by the first bytes; empty when it is none of those that providers take."""
    if data[:4] == b"RIFF":
        return {b"WEBP": "image/webp", b"WAVE": "audio/wav"}.get(data[8:12], "")
    starts = {
        b"\x89PNG\r\n\x1a\n": "image/png", b"\xff\xd8\xff": "image/jpeg", b"GIF87a": "image/gif", b"GIF89a": "image/gif",
        b"%PDF-": "application/pdf", b"ID3": "audio/mp3", b"\xff\xfb": "audio/mp3",
    }  # fmt: skip
    return next((kind for start, kind in starts.items() if data.startswith(start)), "")


def dimensions(data: bytes) -> tuple[int, int] | None:
    """Width and height in pixels of a png, gif, jpeg or (lossless) webp; None for anything else or damaged bytes."""
    try:
        match sniff(data):
            case "image/png":
                width, height = struct.unpack(">II", data[16:24])
            case "image/gif":
                width, height = struct.unpack("<HH", data[6:10])
            case "image/jpeg":
                return _jpeg(data)
            case "image/webp" if data[12:16] == b"VP8L":
                bits = int.from_bytes(data[21:25], "little")
                width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
            case _:
                return None
    except struct.error:
        return None
    return int(width), int(height)


def _jpeg(data: bytes) -> tuple[int, int] | None:
    at = 2
    while at + 9 <= len(data) and data[at] == 0xFF:
        marker, size = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack(">HH", data[at + 5 : at + 9])
            return int(width), int(height)
        at += 2 + size
    return None


def png(width: int, height: int) -> bytes:
    """A whole grey PNG of that size."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    rows = (b"\0" + b"\x80" * width) * height
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")


def gif(width: int, height: int) -> bytes:
    """A GIF of that size with one grey pixel drawn."""
    return b"GIF89a" + struct.pack("<HH", width, height) + b"\x80\0\0\x80\x80\x80\0\0\0,\0\0\0\0\1\0\1\0\0\2\2D\1\0;"


def wav(samples: int = 8) -> bytes:
    """Silence: 16-bit mono at 16 kHz."""
    body = b"\0\0" * samples
    form = struct.pack("<HHIIHH", 1, 1, 16000, 32000, 2, 16)
    chunks = b"WAVEfmt " + struct.pack("<I", 16) + form + b"data" + struct.pack("<I", len(body)) + body
    return b"RIFF" + struct.pack("<I", len(chunks)) + chunks
