"""Reads the header of a GGUF file without trusting it, and says whether llama.cpp may be given the file.

Only metadata and tensor descriptions are read, never weights. Every size is checked against the bytes that are
really there before anything is allocated. `read` blocks on the disk; everything else here is pure.
"""

from __future__ import annotations

import math
import os
import re
import stat
import struct
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import BinaryIO, TypeAlias

import msgspec

MAX_HEADER = 256 << 20  # bytes; the largest real headers (256k tokens with merges) are below 20 MiB
MAX_KEYS = 4096
MAX_TENSORS = 100_000
MAX_ELEMENTS = 8_000_000
KEEP_ELEMENTS = 1024  # longer arrays are walked, only their length is kept
_CHUNK = 1 << 20

_SCALARS: Mapping[int, struct.Struct] = {
    0: struct.Struct("<B"), 1: struct.Struct("<b"), 2: struct.Struct("<H"), 3: struct.Struct("<h"), 4: struct.Struct("<I"),
    5: struct.Struct("<i"), 6: struct.Struct("<f"), 7: struct.Struct("<?"), 10: struct.Struct("<Q"), 11: struct.Struct("<q"),
    12: struct.Struct("<d"),
}  # fmt: skip
_STRING, _ARRAY = 8, 9
_U32, _U64 = _SCALARS[4], _SCALARS[10]

# ggml type id -> (weights in a block, bytes of a block). Types missing here are left to llama.cpp's own check.
BLOCKS: Mapping[int, tuple[int, int]] = {
    0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34), 10: (256, 84), 11: (256, 110),
    12: (256, 144), 13: (256, 176), 14: (256, 210), 15: (256, 292), 16: (256, 66), 17: (256, 74), 18: (256, 98), 19: (256, 50),
    20: (32, 18), 21: (256, 110), 22: (256, 82), 23: (256, 136), 24: (1, 1), 25: (1, 2), 26: (1, 4), 27: (1, 8), 28: (1, 8),
    29: (256, 56), 30: (1, 2), 34: (256, 54), 35: (256, 66), 39: (32, 17),
}  # fmt: skip

FILE_TYPES: Mapping[int, str] = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K", 11: "Q3_K_S", 12: "Q3_K_M", 13: "Q3_K_L",
    14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S", 17: "Q5_K_M", 18: "Q6_K", 19: "IQ2_XXS", 20: "IQ2_XS", 21: "Q2_K_S", 22: "IQ3_XS",
    23: "IQ3_XXS", 24: "IQ1_S", 25: "IQ4_NL", 26: "IQ3_S", 27: "IQ3_M", 28: "IQ2_S", 29: "IQ2_M", 30: "IQ4_XS", 31: "IQ1_M", 32: "BF16",
    36: "TQ1_0", 37: "TQ2_0", 38: "MXFP4",
}  # fmt: skip
POOLING: Mapping[int, str] = {0: "none", 1: "mean", 2: "cls", 3: "last", 4: "rank"}

Value: TypeAlias = int | float | bool | str | list[int | float | bool] | None


class GgufError(ValueError):
    """A file that is not a usable GGUF model. `str()` is one sentence that names the file and what is wrong."""


class Meta(msgspec.Struct, frozen=True):
    """What a GGUF header says. Unknown facts are 0, "" or None; nothing here was checked beyond its type."""

    path: str
    bytes: int  # size of the file
    version: int
    architecture: str
    name: str
    size_label: str
    file_type: str  # "Q4_K_M"; "" when not stated or unknown
    context: int  # tokens the model was trained for
    vocab: int
    embedding: int
    blocks: int
    kv_bytes: int  # bytes of an f16 KV cache for one token
    chat_template: bool
    pooling: str  # "" when the model has none (a generator)
    tensors: int
    parameters: int
    splits: int  # files that the model consists of
    needs: int  # bytes that the file must have to hold its tensors (0: unknown)
    values: Mapping[str, Value]


