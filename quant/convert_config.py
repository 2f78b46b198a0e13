"""What a model's `config.json` says, checked and in llama.cpp's terms: sizes, rotary positions and how they are stretched. Pure.

Rotary scaling as in transformers' `modeling_rope_utils` (both the old `rope_scaling` and the `rope_parameters` of version 5): linear (Chen
et al. 2023), YaRN (Peng et al. 2023, arXiv:2309.00071) and Llama 3's by wavelength.
"""

from __future__ import annotations

import math

import msgspec

from quant.convert_source import Settings, Unsupported

_ROPE_KEYS = frozenset(
    {
        "rope_type", "type", "rope_theta", "factor", "original_max_position_embeddings", "low_freq_factor", "high_freq_factor",
        "attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate", "partial_rotary_factor",
    }
)  # fmt: skip
_ALTERING = (
    "clip_qkv", "attn_logit_softcapping", "final_logit_softcapping", "no_rope_layers", "logit_scale", "logits_scaling",
    "embedding_multiplier", "residual_multiplier", "attention_multiplier", "num_local_experts", "num_experts", "use_qk_norm",
)  # fmt: skip
_KINDS = {"default": "", "": "", "linear": "linear", "yarn": "yarn", "llama3": "llama3"}


class Rope(msgspec.Struct, frozen=True):
    """Rotary positions. `kind`: "", "linear", "yarn" or "llama3". `original`: tokens of context before they were stretched. `attention`: by
    what YaRN's own scaling of attention is multiplied. `divisors`: by what Llama 3's scaling divides the frequency of each pair."""

    theta: float
    kind: str = ""
    factor: float = 1.0
    original: int = 0
    attention: float = 1.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    divisors: tuple[float, ...] = ()


class Shape(msgspec.Struct, frozen=True):
    """A model's sizes, in weights, layers, heads, tokens. `window`: tokens of sliding attention, 0 for none."""

    family: str
    width: int
    layers: int
    heads: int
    kv_heads: int
    head: int
    inner: int
    vocabulary: int
    context: int
    epsilon: float
    tied: bool
    window: int
    rope: Rope


def family(config: Settings) -> str:
    """The class that transformers makes of the model ("LlamaForCausalLM"). Raises `Unsupported`."""
    found = config.values.get("architectures")
    if not isinstance(found, list) or not found or not isinstance(found[0], str):
        raise Unsupported(f"{config.place} does not say which architecture the model has (architectures).")
    return found[0]


