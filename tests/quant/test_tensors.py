"""Whole GGUF files: read as another reader reads them, laid out anew byte for byte, hostile ones refused before anything is believed."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import gguf as theirs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.engines.gguf import GgufError
from quant import builtin, ggml
from quant.tensors import Pair, Planned, TensorError, Weights, edited, header, load, padding
from tests.quant import made


@pytest.mark.parametrize("alignment", [32, 256])
def test_it_reads_what_another_reader_reads(tmp_path: Path, alignment: int) -> None:
    path = made.llama(tmp_path / "m.gguf", experts=4, alignment=alignment)
    model, reader = load(path), theirs.GGUFReader(path)
    assert model.alignment == alignment
    assert [pair.key for pair in model.pairs] == [key for key in reader.fields if not key.startswith("GGUF.")]
    assert len(model.tensors) == len(reader.tensors)
    with Weights(model) as weights:
        for ours, other in zip(model.tensors, reader.tensors, strict=True):
            assert (ours.name, ours.dims, ours.kind) == (other.name, tuple(map(int, other.shape)), other.tensor_type.name)
            assert (ours.offset, ours.size, ours.weights) == (other.data_offset, other.n_bytes, other.n_elements)
            assert weights.read(ours) == other.data.tobytes()
    assert model.tensor_bytes == sum(int(tensor.n_bytes) for tensor in reader.tensors)


@pytest.mark.parametrize("alignment", [0, 32, 256])
def test_the_header_written_anew_is_the_header(tmp_path: Path, alignment: int) -> None:
    path = made.llama(tmp_path / "m.gguf", alignment=alignment) if alignment else builtin.path()
    model = load(path)
    planned = [Planned(tensor.name, tensor.dims, tensor.kind) for tensor in model.tensors]
    again = header(model.pairs, planned, model.alignment)
    assert path.read_bytes().startswith(again)
    assert len(again) == model.tensors[0].offset


def test_rows_are_read_alone(tmp_path: Path) -> None:
    model = load(made.llama(tmp_path / "m.gguf"))
    tensor = next(tensor for tensor in model.tensors if tensor.name == "blk.1.ffn_down.weight")
    assert (tensor.columns, tensor.rows, tensor.parts) == (512, 256, 1)
    with Weights(model) as weights:
        whole = weights.read(tensor)
        assert weights.read(tensor, 10, 3) == whole[10 * 1024 : 13 * 1024]
        assert weights.read(tensor, 256, 0) == b""
        for first, rows in ((-1, 1), (250, 7), (0, -1)):
            with pytest.raises(TensorError, match="has 256 rows"):
                weights.read(tensor, first, rows)
    weights.close()


def test_a_file_that_is_cut_off_while_it_is_read_is_an_error(tmp_path: Path) -> None:
    path = made.llama(tmp_path / "m.gguf")
    model = load(path)
    with Weights(model) as weights:
        with path.open("r+b") as file:
            file.truncate(model.tensors[-1].offset + 5)
        with pytest.raises(TensorError, match=r"m\.gguf became shorter while it was read\."):
            weights.read(model.tensors[-1])


def test_a_file_that_is_gone_is_an_error(tmp_path: Path) -> None:
    path = made.llama(tmp_path / "m.gguf")
    model = load(path)
    path.unlink()
    with pytest.raises(TensorError, match="cannot be read: No such file"):
        Weights(model)
    with pytest.raises(GgufError, match="does not exist"):
        load(path)


def test_numbers_are_set_and_the_rest_stays(tmp_path: Path) -> None:
    model = load(made.llama(tmp_path / "m.gguf"))
    pairs = edited(model.pairs, {"general.file_type": 15, "new.key": 7}, ["general.name"])
    kept = [pair for pair in model.pairs if pair.key not in ("general.file_type", "general.name")]
    assert list(pairs[:-2]) == kept
    assert [pair.key for pair in pairs[-2:]] == ["general.file_type", "new.key"]
    assert pairs[-1] == Pair("new.key", struct.pack("<Q", 7) + b"new.key" + struct.pack("<II", 4, 7))


@given(st.integers(0, 10_000), st.sampled_from([8, 32, 64, 4096]))
def test_padding(size: int, alignment: int) -> None:
    zeros = padding(size, alignment)
    assert (size + len(zeros)) % alignment == 0 and len(zeros) < alignment and not any(zeros)


def crafted(tensors: list[tuple[str, tuple[int, ...], int, int]], data: int = 4096) -> bytes:
    """A GGUF file with these (name, dimensions, type, offset) and `data` bytes of weights."""
    raw = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), 0)
    for name, dims, kind, offset in tensors:
        raw += struct.pack("<Q", len(name)) + name.encode() + struct.pack("<I", len(dims)) + b"".join(struct.pack("<Q", n) for n in dims)
        raw += struct.pack("<IQ", kind, offset)
    return raw + padding(len(raw)) + bytes(data)


HOSTILE: dict[str, tuple[list[tuple[str, tuple[int, ...], int, int]], str]] = {
    "a tensor twice": ([("a", (32,), 0, 0), ("a", (32,), 0, 128)], "'a' twice"),
    "overlapping": ([("a", (64,), 0, 0), ("b", (32,), 0, 128)], "lies on the bytes of another"),
    "the same place": ([("a", (64,), 0, 0), ("b", (32,), 0, 0)], "lies on the bytes of another"),
    "not aligned": ([("a", (32,), 0, 4)], "not aligned to 32"),
    "behind the end": ([("a", (1024,), 0, 32)], "the file is truncated"),
    "far behind the end": ([("a", (32,), 0, 1 << 62)], "the file is truncated"),
    "half a block": ([("a", (48,), 8, 0)], "has the shape"),
    "no weights": ([("a", (0, 32), 0, 0)], "has the shape"),
    "an unknown type": ([("a", (32,), 4, 0)], "unknown type 4"),
    "five dimensions": ([("a", (1, 1, 1, 1, 1), 0, 0)], "5 dimensions"),
    "no dimensions": ([("a", (), 0, 0)], "0 dimensions"),
    "absurd": ([("a", (1 << 40, 1 << 40), 0, 0)], "absurd size"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_tables_are_refused(tmp_path: Path, what: str) -> None:
    tensors, said = HOSTILE[what]
    path = tmp_path / "bad.gguf"
    path.write_bytes(crafted(tensors))
    with pytest.raises((GgufError, TensorError), match=said) as caught:
        load(path, model=False)
    assert "bad.gguf" in str(caught.value) and "\n" not in str(caught.value)


def test_a_sound_file_that_is_no_model(tmp_path: Path) -> None:
    path = tmp_path / "sound.gguf"
    path.write_bytes(crafted([("a", (32, 2), 0, 0), ("b", (32,), 8, 256)]))
    assert [tensor.size for tensor in load(path, model=False).tensors] == [256, 34]
    with pytest.raises(GgufError, match=r"general\.architecture"):
        load(path)


SEED_FILE = crafted([("alpha", (32, 2), 0, 0), ("beta", (64,), 8, 256), ("gamma", (256,), 12, 352)], 512)


@settings(max_examples=150)
@given(st.data())
def test_no_damage_gets_through_as_anything_but_one_sentence(tmp_path_factory: Any, data: st.DataObject) -> None:
    raw = bytearray(SEED_FILE)
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, 200))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(raw)))
    path = tmp_path_factory.mktemp("d") / "d.gguf"
    path.write_bytes(raw[:cut] if cut < 300 else raw)
    try:
        model = load(path, model=False)
    except (GgufError, TensorError) as error:
        assert "\n" not in str(error) and len(str(error)) < 300
        return
    with Weights(model) as weights:
        assert all(len(weights.read(tensor)) == tensor.size for tensor in model.tensors)


def test_planned_sizes_are_ggmls() -> None:
    for kind in ggml.MADE:
        array = np.zeros((3, 512), np.float32)
        assert Planned("a", (512, 3), kind).size == len(ggml.quantise(kind, array.tobytes(), 3, 512))
