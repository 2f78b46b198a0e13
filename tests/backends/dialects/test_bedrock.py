"""Requests for Converse against botocore's own model and validator, and everything that is refused."""

from __future__ import annotations

import base64
from typing import Any

import botocore.session
import msgspec
import pytest
from botocore.model import Shape
from botocore.validate import ParamValidator
from hypothesis import given
from hypothesis import strategies as st

from backends.dialects.bedrock import Bedrock
from backends.dialects.bedrock_job import family, read
from backends.dialects.bedrock_stream import BedrockStream
from backends.dialects.types import Context, Facts, Request
from backends.types import Fault
from backends.wire import encode, parse
from tests.golden.test_dialects import HERE, _case

MODEL = "us.anthropic.claude-sonnet-4-5-20250929-v1:0"
SHAPE = botocore.session.Session().get_service_model("bedrock-runtime").operation_model("Converse").input_shape
PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(8)).decode()
HI = [{"role": "user", "content": "Hi"}]
FN = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


def request(model: str = MODEL, strict: bool = True, facts: Facts | None = None, **doc: Any) -> Request:
    context = Context("r", 0, model, False, facts or Facts(), strict)
    return Bedrock().request(parse(encode({"model": "m", "messages": HI, **doc})), context)


def sent(model: str = MODEL, strict: bool = True, facts: Facts | None = None, **doc: Any) -> Any:
    return msgspec.json.decode(request(model, strict, facts, **doc).body)


def refusal(facts: Facts | None = None, **doc: Any) -> Fault:
    with pytest.raises(Fault) as e:
        request(facts=facts, **doc)
    assert (e.value.kind, e.value.origin, e.value.status) == ("bad_request", "client", 400)
    return e.value


def valued(value: Any, shape: Shape) -> Any:
    """JSON as boto3 would have it: blobs are bytes."""
    if shape.type_name == "blob":
        return base64.b64decode(value, validate=True)
    if shape.type_name == "list":
        return [valued(one, shape.member) for one in value]  # type: ignore[attr-defined]
    if shape.type_name == "structure" and not getattr(shape, "is_document_type", False):
        members = shape.members  # type: ignore[attr-defined]
        return {key: valued(one, members[key]) if key in members else one for key, one in value.items()}
    return value


def valid(body: Any) -> None:
    """Asserts that boto3 would send this."""
    report = ParamValidator().validate({"modelId": MODEL, **valued(body, SHAPE)}, SHAPE)
    assert not report.has_errors(), report.generate_report()


@pytest.mark.parametrize("path", sorted((HERE / "bedrock").glob("*.json")), ids=lambda path: path.stem)
def test_every_golden_request_is_one_for_botocore(path: Any) -> None:
    case = _case.decode(path.read_bytes()).request
    if case.refused is None:
        valid(case.out)


def test_the_validator_would_tell() -> None:
    with pytest.raises(AssertionError, match="Unknown parameter"):
        valid({"messages": [{"role": "user", "content": [{"text": "x", "cache": 1}]}]})


texts = st.none() | st.text(max_size=5)
calls = st.lists(st.tuples(st.sampled_from(["a", "b", "", "x y", "é", "z" * 70]), st.sampled_from(["{}", "", "[", '{"a":1}'])), max_size=3)


@given(st.lists(st.tuples(st.sampled_from(["system", "user", "assistant"]), texts, calls), min_size=1, max_size=8))
def test_any_conversation_becomes_a_valid_one(turns: list[tuple[str, str | None, list[tuple[str, str]]]]) -> None:
    """Alternating, beginning with a user, every call answered at once, ids unique, no blank text."""
    messages: list[dict[str, Any]] = []
    for role, text, made in turns:
        messages.append({"role": role, "content": text})
        if role == "assistant":
            ids = list(dict.fromkeys(id for id, _ in made))
            messages[-1]["tool_calls"] = [{"id": i, "function": {"name": "f", "arguments": dict(made)[i]}} for i in ids]
            messages += [{"role": "tool", "tool_call_id": i, "content": text or ""} for i in ids[1:]]
    try:
        body = sent(strict=False, messages=messages)
    except Fault as fault:
        assert "no text" in fault.message
        return
    valid(body)
    assert [m["role"] for m in body["messages"]] == [("user", "assistant")[i % 2] for i in range(len(body["messages"]))]
    seen: set[str] = set()
    open_calls: list[str] = []
    for turn in body["messages"]:
        answered = [block["toolResult"]["toolUseId"] for block in turn["content"] if "toolResult" in block]
        assert sorted(answered) == sorted(open_calls)
        assert all("toolResult" in block for block in turn["content"][: len(answered)])
        open_calls = [block["toolUse"]["toolUseId"] for block in turn["content"] if "toolUse" in block]
        assert seen.isdisjoint(open_calls)
        seen.update(open_calls)
        assert not any(block.get("text", "x").isspace() or block.get("text") == "" for block in turn["content"])


