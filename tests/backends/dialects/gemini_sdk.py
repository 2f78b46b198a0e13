"""Google's own SDK as a reader: what is sent must be what its types know, and no more."""

from __future__ import annotations

import json
from typing import Any

import pydantic
from google.genai import types

# What stands beside `generationConfig` in a request: the SDK has no class for the whole.
_BESIDE: dict[str, Any] = {
    "contents": list[types.Content], "systemInstruction": types.Content, "tools": list[types.Tool], "toolConfig": types.ToolConfig,
    "safetySettings": list[types.SafetySetting], "cachedContent": str, "serviceTier": types.ServiceTier,
    "generationConfig": types.GenerationConfig,
}  # fmt: skip


def read(body: bytes) -> dict[str, Any]:
    """The request by the SDK's types, which forbid unknown fields. Raises where one is unknown or of a wrong type."""
    doc = json.loads(body)
    assert doc.keys() <= _BESIDE.keys(), doc.keys() - _BESIDE.keys()
    return {key: pydantic.TypeAdapter(_BESIDE[key]).validate_python(value) for key, value in doc.items()}


def answer(doc: Any) -> types.GenerateContentResponse:
    """An answer by the SDK's type: what the tests play must be something that Google could send."""
    return types.GenerateContentResponse.model_validate(doc)
