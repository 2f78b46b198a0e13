"""Answers of every dialect are read alike; texts, tool calls and schemas are compared; all of it bounded."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.types import Fault
from gateway.experiments import valid
from gateway.experiments.beside import Own, beside
from gateway.experiments.compare import alike, same_tools
from gateway.experiments.heard import Answer, read
from gateway.experiments.mirror import Sent
from gateway.experiments.words import Pair

PARIS = "Paris is the capital of France. It lies on the river Seine and has about two million inhabitants."
LIKE = "The capital city of France is Paris, on the Seine; around two million people live there."
OTHER = "To reverse a linked list, keep three pointers and walk through the nodes, turning each arrow around."
REFUSAL = "I cannot help with that request, because it is against the rules of this service."


def test_similarity_orders_what_people_would() -> None:
    near, far, no = alike(PARIS, LIKE), alike(PARIS, OTHER), alike(PARIS, REFUSAL)
    assert near is not None and far is not None and no is not None
    assert 0.3 < near < 1.0 and far < 0.1 and no < 0.1
    small = alike(PARIS, PARIS.replace("two", "three"))
    moved = alike(PARIS, " ".join(reversed(PARIS.split())))
    assert small is not None and moved is not None and 0.85 < small < 1 and near < moved < small


@pytest.mark.parametrize(("one", "other", "value"), [
    ("", "", None), (" \n", "", None), ("Paris", "", 0.0), ("Paris", "  PARIS\n", 1.0), ("ﬁne", "fine", 1.0), ("42", "43", 0.0),
    ("a a a", "a a a", 1.0), ("{}", "{}", 1.0), ("巴黎", "东京", 0.0),
])  # fmt: skip
def test_similarity_at_its_ends(one: str, other: str, value: float | None) -> None:
    assert alike(one, other) == value and alike(other, one) == value


def test_scripts_without_spaces_are_compared_by_character() -> None:
    found = alike("是的，巴黎是法国的首都", "巴黎是法国首都。")
    assert found is not None and found > 0.5


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=300), st.text(max_size=300))
def test_similarity_is_a_share_and_equal_texts_are_alike(one: str, other: str) -> None:
    for a, b in ((one, other), (one, one)):
        found = alike(a, b)
        assert found is None or 0.0 <= found <= 1.0
    assert alike(one, one) in (None, 1.0)
    forth, back = alike(one, other), alike(other, one)
    assert forth == back or (forth is not None and back is not None and forth == pytest.approx(back))


def _longest(a: list[str], b: list[str]) -> int:
    row = [0] * (len(b) + 1)
    for x in a:
        new = [0]
        for j, y in enumerate(b):
            new.append(row[j] + 1 if x == y else max(row[j + 1], new[j]))
        row = new
    return row[-1]


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from("abcdef"), max_size=30), st.lists(st.sampled_from("abcdef"), max_size=30))
def test_the_bits_count_the_longest_common_subsequence(a: list[str], b: list[str]) -> None:
    from gateway.experiments.compare import _common

    assert _common(a, b) == _longest(a, b)


def test_long_texts_are_looked_at_in_part() -> None:
    long = "word " * 400_000
    assert alike(long, long + "end") is not None
    assert alike("x" * 5_000_000, "y" * 5_000_000) == 0.0


@pytest.mark.parametrize(("one", "other", "same"), [
    ([], [], None),
    ([("f", '{"a": 1.0, "b": [1, {"c": null}]}')], [("f", '{"b":[1,{"c":null}],"a":1}')], True),
    ([("f", "{}"), ("g", "{}")], [("g", "{}"), ("f", "")], True),
    ([("f", "{}")], [("g", "{}")], False),
    ([("f", '{"a":1}')], [("f", '{"a":"1"}')], False),
    ([("f", '{"a":true}')], [("f", '{"a":1}')], False),
    ([("f", "{}")], [("f", "{}"), ("f", "{}")], False),
    ([("f", "{broken")], [("f", "{broken")], True),
    ([("f", "{broken")], [("f", "{broken ")], False),
    ([("f", "{}")], [], False),
])  # fmt: skip
def test_tool_calls_are_equal_as_values(one: list[tuple[str, str]], other: list[tuple[str, str]], same: bool | None) -> None:
    assert same_tools(one, other) is same


# --- reading


def _sse(*events: Any) -> bytes:
    return b"".join(b"data: " + (e if isinstance(e, bytes) else json.dumps(e).encode()) + b"\n\n" for e in events)


def _chunk(**delta: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta}]}


CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}
CHAT = {"choices": [{"message": {"content": "hi there", "tool_calls": [CALL]}}], "usage": {"prompt_tokens": 1, "completion_tokens": 7}}
CHAT_STREAM = _sse(
    _chunk(role="assistant"), _chunk(content="hi "), b'{"choices":[{"index":1,"delta":{"content":"not this"}}]}', _chunk(content="there"),
    _chunk(tool_calls=[{"index": 0, "function": {"name": "f", "arguments": '{"a"'}}]),
    _chunk(tool_calls=[{"index": 0, "function": {"arguments": ":1}"}}]), {"choices": [], "usage": {"completion_tokens": 7}}, b"[DONE]",
)  # fmt: skip
MESSAGES = {
    "content": [
        {"type": "thinking", "thinking": "hm"},
        {"type": "text", "text": "hi there"},
        {"type": "tool_use", "name": "f", "input": {"a": 1}},
    ],
    "usage": {"output_tokens": 7},
}
MESSAGES_STREAM = _sse(
    {"type": "message_start", "message": {"usage": {"output_tokens": 1}}},
    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "hi there"}},
    {"type": "content_block_start", "index": 1, "content_block": {"type": "tool_use", "name": "f", "input": {}}},
    {"type": "content_block_delta", "index": 1, "delta": {"type": "input_json_delta", "partial_json": '{"a":1}'}},
    {"type": "message_delta", "delta": {}, "usage": {"output_tokens": 7}},
)
RESPONSE = {
    "output": [
        {"type": "reasoning"}, {"type": "message", "content": [{"type": "output_text", "text": "hi there"}]},
        {"type": "function_call", "name": "f", "arguments": '{"a":1}'},
    ],
    "usage": {"output_tokens": 7},
}  # fmt: skip
RESPONSES_STREAM = _sse({"type": "response.output_text.delta", "delta": "hi"}, {"type": "response.completed", "response": RESPONSE})


@pytest.mark.parametrize(("api", "stream", "body"), [
    ("chat", False, json.dumps(CHAT).encode()), ("chat", True, CHAT_STREAM), ("messages", False, json.dumps(MESSAGES).encode()),
    ("messages", True, MESSAGES_STREAM), ("responses", False, json.dumps(RESPONSE).encode()), ("responses", True, RESPONSES_STREAM),
])  # fmt: skip
def test_all_dialects_say_the_same(api: str, stream: bool, body: bytes) -> None:
    found = read(api, stream, body)
    assert (found.text, found.output, same_tools(found.tools, [("f", '{"a":1}')])) == ("hi there", 7, True)


ODD: list[Any] = [None, 1, "x", [], {}, [1], [{}], [None], {"index": []}, True]


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(["chat", "messages", "responses", "other"]), st.booleans(), st.data())
def test_nothing_that_is_sent_breaks_the_reading(api: str, stream: bool, data: st.DataObject) -> None:
    odd = st.sampled_from(ODD)
    keys = ("choices", "content", "output", "usage", "message", "delta", "tool_calls", "function", "index", "type", "text", "response",
            "content_block", "name", "arguments", "input")  # fmt: skip
    known = odd | st.sampled_from(
        ["text", "tool_use", "function_call", "message", "content_block_start", "response.completed", "text_delta"]
    )
    doc = st.recursive(
        known, lambda inner: st.dictionaries(st.sampled_from(keys), inner, max_size=5) | st.lists(inner, max_size=2), max_leaves=12
    )
    body = json.dumps(data.draw(doc)).encode()
    assert isinstance(read(api, stream, b"data: " + body + b"\n\n" if stream else body), Answer)
    assert isinstance(read(api, stream, body[: len(body) // 2]), Answer)


@pytest.mark.parametrize("body", [b"", b"\xff\xfe", b"{", b"[" * 100_000, b"data: {\n\n", b"null"])
@pytest.mark.parametrize("stream", [False, True])
def test_rubbish_is_an_empty_answer(body: bytes, stream: bool) -> None:
    found = read("chat", stream, body)
    assert not found.text and not found.tools and found.output is None


# --- schemas

SCHEMA = b'{"type":"object","properties":{"a":{"type":"integer"}},"required":["a"]}'


def test_an_answer_fits_its_schema_or_not() -> None:
    pytest.importorskip("jsonschema_rs", reason="what judges by schemas is not installed")
    assert valid.fits(SCHEMA, '{"a": 1}') is True
    assert valid.fits(SCHEMA, '{"a": "1"}') is False
    assert valid.fits(b'{"$ref": "http://127.0.0.1:9/x"}', "{}") is None  # nothing is fetched
    assert valid.fits(b'{"type": "nonsense"}', "{}") is None
    assert valid.fits(b"{" + b" " * valid.MAX_SCHEMA + b"}", "{}") is None


@pytest.mark.parametrize("text", ["", "no", "{", '{"a":1} and more', "\ud800"])
def test_what_is_no_json_fits_nothing(text: str) -> None:
    assert valid.fits(SCHEMA, text) is False


def test_without_the_package_only_json_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jsonschema_rs", None)
    for cache in (valid._package, valid._validator):
        cache.cache_clear()
    try:
        assert valid.fits(SCHEMA, '{"a": "1"}') is None and valid.fits(SCHEMA, "no") is False
    finally:
        for cache in (valid._package, valid._validator):
            cache.cache_clear()


@pytest.mark.parametrize(("format", "schema"), [
    ({"type": "json_schema", "json_schema": {"name": "s", "schema": {"type": "object"}}}, b'{"type": "object"}'),
    ({"type": "json_object"}, None), ({"type": "json_schema"}, None), (None, None), ("json", None), ({"type": 3, "json_schema": {}}, None),
])  # fmt: skip
def test_the_schema_of_a_request(format: Any, schema: bytes | None) -> None:
    assert valid.schema_of(json.dumps(format).encode()) == schema


# --- both together

ABOUT = Pair(1.0, "e", "cand", "r")


def test_a_pair_says_what_was_found() -> None:
    own = Own("messages", True, MESSAGES_STREAM, 2.0)
    sent = Sent(body=json.dumps(CHAT).encode(), seconds=1.0, status=200)
    pair = beside(ABOUT, own, sent, None, lambda usage: usage.output * 0.5).pair
    assert (pair.similarity, pair.same_tools, pair.output, pair.own_output, pair.cost) == (1.0, True, 7, 7, 3.5)
    assert (pair.latency, pair.own_latency, pair.failed, pair.valid) == (1.0, 2.0, False, None)


def test_a_shadow_that_failed_has_no_answer() -> None:
    sent = Sent(body=b"{}", seconds=1.0, status=500, fault=Fault("upstream", "lost"))
    pair = beside(ABOUT, Own("chat", True, CHAT_STREAM, 2.0, b'{"usage":{"completion_tokens":5}}'), sent, SCHEMA, None).pair
    assert pair.failed and pair.similarity is pair.same_tools is pair.valid is pair.output is None and pair.own_output == 5


def test_an_own_answer_that_cannot_be_read_is_not_compared() -> None:
    sent = Sent(body=json.dumps(CHAT).encode(), seconds=1.0, status=200)
    pair = beside(ABOUT, Own("chat", False, b"\xff", 2.0), sent, None, None).pair
    assert pair.similarity is pair.same_tools is None and not pair.failed and pair.output == 7
