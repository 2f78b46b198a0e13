"""Results as JSON and back. JSON has no infinity (even arrivals have a shape of it): such numbers are texts there. Pure."""

from __future__ import annotations

import math
from typing import Any

import msgspec

from benchmarks.bench.errors import BenchError
from benchmarks.bench.words import Result

FORMAT = 1


def plain(value: object) -> Any:
    """A struct as dicts, lists and numbers; what is not finite as a text ("inf"), what is not known to JSON as its text."""
    return _finite(msgspec.to_builtins(value, enc_hook=str))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def to_json(value: object) -> bytes:
    """One line of JSON. TypeError: it holds what no JSON can say."""
    return msgspec.json.encode(plain(value))


def from_json(data: bytes, where: str) -> Result:
    """A summary as `to_json` wrote it. `where` is what errors call it. BenchError: it is none, or of a newer format."""
    try:
        found = msgspec.json.decode(data, type=Result, strict=False)
    except msgspec.DecodeError as error:
        raise BenchError(f"{where} is no summary of `pointsman bench` (its --out FILE.json): {error}") from None
    if found.format != FORMAT:
        raise BenchError(f"{where} has format {found.format}; this version reads format {FORMAT}. Use the version that wrote it.")
    return found
