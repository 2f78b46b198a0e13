"""The engine disconnects after n bytes, for every n of a golden answer, whatever its framing and however it leaves."""

from __future__ import annotations

from typing import Self

import pytest

from tests.fakes.answers import Framing
from tests.fakes.engine import Engine
from tests.fakes.reader import Answer
from tests.fakes.script import Ending, Script
from tests.faults.check import complete, faulty
from tests.faults.conftest import Plain
from tests.golden import BY_NAME, GOLDEN, Golden
from tests.harness import Client, Running, both_ways, config_for, running

STREAM, WHOLE = "vllm-chat-stream", "llamacpp-chat"
WAYS: list[tuple[str, Framing, Ending]] = [
    (STREAM, "chunked", "fin"), (STREAM, "chunked", "rst"), (STREAM, "length", "fin"), (STREAM, "eof", "fin"),
    (WHOLE, "chunked", "fin"), (WHOLE, "length", "fin"), (WHOLE, "length", "rst"), (WHOLE, "eof", "fin"),
    ("openai-completions", "length", "fin"), ("sglang-embeddings", "length", "fin"), ("vllm-embeddings", "chunked", "fin"),
]  # fmt: skip


class Asker:
    """Asks again and again on one connection, as long as the gateway keeps it."""

    def __init__(self, gateway: Running) -> None:
        self.gateway = gateway
        self.client: Client | None = None

    def __call__(self, case: Golden) -> Answer:
        client = self.client or self.gateway.dial()
        answer = client.ask(case.doc, case.path)
        self.client = client if answer.keeps else None
        if not answer.keeps:
            client.sock.close()
        return answer

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.client is not None:
            self.client.sock.close()


def needed(script: Script, case: Golden, framing: Framing) -> int:
    """The raw size from which an answer can be whole: its last event, or its last byte."""
    if case.stream:
        at = script.raw.rfind(b'"finish_reason":"') if framing == "eof" else script.raw.rfind(b"data: [DONE]")
        return script.raw.index(b"\n\n", at) if framing == "eof" else at + len(b"data: [DONE]")
    return len(script.raw.rstrip())


@both_ways
@pytest.mark.parametrize(("name", "framing", "ending"), WAYS, ids=["-".join(way) for way in WAYS])
def test_every_cut_is_a_prefix_and_an_error(name: str, framing: Framing, ending: Ending, asgi: bool) -> None:
    case = BY_NAME[name]
    whole = case.answer(framing)
    least = needed(whole, case, framing)
    with Engine() as engine, running(config_for([engine], route={"retries": 0}), asgi) as gateway, Asker(gateway) as ask:
        longest = 0
        for size in range(len(whole.raw) + 1):
            engine.queue(whole.but(cut=size, ending=ending))
            answer = ask(case)
            if size < least:
                longest = max(longest, faulty(answer, case))
            elif answer.status == 200 and (not case.stream or answer.body.endswith(b"data: [DONE]\n\n")):
                assert framing == "eof" or answer.body == case.client
            else:
                faulty(answer, case)
                assert size < len(whole.raw) or ending == "rst"
        assert len(engine.posts()) == len(whole.raw) + 1  # each was asked once
        assert longest > 1 if case.stream else longest == 0
        gateway.settled()


@both_ways
def test_before_content_another_replica_answers(asgi: bool) -> None:
    """Every cut before the first content is healed by the second replica; none after it is."""
    case = BY_NAME[STREAM]
    whole = case.answer("chunked")
    content = whole.raw.index(b"\n\n", whole.raw.index(b'"content":" import"'))
    with Engine() as first, Engine() as second:
        config = config_for(
            [first],
            more={
                "backends": {"other": {"url": second.url}},
                "routes": {"m": {"targets": [{"backend": "fake", "model": "fake"}, {"backend": "other", "model": "fake", "weight": 0}]}},
            },
        )
        second.on_model("fake", whole)
        with running(config, asgi) as gateway, Asker(gateway) as ask:
            for size in range(content + 100):
                first.queue(whole.but(cut=size), whole)
                answer = ask(case)
                if size < content:
                    complete(answer, case)
                elif size >= content + 2:  # between the two the event is whole and its chunk is not
                    assert faulty(answer, case) == 2
                complete(ask(case), case)  # a good answer, so that the first replica never rests
            assert content <= len(second.posts()) <= content + 2
            gateway.settled()


@pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in GOLDEN])
def test_golden_answers_pass_byte_for_byte(case: Golden, plain: Plain) -> None:
    """In every framing, written as events, a byte a write, and seven bytes a write."""
    framings: tuple[Framing, ...] = ("chunked", "length", "eof")
    with plain as (engine, gateway):
        for framing in framings:
            for piece in (0, 1, 7):
                engine.queue(case.answer(framing).but(piece=piece))
                complete(gateway.ask(case.doc, case.path), case)
        for request in engine.posts():
            assert request.doc["model"] == "fake"
            assert not case.stream or request.doc["stream_options"]["include_usage"] is True
            untouched = {key: value for key, value in case.doc.items() if key not in ("model", "stream_options")}
            assert {key: request.doc[key] for key in untouched} == untouched
