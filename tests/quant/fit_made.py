"""Models for tests of `fit`: as cards without a file, and as files with random weights that a real llama.cpp loads."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from pathlib import Path

import gguf
import msgspec
import numpy as np

from quant.fit_card import Card, Layer, matrices

SCALE = np.frombuffer(np.float16(0.004).tobytes(), np.uint8)
TEMPLATE = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"


class Made(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A Llama-like model. `d`: width of a head (0: all heads together are as wide as the model); `emb`: type of the embeddings."""

    layers: int = 2
    width: int = 256
    inner: int = 512
    heads: int = 4
    kv: int = 2
    vocab: int = 1024
    arch: str = "llama"
    qt: str = "Q8_0"
    emb: str | None = None
    d: int = 0
    tied: bool = True
    mix: dict[str, str] = {}
    context: int = 32_768

    @property
    def head(self) -> int:
        return self.d or self.width // self.heads

    def tensors(self) -> Iterator[tuple[str, tuple[int, ...], str]]:
        """Name, dimensions (the row's length first), type."""
        yield "token_embd.weight", (self.width, self.vocab), self.emb or self.qt
        if not self.tied:
            yield "output.weight", (self.width, self.vocab), self.mix.get("output", self.qt)
        query, shared = self.heads * self.head, self.kv * self.head
        for layer in range(self.layers):
            for name, rows, columns in (
                ("attn_q", query, self.width), ("attn_k", shared, self.width), ("attn_v", shared, self.width),
                ("attn_output", self.width, query), ("ffn_gate", self.inner, self.width), ("ffn_up", self.inner, self.width),
                ("ffn_down", self.width, self.inner),
            ):  # fmt: skip
                yield f"blk.{layer}.{name}.weight", (columns, rows), self.mix.get(name, self.qt)
            for name in ("attn_norm", "ffn_norm"):
                yield f"blk.{layer}.{name}.weight", (self.width,), "F32"
        yield "output_norm.weight", (self.width,), "F32"

    def card(self) -> Card:
        """The card, as `fit_card` would read it from the file."""
        shared = self.kv * self.head
        return Card(
            name="made.gguf", architecture=self.arch, quant=self.qt, width=self.width, inner=self.inner, heads=self.heads,
            query=self.heads * self.head, vocab=self.vocab, merges=max(1, self.vocab - 258), context=self.context, experts=(0, 0, 0),
            layers=(Layer(shared, shared),) * self.layers, matrices=matrices(self.tensors()), tied=self.tied,
        )  # fmt: skip

    def write(self, path: Path) -> Path:
        """The file, with random weights (always the same)."""
        writer = gguf.GGUFWriter(path, self.arch)
        writer.add_block_count(self.layers)
        writer.add_context_length(self.context)
        writer.add_embedding_length(self.width)
        writer.add_feed_forward_length(self.inner)
        writer.add_head_count(self.heads)
        writer.add_head_count_kv(self.kv)
        writer.add_key_length(self.head)
        writer.add_value_length(self.head)
        writer.add_layer_norm_rms_eps(1e-5)
        writer.add_rope_dimension_count(self.head)
        self._vocabulary(writer)
        random = np.random.default_rng(1)
        for name, dims, kind in self.tensors():
            _add(writer, random, name, dims, kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path

    def _vocabulary(self, writer: gguf.GGUFWriter) -> None:
        printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
        letters = [chr(byte) for byte in printable] + [chr(256 + number) for number in range(256 - len(printable))]
        pairs = [(one + other, f"{one} {other}") for one, other in product(letters, letters)][: self.vocab - 258]
        tokens = [*letters, "<|im_start|>", "<|im_end|>", *(text for text, _ in pairs)]
        writer.add_vocab_size(self.vocab)
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("gpt-2")
        writer.add_token_list(tokens)
        writer.add_token_types([gguf.TokenType.CONTROL if token.startswith("<|im") else gguf.TokenType.NORMAL for token in tokens])
        writer.add_token_merges([merge for _, merge in pairs] or ["a b"])
        writer.add_eos_token_id(257)
        writer.add_add_bos_token(False)
        writer.add_chat_template(TEMPLATE)


def _add(writer: gguf.GGUFWriter, random: np.random.Generator, name: str, dims: tuple[int, ...], kind: str) -> None:
    if len(dims) == 1:
        writer.add_tensor(name, np.ones(dims[0], np.float32))
        return
    columns, rows = dims
    if kind == "F16":
        writer.add_tensor(name, (random.standard_normal((rows, columns), np.float32) * 0.02).astype(np.float16))
        return
    number = getattr(gguf.GGMLQuantizationType, kind)
    weights, size = gguf.GGML_QUANT_SIZES[number]
    raw = random.integers(0, 256, (rows, columns // weights * size), np.uint8)
    blocks = raw.reshape(-1, size)
    if kind in ("Q4_0", "Q8_0", "Q5_0", "IQ4_NL", "Q4_K", "Q5_K"):
        blocks[:, :2] = SCALE
    if kind in ("Q4_K", "Q5_K"):
        blocks[:, 2:4] = 0
    if kind == "Q6_K":
        blocks[:, -2:] = SCALE
    writer.add_tensor(name, raw, raw_dtype=number)
