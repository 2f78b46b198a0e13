"""Embeddings of many clients at once on a real llama.cpp engine: fewer calls to it, and the vectors that each would have got alone."""

from __future__ import annotations

import base64
import struct
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.gateway.serving import DEADLINE, serving

TEXTS = ["the cat sat on the mat", "a railway worker sets the points", "2 + 2 = 4", "naïve café", '"quoted" \\ and \n broken']
INPUTS: list[Any] = [*TEXTS, TEXTS[:2], TEXTS[2:], [5, 6, 7, 8], [[9, 10], [11, 12, 13]]] * 4
NEAR = 2e-2  # of vectors of length 1: together they are computed in another order, in low precision


def vectors(answer: dict[str, Any]) -> list[Sequence[float]]:
    found = [item["embedding"] for item in answer["data"]]
    return [struct.unpack(f"<{len(raw) // 4}f", raw) for raw in map(base64.b64decode, found)] if isinstance(found[0], str) else found


def ask(base: str, given: Any, **more: Any) -> dict[str, Any]:
    answer = httpx.post(base + "/v1/embeddings", json={"model": "toy", "input": given, **more}, timeout=DEADLINE)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def counted(answers: list[dict[str, Any]]) -> list[int]:
    return [answer["usage"]["prompt_tokens"] for answer in answers]


@pytest.mark.timeout(300)
def test_many_clients_at_once(tmp_path: Path) -> None:
    # One slot: of a generator with more, llama.cpp pools the mean of a part (see `Fleet`), and they are not gathered by default.
    backend = {"engine": "llamacpp", "model": "builtin", "slots": 1, "context": 2048}
    config = {
        "server": {"port": 0, "admin": {"port": 0}},
        "backends": {"toy": backend},
        "routes": {"toy": {"targets": [{"backend": "toy"}]}},
    }
    tokens = [isinstance(given[0], int | list) for given in INPUTS]
    with serving(tmp_path, config) as gateway, ThreadPoolExecutor(len(INPUTS)) as threads:
        alone = [ask(gateway.base, given) for given in INPUTS[:9]] * 4
        for form in ("float", "base64"):
            together = [*threads.map(lambda given, form=form: ask(gateway.base, given, encoding_format=form), INPUTS)]
            for one, joint in zip(alone, together, strict=True):
                assert [item["index"] for item in joint["data"]] == [*range(len(one["data"]))] and joint["model"] == one["model"]
                for a, b in zip(vectors(one), vectors(joint), strict=True):
                    assert max(abs(x - y) for x, y in zip(a, b, strict=True)) < NEAR
            assert sum(counted(together)) == sum(counted(alone))
            assert [n for n, known in zip(counted(together), tokens, strict=True) if known] == [
                n for n, known in zip(counted(alone), tokens, strict=True) if known
            ]
        refused = httpx.post(gateway.base + "/v1/embeddings", json={"model": "toy", "input": [99_999_999]}, timeout=DEADLINE)
        assert refused.status_code == 400
