"""ggml's own conversion of weights, called in place: from and to its block formats, a number of rows at a time.

llama.cpp's prebuilt wheel (`xllamacpp`) exports the functions of ggml's public header (`ggml.h`): `ggml_quantize_chunk`,
`ggml_get_type_traits` and those that convert half precision. Nothing is compiled and no other package is needed. ggml aborts the
process where it is called wrongly, so every call is checked here first. ctypes lets go of the interpreter's lock while ggml computes:
rows can be converted by several threads. Everything here blocks and keeps no state but the library.
"""

from __future__ import annotations

import ctypes
import importlib.util
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeAlias

from backends.engines.gguf import BLOCKS

# ggml.h, `enum ggml_type`: what weights can be stored as.
TYPES: Mapping[str, int] = {
    "F32": 0, "F16": 1, "Q4_0": 2, "Q4_1": 3, "Q5_0": 6, "Q5_1": 7, "Q8_0": 8, "Q2_K": 10, "Q3_K": 11, "Q4_K": 12, "Q5_K": 13, "Q6_K": 14,
    "IQ2_XXS": 16, "IQ2_XS": 17, "IQ3_XXS": 18, "IQ1_S": 19, "IQ4_NL": 20, "IQ3_S": 21, "IQ2_S": 22, "IQ4_XS": 23,
    "I8": 24, "I16": 25, "I32": 26, "I64": 27, "F64": 28, "IQ1_M": 29, "BF16": 30, "TQ1_0": 34, "TQ2_0": 35, "MXFP4": 39,
}  # fmt: skip
NAMES: Mapping[int, str] = {number: name for name, number in TYPES.items()}
# What `quantise` makes. The formats below three bits, which need an importance matrix, are left to llama.cpp's own tool.
MADE = ("F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS")
# What `dequantise` reads.
READ = (*MADE, "IQ2_XXS", "IQ2_XS", "IQ3_XXS", "IQ1_S", "IQ3_S", "IQ2_S", "IQ1_M", "TQ1_0", "TQ2_0", "MXFP4")
CHUNK_WEIGHTS = 1 << 18  # of one call: large enough that the call costs nothing, small enough to be shared out among threads
_HALVES = {"F16": "ggml_fp16_to_fp32_row", "BF16": "ggml_bf16_to_fp32_row"}

Bytes: TypeAlias = bytes | bytearray | memoryview


class GgmlError(RuntimeError):
    """ggml cannot be called, or not so. `str()` is one sentence: what, and what to do."""


class _Traits(ctypes.Structure):
    """ggml.h, `struct ggml_type_traits`."""

    _fields_ = [
        ("type_name", ctypes.c_char_p), ("block", ctypes.c_int64), ("interleave", ctypes.c_int64), ("size", ctypes.c_size_t),
        ("quantised", ctypes.c_bool), ("to_float", ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)),
    ]  # fmt: skip


def number(kind: str) -> int:
    """ggml's number of the type `kind` ("Q4_K"). Pure; raises `GgmlError`."""
    if kind not in TYPES:
        raise GgmlError(f"{kind!r} is not a type of weights; the types are {', '.join(TYPES)}.")
    return TYPES[kind]


def size(kind: str, columns: int, rows: int = 1) -> int:
    """Bytes of `rows` rows of `columns` weights stored as `kind`. Pure; raises `GgmlError` where a row is no whole number of blocks."""
    weights, stored = BLOCKS[number(kind)]
    if columns < 0 or rows < 0 or columns % weights:
        raise GgmlError(f"Rows of {columns} weights cannot be stored as {kind}, which takes a multiple of {weights}.")
    return columns // weights * stored * rows


def fits(kind: str, columns: int) -> bool:
    """Whether a row of `columns` weights is a whole number of blocks of `kind`. Pure."""
    return columns % BLOCKS[number(kind)][0] == 0


