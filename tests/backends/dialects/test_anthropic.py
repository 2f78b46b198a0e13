"""chat → Anthropic: what the golden cases leave: refusals with their place, odd input, bounds, and any bytes cut anywhere."""

from __future__ import annotations

import base64
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends import wire
from backends.dialects.anthropic import Anthropic
from backends.dialects.anthropic_content import data_uri, sniff
from backends.dialects.anthropic_turns import plain_id, wire_id
from backends.dialects.types import Context, Facts, Request
from backends.types import Fault
from tests.fakes.providers.media import PDF, gif, png

Doc = dict[str, Any]
HI = {"role": "user", "content": "Hi"}
TOOL = {"type": "function", "function": {"name": "now"}}
CALL = {"id": "1", "function": {"name": "now"}}
IMAGE, FILE = "messages[0].content[0].image_url.url", "messages[0].content[0].file.file_data"


def context(facts: Facts | None = None, *, stream: bool = False, strict: bool = True) -> Context:
    return Context("req-1", 1_700_000_000, "claude-x", stream, facts or Facts(max_output=4096), strict)


def request(doc: Doc, facts: Facts | None = None, *, strict: bool = True, form: Any = "api") -> tuple[Doc, Request]:
    raw = wire.parse(json.dumps({"messages": [HI], **doc}, separators=(",", ":")).encode())
    made = Anthropic(form).request(raw, context(facts, strict=strict))
    return json.loads(made.body), made


def refused(doc: Doc, facts: Facts | None = None) -> Fault:
    with pytest.raises(Fault) as failure:
        request(doc, facts)
    assert (failure.value.kind, failure.value.origin) == ("bad_request", "client")
    return failure.value


def part(value: Doc) -> Doc:
    return {"messages": [{"role": "user", "content": [value]}]}


def of(message: Doc) -> Doc:
    return {"messages": [HI, message, HI]}


def test_vertex_has_the_model_in_the_path_and_the_version_in_the_body() -> None:
    body, made = request({}, form="vertex")
    assert made.path == "/publishers/anthropic/models/claude-x:rawPredict" and made.headers == ()
    assert body["anthropic_version"] == "vertex-2023-10-16" and "model" not in body and "stream" not in body
    streamed = Anthropic("vertex").request(wire.parse(json.dumps({"messages": [HI]}).encode()), context(stream=True))
    assert streamed.path == "/publishers/anthropic/models/claude-x:streamRawPredict" and b'"stream":true' in streamed.body


PLACES: list[tuple[str, Doc, str]] = [
    ("no messages", {"messages": []}, "messages"),
    ("messages null", {"messages": None}, "messages"),
    ("not a list", {"messages": {"role": "user"}}, "messages"),
    ("content a number", {"messages": [{"role": "user", "content": 7}]}, "messages[0].content"),
    ("role", {"messages": [{"role": "critic", "content": "x"}]}, "messages[0].role"),
    ("all empty", {"messages": [{"role": "user", "content": ""}]}, "messages"),
    ("system image", {"messages": [{"role": "system", "content": [{"type": "search_result"}]}]}, "messages[0].content"),
    ("function_call", of({"role": "assistant", "function_call": {"name": "f", "arguments": ""}}), "messages[1].function_call"),
    ("call without a name", of({"role": "assistant", "tool_calls": [{"id": "1", "function": {}}]}), "messages[1].tool_calls[0].function"),
    ("part type", part({"type": "video"}), "messages[0].content[0].type"),
    ("text no string", part({"type": "text", "text": 7}), "messages[0].content[0].text"),
    ("image no object", part({"type": "image_url", "image_url": 7}), "messages[0].content[0].image_url"),
    ("image no url", part({"type": "image_url", "image_url": {}}), IMAGE),
    ("pdf as image", part({"type": "image_url", "image_url": {"url": "data:;base64," + base64.b64encode(PDF).decode()}}),
     IMAGE),
    ("unknown bytes", part({"type": "image_url", "image_url": {"url": "data:image/tiff;base64,AAAA"}}), IMAGE),
    ("nothing declared", part({"type": "file", "file": {"file_data": "AAAA"}}), FILE),
    ("text no utf-8", part({"type": "file", "file": {"file_data": "data:text/plain;base64,/////w=="}}), FILE),
    ("file no object", part({"type": "file", "file": "x"}), "messages[0].content[0].file"),
    ("file empty", part({"type": "file", "file": {}}), FILE),
    ("effort", {"reasoning_effort": "huge"}, "reasoning_effort"),
    ("stop", {"stop": 7}, "stop"),
    ("stop list", {"stop": ["a", 7]}, "stop[1]"),
    ("tier", {"service_tier": "flex"}, "service_tier"),
    ("tool type", {"tools": [{"type": "custom", "name": "x"}]}, "tools[0].type"),
    ("tool without function", {"tools": [{"type": "function"}]}, "tools[0].function"),
    ("choice", {"tools": [TOOL], "tool_choice": "always"}, "tool_choice"),
    ("choice without tools", {"tool_choice": "required"}, "tool_choice"),
    ("choice a number", {"tools": [TOOL], "tool_choice": 7}, "tool_choice"),
    ("choice odd", {"tools": [TOOL], "tool_choice": {"type": "function", "function": 7}}, "tool_choice"),
    ("allowed odd", {"tools": [TOOL], "tool_choice": {"type": "allowed_tools", "mode": ["x"]}}, "tool_choice"),
    ("format", {"response_format": {"type": "yaml"}}, "response_format"),
    ("format without schema", {"response_format": {"type": "json_schema", "json_schema": {}}}, "response_format"),
    ("temperature", {"temperature": "hot"}, "temperature"),
    ("n", {"n": 2}, "n"),
]  # fmt: skip


