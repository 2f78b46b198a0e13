"""A llama of 107 million random weights as a GGUF file: as much work as a small real model, without a download.

Twelve layers of width 768, 32,000 tokens, Q4_0. The tokenizer is byte by byte, so an ASCII prompt has as many tokens as characters; the
other tokens are filler, whose texts are plain words, so that whatever the model says is text at once. Weights are drawn from a seeded
generator straight into Q4_0's blocks (18 bytes for 32 weights: a half-precision scale and sixteen pairs of nibbles; ggml-common.h).
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

LAYERS, WIDTH, INNER, HEADS, KV_HEADS, VOCAB, CONTEXT = 12, 768, 2304, 12, 4, 32_000, 4096
BLOCK, BLOCK_BYTES = 32, 18
SPREAD = 0.02  # standard deviation of the weights
VERSION = 1  # of the file; raise it when what is written changes
TEMPLATE = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}<|im_start|>assistant\n"
SPECIAL = ("<|im_start|>", "<|im_end|>")


def path() -> Path:
    """The file, written at the first call (a few seconds, 60 MB, in the folder for temporary files). Blocks."""
    file = Path(tempfile.gettempdir()) / f"pointsman-random-107m-{VERSION}.gguf"
    if not file.exists():
        part = file.with_suffix(f".{os.getpid()}.part")
        write(part)
        part.replace(file)
    return file


def write(file: Path) -> None:
    """Writes the model to `file`. Blocks for seconds. Needs the packages gguf and numpy."""
    import gguf

    writer = gguf.GGUFWriter(str(file), "llama")
    writer.add_block_count(LAYERS)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_vocab_size(VOCAB)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q4_0)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    tokens = vocabulary()
    special = [gguf.TokenType.CONTROL if token in SPECIAL else gguf.TokenType.NORMAL for token in tokens]
    writer.add_token_list(tokens)
    writer.add_token_types(special)
    writer.add_token_merges([f"{tokens[97]} {tokens[98]}x"])  # one that never applies: without any the loader refuses the file
    writer.add_eos_token_id(tokens.index(SPECIAL[1]))
    writer.add_add_bos_token(False)
    writer.add_chat_template(TEMPLATE)
    generator = np.random.default_rng(20260101)
    for name, rows, columns in matrices():
        writer.add_tensor(name, _random(generator, rows, columns), raw_dtype=gguf.GGMLQuantizationType.Q4_0)
    for name in norms():
        writer.add_tensor(name, np.ones(WIDTH, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def vocabulary() -> list[str]:
    """The bytes as GPT-2 writes them, the marks of turns, and words."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = (chr(256 + i) for i in range(256))
    byte = [chr(b) if b in plain else next(others) for b in range(256)]
    return [*byte, *SPECIAL, *(f"w{i}Ġ" for i in range(VOCAB - 258))]


def matrices() -> Iterator[tuple[str, int, int]]:
    """Name, rows and columns of every weight matrix; the output is tied to the embedding."""
    narrow = WIDTH // HEADS * KV_HEADS
    yield "token_embd.weight", VOCAB, WIDTH
    for layer in range(LAYERS):
        for name, rows, columns in (
            ("attn_q", WIDTH, WIDTH), ("attn_k", narrow, WIDTH), ("attn_v", narrow, WIDTH), ("attn_output", WIDTH, WIDTH),
            ("ffn_gate", INNER, WIDTH), ("ffn_up", INNER, WIDTH), ("ffn_down", WIDTH, INNER),
        ):  # fmt: skip
            yield f"blk.{layer}.{name}.weight", rows, columns


def norms() -> Iterator[str]:
    """Names of the vectors that scale what is normalised."""
    yield "output_norm.weight"
    for layer in range(LAYERS):
        yield from (f"blk.{layer}.attn_norm.weight", f"blk.{layer}.ffn_norm.weight")


def _random(generator: np.random.Generator, rows: int, columns: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Q4_0 rows: nibbles drawn evenly (their standard deviation is 4.6), one scale for all."""
    blocks = rows * columns // BLOCK
    out = np.empty((blocks, BLOCK_BYTES), np.uint8)
    out[:, :2] = np.frombuffer(np.float16(SPREAD / 4.6).tobytes(), np.uint8)
    out[:, 2:] = generator.integers(0, 256, (blocks, BLOCK_BYTES - 2), np.uint8)
    return out.reshape(rows, columns // BLOCK * BLOCK_BYTES)