class Reader:
    """The file's first bytes, fetched as needed. `take` never asks for more than the file has."""

    def __init__(self, file: BinaryIO, size: int, name: str) -> None:
        self._file, self._size, self._name = file, size, name
        self._buffer, self.offset = b"", 0

    def fail(self, what: str) -> GgufError:
        return GgufError(f"{self._name} is not a usable GGUF model: {what}.")

    def need(self, count: int) -> None:
        end = self.offset + count
        if end <= len(self._buffer):
            return
        if end > self._size:
            raise self.fail(f"its header is cut off at byte {self._size} (the file is truncated; fetch it again)")
        if end > MAX_HEADER:
            raise self.fail(f"its header is larger than {MAX_HEADER >> 20} MiB")
        self._buffer += self._file.read(max(end - len(self._buffer), min(_CHUNK + len(self._buffer), self._size - len(self._buffer))))
        if end > len(self._buffer):
            raise self.fail("it became shorter while it was read")

    def span(self, start: int) -> bytes:
        """The bytes from `start` to where it is now, as they are in the file."""
        return self._buffer[start : self.offset]

    def take(self, kind: struct.Struct) -> int | float | bool:
        self.need(kind.size)
        value: int | float | bool = kind.unpack_from(self._buffer, self.offset)[0]
        self.offset += kind.size
        return value

    def count(self, what: str, limit: int) -> int:
        value = int(self.take(_U64))
        if value > limit:
            raise self.fail(f"it claims {value} {what}, more than {limit}")
        return value

    def text(self, limit: int) -> str:
        length = self.count("bytes of text", limit)
        self.need(length)
        raw = self._buffer[self.offset : self.offset + length]
        self.offset += length
        return raw.decode("utf-8", "replace")

    def skip_texts(self, number: int) -> None:
        for _ in range(number):
            length = self.count("bytes of text", MAX_HEADER)
            self.need(length)
            self.offset += length

    def value(self) -> Value:
        return self.typed(int(self.take(_U32)))

    def typed(self, kind: int) -> Value:
        if kind == _STRING:
            return self.text(MAX_HEADER)
        if kind == _ARRAY:
            return self.array()
        if kind not in _SCALARS:
            raise self.fail(f"it holds a value of the unknown type {kind}")
        return self.take(_SCALARS[kind])

    def array(self) -> Value:
        """A short array of numbers as a list; of anything longer, or of texts, only the length."""
        kind = int(self.take(_U32))
        number = self.count("array elements", MAX_ELEMENTS)
        if kind == _STRING:
            self.skip_texts(number)
            return number
        if kind not in _SCALARS:
            raise self.fail(f"it holds an array of the type {kind}")
        item = _SCALARS[kind]
        self.need(number * item.size)
        start, self.offset = self.offset, self.offset + number * item.size
        if number > KEEP_ELEMENTS:
            return number
        return [item.unpack_from(self._buffer, start + i * item.size)[0] for i in range(number)]


