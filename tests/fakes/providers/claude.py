"""The semantic rules of the Messages API over a decoded body: `Rejected` for the first one broken. Pure, but for what a `Keeper` recalls.

Used by the fake of Anthropic itself and, as on the real Bedrock, behind Converse for Claude models.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.fakes.providers.claude_rules import MODELS, RULES, Claude
from tests.fakes.providers.common import Rejected, opened, reject, sealed
from tests.fakes.providers.media import dimensions, sniff

Doc = dict[str, Any]
Blocks = list[Doc]
THINKING = ("thinking", "redacted_thinking")
ID, NAME = re.compile(r"[a-zA-Z0-9_-]+"), re.compile(r"[a-zA-Z0-9_-]{1,128}")
# doc: structured outputs, JSON Schema limitations
KEYWORDS = {
    "integer": {"minimum", "maximum", "multipleOf", "exclusiveMinimum", "exclusiveMaximum"},
    "number": {"minimum", "maximum", "multipleOf", "exclusiveMinimum", "exclusiveMaximum"},
    "string": {"minLength", "maxLength"},
    "array": {"maxItems", "uniqueItems", "contains", "prefixItems"},
    "object": {"minProperties", "maxProperties", "patternProperties"},
}


def no(name: str, /, **values: object) -> Rejected:
    return reject(RULES, name, **values)


@dataclass
class Keeper:
    """What a fake remembers of its own answers: the thinking blocks that came before each tool call, by the call's id."""

    secret: bytes
    turns: dict[str, Blocks] = field(default_factory=dict)


def blocks_of(message: Mapping[str, Any]) -> Blocks:
    """The content of a message as blocks; a string stands for one text block."""
    content = message["content"]
    return [{"type": "text", "text": content}] if isinstance(content, str) else list(content)


def turns_of(doc: Doc) -> list[tuple[int, str, Blocks]]:
    """Messages with neighbours of one role combined, as the server combines them; each with the index of its first message."""
    turns: list[tuple[int, str, Blocks]] = []
    for at, message in enumerate(doc["messages"]):
        if turns and turns[-1][1] == message["role"]:
            turns[-1][2].extend(blocks_of(message))
        else:
            turns.append((at, message["role"], blocks_of(message)))
    return turns


def check(doc: Doc, keeper: Keeper, version: str = "2023-06-01") -> Claude:
    """The model's facts. Raises Rejected. `doc` must have the right JSON types already."""
    model = MODELS.get(doc["model"])
    if model is None:
        raise no("model", model=doc["model"])
    parameters(doc, model, version)
    messages(doc, model, version)
    tools(doc, model)
    thinking(doc, model, keeper)
    caching(doc)
    for where, block in media(doc):
        picture(block, where)
    return model


# Parameters.


def parameters(doc: Doc, model: Claude, version: str) -> None:
    limit = doc.get("max_tokens", 1)  # count_tokens has none
    if limit < 0:
        raise no("max_tokens_low")
    if limit > model.max_output:
        raise no("max_tokens", given=limit, limit=model.max_output, model=doc["model"])
    sampling(doc, model, version)
    for stop in doc.get("stop_sequences") or []:
        if not stop.strip():
            raise no("stop_blank" if stop else "stop_empty")
    config = doc.get("output_config") or {}
    if config.get("effort") and not model.effort:
        raise no("effort")
    if config.get("format"):
        if not model.schema:
            raise no("format_model", model=doc["model"])
        closed(config["format"]["schema"])


def sampling(doc: Doc, model: Claude, version: str) -> None:
    given = {name: doc[name] for name in ("temperature", "top_p", "top_k") if doc.get(name) is not None}
    for name, value in given.items():
        if version != "2023-06-01":
            raise no("sampling_gone", param=name)
        if value < 0 or (name != "top_k" and value > 1):
            raise no(name)
        if model.sampling == "fixed" and not (name == "temperature" and value == 1):
            raise no("sampling_fixed", param=name)
    if model.sampling == "one" and {"temperature", "top_p"} <= given.keys():
        raise no("sampling_both")
    if thinks(doc):
        if given.get("temperature", 1) != 1:
            raise no("sampling_thinking", param="temperature", what="may only be set to 1")
        if given.get("top_p", 1) < 0.95:
            raise no("sampling_thinking", param="top_p", what="must be greater than or equal to 0.95 or unset")
        if "top_k" in given:
            raise no("sampling_thinking", param="top_k", what="must be unset")


def closed(schema: Any) -> None:
    """What structured output does not take of JSON Schema."""
    if isinstance(schema, list):
        for one in schema:
            closed(one)
    if not isinstance(schema, dict):
        return
    kind = schema.get("type")
    if kind == "object" and schema.get("additionalProperties") is not False:
        raise no("format_open")
    found = sorted(KEYWORDS.get(kind, set()) & schema.keys()) if isinstance(kind, str) else []
    if found or (kind == "array" and schema.get("minItems", 0) > 1):
        raise no("format_keyword", kind=kind, keywords=", ".join(found or ["minItems"]))
    for name, inner in schema.items():
        if name in ("properties", "$defs", "definitions"):
            closed(list(inner.values()))
        elif name not in ("enum", "const", "default", "examples"):
            closed(inner)


