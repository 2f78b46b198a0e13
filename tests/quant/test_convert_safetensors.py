"""safetensors read without trusting them: sound files whole, hostile ones refused with one sentence."""

from __future__ import annotations

import json
import os
import struct
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quant.convert_safetensors import INDEX, MAX_HEADER, Files, header, index
from quant.convert_source import ConvertError
from tests.quant import convert_made


def raw(head: Any, data: bytes = b"", *, length: int | None = None) -> bytes:
    text = head if isinstance(head, bytes) else json.dumps(head).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(kind: Any = "F32", shape: Any = (2,), span: Any = (0, 8)) -> dict[str, Any]:
    return {"dtype": kind, "shape": shape if isinstance(shape, (str, int)) else list(shape), "data_offsets": span}


HOSTILE: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "too short"),
    "seven bytes": (b"\0" * 7, "too short"),
    "long header": (raw({}, length=MAX_HEADER + 1), "its header claims 100000001 bytes"),
    "absurd header": (raw({}, length=2**64 - 1), "its header claims"),
    "header cut off": (raw({}, length=1000), "truncated"),
    "no JSON": (raw(b"{not json"), "no JSON"),
    "no UTF-8": (raw(b'{"\xff": 1}'), "no JSON"),
    "a list": (raw([]), "no JSON object"),
    "deep": (raw(b'{"a":' * 100_000 + b"1" + b"}" * 100_000), "nested too deeply"),
    "twice": (raw(b'{"a": {"dtype":"F32","shape":[0],"data_offsets":[0,0]}, "a": {}}'), "a name twice"),
    "not described": (raw({"a": 5}), "not described"),
    "unknown type": (raw({"a": entry("F128")}), "'F128'"),
    "type of a list": (raw({"a": entry(["F32"])}), "not known here"),
    "no shape": (raw({"a": entry(shape="x")}), "no sound shape"),
    "negative": (raw({"a": entry(shape=(-2,))}), "no sound shape"),
    "a truth": (raw({"a": entry(shape=(True, 2))}), "no sound shape"),
    "a fraction": (raw({"a": entry(shape=(2.0,))}), "no sound shape"),
    "many dimensions": (raw({"a": entry(shape=(1,) * 9)}), "no sound shape"),
    "overflow": (raw({"a": entry(shape=(2**40, 2**40))}), "has 8 bytes"),
    "no span": (raw({"a": entry(span=[0])}), "no sound place"),
    "backwards": (raw({"a": entry(span=[8, 0])}, bytes(8)), "no sound place"),
    "wrong size": (raw({"a": entry(span=[0, 4])}, bytes(4)), "has 4 bytes"),
    "beyond the end": (raw({"a": entry()}, bytes(7)), "truncated"),
    "overlap": (raw({"a": entry(), "b": entry(span=[4, 12])}, bytes(12)), "lies on the bytes of another"),
    "a gap": (raw({"a": entry(), "b": entry(span=[9, 17])}, bytes(17)), "belong to none"),
    "a tail": (raw({"a": entry()}, bytes(9)), "belong to no tensor"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused(tmp_path: Path, name: str) -> None:
    data, said = HOSTILE[name]
    (tmp_path / "model.safetensors").write_bytes(data)
    with pytest.raises(ConvertError, match=said) as caught:
        index(tmp_path)
    assert "\n" not in str(caught.value) and "model.safetensors" in str(caught.value) and len(str(caught.value)) < 400


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    with tempfile.NamedTemporaryFile(suffix=".safetensors") as file:
        file.write(data)
        file.flush()
        try:
            assert isinstance(header(Path(file.name)), list)
        except ConvertError as error:
            assert "\n" not in str(error)


def test_what_was_written_is_read(tmp_path: Path) -> None:
    made = convert_made.weights(convert_made.config("qwen2"), 3)
    for shards in (1, 3):
        folder = tmp_path / str(shards)
        folder.mkdir()
        convert_made.tensors(folder, made, "BF16", shards)
        found = index(folder)
        assert set(found) == set(made)
        with Files(list(found.values())) as files:
            for name, stored in found.items():
                assert stored.shape == made[name].shape and stored.kind == "BF16"
                assert files.read(stored, 0, stored.size) == convert_made.raw(made[name], "BF16")
                assert files.read(stored, 2, 4) == convert_made.raw(made[name], "BF16")[2:6]
                with pytest.raises(ConvertError, match="are asked for"):
                    files.read(stored, 1, stored.size)


def test_a_file_that_shrinks_is_said(tmp_path: Path) -> None:
    convert_made.tensors(tmp_path, {"a": convert_made.weights(convert_made.config("qwen2"), 3)["model.norm.weight"]}, "F32")
    stored = index(tmp_path)["a"]
    with Files([stored]) as files:
        os.truncate(stored.file, stored.offset + 10)
        with pytest.raises(ConvertError, match="became shorter"):
            files.read(stored, 0, stored.size)
    with pytest.raises(ConvertError, match="cannot be read"):
        stored.file.unlink()
        Files([stored])


def _index(places: dict[str, Any]) -> Callable[[Path], Any]:
    return lambda folder: (folder / INDEX).write_text(json.dumps({"weight_map": places}))


def _one(name: str, data: bytes = raw({"a": entry()}, bytes(8))) -> Callable[[Path], Any]:
    return lambda folder: (folder / name).write_bytes(data)


FOLDERS: dict[str, tuple[list[Callable[[Path], Any]], str]] = {
    "nothing": ([], "holds no safetensors"),
    "pickles": ([_one("pytorch_model.bin")], "pickles"),
    "two": ([_one("a.safetensors"), _one("b.safetensors")], "fetch the missing file"),
    "Mistral's own": ([_one("consolidated.safetensors")], "fetch the missing file"),
    "an empty index": ([_index({})], "names 0 files"),
    "a way out": ([_index({"a": "../../etc/passwd"})], "no plain name"),
    "another way out": ([_index({"a": "/etc/x.safetensors"})], "no plain name"),
    "not a name": ([_index({"a": 5})], "no plain name"),
    "missing": ([_index({"a": "x.safetensors"})], "x.safetensors is missing"),
    "not in it": ([_index({"b": "x.safetensors"}), _one("x.safetensors")], "which it does not"),
    "many": ([_index({str(at): f"{at}.safetensors" for at in range(5000)})], "names 5000 files"),
    "a folder": ([lambda folder: (folder / "model.safetensors").mkdir()], "cannot be read|no plain file"),
}  # fmt: skip


@pytest.mark.parametrize("name", FOLDERS)
def test_hostile_folders_are_refused(tmp_path: Path, name: str) -> None:
    make, said = FOLDERS[name]
    for step in make:
        step(tmp_path)
    with pytest.raises(ConvertError, match=said) as caught:
        index(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_single_file_of_another_name_will_do(tmp_path: Path) -> None:
    _one("weights.safetensors")(tmp_path)
    assert [stored.size for stored in index(tmp_path).values()] == [8]
