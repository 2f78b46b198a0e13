"""Requests to the scripted Anthropic, in pieces: what its tests build good and bad ones of. Pure."""

from __future__ import annotations

import base64
from typing import Any

from tests.fakes.providers.anthropic import KEY
from tests.fakes.providers.brain import PICTURE, WEATHER
from tests.fakes.providers.common import Provider, seal

Doc = dict[str, Any]
SONNET, OPUS, FABLE, HAIKU, BOTH = (
    "claude-sonnet-4-5-20250929", "claude-opus-4-7", "claude-fable-5", "claude-3-5-haiku-20241022", "claude-opus-4-6",
)  # fmt: skip
TOOL = {"name": WEATHER.name, "description": WEATHER.description, "input_schema": WEATHER.schema}
THINK = {"type": "enabled", "budget_tokens": 1024}


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def image(data: bytes = PICTURE.data, kind: str = "image/png") -> Doc:
    return {"type": "image", "source": {"type": "base64", "media_type": kind, "data": b64(data)}}


def user(content: Any = "hi") -> Doc:
    return {"role": "user", "content": content}


def said(content: Any) -> Doc:
    return {"role": "assistant", "content": content}


HEADERS = {"x-api-key": KEY, "anthropic-version": "2023-06-01"}


def base(**more: Any) -> Doc:
    return {"model": SONNET, "max_tokens": 4096, "messages": [user()]} | more


def use(name: str = "toolu_1", tool: str = "get_weather") -> Doc:
    return {"type": "tool_use", "id": name, "name": tool, "input": {}}


def result(name: str = "toolu_1", content: Any = "sun") -> Doc:
    return {"type": "tool_result", "tool_use_id": name, "content": content}


def text(words: str = "hi", **more: Any) -> Doc:
    return {"type": "text", "text": words} | more


def talk(*turns: Any, **more: Any) -> Doc:
    """Messages that alternate, beginning with the user's."""
    return base(messages=[(said if at % 2 else user)(turn) for at, turn in enumerate(turns)], **more)


def thought(words: str = "hm", secret: bytes = Provider.secret) -> Doc:
    return {"type": "thinking", "thinking": words, "signature": seal(secret, b"T", words)}


def schema(**inner: Any) -> Doc:
    return {"format": {"type": "json_schema", "schema": {"type": "object", "additionalProperties": False, "properties": inner}}}


def cached(count: int, **mark: str) -> list[Doc]:
    return [text(cache_control={"type": "ephemeral"} | mark) for _ in range(count)]
