"""`/v1/embeddings` → Google's methods and back, read by the official types of both sides."""

from __future__ import annotations

import base64
import struct
from typing import Any

import msgspec
import pytest
from google.genai import types
from openai.types import CreateEmbeddingResponse

from backends import wire
from backends.dialects import gemini_embed
from backends.dialects.types import Context, Request
from backends.types import Fault


def ask(*, vertex: bool = False, model: str = "gemini-embedding-001", strict: bool = True, **doc: Any) -> Request:
    context = Context("r", 0, model, strict=strict)
    return gemini_embed.request(wire.parse(msgspec.json.encode(doc)), context, vertex=vertex)


def sent(**doc: Any) -> tuple[str, Any]:
    request = ask(**doc)
    return request.path, msgspec.json.decode(request.body)


def read(body: Any, request: Request) -> Any:
    raw = body if isinstance(body, bytes) else msgspec.json.encode(body)
    out = gemini_embed.reply(raw, request, Context("r", 0, "gemini-embedding-001"))
    CreateEmbeddingResponse.model_validate_json(out)
    return msgspec.json.decode(out)


def content(text: str) -> Any:
    made = {"parts": [{"text": text}]}
    types.Content.model_validate(made)
    return made


def test_ai_studio() -> None:
    where, body = sent(input=["a", "b"], dimensions=64, google={"task_type": "RETRIEVAL_QUERY"})
    assert where == "/models/gemini-embedding-001:batchEmbedContents"
    each = {"model": "models/gemini-embedding-001", "outputDimensionality": 64, "taskType": "RETRIEVAL_QUERY"}
    assert body == {"requests": [{**each, "content": content("a")}, {**each, "content": content("b")}]}
    assert sent(input="a", model="models/m")[1] == sent(input=["a"], model="models/m")[1]


def test_vertex() -> None:
    extra = {"google": {"title": "t"}}
    one = {"content": content("a"), "embedContentConfig": {"outputDimensionality": 8, "title": "t"}}
    assert sent(vertex=True, input="a", dimensions=8, extra_body=extra) == ("/models/gemini-embedding-001:embedContent", one)
    where, body = sent(vertex=True, input=["a", "b"])
    assert where.endswith(":batchEmbedContents") and body == {"requests": [{"content": content("a")}, {"content": content("b")}]}


def test_vertex_models_that_are_not_geminis() -> None:
    where, body = sent(vertex=True, model="text-embedding-005", input=["a"], dimensions=8, google={"task_type": "X", "title": "t"})
    assert where == "/models/text-embedding-005:predict"
    assert body == {"instances": [{"content": "a", "task_type": "X", "title": "t"}], "parameters": {"outputDimensionality": 8}}
    assert sent(vertex=True, model="text-embedding-005", input="a")[1] == {"instances": [{"content": "a"}]}


@pytest.mark.parametrize(
    ("doc", "param"),
    [
        ({"input": [1, 2]}, "input"), ({"input": [[1]]}, "input"), ({"input": []}, "input"), ({"input": ""}, "input"),
        ({"input": ["a", ""]}, "input"), ({"input": ["a"] * 2049}, "input"), ({"input": "a", "dimensions": "x"}, "dimensions"),
        ({"input": "a", "encoding_format": "hex"}, "encoding_format"),
        ({"input": "a", "truncate": True}, "truncate"), ({"input": "a", "extra_body": {"x": 1}}, "extra_body.x"),
        ({"input": "a", "extra_body": {"google": {"title": 5}}}, "extra_body.google.title"),
    ],
)  # fmt: skip
def test_refusals(doc: Any, param: str) -> None:
    with pytest.raises(Fault) as refused:
        ask(**doc)
    assert refused.value.param == param and refused.value.origin == "client"


def test_notes() -> None:
    notes = ask(input="a", user="u", truncate=True, x=None, extra_body={"y": 1}, strict=False).notes
    assert {n.param: n.fate for n in notes} == {"user": "dropped", "truncate": "dropped", "extra_body.y": "dropped"}


def test_answers() -> None:
    two = read({"embeddings": [{"values": [0.5, -1]}, {"values": [1]}]}, ask(input=["a", "b"]))
    assert [row["embedding"] for row in two["data"]] == [[0.5, -1.0], [1.0]] and two["usage"] == {"prompt_tokens": 0, "total_tokens": 0}
    one = read({"embedding": {"values": [0.5]}, "usageMetadata": {"promptTokenCount": 7}}, ask(vertex=True, input="a"))
    assert one["data"][0]["embedding"] == [0.5] and one["usage"]["prompt_tokens"] == 7
    old = {"predictions": [{"embeddings": {"values": [2.0], "statistics": {"token_count": 3, "truncated": False}}}]}
    assert read(old, ask(vertex=True, model="text-embedding-005", input="a"))["usage"]["total_tokens"] == 3


def test_base64_is_what_openais_client_reads() -> None:
    out = gemini_embed.reply(b'{"embeddings":[{"values":[0.5,-2]}]}', ask(input="a", encoding_format="base64"), Context("r", 0, "m"))
    text = msgspec.json.decode(out)["data"][0]["embedding"]
    assert struct.unpack("<2f", base64.b64decode(text)) == (0.5, -2.0)


@pytest.mark.parametrize(
    "body", [b"<html>", b'{"embeddings":[]}', b"{}", b'{"embeddings":[{"values":["x"]}]}', b'{"error":{"code":500,"message":"m"}}']
)
def test_answers_that_are_none(body: bytes) -> None:
    with pytest.raises(Fault) as fault:
        gemini_embed.reply(body, ask(input="a"), Context("r", 0, "m"))
    assert fault.value.origin == "backend" and fault.value.retry
    with pytest.raises(Fault):
        gemini_embed.reply(b'{"embeddings":[{"values":[1e300]}]}', ask(input="a", encoding_format="base64"), Context("r", 0, "m"))


def test_the_dialect_is_the_two_functions() -> None:
    context = Context("r", 0, "gemini-embedding-001")
    doc = wire.parse(b'{"model":"m","input":"a"}')
    for service, method in (("studio", "batchEmbedContents"), ("vertex", "embedContent")):
        dialect = gemini_embed.GeminiEmbeddings(service)  # type: ignore[arg-type]
        request = dialect.request(doc, context)
        assert request.path == f"/models/gemini-embedding-001:{method}"
        assert b'"embedding":[1.0]' in dialect.reply(b'{"embedding":{"values":[1.0]}}', request, context)
        stream = dialect.stream(request, context)
        assert stream.feed(b"data: {}\n\n") == b"data: {}\n\n" and stream.close() == b""
