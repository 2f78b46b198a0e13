"""Each refusal of the scripted OpenAI's chat completions."""

from __future__ import annotations

import httpx

from tests.fakes.providers.media import png
from tests.fakes.providers.openai_asks import CALLED, HI, OBJECT, Doc, F, asking, called, form, part, post, refused, saying, told, tool, uri
from tests.fakes.providers.openai_chat import KEY, OpenAIChat

BAD = "invalid_value"
REFUSED: dict[str, tuple[Doc, str, str | None, str | None]] = {
    # name: (request, a part of the sentence, param, code)
    "argument": (asking(top_k=4), "Unrecognized request argument supplied: top_k", None, None),
    "nested": (
        saying({**HI, "cache_control": {}}),
        "Unknown parameter: 'messages[0].cache_control'.",
        "messages[0].cache_control",
        "unknown_parameter",
    ),
    "in a part": (part(type="text", text="a", x=1), "Unknown parameter", "messages[0].content[0].x", "unknown_parameter"),
    "missing": ({}, "Missing required parameter: 'messages'.", "messages", "missing_required_parameter"),
    "missing deeper": (
        part(type="image_url", image_url={}),
        "Missing",
        "messages[0].content[0].image_url.url",
        "missing_required_parameter",
    ),
    "type": (asking(temperature="hot"), "expected a decimal, but got a string instead", "temperature", "invalid_type"),
    "role": (saying({"role": "model", "content": "a"}), "Invalid value: 'model'. Supported values are: ", "messages[0].role", BAD),
    "part type": (part(type="input_text", text="a"), "Invalid value: 'input_text'", "messages[0].content[0].type", BAD),
    "effort value": (asking(reasoning_effort="huge"), "Invalid value: 'huge'", "reasoning_effort", BAD),
    "no messages": (saying(), "empty array", "messages", "empty_array"),
    "hot": (
        asking(temperature=2.5),
        "decimal above maximum value. Expected a value <= 2, but got 2.5",
        "temperature",
        "decimal_above_max_value",
    ),
    "n": (asking(n=0), "integer below minimum value", "n", "integer_below_min_value"),
    "penalty": (asking(presence_penalty=-3), "decimal below minimum value", "presence_penalty", "decimal_below_min_value"),
    "stops": (asking(stop=list("abcde")), "maximum length 4, but got an array with length 5", "stop", "array_above_max_length"),
    "no stops": (asking(stop=[]), "empty array", "stop", "empty_array"),
    "limits": (asking(max_tokens=5, max_completion_tokens=5), "at the same time", "max_tokens", None),
    "too many": (asking(max_tokens=99999), "max_tokens is too large: 99999. This model supports at most 16384", "max_tokens", BAD),
    "metadata": (asking(metadata={str(i): "" for i in range(17)}), "array too long", "metadata", "array_above_max_length"),
    "effort": (asking(reasoning_effort="low"), "Unrecognized request argument supplied: reasoning_effort", None, None),
    "stream options": (asking(stream_options={"include_usage": True}), "only allowed when 'stream' is enabled", "stream_options", None),
    "top logprobs": (asking(top_logprobs=2), "only allowed when 'logprobs' is enabled", "top_logprobs", None),
    "choice alone": (asking(tool_choice="auto"), "only allowed when 'tools' are specified", "tool_choice", None),
    "parallel alone": (asking(parallel_tool_calls=False), "only allowed when 'tools' are specified", "parallel_tool_calls", None),
    "no tools": (asking(tools=[]), "empty array", "tools", "empty_array"),
    "many tools": (asking(tools=[F] * 129), "array too long", "tools", "array_above_max_length"),
    "tool name": (tool(name="a b"), "does not match pattern", "tools[0].function.name", BAD),
    "long tool name": (tool(name="a" * 65), "maximum length 64", "tools[0].function.name", "string_above_max_length"),
    "two tools": (asking(tools=[F, F]), "more than one tool", "tools[1].function.name", None),
    "no object": (tool({"type": "string"}), "got 'type: \"string\"'", "tools[0].function.parameters", "invalid_function_parameters"),
    "no properties": (
        tool({"type": "object"}),
        "object schema missing properties",
        "tools[0].function.parameters",
        "invalid_function_parameters",
    ),
    "no items": (
        tool({"type": "object", "properties": {"a": {"type": "array"}}}),
        "In context=('properties', 'a'), array schema missing items.",
        "tools[0].function.parameters",
        "invalid_function_parameters",
    ),
    "open tool": (
        tool({**OBJECT, "additionalProperties": True}, strict=True),
        "'additionalProperties' is required",
        "tools[0].function.parameters",
        "invalid_function_parameters",
    ),
    "choice": (
        asking(tools=[F], tool_choice={"type": "function", "function": {"name": "g"}}),
        "'function.g' not found",
        "tool_choice",
        None,
    ),
    "say json": (asking(response_format={"type": "json_object"}), "must contain the word 'json'", "response_format", None),
    "open format": (
        form({"type": "object"}),
        "In context=(), 'additionalProperties' is required to be supplied and to be false.",
        "response_format",
        None,
    ),
    "optional": (form({**OBJECT, "required": []}), "an array including every key in properties. Missing 'a'.", "response_format", None),
    "required unknown": (form({**OBJECT, "required": ["a", "b"]}), "which is not a property", "response_format", None),
    "deep": (
        form({**OBJECT, "properties": {"a": {"anyOf": [{"type": "object"}]}}}),
        "In context=('properties', 'a', 'anyOf', '0')",
        "response_format",
        None,
    ),
    "one of": (form({**OBJECT, "properties": {"a": {"oneOf": [{"type": "string"}]}}}), "'oneOf' is not permitted", "response_format", None),
    "items": (
        form({**OBJECT, "properties": {"a": {"type": "array", "items": {"type": "array"}}}}),
        "array schema missing items",
        "response_format",
        None,
    ),
    "no value": (
        form({"type": "object", "required": ["a"], "additionalProperties": False}, strict=False),
        "no value can be made",
        "response_format",
        None,
    ),
    "no schema": (form({"type": 5}), "is not valid under any of the given schemas", "response_format", None),
    "no type": (
        form({**OBJECT, "properties": {"a": {}}}),
        "In context=('properties', 'a'), schema must have a 'type' key.",
        "response_format",
        None,
    ),
    "schema missing": (
        asking(response_format={"type": "json_schema", "json_schema": {"name": "r"}}),
        "Missing",
        "response_format.json_schema.schema",
        "missing_required_parameter",
    ),
    "root": (form({"type": "array"}), "got 'type: \"array\"'", "response_format", None),
    "format name": (form(OBJECT, name="a b"), "does not match pattern", "response_format.json_schema.name", BAD),
    "unanswered": (saying(HI, CALLED), "did not have response messages: call_1", "messages.[2].role", None),
    "answered late": (saying(HI, CALLED, HI, told()), "did not have response messages: call_1", "messages.[2].role", None),
    "stray": (saying(HI, told()), "must be a response to a preceeding message with 'tool_calls'", "messages.[1].role", None),
    "wrong id": (saying(HI, CALLED, told(tool_call_id="x")), "must be a response to a preceeding", "messages.[2].role", None),
    "answered twice": (saying(HI, CALLED, told(), told()), "must be a response to a preceeding", "messages.[3].role", None),
    "no calls": (saying({"role": "assistant", "content": "a", "tool_calls": []}), "empty array", "messages[0].tool_calls", "empty_array"),
    "arguments": (saying(HI, called(arguments="[1")), "JSON of an object", "messages[1].tool_calls[0].function.arguments", None),
    "call name": (saying(HI, called(name="a b")), "does not match pattern", "messages[1].tool_calls[0].function.name", BAD),
    "long id": (
        saying({"role": "assistant", "tool_calls": [{**CALLED["tool_calls"][0], "id": "c" * 41}]}),
        "maximum length 40",
        "messages[0].tool_calls[0].id",
        "string_above_max_length",
    ),
    "nothing said": (saying({"role": "assistant"}), "expected a string, got null", "messages.[0].content", None),
    "no parts": (saying({"role": "user", "content": []}), "empty array", "messages[0].content", "empty_array"),
    "name": (saying({**HI, "name": "a<b"}), "does not match pattern", "messages[0].name", BAD),
    "bmp": (
        part(type="image_url", image_url={"url": uri("image/bmp", b"BM")}),
        "unsupported image",
        "messages[0].content[0].image_url.url",
        "invalid_image_format",
    ),
    "lying": (
        part(type="image_url", image_url={"url": uri("image/gif", png(1, 1))}),
        "unsupported image",
        "messages[0].content[0].image_url.url",
        "invalid_image_format",
    ),
    "base64": (
        part(type="image_url", image_url={"url": "data:image/png;base64,%%"}),
        "base64",
        "messages[0].content[0].image_url.url",
        "invalid_base64",
    ),
    "no base64": (
        part(type="image_url", image_url={"url": "data:image/png,abc"}),
        "base64",
        "messages[0].content[0].image_url.url",
        "invalid_base64",
    ),
    "file url": (
        part(type="image_url", image_url={"url": "file:///a"}),
        "Failed to download",
        "messages[0].content[0].image_url.url",
        "invalid_image_url",
    ),
    "pdf": (
        part(type="file", file={"file_data": uri("application/pdf", b"no"), "filename": "a"}),
        "application/pdf",
        "messages[0].content[0].file.file_data",
        BAD,
    ),
}
OF_MODELS: dict[str, tuple[str, Doc, str, str | None, str | None]] = {
    "max_tokens": ("gpt-5", asking(max_tokens=5), "Use 'max_completion_tokens' instead.", "max_tokens", "unsupported_parameter"),
    "temperature": (
        "gpt-5",
        asking(temperature=0.2),
        "does not support 0.2 with this model. Only the default (1)",
        "temperature",
        "unsupported_value",
    ),
    "top_p": ("o4-mini", asking(top_p=0.5), "Only the default (1)", "top_p", "unsupported_value"),
    "penalty": ("o4-mini", asking(presence_penalty=1), "Only the default (0)", "presence_penalty", "unsupported_value"),
    "logprobs": ("gpt-5", asking(logprobs=True), "is not supported with this model", "logprobs", "unsupported_parameter"),
    "logit_bias": ("gpt-5", asking(logit_bias={"1": 1}), "is not supported with this model", "logit_bias", "unsupported_parameter"),
    "stop": ("o4-mini", asking(stop="a"), "is not supported with this model", "stop", "unsupported_parameter"),
    "effort": (
        "o4-mini",
        asking(reasoning_effort="none"),
        "Supported values are: 'low', 'medium', 'high'.",
        "reasoning_effort",
        "unsupported_value",
    ),
    "when it reasons": (
        "gpt-5.2",
        asking(reasoning_effort="high", temperature=0),
        "Only the default (1)",
        "temperature",
        "unsupported_value",
    ),
}


