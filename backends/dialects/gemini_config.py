"""Chat parameters → Gemini's `generationConfig` and the few that stand beside it. Pure.

Names and ranges: `GenerationConfig` of the `google-genai` SDK; Google's page on its OpenAI compatibility for what
`reasoning_effort` means. Wire traps 32 to 39.
"""

from __future__ import annotations

from typing import Any

import msgspec

from backends.dialects import gemini_chat
from backends.dialects.gemini_chat import KNOWN, Chat, Google, Notes
from backends.dialects.schema import subset
from backends.dialects.schema_tidy import tidy
from backends.dialects.types import Context, Facts
from backends.wire import NULL, Doc, bad

# Tokens of thought for `reasoning_effort`, as Google's own OpenAI compatibility has them; more than `high` there is none.
_BUDGETS = {"none": 0, "minimal": 1024, "low": 1024, "medium": 8192, "high": 24576, "xhigh": 24576, "max": 24576}
_LEVELS = {"none": "MINIMAL", "minimal": "MINIMAL", "low": "LOW", "medium": "MEDIUM", "high": "HIGH", "xhigh": "HIGH", "max": "HIGH"}
_LEAST_BUDGET = 512  # what every model that takes budgets accepts
_PRO_BUDGET = 128  # 2.5 Pro cannot stop thinking
_NO_LESS = {"xhigh", "max"}
MAX_STOPS, MAX_CHOICES, MAX_LOGPROBS = 5, 8, 20
_TIERS = {"flex": "flex", "priority": "priority", "default": "standard"}
# Parameters that say nothing about the answer: leaving them out harms nobody, so no policy refuses them.
_HARMLESS = {
    "user": "Gemini takes no user's name", "safety_identifier": "Gemini takes no user's name", "metadata": "Gemini keeps no metadata",
    "store": "Gemini keeps no answers", "prompt_cache_key": "Gemini caches by itself", "prompt_cache_retention": "Gemini caches by itself",
    "prediction": "Gemini takes no predicted text", "verbosity": "Gemini has no such setting", "cache_control": "Gemini caches by itself",
}  # fmt: skip
_EMPTY = frozenset({b"null", b"{}", b"[]", b'""', b"false"})
_any = msgspec.json.Decoder()
_SNAKE = {"thinking_budget": "thinkingBudget", "include_thoughts": "includeThoughts", "thinking_level": "thinkingLevel"}

Out = dict[str, Any]


def leftovers(doc: Doc, chat: Chat, notes: Notes) -> None:
    """What Gemini has no word for: harmless parameters are noted, others refused when strict."""
    for key in doc.keys() - KNOWN:
        if key in _HARMLESS:
            notes.add(key, "dropped", _HARMLESS[key])
        elif bytes(doc[key]) not in _EMPTY:
            notes.lost(key, "Gemini has no such parameter")
    for key in (chat.extra_body or {}).keys() - {"google"}:
        notes.lost(f"extra_body.{key}", "Gemini has no such parameter")
    for name, raw in (("google", doc.get("google")), ("extra_body.google", (chat.extra_body or {}).get("google"))):
        known = _any.decode(raw) if raw is not None else None
        for key in (known or {}).keys() - gemini_chat.GOOGLE:
            notes.lost(f"{name}.{key}", "it is none of thinking_config, cached_content and safety_settings")


def beside(chat: Chat, google: Google, notes: Notes) -> Out:
    """What stands beside `generationConfig`: safety settings, cached content, service tier."""
    out: Out = {}
    safety = google.safety_settings if google.safety_settings != NULL else chat.safety_settings
    if safety != NULL:
        out["safetySettings"] = safety
    if google.cached_content:
        out["cachedContent"] = google.cached_content
    tier = chat.service_tier
    if tier in _TIERS:
        out["serviceTier"] = _TIERS[tier]
    elif tier not in (None, "auto"):
        notes.add("service_tier", "dropped", "Gemini has the tiers flex, priority and default")
    return out


