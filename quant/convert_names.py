"""Which tensor of a transformers model becomes which of llama.cpp's, family by family. Pure.

Names as in llama.cpp's `src/llama-arch.cpp`. The architecture `llama` rotates neighbouring values of a head, transformers values half a
head apart: the rows of Q and K change places on the way. The others rotate as transformers do.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import msgspec

from quant.convert_config import Shape
from quant.convert_safetensors import PLAIN, Stored
from quant.convert_source import ConvertError, Unsupported

_IGNORED = re.compile(r".*\.rotary_emb\.inv_freq")


class Family(msgspec.Struct, frozen=True):
    """What is particular to one class of transformers. `arch`: llama.cpp's name. `permuted`: rows of Q and K change places. `biases`: parts
    of a layer that may have one. `norms`: further norms of a layer, theirs -> ours. `head_norms`: Q's and K's norm is of one head, not of
    all. `square`: llama.cpp derives a head's size from the width. `output`: the last matrix must be there, also where it is tied."""

    arch: str
    permuted: bool = False
    biases: tuple[str, ...] = ()
    norms: Mapping[str, str] = {}
    qk_norms: bool = False
    head_norms: bool = False
    square: bool = False
    output: bool = False


_BEFORE = {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}
_AFTER = {"post_attention_layernorm": "post_attention_norm", "post_feedforward_layernorm": "post_ffw_norm"}
_QKV = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
_ALL = (*_QKV, "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
FAMILIES: Mapping[str, Family] = {
    "LlamaForCausalLM": Family("llama", permuted=True, biases=_ALL, norms=_BEFORE),
    "MistralForCausalLM": Family("llama", permuted=True, biases=_ALL, norms=_BEFORE),
    "Qwen2ForCausalLM": Family("qwen2", biases=_QKV, norms=_BEFORE, square=True),
    "Qwen3ForCausalLM": Family("qwen3", biases=_QKV, norms=_BEFORE, qk_norms=True, head_norms=True),
    "Olmo2ForCausalLM": Family("olmo2", norms=_AFTER, qk_norms=True, square=True, output=True),
}
SAID = "Llama, Mistral, Qwen2, Qwen3 and OLMo 2"
_PARTS = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}  # fmt: skip


class Step(msgspec.Struct, frozen=True):
    """One tensor to be written: its name, where it comes from, and whether its rows change places within each head of `permuted` rows."""

    name: str
    source: Stored
    permuted: int = 0

    @property
    def columns(self) -> int:
        return self.source.shape[-1]

    @property
    def matrix(self) -> bool:
        return len(self.source.shape) > 1


class _Wanted(msgspec.Struct, frozen=True):
    theirs: str
    ours: str
    shape: tuple[int, ...]
    permuted: int = 0
    required: bool = True


def known(shape: Shape) -> Family:
    """The family of a model. Raises `Unsupported`."""
    found = FAMILIES.get(shape.family)
    if found is None:
        raise Unsupported(f"The architecture {shape.family[:60]!r} is none of those that are converted here ({SAID}).")
    if found.square and shape.head * shape.heads != shape.width:
        raise Unsupported(f"Its heads have {shape.head} values, and llama.cpp's {found.arch} takes only {shape.width} / {shape.heads}.")
    return found


def steps(shape: Shape, tensors: Mapping[str, Stored]) -> list[Step]:
    """What is to be written, in order. Every tensor must be accounted for. Raises `ConvertError`."""
    family = known(shape)
    made, seen = [], set()
    for wanted in _wanted(shape, family, tensors):
        source = tensors.get(wanted.theirs)
        if source is not None:
            _fits(source, wanted)
            seen.add(wanted.theirs)
            made.append(Step(wanted.ours, source, wanted.permuted))
        elif wanted.required:
            raise ConvertError(f"The model has no tensor {wanted.theirs!r}; fetch it again.")
    dropped = {"lm_head.weight"} if shape.tied else set()  # transformers ignores it too
    for name in tensors:
        if name not in seen and name not in dropped and not _IGNORED.fullmatch(name):
            raise Unsupported(f"The model has the tensor {name[:80]!r}, which llama.cpp's {family.arch} does not know.")
    return made


def _fits(source: Stored, wanted: _Wanted) -> None:
    if source.kind not in PLAIN:
        raise Unsupported(f"The tensor {wanted.theirs!r} is of the type {source.kind}; only {', '.join(PLAIN)} are converted here.")
    if source.shape != wanted.shape:
        raise ConvertError(f"The tensor {wanted.theirs!r} has the shape {list(source.shape)}; config.json makes it {list(wanted.shape)}.")


def _wanted(shape: Shape, family: Family, tensors: Mapping[str, Stored]) -> Iterator[_Wanted]:
    square = (shape.vocabulary, shape.width)
    yield _Wanted("model.embed_tokens.weight", "token_embd.weight", square)
    yield _Wanted("model.norm.weight", "output_norm.weight", (shape.width,))
    if not shape.tied:
        yield _Wanted("lm_head.weight", "output.weight", square)
    elif family.output:
        yield _Wanted("model.embed_tokens.weight", "output.weight", square)
    for layer in range(shape.layers):
        theirs, ours = f"model.layers.{layer}.", f"blk.{layer}."
        for one, other in family.norms.items():
            yield _Wanted(f"{theirs}{one}.weight", f"{ours}{other}.weight", (shape.width,))
        if family.qk_norms:
            for letter, heads in (("q", shape.heads), ("k", shape.kv_heads)):
                size = shape.head if family.head_norms else shape.head * heads
                yield _Wanted(f"{theirs}self_attn.{letter}_norm.weight", f"{ours}attn_{letter}_norm.weight", (size,))
        for part, dims in _matrices(shape).items():
            permuted = shape.head if family.permuted and part in _QKV[:2] else 0
            yield _Wanted(f"{theirs}{part}.weight", f"{ours}{_PARTS[part]}.weight", dims, permuted)
            if part in family.biases:
                yield _Wanted(f"{theirs}{part}.bias", f"{ours}{_PARTS[part]}.bias", dims[:1], permuted, required=False)


def _matrices(shape: Shape) -> dict[str, tuple[int, int]]:
    query, key = shape.heads * shape.head, shape.kv_heads * shape.head
    return {
        "self_attn.q_proj": (query, shape.width), "self_attn.k_proj": (key, shape.width), "self_attn.v_proj": (key, shape.width),
        "self_attn.o_proj": (shape.width, query), "mlp.gate_proj": (shape.inner, shape.width), "mlp.up_proj": (shape.inner, shape.width),
        "mlp.down_proj": (shape.width, shape.inner),
    }  # fmt: skip


def rows(data: bytes, head: int, row: int) -> bytes:
    """Whole heads of `head` rows of `row` bytes, from transformers' order (half a head apart) to llama.cpp's (neighbours). Pure."""
    half, made = head // 2, []
    for start in range(0, len(data), head * row):
        for at in range(start, start + half * row, row):
            made += [data[at : at + row], data[at + half * row : at + half * row + row]]
    return b"".join(made)
