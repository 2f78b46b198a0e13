"""Tiny models of every family, made on the spot as transformers stores them: configuration, tokenizer, safetensors of random weights.

The weights come from seeded bytes by whole-number arithmetic and can be written exactly in every type, so that what a conversion to 16 bits
loses is nothing and what differs in the answers is the computation.
"""

from __future__ import annotations

import json
import random
import struct
from pathlib import Path
from typing import Any

import numpy as np

from tests.quant import convert_tokenizers

TEMPLATE = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}<|im_start|>assistant\n"
_SIZES = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 96}
_COMMON = {"max_position_embeddings": 256, "rms_norm_eps": 1e-5, "hidden_act": "silu", "tie_word_embeddings": False}
_LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}
_LINEAR = {"type": "linear", "factor": 4.0}
_OFF = {"use_sliding_window": False, "sliding_window": 128}
_YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
# name -> (tokenizer, type of the weights, family, settings)
MODELS: dict[str, tuple[str, str, str, dict[str, Any]]] = {
    "llama3": ("llama3", "BF16", "llama", {"rope_theta": 500000.0, "rope_scaling": _LLAMA3}),
    "llama3-tied": ("llama3", "F16", "llama", {"rope_theta": 10000.0, "tie_word_embeddings": True, "num_key_value_heads": 4}),
    "llama-linear": ("smollm", "F32", "llama", {"rope_scaling": _LINEAR, "attention_bias": True, "mlp_bias": True}),
    "llama-yarn": ("gpt2", "F32", "llama", {"rope_theta": 10000.0, "rope_scaling": _YARN | {"attention_factor": 1.5, "beta_fast": 16}}),
    "mistral": ("first", "BF16", "mistral", {"rope_theta": 10000.0, "sliding_window": None}),
    "mistral-heads": ("tekken", "BF16", "mistral", {"rope_theta": 1e6, "head_dim": 32, "sliding_window": None}),
    "qwen2": ("qwen2", "BF16", "qwen2", {"rope_theta": 1e6, "tie_word_embeddings": True, **_OFF}),
    "qwen2-yarn": ("qwen2", "BF16", "qwen2", {"rope_theta": 1e6, "rope_scaling": _YARN, "use_sliding_window": False}),
    "qwen3": ("qwen2", "BF16", "qwen3", {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}, "head_dim": 32}),
    "olmo2": ("olmo2", "F32", "olmo2", {"rope_theta": 500000.0}),
    "olmo2-tied": ("olmo2", "F32", "olmo2", {"rope_theta": 500000.0, "tie_word_embeddings": True}),
}  # fmt: skip
_CLASSES = {"llama": "LlamaForCausalLM", "mistral": "MistralForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}
PADDING = 5  # rows of the embedding without a token


def config(name: str) -> dict[str, Any]:
    """`config.json` of a model."""
    kind, _, family, more = MODELS[name]
    tokenizer = convert_tokenizers.made(kind)
    ends = tokenizer["added_tokens"][2 if kind == "first" else 1]["id"]
    return {
        "architectures": [_CLASSES.get(family, "Olmo2ForCausalLM")], "model_type": family, **_SIZES, **_COMMON,
        "vocab_size": convert_tokenizers.size(tokenizer) + PADDING, "bos_token_id": tokenizer["added_tokens"][0]["id"],
        "eos_token_id": ends, "pad_token_id": None, **more,
    }  # fmt: skip


def folder(path: Path, name: str, *, seed: int = 11, shards: int = 1) -> Path:
    """Writes the model `name` to the folder `path`."""
    path.mkdir(parents=True, exist_ok=True)
    settings, kind = config(name), MODELS[name][0]
    tokenizer = convert_tokenizers.made(kind)
    _json(path / "config.json", settings)
    _json(path / "tokenizer.json", tokenizer)
    names = {entry["id"]: entry["content"] for entry in tokenizer["added_tokens"]}
    told = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": names[settings["eos_token_id"]], "chat_template": TEMPLATE}
    if kind in ("llama3", "tekken", "first"):
        told["bos_token"] = names[1 if kind == "first" else settings["bos_token_id"]]
    _json(path / "tokenizer_config.json", told)
    tensors(path, weights(settings, seed), MODELS[name][1], shards)
    return path


def _json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")


def _shapes(settings: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Every tensor of transformers' model, by its name."""
    width, inner, family = settings["hidden_size"], settings["intermediate_size"], settings["model_type"]
    head = settings.get("head_dim") or width // settings["num_attention_heads"]
    query, key = settings["num_attention_heads"] * head, settings["num_key_value_heads"] * head
    made: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (settings["vocab_size"], width), "model.norm.weight": (width,)}
    made |= {} if settings["tie_word_embeddings"] else {"lm_head.weight": (settings["vocab_size"], width)}
    attention = {"q_proj": (query, width), "k_proj": (key, width), "v_proj": (key, width), "o_proj": (width, query)}
    mlp = {"gate_proj": (inner, width), "up_proj": (inner, width), "down_proj": (width, inner)}
    biased = ["q_proj", "k_proj", "v_proj"] if family == "qwen2" else list(attention) if settings.get("attention_bias") else []
    biased += list(mlp) if settings.get("mlp_bias") else []
    norms = ("post_attention_layernorm", "post_feedforward_layernorm" if family == "olmo2" else "input_layernorm")
    normed = {"qwen3": (head, head), "olmo2": (query, key)}.get(family)
    for layer in range(settings["num_hidden_layers"]):
        base = f"model.layers.{layer}."
        made |= {f"{base}{norm}.weight": (width,) for norm in norms}
        made |= {f"{base}self_attn.{letter}_norm.weight": (size,) for letter, size in zip("qk", normed or (), strict=False)}
        for part, shape in (attention | mlp).items():
            where = "self_attn" if part in attention else "mlp"
            made |= {f"{base}{where}.{part}.weight": shape}
            made |= {f"{base}{where}.{part}.bias": shape[:1]} if part in biased else {}
    return made


def weights(settings: dict[str, Any], seed: int) -> dict[str, Any]:
    """Random 32-bit floats that BF16 and F16 hold exactly: Q and K large, so that positions and their order matter."""
    made = {}
    for at, (name, shape) in enumerate(_shapes(settings).items()):
        count = int(np.prod(shape))
        raw = np.frombuffer(random.Random(seed * 1000 + at).randbytes(4 * count), np.int8).reshape(count, 4).astype(np.int32).sum(axis=1)
        step = raw.astype(np.int32) >> 2  # seven bits and a sign: eight significant bits at most
        scale = np.float32(1 / 64 if "norm" in name else 1 / 256)
        values = step.astype(np.float32) * scale
        made[name] = (values / np.float32(2) + np.float32(1) if "norm" in name else values).reshape(shape)
    return made


def raw(values: Any, kind: str) -> bytes:
    """32-bit floats as safetensors stores them in a type."""
    if kind == "F32":
        return bytes(values.astype("<f4").tobytes())
    if kind == "F16":
        return bytes(values.astype("<f2").tobytes())
    bits = values.astype("<f4").view("<u4")
    assert not (bits & 0xFFFF).any(), "BF16 must hold it exactly"
    return bytes((bits >> 16).astype("<u2").tobytes())


def tensors(path: Path, made: dict[str, Any], kind: str, shards: int = 1) -> None:
    """Writes the weights, in several files with an index where `shards` is more than one."""
    names = sorted(made)
    groups = [names[at::shards] for at in range(shards)]
    files = ["model.safetensors"] if shards == 1 else [f"model-{at + 1:05}-of-{shards:05}.safetensors" for at in range(shards)]
    for file, group in zip(files, groups, strict=True):
        stored = {name: (kind, list(made[name].shape), raw(made[name], kind)) for name in group}
        (path / file).write_bytes(safetensors(stored))
    if shards > 1:
        places = {name: file for file, group in zip(files, groups, strict=True) for name in group}
        _json(path / "model.safetensors.index.json", {"metadata": {}, "weight_map": places})


def safetensors(stored: dict[str, tuple[str, list[int], bytes]]) -> bytes:
    """A safetensors file of (type, shape, bytes) by name."""
    head: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, (kind, shape, data) in stored.items():
        head[name] = {"dtype": kind, "shape": shape, "data_offsets": [at, at + len(data)]}
        at += len(data)
    text = json.dumps(head).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + b"".join(data for _, _, data in stored.values())


def prompts(size: int, count: int = 3, length: int = 48) -> list[list[int]]:
    """Token numbers below `size` for a model to read."""
    source = random.Random(5)
    return [[source.randrange(size) for _ in range(length)] for _ in range(count)]
