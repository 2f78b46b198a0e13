"""A whole GGUF file: its metadata as they stand, the table of its tensors, their bytes, and how such a file is laid out anew.

The format is ggml's `docs/gguf.md`, version 3 (version 2 has the same layout). A file is checked by `backends.engines.gguf` before
anything here believes it; then every tensor must lie inside the file, aligned, and on no other's bytes. Tensors are read by offset rather
than through a mapping of the file: a file that is cut off while it is read is an error then, not a signal that ends the process.
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

import msgspec

from backends.engines import gguf
from quant import ggml

ALIGNMENT = 32
_HEAD = struct.Struct("<4sIQQ")  # magic, version, tensors, metadata keys
_U32, _U64 = struct.Struct("<I"), struct.Struct("<Q")
_TYPE_U32 = 4


class TensorError(ValueError):
    """A file whose tensors cannot be read. `str()` is one sentence that names the file and what is wrong."""


class Tensor(msgspec.Struct, frozen=True):
    """One tensor of a file. `dims`: the row's length first. `offset`: its first byte in the file; `size`: bytes without padding."""

    name: str
    dims: tuple[int, ...]
    kind: str
    offset: int
    size: int

    @property
    def columns(self) -> int:
        """Weights in a row."""
        return self.dims[0]

    @property
    def rows(self) -> int:
        """Rows in all, those of all experts."""
        return math.prod(self.dims[1:])

    @property
    def parts(self) -> int:
        """Matrices of which it consists: one for each expert."""
        return self.dims[2] if len(self.dims) > 2 else 1

    @property
    def weights(self) -> int:
        return math.prod(self.dims)


class Pair(msgspec.Struct, frozen=True):
    """One entry of the metadata. `raw`: key, type and value as they are in the file."""

    key: str
    raw: bytes


class Model(msgspec.Struct, frozen=True):
    """The header of a GGUF file. `meta`: what `backends.engines.gguf` says of it."""

    path: Path
    meta: gguf.Meta
    alignment: int
    pairs: tuple[Pair, ...]
    tensors: tuple[Tensor, ...]

    @property
    def weights(self) -> int:
        return sum(tensor.weights for tensor in self.tensors)

    @property
    def tensor_bytes(self) -> int:
        """Bytes of all tensors, without padding."""
        return sum(tensor.size for tensor in self.tensors)