@pytest.mark.parametrize(
    ("doc", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": None}, "messages"),
        ({"messages": [{"role": "user", "content": " "}]}, "messages"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"text": "x"}]}]}, "messages[0].content[0]"),
        ({"messages": [{"role": "system", "content": [{"type": "image_url", "image_url": PNG}]}]}, "messages[0].content[0]"),
        ({"messages": [{"role": "user", "content": [{"type": "video_url"}]}]}, "messages[0].content[0]"),
        ({"messages": [{"role": "user", "content": [{"type": "file", "file": {"file_id": "f"}}]}]}, "messages[0].content[0].file"),
        ({"messages": [{"role": "assistant", "tool_calls": [{"id": "a", "type": "custom"}]}]}, "messages[0].tool_calls[0]"),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{"id": "a", "function": {"name": "f"}}] * 2}]},
            "messages[0].tool_calls[1].id",
        ),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": "5"}, "max_tokens"),
        ({"temperature": 3}, "temperature"),
        ({"top_p": 2}, "top_p"),
        ({"stop": ["\n"]}, "stop"),
        ({"tools": [{"type": "web_search"}]}, "tools[0]"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools"),
        ({"tools": [{"type": "function", "function": {"name": ""}}]}, "tools"),
        ({"tools": [FN], "tool_choice": "always"}, "tool_choice"),
        ({"tools": [FN], "tool_choice": {"type": "function", "function": {"name": "g"}}}, "tool_choice"),
        ({"tools": [FN], "tool_choice": {"type": "allowed_tools", "allowed_tools": {"tools": []}}}, "tool_choice"),
        ({"response_format": {"type": "xml"}}, "response_format"),
        ({"response_format": {"type": "json_schema"}}, "response_format"),
        ({"reasoning_effort": "hard"}, "reasoning_effort"),
    ],
)
def test_what_is_refused_names_its_place(doc: dict[str, Any], param: str) -> None:
    assert refusal(**doc).param == param


def test_deep_nesting_is_refused() -> None:
    body = b'{"model":"m","messages":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    with pytest.raises(Fault) as e:
        Bedrock().request(parse(body.replace(b"[" * 100_000 + b"]" * 100_000, b"[" * 900 + b"]" * 900)), Context("r", 0, "m"))
    assert e.value.param is not None and e.value.param.startswith("messages")


def test_a_value_that_is_no_json_is_refused() -> None:
    """Cannot come from a parsed body, but for nesting at the interpreter's bound."""
    with pytest.raises(Fault, match="'stop' cannot be read"):
        read({"stop": msgspec.Raw(b"[")}, "stop", msgspec.json.Decoder(list[str]))


def test_answers_with_blocks_that_chat_has_no_word_for() -> None:
    made = request()
    blocks: list[Any] = [{"image": {"format": "png", "source": {}}}, {"reasoningContent": {}}, {"text": "x"}]
    answer = {"output": {"message": {"role": "assistant", "content": blocks}}, "stopReason": "end_turn"}
    out = msgspec.json.decode(Bedrock().reply(encode(answer), made, Context("r", 0, "m")))
    assert out["choices"][0]["message"] == {"role": "assistant", "content": "x", "refusal": None}
    assert out["usage"]["total_tokens"] == 0


def test_a_stream_is_made_for_its_request() -> None:
    assert isinstance(Bedrock().stream(request(), Context("r", 0, "m", True)), BedrockStream)


def test_a_schema_without_a_description() -> None:
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}
    made = sent(response_format=form)["outputConfig"]["textFormat"]["structure"]["jsonSchema"]
    assert made == {"schema": '{"type":"object"}', "name": "x"}


