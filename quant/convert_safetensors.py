"""Weights in the safetensors format, of one file or of several with an index: the headers checked, the bytes read by offset.

The format (huggingface.co/docs/safetensors): eight bytes with the length of a JSON object, that object (name -> type, shape, first and last
byte behind the header), then the weights, without gaps and without overlaps. Nothing is believed that was not checked; what a tensor takes
is allocated only once its bytes are known to be there. Tensors are read by offset, not through a mapping: see `tensors`.
"""

from __future__ import annotations

import json
import math
import os
import re
import stat
import struct
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from quant.convert_source import ConvertError, Unsupported, document

MAX_HEADER = 100_000_000  # bytes, the format's own limit
MAX_FILES = 4096
MAX_TENSORS = 200_000
INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
# Bytes of one value. Types that are not weights of a plain model are known only so that their place can be checked.
SIZES: Mapping[str, int] = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2, "U8": 1, "BOOL": 1,
    "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1,
}  # fmt: skip
PLAIN = ("F32", "F16", "BF16")
_LENGTH = struct.Struct("<Q")
_FILE = re.compile(r"[A-Za-z0-9][\w.+-]*\.safetensors")


class Stored(msgspec.Struct, frozen=True):
    """A tensor in a file. `shape`: the row's length last. `offset`: its first byte in the file; `size`: bytes."""

    name: str
    kind: str
    shape: tuple[int, ...]
    file: Path
    offset: int
    size: int


def index(folder: Path) -> dict[str, Stored]:
    """All tensors of the model in `folder`, by name. Blocks on headers only; raises `ConvertError`."""
    listed = document(folder / INDEX, MAX_HEADER)
    if listed is None:
        return {tensor.name: tensor for tensor in header(_only(folder))}
    places = listed.part("weight_map").values
    files = sorted({str(name) for name in places.values()})
    if not files or len(files) > MAX_FILES:
        raise ConvertError(f"{folder / INDEX} names {len(files)} files; there must be 1 to {MAX_FILES}.")
    for name in files:
        if not _FILE.fullmatch(name):
            raise ConvertError(f"{folder / INDEX} names the file {name[:80]!r}, which is no plain name of a safetensors file.")
    found = {name: {tensor.name: tensor for tensor in header(folder / name)} for name in files}
    made: dict[str, Stored] = {}
    for name, file in places.items():
        if name not in found[file]:
            raise ConvertError(f"{folder / INDEX} says that {file} holds {name[:80]!r}, which it does not; fetch the model again.")
        made[name] = found[file][name]
    return made


def _only(folder: Path) -> Path:
    """The one file of weights in a folder without an index."""
    if (folder / SINGLE).exists():
        return folder / SINGLE
    there = sorted(path.name for path in folder.glob("*.safetensors"))[:MAX_FILES]
    if len(there) == 1 and _FILE.fullmatch(there[0]) and not there[0].startswith("consolidated"):
        return folder / there[0]
    if any(folder.glob("*.bin")) or any(folder.glob("*.pth")):
        raise Unsupported(f"{folder} holds its weights as pickles (.bin), which can run code; get the model as safetensors.")
    if there:
        raise Unsupported(f"{folder} holds {', '.join(there[:3])} but no {SINGLE} and no {INDEX}; fetch the missing file.")
    raise ConvertError(f"{folder} holds no safetensors; name the folder of a Hugging Face model, or hf:OWNER/NAME.")


def header(path: Path) -> list[Stored]:
    """The tensors of one file, by offset. Blocks; raises `ConvertError`."""
    try:
        with path.open("rb", buffering=0) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise ConvertError(f"{path} is no plain file.")
            start, raw = _head(path, file.read(_LENGTH.size), status.st_size)
            text = file.read(raw)
    except FileNotFoundError:
        raise ConvertError(f"{path} is missing; fetch the model again.") from None
    except OSError as error:
        raise ConvertError(f"{path} cannot be read: {error.strerror}.") from None
    if len(text) < raw:
        raise ConvertError(f"{path} became shorter while it was read.")
    entries = [(name, entry) for name, entry in _parsed(path, text).items() if name != "__metadata__"]
    if len(entries) > MAX_TENSORS:
        raise _unusable(path, f"it claims {len(entries)} tensors, more than {MAX_TENSORS}")
    made = sorted((_entry(path, name, entry, start) for name, entry in entries), key=lambda tensor: (tensor.offset, tensor.size))
    for fault in _faults(made, start, status.st_size):
        raise _unusable(path, fault)
    return made


