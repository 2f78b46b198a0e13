"""Clients that are not Python's: the `openai` npm package, curl, and the `llm` tool. All unmodified."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.sdk.conftest import Served

NODE = Path(__file__).with_name("node")


@pytest.fixture(scope="session")
def openai_node(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the npm package installed as the lock says. Skips where Node.js or the package cannot be had."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("Node.js and npm are not installed")
    folder = tmp_path_factory.mktemp("node")
    for name in ("package.json", "package-lock.json", "chat.mjs"):
        shutil.copy(NODE / name, folder / name)
    install = ["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts"]
    done = subprocess.run(install, cwd=folder, capture_output=True, text=True, timeout=300)
    if done.returncode:
        pytest.skip(f"npm ci failed: {done.stderr.strip().splitlines()[-1:]}")
    return folder


@pytest.mark.node
@pytest.mark.timeout(400)
def test_openai_node(served: Served, openai_node: Path) -> None:
    environment = os.environ | {"POINTSMAN_URL": served.url, "POINTSMAN_KEY": served.key, "POINTSMAN_MODEL": served.model}
    done = subprocess.run(["node", "chat.mjs"], cwd=openai_node, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert served.model in seen["models"]
    assert "banana" in seen["whole"] and seen["streamed"] == seen["whole"] and seen["tokens"] > 0
    assert seen["left"] == "chat.completion.chunk"
    assert seen["call"]["name"] == "get_weather" and "city" in json.loads(seen["call"]["arguments"])
    assert seen["embeddings"][0] == seen["embeddings"][1] > 1
    assert seen["completed"] == "length"
    assert seen["error"] == ["NotFoundError", 404, "model_not_found", "string"]


def curl(served: Served, path: str, doc: object = None, *flags: str) -> subprocess.CompletedProcess[str]:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    command = ["curl", "--silent", "--show-error", "--max-time", "60", "-H", f"Authorization: Bearer {served.key}"]
    command += [*flags, served.url + path]
    if doc is not None:
        command += ["-H", "Content-Type: application/json", "-d", json.dumps(doc)]
    return subprocess.run(command, capture_output=True, text=True, timeout=90)


def test_curl(served: Served) -> None:
    doc = {"model": served.model, "messages": [{"role": "user", "content": "Repeat: banana"}], "temperature": 0}
    ways: list[tuple[str, ...]] = [
        (), ("--http1.0",), ("--no-keepalive",), ("-H", "Transfer-Encoding: chunked"), ("-H", "Expect: 100-continue"),
    ]  # fmt: skip
    if not served.asgi:  # an offer of h2c loses its body in uvicorn's own parser (uvicorn#2722)
        ways.append(("--http2",))
    for flags in ways:
        done = curl(served, "/chat/completions", doc, *flags)
        assert done.returncode == 0, (flags, done.stderr)
        assert "banana" in json.loads(done.stdout)["choices"][0]["message"]["content"], flags
    assert served.model in [model["id"] for model in json.loads(curl(served, "/models").stdout)["data"]]


@pytest.mark.parametrize("flags", [(), ("--http1.0",)], ids=["1.1", "1.0"])
def test_curl_streams(served: Served, flags: tuple[str, ...]) -> None:
    doc = {"model": served.model, "messages": [{"role": "user", "content": "Repeat: banana"}], "temperature": 0, "stream": True}
    done = curl(served, "/chat/completions", doc, "--no-buffer", *flags)
    assert done.returncode == 0, done.stderr
    events = [line.removeprefix("data: ") for line in done.stdout.splitlines() if line]
    assert events[-1] == "[DONE]"
    deltas = [choice["delta"].get("content") or "" for event in events[:-1] for choice in json.loads(event)["choices"]]
    assert "banana" in "".join(deltas)


def test_llm(served: Served, tmp_path: Path) -> None:
    """Simon Willison's `llm`, set up as its documentation says for OpenAI-compatible servers."""
    pytest.importorskip("llm")
    rows = [
        {"model_id": "toy", "model_name": served.model, "api_base": served.url, "api_key_name": "toy"},
        {"model_id": "toy-whole", "model_name": served.model, "api_base": served.url, "api_key_name": "toy", "can_stream": False},
    ]
    (tmp_path / "extra-openai-models.yaml").write_text(json.dumps(rows))  # YAML holds JSON
    (tmp_path / "keys.json").write_text(json.dumps({"toy": served.key}))
    environment = os.environ | {"LLM_USER_PATH": str(tmp_path)}
    for model in ("toy", "toy-whole"):
        command = [sys.executable, "-m", "llm", "prompt", "-m", model, "-o", "temperature", "0", "--no-log", "Repeat: banana"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=90, stdin=subprocess.DEVNULL)
        assert done.returncode == 0, done.stderr
        assert "banana" in done.stdout
