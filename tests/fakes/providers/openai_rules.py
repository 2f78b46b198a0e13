"""What OpenAI looks at in a request: its models, shapes, ranges, schemas and media. Pure; the sentences are in `openai_table`."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tests.fakes.providers.media import Media, sniff
from tests.fakes.providers.openai_table import Doc, Refusal, refuse
from tests.fakes.providers.schemas import is_schema, unanswerable
from tests.fakes.providers.typed import Mismatch, check

IMAGES = ("image/png", "image/jpeg", "image/gif", "image/webp")


@dataclass(frozen=True)
class Model:
    """What one model takes. `efforts`: empty where it does not reason; `default`: its effort when none is asked for."""

    efforts: tuple[str, ...] = ()
    default: str = "none"
    stops: bool = True
    output: int = 16384

    def effort(self, asked: str | None) -> str:
        return asked or self.default


MODELS = {
    "gpt-4o": Model(),
    "gpt-4.1-mini": Model(output=32768),
    "o4-mini": Model(("low", "medium", "high"), "medium", stops=False, output=100_000),
    "gpt-5": Model(("minimal", "low", "medium", "high"), "medium", stops=False, output=128_000),
    "gpt-5.2": Model(("none", "low", "medium", "high", "xhigh"), "none", output=128_000),  # reasons only when asked to (T34)
}
EMBEDDERS = {"text-embedding-3-small": 1536, "text-embedding-3-large": 3072}


def model_of(doc: Doc) -> Model:
    name = doc["model"]
    if name not in MODELS:
        raise refuse("model", model=name)
    return MODELS[name]


# Shapes.

WORDS = {
    "a valid string": "a string", "a valid integer": "an integer", "a valid number": "a decimal", "a valid boolean": "a boolean",
    "a valid list": "an array", "a valid dictionary": "an object",
}  # fmt: skip
GOT: tuple[tuple[type, str], ...] = (
    (bool, "a boolean"), (str, "a string"), (int, "an integer"), (float, "a decimal"), (list, "an array"), (dict, "an object"),
)  # fmt: skip


def shaped(doc: Any, wanted: Any, *, chat: bool) -> None:
    """Raises Refusal for the first thing that the SDK's type does not have. `chat`: unknown top-level keys are told in older words."""
    if not isinstance(doc, dict):
        raise refuse("body")
    try:
        check(doc, wanted)
    except Mismatch as mismatch:
        raise _told(doc, mismatch, chat) from None


def _told(doc: Doc, mismatch: Mismatch, chat: bool) -> Refusal:
    param, value = place(doc, mismatch.where)
    said = mismatch.what.removeprefix("Input should be ")
    if mismatch.kind == "extra":
        return refuse("argument", key=param) if chat and "." not in param else refuse("unknown", param)
    if mismatch.kind == "missing":
        return refuse("missing", param)
    if mismatch.kind == "value":
        return refuse("value", param, value=value, values=said.replace(" or ", ", and " if "," in said else " and "))
    got = next((word for kind, word in GOT if isinstance(value, kind)), "null")
    return refuse("type", param, wanted=WORDS.get(said, said), got=got)


def place(doc: Any, where: tuple[str, ...]) -> tuple[str, Any]:
    """OpenAI's name of a path (`messages[0].content`) and what is there. Tags of unions, which `typed` puts into it, are left out."""
    name, value, tagged = "", doc, False
    for part in where:
        if isinstance(value, list):
            name, value, tagged = f"{name}[{part}]", value[int(part)], False
        elif isinstance(value, dict) and value.get("type") == part and not tagged and value is not doc:
            tagged = True
        else:
            name, tagged = f"{name}.{part}" if name else part, False
            value = value.get(part) if isinstance(value, dict) else None
    return name, value


def within(doc: Doc, ranges: dict[str, tuple[float, float]]) -> None:
    """Numbers in their ranges."""
    for param, (least, most) in ranges.items():
        value = doc.get(param)
        if value is None:
            continue
        kind = "integer" if isinstance(least, int) else "decimal"
        if value > most:
            raise refuse("above", param, kind=kind, limit=most, value=value, code=f"{kind}_above_max_value")
        if value < least:
            raise refuse("below", param, kind=kind, limit=least, value=value, code=f"{kind}_below_min_value")


def fits(param: str, name: str, pattern: str = "^[a-zA-Z0-9_-]+$", limit: int = 64) -> None:
    if len(name) > limit:
        raise refuse("long string", param, limit=limit, value=len(name))
    if not re.fullmatch(pattern.strip("^$"), name):
        raise refuse("pattern", param, pattern=pattern)


