"""What of a model decides how much memory it takes and how fast it is: shape and weights, out of a GGUF header. Pure but for `load`.

Kinds of layers follow llama.cpp's `llama-kv-cache.cpp` and `llama-kv-cache-iswa.cpp`: full attention, attention over a window, one latent
vector for all heads (MLA), and recurrent layers, which keep a state of constant size. Sizes of Llama-like models were held against a
running llama.cpp; of the others they follow its formulas, and `Card.measured` says so.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import msgspec

from backends.engines import gguf
from quant import ggml
from quant.mixes import Facts, Shape, choose, role
from quant.tensors import Model, Tensor
from quant.tensors import load as load_tensors

MEASURED = frozenset({"llama", "qwen2", "qwen3", "mistral3", "olmo2", "smollm3"})
# Every n-th layer sees everything, the others a window (llama.cpp, `set_swa_pattern` in the models' hyperparameters).
WINDOWED: Mapping[str, int] = {
    "gemma2": 2, "gemma3": 6, "gemma3n": 5, "cohere2": 4, "exaone4": 4, "gpt-oss": 2, "llama4": 4, "smallthinker": 4, "olmo3": 4,
    "mimo2": 6, "step35": 4,
}  # fmt: skip
MAX_SHARDS = 512
MOST = 1 << 32  # of any number in a header
_SHARD = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$")


class Layer(msgspec.Struct, frozen=True):
    """What one layer keeps. Numbers of values for a token (`key`, `value`), tokens (`window`, 0: all), bytes for a sequence (`state`)."""

    key: int = 0
    value: int = 0
    window: int = 0
    state: int = 0


class Matrix(msgspec.Struct, frozen=True):
    """Tensors that are treated alike. `columns`: the longest row. `place`: "embedding" is looked up, "matrix" multiplied, "experts"
    multiplied in part, "other" small. `even`: their rows come in eights, which interleaved formats need."""

    kind: str
    place: str
    even: bool
    bytes: int
    weights: int
    columns: int


class Card(msgspec.Struct, frozen=True):
    """A model as `fit` sees it. Lengths in values, `context` in tokens; `experts`: (all, used for a token, width of one)."""

    name: str
    architecture: str
    quant: str
    width: int
    inner: int
    heads: int
    query: int
    vocab: int
    merges: int
    context: int
    experts: tuple[int, int, int]
    layers: tuple[Layer, ...]
    matrices: tuple[Matrix, ...]
    tied: bool
    pooling: str = ""
    file_bytes: int = 0

    @property
    def measured(self) -> bool:
        """Whether models of this architecture were held against a running engine."""
        return self.architecture in MEASURED and not self.experts[0]

    @property
    def weights_bytes(self) -> int:
        return sum(each.bytes for each in self.matrices)

    @property
    def parameters(self) -> int:
        return sum(each.weights for each in self.matrices)

    @property
    def share(self) -> float:
        """The part of the experts that one token uses; 1 for a model without."""
        every, used, _ = self.experts
        return min(1.0, used / every) if every and used else 1.0

    @property
    def read_bytes(self) -> float:
        """Bytes of weights that are read for one token alone: a row of the embeddings, and the experts that it uses."""
        return sum(each.bytes * self._used(each) for each in self.matrices)

    @property
    def active(self) -> float:
        """Weights that take part in computing one token."""
        return sum(each.weights * self._used(each) for each in self.matrices)

    def _used(self, each: Matrix) -> float:
        if each.place == "embedding":
            return 1.0 if self.tied else 0.0
        return self.share if each.place == "experts" else 1.0

    def kv_bytes(self, key: str, value: str) -> int:
        """Bytes that one token takes in the layers which keep all tokens, with K and V stored as these types. Raises `GgmlError`."""
        return sum(_row(key, each.key) + _row(value, each.value) for each in self.layers if not each.window)

    def takes(self, key: str, value: str) -> bool:
        """Whether the cache's rows are whole numbers of blocks of these types."""
        return all(ggml.fits(key, each.key) and ggml.fits(value, each.value) for each in self.layers)


