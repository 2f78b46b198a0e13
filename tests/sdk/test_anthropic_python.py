"""The stock `anthropic` Python package, sync and async, unmodified: every model behind the gateway is one of Messages."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import anthropic
import pytest

from tests.sdk.conftest import Served

WEATHER: Any = {
    "name": "get_weather", "description": "The weather of a city",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}  # fmt: skip

COLD = {"temperature": 0}  # no argument of the SDK's any more


@pytest.fixture
def sdk(served: Served) -> Iterator[anthropic.Anthropic]:
    with client(served) as made:
        yield made


def client(served: Served, **more: Any) -> anthropic.Anthropic:
    base = served.url.removesuffix("/v1")
    return anthropic.Anthropic(**{"base_url": base, "api_key": served.key, "max_retries": 0, "timeout": 60, **more})


def say(text: str) -> Any:
    return [{"role": "user", "content": text}]


def text_of(message: Any) -> str:
    return "".join(block.text for block in message.content if block.type == "text")


def test_a_message(sdk: anthropic.Anthropic, served: Served) -> None:
    message = sdk.messages.create(model=served.model, max_tokens=50, messages=say("Repeat: banana"), extra_body=COLD)
    assert "banana" in text_of(message) and message.stop_reason == "end_turn" and message.role == "assistant"
    assert message.usage.input_tokens > 0 and message.usage.output_tokens > 0
    assert message.id.startswith("msg_") and message._request_id


def test_a_bearer_does_as_well(served: Served) -> None:
    with client(served, api_key=None, auth_token=served.key) as sdk:
        assert "sun" in text_of(sdk.messages.create(model=served.model, max_tokens=50, messages=say("Repeat: sun"), extra_body=COLD))


def test_a_stream(sdk: anthropic.Anthropic, served: Served) -> None:
    asked: Any = {"model": served.model, "max_tokens": 50, "messages": say("Count to 5"), "extra_body": COLD}
    whole = sdk.messages.create(**asked)
    events = list(sdk.messages.create(**asked, stream=True))
    kinds = [event.type for event in events]
    assert kinds[0] == "message_start" and kinds[-2:] == ["message_delta", "message_stop"]
    assert kinds.count("content_block_start") == kinds.count("content_block_stop") == len(whole.content)
    with sdk.messages.stream(**asked) as stream:
        said = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert said == text_of(whole) == text_of(final)
    assert final.stop_reason == whole.stop_reason and final.usage.output_tokens == whole.usage.output_tokens


def test_system_stops_and_limits(sdk: anthropic.Anthropic, served: Served) -> None:
    stopped = sdk.messages.create(
        model=served.model, max_tokens=50, messages=say("Repeat: banana"), extra_body=COLD, stop_sequences=["nana"], system="Be brief."
    )
    assert "nana" not in text_of(stopped)
    limited = sdk.messages.create(model=served.model, max_tokens=1, messages=say("Count to 9"), extra_body=COLD)
    assert limited.stop_reason == "max_tokens" and limited.usage.output_tokens == 1


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("choice", [{"type": "any"}, {"type": "tool", "name": "get_weather"}], ids=["any", "named"])
def test_tools(sdk: anthropic.Anthropic, served: Served, choice: Any, stream: bool) -> None:
    asked: Any = {
        "model": served.model, "max_tokens": 100, "messages": say("What is the weather in Paris?"), "tools": [WEATHER],
        "tool_choice": choice, "extra_body": COLD,
    }  # fmt: skip
    if stream:
        with sdk.messages.stream(**asked) as events:
            message: Any = events.get_final_message()
    else:
        message = sdk.messages.create(**asked)
    call = next(block for block in message.content if block.type == "tool_use")
    assert message.stop_reason == "tool_use" and call.name == "get_weather" and isinstance(call.input["city"], str)
    turns = [
        *asked["messages"], {"role": "assistant", "content": [b.model_dump(exclude_none=True) for b in message.content]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": call.id, "content": "sunny"}]},
    ]  # fmt: skip
    last = sdk.messages.create(model=served.model, max_tokens=50, messages=turns, tools=[WEATHER], extra_body=COLD)
    assert last.content


def test_counting(sdk: anthropic.Anthropic, served: Served) -> None:
    short = sdk.messages.count_tokens(model=served.model, messages=say("Hello")).input_tokens
    long = sdk.messages.count_tokens(model=served.model, messages=say("Hello " * 50), tools=[WEATHER], system="Be brief.").input_tokens
    assert 0 < short < long


def test_errors_are_anthropics(sdk: anthropic.Anthropic, served: Served) -> None:
    with client(served, api_key="sk-wrong") as wrong, pytest.raises(anthropic.AuthenticationError):
        wrong.messages.create(model=served.model, max_tokens=5, messages=say("x"))
    with client(served, api_key="sk-wrong") as wrong, pytest.raises(anthropic.AuthenticationError):
        wrong.messages.count_tokens(model=served.model, messages=say("x"))
    with pytest.raises(anthropic.NotFoundError, match="no-such") as missing:
        sdk.messages.create(model="no-such", max_tokens=5, messages=say("x"))
    assert missing.value.type == "not_found_error" and missing.value.request_id
    with pytest.raises(anthropic.NotFoundError, match="no-such"):
        sdk.messages.count_tokens(model="no-such", messages=say("x"))
    with pytest.raises(anthropic.BadRequestError, match="max_tokens"):
        sdk.messages.create(model=served.model, max_tokens=0, messages=say("x"))
    body: Any = None
    with pytest.raises(anthropic.BadRequestError) as caught:
        sdk.messages.create(model=served.model, max_tokens=5, messages=[{"role": "judge", "content": "x"}])  # type: ignore[typeddict-item]
    body = caught.value.body
    assert body["type"] == "error" and body["error"]["type"] == "invalid_request_error" and "messages" in body["error"]["message"]


def test_structured_output(sdk: anthropic.Anthropic, served: Served) -> None:
    schema = {"type": "object", "properties": {"colour": {"enum": ["red", "blue"]}}, "required": ["colour"], "additionalProperties": False}
    message = sdk.messages.create(
        model=served.model, max_tokens=60, messages=say("A colour, as JSON"), extra_body=COLD,
        output_config={"format": {"type": "json_schema", "schema": schema}},
    )  # fmt: skip
    assert json.loads(text_of(message))["colour"] in ("red", "blue")


def test_async_many_at_once(served: Served) -> None:
    async def one(sdk: anthropic.AsyncAnthropic, word: str) -> str:
        async with sdk.messages.stream(model=served.model, max_tokens=50, messages=say(f"Repeat: {word}"), extra_body=COLD) as stream:
            return "".join([text async for text in stream.text_stream])

    async def all_of_them(words: list[str]) -> list[str]:
        base = served.url.removesuffix("/v1")
        async with anthropic.AsyncAnthropic(base_url=base, api_key=served.key, max_retries=0, timeout=60) as sdk:
            assert (await sdk.messages.count_tokens(model=served.model, messages=say("x"))).input_tokens > 0
            return await asyncio.gather(*(one(sdk, word) for word in words))

    words = ["apple", "river", "stone", "cloud"]
    for word, said in zip(words, asyncio.run(all_of_them(words)), strict=True):
        assert said and (served.real or word in said)
