"""Which type each tensor of a model gets: llama.cpp's mixes ("Q4_K_M" is mostly Q4_K, some Q6_K), tensor by tensor.

The rules are those of llama.cpp (`src/llama-quant.cpp` at 0c1e57098: `tensor_allows_quantization`, `llama_tensor_get_type_impl`,
`tensor_type_fallback`), written as tables and held against its answers (`tests/quant/test_mixes.py`). Where it replaces a type in silence,
because rows are no multiple of 256, the choice here says so. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence

import msgspec

from quant.ggml import fits


class Mix(msgspec.Struct, frozen=True):
    """A kind of file: its name, llama.cpp's number for it (`general.file_type`) and the type that most tensors get."""

    name: str
    file_type: int
    base: str


MIXES: Mapping[str, Mix] = {
    name: Mix(name, number, base)
    for name, number, base in (
        ("Q8_0", 7, "Q8_0"), ("Q6_K", 18, "Q6_K"), ("Q5_K_M", 17, "Q5_K"), ("Q5_K_S", 16, "Q5_K"), ("Q4_K_M", 15, "Q4_K"),
        ("Q4_K_S", 14, "Q4_K"), ("IQ4_XS", 30, "IQ4_XS"), ("IQ4_NL", 25, "IQ4_NL"), ("Q5_1", 9, "Q5_1"), ("Q5_0", 8, "Q5_0"),
        ("Q4_1", 3, "Q4_1"), ("Q4_0", 2, "Q4_0"), ("Q3_K_L", 13, "Q3_K"), ("Q3_K_M", 12, "Q3_K"), ("Q3_K_S", 11, "Q3_K"),
        ("Q2_K", 10, "Q2_K"),
    )
}  # fmt: skip


class MixError(ValueError):
    """A mix that does not exist, or a tensor that it cannot be made for. `str()` is one sentence."""


class Facts(msgspec.Struct, frozen=True):
    """What of a model decides about its mix; numbers of the first layer where layers differ."""

    architecture: str
    layers: int
    heads: int
    kv_heads: int
    experts: int = 0

    @property
    def shared(self) -> int:
        """How many heads share one key and value head (0: there is none)."""
        return self.heads // self.kv_heads if self.kv_heads else 0

    @property
    def large(self) -> bool:
        """Whether llama.cpp calls it a 70B model, whose small value matrices it can afford to keep better."""
        if self.architecture in ("llama", "llama-embed"):
            return self.layers == 80 and self.experts != 8 and self.heads != self.kv_heads
        return _LARGE.get(self.architecture) == self.layers


_LARGE: Mapping[str, int] = {"qwen2": 80, "deci": 80, "olmo": 80, "jais2": 68}


class Shape(msgspec.Struct, frozen=True):
    """A tensor as it is in the source. `dims`: the row's length first, as GGUF has it."""

    name: str
    dims: tuple[int, ...]
    kind: str


class Choice(msgspec.Struct, frozen=True):
    """What a tensor becomes. `wanted`: the type that the mix would have given, where its rows cannot take it; else empty."""

    name: str
    kind: str
    wanted: str = ""


# What stays as it is, by a part of its name: norms, gates of experts, and whatever is small or delicate.
_KEPT = (
    "_norm.weight", "ffn_gate_inp.weight", "ffn_gate_tid2eid.weight", "altup", "laurel", "per_layer_model_proj", "ssm_conv1d",
    "shortconv.conv.weight", "indexer.k_proj.weight", "indexer.q_proj.weight", "time_mix_first.weight", "time_mix_w0.weight",
    "time_mix_w1.weight", "time_mix_w2.weight", "time_mix_v0.weight", "time_mix_v1.weight", "time_mix_v2.weight", "time_mix_a0.weight",
    "time_mix_a1.weight", "time_mix_a2.weight", "time_mix_g1.weight", "time_mix_g2.weight", "time_mix_decay_w1.weight",
    "time_mix_decay_w2.weight", "time_mix_lerp_fused.weight", "attn_rel_b.weight", ".position_embd", "sam.pos_embd", "sam.neck.",
    "sam.net_", ".rel_pos", ".patch_embd", ".patch_merger", "a.rvq.codebook", "mm.a.code_embd",
)  # fmt: skip
_KEPT_NAMES = ("position_embd.weight", "token_types.weight")
_KEPT_IN: Mapping[str, tuple[str, ...]] = {
    "glm5-next": (
        "hc_", "indexer.attn_q_b", "indexer.attn_k", "indexer.proj", "indexer_compressor_gate", "indexer_compressor_ape", "ssm_f_a.weight",
        "ssm_f_b.weight", "ssm_g_a.weight", "ssm_g_b.weight", "ssm_beta.weight", "attn_kv_a_mqa.weight", "attn_k_b.weight",
        "attn_v_b.weight",
    ),
}  # fmt: skip
_NEVER_BELOW_Q8_IN: Mapping[str, tuple[str, ...]] = {"glm5-next": ("attn_q_a", "attn_q_b", "nextn.eh_proj")}