def load(path: str | os.PathLike[str], *, model: bool = True) -> Model:
    """The header of the GGUF file at `path`. Blocks on the disk. `model`: it must be a usable model, not just a sound GGUF file.

    Raises `gguf.GgufError` or `TensorError`, both with one sentence.
    """
    place = Path(path)
    meta = gguf.read(place)
    if model:
        gguf.check(meta)
    try:
        with place.open("rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            return _parse(gguf.Reader(file, size, place.name), place, meta, size)
    except OSError as error:
        raise TensorError(f"The model file {place} cannot be read: {error.strerror}.") from None


def load_from(file: BinaryIO, size: int, path: Path, *, model: bool = True) -> Model:
    """The same of a model of `size` bytes that is read from `file`, wherever that is; `path` names it. It is read twice from its start."""
    meta = gguf.read_from(file, size, path)
    if model:
        gguf.check(meta)
    file.seek(0)
    return _parse(gguf.Reader(file, size, path.name), path, meta, size)


def _parse(reader: gguf.Reader, path: Path, meta: gguf.Meta, size: int) -> Model:
    reader.need(_HEAD.size)
    reader.offset = 8
    number, keys = reader.count("tensors", gguf.MAX_TENSORS), reader.count("metadata keys", gguf.MAX_KEYS)
    pairs = tuple(_pair(reader) for _ in range(keys))
    found = [_described(reader) for _ in range(number)]
    stated = meta.values.get("general.alignment", ALIGNMENT)
    alignment = stated if isinstance(stated, int) and stated > 0 else ALIGNMENT
    start = _up(reader.offset, alignment)
    tensors = tuple(_placed(path, *each, start) for each in found)
    for fault in _faults(tensors, alignment, start, size):
        raise TensorError(f"{path.name} is not a usable GGUF model: {fault}.")
    return Model(path, meta, alignment, pairs, tensors)


def _pair(reader: gguf.Reader) -> Pair:
    start = reader.offset
    key = reader.text(1024)
    reader.value()
    return Pair(key, reader.span(start))


def _described(reader: gguf.Reader) -> tuple[str, tuple[int, ...], int, int]:
    """(name, dimensions, number of the type, offset behind the header) of the next tensor."""
    name = reader.text(1024)
    dims = _number(reader, _U32)
    if not 0 < dims <= 4:
        raise reader.fail(f"its tensor {name[:60]!r} has {dims} dimensions")
    return name, tuple(_number(reader, _U64) for _ in range(dims)), _number(reader, _U32), _number(reader, _U64)


def _number(reader: gguf.Reader, kind: struct.Struct) -> int:
    return int(reader.take(kind))


def _placed(path: Path, name: str, dims: tuple[int, ...], number: int, offset: int, start: int) -> Tensor:
    kind = ggml.NAMES.get(number)
    if kind is None:
        raise TensorError(f"{path.name} holds the tensor {name[:60]!r} of the unknown type {number}; llama.cpp's own tool may know it.")
    if min(dims) < 1 or not ggml.fits(kind, dims[0]):
        raise TensorError(f"{path.name} is not a usable GGUF model: its tensor {name[:60]!r} of type {kind} has the shape {list(dims)}.")
    return Tensor(name, dims, kind, start + offset, ggml.size(kind, dims[0], math.prod(dims[1:])))


def _faults(tensors: Sequence[Tensor], alignment: int, start: int, size: int) -> Iterator[str]:
    names: set[str] = set()
    end = start
    for tensor in sorted(tensors, key=lambda tensor: tensor.offset):
        label = repr(tensor.name[:60])
        if tensor.name in names:
            yield f"it holds the tensor {label} twice"
        names.add(tensor.name)
        if (tensor.offset - start) % alignment:
            yield f"its tensor {label} is not aligned to {alignment} bytes"
        if tensor.offset < end:
            yield f"its tensor {label} lies on the bytes of another"
        end = tensor.offset + tensor.size
        if end > size:
            yield f"its tensor {label} ends at byte {end} of {size} (the file is truncated; fetch it again)"


def _up(number: int, step: int) -> int:
    return -(-number // step) * step


class Weights:
    """The tensors' bytes of one file. Several threads may read at a time. Use it as a context, or close it."""

    def __init__(self, model: Model) -> None:
        self.name = model.path.name
        try:
            self._file = os.open(model.path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise TensorError(f"The model file {model.path} cannot be read: {error.strerror}.") from None

    def __enter__(self) -> Weights:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file. Idempotent; nobody may be reading."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def read(self, tensor: Tensor, first: int = 0, rows: int | None = None) -> bytes:
        """The bytes of `rows` rows from row `first` (all by default). Blocks on the disk; raises `TensorError`."""
        row = ggml.size(tensor.kind, tensor.columns)
        count = tensor.rows - first if rows is None else rows
        if first < 0 or count < 0 or first + count > tensor.rows:
            raise TensorError(f"The tensor {tensor.name!r} has {tensor.rows} rows; {count} from row {first} are asked for.")
        at, left, found = tensor.offset + first * row, count * row, []
        while left:
            try:
                data = os.pread(self._file, min(left, 1 << 30), at)
            except OSError as error:
                raise TensorError(f"The model file {self.name} cannot be read: {error.strerror}.") from None
            if not data:
                raise TensorError(f"{self.name} became shorter while it was read.")
            found.append(data)
            at, left = at + len(data), left - len(data)
        return found[0] if len(found) == 1 else b"".join(found)


class Planned(msgspec.Struct, frozen=True):
    """A tensor of a file to be written."""

    name: str
    dims: tuple[int, ...]
    kind: str

    @property
    def size(self) -> int:
        """Bytes without padding."""
        return ggml.size(self.kind, self.dims[0], math.prod(self.dims[1:]))


def edited(pairs: Iterable[Pair], numbers: Mapping[str, int], drop: Collection[str] = ()) -> tuple[Pair, ...]:
    """The metadata with some 32-bit numbers set, at the end as llama.cpp sets them, and without the keys in `drop`; everything else byte
    for byte as it was. Pure."""
    kept = [pair for pair in pairs if pair.key not in numbers and pair.key not in drop]
    return (*kept, *(Pair(key, _text(key) + _U32.pack(_TYPE_U32) + _U32.pack(value)) for key, value in numbers.items()))


def _text(text: str) -> bytes:
    raw = text.encode()
    return _U64.pack(len(raw)) + raw


def header(pairs: Sequence[Pair], planned: Sequence[Planned], alignment: int = ALIGNMENT) -> bytes:
    """Everything that comes before the first tensor, padding included. The tensors follow in this order, each padded by `padding`. Pure."""
    made = [_HEAD.pack(b"GGUF", 3, len(planned), len(pairs)), *(pair.raw for pair in pairs)]
    offset = 0
    for tensor in planned:
        made += [_text(tensor.name), _U32.pack(len(tensor.dims)), *map(_U64.pack, tensor.dims)]
        made += [_U32.pack(ggml.number(tensor.kind)), _U64.pack(offset)]
        offset += _up(tensor.size, alignment)
    whole = b"".join(made)
    return whole + padding(len(whole), alignment)


def padding(size: int, alignment: int = ALIGNMENT) -> bytes:
    """The zeros that follow `size` bytes. Pure."""
    return bytes(_up(size, alignment) - size)
