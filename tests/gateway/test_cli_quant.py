"""`pointsman quant quantize`: what it makes, what it says, and that an end by a signal leaves nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gateway import cli_quant
from gateway.cli import main
from quant.mixes import MIXES, Choice
from quant.quantize import MAKERS, Report

ROOT = Path(__file__).resolve().parents[2]


def test_the_built_in_model_is_quantised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["quant", "quantize", "builtin", "q4_k_m"]) == 0
    said = capsys.readouterr()
    assert said.out.startswith("pointsman-toy-Q4_K_M.gguf: Q4_K_M, 1.53 MiB, 4.95 bits per weight (from 2.62 MiB, 8.52)\n")
    assert "  tensors: 24 Q4_K, 9 F32, 5 Q6_K\n" in said.out and "  note: The source is Q8_0" in said.out
    assert said.err == ""
    assert os.listdir(tmp_path) == ["pointsman-toy-Q4_K_M.gguf"]


def test_json_says_everything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "x.gguf"
    assert main(["quant", "quantize", "builtin", "Q8_0", "--out", str(target), "--json", "--threads", "1", "--with", "own"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["target"] == str(target) and said["target_bytes"] == target.stat().st_size
    assert said["kinds"] == {"Q8_0": 29, "F32": 9} and said["fallbacks"] == []


def test_mistakes_are_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "x.gguf"
    target.write_bytes(b"mine")
    out = ["--out", str(target)]
    for arguments, code, said in (
        (["builtin", "Q4"], 2, "'Q4' is not a kind that can be made; choose one of Q8_0"),
        (["builtin", "Q4_0", *out], 1, "is there already"),
        ([str(tmp_path / "none.gguf"), "Q4_0", *out], 1, "does not exist"),
        (["hf:x", "Q4_0", *out], 1, "is not a model on the hub"),
        (["builtin", "Q4_0", "--imatrix", str(target), *out, "--overwrite"], 1, "is not a usable importance matrix"),
    ):
        assert main(["quant", "quantize", *arguments]) == code
        told = capsys.readouterr()
        assert told.out == "" and told.err.startswith("pointsman: ") and told.err.count("\n") == 1 and said in told.err
    assert target.read_bytes() == b"mine"
    with pytest.raises(SystemExit) as caught:
        main(["quant"])
    assert caught.value.code == 2


def test_an_end_by_a_signal_leaves_nothing(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys\nfrom gateway import cli_quant\nfrom gateway.cli import main\n"
        "cli_quant.Progress.__call__ = lambda *step: os.kill(os.getpid(), signal.SIGTERM)\n"
        f"main(['quant', 'quantize', 'builtin', 'Q2_K', '--out', {str(tmp_path / 'x.gguf')!r}])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 128 + signal.SIGTERM, done.stderr
    assert os.listdir(tmp_path) == []


def test_the_name_of_the_new_file() -> None:
    names = {"Qwen3-4B-BF16.gguf": "Qwen3-4B", "model.gguf": "model", "x.F16.gguf": "x", "toy-Q8_0.gguf": "toy", "plain": "plain"}
    assert {name: cli_quant._stem(name, Path(name)) for name in names} == names


def test_progress_is_drawn_on_a_terminal_only_now_and_then(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    now = [0.0]
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with cli_quant.Progress(lambda: now[0]) as progress:
        progress("a", 1, 4)
        progress("b", 2, 4)
        now[0] = 1.0
        progress("c", 3, 4)
        progress("d", 4, 4)
    drawn = capsys.readouterr().err
    assert [line.split("] ")[1].removesuffix("\x1b[K") for line in drawn.split("\r") if "]" in line] == [" 25% a", " 75% c", "100% d"]
    assert drawn.endswith("\r\x1b[K")
    assert cli_quant.bar("x", 0, 0) == f"[{'#' * 24}] 100% x"


def test_fallbacks_are_listed_and_bounded() -> None:
    fallbacks = tuple(Choice(f"blk.{i}.attn_q.weight", "Q5_0", "Q4_K") for i in range(10))
    said = cli_quant.text(Report("s", "t", "Q4_K_M", "llama-quantize", 3 << 30, 1 << 30, 8, 16.0, 4.9, {"Q5_0": 10}, fallbacks))
    assert "t: Q4_K_M, 1.00 GiB, 4.90 bits per weight (from 3.00 GiB, 16.00)" in said
    assert "10 tensors have rows that do not fit their type" in said and "blk.7.attn_q.weight: Q5_0 instead of Q4_K\n" in said
    assert "blk.8" not in said and "and 2 more" in said and "made by llama-quantize" in said


def test_the_command_line_knows_what_the_library_knows() -> None:
    assert cli_quant.WITH == MAKERS
    assert {"Q8_0", "Q6_K", "Q5_K_M", "Q5_K_S", "Q4_K_M", "Q4_K_S", "IQ4_XS", "Q4_0", "Q3_K_M", "Q2_K"} <= set(MIXES)