def config(chat: Chat, google: Google, context: Context, notes: Notes) -> Out:
    """`generationConfig`. Raises `Fault` (bad_request) for what is malformed or, when strict, cannot be honoured."""
    facts, out = context.facts, Out()
    _sampling(out, chat, facts, notes)
    _length(out, chat, facts, notes)
    _stops(out, chat, notes)
    _many(out, chat, facts, notes)
    _logprobs(out, chat, facts, notes)
    _format(out, chat, facts, notes)
    _modalities(out, chat, notes)
    thinking = _thinking(chat, google, context, notes)
    if thinking:
        out["thinkingConfig"] = _fitting(thinking, out.get("maxOutputTokens"), notes)
    return out


def _sampling(out: Out, chat: Chat, facts: Facts, notes: Notes) -> None:
    both = chat.temperature is not None and chat.top_p is not None and not facts.temperature_with_top_p
    for key, name, value in (
        ("temperature", "temperature", chat.temperature), ("top_p", "topP", chat.top_p), ("top_k", "topK", chat.top_k),
        ("presence_penalty", "presencePenalty", chat.presence_penalty), ("frequency_penalty", "frequencyPenalty", chat.frequency_penalty),
    ):  # fmt: skip
        if value is None:
            continue
        if not facts.sampling or (both and key == "top_p"):
            notes.lost(key, "this model does not take it" if not facts.sampling else "this model takes temperature or top_p, not both")
        else:
            out[name] = value
    if out.get("temperature", 0.0) > facts.temperature_max:
        out["temperature"] = facts.temperature_max
        notes.add("temperature", "clamped", f"the most that this model takes is {facts.temperature_max:g}")
    if chat.seed is not None:
        _seed(out, chat.seed, facts, notes)


def _seed(out: Out, seed: int, facts: Facts, notes: Notes) -> None:
    """Gemini's seed has 32 bits (wire trap 37): the lower ones are kept, so that different seeds stay different as far as may be."""
    if not facts.seed:
        notes.lost("seed", "this model takes no seed")
        return
    out["seed"] = (seed + 2**31) % 2**32 - 2**31
    if out["seed"] != seed:
        notes.add("seed", "clamped", "Gemini takes 32 bits: the lower ones were sent")


def _length(out: Out, chat: Chat, facts: Facts, notes: Notes) -> None:
    """The limit counts thoughts too, there as here (wire trap 32)."""
    key = "max_completion_tokens" if chat.max_completion_tokens is not None else "max_tokens"
    most = chat.max_completion_tokens if chat.max_completion_tokens is not None else chat.max_tokens
    if most is None:
        return
    if most < 1:
        raise bad(f"'{key}' must be at least 1.", param=key)
    if facts.max_output is not None and most > facts.max_output:
        notes.add(key, "clamped", f"the most that this model writes is {facts.max_output} tokens")
        most = facts.max_output
    out["maxOutputTokens"] = most


def _stops(out: Out, chat: Chat, notes: Notes) -> None:
    given = [chat.stop] if isinstance(chat.stop, str) else chat.stop or []
    stops = [s for s in given if s]
    if len(stops) < len(given):
        notes.add("stop", "dropped", "Gemini takes no empty stop sequence")
    if len(stops) > MAX_STOPS:
        notes.lost("stop", f"Gemini takes at most {MAX_STOPS} stop sequences")
        stops = stops[:MAX_STOPS]
    if stops:
        out["stopSequences"] = stops


def _many(out: Out, chat: Chat, facts: Facts, notes: Notes) -> None:
    if chat.n is None or chat.n == 1:
        return
    if not 1 <= chat.n <= MAX_CHOICES:
        raise bad(f"'n' must be between 1 and {MAX_CHOICES} for Gemini.", param="n")
    if facts.many:
        out["candidateCount"] = chat.n
    else:
        notes.lost("n", "this model gives one answer at a time")


def _logprobs(out: Out, chat: Chat, facts: Facts, notes: Notes) -> None:
    if not chat.logprobs:
        if chat.top_logprobs:
            raise bad("'top_logprobs' needs 'logprobs': true.", param="top_logprobs")
        return
    if not facts.logprobs:
        notes.lost("logprobs", "this model gives no log probabilities")
        return
    top = chat.top_logprobs or 0
    if not 0 <= top <= MAX_LOGPROBS:
        raise bad(f"'top_logprobs' must be between 0 and {MAX_LOGPROBS}.", param="top_logprobs")
    out["responseLogprobs"] = True
    if top:
        out["logprobs"] = top


