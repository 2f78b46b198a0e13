"""Chat's parameters as Converse's `inferenceConfig`, `additionalModelRequestFields`, `toolConfig` and `outputConfig`. Pure.

Sources: botocore's service model of bedrock-runtime; AWS's Nova user guides (topK, reasoningConfig); for the shape of reasoning by
model family what langchain-aws #1188 and opencode #48195 measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from backends.dialects.anthropic_params import BUDGETS, MIN_BUDGET, THINKING_TOP_P
from backends.dialects.bedrock_chat import CacheControl, Turns, point
from backends.dialects.bedrock_job import Block, Job, bad, given, read
from backends.wire import NULL, Doc

_bool = msgspec.json.Decoder(bool)
_int = msgspec.json.Decoder(int)
_number = msgspec.json.Decoder(float)
_string = msgspec.json.Decoder(str)
_stops = msgspec.json.Decoder(str | list[str])
_dict = msgspec.json.Decoder(dict[str, Any])

# What changes no answer and has no place at Bedrock.
_UNNEEDED = {
    "user": "Converse has no user id; send requestMetadata to have it in invocation logs",
    "metadata": "Converse keeps no answers; send requestMetadata to have it in invocation logs",
    "store": "Converse keeps no answers",
    "prompt_cache_key": "Bedrock caches by cache points",
    "prompt_cache_retention": "Bedrock caches by cache points",
    "safety_identifier": "Converse has no user id",
}
# What asks for nothing when it has one of these values.
_NEUTRAL: Mapping[str, frozenset[bytes]] = {
    "frequency_penalty": frozenset({b"0", b"0.0"}), "presence_penalty": frozenset({b"0", b"0.0"}), "logit_bias": frozenset({b"{}"}),
    "logprobs": frozenset({b"false"}), "top_logprobs": frozenset({b"0"}), "modalities": frozenset({b'["text"]'}),
}  # fmt: skip
# Handled here or elsewhere, or (`n`) by whoever sends the request.
_KNOWN = frozenset({
    "model", "messages", "stream", "stream_options", "n", "max_tokens", "max_completion_tokens", "temperature", "top_p", "top_k", "stop",
    "seed", "tools", "tool_choice", "parallel_tool_calls", "response_format", "reasoning_effort", "thinking", "service_tier",
})  # fmt: skip
# Converse's own, sent as they are.
NATIVE = (
    "additionalModelRequestFields", "additionalModelResponseFieldPaths", "guardrailConfig", "performanceConfig", "promptVariables",
    "requestMetadata",
)  # fmt: skip
_EFFORTS = frozenset({"none", *BUDGETS})
_ROOM = 4096  # tokens left for the answer when the client sets no bound
_TIERS = frozenset({"priority", "default", "flex"})


def unknown(doc: Doc, job: Job) -> None:
    """Refuses or notes what has no meaning here."""
    for key, value in doc.items():
        if key in _KNOWN or key in NATIVE or value == NULL or bytes(value) in _NEUTRAL.get(key, ()):
            continue
        if key in _UNNEEDED:
            job.note(key, "dropped", _UNNEEDED[key])
        else:
            job.cannot(key, "Converse has nothing like it")


def thinking(doc: Doc, job: Job, history: Turns) -> dict[str, Any]:
    """The model's own fields that ask for reasoning; empty when there is to be none."""
    asked = read(doc, "thinking", _dict)
    if asked is not None and job.family == "claude" and asked.get("type") != "disabled":
        return _unless_bare({"thinking": asked}, job, history, "thinking")
    if asked is not None and job.family != "claude":
        job.cannot("thinking", "only Claude takes it; send reasoning_effort")
    effort = read(doc, "reasoning_effort", _string)
    if effort is None:
        return {}
    if effort not in _EFFORTS:
        raise bad(f"'reasoning_effort' is '{effort}'; use none, minimal, low, medium, high, xhigh or max.", "reasoning_effort")
    fields = _effort(effort, job)
    return _unless_bare(fields, job, history, "reasoning_effort") if "thinking" in fields else fields


