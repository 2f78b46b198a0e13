"""ConverseStream's frames as chat chunks: every event, every cut, every error; the chunks are read by the openai SDK's types."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from openai.types.chat import ChatCompletionChunk

from backends.dialects import bedrock_stream
from backends.dialects.bedrock_answer import Memo
from backends.dialects.bedrock_stream import BedrockStream
from backends.dialects.eventstream import encode
from backends.dialects.types import Context

CONTEXT = Context("r-1", 1_700_000_000, "m", True)
COUNTS = {"inputTokens": 3, "outputTokens": 4, "totalTokens": 12, "cacheReadInputTokens": 5}
USAGE = ("metadata", {"usage": COUNTS, "metrics": {"latencyMs": 1}})
CACHED = {"cached_tokens": 5, "cache_write_tokens": 0}
PROMPT = {"prompt_tokens": 8, "completion_tokens": 4, "total_tokens": 12, "prompt_tokens_details": CACHED}
Event = tuple[str, dict[str, Any]]


def frame(kind: str, payload: dict[str, Any], pad: str = "abcdef") -> bytes:
    """An event as Bedrock sends it, padding member and all."""
    headers = {":event-type": kind, ":content-type": "application/json", ":message-type": "event"}
    return encode(headers, json.dumps({**payload, "p": pad}, ensure_ascii=False).encode())


def frames(*events: Event) -> bytes:
    return b"".join(frame(*event) for event in events)


def text(said: str, index: int = 0) -> Event:
    return "contentBlockDelta", {"contentBlockIndex": index, "delta": {"text": said}}


def tool(index: int, id: str, name: str) -> Event:
    return "contentBlockStart", {"contentBlockIndex": index, "start": {"toolUse": {"toolUseId": id, "name": name}}}


def arguments(index: int, part: str) -> Event:
    return "contentBlockDelta", {"contentBlockIndex": index, "delta": {"toolUse": {"input": part}}}


def thought(index: int, **delta: str) -> Event:
    return "contentBlockDelta", {"contentBlockIndex": index, "delta": {"reasoningContent": delta}}


def stop(index: int) -> Event:
    return "contentBlockStop", {"contentBlockIndex": index}


def end(reason: str) -> Event:
    return "messageStop", {"stopReason": reason}


START: Event = ("messageStart", {"role": "assistant"})
HELLO = (START, text("Hel"), text("lo ✓"), stop(0), end("end_turn"), USAGE)
CALLS = (
    START, thought(0, text="Hm"), thought(0, text="m."), thought(0, signature="sig"), stop(0), thought(1, redactedContent="cmVk"), stop(1),
    text("See.", 2), stop(2), tool(3, "a", "f"), arguments(3, ""), arguments(3, '{"x":'), arguments(3, "1}"), stop(3),
    tool(4, "b", "g"), stop(4), end("tool_use"), USAGE,
)  # fmt: skip


def played(data: bytes, memo: Memo | None = None, cuts: tuple[int, ...] = ()) -> tuple[list[Any], bool]:
    """The chunks but for `[DONE]`, and whether that came. What `feed` gives is whole events."""
    stream = BedrockStream(memo or Memo(), CONTEXT)
    edges = (0, *cuts, len(data))
    out = b""
    for a, b in pairwise(edges):
        piece = stream.feed(data[a:b])
        assert not piece or piece.endswith(b"\n\n")
        out += piece
    out += stream.close()
    events = [event.removeprefix("data: ") for event in out.decode().split("\n\n")[:-1]]
    done = events[-1:] == ["[DONE]"]
    chunks = [json.loads(event) for event in (events[:-1] if done else events)]
    for chunk in chunks:
        if "error" not in chunk:
            ChatCompletionChunk.model_validate(chunk, strict=True)
            assert (chunk["id"], chunk["model"], chunk["created"]) == ("chatcmpl-r-1", "m", 1_700_000_000)
    return chunks, done


def told(chunks: list[Any]) -> list[Any]:
    """The deltas, then the finish, then the usage."""
    out: list[Any] = []
    for chunk in chunks:
        for choice in chunk.get("choices", []):
            finish = {key: value for key, value in choice.items() if key.endswith("finish_reason") and value}
            out.append(finish or choice["delta"])
        if "usage" in chunk:
            out.append(chunk["usage"])
        if "error" in chunk:
            out.append(chunk["error"])
    return out


def call(index: int, part: str, **first: str) -> dict[str, Any]:
    head = {"index": index, "id": first["id"], "type": "function"} if first else {"index": index}
    name = {"name": first["name"]} if first else {}
    return {"tool_calls": [{**head, "function": {**name, "arguments": part}}]}


ROLE = {"role": "assistant", "content": ""}
WHOLE = [
    ROLE, {"reasoning_content": "Hm"}, {"reasoning_content": "m."},
    {"thinking_blocks": [{"type": "thinking", "thinking": "Hmm.", "signature": "sig"}]},
    {"thinking_blocks": [{"type": "redacted_thinking", "data": "cmVk"}]}, {"content": "See."},
    call(0, "", id="a", name="f"), call(0, '{"x":'), call(0, "1}"), call(1, "", id="b", name="g"), call(1, "{}"),
    {"finish_reason": "tool_calls"}, PROMPT,
]  # fmt: skip


def test_text() -> None:
    chunks, done = played(frames(*HELLO))
    assert told(chunks) == [ROLE, {"content": "Hel"}, {"content": "lo ✓"}, {"finish_reason": "stop"}, PROMPT]
    assert done and chunks[-1]["choices"] == []


def test_thinking_and_calls() -> None:
    """The calls are numbered by themselves, not by the blocks; a call without arguments gets {} (trap 20); state comes whole (trap 40)."""
    chunks, done = played(frames(*CALLS))
    assert (told(chunks), done) == (WHOLE, True)


@pytest.mark.parametrize("events", [HELLO, CALLS], ids=["text", "calls"])
def test_cut_in_two_everywhere_and_byte_by_byte(events: tuple[Event, ...]) -> None:
    data = frames(*events)
    whole = played(data)
    for at in range(len(data) + 1):
        assert played(data, cuts=(at,)) == whole
    assert played(data, cuts=tuple(range(len(data)))) == whole


def test_an_answer_that_was_cut_has_no_end() -> None:
    """Wherever the connection ends before messageStop is whole, there is no finish, no usage and no [DONE]."""
    data, last = frames(*HELLO), len(frames(*HELLO[:5]))
    for at in range(len(data)):
        chunks, done = played(data[:at])
        finished = any("finish_reason" in one for one in told(chunks))
        assert done == finished == (at == last)  # exactly then it is whole but for the counts


def test_one_call_only() -> None:
    chunks, _ = played(frames(*CALLS), Memo(single=True))
    assert [one for one in told(chunks) if "tool_calls" in one] == WHOLE[6:9]


def test_the_answer_by_a_schemas_tool() -> None:
    said = (arguments(1, '{"x"'), arguments(1, ":1}"))
    events = (START, text("Here: "), tool(1, "a", "out"), *said, stop(1), text("Done.", 2), end("tool_use"), USAGE)
    chunks, done = played(frames(*events), Memo("out"))
    assert told(chunks) == [ROLE, {"content": '{"x"'}, {"content": ":1}"}, {"finish_reason": "stop"}, PROMPT]
    assert done
    chunks, _ = played(frames(START, tool(0, "a", "out"), stop(0), end("tool_use")), Memo("out"))
    assert told(chunks) == [ROLE, {"content": "{}"}, {"finish_reason": "stop"}]


def test_text_instead_of_the_schemas_tool_is_not_lost() -> None:
    chunks, done = played(frames(START, text("I "), text("won't."), stop(0), end("end_turn"), USAGE), Memo("out"))
    assert told(chunks) == [ROLE, {"content": "I won't."}, {"finish_reason": "stop"}, PROMPT]
    assert done


def test_text_held_back_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bedrock_stream, "MAX_BLOCK", 10)
    chunks, done = played(frames(START, text("123456"), text("123456"), text("more"), end("end_turn")), Memo("out"))
    assert [one.get("code") for one in told(chunks)] == [None, 502]
    assert not done


def test_thinking_beyond_the_bound_is_told_and_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bedrock_stream, "MAX_BLOCK", 10)
    events = (START, thought(0, text="123456"), thought(0, text="123456"), thought(0, text="7"), thought(0, signature="s"), stop(0))
    chunks, _ = played(frames(*events, end("end_turn")))
    assert told(chunks)[1:4] == [{"reasoning_content": "123456"}, {"reasoning_content": "123456"}, {"reasoning_content": "7"}]
    assert not any("thinking_blocks" in one for one in told(chunks))


def test_thinking_without_a_signature_leaves_no_state() -> None:
    chunks, _ = played(frames(START, thought(0, text="Hm."), stop(0), text("x", 1), end("end_turn")))
    assert told(chunks)[1:3] == [{"reasoning_content": "Hm."}, {"content": "x"}]


def test_a_signature_without_text() -> None:
    chunks, _ = played(frames(START, thought(0, signature="s"), stop(0), end("end_turn")))
    assert told(chunks)[1] == {"thinking_blocks": [{"type": "thinking", "thinking": "", "signature": "s"}]}


def test_redacted_thinking_in_parts_is_put_together() -> None:
    chunks, _ = played(frames(START, thought(0, redactedContent="cg=="), thought(0, redactedContent="ZWQ="), stop(0), end("end_turn")))
    assert told(chunks)[1] == {"thinking_blocks": [{"type": "redacted_thinking", "data": "cmVk"}]}
    chunks, _ = played(frames(START, thought(0, redactedContent="cg=="), thought(0, redactedContent="*"), stop(0), end("end_turn")))
    assert told(chunks)[1] == {"finish_reason": "stop"}


def test_citations_of_the_web() -> None:
    cited = {"citation": {"title": "T", "location": {"web": {"url": "https://e.example"}}}}
    page = {"citation": {"title": "T", "location": {"documentPage": {"documentIndex": 0}}}}
    events = [("contentBlockDelta", {"contentBlockIndex": 0, "delta": delta}) for delta in (cited, page, {"image": {}})]
    chunks, _ = played(frames(START, *events, end("end_turn")))
    link = {"url": "https://e.example", "title": "T", "start_index": 0, "end_index": 0}
    assert told(chunks)[1:-1] == [{"annotations": [{"type": "url_citation", "url_citation": link}]}]


def test_blocks_that_are_unknown_or_never_began() -> None:
    image = ("contentBlockStart", {"contentBlockIndex": 0, "start": {"image": {"format": "png"}}})
    chunks, done = played(frames(START, image, stop(0), arguments(9, "{}"), ("newEvent", {}), text("x", 1), end("end_turn")))
    assert (told(chunks), done) == ([ROLE, {"content": "x"}, {"finish_reason": "stop"}], True)


@pytest.mark.parametrize(
    ("reason", "finish"),
    [
        ("max_tokens", {"finish_reason": "length"}),
        ("guardrail_intervened", {"finish_reason": "content_filter", "native_finish_reason": "guardrail_intervened"}),
        ("tool_use", {"finish_reason": "stop", "native_finish_reason": "tool_use"}),
        ("brand_new", {"finish_reason": "stop", "native_finish_reason": "brand_new"}),
    ],
)
def test_reasons(reason: str, finish: dict[str, str]) -> None:
    chunks, _ = played(frames(START, text("x"), end(reason)))
    assert told(chunks)[-1] == finish


def exception(name: str, payload: bytes) -> bytes:
    return encode({":exception-type": name, ":content-type": "application/json", ":message-type": "exception"}, payload)


@pytest.mark.parametrize(
    ("name", "code", "kind"),
    [
        ("throttlingException", 429, "rate_limit_error"), ("serviceUnavailableException", 503, "overloaded_error"),
        ("internalServerException", 500, "server_error"), ("modelStreamErrorException", 502, "server_error"),
        ("modelTimeoutException", 504, "server_error"), ("validationException", 400, "invalid_request_error"),
        ("newException", 502, "server_error"),
    ],
)  # fmt: skip
def test_exceptions_end_the_stream(name: str, code: int, kind: str) -> None:
    data = frames(START, text("x")) + exception(name, b'{"message":"Too many."}') + frames(text("y"), end("end_turn"), USAGE)
    chunks, done = played(data)
    assert told(chunks) == [ROLE, {"content": "x"}, {"message": "Too many.", "type": kind, "code": code}]
    assert not done
    assert played(data, cuts=(len(data) - 30,)) == (chunks, done)


def test_exceptions_that_say_little() -> None:
    assert told(played(exception("throttlingException", b""))[0])[0]["message"] == "Bedrock ended the stream with throttlingException."
    assert told(played(exception("modelStreamErrorException", b'{"originalMessage":"GPU"}'))[0])[0]["message"] == "GPU"
    error = encode({":message-type": "error", ":error-code": "500", ":error-message": "Broken."}, b"")
    assert told(played(error)[0]) == [{"message": "Broken.", "type": "server_error", "code": 502}]
    bare = encode({":message-type": "error"}, b"")
    assert told(played(bare)[0])[0]["message"] == "Bedrock ended the stream with an error."


@pytest.mark.parametrize(
    "wrong",
    [
        b"HTTP/1.1 200 OK\r\n\r\n", encode({":event-type": "contentBlockDelta"}, b"{"), encode({":event-type": "messageStop"}, b"{}"),
        encode({":event-type": "contentBlockDelta"}, b'{"delta":{"text":"\xff"}}'), exception("throttlingException", b"["),
        encode({":event-type": "contentBlockDelta"}, b'{"delta":{"x":' + b"[" * 5000 + b"]" * 5000 + b"}}"),
    ],
    ids=["text", "no-json", "no-reason", "utf-8", "exception", "deep"],
)  # fmt: skip
def test_what_cannot_be_read_is_an_error_event(wrong: bytes) -> None:
    data = frames(START) + wrong + frames(end("end_turn"))
    chunks, done = played(data)
    assert told(chunks)[0] == ROLE
    assert told(chunks)[-1]["code"] == 502
    assert len(chunks) == 2 and not done
