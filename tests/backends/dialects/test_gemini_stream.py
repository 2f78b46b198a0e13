"""Gemini's stream, beyond the golden cases: framing, bounds, cuts, and chunks that are odd."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends import sse
from backends.dialects import gemini_stream
from backends.dialects.gemini_stream import MAX_TURNS, GeminiStream
from backends.dialects.types import Context

CONTEXT = Context("r", 0, "m")


def event(doc: Any, end: str = "\r\n\r\n") -> bytes:
    return b"data: " + msgspec.json.encode(doc) + end.encode()


def chunk(*parts: Any, finish: str | None = None, **more: Any) -> dict[str, Any]:
    return {"candidates": [{"content": {"parts": list(parts)}, **({"finishReason": finish} if finish else {}), **more}]}


def events(data: bytes) -> list[Any]:
    return [text if (text := sse.payload(e)[1]) == b"[DONE]" else msgspec.json.decode(text) for e in sse.events(data)]


def play(*pieces: bytes) -> list[Any]:
    stream = GeminiStream(CONTEXT)
    return events(b"".join([stream.feed(piece) for piece in pieces]) + stream.close())


def text_of(found: list[Any]) -> str:
    return "".join(c["delta"].get("content", "") for e in found if isinstance(e, dict) for c in e.get("choices", ()))


HELLO = event(chunk({"text": "He"})) + b": ping\r\n\r\n" + event(chunk({"text": "llo \u20ac"}, finish="STOP"))


def test_any_cut_of_the_bytes_gives_the_same_events() -> None:
    whole = play(HELLO)
    assert text_of(whole) == "Hello €" and whole[-1] == b"[DONE]"
    dice = random.Random(7)
    for _ in range(200):
        cuts = sorted(dice.sample(range(1, len(HELLO)), 4))
        assert play(*(HELLO[a:b] for a, b in zip([0, *cuts], [*cuts, len(HELLO)], strict=True))) == whole


def test_every_truncation_is_told_from_an_end() -> None:
    for at in range(len(HELLO)):
        found = play(HELLO[:at])
        ended = b"[DONE]" in found
        assert ended == (at >= len(HELLO) - 4), at  # all but the line break of the last event is there
        assert ended or not any(isinstance(e, dict) and any(c["finish_reason"] for c in e.get("choices", ())) for e in found)


def test_a_last_event_without_its_end_counts() -> None:
    assert play(HELLO.rstrip())[-1] == b"[DONE]"
    assert play(event(chunk({"text": "a"})), b'{"error": {"message": "late", "code": 500}}')[-1]["error"]["message"] == "late"


def test_data_over_several_lines_and_bare_json() -> None:
    body = msgspec.json.format(msgspec.json.encode(chunk({"text": "a"}, finish="STOP")), indent=1)
    lines = b"".join(b"data: " + line + b"\n" for line in body.split(b"\n")) + b"\n"
    assert text_of(play(lines)) == "a"
    assert text_of(play(body + b"\n\n")) == text_of(play(b"[%b]\n\n" % body)) == "a"
    assert play(b"id: 5\n\n", b"retry: 1\nid: 2\n\n", b"\n\n") == []


def test_nothing_comes_after_an_error_or_the_end() -> None:
    stream = GeminiStream(CONTEXT)
    assert b'"error"' in stream.feed(event({"error": {"message": "no", "code": 500}}) + HELLO)
    assert stream.feed(HELLO) == stream.close() == b""
    stream = GeminiStream(CONTEXT)
    stream.feed(HELLO)
    assert stream.close().endswith(b"data: [DONE]\n\n") and stream.close() == b"" == stream.feed(HELLO)


def test_an_event_that_never_ends_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gemini_stream, "MAX_EVENT", 1000)
    stream = GeminiStream(CONTEXT)
    stream.feed(b"data: {")
    assert stream.feed(b"x" * 900) == b""
    assert b"too large" in stream.feed(b"x" * 200) and stream.feed(b"\n\n") == b"" == stream.close()


@pytest.mark.parametrize("bad", [b"data: {\n\n", b"data: 5\n\n", b"data: \xff\n\n", b"data: " + b"[" * 5000 + b"\n\n"])
def test_what_cannot_be_read_is_an_error_event(bad: bytes) -> None:
    found = play(event(chunk({"text": "a"})), bad, HELLO)
    assert found[-1]["error"]["code"] == 502 and len(found) == 2


def test_too_many_candidates() -> None:
    many = {"candidates": [{"index": i} for i in range(MAX_TURNS + 1)]}
    assert play(event(many))[-1]["error"]["type"] == "upstream_error"


def test_an_answer_of_several_is_whole_when_all_are() -> None:
    first = {"index": 0, "content": {"parts": [{"text": "a"}]}, "finishReason": "STOP"}
    both = {"candidates": [first, {"index": 1, "content": {"parts": []}}]}
    assert b"[DONE]" not in play(event(both))
    assert play(event(both), event({"candidates": [{"index": 1, "finishReason": "STOP"}]}))[-1] == b"[DONE]"


def test_a_call_that_comes_after_the_finish_still_counts() -> None:
    found = play(event(chunk({"text": "a"}, finish="STOP")), event(chunk({"functionCall": {"name": "f", "args": {"a": 1}}})))
    assert found[-2]["choices"][0]["finish_reason"] == "tool_calls"
    assert found[1]["choices"][0]["delta"]["tool_calls"][0]["function"] == {"name": "f", "arguments": '{"a":1}'}


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(HELLO) - 1), st.binary(max_size=6)), max_size=4), st.integers(1, 50))
def test_no_bytes_make_it_raise(changes: list[tuple[int, bytes]], size: int) -> None:
    data = HELLO
    for at, new in changes:
        data = data[:at] + new + data[at + 1 :]
    stream = GeminiStream(CONTEXT)
    out = b"".join([stream.feed(data[i : i + size]) for i in range(0, len(data), size)]) + stream.close()
    assert all(sse.look(e).what is not sse.What.OTHER or e == b"" or b'"delta"' in e for e in sse.events(out))


def test_deep_arguments_are_an_error_event() -> None:
    deep = b'{"candidates":[{"content":{"parts":[{"functionCall":{"name":"f","args":{"a":%b%b}}}]}}]}' % (b"[" * 9000, b"]" * 9000)
    assert play(b"data: " + deep + b"\n\n")[-1]["error"]["code"] == 502


def test_odd_chunks() -> None:
    sources = {"groundingMetadata": {"q": 1}}
    found = play(
        event({"usageMetadata": {"promptTokenCount": 3}, "promptFeedback": {}}),
        event({"candidates": [{"content": {}}]}),
        event(chunk(**sources)),
        event(chunk({"text": ""}, logprobsResult={"chosenCandidates": [{"token": "x"}]})),
        event(chunk({"text": "a"}, {"text": "b"}, logprobsResult={"chosenCandidates": [{"token": "y"}]})),
        event(chunk({"text": "c", "thought": True}), "\n\n"),
        event(chunk(finish="STOP", urlContextMetadata={"u": 1})),
    )
    assert text_of(found) == "ab"
    assert [e["choices"][0]["logprobs"]["content"][0]["token"] for e in found if isinstance(e, dict) and "logprobs" in str(e)] == ["x", "y"]
    assert found[-3]["choices"][0]["delta"]["extra_content"]["google"] == {"grounding_metadata": {"q": 1}, "url_context_metadata": {"u": 1}}
    assert found[-2]["usage"]["prompt_tokens"] == 3 and found[-1] == b"[DONE]"
    assert [e["choices"][0]["delta"].get("role") for e in found[:2]] == ["assistant", None]
    assert play(event(chunk({"text": "a"}, logprobsResult=5)))[-1]["error"]["code"] == 502
