"""The types of tensors: ours against what llama.cpp gave the same models (`mixes_golden.py`), and what is said of rows that do not fit."""

from __future__ import annotations

import json
from typing import Any

import pytest

from quant.mixes import MIXES, Facts, MixError, Shape, choose, keeps, role
from tests.quant.mixes_golden import FILE, MODELS, Model, shapes

GOLDEN: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))["models"]


def shaped(model: Model) -> list[Shape]:
    return [Shape(*each) for each in shapes(model)]


def test_every_model_and_mix_was_asked() -> None:
    assert set(GOLDEN) == set(MODELS)
    assert all(set(answer["mixes"]) == set(MIXES) and all(answer["mixes"].values()) for answer in GOLDEN.values())


@pytest.mark.parametrize("mix", MIXES)
@pytest.mark.parametrize("name", MODELS)
def test_every_tensor_gets_what_llama_cpp_gives_it(name: str, mix: str) -> None:
    model, answer = MODELS[name], GOLDEN[name]
    made = choose(mix, model.facts, shaped(model), importance=model.importance)
    assert [choice.name for choice in made][:12] == answer["order"]
    expected = [answer["kinds"][ord(letter) - ord("a")] for letter in answer["mixes"][mix]]
    assert [(choice.name, choice.kind) for choice in made] == [(choice.name, kind) for choice, kind in zip(made, expected, strict=True)]


@pytest.mark.parametrize("mix", MIXES)
def test_the_order_in_which_tensors_come_does_not_matter(mix: str) -> None:
    model = MODELS["llama-8b"]
    assert choose(mix, model.facts, reversed(shaped(model))) == choose(mix, model.facts, shaped(model))


def test_rows_that_do_not_fit_are_told() -> None:
    made = {choice.name: choice for choice in choose("Q4_K_M", MODELS["llama-width-96"].facts, shaped(MODELS["llama-width-96"]))}
    assert (made["blk.0.attn_q.weight"].kind, made["blk.0.attn_q.weight"].wanted) == ("Q5_0", "Q4_K")
    assert (made["blk.0.attn_v.weight"].kind, made["blk.0.attn_v.weight"].wanted) == ("Q8_0", "Q6_K")
    assert (made["output.weight"].kind, made["output.weight"].wanted) == ("Q8_0", "Q6_K")
    assert (made["blk.0.attn_norm.weight"].kind, made["blk.0.attn_norm.weight"].wanted) == ("F32", "")


def test_rows_that_fit_no_block_stay_at_sixteen_bits_and_that_is_told() -> None:
    made = {choice.name: choice for choice in choose("Q8_0", MODELS["llama-inner-80"].facts, shaped(MODELS["llama-inner-80"]))}
    assert (made["blk.0.ffn_down.weight"].kind, made["blk.0.ffn_down.weight"].wanted) == ("F16", "Q8_0")


def test_where_everything_fits_nothing_is_told() -> None:
    for mix in MIXES:
        assert not [choice for choice in choose(mix, MODELS["llama-8b"].facts, shaped(MODELS["llama-8b"])) if choice.wanted]


def test_an_unknown_mix_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(MixError, match=r"'Q9_K' is not a kind that can be made; choose one of Q8_0, .*Q2_K\."):
        choose("Q9_K", Facts("llama", 1, 1, 1), [])


def test_an_experts_tensor_of_no_layer_is_refused() -> None:
    with pytest.raises(MixError, match=r"'blk\.7\.ffn_down_exps\.weight' is of none of the model's 2 layers"):
        choose("Q4_K_M", Facts("llama", 2, 4, 2, 4), [Shape("blk.7.ffn_down_exps.weight", (256, 2, 4), "F16")])


@pytest.mark.parametrize(
    ("name", "dims", "kept"),
    [
        ("blk.0.attn_norm.weight", (256,), True), ("blk.0.attn_q.bias", (256,), True), ("blk.0.attn_q.weight", (256, 4), False),
        ("blk.0.attn_q_norm.weight", (64, 4), True), ("blk.0.ffn_gate_inp.weight", (256, 8), True),
        ("position_embd.weight", (256, 4), True),
        ("blk.0.ffn_down.weight", (256, 1), True), ("blk.0.ssm_conv1d.weight", (4, 256), True), ("token_embd.weight", (256, 4), False),
        ("rope_freqs", (32, 2), True),
    ],
)  # fmt: skip
def test_what_stays(name: str, dims: tuple[int, ...], kept: bool) -> None:
    assert keeps(Shape(name, dims, "F16"), "llama") is kept


def test_what_one_architecture_keeps_another_does_not() -> None:
    shape = Shape("blk.0.attn_k_b.weight", (256, 4), "F16")
    assert keeps(shape, "glm5-next") and not keeps(shape, "deepseek2")
    guarded = choose("Q2_K", Facts("glm5-next", 1, 4, 4), [Shape("blk.0.attn_q_a.weight", (256, 4), "F16")])
    assert guarded[0].kind == "Q8_0"


def test_roles() -> None:
    names = ["output.weight", "token_embd.weight", "blk.3.attn_qkv.weight", "blk.3.attn_k.weight", "blk.1.ffn_down_exps.weight", "blk.0.x"]
    assert [role(name) for name in names] == ["output", "embedding", "value", "key", "down", ""]