def _effort(effort: str, job: Job) -> dict[str, Any]:
    kind = job.facts.thinking
    if kind == "none":
        if effort != "none":
            job.cannot("reasoning_effort", "it does not reason")
        return {}
    job.note("reasoning_effort", "mapped", "the model's own reasoning fields")
    if kind == "level":
        return _level(effort, job)
    if effort == "none":
        return {"thinking": {"type": "disabled"}} if kind == "adaptive" else {}
    if kind == "budget":
        return {"thinking": {"type": "enabled", "budget_tokens": BUDGETS[effort]}}
    shown = {"type": "adaptive", "display": "summarized"}  # newer models leave the text out unless they are asked for it
    return {"thinking": shown, "output_config": {"effort": "low" if effort == "minimal" else effort}}


def _level(effort: str, job: Job) -> dict[str, Any]:
    if job.family == "nova2":
        if effort == "none":
            return {"reasoningConfig": {"type": "disabled"}}
        level = {"minimal": "low", "xhigh": "high", "max": "high"}.get(effort, effort)
        return {"reasoningConfig": {"type": "enabled", "maxReasoningEffort": level}}
    if job.family == "openai":
        return {"reasoning": {"effort": "low" if effort == "minimal" else effort}}
    if job.family == "harmony":
        return _harmony(effort, job)
    return {"reasoning_effort": effort}


def _harmony(effort: str, job: Job) -> dict[str, Any]:
    """gpt-oss knows low, medium and high, and always reasons."""
    if effort == "none":
        job.cannot("reasoning_effort", "it always reasons; send low")
        return {}
    return {"reasoning_effort": {"minimal": "low", "xhigh": "high", "max": "high"}.get(effort, effort)}


def _unless_bare(fields: dict[str, Any], job: Job, history: Turns, param: str) -> dict[str, Any]:
    """Without a budget of thinking where Claude refuses it: when the turn to be continued has tool calls that no thinking precedes, or is
    the assistant's own."""
    begun = history.messages[-1]["role"] == "assistant"
    if not (history.bare or begun) or not by_budget(fields):
        return fields
    why = "the assistant's message is to be continued" if begun else "the calls to be continued have no signed thinking"
    job.note(param, "dropped", why)
    return {}


def inference(doc: Doc, job: Job, extra: dict[str, Any]) -> dict[str, Any]:
    """`inferenceConfig`. Adds to `extra` (the model's own fields) what has its place there and fits a thinking budget to the bound."""
    out: dict[str, Any] = {}
    fixed = _fixed(job, extra)
    limit = _limit(doc, job, extra)
    budget = extra.get("thinking", {}).get("budget_tokens")
    if isinstance(budget, int):
        limit = _fit(limit, budget, job, extra)
    if limit is not None:
        out["maxTokens"] = limit
    out |= _sampling(doc, job, extra, fixed)
    stops = read(doc, "stop", _stops)
    listed = [stop for stop in ([stops] if isinstance(stops, str) else stops or []) if stop]
    if job.family == "claude" and any(not stop.strip() for stop in listed):
        job.cannot("stop", "it takes no stop sequence of white space only")
        listed = [stop for stop in listed if stop.strip()]
    if listed:
        out["stopSequences"] = listed
    seed = read(doc, "seed", _int)
    if seed is not None and job.facts.seed:
        extra["seed"] = seed
    elif seed is not None:
        job.cannot("seed", "Converse has no seed")
    return out


def _fixed(job: Job, extra: Mapping[str, Any]) -> str:
    """Why sampling cannot be set; empty when it can."""
    if not job.facts.sampling:
        return "it takes no sampling parameters"
    return "thinking is on" if thinks(extra) or _deep(extra) else ""


def _deep(extra: Mapping[str, Any]) -> bool:
    """Whether Nova reasons with high effort, beside which it takes neither sampling nor a bound on tokens (inspect_ai #3767)."""
    return bool(extra.get("reasoningConfig", {}).get("maxReasoningEffort") == "high")


def _limit(doc: Doc, job: Job, extra: Mapping[str, Any]) -> int | None:
    """The bound on the answer's tokens that the client set."""
    key = "max_completion_tokens" if given(doc, "max_completion_tokens") else "max_tokens"
    limit, most = read(doc, key, _int), job.facts.max_output
    if limit is not None and limit < 1:
        raise bad(f"'{key}' must be at least 1.", key)
    if limit is not None and _deep(extra):
        job.cannot(key, "it takes no bound on tokens with high reasoning effort")
        return None
    if limit is not None and most is not None and limit > most:
        job.note(key, "clamped", f"this model gives at most {most} tokens")
        return most
    return limit