_ROLES = (  # the first part of the name that is found decides
    ("attn_qkv.weight", "value"), ("attn_kv_b.weight", "value"), ("attn_v.weight", "value"), ("attn_k.weight", "key"),
    ("attn_q.weight", "query"), ("attn_output.weight", "mixed"), ("ffn_up", "up"), ("ffn_gate", "gate"), ("ffn_down", "down"),
)  # fmt: skip
_NARROWER: Mapping[str, str] = {"IQ4_XS": "IQ4_NL", "Q2_K": "Q4_0", "Q3_K": "Q4_0", "Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}


def role(name: str) -> str:
    """What a tensor is for: output, embedding, value, key, query, mixed (the attention's output), up, gate, down or "". Pure."""
    if name == "output.weight":
        return "output"
    if name in ("token_embd.weight", "per_layer_token_embd.weight"):
        return "embedding"
    return next((found for part, found in _ROLES if part in name), "")


def keeps(shape: Shape, architecture: str) -> bool:
    """Whether a tensor stays as it is whatever the mix: one-dimensional, no weight, or one that is not to be touched. Pure."""
    name = shape.name
    width = max((i + 1 for i, number in enumerate(shape.dims) if number > 1), default=1)
    if width < 2 or not name.endswith("weight") or name in _KEPT_NAMES:
        return True
    return any(part in name for part in (*_KEPT, *_KEPT_IN.get(architecture, ())))


_BLOCK = re.compile(r"blk\.(\d+)\.")


def order(name: str) -> tuple[int, bytes]:
    """By what llama.cpp sorts tensors before it counts them (and writes them): the block, then the name. Pure."""
    match = _BLOCK.match(name)
    return (int(match[1]) if match else -1), name.encode()


class _Place(msgspec.Struct, frozen=True):
    """Where a tensor is among its like: the `at`-th of `of`."""

    at: int
    of: int
    facts: Facts
    importance: bool

    @property
    def more(self) -> bool:
        """Whether it is one of those that get more bits: the first and the last eighth, and every third between (k-quants, PR 1684)."""
        eighth = self.of // 8
        return self.at < eighth or self.at >= 7 * self.of // 8 or (self.at - eighth) % 3 == 2

    def first(self, part: int) -> bool:
        """Whether it is in the first of `part` equal parts."""
        return self.at < self.of // part

    @property
    def falcon(self) -> bool:
        return self.facts.architecture == "falcon"


_Rule = Callable[[_Place], str]  # the type, "" for the mix's base

_VALUE: Mapping[str, _Rule] = {
    "Q2_K": lambda p: "Q4_K" if p.facts.shared >= 4 else "Q3_K",
    "Q3_K_M": lambda p: "Q5_K" if p.at < 2 else "Q4_K",
    "Q3_K_L": lambda p: "Q5_K",
    "IQ4_NL": lambda p: "Q5_K" if p.facts.shared >= 4 else "",
    "IQ4_XS": lambda p: "Q5_K" if p.facts.shared >= 4 else "",
    "Q4_K_S": lambda p: "Q5_K" if p.at < 4 else "",
    "Q4_K_M": lambda p: "Q6_K" if p.more else "",
    "Q5_K_M": lambda p: "Q6_K" if p.more else "",
}
_DOWN: Mapping[str, _Rule] = {
    "Q2_K": lambda p: "Q3_K",
    "Q3_K_M": lambda p: "Q5_K" if p.first(16) else "Q4_K",
    "Q3_K_L": lambda p: "Q5_K",
    "IQ4_NL": lambda p: "Q5_K" if p.first(8) and not p.importance else "",
    "IQ4_XS": lambda p: "Q5_K" if p.first(8) and not p.importance else "",
    "Q4_0": lambda p: "Q4_1" if p.first(8) and p.importance else "",
    "Q5_0": lambda p: "Q5_1" if p.first(8) and p.importance else "",
    "Q4_K_S": lambda p: "Q5_K" if p.first(8) else "",
    "Q4_K_M": lambda p: "Q6_K" if p.more else "",
    "Q5_K_M": lambda p: "Q6_K" if p.more else "",
}
_DOWN_FALCON: Mapping[str, _Rule] = {
    **_DOWN,
    "Q3_K_M": lambda p: "Q5_K" if p.first(16) else "Q4_K" if p.more else "",
    "Q3_K_L": lambda p: "Q4_K",
    "Q4_K_S": lambda p: "",
    "Q4_K_M": lambda p: "Q6_K" if p.first(16) else "Q5_K" if p.more else "",
}
_MIXED: Mapping[str, str] = {"Q2_K": "Q3_K", "Q3_K_M": "Q4_K", "Q3_K_L": "Q5_K"}
_MIXED_OF_EIGHT = dict.fromkeys(("Q2_K", "Q3_K_S", "Q3_K_M", "IQ4_NL", "Q4_K_S", "Q4_K_M", "IQ4_XS"), "Q5_K")


def _value(mix: Mix, place: _Place) -> str:
    kind = _VALUE.get(mix.name, _nothing)(place) or mix.base
    if place.facts.large and kind in ("Q3_K", "Q4_K"):
        kind = "Q5_K"
    return "Q8_0" if place.facts.experts == 8 else kind


def _nothing(place: _Place) -> str:
    return ""


def _mixed(mix: Mix, place: _Place) -> str:
    if place.falcon:
        return "Q4_K" if mix.name == "Q3_K_L" else mix.base
    return (_MIXED_OF_EIGHT if place.facts.experts == 8 else _MIXED).get(mix.name, mix.base)


def _down(mix: Mix, place: _Place) -> str:
    return (_DOWN_FALCON if place.falcon else _DOWN).get(mix.name, _nothing)(place) or mix.base


def _key(mix: Mix, place: _Place) -> str:
    return "Q8_0" if place.facts.experts == 8 else mix.base


_BY_ROLE: Mapping[str, Callable[[Mix, _Place], str]] = {"value": _value, "mixed": _mixed, "down": _down, "key": _key}


class _Counter:
    """Where each tensor is among its like. Tensors come in llama.cpp's order."""

    def __init__(self, facts: Facts, shapes: Sequence[Shape], importance: bool) -> None:
        self._facts, self._importance = facts, importance
        self._of = {"value": sum(role(shape.name) == "value" for shape in shapes), "down": facts.layers}
        self._seen = {"value": 0, "down": 0}

    def place(self, name: str, what: str) -> _Place:
        at = self._seen.get(what, 0)
        if what in self._seen:
            self._seen[what] += 1
        of = self._of.get(what, 0)
        if what == "down" and self._facts.experts > 1:  # those of experts do not come in the layers' order: the name tells
            at = order(name)[0]
            if not 0 <= at < of:
                raise MixError(f"The tensor {name!r} is of none of the model's {of} layers.")
        return _Place(at, of, self._facts, self._importance)


def _output(mix: Mix, shape: Shape, facts: Facts) -> Choice:
    """The output matrix, or the embeddings where they are the output too: better than the rest."""
    better = "Q8_0" if mix.base == "Q8_0" or facts.architecture == "falcon" else "Q6_K"
    if not fits(mix.base, shape.dims[0]):
        return Choice(shape.name, "Q8_0", better if better != "Q8_0" else "")
    return Choice(shape.name, better)


def _fitting(choice: Choice, columns: int) -> Choice:
    """The same, or what llama.cpp falls back to where rows of `columns` weights cannot take it."""
    kind = choice.kind
    if fits(kind, columns):
        return choice
    narrower = _NARROWER.get(kind, "F16")  # a type with blocks of 32 has nothing narrower to give way to
    return Choice(choice.name, narrower if fits(narrower, columns) else "F16", choice.wanted or kind)


def choose(name: str, facts: Facts, shapes: Iterable[Shape], *, importance: bool = False) -> list[Choice]:
    """What each tensor becomes in the mix `name` ("Q4_K_M"), in llama.cpp's order of tensors.

    `importance`: an importance matrix will be used, which changes some choices. Raises `MixError`.
    """
    mix = MIXES.get(name)
    if mix is None:
        raise MixError(f"{name!r} is not a kind that can be made; choose one of {', '.join(MIXES)}.")
    ordered = sorted(shapes, key=lambda shape: order(shape.name))
    counter = _Counter(facts, ordered, importance)
    tied = not any(shape.name == "output.weight" for shape in ordered)
    guarded = _NEVER_BELOW_Q8_IN.get(facts.architecture, ())

    def one(shape: Shape) -> Choice:
        what = role(shape.name)
        if keeps(shape, facts.architecture):
            return Choice(shape.name, shape.kind)
        if any(part in shape.name for part in guarded):
            return _fitting(Choice(shape.name, "Q8_0"), shape.dims[0])
        if what == "output" or (tied and what == "embedding"):
            return _fitting(_output(mix, shape, facts), shape.dims[0])
        made = _BY_ROLE.get(what)
        kind = made(mix, counter.place(shape.name, what)) if made else mix.base
        return _fitting(Choice(shape.name, kind), shape.dims[0])

    return [one(shape) for shape in ordered]