def test_refusals() -> None:
    fake = OpenAIChat()
    with fake.serving() as root:
        for name, (doc, *rest) in REFUSED.items():
            refused(name, post(root, {"model": "gpt-4o", **doc}), *rest)
        for name, (model, doc, *rest) in OF_MODELS.items():
            refused(name, post(root, {"model": model, **doc}), *rest)
    assert len(fake.rejected) == len(REFUSED) + len(OF_MODELS) and fake.docs == []


def test_who_and_where() -> None:
    with OpenAIChat().serving() as root:
        refused("no key", httpx.post(root + "/v1/chat/completions", json={}), "You didn't provide an API key.", None, None, 401)
        refused("key", post(root, {}, key="sk-wrong-1234"), "Incorrect API key provided: sk-********1234.", None, "invalid_api_key", 401)
        refused("path", post(root, {}, "/v1/x"), "Invalid URL (POST /v1/x)", None, None, 404)
        refused("model", post(root, {"model": "gpt-9", **asking()}), "The model `gpt-9` does not exist", None, "model_not_found", 404)
        refused("list", post(root, []), "could not parse the JSON body", None, None)
        plain = httpx.post(
            root + "/v1/chat/completions", content=b"{}", headers={"authorization": f"Bearer {KEY}", "content-type": "text/plain"}
        )
        refused("no json", plain, "could not parse the JSON body", None, None)
