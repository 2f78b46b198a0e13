"""Answers that go on elsewhere for clients and targets of other dialects: still one well-formed answer."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.fakes.engine import Engine
from tests.fakes.providers.anthropic import KEY, Anthropic
from tests.fakes.providers.common import Fault
from tests.faults.minds import WORDS, Counter, words
from tests.faults.test_matrix import WHOLE, ends, told
from tests.harness import chat, config_for, running

PREFILL = {"facts": {"prefill": True}, "health_seconds": 0}


@pytest.mark.parametrize(("after", "echo"), [(3, False), (15, False), (15, True)])
def test_by_a_prefill(after: int, echo: bool) -> None:
    """With an echo of a long answer, or without: the same. (A short echo could be a repetition that was meant, and stays.)"""
    spoilt = Counter(spoil=lambda made: ends("rst", after, made), prefill=True)
    with Engine(responder=spoilt) as one, Engine(responder=Counter(prefill=True, echo=echo)) as two:
        more = {"backends": {"spare": {"url": two.url, **PREFILL}}}
        targets = [{"backend": "fake", "model": "fake"}, {"backend": "spare", "model": "fake", "weight": 0}]
        config = config_for([one], backend=PREFILL, route={"targets": targets, "continue": True}, more=more)
        with running(config) as gateway:
            assert told(gateway.ask(chat("count", stream=True))) == (WHOLE, True)


@pytest.mark.parametrize("after", range(4, 12))  # before that nothing was told
def test_from_claude_to_claude(after: int) -> None:
    """The strict fake refuses a beginning that ends in white space; what is cut is where the model's words are cut."""
    one, two = Anthropic(), Anthropic()
    one.fail(Fault(after=after, ending="rst"))
    question = " ".join(f"word{at}" for at in range(20))
    with Engine(responder=one) as first, Engine(responder=two) as second:
        model = "claude-sonnet-4-5-20250929"
        backend = {"kind": "anthropic", "key": KEY}
        config = config_for(
            [first.url.removesuffix("/v1")], backend=backend,
            route={"targets": [{"backend": "fake", "model": model}, {"backend": "spare", "model": model, "weight": 0}], "continue": True},
            more={"backends": {"spare": {**backend, "url": second.url.removesuffix("/v1")}}},
        )  # fmt: skip
        with running(config) as gateway:
            answer = gateway.ask(chat(question, stream=True))
            assert told(answer) == (f"You said: {question}", True)
            assert not two.rejected and b"continued on spare" in answer.body


def config(one: Engine, two: Engine) -> Any:
    targets = [{"backend": "fake", "model": "fake"}, {"backend": "spare", "model": "fake", "weight": 0}]
    more = {"backends": {"spare": {"url": two.url, **PREFILL}}}
    return config_for([one], backend=PREFILL, route={"targets": targets, "continue": True}, more=more)


@pytest.mark.parametrize("how", ["rst", "error event", "bare end"])
@pytest.mark.parametrize("surface", ["messages", "responses"])
def test_for_clients_of_other_surfaces(surface: str, how: str) -> None:
    spoilt = Counter(spoil=lambda made: ends(how, 9, made), prefill=True)
    with Engine(responder=spoilt) as one, Engine(responder=Counter(prefill=True)) as two, running(config(one, two)) as gateway:
        say = [{"role": "user", "content": "count"}]
        doc = {"model": "m", "stream": True} | ({"messages": say, "max_tokens": 100} if surface == "messages" else {"input": say})
        answer = gateway.ask(doc, f"/v1/{surface}")
        assert answer.status == 200 and len(two.posts()) == 1
        found = [json.loads(line[6:]) for line in answer.body.decode().splitlines() if line.startswith("data: {")]
        kinds = [event["type"] for event in found]
        if surface == "messages":
            text = "".join(event["delta"].get("text", "") for event in found if event["type"] == "content_block_delta")
            assert kinds.count("message_start") == kinds.count("content_block_start") == kinds.count("message_stop") == 1
            assert kinds[-1] == "message_stop"
            (delta,) = [event for event in found if event["type"] == "message_delta"]
            assert delta["delta"]["stop_reason"] == "end_turn" and delta["usage"]["output_tokens"] == WORDS
        else:
            text = "".join(event["delta"] for event in found if event["type"] == "response.output_text.delta")
            assert kinds[-1] == "response.completed" and [event["sequence_number"] for event in found] == list(range(len(found)))
            assert found[-1]["response"]["output"][0]["content"][0]["text"] == WHOLE
            assert found[-1]["response"]["usage"]["output_tokens"] == WORDS
        assert text == WHOLE == "".join(words("count"))
