"""`pointsman quant evaluate`: what it measures, keeps and says; prompts from a gateway's store."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gateway import cli_evaluate
from gateway.cli import main
from gateway.cli_evaluate import chats, text
from gateway.responses_store import Kept
from gateway.responses_table import Table
from quant import builtin, evaluate
from quant.evaluate import Evaluation, Measured
from quant.evaluate_figures import Estimate, Scores, share
from quant.evaluate_figures import TaskScores as Tasks
from quant.evaluate_jobs import EvaluateError, Speed
from quant.label import Identity, label
from quant.quantize import quantize
from tests.quant import made

ON = Scores(2, 50, Estimate(6.4, 6.0, 6.8), kld=Estimate(0.0281, 0.02, 0.03), same=Estimate(0.92, 0.9, 0.94), flips=Estimate(0.031))


def found(path: Path) -> Evaluation:
    """An evaluation of the file at `path`, and of one that failed."""
    which = Identity(path.stat().st_size, "s", "h")
    good = Measured(str(path), path.name, "Q4_K_M", which, 4.9, False, ON, ON, Tasks(32, share(30, 32)), Speed(41.2, 400.0))
    source = Measured("/m/f16.gguf", "f16.gguf", "F16", Identity(15 << 30, "s", "h"), 16.0, scores=Scores(2, 50, Estimate(6.2)))
    ill = Measured("/m/ill.gguf", "ill.gguf", "", which, 0.0, failed="it is ill.")
    return Evaluation("2026-11-22T10:00:00+00:00", "xllamacpp 1", 2, "abc", source, (good, ill), "def", 3, str(path), "It is.", ("Note.",))


def test_the_built_in_model_quickly(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    coarse = quantize(builtin.path(), tmp_path / "toy-Q4_0.gguf", "Q4_0", threads=2).target
    html = tmp_path / "report.html"
    assert main(["quant", "evaluate", coarse, "--against", "builtin", "--quick", "--html", str(html), "--threads", "2"]) == 0
    said = capsys.readouterr()
    assert (
        "5 texts, " in said.out and "against pointsman-toy.gguf (2.62 MiB)\n" in said.out and "Recommended: " in said.out and said.err == ""
    )
    assert "toy-Q4_0.gguf *" in said.out and label(coarse) is None  # a quick look is not kept
    assert "Take Q4_0" in html.read_text("utf-8")


def test_what_was_measured_is_said_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    path = made.llama(tmp_path / "m.gguf")
    monkeypatch.setattr(evaluate, "evaluate", lambda *given, **named: found(path))
    assert main(["quant", "evaluate", str(path)]) == 1  # one of them failed
    said = capsys.readouterr().out
    assert said.splitlines()[0] == "2 texts, 50 tokens read with xllamacpp 1, against f16.gguf (15.00 GiB)"
    row = next(line for line in said.splitlines() if line.startswith("m.gguf *"))
    for part in ("0.028 (0.020 to 0.030)", "92 % (90 % to 94 %)", "3.1 %", "6.4", "30/32", "41"):
        assert part in row
    assert "On 3 prompts of yours:\n  m.gguf: KLD 0.028" in said and "ill.gguf was not measured: it is ill." in said
    assert said.endswith("note: Note.\nRecommended: It is.\n")
    assert (tmp_path / "m.gguf.quality.json").exists()
    (tmp_path / "m.gguf.quality.json").unlink()
    assert main(["quant", "evaluate", str(path), "--json", "--no-label"]) == 1
    assert json.loads(capsys.readouterr().out)["why"] == "It is." and not (tmp_path / "m.gguf.quality.json").exists()


def test_alone_there_is_nothing_to_compare_with(tmp_path: Path) -> None:
    alone = Measured(
        "/m/a", "a.gguf", "", Identity(1 << 20, "s"), 0.0, scores=Scores(2, 50, Estimate(6.2)), prompts=Scores(1, 9, Estimate(7.1))
    )
    said = text(Evaluation("d", "x", 1, "t", None, (alone,), "o", 1))
    assert "a.gguf  1.00 MiB           -               -      -         6.2      -      -" in said and "a.gguf: perplexity 7.1\n" in said


def test_mistakes_are_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(b"GGUF")
    for arguments, said in (
        ([str(bad)], "bad.gguf is not a usable GGUF model"),
        (["no-such-model"], "no-such-model"),
        (["hf:x"], "is not a model on the hub"),
        (["builtin", "--prompts", str(tmp_path / "none")], "does not exist"),
        (["builtin", "--prompts", str(bad)], "Line 1 of bad.gguf is no JSON"),
        (["builtin", "--threads", "0"], "0 threads cannot work"),
        (["builtin", "--html", str(tmp_path / "no" / "x.html")], "does not exist; make it first"),
        (["builtin", "--against", "builtin"], "is the source itself"),
    ):
        assert main(["quant", "evaluate", *arguments]) == 1, arguments
        told = capsys.readouterr()
        assert told.out == "" and told.err.startswith("pointsman: ") and told.err.count("\n") == 1 and said in told.err, told.err
    with pytest.raises(SystemExit):
        main(["quant", "evaluate"])


def test_prompts_from_the_store_of_responses(tmp_path: Path) -> None:
    path = tmp_path / "responses.db"
    table = Table(str(path))
    said = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Hi."}]}
    kept = [
        ([{"type": "message", "role": "user", "content": "Hello"}], {"output": [{"type": "reasoning"}, said], "instructions": "Be brief."}),
        ([{"type": "function_call_output", "call_id": "1", "output": "x"}], {"output": [said]}),
        (5, []),
    ]
    with table.transaction():
        for at, (items, response) in enumerate(kept):
            table.write(Kept("t", str(at), json.dumps(items).encode(), json.dumps(response).encode(), float(at)))
    table.close()
    found = chats(path)
    assert (found.found, found.left_out) == (3, 2)
    assert found.chats == (
        {
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": "Hello"},
                {"role": "assistant", "content": "Hi."},
            ]
        },
    )
    path.write_bytes(b"SQLite format 3\0" + bytes(200))
    with pytest.raises(EvaluateError, match="is no store of responses that can be read"):
        chats(path)
    assert cli_evaluate.located("builtin") == builtin.path()
