"""What the OpenAPI document says of the surfaces that are only relayed (`gateway.passthrough`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Json = dict[str, Any]
_TEXT: Json = {"type": "string"}
_MODEL: Json = {"type": "string", "description": "A name that GET /v1/models lists."}
_ROUTE: Json = {
    "name": "x-pointsman-route", "in": "query", "required": False, "schema": {"type": "string"},
    "description": "A model on the backend whose files these are; also taken as a header. Needed where more backends than one have files.",
}  # fmt: skip
_ID: Json = {"name": "id", "in": "path", "required": True, "schema": {"type": "string", "pattern": "^[A-Za-z0-9_-]{1,128}$"}}
_FORMS = {
    "/v1/audio/transcriptions": ("Speech to text", ("file", "model")),
    "/v1/audio/translations": ("Speech to English text", ("file", "model")),
    "/v1/images/edits": ("Change an image", ("image", "prompt")),
    "/v1/images/variations": ("Images like an image", ("image",)),
    "/v1/files": ("Keep a file", ("file", "purpose")),
}
_BODIES: dict[str, tuple[str, Json, tuple[str, ...]]] = {
    "/v1/audio/speech": ("Text to speech", {"model": _MODEL, "input": _TEXT, "voice": {}}, ("model", "input")),
    "/v1/images/generations": ("Make an image", {"model": _MODEL, "prompt": _TEXT}, ("prompt",)),
    "/v1/moderations": ("Whether a text or an image may be said or shown", {"model": _MODEL, "input": {}}, ("input",)),
    "/v1/batches": ("Run a file of requests", {"input_file_id": _TEXT, "endpoint": _TEXT, "completion_window": _TEXT},
                    ("input_file_id", "endpoint", "completion_window")),
}  # fmt: skip
_OTHERS = (
    ("get", "/v1/files", "The files of a backend"), ("get", "/v1/files/{id}", "One file"), ("delete", "/v1/files/{id}", "Forget a file"),
    ("get", "/v1/files/{id}/content", "What is in a file"), ("get", "/v1/batches", "The batches of a backend"),
    ("get", "/v1/batches/{id}", "One batch"), ("post", "/v1/batches/{id}/cancel", "End a batch"),
)  # fmt: skip
_BINARY = ("/v1/audio/speech", "/v1/files/{id}/content")


def relayed(answers: Callable[[Json], Json]) -> dict[str, Json]:
    """The paths. `answers` makes the responses of an operation from that of its success."""
    paths: dict[str, Json] = {}

    def add(method: str, path: str, summary: str, content: Json | None) -> None:
        kind: Json = {"application/octet-stream": {}} if path in _BINARY else {"application/json": {"schema": {"type": "object"}}}
        operation: Json = {"summary": summary, "responses": answers({"description": "The answer", "content": kind})}
        if path.startswith(("/v1/files", "/v1/batches")):
            operation["parameters"] = [_ID, _ROUTE] if "{id}" in path else [_ROUTE]
        if content is not None:
            operation["requestBody"] = {"required": True, "content": content}
        paths.setdefault(path, {})[method] = operation

    for path, (summary, parts) in _FORMS.items():
        properties: Json = {name: {"type": "string", "format": "binary"} if name in ("file", "image") else _TEXT for name in parts}
        if path != "/v1/files":
            properties["model"] = _MODEL
        schema: Json = {"type": "object", "required": [*parts], "properties": properties, "additionalProperties": True}
        add("post", path, summary, {"multipart/form-data": {"schema": schema}})
    for path, (summary, properties, needed) in _BODIES.items():
        schema = {"type": "object", "required": [*needed], "properties": properties, "additionalProperties": True}
        add("post", path, summary, {"application/json": {"schema": schema}})
    for method, path, summary in _OTHERS:
        add(method, path, summary, None)
    return paths
