"""Requests of Responses beyond the golden cases: what is refused, and what a lenient route drops."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from backends import wire
from backends.dialects.responses import Responses
from backends.types import Fault

TOOL = {"type": "function", "name": "look", "parameters": {"type": "object"}}


def doc(**keys: Any) -> wire.Doc:
    return wire.parse(wire.encode({"model": "m", "input": "x"} | keys))


def asked(strict: bool = True, **keys: Any) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """The chat document, and (param, fate) of each note."""
    out, notes = Responses(strict).request(doc(**keys))
    assert all(note.why for note in notes)
    return json.loads(wire.encode(out)), [(note.param, note.fate) for note in notes]


def refused(strict: bool = True, **keys: Any) -> tuple[str | None, str]:
    with pytest.raises(Fault) as e:
        Responses(strict).request(doc(**keys))
    assert (e.value.kind, e.value.origin) == ("bad_request", "client")
    return e.value.param, e.value.message


def user(*parts: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": list(parts)}]


CALL = {"type": "function_call", "call_id": "c", "name": "look", "arguments": "{}"}


@pytest.mark.parametrize(
    ("keys", "param"),
    [
        ({"input": None}, "input"),
        ({"input": []}, "input"),
        ({"input": 3}, "input"),
        ({"input": [3]}, "input[0]"),
        ({"input": [{"type": "message", "role": "robot", "content": "x"}]}, "input[0].role"),
        ({"input": [{"role": "user"}]}, "input[0].content"),
        ({"input": user(3)}, "input[0].content[0]"),
        ({"input": user({"type": ["x"]})}, "input[0].content[0]"),
        ({"input": user({"type": "input_video"})}, "input[0].content[0]"),
        ({"input": user({"type": "input_text"})}, "input[0].content[0].text"),
        ({"input": user({"type": "input_text", "text": 3})}, "input[0].content[0].text"),
        ({"input": user({"type": "input_image"})}, "input[0].content[0].image_url"),
        ({"input": user({"type": "input_file", "file_data": ""})}, "input[0].content[0].file_data"),
        ({"input": user({"type": "input_audio"})}, "input[0].content[0].input_audio"),
        ({"input": user({"type": "input_audio", "input_audio": {"data": "x"}})}, "input[0].content[0].input_audio.format"),
        ({"input": [{**CALL, "call_id": ""}]}, "input[0].call_id"),
        ({"input": [{**CALL, "arguments": {}}]}, "input[0].arguments"),
        ({"input": [CALL, CALL]}, "input[1].call_id"),
        ({"input": [CALL, {"type": "function_call_output", "call_id": "c", "output": 3}]}, "input[1].output"),
        ({"input": [CALL, *[{"type": "function_call_output", "call_id": "c", "output": "A"}] * 2]}, "input[2].call_id"),
        ({"input": [{"type": "custom_tool_call", "call_id": "c", "name": "p"}]}, "input[0].input"),
        ({"input": [{"type": "web_search_call", "id": "ws_1"}]}, "input[0]"),
        ({"input": [{"content": "no type, no role"}]}, "input[0]"),
        ({"input": [{"type": 3}]}, "input[0]"),
        ({"instructions": 3}, "instructions"),
        ({"tools": 3}, "tools"),
        ({"tools": [{}]}, "tools[0].type"),
        ({"tools": [{"type": 3}]}, "tools[0].type"),
        ({"tools": [{"type": "function"}]}, "tools[0].name"),
        ({"tools": [TOOL, {"type": "custom", "name": "look"}]}, "tools[1].name"),
        ({"tools": [{"type": "custom", "name": "p", "description": 3}]}, "tools[0]"),
        ({"tools": [{"type": "custom", "name": "p", "format": "text"}]}, "tools[0].format"),
        ({"tools": [TOOL], "tool_choice": "maybe"}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": 3}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {"type": "file_search"}}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {"type": "allowed_tools", "mode": "none", "tools": []}}, "tool_choice.mode"),
        (
            {"tools": [TOOL], "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "mcp"}]}},
            "tool_choice.tools[0]",
        ),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"text": {"format": {"type": "xml"}}}, "text.format.type"),
        ({"text": {"format": 3}}, "text.format"),
        ({"text": {"format": {"type": "json_schema", "schema": {}}}}, "text.format.name"),
        ({"text": {"format": {"type": "json_schema", "name": "n"}}}, "text.format.schema"),
        ({"include": "everything"}, "include"),
        ({"reasoning": {"effort": 3}}, "reasoning.effort"),
        ({"prompt": {"id": "p"}}, "prompt"),
        ({"context_management": [{"type": "compaction"}]}, "context_management"),
        ({"stream": "yes"}, "stream"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_name(keys: dict[str, Any], param: str) -> None:
    named, message = refused(**keys)
    assert named == param and len(message) < 250


def test_input_that_cannot_be_read_is_refused() -> None:
    deep = msgspec.Raw(b"[" * 5000 + b"]" * 5000)
    for raw in (deep, msgspec.Raw(b'"\\ud800"')):
        with pytest.raises(Fault) as e:
            Responses().request({"model": wire.raw("m"), "input": raw})
        assert e.value.param == "input"


def test_a_lenient_route_drops_and_says_so() -> None:
    out, notes = asked(
        False,
        tools=[TOOL, {"type": "web_search"}, {"type": "mcp", "server_label": "x"}],
        tool_choice={"type": "web_search_preview"},
        truncation="auto",
        context_management=[{"type": "compaction"}],
        input=[{"type": "web_search_call", "id": "ws_1"}, {"role": "user", "content": "x"}],
    )
    assert out["messages"] == [{"role": "user", "content": "x"}]
    assert [tool["function"]["name"] for tool in out["tools"]] == ["look"] and "tool_choice" not in out
    dropped = ["context_management", "truncation", "input[0]", "tools[1]", "tools[2]", "tool_choice"]
    assert notes == [(param, "dropped") for param in dropped]


def test_a_lenient_route_with_no_tool_left_sends_no_settings_of_tools() -> None:
    out, _ = asked(False, tools=[{"type": "web_search"}], tool_choice="auto", parallel_tool_calls=True)
    assert out.keys() == {"model", "messages"}
    assert refused(False, tools=[{"type": "web_search"}], tool_choice="required")[0] == "tool_choice"


def test_what_stays_here_is_noted() -> None:
    out, notes = asked(
        tools=[{**TOOL, "defer_loading": True, "async": False}],
        text={"format": {"type": "text"}, "style": "x"},
        reasoning={"effort": "low", "mode": "pro", "summary": None},
        include=["web_search_call.results", "reasoning.encrypted_content"],
        stream=True,
        stream_options={"include_obfuscation": True},
        client_metadata={"a": "b"},
        temperature=None,
        tool_choice=None,
    )
    assert notes == [
        ("client_metadata", "dropped"), ("tools[0].defer_loading", "dropped"), ("text.style", "dropped"), ("reasoning.mode", "dropped"),
        ("include", "dropped"), ("stream_options.include_obfuscation", "dropped"),
    ]  # fmt: skip
    assert out["reasoning_effort"] == "low" and "temperature" not in out and "tool_choice" not in out


def test_null_means_absent() -> None:
    bare, _ = asked()
    keys = (
        "instructions", "tools", "tool_choice", "text", "reasoning", "include", "top_logprobs", "max_output_tokens", "stream", "metadata",
        "truncation", "background", "conversation", "prompt", "previous_response_id", "parallel_tool_calls", "store", "user",
    )  # fmt: skip
    assert asked(**dict.fromkeys(keys)) == (bare, [])


def test_reasoning_between_texts_begins_a_new_turn_and_between_calls_does_not() -> None:
    def thought(text: str) -> dict[str, Any]:
        return {"type": "reasoning", "id": "rs", "summary": [], "content": [{"type": "reasoning_text", "text": text}]}

    out, notes = asked(
        input=[
            thought("1"), {"role": "assistant", "content": "A"}, thought("2"), thought("3"), {**CALL, "call_id": "c1"}, thought("4"),
            {**CALL, "call_id": "c2"}, {"role": "assistant", "content": [{"type": "output_text", "text": "B"}]},
            {"role": "assistant", "content": "C"}, {"type": "function_call_output", "call_id": "c1", "output": []}, thought("5"),
        ]
    )  # fmt: skip
    first, second, result = out["messages"]
    assert (first["content"], first["reasoning_content"]) == ("A", "1")
    assert second["content"] == [{"type": "text", "text": "B"}, {"type": "text", "text": "C"}]
    assert second["reasoning_content"] == "2\n\n3\n\n4" and [call["id"] for call in second["tool_calls"]] == ["c1", "c2"]
    assert (result["tool_call_id"], result["content"]) == ("c1", "")
    assert notes == [("input", "dropped")]  # the last thought: nothing follows it


def test_images_and_files_without_names() -> None:
    out, _ = asked(input=user({"type": "input_image", "image_url": "data:,"}, {"type": "input_file", "file_data": "AA=="}))
    image, file = out["messages"][0]["content"]
    assert (image["image_url"], file["file"]) == ({"url": "data:,"}, {"file_data": "AA=="})
