"""Requests to the scripted Gemini by hand, for what an SDK would not send."""

from __future__ import annotations

import base64
from typing import Any

import httpx

from tests.fakes.providers.gemini import KEY, LOCATION, PROJECT, TOKEN

Doc = dict[str, Any]
USER: Doc = {"role": "user", "parts": [{"text": "hello"}]}
CALL: Doc = {"functionCall": {"name": "get_weather", "args": {"city": "Oslo"}}}
DECLARED = [
    {"functionDeclarations": [{"name": "get_weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}]}
]


def said(*parts: Doc) -> Doc:
    return {"role": "model", "parts": list(parts)}


def gave(name: str = "get_weather", response: Any = None, **more: Any) -> Doc:
    return {"functionResponse": {"name": name, "response": {"result": "fine"} if response is None else response, **more}}


def user(*parts: Doc) -> Doc:
    return {"role": "user", "parts": list(parts)}


def generating(**settings: Any) -> Doc:
    return {"contents": [USER], "generationConfig": settings}


def talk(*contents: Doc) -> Doc:
    return {"contents": list(contents)}


def declaring(**function: Any) -> Doc:
    return {"contents": [USER], "tools": [{"functionDeclarations": [{"name": "f", **function}]}]}


def parameters(**properties: Doc) -> Doc:
    return declaring(parameters={"type": "object", "properties": properties})


def blob(mime: str, data: bytes) -> Doc:
    return talk(user({"inlineData": {"mimeType": mime, "data": base64.b64encode(data).decode()}}))


def post(root: str, doc: Any, path: str = "/v1beta/models/gemini-2.5-flash:generateContent", **headers: str) -> httpx.Response:
    return httpx.post(root + path, json=doc, headers={"x-goog-api-key": KEY, **headers}, timeout=20, verify=False)


def refused(name: str, reply: httpx.Response, sentence: str, code: int = 400, status: str = "INVALID_ARGUMENT") -> None:
    assert reply.status_code == code, (name, reply.text)
    error = reply.json()["error"]
    assert sentence in error["message"], (name, error)
    assert (error["code"], error["status"]) == (code, status), name


def vertex(
    root: str, doc: Any, model: str = "gemini-2.5-flash", project: str = PROJECT, token: str = TOKEN, method: str = "generateContent"
) -> httpx.Response:
    path = f"/v1/projects/{project}/locations/{LOCATION}/publishers/google/models/{model}:{method}"
    return httpx.post(root + path, json=doc, headers={"authorization": f"Bearer {token}"}, timeout=20, verify=False)
