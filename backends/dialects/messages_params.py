"""Parameters and tools of Anthropic Messages → chat. Pure; nothing here looks into messages.

Source of the format: `MessageCreateParams` of Anthropic's SDK and the API reference.

Thinking → `reasoning_effort`: `output_config.effort` is taken as it is. A budget alone becomes a level: below 4,096 tokens low,
below 16,384 medium, else high. `adaptive` alone is high, Anthropic's own default of `effort`. `disabled` is none. Without
`thinking` and `effort` nothing is sent.
"""

from __future__ import annotations

from typing import Any

import msgspec

from backends import wire
from backends.dialects.messages_read import Obj, Report, a_list, a_string, an_object, maybe_string, missing, wrong
from backends.wire import Doc

LOW, MEDIUM = 4096, 16384  # thinking tokens below which an effort is low, medium
_EFFORTS = frozenset({"low", "medium", "high", "xhigh", "max"})
_TIERS = {"auto": "auto", "standard_only": "default"}
# Chat's names with the same meaning, and what engines take beside it; sent as they came.
PASSED = (
    "model", "stream", "temperature", "top_p", "top_k", "seed", "min_p", "presence_penalty", "frequency_penalty", "repetition_penalty",
    "logit_bias", "chat_template_kwargs", "cache_salt", "priority", "prompt_cache_key",
)  # fmt: skip
_READ = frozenset({
    "messages", "system", "max_tokens", "stop_sequences", "metadata", "tools", "tool_choice", "thinking", "output_config", "output_format",
    "service_tier", *PASSED,
})  # fmt: skip
# What changes what the answer means, so that leaving it out must be the client's own decision.
_OURS_NOT = {
    "mcp_servers": "MCP servers are reached by Anthropic only.",
    "container": "containers are run by Anthropic only.",
}
_TOOL = frozenset({"type", "name", "description", "input_schema", "strict", "cache_control", "eager_input_streaming"})
_any = msgspec.json.Decoder()


def value(doc: Doc, key: str) -> Any:
    """The value under `key`, decoded; None when absent. Raises `Fault` when it is nested beyond reason."""
    raw = doc.get(key)
    if raw is None:
        return None
    try:
        return _any.decode(raw)
    except (msgspec.MsgspecError, RecursionError):
        raise wire.bad(f"{key}: it is not JSON that can be read.", param=key) from None


def params(doc: Doc, report: Report, *, counting: bool = False) -> Doc:
    """All of the chat document but `messages`. `counting`: the document asks for its own size, so `max_tokens` may be missing."""
    out: Doc = {key: doc[key] for key in PASSED if key in doc and doc[key] != wire.NULL}
    if "model" not in out:
        raise missing("model")
    if wire.flag(doc, "stream"):
        out["stream_options"] = msgspec.Raw(b'{"include_usage":true}')
    if not counting:
        out["max_completion_tokens"] = wire.raw(_limit(value(doc, "max_tokens"), report))
    _stops(doc, out)
    _metadata(doc, out, report)
    _tools(doc, out, report)
    _reasoning(doc, out, report)
    _format(doc, out)
    _others(doc, out, report)
    return out


def _limit(most: object, report: Report) -> int:
    """Messages demands it, and so do we: an answer of unknown length costs unknown money."""
    if most is None:
        raise missing("max_tokens")
    if not isinstance(most, int) or isinstance(most, bool) or most < 0:
        raise wrong("max_tokens", "an integer of at least 1")
    if most == 0:
        report.cannot("max_tokens", "0 only warms Anthropic's own prompt cache; at least 1 token must be asked for.")
        return 1
    return most


def _stops(doc: Doc, out: Doc) -> None:
    stops = value(doc, "stop_sequences")
    if not stops and (stops is None or isinstance(stops, list)):
        return
    if not all(isinstance(s, str) for s in a_list(stops, "stop_sequences")):
        raise wrong("stop_sequences", "a list of strings")
    out["stop"] = doc["stop_sequences"]


def _metadata(doc: Doc, out: Doc, report: Report) -> None:
    given = value(doc, "metadata")
    if given is None:
        return
    metadata = an_object(given, "metadata")
    user = maybe_string(metadata, "user_id", "metadata")
    if user:
        out["user"] = wire.raw(user)
    report.extras(metadata, frozenset({"user_id"}), "metadata")


def _tools(doc: Doc, out: Doc, report: Report) -> None:
    given = value(doc, "tools")
    tools = [] if given is None else a_list(given, "tools")
    made = [tool for i, item in enumerate(tools) if (tool := _tool(an_object(item, f"tools[{i}]"), f"tools[{i}]", report)) is not None]
    if made:
        out["tools"] = wire.raw(made)
    asked = value(doc, "tool_choice")
    if asked is None:
        return
    choice = an_object(asked, "tool_choice")
    if not tools:
        raise wire.bad("tool_choice: may only be specified while providing tools.", param="tool_choice")
    if made:
        _choice(choice, made, out, report)