class Library:
    """A loaded library that exports ggml. `path`: the shared library's file. Raises `GgmlError` where it is not what we call."""

    def __init__(self, path: str | Path) -> None:
        try:
            self._dll = ctypes.CDLL(str(path))
        except OSError as error:
            raise GgmlError(f"llama.cpp's library {Path(path).name} cannot be loaded: {error}.") from None
        pointer, count = ctypes.c_void_p, ctypes.c_int64
        self._chunk = self._function(
            "ggml_quantize_chunk", ctypes.c_size_t, ctypes.c_int, pointer, pointer, count, count, count, ctypes.POINTER(ctypes.c_float)
        )
        self._validate = self._function("ggml_validate_row_data", ctypes.c_bool, ctypes.c_int, pointer, ctypes.c_size_t)
        self._traits = self._function("ggml_get_type_traits", ctypes.POINTER(_Traits), ctypes.c_int)
        self._init = self._function("ggml_quantize_init", None, ctypes.c_int)
        self._halves = {kind: self._function(name, None, pointer, pointer, count) for kind, name in _HALVES.items()}
        self._to_float = {kind: self._reader(kind) for kind in READ if kind not in ("F32", *_HALVES)}

    def _function(self, name: str, result: Any, *arguments: Any) -> Callable[..., Any]:
        try:
            function: Any = getattr(self._dll, name)
        except AttributeError:
            raise GgmlError(
                f"The installed xllamacpp does not export {name}; install a version that does, or quantise with --with llama-quantize."
            ) from None
        function.restype, function.argtypes = result, list(arguments)
        made: Callable[..., Any] = function
        return made

    def _reader(self, kind: str) -> Callable[..., Any]:
        """The function that dequantises `kind`, once the library's table says of it what we know (else its layout is another)."""
        traits = self._traits(TYPES[kind]).contents
        said = (traits.type_name or b"").decode("ascii", "replace").upper(), traits.block, traits.size
        if said != (kind, *BLOCKS[TYPES[kind]]) or not traits.to_float:
            raise GgmlError(
                f"The installed xllamacpp describes the type {kind} as {said}; it is not known here. Quantise with --with llama-quantize."
            )
        reader: Callable[..., Any] = traits.to_float
        return reader

    def quantise(self, kind: str, data: Bytes, rows: int, columns: int, importance: Sequence[float] | None = None) -> bytes:
        """Like `quantise` below, in the calling thread."""
        wanted = _checked(kind, MADE, data, size("F32", columns, rows))
        made = ctypes.create_string_buffer(max(size(kind, columns, rows), 1))
        weighed = None
        if importance is not None:
            if len(importance) != columns:
                raise GgmlError(f"The importance matrix has {len(importance)} values for rows of {columns} weights.")
            weighed = (ctypes.c_float * columns)(*importance)
        if not rows or not columns:
            return b""
        number_, count = TYPES[kind], size("F32", columns, rows)
        self._init(number_)
        # Some formats lose in silence what is no number, so the weights are looked at before as well as after.
        if self._validate(TYPES["F32"], wanted, count):
            stored = self._chunk(number_, wanted, made, 0, rows, columns, weighed)
            if stored == size(kind, columns, rows) and self._validate(number_, made, stored):
                return made.raw[:stored]
        raise GgmlError(f"The weights cannot be stored as {kind}: they hold values that are no numbers.")

    def valid(self, kind: str, data: Bytes, rows: int, columns: int) -> bool:
        """Whether rows stored as `kind` hold no infinity and nothing that is no number. Raises `GgmlError`."""
        wanted = size(kind, columns, rows)
        return not wanted or bool(self._validate(number(kind), _checked(kind, tuple(TYPES), data, wanted), wanted))

    def dequantise(self, kind: str, data: Bytes, rows: int, columns: int) -> bytearray:
        """Like `dequantise` below, in the calling thread."""
        stored = _checked(kind, READ, data, size(kind, columns, rows))
        made = bytearray(size("F32", columns, rows))
        if not made:
            return made
        if kind == "F32":
            made[:] = data
            return made
        target = (ctypes.c_char * len(made)).from_buffer(made)
        (self._halves.get(kind) or self._to_float[kind])(stored, ctypes.addressof(target), rows * columns)
        return made


def _checked(kind: str, known: Sequence[str], data: Bytes, wanted: int) -> Any:
    """What ctypes takes for a pointer to `data`, which must have `wanted` bytes."""
    if kind not in known:
        raise GgmlError(f"{kind!r} cannot be converted here; the types are {', '.join(known)}.")
    view = memoryview(data)
    if view.nbytes != wanted:
        raise GgmlError(f"{view.nbytes} bytes were given where {wanted} are needed.")
    if isinstance(data, bytes):
        return data
    if view.readonly or not view.c_contiguous or not wanted:
        return view.tobytes()
    return (ctypes.c_char * wanted).from_buffer(view.cast("B"))


def shared() -> Path:
    """The shared library of the installed xllamacpp, found without importing it."""
    spec = importlib.util.find_spec("xllamacpp")
    for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
        for pattern in ("xllamacpp*.so", "xllamacpp*.pyd", "xllamacpp*.dylib"):
            for found in sorted(Path(folder).glob(pattern)):
                return found
    raise GgmlError("The package xllamacpp, which carries llama.cpp's quantiser, is not installed; run: pip install xllamacpp")


_LOADING = threading.Lock()


@lru_cache(maxsize=1)
def _loaded() -> Library:
    return Library(shared())


def library() -> Library:
    """The library of the installed xllamacpp, loaded once. Blocks at the first call; raises `GgmlError`."""
    with _LOADING:
        return _loaded()


def kinds() -> tuple[str, ...]:
    """The types that `quantise` makes. Raises `GgmlError` where the library does not export what is needed."""
    library()
    return MADE


def _parts(rows: int, columns: int) -> list[tuple[int, int]]:
    """(first row, rows) of every call."""
    step = max(1, CHUNK_WEIGHTS // max(columns, 1))
    return [(first, min(step, rows - first)) for first in range(0, rows, step)]


def quantise(kind: str, data: Bytes, rows: int, columns: int, importance: Sequence[float] | None = None, *, threads: int = 1) -> bytes:
    """`rows` rows of `columns` weights, 32-bit floats in this machine's order in `data`, stored as `kind`.

    `importance`: how much each column counts (mean square of its activations), one value a column. The same bytes come out whatever the
    number of threads, since rows do not know of each other. Blocks; mutates nothing; raises `GgmlError`.
    """
    loaded, view = library(), memoryview(data).cast("B")
    if view.nbytes != size("F32", columns, rows):
        raise GgmlError(f"{view.nbytes} bytes were given where {size('F32', columns, rows)} are needed.")

    def part(span: tuple[int, int]) -> bytes:
        first, count = span
        return loaded.quantise(kind, view[first * columns * 4 : (first + count) * columns * 4], count, columns, importance)

    if threads <= 1:
        return b"".join(map(part, _parts(rows, columns)))
    with ThreadPoolExecutor(threads) as pool:
        return b"".join(pool.map(part, _parts(rows, columns)))


def dequantise(kind: str, data: Bytes, rows: int, columns: int) -> bytearray:
    """The 32-bit floats, in this machine's order, of `rows` rows of `columns` weights stored as `kind` in `data`. Blocks; mutates nothing;
    raises `GgmlError`."""
    return library().dequantise(kind, data, rows, columns)