def _row(kind: str, values: int) -> int:
    return ggml.size(kind, values) if values else 0


def layer_bytes(layer: Layer, cells: int, key: str, value: str) -> int:
    """Bytes of one layer's cache of `cells` tokens. Pure; raises `GgmlError` where a row is no whole number of blocks."""
    return cells * (_row(key, layer.key) + _row(value, layer.value))


def parts(path: Path) -> list[Path]:
    """The files that a model consists of, by the name of any of them. Pure."""
    match = _SHARD.search(path.name)
    if match is None or not 0 < int(match[2]) <= MAX_SHARDS:
        return [path]
    stem = path.name[: match.start()]
    return [path.with_name(f"{stem}-{number:05d}-of-{match[2]}.gguf") for number in range(1, int(match[2]) + 1)]


def load(path: str | os.PathLike[str]) -> Card:
    """The card of the model at `path` (any of its files). Blocks on the disk; raises `gguf.GgufError` or `TensorError`."""
    files = parts(Path(path))
    models = [load_tensors(files[0]), *(load_tensors(each, model=False) for each in files[1:])]
    return of(models)


def of(models: Sequence[Model]) -> Card:
    """The card of a model by the headers of its files, the first one first. Pure."""
    meta = models[0].meta
    tensors = [tensor for model in models for tensor in model.tensors]
    return card(meta, tensors, sum(model.meta.bytes for model in models))


def card(meta: gguf.Meta, tensors: Sequence[Tensor], file_bytes: int) -> Card:
    """The card by metadata and table of tensors. Pure."""
    values, arch = meta.values, meta.architecture
    heads = _largest(values, f"{arch}.attention.head_count") or 1
    head = _largest(values, f"{arch}.attention.key_length") or meta.embedding // heads
    merges = values.get("tokenizer.ggml.merges", 0)
    experts = tuple(_largest(values, f"{arch}.{key}") for key in ("expert_count", "expert_used_count", "expert_feed_forward_length"))
    return Card(
        name=Path(meta.path).name, architecture=arch, quant=meta.file_type, width=meta.embedding,
        inner=_largest(values, f"{arch}.feed_forward_length"), heads=heads, query=heads * head, vocab=meta.vocab,
        merges=merges if isinstance(merges, int) else 0, context=meta.context, experts=(experts[0], experts[1], experts[2]),
        layers=layers(meta), matrices=matrices((tensor.name, tensor.dims, tensor.kind) for tensor in tensors),
        tied=not any(tensor.name == "output.weight" for tensor in tensors), pooling=meta.pooling, file_bytes=file_bytes,
    )  # fmt: skip


def as_kind(known: Card, source: Model, kind: str, facts: Facts) -> Card:
    """The card of the model as `kind` ("Q4_K_M"), by the same table of types that `quant quantize` uses. Pure; raises `MixError`."""
    shapes = {tensor.name: Shape(tensor.name, tensor.dims, tensor.kind) for tensor in source.tensors}
    chosen = [(choice.name, shapes[choice.name].dims, choice.kind) for choice in choose(kind, facts, shapes.values())]
    made = matrices(chosen)
    size = known.file_bytes - known.weights_bytes + sum(each.bytes for each in made)
    return msgspec.structs.replace(known, quant=kind, matrices=made, file_bytes=size)


def matrices(tensors: Iterable[tuple[str, tuple[int, ...], str]]) -> tuple[Matrix, ...]:
    """The tensors (name, dimensions, type), summed up by what matters. Pure."""
    found: dict[tuple[str, str, bool], list[int]] = {}
    for name, dims, kind in tensors:
        rows = 1
        for each in dims[1:]:
            rows *= each
        sums = found.setdefault((kind, _place(name, dims), len(dims) > 1 and dims[1] % 8 == 0), [0, 0, 0])
        sums[0] += ggml.size(kind, dims[0], rows)
        sums[1] += dims[0] * rows
        sums[2] = max(sums[2], dims[0])
    return tuple(Matrix(*key, *sums) for key, sums in sorted(found.items()))


