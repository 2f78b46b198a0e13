"""Small models made on the spot: a Llama of random weights that a real engine loads, in any type that the `gguf` package writes.

The weights come from seeded bytes by whole-number arithmetic: the same file is made on every machine and with every version of numpy.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from benchmarks.slots.model import SPECIAL, TEMPLATE, vocabulary

VOCAB = 512
KINDS = {
    "F32": gguf.GGMLQuantizationType.F32, "F16": gguf.GGMLQuantizationType.F16, "BF16": gguf.GGMLQuantizationType.BF16,
    "Q8_0": gguf.GGMLQuantizationType.Q8_0, "Q4_0": gguf.GGMLQuantizationType.Q4_0,
}  # fmt: skip


def weights(seed: int, *shape: int) -> Any:
    """Random 32-bit floats, about normal, with a standard deviation of some 0.04."""
    count = int(np.prod(shape))
    raw = np.frombuffer(random.Random(seed).randbytes(4 * count), np.int8).reshape(count, 4).astype(np.int32).sum(axis=1)
    return (raw.astype(np.float32) / np.float32(4096)).reshape(shape)


def llama(
    path: Path, *, kind: str = "F16", width: int = 256, inner: int = 512, layers: int = 2, experts: int = 0, alignment: int = 32
) -> Path:
    """Writes a Llama (a Mixtral, with experts) with 4 heads, 2 key and value heads, and a tokenizer that says every byte."""
    writer = gguf.GGUFWriter(str(path), "llama")
    if alignment != 32:
        writer.add_custom_alignment(alignment)
    writer.add_name("made for a test")
    writer.add_block_count(layers)
    writer.add_context_length(512)
    writer.add_embedding_length(width)
    writer.add_feed_forward_length(inner)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(width // 4)
    writer.add_vocab_size(VOCAB)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    if experts:
        writer.add_expert_count(experts)
        writer.add_expert_used_count(2)
    _tokenizer(writer)
    for seed, (name, *shape) in enumerate(_tensors(width, inner, layers, experts)):
        _add(writer, name, kind, weights(seed, *shape) if len(shape) > 1 else np.ones(shape, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _tokenizer(writer: Any) -> None:
    tokens = vocabulary()[:VOCAB]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.CONTROL if token in SPECIAL else gguf.TokenType.NORMAL for token in tokens])
    writer.add_token_merges([f"{tokens[97]} {tokens[98]}x"])  # one that never applies: without any the loader refuses the file
    writer.add_eos_token_id(tokens.index(SPECIAL[1]))
    writer.add_add_bos_token(False)
    writer.add_chat_template(TEMPLATE)


def _tensors(width: int, inner: int, layers: int, experts: int) -> list[tuple[Any, ...]]:
    """Name and shape (the row's length last) of every tensor."""
    made: list[tuple[Any, ...]] = [("token_embd.weight", VOCAB, width), ("output_norm.weight", width)]
    up, down = ((experts, inner, width), (experts, width, inner)) if experts else ((inner, width), (width, inner))
    end = "_exps" if experts else ""
    for layer in range(layers):
        block = f"blk.{layer}."
        made += [(block + "attn_norm.weight", width), (block + "ffn_norm.weight", width)]
        made += [(block + "attn_q.weight", width, width), (block + "attn_k.weight", width // 2, width)]
        made += [(block + "attn_v.weight", width // 2, width), (block + "attn_output.weight", width, width)]
        made += [(block + f"ffn_gate{end}.weight", *up), (block + f"ffn_up{end}.weight", *up), (block + f"ffn_down{end}.weight", *down)]
        made += [(block + "ffn_gate_inp.weight", experts, width)] if experts else []
    return made


def _add(writer: Any, name: str, kind: str, data: Any) -> None:
    if data.ndim == 1 or kind == "F32" or "gate_inp" in name:
        writer.add_tensor(name, data)
    elif kind == "F16":
        writer.add_tensor(name, data.astype(np.float16))
    else:
        writer.add_tensor(name, gguf.quants.quantize(data, KINDS[kind]), raw_dtype=KINDS[kind])


def importance(path: Path, sizes: dict[str, tuple[int, int]], seed: int = 7) -> Path:
    """An importance matrix as llama-imatrix writes it today. `sizes`: name of a tensor -> (experts, columns)."""
    writer = gguf.GGUFWriter(str(path), "")
    writer.add_type("imatrix")
    writer.add_array("imatrix.datasets", ["made up"])
    writer.add_uint32("imatrix.chunk_count", 3)
    writer.add_uint32("imatrix.chunk_size", 512)
    for at, (name, (experts, columns)) in enumerate(sizes.items()):
        writer.add_tensor(f"{name}.in_sum2", np.abs(weights(seed + at, experts, columns)) * 100 + 1)
        counts = np.full((experts, 1), 1536, np.float32)
        counts[experts - 1] = 0 if experts > 1 else 1536  # an expert that was never asked
        writer.add_tensor(f"{name}.counts", counts)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
