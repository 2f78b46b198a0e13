"""The whole way of a model, made on the spot: safetensors, GGUF, five quantisations, each evaluated and labelled, the recommended one
served, and a question answered."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gateway.cli import main
from gateway.config import parse
from quant import evaluate_tasks, evaluate_texts
from quant.convert import convert
from quant.label import label
from quant.models import find
from quant.quantize import quantize
from tests.harness import Client, running
from tests.quant import convert_made
from tests.real.test_engine_death import until_ready

KINDS = ("Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q2_K")
WAIT = 280.0  # a generous bound

pytestmark = pytest.mark.timeout(600)


def test_from_safetensors_to_an_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    wide = {"hidden_size": 256, "intermediate_size": 512, "max_position_embeddings": 512, "rope_theta": 1e6, "tie_word_embeddings": True}
    monkeypatch.setitem(convert_made.MODELS, "wide", ("qwen2", "BF16", "qwen2", {**wide, "use_sliding_window": False}))
    convert_made.folder(tmp_path / "hf", "wide")
    source = Path(convert(tmp_path / "hf", tmp_path / "wide-BF16.gguf").target)
    made = {kind: quantize(source, tmp_path / f"wide-{kind}.gguf", kind, threads=2) for kind in KINDS}
    assert not any(report.fallbacks for report in made.values())

    texts, questions = evaluate_texts.built_in()[::5], evaluate_tasks.general()[:4]  # as many as there is time for
    monkeypatch.setattr(evaluate_texts, "built_in", lambda: texts)
    monkeypatch.setattr(evaluate_tasks, "general", lambda: questions)
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"messages": [{"role": "user", "content": "Where do the boats lie?"}]}\n')
    html = tmp_path / "report.html"
    models = [report.target for report in made.values()]
    asked = ["--against", str(source), "--prompts", str(prompts), "--html", str(html), "--json", "--threads", "2"]
    assert main(["quant", "evaluate", *models, *asked]) == 0
    found = json.loads(capsys.readouterr().out)
    klds = [model["scores"]["kld"]["value"] for model in found["models"]]
    assert 0 < klds[0] < klds[1] < klds[2] < klds[3] < klds[4]
    assert found["source"]["scores"]["perplexity"]["value"] > 1 and found["own_count"] == 1
    assert found["recommended"] in models and html.read_text("utf-8").startswith("<!doctype html>")

    labels = {kind: label(report.target) for kind, report in made.items()}
    for kind, told in labels.items():
        assert told is not None and told.kind == kind and told.source == "wide-BF16.gguf" and told.prompts_kld is not None
        assert find(made[kind].target).quality == str(told)
    assert label(source) is None

    config = {
        "server": {"port": 0, "admin": {"port": None}, "log": {"level": "error"}},
        "backends": {"toy": {"engine": "llamacpp", "model": found["recommended"], "slots": 1, "context": 512}},
        "routes": {"wide": {"targets": [{"backend": "toy"}]}},
    }
    question = {"model": "wide", "messages": [{"role": "user", "content": "Where do the boats lie?"}], "max_tokens": 8, "temperature": 0}
    with running(parse(json.dumps(config), {})) as gateway:
        until_ready(gateway)
        with Client(gateway.port, seconds=WAIT) as client:
            answer = client.ask(question)
    assert answer.status == 200
    document = json.loads(answer.body)
    assert document["usage"]["completion_tokens"] > 0 and document["choices"][0]["message"]["role"] == "assistant"