@pytest.mark.parametrize(("doc", "place"), [p[1:] for p in PLACES], ids=[p[0] for p in PLACES])
def test_refusals_name_the_place(doc: Doc, place: str) -> None:
    fault = refused(doc)
    assert fault.param == place and fault.message.endswith(".")


def test_a_schema_that_is_too_deep_is_refused() -> None:
    schema: Doc = {"type": "object"}
    for _ in range(70):
        schema = {"type": "object", "properties": {"a": schema}, "additionalProperties": False}
    doc = {"response_format": {"type": "json_schema", "json_schema": {"schema": schema}}}
    assert refused(doc).param == "response_format.json_schema.schema"
    with pytest.raises(Fault, match="'tools' is nested too deeply"):
        Anthropic().request({"messages": wire.raw([HI]), "tools": msgspec.Raw(b'[{"a":' + b"[" * 100_000)}, context())
    deep = b'{"messages":[{"role":"user","content":"x"}],"tools":[{"type":"function","function":{"name":"f","parameters":%b%b}}]}'
    with pytest.raises(Fault, match="nested too deeply"):
        Anthropic().request(wire.parse(deep % (b'{"a":' * 3000 + b"1", b"}" * 3000)), context())


def test_images_and_documents_that_a_model_does_not_take() -> None:
    image = {"type": "image_url", "image_url": {"url": "https://x/a.png"}}
    file = {"type": "file", "file": {"file_data": "data:application/pdf;base64,JVBERi0x"}}
    blind = Facts(max_output=10, images=False, documents=False)
    assert refused(part(image), blind).param == refused(part(file), blind).param == "messages[0].content[0]"
    body, made = request({"messages": [{"role": "user", "content": [image, file, {"type": "text", "text": "x"}]}]}, blind, strict=False)
    assert body["messages"][0]["content"] == [{"type": "text", "text": "x"}] and len(made.notes) == 2


def test_files_in_all_their_forms() -> None:
    url = {"type": "file", "file": {"file_data": "https://x/a.pdf", "filename": "a"}}
    picture = {"type": "file", "file": {"file_data": base64.b64encode(gif(1, 1)).decode(), "filename": "b"}}
    jpg = {"type": "image_url", "image_url": {"url": "data:image/jpg;base64,AAAA"}}
    own = {"type": "search_result", "source": "s", "title": "t", "content": [{"type": "text", "text": "x"}]}
    body, _ = request({"messages": [{"role": "user", "content": [url, picture, jpg, own]}]})
    assert body["messages"][0]["content"] == [
        {"type": "document", "source": {"type": "url", "url": "https://x/a.pdf"}, "title": "a"},
        {"type": "image", "source": {"type": "base64", "media_type": "image/gif", "data": picture["file"]["file_data"]}},
        {"type": "image", "source": {"type": "base64", "media_type": "image/jpeg", "data": "AAAA"}},
        own,
    ]


def test_sniffing() -> None:
    assert sniff(b"RIFF\0\0\0\0WEBPVP8 ") == "image/webp" and sniff(b"RIFF\0\0\0\0WAVE") is None
    assert (sniff(png(1, 1)), sniff(gif(1, 1)), sniff(PDF), sniff(b"\xff\xd8\xff\xe0")) == (
        "image/png", "image/gif", "application/pdf", "image/jpeg",
    )  # fmt: skip
    assert data_uri("data:image/PNG;charset=x;BASE64,AA") == ("image/png", "AA")
    assert data_uri("data:image/png,AA") is data_uri("data:") is data_uri("http://x") is None