def _format(out: Out, chat: Chat, facts: Facts, notes: Notes) -> None:
    """JSON mode and JSON Schema. Models before 3 (those that do not think in levels) refuse either beside functions (wire trap 38)."""
    form = chat.response_format
    if form is None or form.type == "text":
        return
    if form.type not in ("json_object", "json_schema"):
        raise bad("'response_format.type' must be text, json_object or json_schema.", param="response_format.type")
    if chat.tools and chat.tool_choice != "none" and facts.thinking != "level":
        notes.lost("response_format", "this model takes no answer format beside tools")
        return
    if form.type == "json_schema" and facts.json_schema != "native":
        notes.lost("response_format", "this model cannot be held to a schema")
        return
    out["responseMimeType"] = "application/json"
    if form.type == "json_object":
        return
    raw, where = form.json_schema.schema if form.json_schema else NULL, "response_format.json_schema.schema"
    if raw == NULL:
        raise bad(f"'{where}' is missing.", param=where)
    if facts.full_schema:
        out["responseJsonSchema"], changed = tidy(raw, where)
    else:
        out["responseSchema"], changed = subset(_any.decode(raw), where)
    notes.extend(changed)


def _modalities(out: Out, chat: Chat, notes: Notes) -> None:
    asked = chat.modalities or ["text"]
    for kind in asked:
        if kind not in ("text", "image"):
            notes.lost("modalities", f"'{kind[:64]}' cannot be had from Gemini here")
    if "image" in asked:
        out["responseModalities"] = [kind.upper() for kind in asked if kind in ("text", "image")]


def _thinking(chat: Chat, google: Google, context: Context, notes: Notes) -> Out:
    """`thinkingConfig` (wire trap 39). Thoughts are asked for whenever reasoning is."""
    effort, own, facts = chat.reasoning_effort, google.thinking_config, context.facts
    if own is not None:
        if effort is not None:
            raise bad("'reasoning_effort' and 'google.thinking_config' say the same thing: send one of them.", param="reasoning_effort")
        return {_SNAKE.get(key, key): value for key, value in own.items()}
    if effort is None:
        return {}
    if facts.thinking == "budget":
        return _budget(effort, context.model, notes)
    if facts.thinking == "level":
        return _level(effort, context.model, notes)
    if effort != "none":
        notes.lost("reasoning_effort", "this model does not reason, or not on request")
    return {}


def _budget(effort: str, model: str, notes: Notes) -> Out:
    if effort == "none":
        if "2.5-pro" not in model:
            return {"thinkingBudget": 0}
        notes.add("reasoning_effort", "clamped", f"this model always thinks: it was given {_PRO_BUDGET} tokens")
        return {"thinkingBudget": _PRO_BUDGET}
    if effort in _NO_LESS:
        notes.add("reasoning_effort", "clamped", "the most that Gemini can be asked for is high")
    return {"thinkingBudget": _BUDGETS[effort], "includeThoughts": True}


def _level(effort: str, model: str, notes: Notes) -> Out:
    """A level. The Pro models begin at LOW, the first of them has nothing between that and HIGH; none can be kept from thinking."""
    level = _LEVELS[effort]
    if level == "MINIMAL" and "-pro" in model:
        level = "LOW"
    elif level == "MEDIUM" and "gemini-3-pro" in model:
        level = "HIGH"
    if effort in _NO_LESS or level.lower() != effort:
        notes.add("reasoning_effort", "clamped", f"the closest that this model can be asked for is {level.lower()}")
    return {"thinkingLevel": level} if effort == "none" else {"thinkingLevel": level, "includeThoughts": True}


def _fitting(thinking: Out, most: int | None, notes: Notes) -> Out:
    """A budget that leaves half of the limit to the answer: both come out of `maxOutputTokens`, and thoughts come first."""
    budget = thinking.get("thinkingBudget")
    if most is None or not isinstance(budget, int) or "includeThoughts" not in thinking or budget < most:
        return thinking
    fits = max(_LEAST_BUDGET, most // 2)
    if fits >= budget:
        return thinking
    notes.add("reasoning_effort", "clamped", f"thoughts count against max_tokens: they were limited to {fits}")
    return {**thinking, "thinkingBudget": fits}
