"""ggml's conversions: against the `gguf` package's own, within what each format can tell apart, and everything that would abort refused."""

from __future__ import annotations

import ctypes.util
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quant import ggml
from quant.ggml import GgmlError, Library
from tests.quant.made import weights

ROOT = Path(__file__).resolve().parents[2]
# Largest relative error (root mean square) of roughly normal weights. A format of b bits in blocks with a scale cannot do much better than
# 2^-b, and ggml's do no worse than this.
ERRORS = {
    "F32": 0.0, "F16": 0.0005, "BF16": 0.003, "Q8_0": 0.008, "Q6_K": 0.025, "Q5_K": 0.05, "Q5_1": 0.055, "Q5_0": 0.06, "Q4_K": 0.095,
    "Q4_1": 0.11, "Q4_0": 0.12, "IQ4_NL": 0.1, "IQ4_XS": 0.105, "Q3_K": 0.2, "Q2_K": 0.36,
}  # fmt: skip


def there_and_back(kind: str, data: Any, importance: Any = None) -> Any:
    rows, columns = data.shape
    stored = ggml.quantise(kind, data.tobytes(), rows, columns, importance)
    return np.frombuffer(ggml.dequantise(kind, stored, rows, columns), np.float32).reshape(rows, columns)


def test_what_can_be_made() -> None:
    assert set(ggml.kinds()) == set(ERRORS) <= set(ggml.TYPES)


@pytest.mark.parametrize("kind", ERRORS)
def test_the_error_is_what_the_format_allows(kind: str) -> None:
    data = weights(3, 64, 512) / np.float32(3)
    error = math.sqrt(float(np.mean((there_and_back(kind, data) - data) ** 2) / np.mean(data**2)))
    assert error <= ERRORS[kind]
    assert error >= ERRORS[kind] / 4  # and it is no better than such a format can be: something was really stored


@pytest.mark.parametrize("kind", ERRORS)
def test_another_implementation_reads_the_same_numbers(kind: str) -> None:
    data = weights(5, 8, 512)
    stored = ggml.quantise(kind, data.tobytes(), 8, 512)
    raw = np.frombuffer(stored, {"F32": np.float32, "F16": np.float16}.get(kind, np.uint8)).reshape(8, -1)
    theirs = gguf.quants.dequantize(raw, gguf.GGMLQuantizationType[kind])
    assert np.array_equal(theirs.reshape(8, 512), np.frombuffer(ggml.dequantise(kind, stored, 8, 512), np.float32).reshape(8, 512))


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "BF16"])
def test_another_implementation_writes_the_same_blocks(kind: str) -> None:
    data = weights(9, 16, 256)
    theirs = gguf.quants.quantize(data, gguf.GGMLQuantizationType[kind])
    assert ggml.quantise(kind, data.tobytes(), 16, 256) == theirs.tobytes()


@pytest.mark.parametrize("kind", ["Q4_K", "Q8_0", "IQ4_XS"])
def test_threads_and_calls_do_not_change_a_bit(kind: str) -> None:
    data = weights(11, 1200, 512)
    importance = [float(i % 7 + 1) for i in range(512)]
    once = ggml.quantise(kind, data.tobytes(), 1200, 512, importance)
    assert ggml.quantise(kind, bytearray(data.tobytes()), 1200, 512, importance, threads=3) == once
    rows = [ggml.quantise(kind, data[i].tobytes(), 1, 512, importance) for i in (0, 1, 1199)]
    size = ggml.size(kind, 512)
    assert rows == [once[:size], once[size : 2 * size], once[-size:]]


@pytest.mark.parametrize("kind", ["Q2_K", "Q3_K", "Q4_K", "IQ4_XS", "Q4_0"])
def test_importance_moves_the_error_to_where_it_counts_less(kind: str) -> None:
    data = weights(13, 64, 256)
    importance = [100.0 if i % 4 == 0 else 1.0 for i in range(256)]
    plain = np.mean((there_and_back(kind, data) - data)[:, ::4] ** 2)
    weighed = np.mean((there_and_back(kind, data, importance) - data)[:, ::4] ** 2)
    assert weighed < plain


@settings(max_examples=60)
@given(kind=st.sampled_from(sorted(ERRORS)), rows=st.integers(0, 3), blocks=st.integers(1, 3), data=st.data())
def test_any_finite_weights_can_be_stored(kind: str, rows: int, blocks: int, data: st.DataObject) -> None:
    columns = blocks * 256
    some = data.draw(st.lists(st.floats(-1000, 1000, width=32), min_size=1, max_size=8))
    floats = np.resize(np.array(some, np.float32), (rows, columns))
    stored = ggml.quantise(kind, floats.tobytes(), rows, columns)
    assert len(stored) == ggml.size(kind, columns, rows)
    assert np.isfinite(np.frombuffer(ggml.dequantise(kind, stored, rows, columns), np.float32)).all()


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: ggml.quantise("Q4_K", bytes(4 * 96), 1, 96), "multiple of 256"),
        (lambda: ggml.quantise("Q9", bytes(4), 1, 1), "not a type of weights|cannot be converted"),
        (lambda: ggml.quantise("IQ2_XXS", bytes(1024), 1, 256), "cannot be converted here"),
        (lambda: ggml.quantise("Q8_0", bytes(100), 1, 32), "100 bytes were given where 128 are needed"),
        (lambda: ggml.quantise("Q8_0", bytes(128), 1, 32, [1.0]), "has 1 values for rows of 32"),
        (lambda: ggml.quantise("Q8_0", bytes(128), -1, 32), "cannot be stored"),
        (lambda: ggml.quantise("Q8_0", np.full(32, np.nan, np.float32).tobytes(), 1, 32), "no numbers"),
        (lambda: ggml.quantise("F16", np.full(32, np.inf, np.float32).tobytes(), 1, 32), "no numbers"),
        (lambda: ggml.quantise("Q8_0", np.array([1.0] * 31 + [np.nan], np.float32).tobytes(), 1, 32), "no numbers"),
        (lambda: ggml.dequantise("I32", bytes(4), 1, 1), "cannot be converted here"),
        (lambda: ggml.dequantise("Q4_0", bytes(17), 1, 32), "17 bytes were given where 18"),
        (lambda: ggml.number("Q9"), "not a type of weights"),
    ],
)  # fmt: skip
def test_what_ggml_would_abort_on_is_refused(call: Any, said: str) -> None:
    with pytest.raises(GgmlError, match=said):
        call()


def test_a_read_only_view_can_be_given() -> None:
    data = weights(15, 2, 32)
    assert ggml.quantise("Q8_0", memoryview(data.tobytes()), 2, 32) == ggml.quantise("Q8_0", data.tobytes(), 2, 32)
    assert ggml.quantise("Q8_0", memoryview(bytearray(data.tobytes())), 2, 32) == ggml.quantise("Q8_0", data.tobytes(), 2, 32)


def test_a_library_without_the_functions_is_named() -> None:
    with pytest.raises(GgmlError, match="does not export ggml_quantize_chunk; install a version that does"):
        Library(ctypes.util.find_library("c") or "libc.so.6")
    with pytest.raises(GgmlError, match=r"library nothing\.so cannot be loaded"):
        Library("/nowhere/nothing.so")


def test_without_the_package_it_says_what_to_install() -> None:
    code = (
        "import importlib.util as u\nu.find_spec = lambda name: None\nfrom quant import ggml\n"
        "try: ggml.kinds()\nexcept ggml.GgmlError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "run: pip install xllamacpp" in done.stdout
