"""Cards of other architectures, and of headers that somebody made up."""

from __future__ import annotations

import math

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.engines import gguf
from quant import builtin, fit_memory
from quant.fit_card import Card, Layer, card, layers
from quant.fit_memory import Setup, predict
from quant.tensors import Tensor, load

BUILTIN = load(builtin.path())


def meta(arch: str, blocks: int = 4, **values: gguf.Value) -> gguf.Meta:
    """The header of a model of `arch`; `values` without the architecture's name, dots as double underscores."""
    named = {f"{arch}.{key.replace('__', '.')}": value for key, value in values.items()}
    return msgspec.structs.replace(BUILTIN.meta, architecture=arch, blocks=blocks, values=named)


def test_grouped_heads_and_widths_of_their_own() -> None:
    found = layers(meta("llama", attention__head_count=8, attention__head_count_kv=2, attention__key_length=96, attention__value_length=64))
    assert found == (Layer(192, 128),) * 4
    assert layers(meta("llama", attention__head_count=4)) == (Layer(256, 256),) * 4  # every head has its own
    counts: list[int | float | bool] = [1, 2, 0, 4]
    assert [each.key for each in layers(meta("llama", attention__head_count=4, attention__head_count_kv=counts))] == [64, 128, 0, 256]


def test_windows_of_architectures_that_llama_cpp_keeps_apart() -> None:
    found = layers(meta("gemma3", 12, attention__head_count=4, attention__sliding_window=512))
    assert [each.window for each in found] == [512, 512, 512, 512, 512, 0] * 2
    assert not any(each.window for each in layers(meta("mistral3", attention__head_count=4, attention__sliding_window=4096)))
    pattern: list[int | float | bool] = [True, False, True, False]
    found = layers(meta("new", attention__head_count=4, attention__sliding_window=128, attention__sliding_window_pattern=pattern))
    assert [each.window for each in found] == [128, 0, 128, 0]


def test_one_latent_vector_for_all_heads() -> None:
    values = {"head_count": 16, "head_count_kv": 1, "key_length": 576, "value_length": 512, "kv_lora_rank": 512, "key_length_mla": 192}
    found = layers(meta("deepseek2", **{f"attention__{key}": value for key, value in values.items()}))
    assert found == (Layer(576, 0),) * 4


def test_recurrent_layers_keep_a_state() -> None:
    ssm = {"ssm__conv_kernel": 4, "ssm__inner_size": 1024, "ssm__state_size": 16, "ssm__group_count": 1}
    found = layers(meta("qwen3next", 4, attention__head_count=4, full_attention_interval=4, **ssm))
    assert [bool(each.state) for each in found] == [True, True, True, False]
    assert found[0].state == (3 * (1024 + 32) + 16 * 1024) * 4
    small = predict(BUILTIN_CARD, Setup(512, 2))
    hybrid = predict(msgspec.structs.replace(BUILTIN_CARD, layers=found), Setup(512, 2))
    assert hybrid.cache == 2 * 3 * found[0].state + 512 * 2 * 512 * 2
    assert hybrid.weights == small.weights


BUILTIN_CARD = card(BUILTIN.meta, BUILTIN.tensors, BUILTIN.meta.bytes)

KEYS = (
    "attention.head_count", "attention.head_count_kv", "attention.key_length", "attention.value_length", "attention.kv_lora_rank",
    "attention.key_length_mla", "attention.sliding_window", "attention.sliding_window_pattern", "ssm.conv_kernel", "ssm.inner_size",
    "ssm.state_size", "ssm.group_count", "full_attention_interval", "expert_count", "expert_used_count", "expert_feed_forward_length",
    "feed_forward_length",
)  # fmt: skip
NUMBERS = st.one_of(st.integers(-(1 << 63), 1 << 64), st.floats(), st.booleans(), st.integers(0, 4096))
VALUES = st.one_of(NUMBERS, st.lists(NUMBERS, max_size=6), st.text(max_size=3), st.none())


@settings(max_examples=150, deadline=None)
@given(
    arch=st.sampled_from(("llama", "gemma3", "qwen3next", "deepseek2", "")), blocks=st.integers(0, 6),
    values=st.dictionaries(st.sampled_from(KEYS), VALUES), width=st.integers(0, 1 << 20),
)  # fmt: skip
def test_no_header_makes_it_fail(arch: str, blocks: int, values: dict[str, gguf.Value], width: int) -> None:
    made = meta(arch, blocks)
    made = msgspec.structs.replace(made, embedding=width, values={f"{arch}.{key}": value for key, value in values.items()})
    found: Card = card(made, BUILTIN.tensors, made.bytes)
    said = predict(found, Setup(512, 2))
    assert len(found.layers) == blocks and all(getattr(said, name) >= 0 for name in fit_memory.SUMMED)
    assert 0 < found.share <= 1 and math.isfinite(found.read_bytes)


@pytest.mark.parametrize(("name", "dims", "place"), [
    ("token_embd.weight", (256, 1000), "embedding"), ("output.weight", (256, 1000), "matrix"),
    ("blk.0.ffn_up.weight", (256, 512), "matrix"), ("blk.0.ffn_up_exps.weight", (256, 512, 8), "experts"),
    ("blk.0.attn_norm.weight", (256,), "other"), ("blk.0.attn_q.bias", (256,), "other"),
])  # fmt: skip
def test_what_a_tensor_is_for(name: str, dims: tuple[int, ...], place: str) -> None:
    tensor = Tensor(name, dims, "F16", 0, 2 * math.prod(dims))
    assert [each.place for each in card(BUILTIN.meta, [tensor], 0).matrices] == [place]
