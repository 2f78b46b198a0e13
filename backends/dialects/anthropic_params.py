"""Parameters of a chat request as Anthropic's: sampling, limits, thinking, metadata, cache marks. Pure.

Sources: `MessageCreateParams` of the official SDK; wire traps 13, 32 to 37, 39, 44.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from backends import wire
from backends.dialects.anthropic_report import Block, Report, value
from backends.dialects.types import Facts

DEFAULT_MAX_TOKENS = 8192  # where neither the client nor the table of models says more
MIN_BUDGET = 1024  # tokens: the least that Anthropic takes
BUDGETS = {"minimal": 1024, "low": 4096, "medium": 12288, "high": 24576, "xhigh": 32768, "max": 65536}
_EFFORTS = frozenset({"low", "medium", "high", "xhigh", "max"})
THINKING_TOP_P = 0.95  # the least top_p that a model takes while it thinks
MAX_MARKS = 4
# Anthropic's own parameters, which a client may send as they are.
OWN = frozenset({"top_k", "container", "inference_geo", "speed", "user_profile_id"})
_OWN_OBJECTS = frozenset({"thinking", "cache_control", "output_config"})
# What only tells OpenAI something: without it the answer is the same.
_IDLE = {
    "store": "nothing is stored at Anthropic", "metadata": "Anthropic keeps no tags", "prediction": "Anthropic takes no prediction",
    "prompt_cache_key": "Anthropic caches by cache_control marks", "prompt_cache_retention": "Anthropic caches by cache_control marks",
}  # fmt: skip
# What changes the answer and Anthropic does not have; the values at which it changes nothing.
_LACKS: dict[str, tuple[bytes, ...]] = {
    "seed": (), "logprobs": (b"false",), "top_logprobs": (b"0",), "logit_bias": (b"{}",), "frequency_penalty": (b"0", b"0.0"),
    "presence_penalty": (b"0", b"0.0"), "n": (b"1",), "audio": (), "modalities": (b'["text"]',), "verbosity": (b'"medium"',),
    "web_search_options": (),
}  # fmt: skip
# Read elsewhere.
_READ = frozenset({
    "model", "messages", "stream", "stream_options", "max_tokens", "max_completion_tokens", "temperature", "top_p", "stop", "tools",
    "tool_choice", "parallel_tool_calls", "response_format", "reasoning_effort", "user", "safety_identifier", "service_tier",
})  # fmt: skip
_Stops: Any = str | list[str]
_TIERS = {"auto": "auto", "default": "standard_only", "priority": "auto", "standard_only": "standard_only"}


def leftovers(doc: wire.Doc, out: Block, report: Report) -> None:
    """Everything that Anthropic has no parameter for, and its own, which are copied. Adds to `out`. May raise `Fault` when strict."""
    for key, raw in doc.items():
        if key in _READ or raw == wire.NULL:
            continue
        if key in OWN:
            out[key] = raw
        elif key in _OWN_OBJECTS:
            out[key] = value(doc, key, dict[str, Any])
        elif key in _IDLE:
            if bytes(raw) != b"false":
                report.tell(key, "dropped", _IDLE[key])
        elif key in _LACKS:
            if msgspec.json.format(bytes(raw), indent=-1) not in _LACKS[key]:
                report.cannot(key, "is not available at Anthropic")
        else:
            report.cannot(key, "is not known to Anthropic, which refuses what it does not know")


def max_tokens(doc: wire.Doc, facts: Facts, report: Report) -> int:
    """The limit of the answer in tokens, which Anthropic must be told."""
    key = "max_completion_tokens" if value(doc, "max_completion_tokens", int) is not None else "max_tokens"
    asked = value(doc, key, int)
    if asked is None:
        if facts.max_output is None:
            report.tell("max_tokens", "mapped", f"was not given and Anthropic needs it: {DEFAULT_MAX_TOKENS}")
        return facts.max_output or DEFAULT_MAX_TOKENS
    if asked < 1:
        raise wire.bad(f"'{key}' must be at least 1.", param=key)
    if facts.max_output is not None and asked > facts.max_output:
        report.tell(key, "clamped", f"this model gives at most {facts.max_output} tokens")
        return facts.max_output
    return asked


def sampling(doc: wire.Doc, out: Block, facts: Facts, report: Report) -> None:
    """temperature, top_p, and Anthropic's top_k. Adds to `out`, whose `thinking` is settled already. May raise `Fault` when strict."""
    temperature, top_p = value(doc, "temperature", float), value(doc, "top_p", float)
    if not facts.sampling or thinks(out):
        _fixed(temperature, top_p, out, facts, report)
        return
    if temperature is not None and top_p is not None and not facts.temperature_with_top_p:
        if temperature == 1.0:
            temperature = None  # the default: top_p alone says the same
        elif top_p != 1.0:
            report.cannot("top_p", "cannot be set together with temperature on this model")
            top_p = None
        else:
            top_p = None
    if temperature is not None:
        most = min(1.0, facts.temperature_max)
        if temperature > most:
            report.tell("temperature", "clamped", f"Anthropic takes at most {most:g}")
        out["temperature"] = min(temperature, most)
    if top_p is not None:
        out["top_p"] = top_p


def _fixed(temperature: float | None, top_p: float | None, out: Block, facts: Facts, report: Report) -> None:
    """A model that takes no sampling parameters, or none but a high top_p since it thinks. Defaults go silently."""
    why = "cannot be set while the model thinks" if facts.sampling else "is not taken by this model"
    if temperature is not None and temperature != 1.0:
        report.cannot("temperature", why)
    if top_p is not None and facts.sampling and top_p >= THINKING_TOP_P:
        out["top_p"] = top_p
    elif top_p is not None and top_p != 1.0:
        report.cannot("top_p", why)
    if out.pop("top_k", None) is not None:
        report.cannot("top_k", why)


