"""Reasoning under the name that a route wants."""

from __future__ import annotations

import json
from typing import Any

import pytest

from backends.dialects.reasoning import events, renamed
from backends.types import Reasoning

Doc = dict[str, Any]
WANTED: dict[Reasoning, Doc] = {
    "reasoning_content": {"reasoning_content": "hm"}, "reasoning": {"reasoning": "hm"},
    "both": {"reasoning_content": "hm", "reasoning": "hm"}, "none": {},
}  # fmt: skip
BLOCKS = [{"type": "thinking", "thinking": "hm", "signature": "s"}]
styles = pytest.mark.parametrize("style", WANTED)


def chunk(delta: Doc | None, **more: Any) -> bytes:
    choice = {"index": 0, **({} if delta is None else {"delta": delta}), "finish_reason": None, **more.pop("choice", {})}
    return b"data: " + json.dumps({"id": "x", "choices": [choice], **more}).encode() + b"\n\n"


def deltas(data: bytes) -> list[Doc]:
    return [choice["delta"] for event in data.split(b"\n\n")[:-1] for choice in json.loads(event[6:])["choices"]]


@styles
@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
def test_whole_answers(style: Reasoning, name: str) -> None:
    message = {"role": "assistant", "content": "so", name: "hm", "thinking_blocks": BLOCKS}
    answer = {"id": "x", "choices": [{"index": 0, "message": message, "finish_reason": "stop"}], "usage": {"total_tokens": 1}}
    doc = json.loads(renamed(json.dumps(answer).encode(), "message", style))
    kept = {} if style == "none" else {"thinking_blocks": BLOCKS}
    assert doc["choices"][0]["message"] == {"role": "assistant", "content": "so", **WANTED[style], **kept}
    assert doc["id"] == "x" and doc["usage"] == {"total_tokens": 1}


@styles
def test_streams(style: Reasoning) -> None:
    first, thought, text = chunk({"role": "assistant", "content": ""}), chunk({"reasoning_content": "hm"}), chunk({"content": "so"})
    out = events(first + thought + text + b"data: [DONE]\n\n", style)
    assert out.endswith(text + b"data: [DONE]\n\n")
    middle = [] if style == "none" else [WANTED[style]]
    assert deltas(out.removesuffix(b"data: [DONE]\n\n")) == [{"role": "assistant", "content": ""}, *middle, {"content": "so"}]


def test_what_has_something_else_to_say_stays() -> None:
    for more in ({"usage": {"total_tokens": 3}}, {"choice": {"finish_reason": "stop"}}):
        assert deltas(events(chunk({"reasoning_content": "hm"}, **more), "none")) == [{}]
    assert deltas(events(chunk({"reasoning_content": "hm", "role": "assistant"}), "none")) == [{"role": "assistant"}]
    assert events(chunk({"thinking_blocks": BLOCKS}), "none") == b""
    assert deltas(events(chunk({"thinking_blocks": BLOCKS}), "both")) == [{"thinking_blocks": BLOCKS}]


def test_without_reasoning_nothing_is_touched() -> None:
    for event in (
        chunk({"content": "hm"}), b": waiting\n\n", chunk({"content": 'He said "reasoning" twice'}),
        b'data: {"usage":{"completion_tokens_details":{"reasoning_tokens":1}},"choices":[]}\n\n',
    ):  # fmt: skip
        assert events(event, "both") == event
    for odd in (b'{"reasoning": ', b'{"reasoning":"x"}', b'{"choices":7,"reasoning":"x"}', b'{"reasoning":"x","choices":[{"delta":7}]}'):
        assert renamed(odd, "delta", "both") is odd
        assert events(b"data: " + odd + b"\n\n", "none") == b"data: " + odd + b"\n\n"
    other = b'{"reasoning":"x","choices":[{"text":"y"}]}'
    assert json.loads(renamed(other, "delta", "both")) == json.loads(other)
    assert renamed(b'{"choices":[]}', "message", "none") == b'{"choices":[]}'