def _place(name: str, dims: Sequence[int]) -> str:
    if role(name) == "embedding":
        return "embedding"
    if "_exps." in name and len(dims) > 2:
        return "experts"
    return "matrix" if name.endswith(".weight") and len([each for each in dims if each > 1]) == 2 else "other"


def layers(meta: gguf.Meta) -> tuple[Layer, ...]:
    """What each layer keeps, by the metadata. Pure. Layers with no heads for keys are recurrent where the model has a state at all."""
    values, arch = meta.values, meta.architecture
    heads = _each(values, f"{arch}.attention.head_count", meta.blocks, 1)
    shared = _each(values, f"{arch}.attention.head_count_kv", meta.blocks, 0, heads)
    width = meta.embedding // max(1, max(heads, default=1))
    key = _largest(values, f"{arch}.attention.key_length") or width
    value = _largest(values, f"{arch}.attention.value_length") or width
    latent = _largest(values, f"{arch}.attention.kv_lora_rank") and _largest(values, f"{arch}.attention.key_length_mla")
    state, often = _state(values, arch), _largest(values, f"{arch}.full_attention_interval")
    window = _windows(values, arch, meta.blocks)
    made = []
    for number, count in enumerate(shared):
        if state and (not count or (often and (number + 1) % often)):
            made.append(Layer(state=state))
        else:  # of MLA only the latent K is kept: V is a part of it
            made.append(Layer(count * key, 0 if latent else count * value, window[number]))
    return tuple(made)


def _windows(values: Mapping[str, gguf.Value], arch: str, blocks: int) -> list[int]:
    """Tokens that each layer sees; 0: all. Only for architectures for which llama.cpp keeps two caches."""
    size, often = _largest(values, f"{arch}.attention.sliding_window"), WINDOWED.get(arch, 0)
    pattern = values.get(f"{arch}.attention.sliding_window_pattern")
    if isinstance(pattern, list) and len(pattern) == blocks:
        return [size if each else 0 for each in pattern]
    return [size if often and (number + 1) % often else 0 for number in range(blocks)]


def _state(values: Mapping[str, gguf.Value], arch: str) -> int:
    """Bytes of one recurrent layer's state for a sequence (llama.cpp, `n_embd_r` and `n_embd_s`; F32)."""
    taps, inner, state, groups = (
        _largest(values, f"{arch}.ssm.{key}") for key in ("conv_kernel", "inner_size", "state_size", "group_count")
    )
    return ((max(taps, 1) - 1) * (inner + 2 * groups * state) + state * inner) * 4 if inner and state else 0


def _largest(values: Mapping[str, gguf.Value], key: str) -> int:
    """The number at `key`, the largest one of an array; 0 where there is none that can be a size."""
    value = values.get(key, 0)
    return max(map(_number, value), default=0) if isinstance(value, list) else _number(value)


def _number(value: object) -> int:
    """A whole number from 0 to `MOST`: headers are somebody's text."""
    if isinstance(value, float) and not math.isfinite(value):
        return 0
    return min(MOST, max(0, int(value))) if isinstance(value, (int, float)) else 0


def _each(values: Mapping[str, gguf.Value], key: str, blocks: int, default: int, otherwise: Sequence[int] = ()) -> list[int]:
    """A number of every layer: from an array, one for all, or those of `otherwise`."""
    value = values.get(key)
    if isinstance(value, list):
        return [_number(value[number]) if number < len(value) else default for number in range(blocks)]
    if isinstance(value, (int, float)):
        return [_number(value)] * blocks
    return list(otherwise) or [default] * blocks