# Schemas.


KINDS = {"type", "anyOf", "$ref", "enum", "const", "oneOf", "allOf"}


def strict_schema(schema: Any) -> Iterator[str]:
    """Why a schema cannot be followed strictly: every object closed, every property required, no `oneOf` or `allOf`."""
    yield from _no_object(schema)
    yield from _strict(schema, ())


def _no_object(schema: Any) -> Iterator[str]:
    yield from invalid(schema)
    if not isinstance(schema, dict) or schema.get("type") != "object":
        kind = schema.get("type") if isinstance(schema, dict) else None
        yield f"schema must be a JSON Schema of 'type: \"object\"', got 'type: \"{kind}\"'."


def invalid(schema: Any) -> Iterator[str]:
    """Whether it is JSON Schema at all."""
    if not is_schema(schema):
        yield f"{shown(schema)} is not valid under any of the given schemas."


def shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 200 else text[:200] + "..."


def _strict(schema: Any, context: tuple[str, ...]) -> Iterator[str]:
    if not isinstance(schema, dict) or not KINDS & schema.keys():
        yield f"In context={context}, schema must have a 'type' key."
        return
    if "object" in schema.get("type", ()):
        yield from _closed(schema, context)
    if "array" in schema.get("type", ()) and "items" not in schema:
        yield f"In context={context}, array schema missing items."
    for word in ("oneOf", "allOf", "not", "if", "patternProperties", "dependentSchemas"):
        if word in schema:
            yield f"In context={context}, '{word}' is not permitted."
    for group in ("properties", "$defs", "definitions"):
        for name, inner in schema.get(group, {}).items():
            yield from _strict(inner, (*context, group, name))
    if "items" in schema:
        yield from _strict(schema["items"], (*context, "items"))
    for at, inner in enumerate(schema.get("anyOf", ())):
        yield from _strict(inner, (*context, "anyOf", str(at)))


def _closed(schema: Doc, context: tuple[str, ...]) -> Iterator[str]:
    if schema.get("additionalProperties") is not False:
        yield f"In context={context}, 'additionalProperties' is required to be supplied and to be false."
    properties, required = schema.get("properties", {}), schema.get("required")
    missing = [name for name in properties if name not in (required or ())]
    if missing:
        yield (
            f"In context={context}, 'required' is required to be supplied and to be an array including every key in properties. "
            f"Missing '{missing[0]}'."
        )
    extra = [name for name in required or () if name not in properties]
    if extra:
        yield f"In context={context}, 'required' has '{extra[0]}', which is not a property."


def output_schema(schema: Any, strict: bool) -> str | None:
    """Why an answer cannot be made by a schema."""
    wrong = next(strict_schema(schema) if strict else invalid(schema), None)
    return wrong or unanswerable(schema)


def function_schema(name: str, schema: Any, strict: bool, param: str) -> None:
    """A tool's parameters. Raises Refusal."""
    wrong = next(strict_schema(schema), None) if strict else next(_loose(schema), None)
    if wrong is not None:
        raise refuse("function schema", param, name=name, why=wrong)


def _loose(schema: Any) -> Iterator[str]:
    """Even an unstrict schema is an object's, and its arrays have items."""
    yield from _no_object(schema)
    if "properties" not in schema:
        yield "In context=(), object schema missing properties."
        return
    for name, inner in schema["properties"].items():
        if isinstance(inner, dict) and inner.get("type") == "array" and "items" not in inner:
            yield f"In context=('properties', '{name}'), array schema missing items."


# Media.


def image(url: str, param: str) -> Media:
    """An image by data URI, its bytes looked at. A web address counts as the bytes of its name: the fake fetches nothing."""
    if not url.startswith("data:"):
        if not re.match(r"https?://\w", url):
            raise refuse("image url", param, url=url)
        return Media("", url.encode())
    found = data_uri(url, param)
    if found.media_type not in IMAGES or sniff(found.data) != found.media_type:
        raise refuse("image", param)
    return found


def data_uri(url: str, param: str) -> Media:
    head, comma, body = url.removeprefix("data:").partition(",")
    if not comma or not head.endswith(";base64"):
        raise refuse("base64", param)
    return Media(head.removesuffix(";base64"), unbase64(body, param))


def unbase64(text: str, param: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        raise refuse("base64", param) from None


def pdf(url: str, param: str) -> Media:
    found = data_uri(url, param) if url.startswith("data:") else Media("", b"")
    if found.media_type != "application/pdf" or sniff(found.data) != "application/pdf":
        raise refuse("file", param)
    return found
