"""Each refusal of the scripted OpenAI's Responses API."""

from __future__ import annotations

from typing import Any

from tests.fakes.providers.media import png
from tests.fakes.providers.openai_asks import (
    CALL,
    ITEM,
    OBJECT,
    OUT,
    RESPONSES,
    THOUGHT,
    WEATHER_TOOL,
    Doc,
    fetch,
    post,
    put,
    refused,
    spoken,
    uri,
)
from tests.fakes.providers.openai_responses import OpenAIResponses

BAD = "invalid_value"
MOVED = "unsupported_parameter"


def tool(**more: Any) -> Doc:
    return put(ITEM, tools=[{"type": "function", "name": "f", "parameters": OBJECT, **more}])


def form(schema: Doc, **more: Any) -> Doc:
    return put(ITEM, text={"format": {"type": "json_schema", "name": "r", "strict": True, "schema": schema, **more}})


REFUSED: dict[str, tuple[Doc, str, str | None, str | None]] = {
    "unknown": (put(ITEM, stop="a"), "Unknown parameter: 'stop'.", "stop", "unknown_parameter"),
    "moved": (put(ITEM, response_format={}), "has moved to 'text.format'", "response_format", MOVED),
    "messages": ({"messages": []}, "has moved to 'input'", "messages", MOVED),
    "no input": ({}, "Missing required parameter: 'input'.", "input", "missing_required_parameter"),
    "empty input": (put(), "Missing required parameter: 'input'.", "input", "missing_required_parameter"),
    "nested tool": (
        put(ITEM, tools=[{"type": "function", "function": {"name": "f"}}]),
        "Missing required parameter: 'tools[0].name'.",
        "tools[0].name",
        "missing_required_parameter",
    ),
    "tool type": (put(ITEM, tools=[{"type": "web_search"}]), "does not speak 'web_search'", "tools[0]", BAD),
    "text part": (spoken({"type": "text", "text": "a"}), "Invalid value: 'text'", "input[0].content[0].type", BAD),
    "input of an assistant": (
        spoken({"type": "input_text", "text": "a"}, role="assistant"),
        "Supported values are: 'output_text' and 'refusal'.",
        "input[0].content[0].type",
        BAD,
    ),
    "no parts": (spoken(), "empty array", "input[0].content", "empty_array"),
    "item type": (put({"type": "mcp_approval_response", "approval_request_id": "a", "approve": True}), "does not speak", "input[0]", BAD),
    "item id": (put({**CALL, "id": "call_1"}, OUT), "Expected an ID that begins with 'fc'.", "input[0].id", BAD),
    "long call id": (put({**CALL, "call_id": "c" * 65}), "maximum length 64", "input[0].call_id", "string_above_max_length"),
    "call name": (put({**CALL, "name": "a b"}, OUT), "does not match pattern", "input[0].name", BAD),
    "arguments": (put({**CALL, "arguments": "[]"}, OUT), "JSON of an object", "input[0].arguments", None),
    "no output": (put(ITEM, CALL), "No tool output found for function call call_1.", "input", None),
    "late output": (put(ITEM, CALL, ITEM, OUT), "No tool output found for function call call_1.", "input", None),
    "nameless output": (
        put(CALL, {"type": "function_call_output", "output": "a"}),
        "Missing",
        "input[1].call_id",
        "missing_required_parameter",
    ),
    "no call": (put(ITEM, OUT), "No tool call found for function call output with call_id call_1.", "input", None),
    "thought alone": (put(ITEM, THOUGHT), "'rs_1' of type 'reasoning' was provided without its required following item.", "input", None),
    "foreign thought": (
        put(ITEM, {**THOUGHT, "encrypted_content": "Z29v"}, CALL, OUT),
        "could not be verified",
        "input",
        "invalid_encrypted_content",
    ),
    "previous": (put(ITEM, previous_response_id="resp_x"), "'resp_x' not found", "previous_response_id", "previous_response_not_found"),
    "few tokens": (put(ITEM, max_output_tokens=5), "Expected a value >= 16, but got 5", "max_output_tokens", "integer_below_min_value"),
    "many tokens": (put(ITEM, max_output_tokens=99999), "Expected a value <= 16384", "max_output_tokens", "integer_above_max_value"),
    "stream options": (put(ITEM, stream_options={}), "only allowed when 'stream'", "stream_options", None),
    "background": (put(ITEM, background=True), "does not speak", "background", BAD),
    "metadata": (put(ITEM, metadata={str(at): "" for at in range(17)}), "array too long", "metadata", "array_above_max_length"),
    "effort": (put(ITEM, reasoning={"effort": "low"}), "not supported with this model", "reasoning.effort", MOVED),
    "encrypted": (
        put(ITEM, include=["reasoning.encrypted_content"]),
        "Encrypted content is not supported with this model.",
        "include",
        None,
    ),
    "tool name": (tool(name="a b"), "does not match pattern", "tools[0].name", BAD),
    "two tools": (put(ITEM, tools=[WEATHER_TOOL, WEATHER_TOOL]), "more than one tool", "tools[1].name", None),
    "strict by default": (
        tool(parameters={"type": "object", "properties": {}}),
        "'additionalProperties' is required",
        "tools[0].parameters",
        "invalid_function_parameters",
    ),
    "choice": (put(ITEM, tool_choice={"type": "function", "name": "g"}), "'function.g' not found", "tool_choice", None),
    "allowed": (
        put(
            ITEM, tools=[WEATHER_TOOL], tool_choice={"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "g"}]}
        ),
        "'function.g' not found",
        "tool_choice",
        None,
    ),
    "required alone": (put(ITEM, tool_choice="required"), "only allowed when 'tools' are specified", "tool_choice", None),
    "open format": (form({"type": "object"}), "'additionalProperties' is required", "text.format.schema", "invalid_json_schema"),
    "format name": (form(OBJECT, name="a b"), "does not match pattern", "text.format.name", BAD),
    "say json": (put(ITEM, text={"format": {"type": "json_object"}}), "must contain the word 'json'", "text.format", None),
    "image": (
        spoken({"type": "input_image", "detail": "auto", "image_url": uri("image/gif", png(1, 1))}),
        "unsupported image",
        "input[0].content[0].image_url",
        "invalid_image_format",
    ),
    "no image": (
        spoken({"type": "input_image", "detail": "auto"}),
        "Missing",
        "input[0].content[0].image_url",
        "missing_required_parameter",
    ),
    "file": (
        spoken({"type": "input_file", "filename": "a", "file_data": uri("application/pdf", b"x")}),
        "application/pdf",
        "input[0].content[0].file_data",
        BAD,
    ),
    "file url": (
        spoken({"type": "input_file", "file_url": "file:///a"}),
        "Failed to download",
        "input[0].content[0].file_url",
        "invalid_image_url",
    ),
}
OF_GPT_5: dict[str, tuple[Doc, str, str | None, str | None]] = {
    "temperature": (put(ITEM, temperature=0.2), "not supported with this model", "temperature", MOVED),
    "effort": (
        put(ITEM, reasoning={"effort": "none"}),
        "Supported values are: 'minimal', 'low', 'medium', 'high'.",
        "reasoning.effort",
        "unsupported_value",
    ),
}


def test_refusals() -> None:
    fake = OpenAIResponses()
    with fake.serving() as root:
        for name, (doc, *rest) in REFUSED.items():
            refused(name, post(root, {"model": "gpt-4o", **doc}, RESPONSES), *rest)
        for name, (doc, *rest) in OF_GPT_5.items():
            refused(name, post(root, {"model": "gpt-5", **doc}, RESPONSES), *rest)
        refused("no model", post(root, put(ITEM), RESPONSES), "'model'", "model", "missing_required_parameter")
        refused("model", post(root, {"model": "x", **put(ITEM)}, RESPONSES), "does not exist", None, "model_not_found", 404)
        refused(
            "lost",
            post(root, {"model": "gpt-5", **put(THOUGHT, CALL, OUT)}, RESPONSES),
            "'rs_1' not found. Items are not persisted",
            "input",
            None,
            404,
        )
        refused("get", fetch(root, RESPONSES + "/resp_x"), "'resp_x' not found", None, None, 404)
        refused("other", fetch(root, RESPONSES + "/x/y"), "Invalid URL (GET /v1/responses/x/y)", None, None, 404)
    assert fake.docs == [] and fake.made == 0