def _unusable(path: Path, what: str) -> ConvertError:
    return ConvertError(f"{path} is not a usable safetensors file: {what}.")


def _head(path: Path, raw: bytes, size: int) -> tuple[int, int]:
    """(first byte behind the header, bytes of its JSON)."""
    if len(raw) < _LENGTH.size:
        raise _unusable(path, "it is too short")
    length = int(_LENGTH.unpack(raw)[0])
    if length > MAX_HEADER:
        raise _unusable(path, f"its header claims {length} bytes, more than {MAX_HEADER}")
    if _LENGTH.size + length > size:
        raise _unusable(path, f"its header ends at byte {_LENGTH.size + length} of {size} (the file is truncated; fetch it again)")
    return _LENGTH.size + length, length


def _parsed(path: Path, text: bytes) -> dict[str, Any]:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) < len(pairs):
            raise _unusable(path, "its header has a name twice")
        return made

    try:
        value = json.loads(text.decode(), object_pairs_hook=once)
    except RecursionError:
        raise _unusable(path, "its header is nested too deeply") from None
    except ConvertError:
        raise
    except ValueError:
        raise _unusable(path, "its header is no JSON") from None
    if not isinstance(value, dict):
        raise _unusable(path, "its header is no JSON object")
    return value


def _whole(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 62


def _entry(path: Path, name: str, entry: Any, start: int) -> Stored:
    label = repr(name[:60])
    if not isinstance(entry, dict):
        raise _unusable(path, f"its tensor {label} is not described")
    kind, shape, span = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    if not isinstance(kind, str) or kind not in SIZES:
        raise Unsupported(f"{path} holds the tensor {label} of the type {str(kind)[:20]!r}, which is not known here.")
    if not isinstance(shape, list) or len(shape) > 8 or not all(map(_whole, shape)):
        raise _unusable(path, f"its tensor {label} has no sound shape")
    if not isinstance(span, list) or len(span) != 2 or not all(map(_whole, span)) or span[0] > span[1]:
        raise _unusable(path, f"its tensor {label} has no sound place")
    if math.prod(shape) * SIZES[kind] != span[1] - span[0]:
        raise _unusable(path, f"its tensor {label} of the shape {shape} has {span[1] - span[0]} bytes")
    return Stored(name, kind, tuple(shape), path, start + span[0], span[1] - span[0])


def _faults(tensors: Sequence[Stored], start: int, size: int) -> Iterator[str]:
    end = start
    for tensor in tensors:
        if tensor.offset < end:
            yield f"its tensor {tensor.name[:60]!r} lies on the bytes of another"
        if tensor.offset > end:
            yield f"{tensor.offset - end} bytes before its tensor {tensor.name[:60]!r} belong to none"
        end = tensor.offset + tensor.size
    if end > size:
        yield f"it has {size} of {end} bytes (the file is truncated; fetch it again)"
    if end < size:
        yield f"{size - end} bytes at its end belong to no tensor"


class Files:
    """The bytes of tensors. Several threads may read at a time. Use it as a context, or close it."""

    def __init__(self, tensors: Sequence[Stored]) -> None:
        self._open: dict[Path, int] = {}
        try:
            for path in {tensor.file for tensor in tensors}:
                self._open[path] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            self.close()
            raise ConvertError(f"The weights cannot be read: {error.strerror}: {error.filename}.") from None

    def __enter__(self) -> Files:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes all files. Idempotent; nobody may be reading."""
        while self._open:
            os.close(self._open.popitem()[1])

    def read(self, tensor: Stored, first: int, count: int) -> bytes:
        """`count` bytes of a tensor from its byte `first`. Blocks on the disk; raises `ConvertError`."""
        if first < 0 or count < 0 or first + count > tensor.size:
            raise ConvertError(f"The tensor {tensor.name!r} has {tensor.size} bytes; {count} from byte {first} are asked for.")
        at, left, found = tensor.offset + first, count, []
        while left:
            try:
                data = os.pread(self._open[tensor.file], min(left, 1 << 30), at)
            except OSError as error:
                raise ConvertError(f"{tensor.file} cannot be read: {error.strerror}.") from None
            if not data:
                raise ConvertError(f"{tensor.file} became shorter while it was read.")
            found.append(data)
            at, left = at + len(data), left - len(data)
        return found[0] if len(found) == 1 else b"".join(found)
