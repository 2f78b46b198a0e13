"""What a folder of the Hugging Face kind holds beside its weights, read without trusting it: JSON of bounded size, values by type.

Everything here blocks on the disk or is pure; nothing is changed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

MAX_JSON = 512 << 20  # bytes; the largest real one, a tokenizer of 256 thousand tokens, has 40 MB
MAX_TEXT = 16 << 20


class ConvertError(ValueError):
    """Why a model was not converted. `str()` is one sentence: what, where, what to do."""


class Unsupported(ConvertError):
    """The model may be sound, but our own converter does not know this of it; llama.cpp's may."""


def text(path: Path, limit: int = MAX_TEXT) -> str | None:
    """The text of a file, None where there is none. Blocks; raises `ConvertError`."""
    try:
        size = path.stat().st_size
        if size > limit:
            raise ConvertError(f"{path} has {size} bytes, more than the {limit} that such a file may have.")
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConvertError(f"{path} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise ConvertError(f"{path} is no UTF-8 text.") from None


def document(path: Path, limit: int = MAX_TEXT) -> Settings | None:
    """The JSON object in a file, None where there is no file. Blocks; raises `ConvertError`."""
    raw = text(path, limit)
    if raw is None:
        return None
    try:
        value = json.loads(raw)
    except RecursionError:
        raise ConvertError(f"{path} is nested too deeply.") from None
    except ValueError as error:
        raise ConvertError(f"{path} is no JSON: {error}.") from None
    if not isinstance(value, dict):
        raise ConvertError(f"{path} holds no JSON object.")
    return Settings(value, path.name)


class Settings:
    """A JSON object whose values are asked for by type. Errors name the file and the key. Changes nothing."""

    def __init__(self, values: Mapping[str, Any], place: str) -> None:
        self.values, self.place = values, place

    def whole(self, key: str, low: int, high: int, default: int | None = None) -> int:
        """A whole number from `low` to `high`; `default` where it is missing or null (an error without one)."""
        value = self._value(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise ConvertError(f"{self.place} says {key}: {_short(value)}; that must be a whole number from {low} to {high}.")
        return value

    def real(self, key: str, low: float, high: float, default: float | None = None) -> float:
        """A finite number from `low` to `high`."""
        value = self._value(key, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
            raise ConvertError(f"{self.place} says {key}: {_short(value)}; that must be a number from {low:g} to {high:g}.")
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        value = self._value(key, default)
        if not isinstance(value, bool):
            raise ConvertError(f"{self.place} says {key}: {_short(value)}; that must be true or false.")
        return value

    def word(self, key: str, default: str = "") -> str:
        value = self._value(key, default)
        if not isinstance(value, str):
            raise ConvertError(f"{self.place} says {key}: {_short(value)}; that must be a text.")
        return value

    def part(self, key: str) -> Settings:
        """The object under `key`; an empty one where there is none."""
        value = self._value(key, {})
        if not isinstance(value, dict):
            raise ConvertError(f"{self.place} says {key}: {_short(value)}; that must be an object.")
        return Settings(value, f"{self.place}, {key},")

    def has(self, key: str) -> bool:
        return self.values.get(key) is not None

    def _value(self, key: str, default: Any) -> Any:
        value = self.values.get(key)
        value = default if value is None else value
        if value is None:
            raise ConvertError(f"{self.place} does not say {key}.")
        if isinstance(value, float) and not math.isfinite(value):
            raise ConvertError(f"{self.place} says {key}: {value}; that must be finite.")
        return value


def _short(value: Any) -> str:
    return repr(value)[:60]
