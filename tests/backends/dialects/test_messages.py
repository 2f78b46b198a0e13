"""Requests and whole answers of the surface Anthropic Messages: what the golden cases do not show."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends import wire
from backends.dialects.messages import Messages
from backends.dialects.messages_read import MAX_NOTES
from backends.dialects.types import Context
from backends.types import Fault

Doc = dict[str, Any]
STRICT, LAX = Messages(), Messages(strict=False)
CONTEXT = Context("req/1", 1_700_000_000, "m")
TOOL = {"name": "f", "input_schema": {"type": "object"}}
HI = [{"role": "user", "content": "Hi"}]


def asking(**more: Any) -> Doc:
    return {"model": "c", "max_tokens": 9, "messages": HI, **more}


def user(*blocks: Any) -> Doc:
    return asking(messages=[{"role": "user", "content": list(blocks)}])


def assistant(*blocks: Any) -> Doc:
    return asking(messages=[*HI, {"role": "assistant", "content": list(blocks)}])


def read(doc: Doc, surface: Messages = STRICT) -> tuple[Doc, list[tuple[str, str]]]:
    """(chat document, notes)"""
    out, notes = surface.request(wire.parse(json.dumps(doc).encode()))
    return json.loads(wire.encode(out)), [(n.param, n.fate) for n in notes]


def result(**more: Any) -> Doc:
    return {"type": "tool_result", "tool_use_id": "t", **more}


IMAGE = {"type": "base64", "media_type": "image/png", "data": "aaaa"}
WRONG: list[tuple[Doc, str]] = [
    ({"max_tokens": 9, "messages": HI}, "model"), ({"model": "c", "max_tokens": 9}, "messages"), (asking(messages=5), "messages"),
    (asking(messages=[]), "messages"), (asking(messages=[5]), "messages[0]"), (asking(messages=[{"role": "user"}]), "messages[0].content"),
    (asking(messages=[{"role": "user", "content": 5}]), "messages[0].content"), (asking(messages=[{"content": "a"}]), "messages[0].role"),
    (asking(max_tokens="9"), "max_tokens"), (asking(max_tokens=True), "max_tokens"), (asking(max_tokens=-1), "max_tokens"),
    (asking(stream="yes"), "stream"), (asking(stop_sequences="END"), "stop_sequences"), (asking(stop_sequences=[1]), "stop_sequences"),
    (asking(stop_sequences=0), "stop_sequences"), (asking(metadata=5), "metadata"), (asking(metadata={"user_id": 5}), "metadata.user_id"),
    (asking(tools=5), "tools"), (asking(tools=[5]), "tools[0]"), (asking(tools=[{"name": "f"}]), "tools[0].input_schema"),
    (asking(tools=[{"name": 5}]), "tools[0].name"), (asking(tools=[{"input_schema": {}}]), "tools[0].name"),
    (asking(tools=[{**TOOL, "description": 5}]), "tools[0].description"),
    (asking(tools=[{**TOOL, "input_schema": 5}]), "tools[0].input_schema"),
    (asking(tools=[{"type": "bash_20250124", "name": "bash"}]), "tools[0]"), (asking(tools=[{"type": "mcp_toolset"}]), "tools[0]"),
    (asking(tool_choice={"type": "auto"}), "tool_choice"), (asking(tools=[TOOL], tool_choice="auto"), "tool_choice"),
    (asking(tools=[TOOL], tool_choice={"type": "some"}), "tool_choice.type"), (asking(tools=[TOOL], tool_choice={}), "tool_choice.type"),
    (asking(tools=[TOOL], tool_choice={"type": "tool"}), "tool_choice.name"), (asking(thinking="on"), "thinking"),
    (asking(thinking={}), "thinking.type"), (asking(thinking={"type": "maybe"}), "thinking.type"),
    (asking(thinking={"type": "enabled"}), "thinking.budget_tokens"),
    (asking(thinking={"type": "enabled", "budget_tokens": True}), "thinking.budget_tokens"),
    (asking(output_config=5), "output_config"), (asking(output_config={"effort": "huge"}), "output_config.effort"),
    (asking(output_config={"format": 5}), "output_config.format"),
    (asking(output_config={"format": {"type": "text"}}), "output_config.format.type"),
    (asking(output_config={"format": {"type": "json_schema"}}), "output_config.format.schema"),
    (asking(output_config={"format": {"type": "json_schema", "schema": 5}}), "output_config.format.schema"),
    (asking(output_format={}), "output_format.type"), (asking(service_tier="fast"), "service_tier"), (asking(container="c"), "container"),
    (asking(system=5), "system"), (asking(system=["a"]), "system[0]"), (asking(system=[{"type": "image"}]), "system[0].type"),
    (asking(system=[{"type": "text"}]), "system[0].text"), (user(5), "messages[0].content[0]"), (user({}), "messages[0].content[0].type"),
    (user({"type": 5}), "messages[0].content[0].type"), (user({"type": "text", "text": 5}), "messages[0].content[0].text"),
    (user({"type": "thinking", "thinking": "a"}), "messages[0].content[0].type"),
    (user({"type": "image"}), "messages[0].content[0].source"),
    (user({"type": "image", "source": {}}), "messages[0].content[0].source.type"),
    (user({"type": "image", "source": {**IMAGE, "data": None}}), "messages[0].content[0].source.data"),
    (user({"type": "image", "source": {"type": "url"}}), "messages[0].content[0].source.url"),
    (user({"type": "document", "source": {**IMAGE}}), "messages[0].content[0].source.media_type"),
    (user({"type": "document", "source": {"type": "file", "file_id": "f"}}), "messages[0].content[0].source.type"),
    (user({"type": "search_result", "content": 5}), "messages[0].content[0].content"),
    (user({"type": "search_result", "content": []}), "messages[0].content[0].title"),
    (user({"type": "tool_result"}), "messages[0].content[0].tool_use_id"), (user(result(content=[5])), "messages[0].content[0].content[0]"),
    (user(result(content=[{"type": "tool_result"}])), "messages[0].content[0].content[0].type"),
    (assistant(5), "messages[1].content[0]"), (assistant({"type": "image", "source": IMAGE}), "messages[1].content[0].type"),
    (assistant({"type": "thinking"}), "messages[1].content[0].thinking"),
    (assistant({"type": "redacted_thinking"}), "messages[1].content[0].data"),
    (assistant({"type": "tool_use"}), "messages[1].content[0].name"),
    (assistant({"type": "tool_use", "id": "a", "name": "f", "input": "x"}), "messages[1].content[0].input"),
]  # fmt: skip


@pytest.mark.parametrize(("doc", "param"), [pytest.param(d, p, id=f"{i}-{p}") for i, (d, p) in enumerate(WRONG)])
def test_what_is_wrong_is_named(doc: Doc, param: str) -> None:
    with pytest.raises(Fault) as refusal:
        read(doc)
    fault = refusal.value
    assert (fault.kind, fault.origin, fault.param) == ("bad_request", "client", param)
    assert fault.message.startswith((f"{param}: ", f"'{param}' "))


def test_nesting_beyond_reason_is_refused() -> None:
    for key in ("messages", "system", "tools", "container"):
        doc = wire.parse(json.dumps(asking()).encode()) | {key: wire.msgspec.Raw(b"[" * 5000 + b"]" * 5000)}
        with pytest.raises(Fault) as refusal:
            STRICT.request(doc)
        assert refusal.value.param == key


BLANK = {"role": "user", "content": ""}
LOST: list[tuple[Doc, Doc, list[str]]] = [
    (asking(max_tokens=0), {"max_completion_tokens": 1}, ["max_tokens"]),
    (asking(mcp_servers=[{}], container="c", new_field=1), {}, ["mcp_servers", "container", "new_field"]),
    (asking(tools=[{"type": "bash_20250124", "name": "bash"}], tool_choice={"type": "any"}), {}, ["tools[0]"]),
    (asking(tools=[TOOL, {"type": "memory_20250818"}], tool_choice={"type": "any"}), {"tool_choice": "required"}, ["tools[1]"]),
    (user({"type": "hologram"}), {"messages": [BLANK]}, ["messages[0].content[0].type"]),
    (user({"type": "image", "source": {"type": "file"}}), {"messages": [BLANK]}, ["messages[0].content[0].source.type"]),
    (user({"type": "document", "source": {"type": "file"}}), {}, ["messages[0].content[0].source.type"]),
    (
        assistant({"type": "server_tool_use", "id": "s"}, {"type": "text", "text": "a"}),
        {"messages": [*HI, {"role": "assistant", "content": "a"}]}, ["messages[1].content[0].type"],
    ),
    (asking(metadata={"user_id": None, "team": "x"}), {}, ["metadata.team"]),
    (asking(tools=[{**TOOL, "allowed_callers": ["direct"], "defer_loading": False}]), {}, []),
    (asking(tools=[{**TOOL, "allowed_callers": ["code_execution_20250825"]}]), {}, ["tools[0].allowed_callers"]),
    (asking(tools=[TOOL], tool_choice={"type": "auto", "new": 1}), {"tool_choice": "auto"}, ["tool_choice.new"]),
    (asking(thinking=None, service_tier=None, betas=[], stop_sequences=[], output_format=None, tools=None), {}, []),
]  # fmt: skip


@pytest.mark.parametrize(("doc", "has", "dropped"), LOST)
def test_what_may_be_dropped_is_dropped_and_said(doc: Doc, has: Doc, dropped: list[str]) -> None:
    out, notes = read(doc, LAX)
    assert {k: out[k] for k in has} == has
    assert sorted(notes) == sorted((param, "dropped") for param in dropped)


def test_more_ways_to_say_the_same() -> None:
    schema = {"type": "object"}
    out, _ = read(asking(output_format={"type": "json_schema", "schema": schema}, output_config={"effort": "max"}, service_tier="auto"))
    assert out["response_format"]["json_schema"] == {"name": "output", "strict": True, "schema": schema}
    assert (out["reasoning_effort"], out["service_tier"]) == ("max", "auto")
    out, notes = read(asking(thinking={"type": "enabled", "budget_tokens": 5000}, output_config={"effort": "low"}))
    assert out["reasoning_effort"] == "low" and notes == [("thinking.budget_tokens", "dropped")]
    out, notes = read(asking(thinking={"type": "enabled", "budget_tokens": 4096}))
    assert out["reasoning_effort"] == "medium"
    out, notes = read(asking(thinking={"type": "disabled"}))
    assert out["reasoning_effort"] == "none" and notes == []
    out, notes = read(asking(thinking={"type": "between_tools"}))
    assert out["reasoning_effort"] == "high" and notes == [("thinking.type", "emulated")]
    out, _ = read(asking(system="", messages=[*HI, {"role": "system", "content": []}]))
    assert out["messages"] == HI
    out, _ = read(asking(system=[{"type": "text", "text": ""}]))
    assert out["messages"] == HI


def test_less_common_blocks() -> None:
    reference = {"type": "tool_reference", "tool_name": "g"}
    out, notes = read(user(result(content=[reference]), result(content="")))
    assert out["messages"] == [
        {"role": "tool", "tool_call_id": "t", "content": "Tool available: g"}, {"role": "tool", "tool_call_id": "t", "content": ""},
    ]  # fmt: skip
    assert notes == [("messages[0].content[0].content[0].type", "emulated")]
    out, _ = read(user({"type": "document", "source": {"type": "content", "content": [{"type": "image", "source": IMAGE}]}, "title": "A"}))
    assert [part["type"] for part in out["messages"][0]["content"]] == ["text", "image_url"]
    out, _ = read(user({"type": "document", "source": {"type": "content", "content": ""}}))
    assert out["messages"] == [{"role": "user", "content": ""}]
    cited = {"type": "text", "text": "a", "citations": [{"type": "char_location"}]}
    out, notes = read(user(cited, {"type": "text", "text": "b", "citations": None}))
    assert notes == [("messages[0].content[0].citations", "dropped")]


def test_one_note_a_kind_and_never_too_many() -> None:
    turns = [{"role": "assistant", "content": [{"type": "text", "text": "a", "citations": [1]}]}] * 50
    _, notes = read(asking(messages=[*HI, *turns]))
    assert notes == [("messages[1].content[0].citations", "dropped")]
    _, notes = read(asking(**{f"field_{chr(97 + i // 26)}{chr(97 + i % 26)}": 1 for i in range(200)}))
    assert len(notes) == MAX_NOTES


def test_counting_needs_no_max_tokens() -> None:
    doc, _ = STRICT.counted(wire.parse(json.dumps({"model": "c", "messages": HI, "tools": [TOOL]}).encode()))
    assert sorted(doc) == ["messages", "model", "tools"]


# --- whole answers
def answer(message: Any, **choice: Any) -> Doc:
    body = {"model": "", "choices": [{"index": 0, "message": message, "finish_reason": "stop", **choice}]}
    out: Doc = json.loads(STRICT.reply(json.dumps(body).encode(), wire.parse(json.dumps(asking(stop_sequences=["END"])).encode()), CONTEXT))
    return out


@pytest.mark.parametrize("body", [b"", b"[]", b'{"choices":[]}', b'{"choices":5}', b"<html>", b'{"error":{}}', b'"\xff"', b"[" * 5000])
def test_what_is_no_answer_is_the_backends_fault(body: bytes) -> None:
    with pytest.raises(Fault) as fault:
        STRICT.reply(body, {}, CONTEXT)
    assert (fault.value.kind, fault.value.origin) == ("upstream", "backend")


def test_odd_answers() -> None:
    assert answer({})["content"] == []
    assert answer({})["model"] == "m" and answer({})["id"] == "msg_req_1"
    assert answer({"content": 5, "reasoning": "a"})["content"] == [{"type": "thinking", "thinking": "a", "signature": ""}]
    parts = [5, {"type": "thinking", "thinking": "Hm."}, {"type": "reference"}, {"type": "text", "text": "a"}]
    assert [block["type"] for block in answer({"content": parts})["content"]] == ["thinking", "text"]
    odd = [{"type": "thinking"}, {"type": "thinking", "thinking": "a", "signature": 5}, {"type": "redacted_thinking"}, {"type": "other"}]
    assert answer({"thinking_blocks": odd})["content"] == [{"type": "thinking", "thinking": "a", "signature": ""}]
    calls = [{"function": {"name": 5, "arguments": {"a": 1}}}, {"function": {"name": "f", "arguments": None}}, {"id": "x"}]
    given = answer({"tool_calls": calls})
    assert [(b["id"], b["name"], b["input"]) for b in given["content"]] == [
        ("toolu_req_1_0", "", {"a": 1}), ("toolu_req_1_1", "f", {}), ("x", "", {}),
    ]  # fmt: skip
    assert answer({"content": "\n", "tool_calls": calls})["content"] == given["content"]
    assert answer({"refusal": "No.", "tool_calls": calls})["stop_reason"] == "tool_use"


@pytest.mark.parametrize(
    ("choice", "calls", "reason", "sequence"),
    [
        ({"stop_reason": "END"}, False, "stop_sequence", "END"),
        ({"stop_reason": "OTHER", "matched_stop": "END"}, False, "stop_sequence", "END"),
        ({"stop_reason": "END"}, True, "tool_use", None), ({"stop_reason": "OTHER"}, False, "end_turn", None),
        ({"native_finish_reason": "stop_sequence"}, False, "stop_sequence", None),
        ({"native_finish_reason": "SAFETY"}, False, "end_turn", None),
        ({"finish_reason": "tool_calls"}, False, "end_turn", None), ({"finish_reason": "length"}, True, "max_tokens", None),
        ({"finish_reason": None}, False, "end_turn", None), ({"finish_reason": "content_filter"}, True, "refusal", None),
    ],
)  # fmt: skip
def test_why_it_stopped(choice: Doc, calls: bool, reason: str, sequence: str | None) -> None:
    message: Doc = {"content": "a", "tool_calls": [{"id": "a", "function": {"name": "f", "arguments": "{}"}}] if calls else None}
    given = answer(message, **choice)
    assert (given["stop_reason"], given["stop_sequence"]) == (reason, sequence)


texts = st.text(st.characters(codec="utf-8"), min_size=1).filter(lambda text: not text.isspace())


@given(texts, texts, st.dictionaries(texts, st.integers() | texts, max_size=3))
def test_text_thinking_and_arguments_survive_a_round_trip(thought: str, said: str, arguments: Doc) -> None:
    call = {"id": "a", "type": "function", "function": {"name": "f", "arguments": json.dumps(arguments, ensure_ascii=False)}}
    given = answer({"content": said, "reasoning_content": thought, "tool_calls": [call]})
    out, _ = read(asking(messages=[*HI, {"role": "assistant", "content": given["content"]}]))
    back = out["messages"][1]
    assert (back["content"], back["reasoning_content"]) == (said, thought) and "thinking_blocks" not in back
    assert json.loads(back["tool_calls"][0]["function"]["arguments"]) == arguments