def test_a_schema_by_tool_must_be_an_object() -> None:
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "array"}}}
    assert refusal(Facts(json_schema="tool"), response_format=form).param == "response_format"


def test_a_schemas_tool_has_a_name_of_its_own() -> None:
    form = {"type": "json_schema", "json_schema": {"name": "f", "schema": {}}}
    body = sent(facts=Facts(json_schema="tool"), response_format=form, tools=[FN])
    assert [tool["toolSpec"]["name"] for tool in body["toolConfig"]["tools"]] == ["f", "f_"]
    form["json_schema"] = {"name": "Größe!", "schema": {"type": "object"}}
    body = sent(facts=Facts(json_schema="tool"), response_format=form)
    assert body["toolConfig"]["tools"][0]["toolSpec"]["name"] == "Gr__e_"
    form["json_schema"] = {"name": "", "schema": {"type": "object"}}
    assert sent(facts=Facts(json_schema="tool"), response_format=form)["toolConfig"]["tools"][0]["toolSpec"]["name"] == "answer"


def test_where_a_client_forces_its_own_tool_no_schema_is_emulated() -> None:
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}
    made = request(facts=Facts(json_schema="tool"), response_format=form, tools=[FN], tool_choice="required")
    assert made.memo.format is None
    assert msgspec.json.decode(made.body)["toolConfig"]["toolChoice"] == {"any": {}}


def test_text_and_lenient_formats() -> None:
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}
    plain = {"messages": [{"role": "user", "content": [{"text": "Hi"}]}]}
    assert sent(response_format={"type": "text"}) == sent(facts=Facts(json_schema="none"), strict=False, response_format=form) == plain


def test_strict_tools_where_schemas_are_enforced() -> None:
    tool = {"type": "function", "function": {"name": "f", "strict": True, "description": " ", "parameters": {"properties": {}}}}
    [made] = sent(tools=[tool])["toolConfig"]["tools"]
    assert made["toolSpec"] == {"name": "f", "strict": True, "inputSchema": {"json": {"type": "object", "properties": {}}}}
    loose = request(tools=[tool], facts=Facts(json_schema="tool"))
    assert b"strict" not in loose.body
    assert [note.param for note in loose.notes] == ["tools[0].function.strict"]


def test_choices_without_effect() -> None:
    assert "toolConfig" not in sent(tools=[], tool_choice="required")
    assert "toolChoice" not in sent(tools=[FN], tool_choice="auto")["toolConfig"]
    only = {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [FN]}}
    other = {"type": "function", "function": {"name": "g"}, "cache_control": {"type": "ephemeral"}}
    body = sent(tools=[FN, other], tool_choice=only)
    assert [next(iter(tool)) for tool in body["toolConfig"]["tools"]] == ["toolSpec", "cachePoint"]
    assert "toolChoice" not in sent(facts=Facts(forced_tools=False), strict=False, tools=[FN], tool_choice="required")["toolConfig"]
    assert "toolConfig" not in sent(strict=False, tools=[{"type": "web_search"}])


def test_anthropics_own_thinking_goes_as_it_is() -> None:
    asked = {"type": "enabled", "budget_tokens": 2000}
    body = sent(thinking=asked, max_tokens=4000)
    assert body["additionalModelRequestFields"] == {"thinking": asked}
    assert "additionalModelRequestFields" not in sent(thinking={"type": "disabled"})
    assert refusal(thinking=asked, max_tokens=4000, temperature=0.1).param == "temperature"
    with pytest.raises(Fault, match="only Claude takes it"):
        sent("meta.llama3-3-70b-instruct-v1:0", thinking=asked)
    assert refusal(thinking=asked, max_tokens=4000, top_k=1).param == "top_k"


def test_no_reasoning() -> None:
    def extra(model: str, facts: Facts) -> Any:
        return sent(model, facts=facts, reasoning_effort="none").get("additionalModelRequestFields")

    assert extra(MODEL, Facts()) is None
    assert extra(MODEL, Facts(thinking="budget")) is None
    assert extra(MODEL, Facts(thinking="adaptive")) == {"thinking": {"type": "disabled"}}
    assert extra("us.amazon.nova-2-lite-v1:0", Facts(thinking="level")) == {"reasoningConfig": {"type": "disabled"}}
    assert extra("us.openai.gpt-5.6-sol", Facts(thinking="level")) == {"reasoning": {"effort": "none"}}