@given(st.text(max_size=40))
def test_ids_are_plain_and_come_back(id: str) -> None:
    sent = wire_id(id)
    assert set(sent) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-") and sent
    assert plain_id(sent) == id


def test_ids_of_anthropic_stay() -> None:
    assert wire_id("toolu_01-x") == plain_id("toolu_01-x") == "toolu_01-x"
    assert plain_id("pmid_/") == "pmid_/" and plain_id("pmid__w") == "pmid__w"  # no id of ours
    assert plain_id(wire_id("pmid_abc")) == "pmid_abc"


def assistant(message: Doc) -> tuple[list[Doc], Request]:
    body, made = request({"messages": [HI, {"role": "assistant", **message}, HI], "tools": [TOOL]})
    found: list[Doc] = body["messages"][1]["content"]
    return found, made


def test_arguments_in_all_their_forms() -> None:
    calls = [{"id": str(i), "function": {"name": "now", "arguments": a}} for i, a in enumerate([None, {"a": 1}, "  ", '{"a": 2}'])]
    blocks, _ = assistant({"tool_calls": calls})
    assert [b["input"] for b in blocks] == [{}, {"a": 1}, {}, {"a": 2}]


def test_what_an_assistant_message_loses_is_noted() -> None:
    blocks, made = assistant({
        "content": "x", "audio": {"id": "a"}, "reasoning": "hm",
        "thinking_blocks": [{"type": "thinking", "thinking": "t"}, {"type": "x"}, {"type": "thinking", "thinking": "", "signature": ""}],
    })  # fmt: skip
    assert blocks == [{"type": "text", "text": "x"}]
    assert [n.param for n in made.notes] == [
        "messages[1].audio", "messages[1].thinking_blocks[0]", "messages[1].thinking_blocks[1]", "messages[1].thinking_blocks[2]",
        "messages[1].reasoning",
    ]  # fmt: skip


@pytest.mark.parametrize("extra", [{}, {"google": {}}, {"anthropic": 7}, {"anthropic": {"blocks": 7}}, {"anthropic": {"blocks": [7, {}]}}])
def test_extra_content_of_others_is_not_ours(extra: Doc) -> None:
    blocks, _ = assistant({"content": "x", "extra_content": extra})
    assert blocks == [{"type": "text", "text": "x"}]


def test_streamed_lists_are_taken_back_without_their_numbers() -> None:
    thought = {"type": "thinking", "thinking": "t", "signature": "s"}
    own = {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {}}
    extra = {"anthropic": {"blocks": [{"index": 0, **own}]}}
    blocks, _ = assistant({"content": "x", "thinking_blocks": [{"index": 0, **thought}], "extra_content": extra})
    assert blocks == [thought, own, {"type": "text", "text": "x"}]


def test_marks_of_messages_and_results() -> None:
    mark = {"type": "ephemeral"}
    thought = {"type": "redacted_thinking", "data": "x"}
    messages = [
        HI,
        {"role": "assistant", "thinking_blocks": [thought], "cache_control": mark, "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "1", "content": [{"type": "text", "text": "x", "cache_control": mark}], "is_error": True,
         "cache_control": mark},
        {"role": "assistant", "thinking_blocks": [thought], "cache_control": mark},
        HI,
    ]  # fmt: skip
    body, _ = request({"messages": messages, "tools": [TOOL]})
    _, call, result, lone, _ = body["messages"]
    assert "cache_control" not in call["content"][0] and call["content"][1]["cache_control"] == mark
    assert result["content"] == [{
        "type": "tool_result", "tool_use_id": "1", "content": [{"type": "text", "text": "x", "cache_control": mark}], "is_error": True,
        "cache_control": mark,
    }]  # fmt: skip
    assert lone["content"] == [thought]  # nothing there that may carry it


def test_prefill_that_ends_otherwise_than_in_text() -> None:
    body, made = request({"messages": [HI, {"role": "assistant", "content": "ab"}]})
    assert body["messages"][-1]["content"][0]["text"] == "ab" and not made.notes
    own = {"anthropic": {"blocks": [{"type": "container_upload", "file_id": "f"}]}}
    body, made = request({"messages": [HI, {"role": "assistant", "extra_content": own}]})
    assert body["messages"][-1]["content"] == own["anthropic"]["blocks"] and not made.notes


