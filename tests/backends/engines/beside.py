"""Files that stand beside the built-in model, with random weights: a LoRA adapter, and a vision projector of LLaVA's shape."""

from __future__ import annotations

import base64
import struct
import zlib
from pathlib import Path

import gguf
import numpy as np

WIDTH = 256  # of the built-in model
_LAYERS, _EYE, _INNER, _PATCH, _IMAGE = 2, 64, 128, 14, 28


def adapter(path: Path, model: Path, rank: int = 4) -> Path:
    """A LoRA adapter that changes all queries of `model`."""
    chance = np.random.default_rng(0)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_string("general.type", "adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", 8.0)
    for tensor in gguf.GGUFReader(model).tensors:
        if tensor.name.endswith("attn_q.weight"):
            inner, outer = (int(size) for size in tensor.shape)
            writer.add_tensor(tensor.name + ".lora_a", chance.normal(size=(rank, inner)).astype("f4"))
            writer.add_tensor(tensor.name + ".lora_b", chance.normal(size=(outer, rank)).astype("f4"))
    return _written(writer, path)


def projector(path: Path) -> Path:
    """A vision tower with two layers and LLaVA's two-layer projection (llama.cpp, tools/mtmd/clip.cpp, projector type `mlp`)."""
    chance = np.random.default_rng(0)
    writer = gguf.GGUFWriter(path, "clip")
    writer.add_string("general.type", "mmproj")
    writer.add_bool("clip.has_vision_encoder", True)
    writer.add_string("clip.projector_type", "mlp")
    writer.add_bool("clip.use_gelu", True)
    sizes = {"image_size": _IMAGE, "patch_size": _PATCH, "embedding_length": _EYE, "feed_forward_length": _INNER, "projection_dim": WIDTH,
             "block_count": _LAYERS, "attention.head_count": 4}  # fmt: skip
    for name, size in sizes.items():
        writer.add_uint32(f"clip.vision.{name}", size)
    writer.add_float32("clip.vision.attention.layer_norm_epsilon", 1e-5)
    writer.add_array("clip.vision.image_mean", [0.5, 0.5, 0.5])
    writer.add_array("clip.vision.image_std", [0.5, 0.5, 0.5])

    def add(name: str, *shape: int) -> None:
        writer.add_tensor(name, (chance.normal(size=shape) * 0.3).astype("f4"))

    add("v.class_embd", _EYE)
    add("v.patch_embd.weight", _EYE, 3, _PATCH, _PATCH)
    add("v.position_embd.weight", (_IMAGE // _PATCH) ** 2 + 1, _EYE)
    matrices = {f"v.blk.{layer}.{name}": (_EYE, _EYE) for layer in range(_LAYERS) for name in ("attn_q", "attn_k", "attn_v", "attn_out")}
    matrices |= {f"v.blk.{layer}.ffn_up": (_INNER, _EYE) for layer in range(_LAYERS)}
    matrices |= {f"v.blk.{layer}.ffn_down": (_EYE, _INNER) for layer in range(_LAYERS)}
    for name, (outer, inner) in (matrices | {"mm.0": (WIDTH, _EYE), "mm.2": (WIDTH, WIDTH)}).items():
        add(f"{name}.weight", outer, inner)
        add(f"{name}.bias", outer)
    for name in ("v.pre_ln", "v.post_ln", *(f"v.blk.{layer}.{norm}" for layer in range(_LAYERS) for norm in ("ln1", "ln2"))):
        add(f"{name}.weight", _EYE)
        add(f"{name}.bias", _EYE)
    return _written(writer, path)


def _written(writer: gguf.GGUFWriter, path: Path) -> Path:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def picture(red: int, green: int, blue: int) -> str:
    """A PNG of one colour, 8 x 8, as a data URI."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = (b"\0" + bytes((red, green, blue)) * 8) * 8
    head = struct.pack(">IIBBBBB", 8, 8, 8, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return "data:image/png;base64," + base64.b64encode(data).decode()