def shape(config: Settings) -> Shape:
    """The sizes. Raises `ConvertError`, and `Unsupported` for what llama.cpp computes differently."""
    _refused(config)
    _plain(config)
    width, heads = config.whole("hidden_size", 1, 1 << 20), config.whole("num_attention_heads", 1, 1 << 14)
    head = config.whole("head_dim", 2, 1 << 16, width // heads)
    context = config.whole("max_position_embeddings", 1, 1 << 27)
    made = Shape(
        family=family(config), width=width, layers=config.whole("num_hidden_layers", 1, 4096), heads=heads,
        kv_heads=config.whole("num_key_value_heads", 1, heads, heads), head=head, inner=config.whole("intermediate_size", 1, 1 << 24),
        vocabulary=config.whole("vocab_size", 1, 1 << 24), context=context, epsilon=config.real("rms_norm_eps", 1e-12, 1.0),
        tied=config.flag("tie_word_embeddings", False), window=_window(config), rope=rope(config, head, context),
    )  # fmt: skip
    if head % 2 or heads % made.kv_heads:
        raise Unsupported(f"{config.place} says {heads} heads of {head} values, {made.kv_heads} of them for keys; llama.cpp has no such.")
    if made.rope.kind == "yarn":  # what the model was stretched to, which some configurations leave out of their own context
        return msgspec.structs.replace(made, context=max(context, round(made.rope.factor * made.rope.original)))
    return made


def _refused(config: Settings) -> None:
    if config.has("quantization_config"):
        method = str(config.part("quantization_config").values.get("quant_method", "an unknown method"))[:40]
        raise Unsupported(f"The model is quantised already (by {method}); convert the one of 16 bits that it was made of.")
    if (act := config.word("hidden_act", "silu")) != "silu":
        raise Unsupported(f"{config.place} says hidden_act: {act[:40]!r}; only silu is converted here.")
    if config.real("partial_rotary_factor", 0, 1, 1.0) != 1:
        raise Unsupported(f"{config.place} rotates only a part of each head (partial_rotary_factor), which is not converted here.")


def _plain(config: Settings) -> None:
    """Refuses what changes the computation in ways that none of these architectures of llama.cpp has."""
    for key in _ALTERING:
        if config.values.get(key) not in (None, False, 1, 1.0, [], {}):
            raise Unsupported(f"{config.place} says {key}, which llama.cpp's architectures for these families do not know.")
    layers = config.values.get("layer_types")
    if config.has("sliding_window") and isinstance(layers, list) and len({str(layer) for layer in layers}) > 1:
        raise Unsupported(f"{config.place} gives its layers different kinds of attention (layer_types), which is not converted here.")


def _window(config: Settings) -> int:
    used = config.flag("use_sliding_window", True)
    return config.whole("sliding_window", 0, 1 << 27, 0) if used else 0


def rope(config: Settings, head: int, context: int) -> Rope:
    """The rotary positions. `head`: values of a head; `context`: tokens that the configuration states."""
    found = config.part("rope_parameters" if config.has("rope_parameters") else "rope_scaling")
    if unknown := sorted(set(found.values) - _ROPE_KEYS):
        raise Unsupported(f"{config.place} scales its rotary positions by {unknown[0]!r}, which is not known here.")
    said = found.word("rope_type", found.word("type", "default"))
    if said not in _KINDS:
        raise Unsupported(f"{config.place} scales its rotary positions by the method {said[:40]!r}, which is not known here.")
    if found.real("partial_rotary_factor", 0, 1, 1.0) != 1 or not found.flag("truncate", True):
        raise Unsupported(f"{config.place} scales its rotary positions in a way that llama.cpp has not (partial_rotary_factor, truncate).")
    theta = found.real("rope_theta", 1, 1e15, config.real("rope_theta", 1, 1e15, 10000.0))
    kind = _KINDS[said]
    if not kind:
        return Rope(theta)
    if kind == "linear":
        return Rope(theta, kind, found.real("factor", 1e-6, 1e6))
    stated = config.whole("original_max_position_embeddings", 1, 1 << 27, context)
    original = found.whole("original_max_position_embeddings", 1, 1 << 27, stated)
    if kind == "yarn":
        return _yarn(found, theta, original, context)
    return _llama3(found, theta, original, head)


def _yarn(found: Settings, theta: float, original: int, context: int) -> Rope:
    factor = found.real("factor", 1.0, 1e6, context / original)

    def scale(by: float) -> float:
        return 0.1 * by * math.log(factor) + 1.0

    first, second = found.real("mscale", 0, 1e6, 0.0), found.real("mscale_all_dim", 0, 1e6, 0.0)
    default = scale(first) / scale(second) if first and second else scale(1.0)
    attention = found.real("attention_factor", 1e-6, 1e6, default) / scale(1.0)  # llama.cpp multiplies by the paper's own
    fast, slow = (found.real(key, 0, 1e6, usual) or usual for key, usual in (("beta_fast", 32.0), ("beta_slow", 1.0)))
    return Rope(theta, "yarn", factor, original, attention, fast, slow)


def _llama3(found: Settings, theta: float, original: int, head: int) -> Rope:
    factor = found.real("factor", 1e-6, 1e6)
    low, high = found.real("low_freq_factor", 1e-6, 1e6), found.real("high_freq_factor", 1e-6, 1e6)
    if low >= high:
        raise Unsupported(f"{found.place} says low_freq_factor {low:g} and high_freq_factor {high:g}; the second must be the larger.")

    def divisor(pair: int) -> float:
        length = 2 * math.pi * math.pow(theta, 2 * pair / head)  # tokens of a full turn
        if length < original / high:
            return 1.0
        if length > original / low:
            return factor
        smooth = (original / length - low) / (high - low)
        return 1 / ((1 - smooth) / factor + smooth)

    return Rope(theta, "llama3", factor, original, divisors=tuple(map(divisor, range(head // 2))))