def test_a_name_of_a_format_that_no_tool_may_have() -> None:
    facts = Facts(max_output=10, json_schema="tool")
    schema = {"schema": {"type": "object"}, "description": "d"}
    for name in (None, "", "a b", "now"):
        doc = {"tools": [TOOL], "response_format": {"type": "json_schema", "json_schema": {"name": name, **schema}}}
        body, made = request(doc, facts)
        assert made.memo.format == "json_answer" == body["tools"][-1]["name"] and body["tools"][-1]["description"] == "d"
    doc = {"tools": [TOOL], "tool_choice": "required", "response_format": {"type": "json_schema", "json_schema": {"name": "a", **schema}}}
    assert request(doc, facts)[0]["tool_choice"] == {"type": "any"}


def test_a_format_beside_cached_system_blocks() -> None:
    system = {"role": "system", "content": "S.", "cache_control": {"type": "ephemeral"}}
    body, _ = request({"messages": [system, HI], "response_format": {"type": "json_object"}})
    assert body["system"][0]["text"] == "S." and len(body["system"]) == 2


def test_parameters_that_change_nothing_else() -> None:
    body, made = request({
        "response_format": {"type": "text"}, "service_tier": "priority", "metadata": {}, "store": True, "thinking": None, "speed": "fast",
        "output_config": {"effort": "low"}, "user": "", "reasoning_effort": None, "tools": [], "tool_choice": "auto",
    })  # fmt: skip
    assert body["service_tier"] == "auto" and body["speed"] == "fast" and body["output_config"] == {"effort": "low"}
    assert body.keys() == {"model", "max_tokens", "messages", "service_tier", "speed", "output_config"}
    assert [n.param for n in made.notes] == ["metadata", "store", "service_tier"]
    body, made = request({"service_tier": "flex"}, strict=False)
    assert "service_tier" not in body and [n.fate for n in made.notes] == ["dropped"]


def test_a_budget_that_the_client_set_and_lost_thinking() -> None:
    loop = [HI, {"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "now"}}]}, {"role": "tool", "tool_call_id": "1"}]
    doc = {"thinking": {"type": "enabled", "budget_tokens": 2000}, "messages": loop, "tools": [TOOL], "temperature": 0.5}
    body, made = request(doc)
    assert "thinking" not in body and body["temperature"] == 0.5 and made.notes[0].param == "thinking"


def test_what_cannot_be_is_dropped_when_lax() -> None:
    facts = Facts(max_output=1000, thinking="budget")
    body, made = request({"reasoning_effort": "low"}, facts, strict=False)
    assert "thinking" not in body and made.notes[0].fate == "dropped"
    tool = {"type": "function", "function": {"name": "s", "strict": True}}
    body, made = request({"tools": [tool]}, Facts(json_schema="none"), strict=False)
    assert "strict" not in body["tools"][0]
    body, made = request({"tools": [TOOL], "tool_choice": "required"}, Facts(max_output=10, forced_tools=False), strict=False)
    assert body["tool_choice"] == {"type": "auto"} and made.notes[0].param == "tool_choice"
    assert not request({"reasoning_effort": "none"})[1].notes
    body, made = request({"top_p": 0.5, "reasoning_effort": "low"}, Facts(max_output=9000, thinking="level"), strict=False)
    assert "top_p" not in body and made.notes[-1].param == "top_p"


# --- answers


def reply(content: list[Doc], **more: Any) -> Doc:
    _, made = request({})
    body = json.dumps({"content": content, "stop_reason": "end_turn", **more}).encode()
    found: Doc = json.loads(Anthropic().reply(body, made, context()))
    return found


def test_a_poor_answer() -> None:
    found = reply([{"type": "tool_use"}, {"type": "text", "citations": [{"x": 1}, "odd"]}])
    assert (found["id"], found["model"], found["usage"]["total_tokens"]) == ("req-1", "claude-x", 0)
    message = found["choices"][0]["message"]
    assert message["tool_calls"] == [{"id": "", "type": "function", "function": {"name": "", "arguments": "{}"}}]
    assert message["content"] == "" and "annotations" not in message


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"content":[7]}', b'{"content":[{"type":"text","text":"\xff"}],"stop_reason":"x"}'])
def test_what_is_no_answer(body: bytes) -> None:
    _, made = request({})
    with pytest.raises(Fault, match="no Anthropic message") as failure:
        Anthropic().reply(body, made, context())
    assert failure.value.retry and failure.value.origin == "backend"
