"""Anthropic's streams as chat: what the golden cases leave, bounds, and any bytes cut anywhere."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.dialects import anthropic_stream
from backends.dialects.anthropic import Anthropic
from backends.dialects.anthropic_stream import AnthropicStream
from tests.backends.dialects.test_anthropic import context, request


def new() -> AnthropicStream:
    _, made = request({})
    stream = Anthropic().stream(made, context(stream=True))
    assert isinstance(stream, AnthropicStream)
    return stream


def event(doc: Any) -> bytes:
    return b"event: x\ndata: " + (doc if isinstance(doc, bytes) else json.dumps(doc).encode()) + b"\n\n"


STOP = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 1}}


def test_the_last_event_without_its_empty_line() -> None:
    stream = new()
    assert stream.feed(event(STOP)) == b""
    assert stream.feed(event({"type": "message_stop"})[:-2]) == b""
    assert stream.close().endswith(b"data: [DONE]\n\n") and stream.close() == stream.feed(event(STOP)) == b""


def test_poor_events() -> None:
    stream = new()
    start = {"type": "content_block_start", "content_block": {"type": "thinking", "thinking": "a", "signature": "s"}}
    for doc in ({"type": "message_start"}, start, {"type": "content_block_delta"}, {"type": "message_delta"}):
        stream.feed(event(doc))
    for delta in ({"text": ""}, {"thinking": ""}, {"partial_json": ""}, {}):
        assert stream.feed(event({"type": "content_block_delta", "delta": delta})) == b""
    out = stream.feed(event({"type": "content_block_start", "content_block": {"type": "text"}}))
    assert b'"thinking":"a"' in out or b'"thinking":""' in out
    assert stream.feed(b'data: {\ndata: "type": "ping"}\n\n: data: none\n\n: x\ndata: {"type":"ping"}\n\ndata:\n\n') == b""
    assert not stream.over


def test_thinking_that_came_with_the_start() -> None:
    stream = new()
    start = {"type": "content_block_start", "content_block": {"type": "thinking", "thinking": "a", "signature": "s"}}
    assert b'"reasoning_content":"a"' in stream.feed(event(start))
    assert b'{"index":0,"type":"thinking","thinking":"a","signature":"s"}' in stream.feed(event({"type": "content_block_stop"}))


def test_input_of_an_own_tool_that_is_no_object() -> None:
    stream = new()
    stream.feed(event({"type": "content_block_start", "content_block": {"type": "server_tool_use", "name": "x", "input": {}}}))
    stream.feed(event({"type": "content_block_delta", "delta": {"partial_json": "[1"}}))
    assert b'"input":{"invalid_arguments":"[1"}' in stream.feed(event({"type": "content_block_stop"}))


def test_errors_without_an_object() -> None:
    assert new().feed(event({"type": "error"})) == b'data: {"error":{}}\n\n'
    assert new().feed(event(b'{"type":"error","error":{"message":"\xff"}}')).startswith(b'data: {"error":{"message":"The backend sent')


def test_a_citation_that_is_none() -> None:
    for last in ({"type": "content_block_stop"}, None):
        stream = new()
        stream.feed(event({"type": "content_block_start", "content_block": {"type": "text", "citations": [7]}}) + event(STOP))
        out = stream.close() if last is None else stream.feed(event(last))
        assert b"unreadable_answer" in out and stream.over


def test_nothing_grows_without_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(anthropic_stream, "MAX_EVENT", 100)
    assert b"unreadable_answer" in new().feed(b"data: " + b"x" * 100)
    for kind, delta in (
        ("thinking", {"thinking": "x" * 60}), ("thinking", {"signature": "x" * 60}), ("text", {"citation": {"x": "x" * 60}}),
        ("novel", {"partial_json": "x" * 60}),
    ):  # fmt: skip
        stream = new()
        out = stream.feed(event({"type": "content_block_start", "content_block": {"type": kind}}))
        for _ in range(2):
            out = stream.feed(event({"type": "content_block_delta", "delta": delta}))
        assert b"of more than 100 bytes" in out and stream.over and stream.close() == b""


def test_what_follows_in_the_same_bytes_as_an_error_is_nothing() -> None:
    out = new().feed(event(b"{") + event(STOP) + event({"type": "message_stop"}))
    assert out.count(b"data:") == 1


WORDS = st.sampled_from([
    b'{"type":"message_start","message":{"id":"m"}}', b'{"type":"content_block_start","content_block":{"type":"text","text":""}}',
    b'{"type":"content_block_delta","delta":{"text":"\xc3\xa4"}}', b'{"type":"content_block_stop"}', b'{"type":"message_stop"}',
    b'{"type":"message_delta","delta":{"stop_reason":"end_turn"}}', b'{"type":"ping"}', b"{", b"\xff", b'{"type":"content_block_start"}',
    b'{"type":"content_block_start","content_block":{"type":"tool_use","name":"x"}}',
    b'{"type":"content_block_delta","delta":{"partial_json":"1"}}',
])  # fmt: skip


@given(st.lists(WORDS.map(event) | st.binary(max_size=12), max_size=8).map(b"".join), st.lists(st.integers(0, 400), max_size=4))
def test_any_bytes_cut_anywhere_give_the_same(data: bytes, cuts: list[int]) -> None:
    whole = new()
    expected = whole.feed(data) + whole.close()
    parts, at = [], 0
    for cut in sorted(cuts):
        parts.append(data[at:cut])
        at = max(at, cut)
    stream = new()
    assert b"".join(map(stream.feed, [*parts, data[at:]])) + stream.close() == expected
    for found in expected.split(b"\n\n")[:-1]:
        assert found.startswith(b"data: ")
        assert found == b"data: [DONE]" or json.loads(found[6:])
