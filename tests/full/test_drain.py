"""Real vLLM and SGLang, started with the words of the chart and told to stop while they answer: the stream comes to its end.

So the chart need not wait for them, as it does for llama-server. `./scripts/test --full` installs the engines.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.deploy import charts
from tests.engines import install
from tests.engines.launch import APART, sglang_command, vllm_command

pytestmark = [pytest.mark.full, pytest.mark.timeout(900)]
SECONDS, TOKENS, AFTER = 400.0, 400, 5  # the stop comes after so many events
ENGINES = {"vllm": "pointsman-qwen", "sglang": "pointsman-coder"}  # of deploy/kubernetes/gpu-vllm.yaml


def free() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


def words_of_the_chart(kind: str, python: Path, model: Path, port: int) -> list[str]:
    """What the chart runs, with another program, model, ports and size, on one processor."""
    docs = charts.shipped("gpu-vllm")
    found = next(doc for doc in charts.of_kind(docs, "StatefulSet") if doc["metadata"]["name"] == ENGINES[kind])
    words: list[str] = found["spec"]["template"]["spec"]["containers"][0]["command"]
    at = {word: index + 1 for index, word in enumerate(words)}
    publishes = json.loads(words[at["--kv-events-config"]])
    publishes.update({name: f"tcp://*:{free()}" for name in ("endpoint", "replay_endpoint")})
    changed = {
        "--port": str(port),
        "--kv-events-config": json.dumps(publishes),
        "--max-model-len": "2048",
        "--context-length": "2048",
        "--tp": "1",
    }
    for name, value in changed.items():
        if name in at:
            words[at[name]] = value
    if kind == "vllm":  # its CPU edition has no program `vllm`
        assert words[:2] == ["vllm", "serve"]
        return [
            str(python),
            "-m",
            "vllm.entrypoints.openai.api_server",
            "--model",
            str(model),
            *words[3:],
            "--enforce-eager",
            "--block-size",
            "32",
        ]
    words[at["--model-path"]] = str(model)
    small = ["--device", "cpu", "--attention-backend", "torch_native", "--max-total-tokens", "8192", "--page-size", "16"]
    return [str(python), *words[1:], *small]


@contextmanager
def started(kind: str, log: Path) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """The engine's process and its base URL, once it is ready."""
    root = install.default_dir()
    python, model = install.python_of(kind, root), install.model_of(root)
    if not python.exists() or not model.exists():
        pytest.skip(f"{kind} is not installed: python tests/engines/install.py {kind} model")
    port = free()
    _, env = (vllm_command if kind == "vllm" else sglang_command)(python, model, port)
    argv = words_of_the_chart(kind, python, model, port)
    with log.open("wb") as out:
        process = subprocess.Popen(
            argv, env={**os.environ, **APART, **env}, stdout=out, stderr=out, cwd=log.parent, start_new_session=True,
        )  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    try:
        end = time.monotonic() + SECONDS
        while not _ready(url):
            assert process.poll() is None and time.monotonic() < end, log.read_text(errors="replace")[-2000:]
            time.sleep(0.5)  # polls another process: it gives no signal
        yield process, url
    finally:
        with contextlib.suppress(ProcessLookupError):  # its children too, where it did not end as it should
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(60)


def _ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=30).status_code == 200
    except httpx.TransportError:
        return False


@pytest.mark.parametrize("kind", ENGINES)
def test_a_stream_outlives_the_stop(kind: str, tmp_path: Path) -> None:
    with started(kind, tmp_path / "log") as (process, url):
        model = httpx.get(f"{url}/v1/models", timeout=60).json()["data"][0]["id"]
        body = {
            "model": model, "messages": [{"role": "user", "content": "hello"}], "max_tokens": TOKENS, "ignore_eos": True, "stream": True,
            "stream_options": {"include_usage": True},
        }  # fmt: skip
        events: list[str] = []
        with httpx.stream("POST", f"{url}/v1/chat/completions", json=body, timeout=120) as answer:
            for line in answer.iter_lines():
                if line.startswith("data:"):
                    events.append(line.removeprefix("data:").strip())
                    if len(events) == AFTER:
                        process.terminate()
        assert process.wait(120) == 0
        assert events[-1] == "[DONE]"
        assert json.loads(events[-2])["usage"]["completion_tokens"] == TOKENS