def stops(doc: wire.Doc, out: Block, report: Report) -> None:
    """Stop sequences; Anthropic takes any number, but none that is blank. Adds to `out`."""
    stop = value(doc, "stop", _Stops)
    given = [stop] if isinstance(stop, str) else stop or []
    good = [s for s in given if s.strip()]
    if len(good) != len(given):
        report.cannot("stop", "has a sequence without a visible character, which Anthropic refuses")
    if good:
        out["stop_sequences"] = good


def thinking(doc: wire.Doc, out: Block, facts: Facts, report: Report) -> None:
    """reasoning_effort as the model's own kind of thinking, unless the client set `thinking` itself. Adds to `out`, whose
    `max_tokens` is settled already. May raise `Fault` when strict."""
    effort = value(doc, "reasoning_effort", str)
    if effort is None or "thinking" in out:
        return
    if effort != "none" and effort not in BUDGETS:
        known = ", ".join(["none", *BUDGETS])
        raise wire.bad(f"'reasoning_effort' is {effort!r}; use one of {known}.", param="reasoning_effort")
    if facts.thinking == "none":
        if effort != "none":
            report.cannot("reasoning_effort", "is not taken: this model does not think")
    elif effort == "none":
        out["thinking"] = {"type": "disabled"}
    elif facts.thinking == "budget":
        _budget(effort, out, report)
    else:
        out["thinking"] = {"type": "adaptive", "display": "summarized"}  # newer models leave the text out unless they are asked for it
        if effort not in _EFFORTS:
            report.tell("reasoning_effort", "clamped", "Anthropic's least effort is low")
            effort = "low"
        out["output_config"] = {**out.get("output_config", {}), "effort": effort}


def _budget(effort: str, out: Block, report: Report) -> None:
    """A number of tokens to think with: at least what Anthropic asks, and a fifth of the answer's limit left for the answer."""
    budget = min(BUDGETS[effort], max(MIN_BUDGET, out["max_tokens"] * 4 // 5))
    if budget >= out["max_tokens"]:
        report.cannot("reasoning_effort", f"needs a max_tokens of more than {MIN_BUDGET} on this model")
        return
    report.tell("reasoning_effort", "mapped", f"a budget of {budget} thinking tokens")
    out["thinking"] = {"type": "enabled", "budget_tokens": budget}


def unsigned_loop(doc: wire.Doc, out: Block, report: Report) -> None:
    """With a budget Anthropic refuses tool results whose calls do not follow a thinking block. Where the client has lost it, the model
    does not think in this turn. Removes `thinking` from `out` then."""
    if not by_budget(out) or len(out["messages"]) < 2:
        return
    before, last = out["messages"][-2:]
    if last["content"][0]["type"] == "tool_result" and before["content"][0]["type"] not in ("thinking", "redacted_thinking"):
        del out["thinking"]
        param = "thinking" if "thinking" in doc else "reasoning_effort"
        report.tell(param, "dropped", "the tool calls under way have no thinking_blocks, without which Anthropic refuses their results")


def by_budget(out: Block) -> bool:
    """Whether the request asks for thinking with a budget, which forbids forcing a tool."""
    return bool(out.get("thinking", {}).get("type") == "enabled")


def thinks(out: Block) -> bool:
    """Whether the request asks for thinking of any kind."""
    return out.get("thinking", {}).get("type") in ("enabled", "adaptive")


def account(doc: wire.Doc, out: Block, report: Report) -> None:
    """Who asks, and in which service tier. Adds to `out`. May raise `Fault` when strict."""
    user = wire.text(doc, "safety_identifier") or wire.text(doc, "user")
    if user:
        out["metadata"] = {"user_id": user}
    tier = wire.text(doc, "service_tier")
    if tier is None:
        return
    if tier not in _TIERS:
        report.cannot("service_tier", f"is {tier!r}, which Anthropic does not have")
        return
    if tier == "priority":
        report.tell("service_tier", "mapped", "Anthropic uses priority capacity where the account has it")
    out["service_tier"] = _TIERS[tier]


def cap_marks(out: Block, report: Report) -> None:
    """At most four cache marks, the last ones, and no long-lived one after a short-lived one: else Anthropic refuses. Mutates blocks."""
    most = MAX_MARKS - (1 if "cache_control" in out else 0)
    marked = [block for block in _markable(out) if "cache_control" in block]
    extra = len(marked) - most
    if extra > 0:
        for block in marked[:extra]:
            del block["cache_control"]
        report.tell("cache_control", "dropped", f"Anthropic takes at most {MAX_MARKS} cache marks; the first {extra} went")
    short = False
    for block in marked[max(0, extra) :]:
        mark = block["cache_control"]
        if mark.get("ttl") != "1h":
            short = True
        elif short:
            block["cache_control"] = {**mark, "ttl": "5m"}
            report.tell("cache_control", "clamped", "a mark of 1h cannot follow one of 5m")


def _markable(out: Block) -> Iterator[dict[str, Any]]:
    """Every block that may carry a mark, in the order in which Anthropic caches: tools, system, messages."""
    yield from out.get("tools", ())
    if isinstance(out.get("system"), list):
        yield from out["system"]
    for turn in out["messages"]:
        for block in turn["content"]:
            if block["type"] == "tool_result" and isinstance(block.get("content"), list):
                yield from block["content"]
            yield block
