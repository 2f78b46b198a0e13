"""`/v1/embeddings` → Google's embedding methods, and back. Pure.

AI Studio has `batchEmbedContents`. Vertex AI has `embedContent` for one text, `batchEmbedContents` for more, and `predict` for models
that are not Gemini's. Source: `embed_content` and the converters `_EmbedContentParametersPrivate_to_*` of the `google-genai` SDK.
"""

from __future__ import annotations

import base64
import struct
from typing import Any, Literal

import msgspec

from backends import wire
from backends.dialects.gemini_answer import UNREADABLE, Out, decode, failed
from backends.dialects.gemini_chat import Notes, decoded
from backends.dialects.gemini_path import path
from backends.dialects.relayed import Relayed
from backends.dialects.types import Context, Request, Stream
from backends.types import Fault
from backends.wire import Doc, bad

MAX_INPUTS = 2048  # as OpenAI has it
_HARMLESS = {"user": "Google takes no user's name"}


class Google(msgspec.Struct):
    task_type: str | None = None
    title: str | None = None


class Asked(msgspec.Struct):
    input: str | list[str | int | list[int]]
    model: Any = None
    dimensions: int | None = None
    encoding_format: Literal["float", "base64"] | None = None
    google: Google | None = None
    extra_body: Any = None
    user: Any = None


class Memo(msgspec.Struct, frozen=True):
    """What the answer's reader must know: how many texts there were, and how the client wants the numbers."""

    count: int
    encoded: bool


class Statistics(msgspec.Struct):
    token_count: float = 0


class Embedding(msgspec.Struct):
    values: list[float] = []
    statistics: Statistics | None = None


class Prediction(msgspec.Struct):
    embeddings: Embedding


class Counted(msgspec.Struct, rename="camel"):
    prompt_token_count: int = 0


class Answer(msgspec.Struct, rename="camel"):
    embeddings: list[Embedding] | None = None
    embedding: Embedding | None = None
    predictions: list[Prediction] | None = None
    usage_metadata: Counted | None = None


class GeminiEmbeddings:
    """A `dialects.types.Dialect` whose documents are those of `/v1/embeddings`. `service`: AI Studio's methods, or Vertex AI's."""

    name = "gemini"

    def __init__(self, service: Literal["studio", "vertex"] = "studio") -> None:
        self.vertex = service == "vertex"

    def request(self, doc: Doc, context: Context) -> Request:
        return request(doc, context, vertex=self.vertex)

    def reply(self, body: bytes, request: Request, context: Context) -> bytes:
        return reply(body, request, context)

    def stream(self, request: Request, context: Context) -> Stream:
        """Google streams no embeddings; what would come is passed on."""
        return Relayed().stream(request, context)


_KNOWN = frozenset(f.name for f in msgspec.structs.fields(Asked))
_asked = msgspec.json.Decoder(Asked)
_google = msgspec.json.Decoder(Google)
_answer = msgspec.json.Decoder(Answer)


def request(doc: Doc, context: Context, *, vertex: bool = False) -> Request:
    """Raises `Fault` (bad_request, client) for what is malformed or, when strict, cannot be honoured. Does not change `doc`."""
    asked, notes = decoded(_asked, wire.encode(doc), ""), Notes(context.strict)
    for key in doc.keys() - (_KNOWN - {"user", "extra_body"}):
        _leftover(key, doc, notes)
    texts = [asked.input] if isinstance(asked.input, str) else [t for t in asked.input if isinstance(t, str)]
    if isinstance(asked.input, list) and len(texts) < len(asked.input):
        raise bad("'input' must be text: this model does not take another's tokens.", param="input")
    if not 0 < len(texts) <= MAX_INPUTS or not all(texts):
        raise bad(f"'input' must be one text or 1 to {MAX_INPUTS} of them, none empty.", param="input")
    options = _options(asked, doc)
    if not vertex:
        name, out = context.model.removeprefix("models/"), "batchEmbedContents"
        body: Out = {"requests": [{"model": f"models/{name}", "content": _content(t), **options} for t in texts]}
    elif "gemini" in context.model.rpartition("/")[2]:
        out, body = _vertex(texts, options)
    else:
        out, body = "predict", _predict(texts, options)
    memo = Memo(len(texts), asked.encoding_format == "base64")
    return Request(path(context.model, out), wire.encode(body), notes=notes.all(), memo=memo)


def _leftover(key: str, doc: Doc, notes: Notes) -> None:
    if key in _HARMLESS:
        notes.add(key, "dropped", _HARMLESS[key])
    elif key != "extra_body" and doc[key] != wire.NULL:
        notes.lost(key, "Google's embedding models have no such parameter")
    elif key == "extra_body" and (others := wire.sub(doc, key).keys() - {"google"}):
        notes.lost(f"{key}.{min(others)}", "Google's embedding models have no such parameter")


def _options(asked: Asked, doc: Doc) -> Out:
    google = asked.google
    raw = wire.sub(doc, "extra_body").get("google", wire.NULL)
    if raw != wire.NULL:
        google = decoded(_google, bytes(raw), "extra_body.google")
    found = {
        "outputDimensionality": asked.dimensions,
        "taskType": google.task_type if google else None,
        "title": google.title if google else None,
    }
    return {k: v for k, v in found.items() if v is not None}


def _content(text: str) -> Out:
    return {"parts": [{"text": text}]}


def _vertex(texts: list[str], options: Out) -> tuple[str, Out]:
    made: list[Out] = [{"content": _content(t)} | ({"embedContentConfig": options} if options else {}) for t in texts]
    return ("embedContent", made[0]) if len(made) == 1 else ("batchEmbedContents", {"requests": made})


def _predict(texts: list[str], options: Out) -> Out:
    """The old form: two options are of a text and one is of all."""
    names = {"taskType": "task_type", "title": "title"}
    each = {new: options[old] for old, new in names.items() if old in options}
    out: Out = {"instances": [{"content": t, **each} for t in texts]}
    if "outputDimensionality" in options:
        out["parameters"] = {"outputDimensionality": options["outputDimensionality"]}
    return out


def reply(body: bytes, request: Request, context: Context) -> bytes:
    """The answer as OpenAI's list of embeddings. Token counts are those that Google tells; AI Studio's older models tell none, which
    is 0. Raises `Fault` (upstream) when it is no such answer, or not for as many texts as were sent."""
    memo: Memo = request.memo
    try:
        if b'"error"' in body and (error := decode(body).error) is not None:
            raise failed(error)
        found = _answer.decode(body)
        rows = found.embeddings or ([found.embedding] if found.embedding else [p.embeddings for p in found.predictions or ()])
        if len(rows) != memo.count:
            raise Fault("upstream", f"Google embedded {len(rows)} texts of {memo.count}.", origin="backend", retry=True)
        data = [{"object": "embedding", "index": i, "embedding": _numbers(r.values, memo.encoded)} for i, r in enumerate(rows)]
    except (*UNREADABLE, struct.error, OverflowError):
        raise Fault("upstream", "The backend's answer cannot be read as embeddings.", origin="backend", retry=True) from None
    tokens = found.usage_metadata.prompt_token_count if found.usage_metadata else 0
    tokens = tokens or int(sum(r.statistics.token_count for r in rows if r.statistics))
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return wire.encode({"object": "list", "data": data, "model": context.model, "usage": usage})


def _numbers(values: list[float], encoded: bool) -> Any:
    """The numbers, or their 32-bit little-endian form in base64, as OpenAI's clients ask for by default."""
    return base64.b64encode(struct.pack(f"<{len(values)}f", *values)).decode() if encoded else values
