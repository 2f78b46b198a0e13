"""`pointsman quant convert`: what it makes and says; the whole way from safetensors to a quantised model."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from gateway import cli_convert
from gateway.cli import main
from quant import convert_fetch
from quant.convert import KINDS, MAKERS, Report
from tests.quant import convert_made


def test_a_folder_is_converted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    convert_made.folder(tmp_path / "tiny", "qwen3")
    assert main(["quant", "convert", "tiny", "--type", "q8_0"]) == 0
    said = capsys.readouterr()
    assert said.out.startswith("tiny-Q8_0.gguf: tiny (qwen3), Q8_0, 0.") and "tensors: 16 Q8_0, 9 F32\n" in said.out
    assert "note: The tokenizer composes accents" in said.out and said.err == ""
    assert main(["quant", "quantize", "tiny-Q8_0.gguf", "Q4_0", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["target"] == "tiny-Q4_0.gguf"
    assert sorted(os.listdir(tmp_path)) == ["tiny", "tiny-Q4_0.gguf", "tiny-Q8_0.gguf"]


def test_a_model_of_the_hub_as_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    folder = convert_made.folder(tmp_path / "snapshot", "llama3")
    monkeypatch.setattr(convert_fetch, "model", lambda model, offline: folder)
    assert main(["quant", "convert", "hf:Me/Tiny-Llama", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["target"], said["name"], said["kind"], said["maker"]) == ("Tiny-Llama.gguf", "Tiny-Llama", "BF16", "own")
    assert said["target_bytes"] == (tmp_path / "Tiny-Llama.gguf").stat().st_size


def test_mistakes_are_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    folder = convert_made.folder(tmp_path / "tiny", "olmo2")
    (tmp_path / "x.gguf").write_bytes(b"mine")
    settings = json.loads((folder / "config.json").read_text())
    other = convert_made.folder(tmp_path / "other", "olmo2")
    (other / "config.json").write_text(json.dumps(settings | {"architectures": ["Phi3ForCausalLM"]}))
    monkeypatch.setenv("PATH", "")
    for arguments, said in (
        ([str(folder), "--out", str(tmp_path / "x.gguf")], "is there already"),
        ([str(tmp_path / "none")], "is no folder"),
        (["hf:x"], "is not a model on the hub"),
        ([str(other), "--with", "own"], f"quant convert {other} --with llama.cpp --fetch"),
        ([str(folder), "--with", "llama.cpp", "--llama-cpp", str(tmp_path)], "does not exist; name a checkout"),
    ):
        assert main(["quant", "convert", *arguments]) == 1
        told = capsys.readouterr()
        assert told.out == "" and told.err.startswith("pointsman: ") and told.err.count("\n") == 1 and said in told.err
    assert (tmp_path / "x.gguf").read_bytes() == b"mine"


def test_what_is_said_of_fallbacks_and_another_converter() -> None:
    said = cli_convert.text(Report("s", "t", "Q8_0", "llama.cpp", "llama", "n", 1, 1 << 30, 8, 8.5, {"Q8_0": 1, "F16": 1}, ("a", "b")))
    assert said.splitlines()[0] == "t: n (llama), Q8_0, 1,024.00 MiB, 8.50 bits per weight"
    assert "made by llama.cpp" in said and "2 tensors have rows that do not fit Q8_0 and are F16 (a, ...)" in said


def test_the_command_line_knows_what_the_library_knows() -> None:
    assert cli_convert.WITH == MAKERS and cli_convert.KINDS == KINDS