# Messages.


def messages(doc: Doc, model: Claude, version: str) -> None:
    given = doc["messages"]
    if not given:
        raise no("no_messages")
    if any(message["role"] == "system" for message in given) and not model.late_system:
        raise no("role")
    if given[0]["role"] != "user":
        raise no("first_user")
    texts(doc.get("system") or [], "system")
    for at, message in enumerate(given):
        final = at == len(given) - 1 and message["role"] == "assistant"
        if not message["content"] and not final:
            raise no("no_content", at=at)
        if message["content"] or not final:
            texts(message["content"], "messages")
        placed(at, message, version)
    if given[-1]["role"] == "assistant":
        ending(doc, model)
    results(doc)


def texts(content: Any, part: str) -> None:
    for block in blocks_of({"content": content}):
        if block["type"] == "text" and not block["text"].strip():
            raise no("blank_text" if block["text"] else "empty_text", part=part)
        if block["type"] == "tool_result" and isinstance(block.get("content"), list):
            texts(block["content"], part)


def placed(at: int, message: Doc, version: str) -> None:
    homes = {"tool_use": "assistant", "tool_result": "user", "thinking": "assistant", "redacted_thinking": "assistant"}
    for index, block in enumerate(blocks_of(message)):
        kind, where = block["type"], f"messages.{at}.content.{index}"
        if homes.get(kind, message["role"]) != message["role"]:
            raise no("role_block", where=where, block=kind, role=homes[kind])
        if version != "2023-06-01":
            if kind == "document" and message["role"] == "assistant":
                raise no("document_assistant", where=where)
            if kind == "text" and message["role"] == "user" and block.get("citations"):
                raise no("citations_user", where=where)


def ending(doc: Doc, model: Claude) -> None:
    if not model.prefill:
        raise no("prefill")
    if thinks(doc):
        raise no("prefill_thinking")
    last = blocks_of(doc["messages"][-1])
    if last and last[-1]["type"] == "text" and last[-1]["text"] != last[-1]["text"].rstrip():
        raise no("final_space")


def results(doc: Doc) -> None:
    """Every tool_use is answered exactly once, in the next user turn, before anything else of it."""
    turns = turns_of(doc)
    seen: set[str] = set()
    for index, (at, role, blocks) in enumerate(turns):
        called = [block["id"] for block in turns[index - 1][2] if block["type"] == "tool_use"] if index and role == "user" else []
        if role == "user":
            matched(at, blocks, called, turns[index - 1][0] if index else 0)
        for number, block in enumerate(blocks):
            if block["type"] == "tool_use":
                if not ID.fullmatch(block["id"]):
                    raise no("id_pattern", where=f"messages.{at}.content.{number}.tool_use.id")
                if not NAME.fullmatch(block["name"]):
                    raise no("name_pattern", where=f"messages.{at}.content.{number}.tool_use.name")
                if block["id"] in seen:
                    raise no("ids_twice", at=at, block=number)
                seen.add(block["id"])
    at, role, blocks = turns[-1]
    open_calls = [block["id"] for block in blocks if role == "assistant" and block["type"] == "tool_use"]
    if open_calls:
        raise no("results_missing", at=at, ids=", ".join(open_calls))


def matched(at: int, blocks: Blocks, called: list[str], before: int) -> None:
    answered: list[str] = []
    for number, block in enumerate(blocks):
        if block["type"] != "tool_result":
            continue
        name = block["tool_use_id"]
        if name not in called:
            raise no("results_unexpected", at=at, block=number, id=name)
        if name in answered:
            raise no("results_twice", at=at, block=number, id=name)
        answered.append(name)
    missing = [name for name in called if name not in answered]
    if missing:
        raise no("results_missing", at=before, ids=", ".join(missing))
    if any(block["type"] != "tool_result" for block in blocks[: len(called)]):
        raise no("results_first", at=before, ids=", ".join(called))


# Tools.


def tools(doc: Doc, model: Claude) -> None:
    given = doc.get("tools") or []
    names = [tool["name"] for tool in given if "name" in tool]
    for at, tool in enumerate(given):
        if "input_schema" in tool:
            if not NAME.fullmatch(tool["name"]):
                raise no("name_pattern", where=f"tools.{at}.custom.name")
            if tool["input_schema"].get("type") != "object":
                raise no("schema_object", where=f"tools.{at}.custom")
    if len(set(names)) < len(names):
        raise no("names_twice")
    if doc.get("tool_choice") is not None:
        choice(doc, model, names)


