"""Streamed chat requests that go out at one moment, and when each got its first token."""

from __future__ import annotations

import http.client
import json
import random
import string
import threading
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

SECONDS = 900.0  # for one answer, whatever the machine


class Told(NamedTuple):
    """One answer: seconds to its first token, tokens of its prompt, and how many of those the engine had."""

    ttft: float
    prompt: int
    cached: int


def prompt(shared: int, own: int, seed: int) -> tuple[str, list[str]]:
    """A prefix of `shared` characters that nobody has seen, and the beginnings of eight questions of `own` characters."""
    rng = random.Random(seed)
    letters = string.ascii_lowercase + " "
    return "".join(rng.choices(letters, k=shared)), [f"{i} " + "".join(rng.choices(letters, k=own - 2)) for i in range(10)]


def ask(port: int, system: str, user: str, barrier: threading.Barrier | None = None) -> Told:
    """One streamed request of eight tokens. RuntimeError: it failed."""
    messages = [{"role": "system", "content": system}, {"role": "user", "content": user}]
    doc = {"model": "m", "messages": messages, "max_tokens": 8, "temperature": 0, "stream": True, "stream_options": {"include_usage": True}}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=SECONDS)
    connection.connect()
    if barrier is not None:
        barrier.wait()
    usage: dict[str, Any] = {}
    began, first = time.monotonic(), 0.0
    connection.request("POST", "/v1/chat/completions", json.dumps(doc), {"content-type": "application/json"})
    answer = connection.getresponse()
    for line in answer:
        if line.startswith(b"data: {"):
            event: dict[str, Any] = json.loads(line[6:])
            if not first and any(choice.get("delta", {}).get("content") for choice in event.get("choices", ())):
                first = time.monotonic() - began
            usage = event.get("usage") or usage
    connection.close()
    if answer.status != 200 or not first or not usage:
        raise RuntimeError(f"a request failed with status {answer.status}")
    return Told(first, usage["prompt_tokens"], usage["prompt_tokens_details"]["cached_tokens"])


def burst(port: int, system: str, users: Sequence[str]) -> list[Told]:
    """All at one moment, each on a connection that is open already."""
    barrier = threading.Barrier(len(users))
    told: list[Told] = []

    def one(user: str) -> None:
        told.append(ask(port, system, user, barrier))

    threads = [threading.Thread(target=one, args=(user,)) for user in users]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if len(told) < len(users):
        raise RuntimeError(f"{len(users) - len(told)} of {len(users)} requests failed")
    return told