def test_levels_of_gpt_oss() -> None:
    def effort(asked: str) -> Any:
        return sent("openai.gpt-oss-20b-1:0", facts=Facts(thinking="level"), reasoning_effort=asked)["additionalModelRequestFields"]

    assert [effort(asked)["reasoning_effort"] for asked in ("minimal", "medium", "max")] == ["low", "medium", "high"]
    with pytest.raises(Fault, match="always reasons"):
        effort("none")
    loose = sent("openai.gpt-oss-20b-1:0", strict=False, facts=Facts(thinking="level"), reasoning_effort="none")
    assert "additionalModelRequestFields" not in loose
    other = sent("zai.glm-5", facts=Facts(thinking="level"), reasoning_effort="xhigh")
    assert other["additionalModelRequestFields"] == {"reasoning_effort": "xhigh"}


def test_no_thinking_where_an_answer_is_to_be_continued() -> None:
    messages = [*HI, {"role": "assistant", "content": "The"}]
    body = sent(facts=Facts(thinking="budget"), reasoning_effort="low", messages=messages)
    assert "additionalModelRequestFields" not in body
    assert "additionalModelRequestFields" in sent(facts=Facts(thinking="adaptive"), reasoning_effort="low", messages=messages)


def test_audio_is_no_result_of_a_tool() -> None:
    audio = {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}
    called = {"role": "assistant", "tool_calls": [{"id": "a", "function": {"name": "f"}}]}
    fault = refusal(Facts(audio=True), messages=[*HI, called, {"role": "tool", "tool_call_id": "a", "content": [audio]}], tools=[FN])
    assert fault.param == "messages[2]"


def test_a_budget_beyond_the_models_limit() -> None:
    body = sent(facts=Facts(thinking="budget", max_output=8192), reasoning_effort="high")
    assert body["inferenceConfig"] == {"maxTokens": 8192}
    assert body["additionalModelRequestFields"] == {"thinking": {"type": "enabled", "budget_tokens": 6553}}
    loose = sent(strict=False, facts=Facts(thinking="budget"), reasoning_effort="high", max_tokens=1000)
    assert loose["inferenceConfig"] == {"maxTokens": 1000} and "additionalModelRequestFields" not in loose
    deep = sent("us.amazon.nova-2-lite-v1:0", strict=False, facts=Facts(thinking="level"), reasoning_effort="max", max_tokens=5, top_p=0.5)
    assert "inferenceConfig" not in deep


def test_other_small_things() -> None:
    assert sent(facts=Facts(seed=True), seed=7)["additionalModelRequestFields"] == {"seed": 7}
    assert "serviceTier" not in sent(service_tier="auto")
    assert [note.fate for note in request(service_tier="scale").notes] == ["dropped"]
    assert "inferenceConfig" not in sent(stop="")
    assert sent("mistral.mistral-large", stop="\n")["inferenceConfig"] == {"stopSequences": ["\n"]}
    assert sent(guardrailConfig=None) == sent()
    capped = sent(facts=Facts(temperature_max=0.5), temperature=0.8)
    assert capped["inferenceConfig"] == {"temperature": 0.5}


def test_the_latest_of_a_system_texts_cache_points_stay() -> None:
    marks = [{"type": "text", "text": str(i), "cache_control": {"type": "ephemeral"}} for i in range(6)]
    body = sent(messages=[{"role": "system", "content": marks}, *HI])
    assert ["".join(block) if "text" not in block else block["text"] for block in body["system"]] == [
        "0", "1", "2", "cachePoint", "3", "cachePoint", "4", "cachePoint", "5", "cachePoint",
    ]  # fmt: skip


def test_thinking_of_others_is_not_given_back() -> None:
    blocks = [{"type": "thinking", "thinking": "t", "signature": "s"}, {"type": "redacted_thinking", "data": "no base64!"}, {"type": "?"}]
    messages = [*HI, {"role": "assistant", "content": "a", "thinking_blocks": blocks, "cache_control": {"type": "ephemeral"}}, *HI]
    kept = sent(messages=messages)["messages"][1]["content"]
    assert [next(iter(block)) for block in kept] == ["reasoningContent", "text", "cachePoint"]
    made = request("meta.llama3-3-70b-instruct-v1:0", messages=messages)
    assert [next(iter(block)) for block in msgspec.json.decode(made.body)["messages"][1]["content"]] == ["text"]
    assert len(made.notes) == 4