def _tensors(reader: Reader, number: int) -> tuple[int, int]:
    """(bytes the tensors span behind the header, parameters); 0 bytes when a type is unknown."""
    span, parameters, known = 0, 0, True
    for _ in range(number):
        name = reader.text(1024)
        dims = int(reader.take(_U32))
        if not 0 < dims <= 4:
            raise reader.fail(f"its tensor {name[:60]!r} has {dims} dimensions")
        weights = math.prod(int(reader.take(_U64)) for _ in range(dims))
        if weights >= 1 << 48:
            raise reader.fail(f"its tensor {name[:60]!r} has the absurd size {weights}")
        block = BLOCKS.get(int(reader.take(_U32)))
        offset = int(reader.take(_U64))
        parameters += weights
        known = known and block is not None
        if block is not None:
            span = max(span, offset + -(-weights // block[0]) * block[1])
    return (span if known else 0), parameters


def _integer(values: Mapping[str, Value], key: str) -> int:
    value = values.get(key, 0)
    if isinstance(value, list):
        value = max(value, default=0)
    return int(value) if isinstance(value, (int, float)) and math.isfinite(value) else 0


def _text(values: Mapping[str, Value], key: str) -> str:
    value = values.get(key, "")
    return value if isinstance(value, str) else ""


def _kv_bytes(values: Mapping[str, Value], arch: str) -> int:
    heads = _integer(values, f"{arch}.attention.head_count") or 1
    kv_heads = _integer(values, f"{arch}.attention.head_count_kv") or heads
    width = _integer(values, f"{arch}.embedding_length") // heads
    key = _integer(values, f"{arch}.attention.key_length") or width
    value = _integer(values, f"{arch}.attention.value_length") or width
    return _integer(values, f"{arch}.block_count") * kv_heads * (key + value) * 2


def _meta(path: Path, size: int, version: int, values: dict[str, Value], tensors: tuple[int, int, int, int]) -> Meta:
    number, parameters, start, span = tensors
    arch = _text(values, "general.architecture")
    pooling = values.get(f"{arch}.pooling_type")
    return Meta(
        path=str(path), bytes=size, version=version, architecture=arch,
        name=_text(values, "general.name")[:200], size_label=_text(values, "general.size_label")[:40],
        file_type=FILE_TYPES.get(_integer(values, "general.file_type"), "") if "general.file_type" in values else "",
        context=_integer(values, f"{arch}.context_length"), embedding=_integer(values, f"{arch}.embedding_length"),
        vocab=_integer(values, "tokenizer.ggml.tokens") or _integer(values, f"{arch}.vocab_size"),
        blocks=_integer(values, f"{arch}.block_count"), kv_bytes=_kv_bytes(values, arch),
        chat_template=bool(_text(values, "tokenizer.chat_template")),
        pooling=POOLING.get(pooling, "") if isinstance(pooling, int) else "",
        tensors=number, parameters=parameters, splits=_integer(values, "split.count") or 1,
        needs=start + span if span else 0, values=values,
    )  # fmt: skip


def _header(reader: Reader, path: Path, size: int) -> Meta:
    reader.need(4)
    magic = bytes(int(reader.take(_SCALARS[0])) for _ in range(4))
    if magic != b"GGUF":
        raise reader.fail("it does not start with GGUF (is it a GGUF file?)")
    version = int(reader.take(_U32))
    if version not in (2, 3):
        raise reader.fail(f"its format version is {version}; 2 and 3 are supported")
    number = reader.count("tensors", MAX_TENSORS)
    values: dict[str, Value] = {}
    for _ in range(reader.count("metadata keys", MAX_KEYS)):
        key = reader.text(1024)
        if key in values:
            raise reader.fail(f"its metadata has {key[:80]!r} twice")
        values[key] = reader.value()
    align = _integer(values, "general.alignment") if "general.alignment" in values else 32
    if align <= 0 or align % 8 or align > 1 << 20:
        raise reader.fail(f"general.alignment is {align}")
    span, parameters = _tensors(reader, number)
    start = -(-reader.offset // align) * align
    return _meta(path, size, version, values, (number, parameters, start, span))


def read_from(file: BinaryIO, size: int, path: Path) -> Meta:
    """The header of a model of `size` bytes that is read from `file`, wherever that is; `path` names it. Raises `GgufError`."""
    return _header(Reader(file, size, path.name), path, size)


def read(path: str | os.PathLike[str]) -> Meta:
    """The header of the GGUF file at `path`. Blocks on the disk; raises `GgufError` with one clear sentence."""
    place = Path(path)
    try:
        if not stat.S_ISREG(mode := place.stat().st_mode) and not stat.S_ISDIR(mode):  # to open a pipe would wait for its other end
            raise GgufError(f"{place} is no ordinary file; name a GGUF file.")
        with place.open("rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            return _header(Reader(file, size, place.name), place, size)
    except FileNotFoundError:
        raise GgufError(f"The model file {place} does not exist.") from None
    except IsADirectoryError:
        raise GgufError(f"{place} is a folder; name the .gguf file in it.") from None
    except OSError as error:
        raise GgufError(f"The model file {place} cannot be read: {error.strerror}.") from None


def _bounds(meta: Meta) -> list[tuple[str, int, int]]:
    arch = meta.architecture
    rows = [
        (f"{arch}.block_count", 1, 4096), (f"{arch}.context_length", 1, 1 << 27), (f"{arch}.embedding_length", 1, 1 << 20),
        (f"{arch}.feed_forward_length", 0, 1 << 24), (f"{arch}.attention.head_count", 0, 1 << 14),
        (f"{arch}.attention.head_count_kv", 0, 1 << 14), (f"{arch}.attention.key_length", 1, 1 << 16),
        (f"{arch}.attention.value_length", 1, 1 << 16), (f"{arch}.rope.dimension_count", 0, 1 << 16),
        (f"{arch}.expert_count", 0, 1 << 14), (f"{arch}.expert_used_count", 0, 1 << 14), (f"{arch}.vocab_size", 1, 1 << 24),
    ]  # fmt: skip
    ids = ("bos", "eos", "eot", "eom", "unknown", "separator", "seperator", "padding", "mask")
    top = max(meta.vocab - 1, 0) if meta.vocab else 1 << 24
    keys = [f"tokenizer.ggml.{name}_token_id" for name in ids]
    # The largest 32-bit value (-1) is how some writers say "none".
    return rows + [(key, 0, top) for key in keys if meta.values.get(key) != 0xFFFFFFFF]


def _numbers(value: Value) -> list[int | float]:
    if isinstance(value, list):
        return list(value)
    return [value] if isinstance(value, (int, float)) else [math.nan]


def _faults(meta: Meta) -> Iterator[str]:
    arch = meta.architecture
    if not re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,63}", arch):
        yield "general.architecture is missing or not a plain name"
    if (type_ := _text(meta.values, "general.type")) not in ("", "model"):
        yield f"it holds a {type_[:20]!r}, not a model"
    for key, low, high in _bounds(meta):
        for number in _numbers(meta.values[key]) if key in meta.values else ():
            if not (math.isfinite(number) and low <= number <= high and number == int(number)):
                yield f"{key} is {number}, not a whole number from {low} to {high}"
    heads, kv = (_integer(meta.values, f"{arch}.attention.head_count{end}") for end in ("", "_kv"))
    if kv > heads > 0:
        yield f"it has {kv} key/value heads but only {heads} heads"
    if meta.needs > meta.bytes:
        yield f"it has {meta.bytes} of {meta.needs} bytes (the file is truncated; fetch it again)"


def _floats(meta: Meta) -> Iterator[str]:
    for key, value in meta.values.items():
        if isinstance(value, float) and not math.isfinite(value):
            yield f"{key} is {value}"
        if key.endswith("_epsilon") and not all(0 < number <= 1 for number in _numbers(value)):
            yield f"{key} is {value}, not between 0 and 1"


def check(meta: Meta) -> None:
    """Refuses what makes llama.cpp abort or compute nonsense instead of failing cleanly. Pure; raises `GgufError`."""
    for fault in chain(_faults(meta), _floats(meta)):
        raise GgufError(f"{Path(meta.path).name} is not a usable GGUF model: {fault}.")