def _tool(tool: Obj, path: str, report: Report) -> dict[str, Any] | None:
    """A function tool; None for one that only Anthropic runs or describes, when it may be dropped."""
    kind = tool.get("type")
    name = maybe_string(tool, "name", path)
    if kind is not None and kind != "custom":
        what = f"'{name}' ({kind})" if name else f"'{kind}'"
        report.cannot(path, f"the tool {what} is defined by Anthropic and other models do not know it.")
        return None
    function: dict[str, Any] = {"name": a_string(tool, "name", path)}
    if tool.get("description") is not None:
        function["description"] = a_string(tool, "description", path)
    if tool.get("input_schema") is None:
        raise missing(f"{path}.input_schema")
    function["parameters"] = an_object(tool["input_schema"], f"{path}.input_schema")
    if tool.get("strict") is not None:
        function["strict"] = tool["strict"]
    report.extras(tool, _TOOL, path)
    made: dict[str, Any] = {"type": "function", "function": function}
    if tool.get("cache_control") is not None:
        made["cache_control"] = tool["cache_control"]
    return made


_CHOICES = {"auto": "auto", "any": "required", "none": "none"}


def _choice(choice: Obj, made: list[dict[str, Any]], out: Doc, report: Report) -> None:
    kind = a_string(choice, "type", "tool_choice")
    if kind in _CHOICES:
        out["tool_choice"] = wire.raw(_CHOICES[kind])
    elif kind == "tool":
        name = a_string(choice, "name", "tool_choice")
        if all(tool["function"]["name"] != name for tool in made):
            raise wire.bad(f"tool_choice.name: there is no tool '{name}' among the tools.", param="tool_choice.name")
        out["tool_choice"] = wire.raw({"type": "function", "function": {"name": name}})
    else:
        raise wrong("tool_choice.type", "'auto', 'any', 'tool' or 'none'")
    if choice.get("disable_parallel_tool_use"):
        out["parallel_tool_calls"] = msgspec.Raw(b"false")
    report.extras(choice, frozenset({"type", "name", "disable_parallel_tool_use"}), "tool_choice")


def _reasoning(doc: Doc, out: Doc, report: Report) -> None:
    """See the module's text for the mapping."""
    given = value(doc, "output_config")
    asked = None if given is None else maybe_string(an_object(given, "output_config"), "effort", "output_config")
    if asked and asked not in _EFFORTS:
        raise wrong("output_config.effort", "'low', 'medium', 'high', 'xhigh' or 'max'")
    thinking = value(doc, "thinking")
    effort = asked or None
    if thinking is not None:
        effort = _effort(an_object(thinking, "thinking"), effort, report)
    if effort is not None:
        out["reasoning_effort"] = wire.raw(effort)


def _effort(thinking: Obj, asked: str | None, report: Report) -> str:
    kind = a_string(thinking, "type", "thinking")
    if thinking.get("display") == "omitted":
        report.note("thinking.display", "dropped", "What a model thinks is sent whenever its backend shows it.")
    if kind == "disabled":
        if asked:
            report.note("output_config.effort", "dropped", "Thinking is disabled.")
        return "none"
    if kind == "enabled":
        return _budget(thinking, asked, report)
    if kind == "between_tools":
        report.note("thinking.type", "emulated", "Thinking is asked for everywhere, not only between tools.")
    elif kind != "adaptive":
        raise wrong("thinking.type", "'enabled', 'disabled', 'adaptive' or 'between_tools'")
    return asked or "high"


def _budget(thinking: Obj, asked: str | None, report: Report) -> str:
    budget = thinking.get("budget_tokens")
    if budget is None:
        raise missing("thinking.budget_tokens")
    if not isinstance(budget, int) or isinstance(budget, bool) or budget < 1024:
        raise wrong("thinking.budget_tokens", "an integer of at least 1024")
    if asked:
        report.note("thinking.budget_tokens", "dropped", "output_config.effort says how much to think.")
        return asked
    effort = "low" if budget < LOW else "medium" if budget < MEDIUM else "high"
    report.note("thinking.budget_tokens", "mapped", f"{budget} tokens are asked for as reasoning_effort '{effort}'.")
    return effort


def _format(doc: Doc, out: Doc) -> None:
    """`output_config.format`, or `output_format` as it was called in its beta."""
    config = value(doc, "output_config")
    given, path = (config or {}).get("format"), "output_config.format"
    if given is None:
        given, path = value(doc, "output_format"), "output_format"
    if given is None:
        return
    form = an_object(given, path)
    if a_string(form, "type", path) != "json_schema":
        raise wrong(f"{path}.type", "'json_schema'")
    if form.get("schema") is None:
        raise missing(f"{path}.schema")
    schema = {"name": "output", "strict": True, "schema": an_object(form["schema"], f"{path}.schema")}
    out["response_format"] = wire.raw({"type": "json_schema", "json_schema": schema})


def _others(doc: Doc, out: Doc, report: Report) -> None:
    tier = wire.text(doc, "service_tier")
    if tier is not None:
        if tier not in _TIERS:
            raise wrong("service_tier", "'auto' or 'standard_only'")
        out["service_tier"] = wire.raw(_TIERS[tier])
    for key in sorted(doc.keys() - _READ):
        given = value(doc, key)
        if given is None or given == [] or given == {}:
            continue
        if key in _OURS_NOT:
            report.cannot(key, _OURS_NOT[key])
        else:
            report.note(key, "dropped", "It has no counterpart in the chat format.")