def test_a_prefill_that_is_not_taken_is_left_out() -> None:
    messages = [*HI, {"role": "assistant", "content": "The"}]
    assert sent(strict=False, facts=Facts(prefill=False), messages=messages) == sent()


def test_a_last_call_of_the_assistant_gets_its_result() -> None:
    body = sent(messages=[*HI, {"role": "assistant", "tool_calls": [{"id": "a", "function": {"name": "f"}}]}], tools=[FN])
    assert body["messages"][-1]["content"][0]["toolResult"]["status"] == "error"
    ends_with_thought = [*HI, {"role": "assistant", "thinking_blocks": [{"type": "thinking", "thinking": "t", "signature": "s"}]}]
    assert "reasoningContent" in sent(messages=ends_with_thought)["messages"][-1]["content"][0]


def test_a_late_system_turn_closes_what_is_open() -> None:
    messages = [*HI, {"role": "assistant", "tool_calls": [{"id": "a", "function": {"name": "f"}}]}, {"role": "system", "content": "S"}, *HI]
    body = sent(messages=messages, tools=[FN], facts=Facts(late_system=True))
    assert [turn["role"] for turn in body["messages"]] == ["user", "assistant", "user", "system", "user"]
    assert "system" not in body


@pytest.mark.parametrize(
    ("part", "param"),
    [
        ({"type": "image_url", "image_url": "data:image/png;base64,"}, "image_url"),
        ({"type": "image_url", "image_url": "data:image/png," + PNG}, "image_url"),
        ({"type": "image_url", "image_url": "data:image/png;base64,****"}, "image_url"),
        ({"type": "image_url", "image_url": "data:image/png;base64,AAAA"}, "image_url"),
        ({"type": "image_url", "image_url": "s3://bucket/a.tiff"}, "image_url"),
        ({"type": "file", "file": {"file_data": "data:application/zip;base64,AAAA", "filename": "a.zip"}}, "file.file_data"),
        ({"type": "file", "file": {"file_data": "data:application/pdf;base64,*"}}, "file.file_data"),
        ({"type": "input_audio", "input_audio": {"data": "AAAA", "format": "midi"}}, "input_audio.format"),
        ({"type": "input_audio", "input_audio": {"data": "*", "format": "wav"}}, "input_audio.data"),
    ],
)
def test_media_that_bedrock_would_refuse(part: dict[str, Any], param: str) -> None:
    fault = refusal(Facts(audio=True), messages=[{"role": "user", "content": [part]}])
    assert fault.param == f"messages[0].content[0].{param}"


@pytest.mark.parametrize(
    ("data", "kind"), [(b"\xff\xd8\xff\xe0", "jpeg"), (b"GIF89a", "gif"), (b"GIF87a", "gif"), (b"RIFF\0\0\0\0WEBPVP8 ", "webp")]
)
def test_image_formats(data: bytes, kind: str) -> None:
    uri = "data:;base64," + base64.b64encode(data).decode()
    [block] = sent(messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": uri}}]}])["messages"][0]["content"]
    assert block["image"]["format"] == kind


def test_documents_by_their_suffix_and_without_a_name() -> None:
    parts = [{"type": "text", "text": "Read"}] + [
        {"type": "file", "file": {"file_data": f"data:{media};base64,AAAA", "filename": name}}
        for media, name in (("application/octet-stream", "a.MD"), ("text/csv", ""), ("text/plain", "notes"))
    ]
    blocks = sent(messages=[{"role": "user", "content": parts}])["messages"][0]["content"][1:]
    assert [(b["document"]["format"], b["document"]["name"]) for b in blocks] == [("md", "a"), ("csv", "document"), ("txt", "notes")]


def test_families() -> None:
    arn = "arn:aws:bedrock:us-east-1:123456789012:application-inference-profile/abc"
    assert [family(model) for model in (MODEL, "amazon.nova-pro-v1:0", arn, "zai.glm")] == ["claude", "nova", "", "other"]
    assert request(arn).path == "/model/arn%3Aaws%3Abedrock%3Aus-east-1%3A123456789012%3Aapplication-inference-profile%2Fabc/converse"
