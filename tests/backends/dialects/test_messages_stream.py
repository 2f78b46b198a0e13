"""Streams of the surface Anthropic Messages: whatever chat sends, the events are in order, and Anthropic's SDK puts them together."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from anthropic.lib.streaming._messages import accumulate_event
from anthropic.types import ParsedMessage, RawMessageStreamEvent
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from backends import wire
from backends.dialects import messages_blocks
from backends.dialects.messages import Messages
from backends.dialects.messages_same import Same
from backends.dialects.messages_stream import TRIES
from backends.dialects.types import Context
from backends.types import Fault
from tests.fakes.reader import events

Doc = dict[str, Any]
ASKED = wire.parse(b'{"model":"c","max_tokens":9,"messages":[],"stop_sequences":["END"]}')
CONTEXT = Context("req-1", 1_700_000_000, "m", True)
EVENT: TypeAdapter[Any] = TypeAdapter(RawMessageStreamEvent)
DONE = b"data: [DONE]\n\n"


def chunk(finish: Any = None, **delta: Any) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return f"data: {json.dumps({'model': 'served', 'choices': [choice]})}\n\n".encode()


def call(index: Any, arguments: Any = None, id: Any = None, name: Any = None) -> Doc:
    return {"index": index, "id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


def run(*parts: bytes) -> list[Doc]:
    """The data of all events that come of the parts and the close."""
    stream = Messages().stream(ASKED, CONTEXT)
    out = b"".join([stream.feed(part) for part in parts]) + stream.close()
    assert stream.feed(chunk(content="late")) == stream.close() == b""
    found = []
    for event in events(out):
        if not event.startswith(b":"):
            name, _, data = event.strip().partition(b"\n")
            found.append(json.loads(data.removeprefix(b"data: ")))
            assert name == b"event: " + found[-1]["type"].encode()
    return found


def together(found: list[Doc]) -> ParsedMessage[Any]:
    """The message that the SDK makes of events, each checked strictly by its types; and the order that they must have."""
    assert [found[0]["type"], found[-2]["type"], found[-1]["type"]] == ["message_start", "message_delta", "message_stop"]
    opened, blocks = None, 0
    for event in found[1:-2]:
        if event["type"] == "content_block_start":
            assert opened is None and event["index"] == blocks
            opened, blocks = blocks, blocks + 1
        else:
            assert event["index"] == opened
            opened = None if event["type"] == "content_block_stop" else opened
    assert opened is None
    message: Any = None
    buffers: dict[int, bytes] = {}
    for event in found:
        read = EVENT.validate_json(json.dumps(event), strict=True)
        message = accumulate_event(event=read, current_snapshot=message, json_bufs=buffers)
    return message  # type: ignore[no-any-return]


def blocks(message: ParsedMessage[Any]) -> list[Any]:
    seen: list[Any] = []
    for block in message.content:
        if block.type == "text":
            seen.append(block.text)
        elif block.type == "tool_use":
            seen.append((block.name, block.input))
        elif block.type == "thinking":
            seen.append([block.thinking, block.signature])
        else:
            seen.append(block.type)
    return seen


THOUGHT = {"type": "thinking", "thinking": "Hm.", "signature": "c2ln"}
WHOLE: list[tuple[str, list[bytes], list[Any], str]] = [
    ("nothing", [chunk("stop")], [], "end_turn"),
    ("only done", [DONE], [], "end_turn"),
    ("no last line", [chunk(content="a"), chunk("length").rstrip()], ["a"], "max_tokens"),
    ("data in two lines", [b'data: {"choices":\ndata: [{"delta":{"content":"a"}}]}\n\n', b"\n\n", DONE], ["a"], "end_turn"),
    ("names of events", [b"event: message\n" + chunk(content="a"), b"retry: 5\n\n", DONE], ["a"], "end_turn"),
    ("carriage returns", [chunk(content="a").replace(b"\n", b"\r\n"), DONE.replace(b"\n", b"\r\n")], ["a"], "end_turn"),
    ("a finish of every word", [chunk("", content="a"), chunk(content="b"), chunk("stop")], ["ab"], "end_turn"),
    ("other choices", [b'data: {"choices":[{"index":1,"delta":{"content":"x"}},{"index":0}]}\n\n', chunk("stop")], [], "end_turn"),
    ("parts", [chunk(content=[{"type": "thinking", "thinking": [{"text": "Hm."}]}, {"type": "text", "text": "a"}]), DONE],
     [["Hm.", ""], "a"], "end_turn"),
    ("empty parts", [chunk(content=[]), chunk(content={}), DONE], [], "end_turn"),
    ("thinking behind calls", [chunk(tool_calls=[call(0, "{}", "a", "f")]), chunk(thinking_blocks=[THOUGHT]), DONE],
     [("f", {}), ["Hm.", "c2ln"]], "tool_use"),
    ("unsigned block", [chunk(thinking_blocks=[{**THOUGHT, "signature": None}, {"type": "other"}, 5]), DONE], [["Hm.", ""]], "end_turn"),
    ("text between thoughts", [chunk(reasoning="a"), chunk(content="b"), chunk(reasoning="c"), DONE],
     [["a", ""], "b", ["c", ""]], "end_turn"),
    ("blank between thoughts", [chunk(content=" "), chunk(reasoning="c"), chunk(content="b"), DONE], [["c", ""], " b"], "end_turn"),
    ("blank before a call", [chunk(content="\n"), chunk(tool_calls=[call(0, "{}", "a", "f")]), DONE], [("f", {})], "tool_use"),
    ("an object as arguments", [chunk(tool_calls=[call(0, {"a": 1}, 7, "f")]), DONE], [("f", {"a": 1})], "tool_use"),
    ("no function", [chunk(tool_calls=[{"index": 0, "id": "a"}]), chunk(tool_calls=[call(0, "{}", name="f")]), DONE],
     [("f", {})], "tool_use"),
    ("the name at last", [*(chunk(tool_calls=[c]) for c in (call(0, '{"a":'), call(0, "1}"), call(0, None, None, "f"))), DONE],
     [("f", {"a": 1})], "tool_use"),
    ("no name at all", [chunk(tool_calls=[call(0, '{"a":1}', "a")]), DONE], [("", {"a": 1})], "tool_use"),
    ("no index, no id", [chunk(tool_calls=[call(None, '{"a":', None, "f")]), chunk(tool_calls=[call("x", "1}")]), DONE],
     [("f", {"a": 1})], "tool_use"),
    ("a name each time", [chunk(tool_calls=[call(0, '{"a":', None, "f")]), chunk(tool_calls=[call(0, "1}", None, "f")]), DONE],
     [("f", {"a": 1})], "tool_use"),
    ("no ids, one index", [chunk(tool_calls=[call(0, '{"a":1}', None, "f")]), chunk(tool_calls=[call(0, "{}", None, "g")]), DONE],
     [("f", {"a": 1}), ("g", {})], "tool_use"),
    ("white space after the end", [chunk(tool_calls=[call(0, "{}", "a", "f"), call(1, "{}", "b", "g"), call(0, " \n")]), DONE],
     [("f", {}), ("g", {})], "tool_use"),
    ("white space at the end", [chunk(tool_calls=[call(0, "{}", "a", "f"), call(0, "\n"), call(1, '{"a":{"b":"}"}}', "b", "g")]), DONE],
     [("f", {}), ("g", {"a": {"b": "}"}})], "tool_use"),
    ("a brace is not the end", [chunk(tool_calls=[call(0, '{"a":"}', "a", "f"), call(1, "{}", "b", "g"), call(0, '"}')]), DONE],
     [("f", {"a": "}"}), ("g", {})], "tool_use"),
]  # fmt: skip


@pytest.mark.parametrize(("parts", "content", "reason"), [pytest.param(p, c, r, id=name) for name, p, c, r in WHOLE])
def test_whole_streams(parts: list[bytes], content: list[Any], reason: str) -> None:
    found = run(*parts)
    message = together(found)
    assert blocks(message) == content and message.stop_reason == reason
    data = b"".join(parts)
    assert run(*(bytes([byte]) for byte in data)) == found


BROKEN = [
    (b"data: {bad\n\n", "no chat chunk", "api_error"),
    (b'data: {"choices":5}\n\n', "no chat chunk", "api_error"),
    (chunk(content="\ud83d"), "no chat chunk", "api_error"),
    (chunk(reasoning="x").replace(b'"x"', b'"\xff"') + chunk(content="x").replace(b'"x"', b'"\xff"'), "no chat chunk", "api_error"),
    (chunk(tool_calls=[call(0, "x", "a", "f")]).replace(b'"x"', b'"\xff"'), "no chat chunk", "api_error"),
    (b"data: hello\n\n", "no chat chunk", "api_error"),
    (b'data: {"error":{"message":"boom","code":429}}\n\n', "boom", "rate_limit_error"),
    (b'data: {"error":"boom"}\n\n', "boom", "api_error"),
    (b'data: {"object":"error","message":"boom","code":400}\n\n', "boom", "invalid_request_error"),
    (b'event: error\ndata: {"message":"boom","code":"x"}\n\n', "boom", "api_error"),
    (b"event: error\ndata: boom\n\n", "boom", "api_error"),
    (b"event: error\n\n", "The backend reported an error.", "api_error"),
    (b'data: {"error":[1]}\n\n', "The backend reported an error.", "api_error"),
    (b"", "before the answer was finished", "api_error"),
    (b'data: {"choices":[{"del', "no chat chunk", "api_error"),
    (
        chunk(tool_calls=[call(0, "{}", "a", "f"), call(1, "{}", "b", "g"), call(0, ",")]),
        "went on with call 0 after its arguments were a whole object", "api_error",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("data", "message", "kind"), BROKEN)
def test_what_is_broken_ends_with_an_error(data: bytes, message: str, kind: str) -> None:
    found = run(chunk(content="a"), data)
    assert found[-1]["type"] == "error" and message in found[-1]["error"]["message"]
    assert (found[-1]["error"]["type"], found[-1]["request_id"]) == (kind, "req-1")
    assert all(event["type"] != "message_stop" for event in found)
    if data:
        assert run(chunk(content="a"), data, DONE) == found


def test_what_is_held_back_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(messages_blocks, "HELD", 4000)
    two = chunk(tool_calls=[call(0, "{", "a", "f"), call(1, "{", "b", "g")])
    for more in (chunk(tool_calls=[call(1, '"x"')]), chunk(content="text"), chunk(thinking_blocks=[THOUGHT]), chunk(tool_calls=[call(1)])):
        found = run(two, *([more] * 50), *[chunk(tool_calls=[call(i, None, str(i), "h")]) for i in range(2, 50)])
        assert found[-1]["type"] == "error" and "held back" in found[-1]["error"]["message"]


def test_an_event_that_never_ends_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backends.dialects.messages_stream.HELD", 4000)
    found = run(b"data: " + b"x" * 5000)
    assert found[-1]["type"] == "error" and "held back" in found[-1]["error"]["message"]
    found = run(chunk("stop") + DONE + b"data: " + b"x" * 5000)
    assert found[-1]["type"] == "message_stop"


def test_blank_text_is_held_only_so_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(messages_blocks, "BLANK", 10)
    stream = Messages().stream(ASKED, CONTEXT)
    assert b"content_block" not in stream.feed(chunk(content=" " * 9))
    assert b'"text":"          "' in stream.feed(chunk(content=" "))


def test_a_failure_of_the_gateways_own() -> None:
    stream = Messages().stream(ASKED, CONTEXT)
    stream.feed(chunk(content="a"))
    out = stream.fail(Fault("timeout", "Too slow."))
    assert json.loads(out.partition(b"data: ")[2])["error"] == {"type": "timeout_error", "message": "Too slow."}


words = st.text(st.characters(codec="utf-8"), max_size=6)
pieces = st.sampled_from(["", '{"a":', "1}", "{}", " ", "x"])
steps = st.one_of(
    words.map(lambda text: {"content": text}),
    words.map(lambda text: {"reasoning_content": text}),
    st.tuples(st.integers(0, 2), pieces, st.sampled_from([None, "i", "j"]), st.sampled_from([None, "f"])).map(
        lambda c: {"tool_calls": [call(*c)]}
    ),
    st.just({"thinking_blocks": [THOUGHT]}),
)


@given(st.lists(steps, max_size=10), st.lists(st.integers(0, 5000), max_size=8))
def test_any_order_of_deltas_gives_whole_blocks_and_loses_no_text(deltas: list[Doc], cuts: list[int]) -> None:
    data = b"".join(chunk(**delta) for delta in deltas) + chunk("stop") + DONE
    places = sorted({0, len(data), *(cut % len(data) for cut in cuts)})
    found = run(*(data[a:b] for a, b in itertools.pairwise(places)))
    assert run(data) == found
    if found[-1]["type"] == "error":
        assert "went on with call" in found[-1]["error"]["message"]
        return
    starts = [e["content_block"] for e in found if e["type"] == "content_block_start"]
    said = "".join(e["delta"]["text"] for e in found if e.get("delta", {}).get("type") == "text_delta")
    given = "".join(delta.get("content", "") for delta in deltas)
    assert said == given or (given.startswith(said) and given[len(said) :].isspace() and starts)
    thought = "".join(e["delta"]["thinking"] for e in found if e.get("delta", {}).get("type") == "thinking_delta")
    assert all(word in thought for delta in deltas if (word := delta.get("reasoning_content")))
    if all("tool_calls" not in delta for delta in deltas):
        together(found)


# --- chunks like the one before
tricky = st.one_of(words, st.sampled_from(["a", " b", '"', "\\", "\n", "é", "日本", '"}}]}', "\x7f", "a\\", '{"content":"x"}', "\u00a0"]))
alike = st.tuples(st.sampled_from(["content", "content", "reasoning_content", "reasoning", "refusal"]), tricky)


@given(st.lists(alike, max_size=12), st.booleans(), st.booleans())
def test_a_chunk_like_the_one_before_gives_what_parsing_it_gives(deltas: list[tuple[str, str]], compact: bool, one_read: bool) -> None:
    parts = [chunk(**{key: text}) for key, text in deltas]
    if compact:
        parts = [part.replace(b": ", b":").replace(b":", b": ", 1).replace(b", ", b",") for part in parts]
    parts += [chunk("stop"), DONE]
    fast, slow = (Messages().stream(ASKED, CONTEXT) for _ in range(2))
    slow._learnt = TRIES  # type: ignore[attr-defined]
    if one_read:
        parts = [b"".join(parts)]
    assert b"".join(map(fast.feed, parts)) == b"".join(map(slow.feed, parts))


def test_a_server_that_pads_each_chunk_is_learned_from_a_few_times_only() -> None:
    def padded(i: int) -> bytes:
        return chunk(content="a").replace(b"}\n\n", b',"p":"%b"}\n\n' % (b"x" * (i % 7)))

    found = run(*(padded(i) for i in range(200)), *(chunk(content="b") for _ in range(3)), DONE)
    assert blocks(together(found)) == ["a" * 200 + "bbb"]


@pytest.mark.parametrize(
    "event",
    [b'data: {"x":1}', b'data: {"content":"a","content":"a"}', b'data: {"content":["a"]}', b'data: {"content":"b"}'],
)
def test_what_cannot_be_compared_is_not_learned(event: bytes) -> None:
    same = Same()
    same.learn(event, b'"content":', b'"a"', "text")
    assert same.kind == ""


def test_what_is_surely_alike() -> None:
    same = Same()
    same.learn(b'data: {"content" : "x", "content": "a", "n": 1}', b'"content":', b'"a"', "text")
    assert same.kind == "text"
    before, after = b'data: {"content" : "x", "content": "', b'", "n": 1}'
    for said in (b"b", b" b c", "é".encode(), "日本".encode()):
        assert same.text(before + said + after) == same.only(before + said + after + b"\n\n") == said
    for odd in (b"", b'b"', b"\\n", b"\n", b"\xff", b'", "content": "', b"a" + after + b"\n\n" + before + b"c"):
        assert same.text(before + odd + after) is None and same.only(before + odd + after + b"\n\n") is None
    assert same.text(b"data: [DONE]") is None and same.only(before + b"a" + after + b"\n") is None
