"""What a model can do on a kind of backend, from its name: a table of patterns, first match wins, overrides last.

Sources: [A] Anthropic's documentation and the `anthropic` SDK (MODEL_NONSTREAMING_TOKENS, Models API `max_tokens`);
[P] pydantic-ai's profiles (anthropic.py, google.py, openai.py, providers/bedrock.py), whose cells were checked against the live
services; [G] google-genai and ai.google.dev; [L] litellm's table of context and output lengths; [T] our list of wire traps, by
number. Where [T] and the newer [P] differ, [P] holds (forced tools on Claude Fable 5). Pure.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from backends import catalog
from backends.dialects.types import Facts

Rule = tuple[str, Facts]  # a pattern that the bare name must match from its start, and the facts
K, M = 1_000, 1_000_000
GEO = re.compile(r"^(?:us|eu|apac|jp|au|ca|in|global|us-gov)\.")  # Bedrock's inference profiles [P _bedrock_model_names.py]
_ARN = re.compile(r"^arn:[^:]+:bedrock:[^:]*:[^:]*:(?:inference-profile|foundation-model)/")
_VERSION = re.compile(r"(?:-v\d+(?::\d+)?|@[\w-]+)$")


def bare(model: str) -> str:
    """A model's name without what carriers put around it: an ARN, a region, a maker's prefix, a version.

    `us.anthropic.claude-haiku-4-5-20251001-v1:0` and `anthropic/claude-haiku-4.5` both become names that begin `claude-haiku-4-5`.
    """
    name = GEO.sub("", _ARN.sub("", model.strip().lower()))
    name = name.rsplit("/", 1)[-1]
    maker, dot, rest = name.partition(".")
    if dot and maker.isalpha():
        name = rest
    name = _VERSION.sub("", name)
    return re.sub(r"(?<=\d)\.(?=\d)", "-", name) if name.startswith("claude") else name


# --- Claude [A] [P] [L]

_CLAUDE = Facts(
    context=200 * K, max_output=64 * K, temperature_max=1.0, temperature_with_top_p=False, thinking="budget", json_schema="tool",
    many=False,
)  # fmt: skip
_set = msgspec.structs.replace
_CLAUDE_3 = _set(_CLAUDE, max_output=4096, temperature_with_top_p=True, thinking="none", documents=False)
_CLAUDE_46 = _set(_CLAUDE, context=M, max_output=128 * K, thinking="adaptive", json_schema="native", prefill=False)  # no prefill: [T6]
_CLAUDE_47 = _set(_CLAUDE_46, sampling=False)  # [T33]: temperature, top_p and top_k are refused; budgets too [T39]
_CLAUDE_55 = _set(_CLAUDE_47, forced_tools=False)

CLAUDE: tuple[Rule, ...] = (
    (r"claude-(?:opus|fable|mythos)-5-[1-9]", _set(_CLAUDE_55, late_system=True)),
    (r"claude-sonnet-5-[1-9]", _CLAUDE_55),  # takes a late system message and misattributes it [P]
    (r"claude-haiku-5", _CLAUDE_47),
    (r"claude-(?:opus|fable|mythos)-5|claude-opus-4-8", _set(_CLAUDE_47, late_system=True)),
    (r"claude-sonnet-5|claude-opus-4-7", _CLAUDE_47),
    (r"claude-mythos-preview", _set(_CLAUDE_46, json_schema="tool")),
    (r"claude-(?:opus|sonnet)-4-6", _CLAUDE_46),
    (r"claude-(?:opus|sonnet|haiku)-4-5", _set(_CLAUDE, json_schema="native")),
    (r"claude-opus-4-1", _set(_CLAUDE, max_output=32 * K, json_schema="native")),
    (r"claude-(?:opus-4(?:-0|-20\d{6})?$|4-opus)", _set(_CLAUDE, max_output=32 * K)),
    (r"claude-(?:sonnet-4(?:-0|-20\d{6})?$|4-sonnet)", _CLAUDE),
    (r"claude-3-7", _set(_CLAUDE, temperature_with_top_p=True)),
    (r"claude-3-5", _set(_CLAUDE_3, max_output=8192, documents=True)),
    (r"claude-(?:3|2|instant|v1)", _CLAUDE_3),
    (r"claude", _CLAUDE_47),  # newer than this table: every model since 4.7 is like this
)


def _bedrock_claude(name: str, found: Facts) -> Facts:
    """Converse has no late system message, and withholds structured output from some models that have it elsewhere [P]."""
    withheld = re.match(r"claude-(?:opus-4-1|fable-5)", name) is not None
    return _set(found, late_system=False, json_schema="tool" if withheld else found.json_schema)


# --- Gemini [G] [P] [L]

_GEMINI = Facts(context=1_048_576, max_output=65_536, thinking="level", prefill=False, audio=True, seed=True, many=False)
_GEMINI_25 = _set(_GEMINI, thinking="budget")
_GEMINI_20 = _set(_GEMINI, max_output=8192, thinking="none", full_schema=False)  # parametersJsonSchema: 2.5 and newer [T9]

GEMINI: tuple[Rule, ...] = (
    (r"gemma", _set(_GEMINI_20, context=131_072, forced_tools=False, audio=False, documents=False)),
    (r"gemini-2\.5-flash-image", _set(_GEMINI_25, context=32_768, max_output=32_768, thinking="none", json_schema="none")),
    (r"gemini-2\.5", _GEMINI_25),
    (r"gemini-(?:1|2\.|pro$|pro-vision|exp|ultra)", _GEMINI_20),
    (r"gemini|models/gemini", _GEMINI),  # 3 and newer, and the -latest names
)


def _vertex_gemini(name: str, found: Facts) -> Facts:
    """Log probabilities: Vertex AI has them for 2.x alone; AI Studio refuses them (`Logprobs is not enabled for models/…`) and so does
    Vertex for 3.x (GoogleCloudPlatform/generative-ai#2947, vercel/ai#5418)."""
    return _set(found, logprobs=name.startswith("gemini-2"))


# --- other families on Bedrock Converse [P] [L]

_CONVERSE = Facts(
    context=128 * K, max_output=8192, temperature_max=1.0, json_schema="none", forced_tools=False, prefill=False, images=False,
    documents=False,
)  # fmt: skip
_CONVERSE_TOOLS = _set(_CONVERSE, forced_tools=True, json_schema="tool")

BEDROCK: tuple[Rule, ...] = (
    (r"nova-(?:2|premier|pro|lite)", _set(_CONVERSE_TOOLS, context=300 * K, max_output=10 * K, images=True, documents=True)),
    (r"nova", _set(_CONVERSE_TOOLS, max_output=10 * K)),
    (r"gpt-(?:5|6)", _set(_CONVERSE_TOOLS, context=922 * K, max_output=128 * K, sampling=False, images=True)),
    (r"grok", _set(_CONVERSE_TOOLS, context=500 * K, max_output=500 * K, sampling=False, images=True)),
    (r"kimi|glm", _set(_CONVERSE_TOOLS, context=200 * K, max_output=16 * K, json_schema="native")),
    (r"qwen3|minimax-m2|nemotron-nano|gemma-3-(?:12|27)b", _set(_CONVERSE, json_schema="native")),
    (r"magistral-small|ministral-3|mistral-large-3|voxtral", _set(_CONVERSE, json_schema="native")),
    (r"mistral-large|pixtral", _set(_CONVERSE_TOOLS, images=True)),
    (r"llama4|llama-?3-2", _set(_CONVERSE, images=True, documents=True)),
    (r"", _CONVERSE),
)

# --- OpenAI's own models [P openai.py, checked live] [L] [T34]

_OPENAI = Facts(context=128 * K, max_output=16_384, prefill=False, logprobs=True, seed=True, many=True, late_system=True)
_THINKS = _set(_OPENAI, context=272 * K, max_output=128 * K, thinking="level", sampling=False, logprobs=False)
_MAY_THINK = _set(_THINKS, sampling=True, logprobs=True)  # reasoning is off unless asked for

OPENAI: tuple[Rule, ...] = (
    (r"o[134](?:-|$)", _set(_THINKS, context=200 * K, max_output=100 * K)),
    (r"gpt-5-chat", _OPENAI),
    (r"gpt-5\.[1-3]-chat", _set(_THINKS, context=128 * K, max_output=16_384)),
    (r"gpt-5\.\d-pro|gpt-5\.1-codex", _THINKS),
    (r"gpt-5\.4", _set(_MAY_THINK, context=1_050_000)),
    (r"gpt-5\.[1-3]", _MAY_THINK),
    (r"gpt-5\.5", _set(_THINKS, context=1_050_000)),
    (r"gpt-(?:5\.[6-9]|[6-9])", _set(_THINKS, context=922 * K)),
    (r"gpt-5", _THINKS),
    (r"gpt-4\.1", _set(_OPENAI, context=1_047_576, max_output=32_768)),
    (r"gpt-audio|gpt-4o(?:-mini)?-audio", _set(_OPENAI, audio=True, images=False, logprobs=False)),
    (r"gpt-4o|chatgpt-4o", _OPENAI),
    (r"", _set(_OPENAI, context=None, max_output=None)),
)

# --- everything that speaks OpenAI's dialect: nothing is translated for these, so this only tells people what to expect

_ANY = Facts(prefill=False, logprobs=True, seed=True, many=True, late_system=True)
_LOCAL = _set(_ANY, prefill=True, documents=False)
_KINDS: Mapping[str, Facts] = {
    "groq": _set(_ANY, logprobs=False, many=False, documents=False),
    "mistral": _set(_ANY, many=True, prefill=True),
    "deepseek": _set(_ANY, json_schema="none", seed=False, many=False, documents=False),
    "moonshot": _set(_ANY, temperature_max=1.0),
    "zai": _set(_ANY, temperature_max=1.0, many=False, logprobs=False),
    "cerebras": _set(_ANY, temperature_max=1.5, many=False, documents=False),
    "cohere": _set(_ANY, temperature_max=1.0, many=False, logprobs=False),
    "ollama": _set(_LOCAL, forced_tools=False, many=False),
    "llamacpp": _LOCAL, "llama-server": _LOCAL, "llama-cpp-python": _set(_LOCAL, many=False), "lmstudio": _LOCAL,
    "vllm": _LOCAL, "sglang": _LOCAL, "tgi": _set(_LOCAL, many=False),
}  # fmt: skip


def _match(rules: tuple[Rule, ...], name: str) -> Facts | None:
    return next((found for pattern, found in rules if re.match(pattern, name)), None)


def _anthropic(name: str) -> Facts:
    return _match(CLAUDE, name) or _CLAUDE_47  # an alias of the user's own


def _gemini(name: str) -> Facts:
    return _match(GEMINI, name) or _GEMINI


def _vertex(name: str) -> Facts:
    return _vertex_gemini(name, _gemini(name))


def _bedrock(name: str) -> Facts:
    claude = _match(CLAUDE, name)
    return _bedrock_claude(name, claude) if claude is not None else _match(BEDROCK, name) or _CONVERSE


def _openai(name: str) -> Facts:
    return _match(OPENAI, name) or _ANY


_TABLES: Mapping[str, Callable[[str], Facts]] = {
    "anthropic": _anthropic, "vertex-anthropic": _anthropic, "gemini": _gemini, "vertex": _vertex, "bedrock": _bedrock, "azure": _openai,
}  # fmt: skip


@functools.lru_cache(maxsize=4096)
def _known(kind: str, model: str) -> Facts:
    row = catalog.find(kind)
    table = _TABLES.get(row.carrier) if row is not None else None
    if table is not None or kind == "openai":
        return (table or _openai)(bare(model))
    return _KINDS.get(kind, _ANY)


def facts(kind: str, model: str, overrides: Mapping[str, Any] | None = None) -> Facts:
    """What `model` can do on a backend of `kind` (a name of the catalogue or of an engine), with `overrides` (fields of Facts) in place.

    Never fails for a name it has not heard of: the newest of its family is assumed, or what most servers can do. TypeError: an
    override names no field. Remembered by name, at most 4096 of them.
    """
    known = _known(kind, model)
    return _set(known, **overrides) if overrides else known


_ASKED = frozenset({"temperature", "top_p", "presence_penalty", "frequency_penalty", "logit_bias", "logprobs", "top_logprobs"})
_GROK = frozenset({"presence_penalty", "frequency_penalty", "stop"})  # xAI: reasoning models refuse these


@functools.lru_cache(maxsize=4096)
def unsupported(kind: str, model: str, sampling: bool | None = None) -> frozenset[str]:
    """Parameters that this model refuses although its kind of backend knows them (trap 34): to be joined to the kind's own. Only for
    kinds whose calls are relayed; a translator asks `facts`. `sampling`: what is known better than the table has it."""
    name = bare(model)
    if kind in ("openai", "azure"):
        samples = facts(kind, model).sampling if sampling is None else sampling
        gone = frozenset() if samples else _ASKED
        return gone | {"stop"} if re.match(r"o3|o4-mini", name) else gone  # openai-openapi: StopConfiguration
    if kind == "xai":
        return _GROK if re.match(r"grok-(?:3-mini|[4-9]|code-fast)", name) else frozenset()
    return frozenset()
