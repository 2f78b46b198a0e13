"""Chunks that pass from an upstream's connection to the client's without being looked into further: what comes out is the same, whatever
comes between them and however the stream ends."""

from __future__ import annotations

import json
import random

import pytest

from tests.fakes.engine import Engine
from tests.fakes.script import Script
from tests.harness import Running, chat, config_for, running

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def event(text: str, finish: str | None = None, **more: object) -> bytes:
    choice = {"index": 0, "delta": {"content": text, **more}, "finish_reason": finish}
    doc = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "fake", "choices": [choice]}
    return b"data: " + json.dumps(doc, separators=(",", ":")).encode() + b"\n\n"


def framed(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


TEXTS = [
    "plain",
    "",
    "two words",
    'a "quoted" one',
    "back\\slash",
    "line\nbreak",
    "é✓",
    "x" * 700,
    "y" * 3000,
    "[DONE]",
    "event: x",
    "error",
]


def told(body: bytes) -> str:
    """The text of a stream, as a client reads it."""
    docs = [json.loads(line[6:]) for line in body.decode().split("\n\n") if line.startswith("data: {")]
    return "".join(choice["delta"].get("content") or "" for doc in docs for choice in doc.get("choices", ()))


def stream(gateway: Running) -> tuple[bytes, bool]:
    """The body of one streamed answer, and whether its last event is an error."""
    with gateway.dial() as client:
        answer = client.ask(chat(stream=True))
        assert answer.status == 200
        return answer.body, b'"error"' in answer.body.split(b"\n\n")[-2]


@pytest.mark.parametrize("seed", range(25))
def test_what_comes_out_is_what_went_in(seed: int) -> None:
    rng = random.Random(seed)
    texts = [rng.choice(TEXTS) if rng.random() < 0.3 else "word " * rng.randint(1, 4) for _ in range(60)]
    events = [event("start", role="assistant"), *map(event, texts), event("", "stop")]
    for at in rng.sample(range(2, 60), 6):
        events.insert(at, rng.choice([b": comment\n\n", event("r", reasoning_content="x"), event("z", tool_calls=[]), b"data: {}\n\n"]))
    steps: list[bytes] = []
    for one in events:  # most in a chunk of their own; some cut in two, some two in a write
        if rng.random() < 0.1:
            cut = rng.randrange(1, len(one))
            steps += [framed(one[:cut]), framed(one[cut:])]
        elif rng.random() < 0.1 and steps:
            steps[-1] += framed(one)
        else:
            steps.append(framed(one))
    steps += [framed(b"data: [DONE]\n\n"), b"0\r\n\r\n"]
    with Engine() as engine, running(config_for([engine])) as gateway:
        engine.queue(Script((HEAD, *steps)))
        body, failed = stream(gateway)
        assert not failed and body == b"".join([*events, b"data: [DONE]\n\n"])
        assert told(body) == told(b"".join(events))
        recent = gateway.records()[:1]
        assert recent[0].chunks > 0 and abs(recent[0].bytes_out - len(body)) <= len(b"data: [DONE]\n\n")


@pytest.mark.parametrize("ending", ["fin", "rst", "error"])
def test_however_it_ends(ending: str) -> None:
    words = [framed(event("word ")) for _ in range(30)]
    broken = framed(b'data: {"error":{"message":"no more","type":"server_error"}}\n\n')
    with Engine() as engine, running(config_for([engine])) as gateway:
        if ending == "error":
            script = Script((HEAD, *words, broken, framed(b"data: [DONE]\n\n"), b"0\r\n\r\n"))
        else:
            script = Script((HEAD, *words, framed(event("word "))[:40]), ending="fin" if ending == "fin" else "rst")
        engine.queue(script)
        body, failed = stream(gateway)
        assert failed and b"[DONE]" not in body and told(body) in {"word " * n for n in range(31)}
        if ending != "rst":
            assert told(body) == "word " * 30
