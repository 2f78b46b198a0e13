"""llama.cpp's importance matrices: of every matrix of a model, how much each of its columns counts (the mean square of what it is
multiplied with over some text). Both forms of file are read: GGUF, and the older one that is usually called `imatrix.dat`
(llama.cpp `common/imatrix-loader.cpp`, and `tools/quantize/quantize.cpp` for how sums become means).
"""

from __future__ import annotations

import math
import os
import struct
import sys
from array import array
from collections.abc import Mapping, Sequence
from pathlib import Path

from backends.engines.gguf import GgufError
from quant.tensors import Model, TensorError, Weights, load

MAX_BYTES = 1 << 30  # those of models with hundreds of experts have some hundred MiB
_INT = struct.Struct("<i")
_SUMS, _COUNTS = ".in_sum2", ".counts"


class ImatrixError(ValueError):
    """A file that is no usable importance matrix. `str()` is one sentence that names the file and what is wrong."""


def read(path: str | os.PathLike[str]) -> Mapping[str, Sequence[float]]:
    """Name of a tensor -> one value a column, of all experts one after the other. Blocks on the disk; raises `ImatrixError`."""
    place = Path(path)
    try:
        size = place.stat().st_size
        if size > MAX_BYTES:
            raise ImatrixError(f"{place.name} has {size >> 20} MiB; an importance matrix has at most {MAX_BYTES >> 20} MiB.")
        with place.open("rb") as file:
            magic = file.read(4)
            found = _modern(place) if magic == b"GGUF" else _Old(magic + file.read(), place.name).entries()
    except FileNotFoundError:
        raise ImatrixError(f"The importance matrix {place} does not exist.") from None
    except IsADirectoryError:
        raise ImatrixError(f"{place} is a folder; name the file of the importance matrix in it.") from None
    except OSError as error:
        raise ImatrixError(f"The importance matrix {place} cannot be read: {error.strerror}.") from None
    except (GgufError, TensorError) as error:
        raise ImatrixError(f"The importance matrix cannot be read: {error}") from None
    if not found:
        raise ImatrixError(f"{place.name} holds no importance matrix (is it the file that llama-imatrix wrote?).")
    for name, values in found.items():
        if not all(map(math.isfinite, values)):
            raise ImatrixError(f"{place.name} holds values for {name!r} that are no numbers; compute it again.")
    return found


def _floats(raw: bytes) -> array[float]:
    values = array("f", raw)
    if sys.byteorder == "big":
        values.byteswap()
    return values


class _Old:
    """`imatrix.dat`: the number of entries; of each its name, the number of calls, the number of values, and the values times the calls."""

    def __init__(self, raw: bytes, name: str) -> None:
        self._raw, self._name, self._at = raw, name, 0

    def _take(self, count: int) -> bytes:
        if count < 0 or self._at + count > len(self._raw):
            raise ImatrixError(f"{self._name} is not a usable importance matrix (it is cut off, or no file of llama-imatrix).")
        self._at += count
        return self._raw[self._at - count : self._at]

    def _int(self) -> int:
        return int(_INT.unpack(self._take(4))[0])

    def entries(self) -> dict[str, array[float]]:
        """Every entry; what follows them (how many chunks, of which text) is of no use here."""
        found: dict[str, array[float]] = {}
        for _ in range(self._int()):
            name = self._take(self._int()).decode("utf-8", "replace")
            calls, values = self._int(), self._int()
            sums = _floats(self._take(4 * values))
            found[name] = array("f", (value / calls for value in sums)) if calls > 0 else sums
        return found


def _modern(path: Path) -> dict[str, array[float]]:
    """GGUF: of each matrix the sums of squares (`.in_sum2`) and how many there were of them for each expert (`.counts`)."""
    model = load(path, model=False)
    if model.meta.values.get("general.type") != "imatrix":
        raise ImatrixError(f"{path.name} is a GGUF file but no importance matrix.")
    tensors = {tensor.name: tensor for tensor in model.tensors}
    with Weights(model) as weights:
        found = {}
        for name in tensors:
            if name.endswith(_SUMS):
                entry = name.removesuffix(_SUMS)
                found[entry] = _means(_values(model, weights, name), _values(model, weights, entry + _COUNTS), entry)
        return found


def _values(model: Model, weights: Weights, name: str) -> array[float]:
    tensor = next((tensor for tensor in model.tensors if tensor.name == name), None)
    if tensor is None or tensor.kind != "F32":
        raise ImatrixError(f"{model.path.name} is not a usable importance matrix: it lacks {name[:80]!r} as 32-bit numbers.")
    return _floats(weights.read(tensor))


def _means(sums: array[float], counts: array[float], name: str) -> array[float]:
    """Every expert's sums by its own count; an expert that was never asked counts the same everywhere."""
    if not counts or len(sums) % len(counts) or not all(map(math.isfinite, counts)):
        raise ImatrixError(f"The importance matrix has {len(sums)} sums and {len(counts)} counts for {name!r}.")
    each = len(sums) // len(counts)
    means = array("f")
    for expert, count in enumerate(counts):
        whole = math.floor(count + 0.5)
        part = sums[expert * each : (expert + 1) * each]
        means.extend((value / whole for value in part) if whole > 0 else [1.0] * each)
    return means
