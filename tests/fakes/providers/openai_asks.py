"""Requests to the scripted OpenAI by hand, for what an SDK would not send."""

from __future__ import annotations

import base64
from typing import Any

import httpx
from pydantic import BaseModel

from tests.fakes.providers.brain import WEATHER
from tests.fakes.providers.openai_chat import KEY
from tests.fakes.providers.openai_table import Doc

HI: Doc = {"role": "user", "content": "hello"}
F: Doc = {"type": "function", "function": {"name": "f"}}
CALLED: Doc = {"role": "assistant", "tool_calls": [{"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]}
OBJECT: Doc = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"], "additionalProperties": False}


def told(role: str = "tool", **more: Any) -> Doc:
    return {"role": role, "tool_call_id": "call_1", "content": "fine", **more}


def asking(**more: Any) -> Doc:
    return {"messages": [HI], **more}


def saying(*messages: Doc) -> Doc:
    return {"messages": list(messages)}


def part(**part: Any) -> Doc:
    return saying({"role": "user", "content": [part]})


def called(**function: Any) -> Doc:
    return {
        "role": "assistant",
        "tool_calls": [{"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}", **function}}],
    }


def tool(parameters: Any = None, **more: Any) -> Doc:
    return asking(
        tools=[{"type": "function", "function": {"name": "f", **({"parameters": parameters} if parameters is not None else {}), **more}}]
    )


def form(schema: Any, **more: Any) -> Doc:
    return asking(response_format={"type": "json_schema", "json_schema": {"name": "r", "strict": True, "schema": schema, **more}})


def uri(mime: str, data: bytes) -> str:
    return f"data:{mime};base64,{base64.b64encode(data).decode()}"


def post(root: str, doc: Any, path: str = "/v1/chat/completions", key: str = KEY) -> httpx.Response:
    return httpx.post(root + path, json=doc, headers={"authorization": f"Bearer {key}"}, timeout=20, verify=False)


def refused(name: str, reply: httpx.Response, sentence: str, param: str | None, code: str | None, status: int = 400) -> None:
    assert reply.status_code == status, (name, reply.text)
    error = reply.json()["error"]
    assert sentence in error["message"], (name, error)
    assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", param, code), (name, error)


# The Responses API.

RESPONSES = "/v1/responses"
WEATHER_TOOL = {"type": "function", "name": WEATHER.name, "description": WEATHER.description, "parameters": WEATHER.schema, "strict": True}
ITEM: Doc = {"role": "user", "content": "hello"}
CALL: Doc = {"type": "function_call", "call_id": "call_1", "name": "f", "arguments": "{}"}
OUT: Doc = {"type": "function_call_output", "call_id": "call_1", "output": "fine"}
THOUGHT: Doc = {"type": "reasoning", "id": "rs_1", "summary": []}


def put(*items: Doc, **more: Any) -> Doc:
    return {"input": list(items), **more}


def spoken(*parts: Doc, role: str = "user") -> Doc:
    return put({"role": role, "content": list(parts)})


def fetch(root: str, path: str, method: str = "GET") -> httpx.Response:
    return httpx.request(method, root + path, headers={"authorization": f"Bearer {KEY}"}, timeout=20, verify=False)


def exact(value: Any) -> None:
    """Asserts that a model of the SDK, validated from a document, met no field that it does not know. `store` is in the API reference's
    example of a response, though not in the SDK's type."""
    if isinstance(value, BaseModel):
        extra = set(value.model_extra or ()) - ({"store"} if type(value).__name__ == "Response" else set())
        assert not extra, (type(value).__name__, extra)
        for name in type(value).model_fields:
            exact(getattr(value, name))
    elif isinstance(value, list):
        for one in value:
            exact(one)
