"""A plain OpenAI client, which has never heard of signatures, has a conversation with thinking and tools on providers that insist on
them: their scripted servers refuse a turn whose thinking is missing or is not their own."""

from __future__ import annotations

import base64
import itertools
import json
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import openai
import pytest

from backends.dialects.gemini_contents import NO_SIGNATURE
from backends.dialects.sidecar_wire import MARK
from gateway.config import parse
from tests.fakes.providers import anthropic, bedrock, gemini
from tests.fakes.providers.brain import CONVERSATION, SYSTEM, WEATHER, Step, expect
from tests.fakes.providers.brain import Call as Asked
from tests.fakes.providers.common import Provider
from tests.harness import Running, running

KINDS = ["anthropic", "gemini", "bedrock"]
PICTURE = base64.b64encode(next(step.media.data for step in CONVERSATION if step.media is not None)).decode()
MODELS = {
    "anthropic": "claude-sonnet-4-5-20250929", "gemini": "gemini-3-pro-preview", "bedrock": "us.anthropic.claude-sonnet-4-5-20250929-v1:0",
}  # fmt: skip


def backend(kind: str, root: str) -> dict[str, Any]:
    if kind == "anthropic":
        return {"kind": kind, "url": root, "key": anthropic.KEY}
    if kind == "gemini":
        return {"kind": kind, "url": f"{root}/v1beta", "key": gemini.KEY}
    return {"kind": kind, "url": root, "region": bedrock.REGION}


def fake(kind: str) -> Provider:
    return {"anthropic": anthropic.Anthropic, "gemini": gemini.Gemini, "bedrock": bedrock.Bedrock}[kind]()


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", bedrock.KEY_ID)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", bedrock.SECRET)


@contextmanager
def gateways(fakes: dict[str, Provider], count: int = 1, **server: Any) -> Iterator[list[Running]]:
    """Gateways with one route for each provider."""
    with ExitStack() as stack:
        roots = {kind: stack.enter_context(provider.serving()) for kind, provider in fakes.items()}
        tree = {
            "server": {"port": 0, "admin": {"port": None}, "log": {"level": "error"}, **server},
            "backends": {kind: backend(kind, root) for kind, root in roots.items()},
            "routes": {
                kind: {"targets": [{"backend": kind, "model": MODELS[kind]}], "retries": 0, "on_unsupported": "drop"} for kind in roots
            },
        }
        yield [stack.enter_context(running(parse(json.dumps(tree), {}))) for _ in range(count)]


class Plain:
    """The client: of an answer it keeps a text and tool calls, and nothing else."""

    def __init__(self, stream: bool) -> None:
        self.stream = stream
        self.messages: list[Any] = [{"role": "system", "content": SYSTEM}]
        self.waiting: list[tuple[str, str]] = []  # calls that want a result: id and city

    def turn(self, gateway: Running, model: str, step: Step) -> list[Asked]:
        if step.results:
            said = [(id, step.results[city]) for id, city in self.waiting]  # in the order of the calls
            self.messages += [{"role": "tool", "tool_call_id": id, "content": text} for id, text in said]
        elif step.media is not None:
            data = base64.b64encode(step.media.data).decode()
            image = {"type": "image_url", "image_url": {"url": f"data:{step.media.media_type};base64,{data}"}}
            self.messages.append({"role": "user", "content": [{"type": "text", "text": step.text}, image]})
        else:
            self.messages.append({"role": "user", "content": step.text})
        message = self.ask(gateway, model, step)
        kept: dict[str, Any] = {"role": "assistant", "content": message.content}
        calls = message.tool_calls or []
        if calls:
            kept["tool_calls"] = [call.model_dump(include={"id", "type", "function"}) for call in calls]
        self.messages.append(kept)
        self.waiting = [(call.id, json.loads(call.function.arguments)["city"]) for call in calls]
        found = [Asked(call.function.name, json.loads(call.function.arguments), call.id) for call in calls]
        expect(step, message.content, found)
        return found

    def ask(self, gateway: Running, model: str, step: Step) -> Any:
        more: dict[str, Any] = {}
        if step.thinking:
            more["reasoning_effort"] = "medium"
        if step.tools:
            weather = {"name": WEATHER.name, "description": WEATHER.description, "parameters": WEATHER.schema}
            more["tools"] = [{"type": "function", "function": weather}]
        if step.schema is not None:
            schema = {"name": "report", "schema": step.schema, "strict": True}
            more["response_format"] = {"type": "json_schema", "json_schema": schema}
        with openai.OpenAI(base_url=gateway.url, api_key="none", max_retries=0, timeout=60) as client:
            if not self.stream:
                return client.chat.completions.create(model=model, messages=self.messages, **more).choices[0].message
            with client.chat.completions.stream(model=model, messages=self.messages, **more) as events:
                return events.get_final_completion().choices[0].message


def signed(body: bytes) -> set[str]:
    """The signatures in a request, whoever's."""
    found = re.findall(r'"(?:signature|thoughtSignature|data)": ?"([^"]{20,})"', body.decode())
    return {value for value in found if value not in (NO_SIGNATURE, PICTURE)}


WAYS = pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])


@WAYS
@pytest.mark.parametrize("kind", KINDS)
def test_a_conversation_with_one_provider(kind: str, stream: bool) -> None:
    """What a provider signed comes back to it from the second turn of the tools on."""
    provider = fake(kind)
    with gateways({kind: provider}) as (gateway,):
        client = Plain(stream)
        for step in CONVERSATION:
            client.turn(gateway, kind, step)
    assert not provider.rejected
    assert not signed(provider.requests[0].body) and signed(provider.requests[2].body)


@WAYS
@pytest.mark.parametrize("kind", KINDS)
def test_many_gateways_share_nothing_but_the_ids(kind: str, stream: bool) -> None:
    """Each turn goes to another gateway: with `tool_state: id` what the calls need travels in their ids."""
    provider = fake(kind)
    with gateways({kind: provider}, 2, tool_state="id") as two:
        client = Plain(stream)
        ids = []
        for step, gateway in zip(CONVERSATION, itertools.cycle(two)):
            ids += [call.id for call in client.turn(gateway, kind, step)]
    assert not provider.rejected
    assert MARK in ids[0] and len(set(ids)) == 2
    assert signed(provider.requests[2].body)
    assert all(MARK.encode() not in request.body for request in provider.requests)  # it is ours alone


@WAYS
@pytest.mark.parametrize(("first", "then"), [*itertools.permutations(KINDS, 2)])
def test_a_conversation_that_moves_to_another_provider(first: str, then: str, stream: bool) -> None:
    """Signatures of one never reach another, unless they are Claude's on both sides; the conversation goes on."""
    fakes = {first: fake(first), then: fake(then)}
    fakes[then].secret = fakes[first].secret  # Claude's signatures hold wherever Claude is
    with gateways(fakes) as (gateway,):
        client = Plain(stream)
        for step, kind in zip(CONVERSATION, [first, first, then, then, then, first], strict=True):
            client.turn(gateway, kind, step)
    assert not fakes[first].rejected and not fakes[then].rejected
    theirs = signed(fakes[then].requests[0].body)
    assert bool(theirs) == ("gemini" not in (first, then))
