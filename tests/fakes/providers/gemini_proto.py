"""Reads JSON as Google's servers read it into their protos: unknown names, wrong types and double oneofs are refused in Google's words.

Fields and their types are those of the official SDK (`google.genai.types`), read from its classes, so that nothing here can be
wrong on its own. What only one of the two services knows is the table `ONLY`, from the SDK's converters (`_*_to_mldev`,
`_*_to_vertex` in google/genai/models.py). Wording: `Unknown name … Cannot find field.` decolua/9router#1036 (with its `details`);
`Invalid value at … (TYPE_…)` and the oneof's from googleapis' documentation of ESF transcoding and google-gemini/gemini-cli issues.
"""

from __future__ import annotations

import base64
import binascii
import enum
import functools
import re
import types as plain_types
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, Union, get_args, get_origin

from google.genai import types
from pydantic import BaseModel

Doc = dict[str, Any]
Service = Literal["studio", "vertex"]
STRUCT = "type.googleapis.com/google.protobuf.Struct"
INT32 = range(-(2**31), 2**31)


@dataclass(frozen=True)
class Field:
    """One field of a message: `kind` is string, bytes, bool, int, float, struct, value, an enum class or a message name."""

    name: str
    kind: Any
    repeated: bool = False
    mapped: bool = False

    @property
    def snake(self) -> str:
        return snake(self.name)


@dataclass
class Bad(Exception):
    """What the parser refused: (path of the message, sentence) each. Google lists them all."""

    found: list[tuple[str, str]] = field(default_factory=list)

    def add(self, path: str, sentence: str) -> None:
        self.found.append((path, sentence))


# The two services.

ONLY: dict[tuple[str, str], Service] = {
    ("FunctionCall", "partialArgs"): "vertex", ("FunctionCall", "willContinue"): "vertex",
    ("FunctionCallingConfig", "streamFunctionCallArguments"): "vertex",
    ("SafetySetting", "method"): "vertex",
    ("Tool", "retrieval"): "vertex", ("Tool", "enterpriseWebSearch"): "vertex", ("Tool", "parallelAiSearch"): "vertex",
    ("Tool", "exaAiSearch"): "vertex", ("Tool", "fileSearch"): "studio",
    ("GenerationConfig", "audioTimestamp"): "vertex", ("GenerationConfig", "routingConfig"): "vertex",
    ("GenerationConfig", "modelConfig"): "vertex", ("GenerationConfig", "enableEnhancedCivicAnswers"): "studio",
    ("GenerateContentRequest", "modelArmorConfig"): "vertex", ("GenerateContentRequest", "store"): "studio",
    ("Schema", "ref"): "vertex", ("Schema", "defs"): "vertex", ("Schema", "additionalProperties"): "vertex",
    ("Part", "toolCall"): "studio", ("Part", "toolResponse"): "studio", ("Part", "partMetadata"): "studio",
    ("ToolConfig", "includeServerSideToolInvocations"): "studio",
    ("EmbedContentRequest", "model"): "studio", ("EmbedContentRequest", "taskType"): "studio", ("EmbedContentRequest", "title"): "studio",
    ("EmbedContentRequest", "outputDimensionality"): "studio", ("EmbedContentRequest", "embedContentConfig"): "vertex",
}  # fmt: skip