def _fit(limit: int | None, budget: int, job: Job, extra: dict[str, Any]) -> int | None:
    """The bound with a thinking budget below it, as Claude demands. Mutates the budget in `extra`."""
    most = job.facts.max_output
    if limit is None:
        limit = budget + _ROOM if most is None else min(most, budget + _ROOM)
    if budget < limit:
        return limit
    if limit <= MIN_BUDGET:
        job.cannot("reasoning_effort", f"thinking takes {MIN_BUDGET} tokens at least, and the answer may have {limit}")
        del extra["thinking"]
        return limit
    fitted = max(MIN_BUDGET, limit * 4 // 5)
    extra["thinking"] = {**extra["thinking"], "budget_tokens": fitted}
    job.note("reasoning_effort", "clamped", f"{fitted} tokens of thinking fit into the bound on the answer")
    return limit


def by_budget(extra: Mapping[str, Any]) -> bool:
    """Whether Claude thinks with a budget, beside which no tool may be forced."""
    return bool(extra.get("thinking", {}).get("type") == "enabled")


def thinks(extra: Mapping[str, Any]) -> bool:
    """Whether Claude's thinking is on."""
    return extra.get("thinking", {}).get("type") in ("enabled", "adaptive")


def _sampling(doc: Doc, job: Job, extra: dict[str, Any], fixed: str) -> dict[str, Any]:
    out: dict[str, Any] = {}
    temperature, top_p, top_k = read(doc, "temperature", _number), read(doc, "top_p", _number), read(doc, "top_k", _int)
    if temperature is not None:
        _temperature(temperature, fixed, job, out)
    if top_p is not None and not 0 <= top_p <= 1:
        raise bad("'top_p' must be between 0 and 1.", "top_p")
    if top_p is not None and top_p != 1:
        both = "" if job.facts.temperature_with_top_p or "temperature" not in out else "it takes temperature or top_p, not both"
        if (fixed and not (thinks(extra) and job.facts.sampling and top_p >= THINKING_TOP_P)) or both:
            job.cannot("top_p", fixed or both)
        else:
            out["topP"] = top_p
    if top_k is not None and fixed:
        job.cannot("top_k", fixed)
    elif top_k is not None and job.family in ("nova", "nova2"):
        extra["inferenceConfig"] = {"topK": top_k}
    elif top_k is not None:
        extra["top_k"] = top_k
    return out


def _temperature(asked: float, fixed: str, job: Job, out: dict[str, Any]) -> None:
    most = min(1.0, job.facts.temperature_max)
    if not 0 <= asked <= 2:
        raise bad("'temperature' must be between 0 and 2.", "temperature")
    if fixed and asked != 1:
        job.cannot("temperature", fixed)
    elif not fixed:
        out["temperature"] = min(asked, most)
        if asked > most:
            job.note("temperature", "clamped", f"Converse takes at most {most:g}")


def tier(doc: Doc, job: Job) -> Block | None:
    """`serviceTier`, or None for the default."""
    asked = read(doc, "service_tier", _string)
    if asked in _TIERS:
        return {"type": asked}
    if asked not in (None, "auto"):
        job.note("service_tier", "dropped", "Bedrock knows priority, default and flex")
    return None


# -- tools -------------------------------------------------------------------------------------------------------------------


class Definition(msgspec.Struct):
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(msgspec.Struct):
    type: str = "function"
    function: Definition | None = None
    cache_control: CacheControl | None = None


class Named(msgspec.Struct):
    name: str = ""


class Allowed(msgspec.Struct):
    mode: str = "auto"
    tools: list[Tool] = []


class Choice(msgspec.Struct):
    type: str = ""
    function: Named | None = None
    allowed_tools: Allowed | None = None


_tools = msgspec.json.Decoder(list[Tool])
_choice = msgspec.json.Decoder(str | Choice)
_TOOL_NAME = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-")


def spec(name: str, schema: dict[str, Any], description: str | None = None, strict: bool | None = None) -> Block:
    """One tool as Converse takes it. Raises `Fault` for a name that it refuses."""
    if not name or len(name) > 64 or not _TOOL_NAME.issuperset(name):
        raise bad(f"The tool name '{name[:80]}' must be of letters, digits, '_' and '-', at most 64.", "tools")
    out: dict[str, Any] = {"name": name, "inputSchema": {"json": schema if "type" in schema else {"type": "object", **schema}}}
    if description and not description.isspace():
        out["description"] = description
    if strict:
        out["strict"] = True
    return {"toolSpec": out}


def tools(doc: Doc, job: Job, history: Turns) -> list[Block]:
    """`toolConfig.tools`: those offered, and where none is offered those that the history has calls of."""
    blocks: list[Block] = []
    asked = read(doc, "tools", _tools)
    for i, tool in enumerate(asked or []):
        if tool.function is None:
            job.cannot(f"tools[{i}]", f"it knows functions only, not '{tool.type}'")
            continue
        f, native = tool.function, job.facts.json_schema == "native"
        blocks.append(spec(f.name, f.parameters or {"type": "object", "properties": {}}, f.description, f.strict if native else None))
        if f.strict and not native:
            job.note(f"tools[{i}].function.strict", "dropped", "this model does not enforce schemas")
        blocks += point(tool.cache_control, f"tools[{i}].cache_control", job)
    return blocks or _remembered(job, history)


def _remembered(job: Job, history: Turns) -> list[Block]:
    """Tools made up from the calls in the history: Bedrock refuses such a history without them."""
    if history.called:
        job.note("tools", "emulated", "those called earlier were named again, since Bedrock demands it; none is to be called")
        job.idle = True
    return [spec(name, {"type": "object"}) for name in history.called]


def choice(doc: Doc, job: Job, history: Turns, blocks: list[Block], forcing: bool) -> tuple[list[Block], Block | None]:
    """The tools that are left, and `toolChoice` (None for auto). `forcing`: whether this model may be forced now."""
    asked = read(doc, "tool_choice", _choice)
    if asked is None or asked == "auto" or not given(doc, "tools") or bytes(doc["tools"]) == b"[]":
        return blocks, None
    if asked == "none":
        return _none(job, history, blocks), None
    only, forced = _narrow(asked, blocks)
    if forced is not None and not forcing:
        job.cannot("tool_choice", "it cannot be made to call a tool now")
        forced = None
    return only, forced


def _none(job: Job, history: Turns, blocks: list[Block]) -> list[Block]:
    """No tools at all, or those with a sentence that none be called, where the history needs them. Converse has no 'none'."""
    if not history.called:
        job.note("tool_choice", "mapped", "the tools were left out")
        return []
    job.note("tool_choice", "emulated", "an instruction: Bedrock demands the tools that the history calls, and has no 'none'")
    job.idle = True
    return blocks


def _narrow(asked: str | Choice, blocks: list[Block]) -> tuple[list[Block], Block | None]:
    if asked == "required":
        return blocks, {"any": {}}
    names = {block["toolSpec"]["name"] for block in blocks if "toolSpec" in block}
    if isinstance(asked, Choice) and asked.allowed_tools is not None:
        wanted = {tool.function.name for tool in asked.allowed_tools.tools if tool.function is not None}
        if not wanted or not wanted <= names:
            raise bad("'tool_choice.allowed_tools.tools' must name some of 'tools'.", "tool_choice")
        left = [block for block in blocks if "toolSpec" not in block or block["toolSpec"]["name"] in wanted]
        return left, {"any": {}} if asked.allowed_tools.mode == "required" else None
    if isinstance(asked, Choice) and asked.function is not None and asked.function.name in names:
        return blocks, {"tool": {"name": asked.function.name}}
    raise bad("'tool_choice' must be none, auto, required, or name one of 'tools'.", "tool_choice")


def single(doc: Doc, job: Job, offered: bool) -> bool:
    """Whether only the first tool call may reach the client: Converse cannot be told to make one at a time."""
    one = read(doc, "parallel_tool_calls", _bool) is False and offered
    if one:
        job.note("parallel_tool_calls", "emulated", "calls after an answer's first are left out")
    return one
