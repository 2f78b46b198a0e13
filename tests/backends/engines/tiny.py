"""Writes a very small Llama GGUF with random weights, and broken variants of it. Standard library only."""

from __future__ import annotations

import random
import struct
from functools import cache
from pathlib import Path

WIDTH, LAYERS, HEADS, KV, FEED, CONTEXT = 64, 2, 4, 2, 128, 512
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


class U32(int):
    """An integer that is stored as 32 bits unsigned (plain ints are too)."""


class Raw(bytes):
    """A value's bytes as they stand in the file, type included."""


def _text(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _value(value: object) -> bytes:
    if isinstance(value, Raw):
        return value
    if isinstance(value, bool):
        return struct.pack("<I?", 7, value)
    if isinstance(value, int):
        return struct.pack("<II", 4, value) if 0 <= value < 1 << 32 else struct.pack("<Iq", 11, value)
    if isinstance(value, float):
        return struct.pack("<If", 6, value)
    if isinstance(value, str):
        return struct.pack("<I", 8) + _text(value)
    assert isinstance(value, list)
    if value and isinstance(value[0], str):
        return struct.pack("<IIQ", 9, 8, len(value)) + b"".join(_text(item) for item in value)
    return struct.pack("<IIQ", 9, 5, len(value)) + struct.pack(f"<{len(value)}i", *value)


def _bytes_as_characters() -> list[str]:
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    extra = iter(range(256, 512))
    return [chr(byte) if byte in plain else chr(next(extra)) for byte in range(256)]


def metadata() -> dict[str, object]:
    """The metadata of a sound tiny model; 262 tokens."""
    tokens = [*_bytes_as_characters(), "<|im_start|>", "<|im_end|>", "<|pad|>", "\u0120t", "he", "\u0120the"]
    return {
        "general.architecture": "llama", "general.name": "tiny", "general.file_type": 0, "llama.context_length": CONTEXT,
        "llama.embedding_length": WIDTH, "llama.block_count": LAYERS, "llama.feed_forward_length": FEED,
        "llama.attention.head_count": HEADS, "llama.attention.head_count_kv": KV, "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.rope.dimension_count": WIDTH // HEADS, "llama.vocab_size": len(tokens), "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "qwen2", "tokenizer.ggml.tokens": tokens, "tokenizer.ggml.token_type": [1] * 256 + [3] * 3 + [1] * 3,
        "tokenizer.ggml.merges": ["\u0120 t", "h e", "\u0120t he"], "tokenizer.ggml.eos_token_id": 257,
        "tokenizer.ggml.padding_token_id": 258, "tokenizer.ggml.add_bos_token": False, "tokenizer.chat_template": TEMPLATE,
    }  # fmt: skip


def _shapes(vocab: int) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (WIDTH, vocab), "output_norm.weight": (WIDTH,)}
    side = WIDTH // HEADS * KV
    for layer in range(LAYERS):
        block = {
            "attn_norm": (WIDTH,), "ffn_norm": (WIDTH,), "attn_q": (WIDTH, WIDTH), "attn_k": (WIDTH, side), "attn_v": (WIDTH, side),
            "attn_output": (WIDTH, WIDTH), "ffn_gate": (WIDTH, FEED), "ffn_up": (WIDTH, FEED), "ffn_down": (FEED, WIDTH),
        }  # fmt: skip
        shapes |= {f"blk.{layer}.{name}.weight": shape for name, shape in block.items()}
    return shapes


@cache
def _weights(vocab: int) -> dict[str, bytes]:
    """Each tensor's bytes; made once, as it takes a while."""
    chance, found = random.Random(7), {}
    for name, shape in _shapes(vocab).items():
        count = shape[0] * (shape[1] if len(shape) > 1 else 1)
        found[name] = struct.pack(f"<{count}f", *([1.0] * count if "norm" in name else [chance.gauss(0, 0.1) for _ in range(count)]))
    return found


def write(path: Path, changes: dict[str, object] | None = None, *, version: int = 3, magic: bytes = b"GGUF") -> Path:
    """Writes the model; `changes` replace metadata (None removes a key)."""
    values = {key: value for key, value in {**metadata(), **(changes or {})}.items() if value is not None}
    shapes = _shapes(len(metadata()["tokenizer.ggml.tokens"]))  # type: ignore[arg-type]
    weights = _weights(len(metadata()["tokenizer.ggml.tokens"]))  # type: ignore[arg-type]
    head = magic + struct.pack("<IQQ", version, len(shapes), len(values))
    head += b"".join(_text(key) + _value(value) for key, value in values.items())
    data = b""
    for name, shape in shapes.items():
        head += _text(name) + struct.pack("<I", len(shape)) + struct.pack(f"<{len(shape)}Q", *shape) + struct.pack("<IQ", 0, len(data))
        data += weights[name]
    path.write_bytes(head + b"\0" * (-len(head) % 32) + data)
    return path
