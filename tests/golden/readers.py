"""The official SDKs as readers: what a dialect or surface writes must be what their types say, strictly and without unknown fields
where the provider refuses those."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import anthropic.types as a
import openai.types.chat as o
import openai.types.responses as r
from pydantic import BaseModel, TypeAdapter
from pydantic_core import SchemaValidator

Reader = Callable[[bytes], Any]


def model(kind: type[BaseModel]) -> Reader:
    """Reads one model, without turning text into numbers and the like."""
    return lambda data: kind.model_validate_json(data, strict=True)


def union(kind: Any) -> Reader:
    """Reads one of several models."""
    adapter = TypeAdapter[Any](kind)
    return lambda data: adapter.validate_json(data, strict=True)


def exactly(kind: Any) -> Reader:
    """Reads a TypedDict of request parameters whose every key must be known. Such types name their lists `Iterable`, which pydantic
    reads lazily, that is never: they are made lists first."""
    schema = _eager(TypeAdapter[Any](kind).core_schema)
    validator = SchemaValidator(schema)
    return lambda data: validator.validate_json(data, strict=True)


def _messages(data: bytes) -> Any:
    """Reads parameters of Messages. The SDK names no sampling parameters any more, since newer models refuse them; older ones take them."""
    doc = json.loads(data)
    for name, most in (("temperature", 1.0), ("top_p", 1.0), ("top_k", None)):
        value = doc.pop(name, 0)
        assert isinstance(value, int | float) and value >= 0 and (most is None or value <= most), name
    return _message_params(json.dumps(doc).encode())


def _eager(node: Any) -> Any:
    if isinstance(node, list):
        return [_eager(x) for x in node]
    if isinstance(node, tuple):
        return tuple(_eager(x) for x in node)
    if not isinstance(node, dict):
        return node
    out = {k: _eager(v) for k, v in node.items()}
    if out.get("type") == "generator":
        out["type"] = "list"
    elif out.get("type") == "typed-dict":
        out["extra_behavior"] = "forbid"
    return out


_message_params = exactly(a.MessageCreateParams)
_chat, _chunk = model(o.ChatCompletion), model(o.ChatCompletionChunk)
READERS: dict[tuple[str, str], Reader] = {
    ("anthropic", "request"): _messages,
    ("messages", "reply"): model(a.Message),
    ("messages", "event"): union(a.RawMessageStreamEvent),
    ("responses", "reply"): model(r.Response),
    ("responses", "event"): union(r.ResponseStreamEvent),
}
for _name in ("anthropic", "gemini", "bedrock"):
    READERS[_name, "reply"], READERS[_name, "event"] = _chat, _chunk
