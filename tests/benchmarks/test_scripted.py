"""The scripted upstream: what it answers, how it fails, and what it counts."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.benchmarks.programs import free_port


@pytest.fixture(scope="module")
def base() -> Iterator[str]:
    port = free_port()
    with subprocess.Popen([sys.executable, "-m", "benchmarks.scripted", "--port", str(port)], cwd=Path(__file__).parents[2]) as process:
        end = time.monotonic() + 30
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                assert process.poll() is None and time.monotonic() < end
                time.sleep(0.02)  # polls another process: it gives no signal
        yield f"http://127.0.0.1:{port}"
        process.terminate()


def chat(base: str, **more: Any) -> httpx.Response:
    return httpx.post(
        base + "/v1/chat/completions", json={"model": "m", "messages": [{"role": "user", "content": "hi"}], **more}, timeout=30
    )


def counts(base: str) -> dict[str, int]:
    found: dict[str, int] = httpx.get(base + "/counts").json()
    return found


def test_answers(base: str) -> None:
    whole = chat(base, script={"tokens": 3}).json()
    assert whole["choices"][0]["message"]["content"] == "word word word " and whole["usage"]["completion_tokens"] == 3
    told = chat(base, stream=True, script={"tokens": 3}).text.split("\n\n")
    assert [json.loads(one[6:])["choices"][0]["delta"].get("content") for one in told[:4]] == ["word0 ", "word1 ", "word2 ", None]
    assert json.loads(told[4][6:])["usage"]["completion_tokens"] == 3 and told[5:] == ["data: [DONE]", ""]
    text = httpx.post(base + "/v1/completions", json={"prompt": "hi"}).json()
    assert text["choices"][0]["text"] == "word " * 8
    before = counts(base)
    vectors = httpx.post(base + "/v1/embeddings", json={"input": ["a", "bb"]}).json()
    assert [one["index"] for one in vectors["data"]] == [0, 1] and vectors["usage"]["prompt_tokens"] == 3
    after = counts(base)
    assert (after["calls"] - before["calls"], after["items"] - before["items"], after["begun"]) == (1, 2, after["over"])
    assert httpx.get(base + "/v1/models").json()["data"][0]["id"] == "scripted" and httpx.get(base + "/nowhere").status_code == 404


def test_failures(base: str) -> None:
    assert chat(base, script={"fail": 429}).status_code == 429
    with pytest.raises(httpx.RemoteProtocolError):
        chat(base, script={"fail": "cut"})
    with pytest.raises(httpx.RemoteProtocolError):
        chat(base, stream=True, script={"fail": "cut"})
    seen = b""
    with (
        pytest.raises(httpx.RemoteProtocolError),
        httpx.stream(
            "POST", base + "/v1/chat/completions", json={"model": "m", "messages": [], "stream": True, "script": {"fail": "error"}}
        ) as answer,
    ):
        for part in answer.iter_bytes():
            seen += part
    assert b'"error"' in seen and b"[DONE]" not in seen
    left = counts(base)["left"]
    with socket.create_connection(("127.0.0.1", int(base.rpartition(":")[2]))) as sock:
        body = b'{"prompt":"hi","script":{"fail":"mute"}}'
        sock.sendall(b"POST /v1/completions HTTP/1.1\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))
        end = time.monotonic() + 30
        while counts(base)["begun"] == counts(base)["over"]:
            assert time.monotonic() < end
    while counts(base)["left"] == left:
        assert time.monotonic() < end
    assert counts(base)["begun"] == counts(base)["over"]
