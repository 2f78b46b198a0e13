"""chat → Gemini, beyond the golden cases: what is refused and by which name, policies, and answers that are none."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from backends import wire
from backends.dialects.gemini import Gemini
from backends.dialects.gemini_chat import MAX_NOTES
from backends.dialects.gemini_path import path
from backends.dialects.types import Context, Facts, Request
from backends.types import Fault
from tests.backends.dialects import gemini_sdk

GEMINI = Gemini()
HI = [{"role": "user", "content": "hi"}]
F = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {"a": {"type": "string"}}}}}
ALL = Facts(audio=True, logprobs=True, seed=True, many=True)


def ask(facts: Facts = ALL, *, strict: bool = True, model: str = "m", **doc: Any) -> Request:
    request = GEMINI.request(wire.parse(msgspec.json.encode({"messages": HI, **doc})), Context("r", 0, model, facts=facts, strict=strict))
    gemini_sdk.read(request.body)
    return request


def sent(facts: Facts = ALL, **doc: Any) -> dict[str, Any]:
    out: dict[str, Any] = msgspec.json.decode(ask(facts, **doc).body)
    return out


def told(facts: Facts = ALL, **doc: Any) -> dict[str, str]:
    return {note.param: note.fate for note in ask(facts, **doc).notes}


def refusal(facts: Facts = ALL, **doc: Any) -> Fault:
    with pytest.raises(Fault) as refused:
        ask(facts, **doc)
    fault = refused.value
    assert (fault.kind, fault.origin, fault.status) == ("bad_request", "client", 400)
    return fault


def said(*parts: Any, role: str = "user", **more: Any) -> list[Any]:
    return [{"role": role, "content": list(parts), **more}]


def reply(body: Any, context: Context | None = None) -> Any:
    raw = body if isinstance(body, bytes) else msgspec.json.encode(body)
    return msgspec.json.decode(GEMINI.reply(raw, ask(), context or Context("r", 0, "m")))


SURROGATE = b'{"messages":[{"role":"user","content":"\\ud800"}]}'


@pytest.mark.parametrize(
    ("doc", "param"),
    [
        ({"messages": 5}, "messages"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        ({"messages": [{"content": "x"}]}, "messages[0]"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role"),
        ({"messages": []}, "messages"),
        ({"messages": said(role="user")}, "messages"),
        ({"messages": said({"type": "thing"})}, "messages[0].content[0].type"),
        ({"messages": said({"type": "image_url"}, role="system")}, "messages[0].content[0].type"),
        ({"messages": [{"role": "assistant", "function_call": {"name": "f"}}]}, "messages[0].function_call"),
        ({"messages": [{"role": "assistant", "tool_calls": [{"id": "a"}]}]}, "messages[0].tool_calls[0].function.name"),
        ({"temperature": "hot"}, "temperature"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"n": 9}, "n"),
        ({"n": 0}, "n"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"stop": list("abcdef")}, "stop"),
        ({"reasoning_effort": "much"}, "reasoning_effort"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema.schema"),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": None}}}, "response_format.json_schema.schema"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"tools": [{"type": "function"}]}, "tools[0].function.name"),
        ({"tools": [F, F]}, "tools[1].function.name"),
        ({"tools": [F], "tool_choice": "perhaps"}, "tool_choice"),
        ({"tools": [F], "tool_choice": {"type": "function", "function": {"name": "g"}}}, "tool_choice"),
        ({"tools": [F], "tool_choice": {"type": "function"}}, "tool_choice"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [F], "web_search_options": {}}, "web_search_options"),
        ({"functions": [{"name": "f"}]}, "functions"),
        ({"extra_body": {"other": 1}}, "extra_body.other"),
        ({"extra_body": {"google": {"thinking": 1}}}, "extra_body.google.thinking"),
        ({"extra_body": {"google": {"cached_content": 1}}}, "extra_body.google.cached_content"),
        ({"google": {"labels": {}}}, "google.labels"),
    ],
)
def test_what_is_wrong_is_refused_by_its_path(doc: dict[str, Any], param: str) -> None:
    fault = refusal(**doc)
    assert fault.param == param and f"'{param}'" in fault.message


def test_bodies_that_are_no_chat() -> None:
    context = Context("r", 0, "m")
    with pytest.raises(Fault, match="'messages' is missing"):
        GEMINI.request({}, context)
    with pytest.raises(Fault, match="not valid JSON"):
        GEMINI.request({"messages": msgspec.Raw(SURROGATE[12:-1])}, context)
    deep = b'[{"role":"user","content":[{"cache_control":' + b"[" * 9999 + b"]" * 9999 + b"}]}]"
    with pytest.raises(Fault, match="nested too deeply"):
        GEMINI.request({"messages": msgspec.Raw(deep)}, context)


@pytest.mark.parametrize(
    ("part", "at"),
    [
        ({"type": "image_url", "image_url": {"url": "data:image/png;base64,"}}, "image_url.url"),
        ({"type": "image_url", "image_url": {"url": "data:image/png,abc"}}, "image_url.url"),
        ({"type": "image_url", "image_url": {"url": "data:;base64,AAAA"}}, "image_url.url"),
        ({"type": "image_url", "image_url": {"url": "http://[/x"}}, "image_url.url"),
        ({"type": "image_url", "image_url": {"url": "https://"}}, "image_url.url"),
        ({"type": "image_url"}, "image_url.url"),
        ({"type": "file", "file": {"file_id": "file-1"}}, "file.file_id"),
        ({"type": "file"}, "file.file_data"),
        ({"type": "input_audio", "input_audio": {"data": "AA==", "format": "pcm16"}}, "input_audio.format"),
        ({"type": "input_audio"}, "input_audio.format"),
    ],
)
def test_media_that_cannot_be_sent(part: dict[str, Any], at: str) -> None:
    assert refusal(messages=said(part)).param == f"messages[0].content[0].{at}"


def test_media_that_can() -> None:
    parts = [
        {"type": "video_url", "video_url": {"url": "https://example.com/a.mp4"}},
        {"type": "file", "file": {"file_id": "https://generativelanguage.googleapis.com/v1beta/files/x"}},
        {"type": "file", "file": {"file_data": "JVBERi0=", "filename": "a"}},
        {"type": "file", "file": {"file_data": "aGk=", "filename": "a.TXT"}},
        {"type": "file", "file": {"file_data": "https://example.com/a.pdf"}},
        {"type": "image_url", "image_url": {"url": "data:image/jpeg;base64,iVBORw0KGgo="}},
        {"type": "image_url", "image_url": {"url": "data:image/heic;base64,AAAA"}},
    ]
    found = sent(messages=said(*parts))["contents"][0]["parts"]
    assert [p.get("inlineData", p.get("fileData")).get("mimeType") for p in found] == [
        "video/mp4", None, "application/pdf", "text/plain", "application/pdf", "image/png",
        "image/heic",
    ]  # fmt: skip


def test_media_that_the_model_does_not_take_is_dropped_where_the_route_allows() -> None:
    parts = [
        {"type": "image_url", "image_url": "https://a.com/a.png"}, {"type": "file", "file": {"file_id": "gs://a/b"}},
        {"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}}, {"type": "text", "text": "x"},
    ]  # fmt: skip
    few = Facts(images=False, documents=False)
    assert sent(few, strict=False, messages=said(*parts))["contents"] == [{"role": "user", "parts": [{"text": "x"}]}]
    assert set(told(few, strict=False, messages=said(*parts)).values()) == {"dropped"}
    shown = [{"role": "assistant", "content": "a", "images": parts[:1]}, *HI]
    assert len(sent(few, strict=False, messages=shown)["contents"][0]["parts"]) == 1
    assert len(sent(messages=shown)["contents"][0]["parts"]) == 2
    call = {"role": "assistant", "tool_calls": [{"id": "a", "function": {"name": "f"}}]}
    result = {"role": "tool", "tool_call_id": "a", "content": parts[:1]}
    response = {"functionResponse": {"name": "f", "id": "a", "response": {"output": ""}}}
    assert sent(few, strict=False, messages=[*HI, call, result])["contents"][2]["parts"] == [response]


def test_what_a_message_may_carry_is_noted() -> None:
    messages = [
        {"role": "user", "name": "ann", "content": [{"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}]},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}], "audio": {"id": "x"}, "thinking_blocks": [{}]},
        {"role": "user", "content": [{"type": "text", "text": ""}], "cache_control": {}},
    ]
    assert told(messages=messages) == {
        "messages[0].name": "dropped", "messages[0].cache_control": "dropped", "messages[1].audio": "dropped",
        "messages[1].reasoning_content": "dropped", "messages[2].cache_control": "dropped", "messages[2]": "dropped",
    }  # fmt: skip
    assert told(tools=[{**F, "cache_control": {"type": "ephemeral"}}]) == {"tools[0].cache_control": "dropped"}
    many = [{"role": "user", "name": "n", "content": "x"}] * (MAX_NOTES + 1)
    assert len(told(messages=many)) == MAX_NOTES


def test_arguments_and_results_in_odd_forms() -> None:
    calls = [{"id": c, "function": {"name": "f", "arguments": a}} for c, a in (("a", {"x": 1}), ("b", None), ("c", "[1]"))]
    results = [{"role": "tool", "tool_call_id": c, "content": t} for c, t in (("a", None), ("b", "\U0001f600"), ("c", "{}"))]
    model, user = sent(messages=[*HI, {"role": "assistant", "tool_calls": calls}, *results])["contents"][1:]
    assert [p["functionCall"]["args"] for p in model["parts"]] == [{"x": 1}, {}, {"arguments": "[1]"}]
    assert [p["functionResponse"]["response"] for p in user["parts"]] == [{"output": ""}, {"output": "\U0001f600"}, {}]
    twice = [*HI, {"role": "assistant", "tool_calls": calls[:1]}, results[0], results[0]]
    assert refusal(messages=twice).param == "messages[3].tool_call_id"


def test_policies() -> None:
    bare = Facts(sampling=False, json_schema="none", forced_tools=False)
    asked = {
        "temperature": 1, "seed": 1, "n": 2, "logprobs": True, "reasoning_effort": "low", "modalities": ["image", "audio"],
        "stop": list("abcdefg"), "tools": [F, {"type": "computer"}], "tool_choice": "required", "web_search_options": {},
        "logit_bias": {"1": 2},
        "verbosity": "low", "service_tier": "scale", "functions": [1], "google": {"x": 1}, "extra_body": {"y": 1, "google": None},
    }  # fmt: skip
    out = sent(bare, strict=False, **asked)
    assert out["generationConfig"] == {"stopSequences": list("abcde"), "responseModalities": ["IMAGE"]}
    assert "toolConfig" not in out and len(out["tools"]) == 1
    assert set(told(bare, strict=False, **asked)) == {*asked, "tools[1]", "google.x", "extra_body.y"} - {"tools", "google", "extra_body"}
    form = {"type": "json_schema", "json_schema": {"schema": {}}}
    assert "generationConfig" not in sent(bare, strict=False, response_format=form)
    assert "generationConfig" not in sent(strict=False, response_format=form, tools=[F])
    assert sent(Facts(temperature_with_top_p=False), strict=False, temperature=1, top_p=0.5)["generationConfig"] == {"temperature": 1}
    assert refusal(Facts(temperature_with_top_p=False), temperature=1, top_p=0.5).param == "top_p"
    assert sent(reasoning_effort="none") == sent(response_format={"type": "text"}) == sent(n=1) == sent(modalities=["text"]) == sent()
    assert sent(logprobs=True)["generationConfig"] == {"responseLogprobs": True}
    assert sent(seed=-1)["generationConfig"] == {"seed": -1}


@pytest.mark.parametrize(
    ("thinking", "model", "effort", "config", "noted"),
    [
        ("budget", "gemini-2.5-flash", "none", {"thinkingBudget": 0}, False),
        ("budget", "gemini-2.5-flash", "max", {"thinkingBudget": 24576, "includeThoughts": True}, True),
        ("level", "gemini-3-flash", "none", {"thinkingLevel": "MINIMAL"}, True),
        ("level", "gemini-3-flash", "minimal", {"thinkingLevel": "MINIMAL", "includeThoughts": True}, False),
        ("level", "gemini-3-pro", "minimal", {"thinkingLevel": "LOW", "includeThoughts": True}, True),
        ("level", "gemini-3-pro-preview", "medium", {"thinkingLevel": "HIGH", "includeThoughts": True}, True),
        ("level", "gemini-3.1-pro", "medium", {"thinkingLevel": "MEDIUM", "includeThoughts": True}, False),
        ("level", "gemini-3-pro", "xhigh", {"thinkingLevel": "HIGH", "includeThoughts": True}, True),
    ],
)
def test_reasoning(thinking: Any, model: str, effort: str, config: Any, noted: bool) -> None:
    request = ask(Facts(thinking=thinking), model=model, reasoning_effort=effort)
    assert msgspec.json.decode(request.body)["generationConfig"]["thinkingConfig"] == config
    assert [note.fate for note in request.notes] == ["clamped"] * noted


@pytest.mark.parametrize(("most", "budget"), [(30000, 24576), (24576, 12288), (600, 512), (100, 512)])
def test_a_budget_leaves_room_for_the_answer(most: int, budget: int) -> None:
    config = sent(Facts(thinking="budget"), reasoning_effort="high", max_tokens=most)["generationConfig"]
    assert config["thinkingConfig"]["thinkingBudget"] == budget
    low = sent(Facts(thinking="budget"), google={"thinking_config": {"thinking_budget": 512, "include_thoughts": True}}, max_tokens=100)
    assert low["generationConfig"]["thinkingConfig"]["thinkingBudget"] == 512


def test_an_answer_that_was_begun() -> None:
    begun = [*HI, {"role": "assistant", "content": "Once"}]
    assert len(sent(messages=begun)["contents"]) == 2
    assert refusal(Facts(prefill=False), messages=begun).param == "messages[1]"
    assert len(sent(Facts(prefill=False), strict=False, messages=begun)["contents"]) == 1


def test_googles_own_parameters() -> None:
    safety = [{"category": "HARM_CATEGORY_HARASSMENT", "threshold": "OFF"}]
    assert sent(safety_settings=safety)["safetySettings"] == safety == sent(google={"safety_settings": safety})["safetySettings"]
    assert sent(google={"thinking_config": {"thinkingLevel": "LOW"}})["generationConfig"]["thinkingConfig"] == {"thinkingLevel": "LOW"}
    assert sent(google=None, extra_body=None) == sent(extra_body={"google": None})
    assert sent(service_tier="auto") == sent()
    assert sent(service_tier="default")["serviceTier"] == "standard"


def test_tools_in_their_forms() -> None:
    allowed = {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [{"type": "function", "function": {"name": "f"}}]}}
    out = sent(tools=[F], tool_choice=allowed)["toolConfig"]["functionCallingConfig"]
    assert out == {"mode": "ANY", "allowedFunctionNames": ["f"]}
    assert sent(tool_choice="none") == sent(tool_choice="auto") == sent(tools=[]) == sent()
    level = Facts(thinking="level")
    assert [list(t) for t in sent(level, tools=[F], web_search_options={})["tools"]] == [["functionDeclarations"], ["googleSearch"]]
    assert sent(level, tools=[F], tool_choice="none", response_format={"type": "json_object"})["tools"]
    assert "parallel_tool_calls" not in told(parallel_tool_calls=False)
    bare = {"type": "function", "function": {"name": "f", "parameters": {}}}
    assert sent(tools=[bare])["tools"] == [{"functionDeclarations": [{"name": "f"}]}]


def test_paths() -> None:
    assert path("gemini-2.5-flash", "x") == "/models/gemini-2.5-flash:x"
    assert path("models/a", "x") == "/models/a:x" and path("/tunedModels/b/", "x") == "/tunedModels/b:x"
    assert path("a?b#c d%", "x") == "/models/a%3Fb%23c%20d%25:x"


@pytest.mark.parametrize("body", [b"<html>", b"[]", b"5", b"\xff", b'{"candidates":[{"content":{"parts":[{"text":5}]}}]}', b"[" * 5000])
def test_answers_that_are_none(body: bytes) -> None:
    with pytest.raises(Fault) as fault:
        reply(body)
    assert (fault.value.kind, fault.value.origin, fault.value.retry) == ("upstream", "backend", True)


@pytest.mark.parametrize(
    ("error", "kind", "retry"),
    [
        ({"code": 429, "message": "m", "status": "RESOURCE_EXHAUSTED"}, "rate_limited", True),
        ({"code": 400, "message": "m"}, "bad_request", False),
        ({"message": 5, "code": "x"}, "upstream", True),
        ("odd", "upstream", True),
    ],
)
def test_errors_under_status_200(error: Any, kind: str, retry: bool) -> None:
    with pytest.raises(Fault) as fault:
        reply({"error": error})
    assert (fault.value.kind, fault.value.retry, fault.value.origin) == (kind, retry, "backend")


def test_odd_answers() -> None:
    out = reply({"candidates": [{"content": {"parts": [{"executableCode": {"code": "1"}}, {"codeExecutionResult": {"output": "1"}}]}}, {}]})
    assert out["id"] == "r" and out["model"] == "m" and "usage" not in out
    assert [c["index"] for c in out["choices"]] == [0, 1]
    message = out["choices"][0]["message"]
    assert message["extra_content"]["google"]["parts"] == [{"executableCode": {"code": "1"}}, {"codeExecutionResult": {"output": "1"}}]
    assert message["content"] == "" and out["choices"][1]["finish_reason"] == "stop"
    heard = reply({"candidates": [{"content": {"parts": [{"inlineData": {"mimeType": "audio/wav", "data": "AA=="}}, {}]}}]})
    assert heard["choices"][0]["message"]["extra_content"]["google"]["parts"] == [{"inlineData": {"mimeType": "audio/wav", "data": "AA=="}}]
    assert reply({"candidates": [{}], "usageMetadata": {"promptTokenCount": "x"}}).keys() >= {"choices"}
    blocked = {"candidates": [], "promptFeedback": {}}
    with pytest.raises(Fault, match="without a candidate"):
        reply(blocked)


def test_usage_adds_what_google_counts_apart() -> None:
    counts = {
        "promptTokenCount": 10, "toolUsePromptTokenCount": 5, "cachedContentTokenCount": 99, "candidatesTokenCount": 2,
        "thoughtsTokenCount": 3, "promptTokensDetails": [{"modality": "AUDIO", "tokenCount": 4}, {"modality": "TEXT", "tokenCount": 6}],
    }  # fmt: skip
    usage = reply({"candidates": [{}], "usageMetadata": counts})["usage"]
    assert usage == {
        "prompt_tokens": 15, "completion_tokens": 5, "total_tokens": 20, "prompt_tokens_details": {"cached_tokens": 15, "audio_tokens": 4},
        "completion_tokens_details": {"reasoning_tokens": 3},
    }  # fmt: skip


def test_ids_are_the_same_for_the_same_request_and_no_other() -> None:
    body = {"candidates": [{"content": {"parts": [{"functionCall": {"name": "f"}}, {"functionCall": {"name": "f", "args": None}}]}}]}
    one, again, other = (reply(body, Context(i, 0, "m"))["choices"][0]["message"]["tool_calls"] for i in ("a", "a", "b"))
    assert one == again and len({call["id"] for call in [*one, *other]}) == 4
    assert all(call["id"].replace("_", "a").isalnum() and len(call["id"]) <= 40 for call in one)
