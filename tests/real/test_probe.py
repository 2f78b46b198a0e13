"""`pointsman probe` on a real llama.cpp engine with the built-in model: what must hold there, whatever the toy knows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from gateway.cli import main
from gateway.config import load

# What a small model's wits decide may go either way.
WITS = {
    "tools",
    "tools-parallel",
    "tool-none",
    "tool-results",
    "reasoning",
    "seed",
    "json-object",
    "tools-and-schema",
    "stop",
    "stop-list",
    "unicode",
}
NO = {"image", "audio", "pdf"}  # it has no eyes and no ears
ODD = {"unknown-model": "unsupported", "dimensions": "fail"}  # llama.cpp answers to any name, and never shortens a vector


@pytest.mark.timeout(300)
def test_the_built_in_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, told = tmp_path / "pointsman.yaml", tmp_path / "toy.yaml"
    backend = {"engine": "llamacpp", "model": "builtin", "slots": 4, "context": 8192}
    file.write_text(yaml.safe_dump({"backends": {"toy": backend}}))
    assert main(["probe", "toy", "--config", str(file), "--json", "--write", str(told)]) == 0
    out = json.loads(capsys.readouterr().out)
    found = {result["name"]: result["verdict"] for result in out["results"]}
    wanted = dict.fromkeys(found, "pass") | dict.fromkeys(NO, "unsupported") | ODD
    assert {name: verdict for name, verdict in found.items() if verdict != wanted[name] and name not in WITS} == {}
    assert "error" not in found.values()
    facts = out["facts"]
    assert (facts["images"], facts["audio"], facts["documents"]) == (False, False, False)
    assert all(facts[name] for name in ("forced_tools", "prefill", "logprobs", "many", "late_system")) and facts["json_schema"] == "native"
    assert facts["context"] == 2048 or facts["context"] >= 1024
    assert out["unsupported"] == ["dimensions"]
    file.write_text(yaml.safe_dump({"backends": {"toy": backend | {"probed": told.name}}}))
    config = load(file)
    assert config.backends["toy"].facts.given() == facts and config.backends["toy"].unsupported == {"dimensions"}
