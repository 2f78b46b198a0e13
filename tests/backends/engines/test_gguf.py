"""GGUF headers: sound ones are understood, hostile ones refused with one sentence, and nothing is allocated on a file's word."""

from __future__ import annotations

import math
import random
import struct
import tracemalloc
from pathlib import Path

import pytest

from backends.engines import gguf
from tests.backends.engines import tiny


def test_reads_a_sound_model(model: Path) -> None:
    meta = gguf.read(model)
    gguf.check(meta)
    assert (meta.architecture, meta.name, meta.file_type, meta.context) == ("llama", "tiny", "F32", 512)
    assert (meta.vocab, meta.blocks, meta.embedding, meta.splits, meta.pooling) == (262, 2, 64, 1, "")
    assert meta.chat_template and meta.needs == meta.bytes == model.stat().st_size
    assert meta.kv_bytes == 2 * 2 * (16 + 16) * 2  # layers, kv heads, key and value, f16
    assert meta.parameters == sum(math.prod(shape) for shape in tiny._shapes(262).values())


def refused(path: Path) -> str:
    with pytest.raises(gguf.GgufError) as caught:
        gguf.check(gguf.read(path))
    sentence = str(caught.value)
    assert sentence.endswith(".") and "\n" not in sentence and len(sentence) < 400
    return sentence


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"llama.block_count": 1_000_000}, "block_count is 1000000"),
        ({"llama.block_count": 0}, "block_count is 0"),
        ({"llama.block_count": -1}, "block_count is -1"),
        ({"llama.attention.layer_norm_rms_epsilon": math.nan}, "epsilon is nan"),
        ({"llama.attention.layer_norm_rms_epsilon": 0.0}, "not between 0 and 1"),
        ({"llama.attention.layer_norm_rms_epsilon": -1.0}, "not between 0 and 1"),
        ({"llama.rope.freq_base": math.inf}, "freq_base is inf"),
        ({"llama.attention.head_count": 1 << 31}, "head_count is 2147483648"),
        ({"llama.attention.head_count_kv": 8}, "8 key/value heads but only 4"),
        ({"llama.context_length": 1 << 31}, "context_length is 2147483648"),
        ({"llama.embedding_length": 0}, "embedding_length is 0"),
        ({"llama.embedding_length": "wide"}, "embedding_length is nan"),
        ({"tokenizer.ggml.eos_token_id": 999_999}, "eos_token_id is 999999, not a whole number from 0 to 261"),
        ({"general.architecture": None}, "general.architecture is missing"),
        ({"general.architecture": "../x"}, "general.architecture is missing or not a plain name"),
        ({"general.type": "adapter"}, "it holds a 'adapter', not a model"),
        ({"general.alignment": 0}, "general.alignment is 0"),
        ({"general.alignment": 7}, "general.alignment is 7"),
        ({"x": tiny.Raw(struct.pack("<I", 99))}, "the unknown type 99"),
        ({"x": tiny.Raw(struct.pack("<IIQ", 9, 9, 1))}, "an array of the type 9"),
        ({"x": tiny.Raw(struct.pack("<IIQ", 9, 8, 1 << 62))}, "claims 4611686018427387904 array elements"),
        ({"x": tiny.Raw(struct.pack("<IQ", 8, 1 << 62))}, "bytes of text"),
        ({"x": tiny.Raw(struct.pack("<IIQ", 9, 4, 7_000_000))}, "cut off"),
    ],
)
def test_refuses_bad_metadata(tmp_path: Path, changes: dict[str, object], says: str) -> None:
    assert says in refused(tiny.write(tmp_path / "bad.gguf", changes))


def test_no_eos_as_minus_one_passes(tmp_path: Path) -> None:
    gguf.check(gguf.read(tiny.write(tmp_path / "m.gguf", {"tokenizer.ggml.bos_token_id": 0xFFFFFFFF})))


def test_per_layer_head_counts_pass(tmp_path: Path) -> None:
    gguf.check(gguf.read(tiny.write(tmp_path / "m.gguf", {"llama.attention.head_count_kv": [2, 2]})))


def test_refuses_files_that_are_none(tmp_path: Path, model: Path) -> None:
    whole = model.read_bytes()
    for data, says in (
        (b"", "cut off at byte 0"), (b"GG", "cut off"), (b"PK\3\4" + b"x" * 100, "does not start with GGUF"),
        (whole[:4] + struct.pack("<I", 9) + whole[8:], "version is 9"), (whole[:500], "cut off at byte 500"),
        (whole[:-1], "the file is truncated"), (whole[: len(whole) // 2], "the file is truncated"),
        (whole[:8] + struct.pack("<Q", 1 << 60) + whole[16:], "claims 1152921504606846976 tensors"),
        (whole[:16] + struct.pack("<Q", 1 << 60) + whole[24:], "metadata keys"),
    ):  # fmt: skip
        path = tmp_path / "x.gguf"
        path.write_bytes(data)
        assert says in refused(path)
    assert "does not exist" in refused(tmp_path / "none.gguf")
    assert "is a folder" in refused(tmp_path)


def test_a_duplicate_key_is_refused(tmp_path: Path, model: Path) -> None:
    data = model.read_bytes().replace(b"general.name", b"general.type", 1).replace(b"general.file_type", b"general.type\0\0\0\0\0", 1)
    path = tmp_path / "x.gguf"
    path.write_bytes(data.replace(b"\x0c\0\0\0\0\0\0\0general.type", b"\x14\0\0\0\0\0\0\0general.architecture", 1))
    refused(path)


def test_random_damage_never_does_more_than_refuse(tmp_path: Path, model: Path) -> None:
    whole, chance = bytearray(model.read_bytes()[:6000]), random.Random(3)
    path = tmp_path / "x.gguf"
    tracemalloc.start()
    for _ in range(400):
        damaged = bytearray(whole)
        for _ in range(chance.randrange(1, 8)):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        path.write_bytes(damaged)
        try:
            gguf.check(gguf.read(path))
        except gguf.GgufError as error:
            assert "\n" not in str(error)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 32 << 20, "a damaged file made the reader allocate"
