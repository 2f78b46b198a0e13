"""What OpenAI refuses of a chat request that has the right shape. Pure; the sentences are in `openai_table`."""

from __future__ import annotations

import json
from collections.abc import Iterator

from tests.fakes.providers.openai_rules import Model, fits, function_schema, output_schema, within
from tests.fakes.providers.openai_table import Doc, refuse

RANGES: dict[str, tuple[float, float]] = {
    "temperature": (0.0, 2), "top_p": (0.0, 1), "presence_penalty": (-2.0, 2), "frequency_penalty": (-2.0, 2), "n": (1, 128),
    "top_logprobs": (0, 20), "seed": (-(2**63), 2**63 - 1), "max_completion_tokens": (1, 10**9), "max_tokens": (1, 10**9),
}  # fmt: skip


def check_request(doc: Doc, model: Model) -> None:
    """Raises Refusal for the first thing that the service would refuse."""
    if not doc["messages"]:
        raise refuse("empty array", "messages")
    within(doc, RANGES)
    _limits(doc, model)
    _stops(doc, model)
    _reasoning(doc, model)
    _together(doc)
    _tools(doc)
    _format(doc)
    _messages(doc)


def _limits(doc: Doc, model: Model) -> None:
    if doc.get("max_tokens") is not None and doc.get("max_completion_tokens") is not None:
        raise refuse("two limits", "max_tokens")
    if doc.get("max_tokens") is not None and model.efforts:
        raise refuse("max_tokens", "max_tokens")
    for param in ("max_tokens", "max_completion_tokens"):
        if (doc.get(param) or 0) > model.output:
            raise refuse("too many tokens", param, value=doc[param], limit=model.output)
    if len(doc.get("metadata") or ()) > 16:
        raise refuse("long array", "metadata", limit=16, value=len(doc["metadata"]))


def _stops(doc: Doc, model: Model) -> None:
    stop = doc.get("stop")
    if stop is None:
        return
    if not model.stops:
        raise refuse("unsupported", "stop")
    if stop == []:
        raise refuse("empty array", "stop")
    if isinstance(stop, list) and len(stop) > 4:
        raise refuse("long array", "stop", limit=4, value=len(stop))


def _reasoning(doc: Doc, model: Model) -> None:
    """Which efforts there are, and what goes with none of them (T34)."""
    effort = doc.get("reasoning_effort")
    if effort is not None and effort not in model.efforts:
        if not model.efforts:
            raise refuse("argument", None, key="reasoning_effort")
        raise refuse("effort", "reasoning_effort", value=effort, values=", ".join(f"'{one}'" for one in model.efforts))
    if model.effort(effort) == "none":
        return
    for param, default in (("temperature", 1), ("top_p", 1), ("presence_penalty", 0), ("frequency_penalty", 0), ("n", 1)):
        if doc.get(param) not in (None, default):
            raise refuse("default only", param, value=doc[param], default=default)
    for param in ("logprobs", "top_logprobs", "logit_bias"):
        if doc.get(param):
            raise refuse("unsupported", param)


def _together(doc: Doc) -> None:
    if doc.get("stream_options") is not None and not doc.get("stream"):
        raise refuse("only with", "stream_options", other="stream")
    if doc.get("top_logprobs") is not None and not doc.get("logprobs"):
        raise refuse("only with", "top_logprobs", other="logprobs")
    if not doc.get("tools"):
        for param in ("tool_choice", "parallel_tool_calls"):
            if doc.get(param) is not None:
                raise refuse("without tools", param)


def _tools(doc: Doc) -> None:
    if doc.get("tools") == []:
        raise refuse("empty array", "tools")
    if len(doc.get("tools") or ()) > 128:
        raise refuse("long array", "tools", limit=128, value=len(doc["tools"]))
    names: set[str] = set()
    for at, tool in enumerate(doc.get("tools") or ()):
        function = tool.get("function") or tool["custom"]
        path = f"tools[{at}].{tool['type']}"
        fits(f"{path}.name", function["name"])
        if function["name"] in names:
            raise refuse("two tools", f"{path}.name", name=function["name"])
        names.add(function["name"])
        if "parameters" in function:
            function_schema(function["name"], function["parameters"], bool(function.get("strict")), f"{path}.parameters")
    choice = doc.get("tool_choice")
    if isinstance(choice, dict) and choice["type"] == "function" and choice["function"]["name"] not in names:
        raise refuse("tool choice", "tool_choice", name=f"function.{choice['function']['name']}")


def _format(doc: Doc) -> None:
    form = doc.get("response_format") or {}
    if form.get("type") == "json_object" and "json" not in json.dumps(doc["messages"]).lower():
        raise refuse("say json", "response_format", where="messages")
    if form.get("type") == "json_schema":
        asked = form["json_schema"]
        fits("response_format.json_schema.name", asked["name"])
        if "schema" not in asked:
            raise refuse("missing", "response_format.json_schema.schema")
        why = output_schema(asked["schema"], bool(asked.get("strict")))
        if why is not None:
            raise refuse("format schema", "response_format", name=asked["name"], why=why)


def _messages(doc: Doc) -> None:
    """Every call answered right after it, every answer to a call (T16)."""
    waiting: list[str] = []
    for at, message in enumerate(doc["messages"]):
        path = f"messages.[{at}]"
        if message["role"] == "tool":
            if message["tool_call_id"] not in waiting:
                raise refuse("stray tool", f"{path}.role")
            waiting.remove(message["tool_call_id"])
            continue
        if waiting:
            raise refuse("unanswered", f"{path}.role", ids=", ".join(waiting))
        waiting = list(_calls(message, at)) if message["role"] == "assistant" else []
        if message.get("name") is not None:
            fits(f"messages[{at}].name", message["name"], r"^[^\s<|\\/>]+$")
        if message.get("content") is None and not waiting and not message.get("refusal") and not message.get("function_call"):
            raise refuse("no content", f"{path}.content")
        if message.get("content") == []:
            raise refuse("empty array", f"messages[{at}].content")
    if waiting:
        raise refuse("unanswered", f"messages.[{len(doc['messages'])}].role", ids=", ".join(waiting))


def _calls(message: Doc, at: int) -> Iterator[str]:
    if message.get("tool_calls") == []:
        raise refuse("empty array", f"messages[{at}].tool_calls")
    for index, call in enumerate(message.get("tool_calls") or ()):
        path = f"messages[{at}].tool_calls[{index}]"
        if len(call["id"]) > 40:
            raise refuse("long string", f"{path}.id", limit=40, value=len(call["id"]))
        if call["type"] == "function":
            fits(f"{path}.function.name", call["function"]["name"])
            is_object(call["function"]["arguments"], f"{path}.function.arguments")
        yield call["id"]


def is_object(text: str, param: str) -> None:
    """Arguments are the JSON of an object; an empty string counts as none (T15)."""
    try:
        found = json.loads(text or "{}")
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise refuse("arguments", param)
