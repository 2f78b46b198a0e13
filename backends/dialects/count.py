"""How many tokens a chat document's prompt is, about: for `count_tokens` where the backend has no tokeniser to ask. Pure.

An estimate that would rather be high than low, since clients use it to stay below a context limit. Rules:

- Text, by the size of its characters in UTF-8: ASCII 3.6 a token in prose and 3.0 in JSON (schemas, arguments); two bytes (Latin with
  accents, Greek, Cyrillic, Arabic, Hebrew) 2 a token; three bytes (Chinese, Japanese, Korean, Indic) 1 a token; four bytes (emoji) 2
  tokens each. These are round figures of what byte-pair vocabularies of 100,000 to 200,000 entries do.
- An image: width x height / 750, after scaling its longer side to 1,568 pixels, as Anthropic documents it; 1,600 where the size
  is not in its first 64 KiB or the image is only named by a URL.
- A PDF: 2,250 a page (Anthropic documents 1,500 to 3,000), and a page for each 50,000 bytes; one page for a URL.
- Audio: 10 tokens a second (OpenAI's figure), and a second for each 16,000 bytes.
- 4 tokens a message, 8 a tool call, 12 a tool, 100 where there are tools, 3 for the beginning of the answer.
"""

from __future__ import annotations

import base64
import binascii
import struct
from collections.abc import Mapping
from typing import Any

import msgspec

from backends import wire
from backends.wire import Doc

IMAGE = 1600  # tokens of an image of unknown size, the most that Anthropic counts
LONGEST, PER_TOKEN = 1568, 750  # pixels: of the longer side, in a token
PAGE, PAGE_BYTES = 2250, 50_000
SECOND, SECOND_BYTES = 10, 16_000
HEAD = 1 << 16  # bytes of an image that are looked at
MESSAGE, CALL, TOOL, TOOLS, ANSWER = 4, 8, 12, 100, 3
_any = msgspec.json.Decoder()


def estimate(doc: Doc) -> int:
    """Tokens of the prompt of a chat document, at least 1. What cannot be read counts as the JSON that it is. Never raises."""
    total = ANSWER + sum(_message(m) for m in _list(doc, "messages"))
    tools = _list(doc, "tools")
    if tools:
        total += TOOLS + sum(TOOL + _json(t) for t in tools)
    if (form := doc.get("response_format")) is not None:
        total += ascii_tokens(len(bytes(form)), dense=True)
    return max(1, total)


def answer(tokens: int) -> bytes:
    """The body of an answer of `/v1/messages/count_tokens`."""
    return wire.encode({"input_tokens": tokens})


def _list(doc: Doc, key: str) -> list[Any]:
    raw = doc.get(key)
    if raw is None:
        return []
    try:
        value = _any.decode(raw)
    except (msgspec.MsgspecError, RecursionError):
        return [bytes(raw).decode("utf-8", "replace")]
    return value if isinstance(value, list) else []


