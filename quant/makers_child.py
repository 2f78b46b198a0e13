"""`python -m quant.makers_child JSON`: one call of llama-cpp-python's `llama_model_quantize`, in a process of its own (`quant.makers`)."""

from __future__ import annotations

import ctypes
import importlib
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from quant import imatrix
from quant.makers import Asked


def _told(level: int, text: bytes | None, data: Any) -> None:
    """llama.cpp's log goes to our parent as it is."""
    sys.stdout.write((text or b"").decode("utf-8", "replace"))
    sys.stdout.flush()


def entries(llama_cpp: Any, values: Mapping[str, Sequence[float]]) -> Any:
    """The importance matrix in llama.cpp's form: an array that a nameless entry ends. What it points to lives as long as it does."""
    made = (llama_cpp.llama_model_imatrix_data * (len(values) + 1))()
    for entry, (name, numbers) in zip(made, values.items(), strict=False):
        entry.name, entry.size = name.encode(), len(numbers)
        entry.data = ctypes.cast((ctypes.c_float * len(numbers))(*numbers), type(entry.data))
    return made


def quantise(llama_cpp: Any, asked: Asked) -> int:
    """llama.cpp's status: 0 where it worked. Blocks."""
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.nthread, params.allow_requantize = asked.file_type, asked.threads, True
    values = imatrix.read(asked.importance) if asked.importance else {}
    made = entries(llama_cpp, values)
    if values:
        params.imatrix = ctypes.cast(made, type(params.imatrix))
    return int(llama_cpp.llama_model_quantize(os.fsencode(asked.source), os.fsencode(asked.target), ctypes.byref(params)))


def main(text: str) -> int:
    """The exit status."""
    llama_cpp: Any = importlib.import_module("llama_cpp")
    log = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)(_told)
    llama_cpp.llama_log_set(log, None)
    return quantise(llama_cpp, msgspec.json.decode(text, type=Asked))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
