"""Whether an answer fits the JSON schema that was asked for. Pure but for a cache of compiled schemas; takes a millisecond for a large
answer, so it is asked off the loop."""

from __future__ import annotations

import functools
import importlib
from typing import Any, NoReturn

import msgspec

from backends import wire

MAX_SCHEMA = 256 * 1024  # bytes; a larger one is not judged
_SCHEMAS = 64  # compiled ones that are kept
_REGEX_BYTES = 1024 * 1024


def fits(schema: bytes, text: str) -> bool | None:
    """Whether `text` is JSON that fits `schema` (JSON text too). False: it is no JSON, or does not fit. None: it is JSON, and more cannot
    be said: the package `jsonschema_rs` is not installed, or the schema is broken, too large or refers to other documents."""
    try:
        value = msgspec.json.decode(text.encode())
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
        return False
    validator = _validator(schema) if len(schema) <= MAX_SCHEMA else None
    return None if validator is None else bool(validator.is_valid(value))


def schema_of(response_format: bytes) -> bytes | None:
    """The schema of a chat request's `response_format`; None where it asks for none."""
    try:
        told = _format.decode(response_format)
    except (msgspec.MsgspecError, RecursionError):
        return None
    if told is None or told.type != "json_schema" or told.json_schema is None or told.json_schema.schema == wire.NULL:
        return None
    return bytes(told.json_schema.schema)


class _Schema(msgspec.Struct):
    schema: msgspec.Raw = wire.NULL


class _Format(msgspec.Struct):
    type: Any = None
    json_schema: _Schema | None = None


_format = msgspec.json.Decoder(_Format | None)


@functools.cache
def _package() -> Any:
    try:
        return importlib.import_module("jsonschema_rs")
    except ImportError:
        return None


@functools.lru_cache(maxsize=_SCHEMAS)
def _validator(schema: bytes) -> Any:
    """What judges by a schema; None where nothing can."""
    package = _package()
    if package is None:
        return None
    try:
        # A schema comes from a client: nothing is fetched for it, and its patterns take linear time.
        options = package.RegexOptions(size_limit=_REGEX_BYTES)
        return package.validator_for(msgspec.json.decode(schema), retriever=_nothing, pattern_options=options)
    except (ValueError, RecursionError):  # ValidationError and ReferencingError are such
        return None


def _nothing(uri: str) -> NoReturn:
    raise ValueError(f"schemas are not fetched: {uri[:200]}")
