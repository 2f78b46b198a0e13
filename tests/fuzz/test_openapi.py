"""Schemathesis in front of a running gateway: from our own OpenAPI document, and from OpenAI's, cut to the paths that we serve."""

from __future__ import annotations

import gzip
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.fakes.engine import Engine
from tests.harness import Running, config_for, running

SPEC = Path(__file__).resolve().parents[3] / "shared" / "specs" / "openai-openapi.yaml.gz"
OURS = {"/chat/completions": "post", "/completions": "post", "/embeddings": "post", "/models": "get", "/models/{model}": "get"}


def schemathesis(gateway: Running, schema: str, folder: Path, examples: int, *flags: str) -> str:
    """Runs the tool as its own process against the gateway; its report. Fails the test when it found a 5xx or a hang."""
    command = [
        sys.executable, "-m", "schemathesis.cli", "run", schema, "--url", f"http://127.0.0.1:{gateway.port}",
        "--checks", "not_a_server_error", "--max-examples", str(examples), "--seed", "1", "--generation-deterministic",
        "--request-timeout", "20", "--suppress-health-check", "all", "--no-color", *flags,
    ]  # fmt: skip
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=540)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    return done.stdout


def cases(report: str) -> int:
    """How many cases the report says were generated."""
    found = re.search(r"(\d+) generated", report)
    assert found is not None, report[-2000:]
    return int(found[1])


@pytest.mark.timeout(300)
def test_our_own_document(tmp_path: Path) -> None:
    """Valid and invalid bodies of every path: no 5xx, and what reaches the engine is clean."""
    with Engine() as engine, running(config_for([engine], route={"retries": 0})) as gateway:
        (tmp_path / "ours.json").write_text(json.dumps(gateway.get("/openapi.json").doc))
        assert cases(schemathesis(gateway, "ours.json", tmp_path, 60)) >= 300
        assert gateway.ask({"model": "m", "messages": [{"role": "user", "content": "x"}]}).status == 200


def pruned(document: dict[str, Any]) -> dict[str, Any]:
    """OpenAI's document cut to our paths, with the model of every request replaced by one that exists."""
    paths = {f"/v1{path}": {method: document["paths"][path][method]} for path, method in OURS.items()}
    for name in ("CreateChatCompletionRequest", "CreateCompletionRequest", "CreateEmbeddingRequest"):
        for part in (schema := document["components"]["schemas"][name]).get("allOf", [schema]):
            if "model" in part.get("properties", {}):
                part["properties"]["model"] = {"enum": ["m"]}
    return {"openapi": document["openapi"], "info": document["info"], "paths": paths, "components": document["components"]}


@pytest.mark.full
@pytest.mark.timeout(600)
def test_openais_document(tmp_path: Path) -> None:
    if not SPEC.is_file():
        pytest.skip("OpenAI's OpenAPI document is not beside this checkout (shared/specs)")
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    document = yaml.load(gzip.decompress(SPEC.read_bytes()), Loader=loader)
    (tmp_path / "openai.json").write_text(json.dumps(pruned(document), default=str))
    with Engine() as engine, running(config_for([engine], route={"retries": 0})) as gateway:
        assert cases(schemathesis(gateway, "openai.json", tmp_path, 40, "--phases", "coverage,fuzzing")) >= 200
