"""The estimate of a prompt's tokens: rules as documented, and never far below what a tokeniser says."""

from __future__ import annotations

import base64
import struct
import zlib
from typing import Any

import pytest
from anthropic.types import MessageTokensCount
from hypothesis import given
from hypothesis import strategies as st

from backends import wire
from backends.dialects import count


def doc(*messages: Any, **more: Any) -> wire.Doc:
    return wire.parse(wire.encode({"messages": list(messages), **more}))


def user(content: Any, **more: Any) -> dict[str, Any]:
    return {"role": "user", "content": content, **more}


EMPTY = count.estimate(doc(user("")))
PNG = b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sII5B", 13, b"IHDR", 1092, 1092, 8, 2, 0, 0, 0) + zlib.compress(b"x")
GIF = b"GIF89a" + struct.pack("<HH", 300, 200) + b"\0" * 10
LOSSY = b"RIFF\0\0\0\0WEBPVP8 " + b"\0" * 10 + struct.pack("<HH", 640 | 0x4000, 480) + b"\0"
LOSSLESS = b"RIFF\0\0\0\0WEBPVP8L" + b"\0\0\0\0\x2f" + struct.pack("<I", 639 | 479 << 14)
EXTENDED = b"RIFF\0\0\0\0WEBPVP8X" + b"\0" * 8 + (639).to_bytes(3, "little") + (479).to_bytes(3, "little")
SOI, APP0 = b"\xff\xd8", b"\xff\xe0\0\x10" + b"J" * 14
JPEG = SOI + APP0 + b"\xff\xc4\0\x03x" + b"\xff\xc2\0\x11\x08" + struct.pack(">HH", 480, 640) + b"\x03" * 10


def uri(data: bytes, media: str = "image/png") -> str:
    return f"data:{media};base64,{base64.b64encode(data).decode()}"


def png(width: int, height: int) -> str:
    return uri(PNG[:16] + struct.pack(">II", width, height))


@pytest.mark.parametrize(
    ("text", "tokens"),
    [("", 0), ("a", 1), ("a" * 36, 10), ("ёж" * 4, 4), ("日本語", 3), ("\U0001f44b", 2), ("aé日\U0001f44b", 1 + 1 + 1 + 2), ("\ud800", 1)],
)
def test_text_is_counted_by_the_size_of_its_characters(text: str, tokens: int) -> None:
    assert count.text_tokens(text) == tokens


@given(st.text(st.characters(codec="utf-8")))
def test_sizes_of_characters_are_found_without_a_loop(text: str) -> None:
    sizes = [len(c.encode()) for c in text]
    two = (sizes.count(2) + 1) // 2
    assert count.text_tokens(text) == count.ascii_tokens(sizes.count(1), dense=False) + two + sizes.count(3) + 2 * sizes.count(4)


@pytest.mark.parametrize(
    ("head", "size"),
    [
        (PNG, (1092, 1092)), (GIF, (300, 200)), (LOSSY, (640, 480)), (LOSSLESS, (640, 480)), (EXTENDED, (640, 480)), (JPEG, (640, 480)),
        (PNG[:20], None), (EXTENDED[:28], None), (b"RIFF\0\0\0\0WEBPwhat", None), (SOI + APP0, None), (SOI + b"abcd", None), (b"BM", None),
        (SOI + b"\xff\xfe\0\0\xff\xfe\0\0", None),
    ],
)  # fmt: skip
def test_the_size_of_an_image_is_in_its_head(head: bytes, size: tuple[int, int] | None) -> None:
    assert count.dimensions(head) == size


@pytest.mark.parametrize(
    ("url", "tokens"),
    [
        (uri(PNG), 1590), (uri(GIF), 80), (png(3136, 1568), 1600), (png(1, 1), 1), (png(0, 1), 1600), (png(15680, 750), 157),
        (uri(b"BM"), 1600), ("data:image/png;base64,!", 1600), ("data:,\xff\xff\xff\xff", 1600), ("https://example.com/a.png", 1600),
        (None, 1600),
    ],
)  # fmt: skip
def test_an_image_is_counted_by_its_pixels(url: Any, tokens: int) -> None:
    assert count.image_tokens(url) == tokens
    assert count.estimate(doc(user([{"type": "image_url", "image_url": {"url": url}}]))) - EMPTY == tokens


@pytest.mark.parametrize(
    ("part", "tokens"),
    [
        ({"type": "text", "text": "a" * 36}, 10), ({"type": "refusal", "refusal": "a" * 36}, 10), ({"type": "text"}, 0),
        ({"type": "image_url", "image_url": uri(GIF)}, 80), ({"type": "image_url"}, 1600),
        ({"type": "file", "file": {"file_data": "https://example.com/a.pdf"}}, 2250), ({"type": "file"}, 2250),
        ({"type": "file", "file": {"file_data": uri(b"x" * 120_000, "application/pdf")}}, 3 * 2250),
        ({"type": "input_audio", "input_audio": {"data": base64.b64encode(b"x" * 32_000).decode(), "format": "wav"}}, 30),
        ({"type": "new"}, 5), ("text", 2),
    ],
)  # fmt: skip
def test_parts(part: Any, tokens: int) -> None:
    assert count.estimate(doc(user([part]))) - EMPTY == tokens


def test_what_a_message_holds_beside_its_content() -> None:
    said = {"role": "assistant", "content": None}
    assert count.estimate(doc(said)) == EMPTY == count.ANSWER + count.MESSAGE
    assert count.estimate(doc({**said, "reasoning_content": "a" * 36})) == EMPTY + 10
    blocks = [{"type": "thinking", "thinking": "a" * 36, "signature": "s" * 400}]
    assert count.estimate(doc({**said, "reasoning_content": "a" * 36, "thinking_blocks": blocks})) == EMPTY + 10
    assert count.estimate(doc({**said, "thinking_blocks": [{"data": "e" * 100}, 5]})) == EMPTY + (37 * 3 // 4) + 0
    calls = [{"id": "a", "function": {"name": "f" * 30, "arguments": "a" * 30}}, {"function": {"arguments": {"a": 1}}}, {}, 1]
    assert count.estimate(doc({**said, "tool_calls": calls})) == EMPTY + 4 * count.CALL + 10 + 10 + 3
    assert count.estimate(doc(5)) == EMPTY + 1


def test_tools_and_formats() -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    dense = count.text_tokens(wire.encode(tool).decode(), dense=True)
    assert count.estimate(doc(user(""), tools=[tool, tool])) == EMPTY + count.TOOLS + 2 * (count.TOOL + dense)
    assert count.estimate(doc(user(""), response_format={"type": "json_object"})) == EMPTY + 8


def test_a_document_that_cannot_be_read_is_counted_all_the_same() -> None:
    assert count.estimate({}) == count.ANSWER
    assert count.estimate(wire.parse(b'{"messages":5,"tools":null}')) == count.ANSWER
    deep = b"[" * 100_000 + b"]" * 100_000
    assert count.estimate({"messages": wire.msgspec.Raw(deep)}) > 50_000


def test_the_answer_is_what_the_sdk_reads() -> None:
    assert MessageTokensCount.model_validate_json(count.answer(7), strict=True).input_tokens == 7
