"""Conversions as a whole: what is written and told, what is refused and why, in one sentence, and that nothing is left behind."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from backends.engines import gguf as ours
from quant import convert_llamacpp
from quant.convert import convert
from quant.convert_source import ConvertError, Unsupported
from tests.quant import convert_made

Change = Callable[[dict[str, Any]], Any]


def model(folder: Path, name: str = "qwen2", /, **changes: Change) -> Path:
    """A model on disk, some of its JSON files (config, tokenizer, tokenizer_config, generation_config) changed."""
    convert_made.folder(folder, name)
    for file, change in changes.items():
        path = folder / f"{file}.json"
        value = json.loads(path.read_text()) if path.exists() else {}
        change(value)
        path.write_text(json.dumps(value))
    return folder


def fields(path: str | Path) -> dict[str, Any]:
    return {key: field.contents() for key, field in gguf.GGUFReader(path).fields.items() if not key.startswith("GGUF.")}


def test_what_is_written_is_what_the_folder_says(tmp_path: Path) -> None:
    folder = model(tmp_path / "m", "llama3")
    (folder / "README.md").write_text("---\nlicense: other\nlicense_name: mine\nlicense_link: LICENSE\n---\n# Hello")
    (folder / "chat_template.jinja").write_text("{{ 'its own file' }}")
    report = convert(folder, tmp_path / "x.gguf", origin="Me/Little-Llama", threads=1)
    found = fields(report.target)
    assert (report.kind, report.maker, report.architecture, report.name) == ("BF16", "own", "llama", "Little-Llama")
    assert report.target_bytes == (tmp_path / "x.gguf").stat().st_size and report.kinds == {"BF16": 16, "F32": 6} and report.notes == ()
    assert found["general.license"] == "other" and found["general.license.name"] == "mine" and found["general.license.link"] == "LICENSE"
    assert found["general.source.repo_url"] == "https://huggingface.co/Me/Little-Llama" and found["general.file_type"] == 32
    assert found["tokenizer.chat_template"] == "{{ 'its own file' }}" and found["tokenizer.ggml.pre"] == "llama-bpe"
    assert found["tokenizer.ggml.tokens"][-convert_made.PADDING :] == [f"[PAD{at}]" for at in range(382, 387)]
    assert found["tokenizer.ggml.token_type"][-8:] == [3, 3, 4, 5, 5, 5, 5, 5] and found["tokenizer.ggml.add_bos_token"] is True
    assert len(found["rope_freqs.weight"] if "rope_freqs.weight" in found else ()) == 0  # a tensor, no key
    assert ours.read(report.target).chat_template


def test_weights_are_the_models_own(tmp_path: Path) -> None:
    name = "llama-linear"
    folder = model(tmp_path / "m", name)
    plain = convert_made.weights(convert_made.config(name), 11)
    stored = {tensor.name: tensor for tensor in gguf.GGUFReader(convert(folder, tmp_path / "x.gguf", "f32").target).tensors}
    assert {tensor.tensor_type.name for tensor in stored.values()} == {"F32"}
    for theirs, mine in (("model.embed_tokens", "token_embd"), ("lm_head", "output"), ("model.layers.1.mlp.down_proj", "blk.1.ffn_down")):
        assert np.array_equal(stored[f"{mine}.weight"].data, plain[f"{theirs}.weight"])
    query = plain["model.layers.0.self_attn.q_proj.weight"].reshape(4, 2, 8, 64).swapaxes(1, 2).reshape(64, 64)
    assert np.array_equal(stored["blk.0.attn_q.weight"].data, query)
    bias = plain["model.layers.0.self_attn.k_proj.bias"].reshape(2, 2, 8).swapaxes(1, 2).reshape(32)
    assert np.array_equal(stored["blk.0.attn_k.bias"].data, bias)


def test_rows_that_no_block_fits_are_told(tmp_path: Path) -> None:
    folder = model(tmp_path / "m", config=lambda value: value.update(intermediate_size=80))
    settings = convert_made.config("qwen2") | {"intermediate_size": 80}
    convert_made.tensors(folder, convert_made.weights(settings, 1), "BF16")
    report = convert(folder, tmp_path / "x.gguf", "Q8_0")
    assert report.fallbacks == ("blk.0.ffn_down.weight", "blk.1.ffn_down.weight")
    assert {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(report.target).tensors}["blk.0.ffn_down.weight"] == "F16"


def test_templates_and_ends(tmp_path: Path) -> None:
    templates = [{"name": "default", "template": "a"}, {"name": "tool_use", "template": "b"}]
    folder = model(
        tmp_path / "m", "llama3",
        tokenizer_config=lambda value: value.update(chat_template=templates, eos_token={"content": "<|eot_id|>"}, pad_token="<|eot_id|>"),
        generation_config=lambda value: value.update(eos_token_id=[380, 379]),
    )  # fmt: skip
    found = fields(convert(folder, tmp_path / "x.gguf").target)
    assert found["tokenizer.chat_template"] == "a" and found["tokenizer.chat_template.tool_use"] == "b"
    assert found["tokenizer.chat_templates"] == ["tool_use"]
    assert found["tokenizer.ggml.eos_token_id"] == 380 and found["tokenizer.ggml.eot_token_id"] == 379
    assert found["tokenizer.ggml.padding_token_id"] == 380 and found["tokenizer.ggml.bos_token_id"] == 378


def test_a_window_is_told(tmp_path: Path) -> None:
    folder = model(tmp_path / "m", "mistral", config=lambda value: value.update(sliding_window=64))
    report = convert(folder, tmp_path / "x.gguf")
    assert any("slides over the last 64 tokens" in note for note in report.notes)


def test_progress_goes_to_the_end_and_only_forward(tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    report = convert(model(tmp_path / "m"), tmp_path / "x.gguf", progress=lambda *step: seen.append(step))
    done = [step[1] for step in seen]
    assert done == sorted(done) and done[-1] == seen[-1][2] and {step[0] for step in seen} == {
        tensor.name for tensor in gguf.GGUFReader(report.target).tensors
    }  # fmt: skip


def test_an_interrupted_run_leaves_nothing(tmp_path: Path) -> None:
    def stop(name: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    folder = model(tmp_path / "m")
    with pytest.raises(KeyboardInterrupt):
        convert(folder, tmp_path / "x.gguf", progress=stop)
    assert os.listdir(tmp_path) == ["m"]


def _set(**values: Any) -> Change:
    return lambda value: value.update(values)


def _model(**values: Any) -> Change:
    return lambda value: value["model"].update(values)


_ROPE = {"rope_type": "yarn", "factor": 2.0}
UNSUPPORTED: dict[str, tuple[str, dict[str, Change], str]] = {
    "family": ("qwen2", {"config": _set(architectures=["GemmaForCausalLM"])}, "'GemmaForCausalLM' is none of those.*Llama, Mistral"),
    "no family": ("qwen2", {"config": _set(architectures=None)}, "does not say which architecture"),
    "quantised": ("qwen2", {"config": _set(quantization_config={"quant_method": "gptq"})}, r"quantised already \(by gptq\)"),
    "activation": ("qwen2", {"config": _set(hidden_act="gelu")}, "only silu"),
    "partial": ("qwen2", {"config": _set(partial_rotary_factor=0.5)}, "only a part of each head"),
    "rope": ("llama3", {"config": _set(rope_scaling={"rope_type": "longrope", "factor": 2.0})}, "'longrope', which is not known"),
    "dynamic": ("llama3", {"config": _set(rope_scaling={"type": "dynamic", "factor": 2.0})}, "'dynamic'"),
    "rope key": ("llama3", {"config": _set(rope_scaling=_ROPE | {"llama_4_scaling_beta": 1})}, "'llama_4_scaling_beta'"),
    "truncate": ("llama3", {"config": _set(rope_scaling=_ROPE | {"truncate": False})}, "truncate"),
    "frequencies": (
        "llama3", {"config": lambda value: value["rope_scaling"].update(low_freq_factor=4.0)}, "the second must be the larger",
    ),
    "experts": ("qwen2", {"config": _set(num_local_experts=8)}, "says num_local_experts"),
    "layers": (
        "mistral", {"config": _set(sliding_window=8, layer_types=["full_attention", "sliding_attention"])}, "different kinds of attention",
    ),
    "heads": ("qwen2", {"config": _set(head_dim=32)}, "takes only 64 / 4"),
    "odd heads": ("qwen2", {"config": _set(num_attention_heads=3, num_key_value_heads=2)}, "llama.cpp has no such"),
    "kind": ("qwen2", {"tokenizer": _model(type="Unigram")}, "'Unigram'; only BPE"),
    "rule": ("qwen2", {"tokenizer": _set(pre_tokenizer={"type": "Whitespace"})}, "splits words by a rule"),
    "merges first": ("qwen2", {"tokenizer": _model(ignore_merges=True)}, "splits words by a rule"),
    "normalizer": ("qwen2", {"tokenizer": _set(normalizer={"type": "Lowercase"})}, "changes texts beforehand"),
    "suffix": ("qwen2", {"tokenizer": _model(end_of_word_suffix="</w>")}, "end_of_word_suffix"),
    "processor": ("qwen2", {"tokenizer": _set(post_processor={"type": "RobertaProcessing"})}, "RobertaProcessing"),
    "spaces": ("mistral", {"tokenizer": _set(pre_tokenizer={"type": "Metaspace", "split": True})}, "treats spaces by a rule"),
    "order": ("mistral", {"tokenizer": lambda value: value["model"]["merges"].append(value["model"]["merges"][0])}, "in no order"),
    "missing merge": ("mistral", {"tokenizer": lambda value: value["model"]["merges"].pop(3)}, "would not merge"),
}  # fmt: skip


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_what_llama_cpp_may_know_is_refused_with_the_reason(tmp_path: Path, name: str) -> None:
    source, changes, said = UNSUPPORTED[name]
    with pytest.raises(Unsupported, match=said) as caught:
        convert(model(tmp_path / "m", source, **changes), tmp_path / "x.gguf", maker="own")
    assert "\n" not in str(caught.value) and os.listdir(tmp_path) == ["m"]


def _added(**values: Any) -> Change:
    return lambda value: value["added_tokens"][0].update(values)


BROKEN: dict[str, tuple[dict[str, Change], str]] = {
    "no size": ({"config": lambda value: value.pop("hidden_size")}, "does not say hidden_size"),
    "a text": ({"config": _set(hidden_size="64")}, "hidden_size: '64'; that must be a whole number"),
    "a truth": ({"config": _set(num_hidden_layers=True)}, "num_hidden_layers: True"),
    "many layers": ({"config": _set(num_hidden_layers=10**6)}, "from 1 to 4096"),
    "no layers": ({"config": _set(num_hidden_layers=0)}, "from 1 to 4096"),
    "endless": ({"config": _set(rms_norm_eps=float("inf"))}, "rms_norm_eps: inf; that must be finite"),
    "no number": ({"config": _set(rms_norm_eps=float("nan"))}, "rms_norm_eps: nan"),
    "theta": ({"config": _set(rope_theta=-1.0)}, "rope_theta: -1.0"),
    "a list": ({"config": _set(rope_scaling=[1])}, "rope_scaling: .*; that must be an object"),
    "tied": ({"config": _set(tie_word_embeddings="yes")}, "that must be true or false"),
    "another layer": ({"config": _set(num_hidden_layers=3)}, "has no tensor 'model.layers.2"),
    "another width": ({"config": _set(intermediate_size=97)}, "has the shape"),
    "fewer tokens": ({"config": _set(vocab_size=100)}, "has the shape"),
    "no merges": ({"tokenizer": _model(merges=[])}, "no merges"),
    "a merge of three": ({"tokenizer": _model(merges=[["a", "b", "c"]])}, "none of two parts"),
    "no list": ({"tokenizer": _set(added_tokens=[5])}, "no sound list of added_tokens"),
    "a large number": ({"tokenizer": _added(id=5000)}, "gives '<.endoftext.>' the number 5000"),
    "a negative number": ({"tokenizer": _added(id=-1)}, "id: -1"),
    "twice": ({"tokenizer": _added(content="a")}, "the token 'a' twice"),
    "half a character": ({"tokenizer": _added(content="\ud800")}, "no Unicode text"),
    "no end": (
        {"tokenizer_config": _set(eos_token=None), "config": _set(eos_token_id=None)}, "No token of the model ends a text",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_broken_models_are_refused(tmp_path: Path, name: str) -> None:
    changes, said = BROKEN[name]
    with pytest.raises(ConvertError, match=said) as caught:
        convert(model(tmp_path / "m", **changes), tmp_path / "x.gguf", maker="own")
    assert "\n" not in str(caught.value) and os.listdir(tmp_path) == ["m"]


def test_files_that_are_no_json(tmp_path: Path) -> None:
    folder = model(tmp_path / "m")
    for data, said in (
        (b"[1", "is no JSON"),
        (b"[]", "holds no JSON object"),
        (b"\xff", "no UTF-8"),
        (b'{"a":' * 200_000, "nested too deeply"),
    ):
        (folder / "config.json").write_bytes(data)
        with pytest.raises(ConvertError, match=said):
            convert(folder, tmp_path / "x.gguf")
    with (folder / "config.json").open("wb") as file:
        file.truncate(17 << 20)
    with pytest.raises(ConvertError, match="more than the 16777216"):
        convert(folder, tmp_path / "x.gguf")


def test_tensors_that_llama_cpp_does_not_know(tmp_path: Path) -> None:
    folder, plain = model(tmp_path / "m"), convert_made.weights(convert_made.config("qwen2"), 1)
    norm = plain["model.norm.weight"]
    convert_made.tensors(folder, plain | {"model.layers.0.self_attn.rotary_emb.inv_freq": norm, "lm_head.weight": norm}, "BF16")
    convert(folder, tmp_path / "x.gguf", maker="own")  # both are ignored, as transformers does
    convert_made.tensors(folder, plain | {"model.layers.0.self_attn.o_proj.bias": norm}, "BF16")
    with pytest.raises(Unsupported, match=r"'model.layers.0.self_attn.o_proj.bias', which llama.cpp's qwen2 does not know"):
        convert(folder, tmp_path / "y.gguf", maker="own")


@pytest.mark.parametrize(("value", "kind", "said"), [(np.nan, "BF16", "no numbers"), (1e30, "F16", "BF16 and F32 hold larger values")])
def test_weights_that_are_no_numbers(tmp_path: Path, value: float, kind: str, said: str) -> None:
    folder, plain = model(tmp_path / "m", "olmo2"), convert_made.weights(convert_made.config("olmo2"), 1)
    plain["model.layers.1.mlp.up_proj.weight"][5, 7] = value
    convert_made.tensors(folder, plain, "F32")
    with pytest.raises(ConvertError, match=said):
        convert(folder, tmp_path / "x.gguf", kind)
    assert os.listdir(tmp_path) == ["m"]


def test_what_was_asked_wrongly(tmp_path: Path) -> None:
    folder = model(tmp_path / "m")
    (tmp_path / "x.gguf").write_bytes(b"mine")
    for arguments, said in (
        ((folder, tmp_path / "x.gguf"), "is there already"), ((folder, tmp_path / "y.gguf", "Q4_K"), "'Q4_K' is not known; the types are"),
        ((tmp_path / "none", tmp_path / "y.gguf"), "is no folder"), ((folder, tmp_path / "no" / "y.gguf"), "does not exist"),
    ):  # fmt: skip
        with pytest.raises(ConvertError, match=said):
            convert(*arguments)
    with pytest.raises(ConvertError, match="0 threads"):
        convert(folder, tmp_path / "y.gguf", threads=0)
    assert (tmp_path / "x.gguf").read_bytes() == b"mine"


def test_what_brings_code_is_not_run_unasked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(convert_llamacpp, "ready", lambda tool: True)
    monkeypatch.setattr(convert_llamacpp, "run", lambda tool, folder, target, kind, progress: asked.append(kind))
    folder = model(tmp_path / "m", config=_set(architectures=["Other"]))
    (folder / "modeling_other.py").write_text("raise SystemExit")
    with pytest.raises(Unsupported):
        convert(folder, tmp_path / "x.gguf")
    assert asked == []
    (folder / "modeling_other.py").unlink()
    with pytest.raises(ConvertError):  # it wrote nothing, which is found
        convert(folder, tmp_path / "x.gguf", "F16")
    assert asked == ["F16"] and os.listdir(tmp_path) == ["m"]