# Messages that the SDK builds in its converters and has no class for (`_GenerateContentParameters_to_*`, `_EmbedContent*_to_mldev`).
OWN: dict[str, tuple[Field, ...]] = {
    "GenerateContentRequest": (
        Field("model", "string"), Field("contents", "Content", repeated=True), Field("systemInstruction", "Content"),
        Field("tools", "Tool", repeated=True), Field("toolConfig", "ToolConfig"), Field("safetySettings", "SafetySetting", repeated=True),
        Field("generationConfig", "GenerationConfig"), Field("cachedContent", "string"), Field("labels", "string", mapped=True),
        Field("serviceTier", "string"), Field("modelArmorConfig", "ModelArmorConfig"), Field("store", "bool"),
        Field("continuationToken", "bytes"),
    ),
    "EmbedContentRequest": (
        Field("model", "string"), Field("content", "Content"), Field("taskType", "string"), Field("title", "string"),
        Field("outputDimensionality", "int"), Field("embedContentConfig", "EmbedContentConfig"),
    ),
    "BatchEmbedContentsRequest": (Field("requests", "EmbedContentRequest", repeated=True),),
    "CountTokensRequest": (Field("contents", "Content", repeated=True), Field("generateContentRequest", "GenerateContentRequest")),
}  # fmt: skip
HIDDEN = {("EmbedContentConfig", "httpOptions")}  # the SDK's own
RENAMED = {("GenerationConfig", "modelSelectionConfig"): "modelConfig"}
MORE = {"GenerationConfig": (Field("imageConfig", "ImageConfig"),)}

# Part.data is a oneof (SDK, class Part: "exactly one field within a Part should be set").
ONEOF = {
    "Part": (
        "text", "inlineData", "functionCall", "functionResponse", "fileData", "executableCode", "codeExecutionResult", "toolCall",
        "toolResponse",
    )
}  # fmt: skip


def snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])([A-Z])", r"_\1", name).lower()


@functools.cache
def message(name: str, service: Service) -> dict[str, Field]:
    """The fields of a message by either of their names, as one service knows them."""
    fields = OWN[name] if name in OWN else tuple(_of_class(name))
    known: dict[str, Field] = {}
    for one in (*fields, *MORE.get(name, ())):
        if ONLY.get((name, one.name), service) == service and (name, one.name) not in HIDDEN:
            known[one.name] = known[one.snake] = one
    return known


def _of_class(name: str) -> Iterator[Field]:
    for own, info in getattr(types, name).model_fields.items():
        alias = RENAMED.get((name, info.alias or own), info.alias or own)
        yield _field(alias, info.annotation)


def _field(name: str, kind: Any) -> Field:
    kind = _bare(kind)
    if get_origin(kind) is list:
        return Field(name, _kind(_bare(get_args(kind)[0])), repeated=True)
    if get_origin(kind) is dict and get_args(kind)[1] is not Any:
        return Field(name, _kind(get_args(kind)[1]), mapped=True)
    return Field(name, _kind(kind))


def _bare(kind: Any) -> Any:
    """Without None; of a union the first, which is the wire's."""
    if get_origin(kind) in (Union, plain_types.UnionType):
        return next(one for one in get_args(kind) if one is not type(None))
    return kind


def _kind(kind: Any) -> Any:
    if get_origin(kind) is dict or kind is dict:
        return "struct"
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return kind.__name__
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return kind
    return {str: "string", bytes: "bytes", bool: "bool", int: "int", float: "float"}.get(kind, "value")


# Reading.


def read(doc: Any, name: str, service: Service) -> Doc:
    """The message with camelCase names and enums in capitals; nulls are left out. Raises Bad with everything that is wrong."""
    bad = Bad()
    if not isinstance(doc, dict):
        bad.add("", "Invalid JSON payload received. Unable to parse: Root element must be a message.")
        raise bad
    found = _message(doc, name, "", service, bad)
    if bad.found:
        raise bad
    return found


def _message(doc: Doc, name: str, path: str, service: Service, bad: Bad) -> Doc:
    known, out = message(name, service), {}
    for key, value in doc.items():
        one = known.get(key)
        where = f" at '{path}'" if path else ""
        if one is None:
            bad.add(path, f'Invalid JSON payload received. Unknown name "{key}"{where}: Cannot find field.')
        elif one.name in out:
            bad.add(path, f"Invalid JSON payload received. Field '{key}'{where} was given twice.")
        elif value is not None:
            out[one.name] = _value(one, value, f"{path}.{one.snake}" if path else one.snake, service, bad)
    given = [part for part in ONEOF.get(name, ()) if part in out]
    if len(given) > 1:
        bad.add(path, f"Invalid value at '{path}' (oneof), oneof field 'data' is already set. Cannot set '{given[1]}'")
    return out