def ascii_tokens(size: int, *, dense: bool) -> int:
    """Tokens of `size` ASCII characters, rounded up. `dense`: of JSON."""
    return -(-size * 10 // (30 if dense else 36))


def text_tokens(text: str, *, dense: bool = False) -> int:
    """Tokens of a text by the sizes of its characters. Three lengths tell how many there are of each size, without a loop in Python."""
    if text.isascii():
        return ascii_tokens(len(text), dense=dense)
    chars, ascii = len(text), len(text.encode("ascii", "ignore"))
    four = len(text.encode("utf-16-le", "surrogatepass")) // 2 - chars
    three = len(text.encode("utf-8", "surrogatepass")) - ascii - 2 * (chars - ascii - four) - 4 * four
    two = chars - ascii - three - four
    return ascii_tokens(ascii, dense=dense) + -(-two // 2) + three + 2 * four


def _json(value: object) -> int:
    return text_tokens(wire.encode(value).decode(), dense=True)


def _message(message: object) -> int:
    if not isinstance(message, dict):
        return MESSAGE + _json(message)
    total = MESSAGE + _content(message.get("content"))
    blocks = message.get("thinking_blocks")
    if isinstance(blocks, list) and blocks:  # they say what reasoning_content says, too
        total += sum(_thought(block) for block in blocks)
    else:
        total += _content(message.get("reasoning_content"))
    calls = message.get("tool_calls")
    for call in calls if isinstance(calls, list) else ():
        function = call.get("function") if isinstance(call, dict) else None
        total += CALL
        for value in function.values() if isinstance(function, dict) else ():
            total += text_tokens(value, dense=True) if isinstance(value, str) else _json(value)
    return total


def _thought(block: object) -> int:
    """A signature and redacted data are ciphers of text: about 4 characters of base64 are 3 bytes of it."""
    text = block.get("thinking") if isinstance(block, dict) else None
    if isinstance(text, str) and text:
        return text_tokens(text)
    return _json(block) * 3 // 4


def _content(content: object) -> int:
    if isinstance(content, str):
        return text_tokens(content)
    return sum(_part(part) for part in content) if isinstance(content, list) else 0


def _part(part: object) -> int:
    if not isinstance(part, dict):
        return _json(part)
    kind = part.get("type")
    inner = part.get(str(kind))
    fields: Mapping[str, Any] = inner if isinstance(inner, dict) else {}
    if kind == "text" or kind == "refusal":
        return text_tokens(inner) if isinstance(inner, str) else 0
    if kind == "image_url":
        return image_tokens(inner if isinstance(inner, str) else fields.get("url"))
    if kind == "file":
        return PAGE * (1 + _size(fields.get("file_data")) // PAGE_BYTES)
    if kind == "input_audio":
        return SECOND * (1 + _size(fields.get("data")) // SECOND_BYTES)
    return _json(part)


def _size(data: object) -> int:
    """Bytes of a base64 text or data URI; 0 for a URL or nothing."""
    if not isinstance(data, str) or data.startswith(("https:", "http:")):
        return 0
    return (len(data) - data.find(",") - 1) * 3 // 4


def image_tokens(url: object) -> int:
    """Tokens of an image given as a data URI; `IMAGE` for a URL, or where its size cannot be read."""
    if not isinstance(url, str) or not url.startswith("data:"):
        return IMAGE
    at = url.find(",") + 1
    text = url[at : at + HEAD // 3 * 4]
    try:
        size = dimensions(base64.b64decode(text[: len(text) // 4 * 4]))
    except (binascii.Error, ValueError):
        return IMAGE
    if size is None or 0 in size:
        return IMAGE
    width, height = size
    scale = min(1.0, LONGEST / max(size))
    return max(1, min(IMAGE, round(width * scale * height * scale / PER_TOKEN)))


def dimensions(head: bytes) -> tuple[int, int] | None:
    """(width, height) in pixels of a PNG, GIF, WebP or JPEG from its first bytes; None when they do not tell."""
    try:
        if head.startswith(b"\x89PNG\r\n\x1a\n"):
            return struct.unpack_from(">II", head, 16)
        if head.startswith((b"GIF87a", b"GIF89a")):
            return struct.unpack_from("<HH", head, 6)
        if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
            return _webp(head)
        return _jpeg(head) if head.startswith(b"\xff\xd8") else None
    except struct.error:
        return None


def _webp(head: bytes) -> tuple[int, int] | None:
    """The three forms of WebP (RFC 9649): lossy, lossless, extended."""
    kind = head[12:16]
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", head, 26)
        return width & 0x3FFF, height & 0x3FFF
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", head, 21)
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8X" and len(head) >= 30:
        return int.from_bytes(head[24:27], "little") + 1, int.from_bytes(head[27:30], "little") + 1
    return None


def _jpeg(head: bytes) -> tuple[int, int] | None:
    """Walks the segments to the frame header (ITU T.81, B.2): SOF0 to SOF15 but for DHT, JPG and DAC."""
    at = 2
    while at + 4 <= len(head) and head[at] == 0xFF:
        marker = head[at + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack_from(">HH", head, at + 5)
            return width, height
        at += 2 + max(2, int.from_bytes(head[at + 2 : at + 4], "big"))
    return None
