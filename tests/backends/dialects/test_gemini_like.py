"""Chunks that are like the one before are not parsed again: what comes out is what parsing gives, whatever the chunks are."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.dialects.gemini_stream import GeminiStream
from backends.dialects.types import Context


def chunk(text: str, count: int = 1, **more: Any) -> dict[str, Any]:
    candidate = {"content": {"parts": [{"text": text}], "role": "model"}, "index": 0, **more}
    counts = {"promptTokenCount": 3, "candidatesTokenCount": count}
    return {"candidates": [candidate], "usageMetadata": counts, "modelVersion": "g", "responseId": "r"}


def event(doc: Any) -> bytes:
    return b"data: " + json.dumps(doc, ensure_ascii=False).encode() + b"\r\n\r\n"


def out(events: list[bytes], *, one_by_one: bool = True) -> list[Any]:
    stream = GeminiStream(Context("req-1", 1, "m", True))
    data = b"".join([stream.feed(e) for e in events]) if one_by_one else stream.feed(b"".join(events))
    return [json.loads(e[6:]) for e in (data + stream.close()).split(b"\n\n") if e and e != b"data: [DONE]"]


def parsed(docs: list[Any]) -> list[Any]:
    """The same with each chunk spaced in its own way, so that none is like another."""
    return out(
        [b"data: " + json.dumps(d, ensure_ascii=False, separators=(",", ":" + " " * n)).encode() + b"\n\n" for n, d in enumerate(docs)]
    )


END = chunk("", 9, finishReason="STOP")


@given(st.lists(st.text(max_size=8), max_size=12), st.booleans())
def test_any_texts(texts: list[str], one_by_one: bool) -> None:
    docs = [*(chunk(text, n) for n, text in enumerate(texts)), END]
    assert out([event(d) for d in docs], one_by_one=one_by_one) == parsed(docs)


@pytest.mark.parametrize(
    "odd",
    [
        chunk('a "quoted" \\ text'), chunk("line\nbreak"), chunk("model"), chunk("über"), chunk("a\u2028b"), chunk(""),
        chunk("b", 1, avgLogprobs=1),
        chunk("x", 2, finishReason="STOP"), chunk("x", 2, index=1), {**chunk("x"), "usageMetadata": {}}, {"candidates": []},
        {**chunk("x"), "promptFeedback": {}}, {"usageMetadata": {"promptTokenCount": 5}}, {**chunk("x"), "modelVersion": "h"},
        chunk("x", groundingMetadata={"webSearchQueries": ["q"]}),
        {"usageMetadata": {"promptTokenCount": 1}, **chunk("the counts come first")},
        {"candidates": [{"content": {"parts": [{"text": "x", "thought": True}]}}]},
        {"candidates": [{"content": {"parts": [{"text": "x"}, {"text": "y"}]}}]},
    ],
)  # fmt: skip
def test_an_odd_one_among_them(odd: Any) -> None:
    docs = [chunk("one"), chunk("two", 2), chunk("three", 3), odd, odd, chunk("four", 4), chunk("five", 5), END]
    assert out([event(d) for d in docs]) == parsed(docs)


def test_what_only_looks_like_it() -> None:
    """The bytes around are the same, but what stands between them is no text and no counts."""
    good = [event(chunk("one")), event(chunk("two", 2)), event(chunk("three", 3))]
    broken = good[2].replace(b'"candidatesTokenCount": 3', b'"candidatesTokenCount": x')
    more = good[2].replace(b'}, "modelVersion"', b'}, "error": {"code": 503, "message": "Busy."}, "modelVersion"')
    for odd, code in ((broken, 502), (more, 503), (good[2].replace(b"three", b"th\xffee"), 502)):
        told = out([*good, odd, good[0]])
        assert len(told) == 4 and told[-1]["error"]["code"] == code
    assert out([*good, broken, *good], one_by_one=False) == out([*good, broken])