def choice(doc: Doc, model: Claude, names: list[str]) -> None:
    asked = doc["tool_choice"]
    if not names:
        raise no("choice_no_tools")
    if asked["type"] == "tool" and asked["name"] not in names:
        raise no("choice_unknown", name=asked["name"])
    if asked["type"] in ("any", "tool"):
        if not model.forced_tools:
            raise no("choice_forced")
        if thinks(doc):
            raise no("choice_thinking")


# Thinking.


def thinks(doc: Doc) -> bool:
    """Whether the request turns thinking on."""
    return (doc.get("thinking") or {}).get("type") in ("enabled", "adaptive")


def thinking(doc: Doc, model: Claude, keeper: Keeper) -> None:
    config = doc.get("thinking") or {}
    kind = config.get("type")
    if thinks(doc) and kind not in model.thinking:
        name = "thinking_none" if not model.thinking else f"thinking_{kind}"
        raise no(name, model=doc["model"])
    if kind == "enabled":
        if config["budget_tokens"] < 1024:
            raise no("budget_low")
        if config["budget_tokens"] >= doc.get("max_tokens", config["budget_tokens"] + 1):
            raise no("budget_high")
    turns = turns_of(doc)
    for at, role, blocks in turns:
        if role == "assistant":
            signed(at, blocks, keeper)
    if thinks(doc):
        loop(turns, keeper)


def signed(at: int, blocks: Blocks, keeper: Keeper) -> None:
    kinds = [block["type"] for block in blocks]
    if any(kind in THINKING for kind in kinds) and kinds[0] not in THINKING:
        raise no("thinking_first", at=at, found=kinds[0])
    for number, block in enumerate(blocks):
        if block["type"] == "thinking" and not sealed(keeper.secret, block["signature"], block["thinking"]):
            raise no("signature", at=at, block=number)
        if block["type"] == "redacted_thinking" and opened(keeper.secret, block["data"]) is None:
            raise no("redacted", at=at, block=number)


def loop(turns: list[tuple[int, str, Blocks]], keeper: Keeper) -> None:
    """While tools are being answered, the turn that called them must carry its thinking, whole and in order."""
    if len(turns) < 2 or not any(block["type"] == "tool_result" for block in turns[-1][2]):
        return
    at, _, blocks = turns[-2]
    if blocks[0]["type"] not in THINKING:
        raise no("thinking_expected", at=at, found=blocks[0]["type"])
    calls = [block["id"] for block in blocks if block["type"] == "tool_use"]
    original = keeper.turns.get(calls[0], [])
    if original and [block for block in blocks if block["type"] in THINKING] != original:
        raise no("thinking_changed", at=at)


# Caching and media.


def marks(doc: Doc) -> Iterator[tuple[str, Doc]]:
    """Every cache_control in prompt order (tools, system, messages) with its path."""
    parts: list[tuple[str, Any]] = [(f"tools.{at}", tool) for at, tool in enumerate(doc.get("tools") or [])]
    system = doc.get("system")
    parts += [(f"system.{at}", block) for at, block in enumerate(system)] if isinstance(system, list) else []
    for at, message in enumerate(doc["messages"]):
        for number, block in enumerate(blocks_of(message)):
            where = f"messages.{at}.content.{number}"
            inner = block.get("content") if block["type"] == "tool_result" else None
            parts += [(f"{where}.content.{deep}", one) for deep, one in enumerate(inner)] if isinstance(inner, list) else []
            parts.append((where, block))
    yield from ((where, part["cache_control"]) for where, part in parts if part.get("cache_control"))


def caching(doc: Doc) -> None:
    found = list(marks(doc))
    count = len(found) + (1 if doc.get("cache_control") else 0)
    if count > 4:
        raise no("cache_many", found=count)
    short = False
    for where, mark in found:
        if mark.get("ttl", "5m") == "1h" and short:
            raise no("cache_order", where=f"{where}.cache_control.ttl")
        short = short or mark.get("ttl", "5m") == "5m"


def media(doc: Doc) -> Iterator[tuple[str, Doc]]:
    """Every image and document with its path, those in tool results too."""
    for at, message in enumerate(doc["messages"]):
        for number, block in enumerate(blocks_of(message)):
            inner = block.get("content") if block["type"] == "tool_result" else None
            for one in [block, *(inner if isinstance(inner, list) else [])]:
                if one["type"] in ("image", "document"):
                    yield f"messages.{at}.content.{number}.{one['type']}", one


def picture(block: Doc, where: str) -> None:
    source = block["source"]
    if source["type"] == "url" and not source["url"].startswith("https://"):
        raise no("url", where=where)
    if source["type"] != "base64":
        return
    try:
        data = base64.b64decode(source["data"], validate=True)
    except ValueError:
        raise no("base64", where=where) from None
    real = sniff(data)
    if block["type"] == "document":
        if real != "application/pdf":
            raise no("pdf", where=where)
    elif not real.startswith("image/") or (real != "image/webp" and dimensions(data) is None):
        raise no("image_broken", where=where)
    elif real != source["media_type"]:
        raise no("image_type", where=where, claimed=source["media_type"], real=real)
