"""The stock `openai` Python package, sync and async, unmodified."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from tests.sdk.conftest import Served

WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
COLOUR: Any = {
    "type": "json_schema",
    "json_schema": {
        "name": "colour",
        "strict": True,
        "schema": {
            "type": "object", "properties": {"colour": {"enum": ["red", "blue"]}}, "required": ["colour"], "additionalProperties": False,
        },
    },
}  # fmt: skip


@pytest.fixture
def sdk(served: Served) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=served.url, api_key=served.key, max_retries=0, timeout=60) as client:
        yield client


def say(text: str) -> Any:
    return [{"role": "user", "content": text}]


def test_models(sdk: openai.OpenAI, served: Served) -> None:
    assert served.model in [model.id for model in sdk.models.list()]
    assert sdk.models.retrieve(served.model).id == served.model
    with pytest.raises(openai.NotFoundError):
        sdk.models.retrieve("no-such-model")


def test_chat(sdk: openai.OpenAI, served: Served) -> None:
    answer = sdk.chat.completions.create(model=served.model, messages=say("Repeat: banana"), temperature=0)
    content = answer.choices[0].message.content
    assert content is not None and "banana" in content
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None and answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_stream(sdk: openai.OpenAI, served: Served) -> None:
    whole = sdk.chat.completions.create(model=served.model, messages=say("Count to 5"), temperature=0)
    for include in (False, True):
        extra: Any = {"stream_options": {"include_usage": True}} if include else {}
        chunks = list(sdk.chat.completions.create(model=served.model, messages=say("Count to 5"), temperature=0, stream=True, **extra))
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == whole.choices[0].message.content
        assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
        assert (chunks[-1].usage is not None) == include
        if include:
            assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens  # type: ignore[union-attr]


def test_stream_helper(sdk: openai.OpenAI, served: Served) -> None:
    with sdk.chat.completions.stream(model=served.model, messages=say("Repeat: lamp"), temperature=0) as stream:
        assert "lamp" in (stream.get_final_completion().choices[0].message.content or "")


def test_several_choices(sdk: openai.OpenAI, served: Served) -> None:
    answer = sdk.chat.completions.create(model=served.model, messages=say("Repeat: tree"), n=3, temperature=0)
    assert sorted(choice.index for choice in answer.choices) == [0, 1, 2]
    chunks = list(sdk.chat.completions.create(model=served.model, messages=say("Repeat: tree"), n=2, temperature=0, stream=True))
    assert {choice.index for chunk in chunks for choice in chunk.choices} == {0, 1}


def test_stop_and_limit(sdk: openai.OpenAI, served: Served) -> None:
    stopped = sdk.chat.completions.create(model=served.model, messages=say("Repeat: banana"), temperature=0, stop=["nana"])
    assert stopped.choices[0].message.content is not None and "nana" not in stopped.choices[0].message.content
    limited = sdk.chat.completions.create(model=served.model, messages=say("Count to 9"), temperature=0, max_tokens=1)
    assert limited.choices[0].finish_reason == "length"
    assert limited.usage is not None and limited.usage.completion_tokens == 1


def test_seed(sdk: openai.OpenAI, served: Served) -> None:
    def text() -> str | None:
        asked = sdk.chat.completions.create(model=served.model, messages=say("Say something"), seed=7, temperature=1.0, max_tokens=12)
        return asked.choices[0].message.content

    assert text() == text()


def test_logprobs(sdk: openai.OpenAI, served: Served) -> None:
    answer = sdk.chat.completions.create(model=served.model, messages=say("Repeat: sun"), temperature=0, logprobs=True, top_logprobs=2)
    told = answer.choices[0].logprobs
    assert told is not None and told.content
    assert all(len(token.top_logprobs) == 2 and token.logprob <= 0 for token in told.content)


def test_json_schema(sdk: openai.OpenAI, served: Served) -> None:
    answer = sdk.chat.completions.create(model=served.model, messages=say("A colour, as JSON"), temperature=0, response_format=COLOUR)
    assert json.loads(answer.choices[0].message.content or "")["colour"] in ("red", "blue")


def test_json_object(sdk: openai.OpenAI, served: Served) -> None:
    answer = sdk.chat.completions.create(
        model=served.model, messages=say("JSON name=bob age=7"), temperature=0, response_format={"type": "json_object"}, max_tokens=60
    )
    assert isinstance(json.loads(answer.choices[0].message.content or ""), dict)


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "get_weather"}}], ids=["required", "named"])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_tools(sdk: openai.OpenAI, served: Served, choice: Any, stream: bool) -> None:
    asked: Any = {
        "model": served.model, "messages": say("What is the weather in Paris?"), "tools": [WEATHER], "tool_choice": choice,
        "temperature": 0, "max_tokens": 100,
    }  # fmt: skip
    if stream:
        with sdk.chat.completions.stream(**asked) as events:
            message: Any = events.get_final_completion().choices[0].message
    else:
        message = sdk.chat.completions.create(**asked).choices[0].message
    call = message.tool_calls[0]
    assert call.function.name == "get_weather"
    assert isinstance(json.loads(call.function.arguments)["city"], str)


def test_a_tool_round_trip(sdk: openai.OpenAI, served: Served) -> None:
    asked: Any = say("What is the weather in Paris?")
    first: Any = sdk.chat.completions.create(
        model=served.model, messages=asked, tools=[WEATHER], tool_choice="required", temperature=0, max_tokens=100
    )
    call = first.choices[0].message.tool_calls[0]
    asked += [first.choices[0].message.model_dump(exclude_none=True), {"role": "tool", "tool_call_id": call.id, "content": "sunny"}]
    last = sdk.chat.completions.create(model=served.model, messages=asked, tools=[WEATHER], temperature=0, max_tokens=50)
    assert last.choices[0].message.content


def test_no_tool_is_called_when_none_is_allowed(sdk: openai.OpenAI, served: Served) -> None:
    answer = sdk.chat.completions.create(
        model=served.model, messages=say("Repeat: rain"), tools=[WEATHER], tool_choice="none", temperature=0, max_tokens=50
    )
    assert not answer.choices[0].message.tool_calls and answer.choices[0].message.content


def test_completions(sdk: openai.OpenAI, served: Served) -> None:
    answer = sdk.completions.create(model=served.model, prompt="one two", max_tokens=4, temperature=0)
    parts = sdk.completions.create(model=served.model, prompt="one two", max_tokens=4, temperature=0, stream=True)
    assert "".join(part.choices[0].text for part in parts) == answer.choices[0].text


@pytest.mark.parametrize("encoding", ["float", "base64", None])
def test_embeddings(sdk: openai.OpenAI, served: Served, encoding: Any) -> None:
    extra = {} if encoding is None else {"encoding_format": encoding}
    answer = sdk.embeddings.create(model=served.model, input=["red", "blue", "red"], **extra)
    first, second, third = (row.embedding for row in answer.data)
    if encoding != "base64":
        assert len(first) == len(second) > 1 and first == pytest.approx(third, abs=1e-3)
    assert [row.index for row in answer.data] == [0, 1, 2]


def test_errors_have_the_types_that_the_sdk_knows(served: Served) -> None:
    with openai.OpenAI(base_url=served.url, api_key="sk-wrong", max_retries=0) as wrong, pytest.raises(openai.AuthenticationError):
        wrong.models.list()
    with openai.OpenAI(base_url=served.url, api_key=served.key, max_retries=0) as sdk:
        with pytest.raises(openai.NotFoundError, match="no-such"):
            sdk.chat.completions.create(model="no-such", messages=say("x"))
        with pytest.raises(openai.BadRequestError) as caught:
            sdk.chat.completions.create(model=served.model, messages=say("x"), stream="perhaps")  # type: ignore[call-overload]
        assert caught.value.request_id and caught.value.body["origin"] == "client"  # type: ignore[index]


def test_async_sdk_many_at_once(served: Served) -> None:
    async def one(sdk: openai.AsyncOpenAI, word: str) -> str:
        stream = await sdk.chat.completions.create(model=served.model, messages=say(f"Repeat: {word}"), temperature=0, stream=True)
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices])

    async def all_of_them(words: list[str]) -> list[str]:
        async with openai.AsyncOpenAI(base_url=served.url, api_key=served.key, max_retries=0, timeout=60) as sdk:
            listed = [model.id async for model in sdk.models.list()]
            assert served.model in listed
            return await asyncio.gather(*(one(sdk, word) for word in words))

    words = ["apple", "river", "stone", "cloud", "tiger", "house", "chair", "lemon"]
    for word, said in zip(words, asyncio.run(all_of_them(words)), strict=True):
        assert said and (served.real or word in said)


def test_leaving_a_stream_early(sdk: openai.OpenAI, served: Served) -> None:
    stream = sdk.chat.completions.create(model=served.model, messages=say("Count to 9"), temperature=0, stream=True)
    next(iter(stream))
    stream.close()
    test_chat(sdk, served)
