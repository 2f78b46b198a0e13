"""Gemini's embeddings: `embedContent`, `batchEmbedContents`, and Vertex' older `predict`. Pure.

Shapes: google-genai `_EmbedContentParametersPrivate_to_mldev` and `_to_vertex`, `_EmbedContentResponse_from_*`. AI Studio wants the model
in every request of a batch and the settings beside the content; Vertex has them in `embedContentConfig`, `predict` in `parameters`.
"""

from __future__ import annotations

from typing import Any

from tests.fakes.providers.gemini_models import Refused
from tests.fakes.providers.gemini_proto import Bad, Doc, Service, read
from tests.fakes.providers.gemini_rules import parts_of


def embed(doc: Any, method: str, service: Service, model: str) -> tuple[Doc, Doc]:
    """The request as read, and its answer. Raises Bad or Refused."""
    if method == "predict":
        return doc, _predict(doc)
    if method == "embedContent":
        one = read(doc, "EmbedContentRequest", service)
        row = _row(one, f"models/{model}" if "model" in one else None, "EmbedContentRequest")
        return one, {"embedding": row}
    many = read(doc, "BatchEmbedContentsRequest", service)
    if not many.get("requests"):
        raise Refused("* BatchEmbedContentsRequest.requests: at least one request is required\n")
    name = f"models/{model}" if service == "studio" else None
    return many, {"embeddings": [_row(one, name, f"BatchEmbedContentsRequest.requests[{at}]") for at, one in enumerate(many["requests"])]}


def _row(one: Doc, model: str | None, path: str) -> Doc:
    if one.get("model") != model:
        raise Refused(f"* {path}.model: must match the model of the request\n")
    text = "".join(parts_of(one.get("content", {}), "text"))
    if not text:
        raise Refused(f"* {path}.content: content is empty\n")
    return {"values": vector(text, one.get("embedContentConfig", one).get("outputDimensionality"))}


def _predict(doc: Any) -> Doc:
    """Untyped instances: what is read from them is named in the model reference of text embeddings."""
    extra = sorted(set(doc) - {"instances", "parameters"}) if isinstance(doc, dict) else [""]
    if extra:
        raise Bad([("", f'Invalid JSON payload received. Unknown name "{extra[0]}": Cannot find field.')])
    settings = doc.get("parameters") or {}
    if not isinstance(doc.get("instances"), list) or not isinstance(settings, dict):
        raise Refused("Unable to submit request because instances is not a list, or parameters not an object.")
    rows = []
    for one in doc["instances"]:
        if not isinstance(one, dict) or set(one) - {"content", "task_type", "title"} or not isinstance(one.get("content"), str):
            raise Refused("Unable to submit request because an instance has no text content or an unknown field.")
        statistics = {"token_count": len(one["content"].split()), "truncated": False}
        values = vector(one["content"], settings.get("outputDimensionality"))
        rows.append({"embeddings": {"values": values, "statistics": statistics}})
    if not rows:
        raise Refused("Unable to submit request because instances is empty.")
    return {"predictions": rows}


def vector(text: str, size: Any) -> list[float]:
    """An embedding that tells texts of different length apart: 3072 numbers unless asked otherwise (page of gemini-embedding-001)."""
    size = 3072 if size is None else size
    if not isinstance(size, int) or not 1 <= size <= 3072:
        raise Refused(f"output_dimensionality {size} is out of range: it must be from 1 to 3072")
    return [((len(text) + at) % 64) / 64 for at in range(size)]
