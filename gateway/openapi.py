"""The OpenAPI document of the data port. Bodies are described as far as the gateway itself reads them: what else stands in a
request is between the client and the model."""

from __future__ import annotations

import functools
from typing import Any

import msgspec

from gateway.openapi_relayed import relayed
from gateway.version import VERSION

Json = dict[str, Any]
_ERROR: Json = {
    "type": "object", "required": ["error"],
    "properties": {"error": {
        "type": "object", "required": ["message", "type", "param", "code", "origin"],
        "properties": {
            "message": {"type": "string"}, "type": {"type": "string"}, "param": {"type": ["string", "null"]},
            "code": {"type": ["string", "null"]}, "origin": {"enum": ["client", "gateway", "backend"]},
        },
    }},
}  # fmt: skip
_MESSAGES_ERROR: Json = {  # Anthropic's own form
    "type": "object", "required": ["type", "error", "request_id"],
    "properties": {
        "type": {"const": "error"}, "request_id": {"type": "string"},
        "error": {
            "type": "object", "required": ["type", "message"], "properties": {"type": {"type": "string"}, "message": {"type": "string"}},
        },
    },
}  # fmt: skip
_MODEL: Json = {"type": "string", "description": "A name that GET /v1/models lists."}
_STREAM: Json = {"type": ["boolean", "null"], "default": False}
_MESSAGES: Json = {
    "type": "array", "minItems": 1,
    "items": {"type": "object", "required": ["role"], "properties": {"role": {"type": "string"}}},
}  # fmt: skip
_TOKENS: Json = {"type": "integer", "minimum": 1}
_ID: Json = {"type": ["string", "null"]}
_FEEDBACK: Json = {
    "response": {"type": "string", "description": "The id in an answer's body."},
    "request": {"type": "string", "description": "The x-request-id of an answer."},
    "session": {"type": "string", "description": "What the experiment assigns by: a user, a conversation."},
    "name": {"type": "string", "description": "A metric that the experiment lists under `feedback`."},
    "value": {
        "description": "true or false, a number, or a comparison with another answer.",
        "anyOf": [
            {"type": ["boolean", "number", "null"]},
            {"type": "object", "required": ["better_than"], "properties": {"better_than": {"type": "string"}}},
        ],
    },
    "comment": {"type": "string", "description": "At most 4 KiB."},
}
_FEEDBACKS: Json = {
    **_FEEDBACK,
    "items": {"type": "array", "minItems": 1, "maxItems": 100, "items": {"type": "object", "properties": _FEEDBACK}},
}
_BODIES: dict[str, tuple[str, Json]] = {
    "/v1/chat/completions": ("Chat", {"model": _MODEL, "messages": _MESSAGES, "stream": _STREAM}),
    "/v1/completions": ("Text completion", {"model": _MODEL, "prompt": {}, "stream": _STREAM}),
    "/v1/embeddings": ("Embeddings", {"model": _MODEL, "input": {}}),
    "/v1/rerank": ("Order documents by relevance", {"model": _MODEL, "query": {"type": "string"}, "documents": {"type": "array"}}),
    "/v1/explain": ("Where a request would go and as what; nothing is sent", {"path": {"type": "string"}, "body": {"type": "object"}}),
    "/v1/feedback": ("Say how good an answer was, for the experiment that it was part of", _FEEDBACKS),
    "/v1/messages": (
        "Anthropic Messages, on every model",
        {"model": _MODEL, "max_tokens": _TOKENS, "messages": _MESSAGES, "stream": _STREAM},
    ),
    "/v1/messages/count_tokens": ("Tokens of a prompt of Messages", {"model": _MODEL, "messages": _MESSAGES}),
    "/v1/responses": ("OpenAI Responses, on every model", {"model": _MODEL, "input": {}, "stream": _STREAM, "previous_response_id": _ID}),
    "/v1/responses/input_tokens": ("Tokens of a prompt of Responses", {"model": _MODEL, "input": {}}),
    "/tokenize": ("Text or messages to token ids", {"model": _MODEL, "prompt": {"type": "string"}, "messages": _MESSAGES}),
    "/detokenize": ("Token ids to text", {"model": _MODEL, "tokens": {"type": "array", "items": {"type": "integer"}}}),
}
_OPTIONAL = {"stream", "prompt", "messages", "previous_response_id", *_FEEDBACKS}
_WITH_MESSAGES = {"/v1/chat/completions", "/v1/messages", "/v1/messages/count_tokens"}
_GETS = {
    "/v1/models": "The models that this key may use", "/v1/models/{model}": "One model", "/health": "The process serves",
    "/v1/responses/{response}": "A response that was kept", "/v1/responses/{response}/input_items": "What it was asked",
    "/ready": "Some model can answer now", "/metrics": "Prometheus text", "/version": "The gateway's version",
}  # fmt: skip
_FAILS = ("400", "401", "403", "404", "405", "408", "413", "429", "431", "502", "503", "504")


def _answers(ok: Json, error: str = "Error") -> Json:
    failed = {"description": "An error", "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{error}"}}}}
    return {"200": ok, **dict.fromkeys(_FAILS, failed)}


def _post(path: str) -> Json:
    summary, properties = _BODIES[path]
    needed = [k for k in properties if k not in _OPTIONAL or (k == "messages" and path in _WITH_MESSAGES)]
    schema: Json = {"type": "object", "required": needed, "properties": properties, "additionalProperties": True}
    content: Json = {"application/json": {"schema": {"type": "object"}}}
    error = "MessagesError" if path.startswith("/v1/messages") else "Error"
    if "stream" in properties:
        content["text/event-stream"] = {"schema": {"type": "string"}}
    return {"post": {
        "summary": summary, "requestBody": {"required": True, "content": {"application/json": {"schema": schema}}},
        "responses": _answers({"description": "The answer", "content": content}, error),
    }}  # fmt: skip


def _get(path: str) -> Json:
    kind = "text/plain" if path == "/metrics" else "application/json"
    operation: Json = {"summary": _GETS[path], "responses": _answers({"description": "The answer", "content": {kind: {}}})}
    name = path.partition("{")[2].partition("}")[0]
    if name:
        operation["parameters"] = [{"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}]
    if path in ("/health", "/ready", "/version"):
        operation["security"] = []
    if path.endswith("{response}"):
        return {"get": operation, "delete": {**operation, "summary": "Forgets a response"}}
    return {"get": operation}


@functools.cache
def document() -> bytes:
    """The document, as JSON."""
    return msgspec.json.encode({
        "openapi": "3.1.0",
        "info": {"title": "Pointsman", "version": VERSION, "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
                 "description": "One OpenAI-compatible endpoint in front of local and remote models."},
        "paths": {**{p: _post(p) for p in _BODIES}, **{p: _get(p) for p in _GETS}, **relayed(_answers)},
        "components": {
            "schemas": {"Error": _ERROR, "MessagesError": _MESSAGES_ERROR},
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"key": []}, {}],
    })  # fmt: skip