def _value(one: Field, value: Any, path: str, service: Service, bad: Bad) -> Any:
    if one.repeated:
        if not isinstance(value, list):
            bad.add(path, f"Invalid value at '{path}': expected a list.")
            return []
        return [_single(one.kind, item, f"{path}[{at}]", service, bad) for at, item in enumerate(value)]
    if one.mapped:
        if not isinstance(value, dict):
            bad.add(path, f"Invalid value at '{path}' (Map), {shown(value)}")
            return {}
        return {key: _single(one.kind, item, f"{path}[{at}].value", service, bad) for at, (key, item) in enumerate(value.items())}
    if isinstance(value, list) and one.kind not in ("value", "struct"):
        where = f"\"{one.snake}\" at '{path}'"
        bad.add(path, f"Invalid JSON payload received. Unknown name {where}: Proto field is not repeating, cannot start list.")
        return None
    return _single(one.kind, value, path, service, bad)


def shown(value: Any) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value)


def _single(kind: Any, value: Any, path: str, service: Service, bad: Bad) -> Any:
    if isinstance(kind, type):
        return _enum(kind, value, path, bad)
    if kind in ("value", "struct"):
        if kind == "struct" and not isinstance(value, dict):
            bad.add(path, f"Invalid value at '{path}' ({STRUCT}), {shown(value)}")
        return value
    if kind in SCALARS:
        good, label = SCALARS[kind]
        if not good(value):
            bad.add(path, f"Invalid value at '{path}' ({label}), {shown(value)}{BASE64 % value if kind == 'bytes' else ''}")
            return None
        return int(value) if kind == "int" else value
    if not isinstance(value, dict):
        bad.add(path, f"Invalid value at '{path}' (type.googleapis.com/google.ai.generativelanguage.v1beta.{kind}), {shown(value)}")
        return {}
    return _message(value, kind, path, service, bad)


BASE64 = ', Base64 decoding failed for "%s"'


def _enum(kind: Any, value: Any, path: str, bad: Bad) -> Any:
    """Names in any case, as the service takes them (the Schema documentation itself writes `"type": "object"`)."""
    names = {one.value for one in kind}
    if isinstance(value, str) and value.upper() in names:
        return value.upper()
    bad.add(path, f"Invalid value at '{path}' (type.googleapis.com/google.ai.generativelanguage.v1beta.{kind.__name__}), {shown(value)}")
    return None


def unbase64(text: str) -> bytes:
    """Either alphabet, padded or not, as proto JSON reads bytes. Raises ValueError."""
    if not re.fullmatch(r"[A-Za-z0-9+/_-]*={0,2}", text):
        raise binascii.Error("not base64")
    body = text.rstrip("=").replace("-", "+").replace("_", "/")
    return base64.b64decode(body + "=" * (-len(body) % 4), validate=True)


def _is_bytes(value: Any) -> bool:
    try:
        return isinstance(value, str) and unbase64(value) is not None
    except ValueError:
        return False


def _is_int(value: Any) -> bool:
    if isinstance(value, str) and re.fullmatch(r"-?\d+", value):
        value = int(value)
    return isinstance(value, int | float) and not isinstance(value, bool) and float(value).is_integer() and int(value) in INT32


def _is_float(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


SCALARS: dict[str, tuple[Any, str]] = {
    "string": (lambda value: isinstance(value, str), "TYPE_STRING"),
    "bytes": (_is_bytes, "TYPE_BYTES"),
    "bool": (lambda value: isinstance(value, bool), "TYPE_BOOL"),
    "int": (_is_int, "TYPE_INT32"),
    "float": (_is_float, "TYPE_FLOAT"),
}
