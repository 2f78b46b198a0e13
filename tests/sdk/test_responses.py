"""`responses` of the stock `openai` Python package, unmodified: create, stream, parse, follow, fetch, delete."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any, Literal

import openai
import pytest
from pydantic import BaseModel

from tests.sdk.conftest import Served

WEATHER: Any = {
    "type": "function", "name": "get_weather", "description": "The weather of a city", "strict": True,
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"], "additionalProperties": False},
}  # fmt: skip


class Colour(BaseModel):
    """What is asked for."""

    colour: Literal["red", "blue"]


@pytest.fixture
def sdk(served: Served) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=served.url, api_key=served.key, max_retries=0, timeout=60) as client:
        yield client


def test_a_response(sdk: openai.OpenAI, served: Served) -> None:
    response = sdk.responses.create(model=served.model, input="Repeat: banana", temperature=0, instructions="Be brief.")
    assert "banana" in response.output_text and response.status == "completed" and response.instructions == "Be brief."
    assert response.usage is not None and response.usage.total_tokens == response.usage.input_tokens + response.usage.output_tokens
    assert response.id.startswith("resp_") and response._request_id


def test_a_stream(sdk: openai.OpenAI, served: Served) -> None:
    asked: Any = {"model": served.model, "input": "Count to 5", "temperature": 0}
    whole = sdk.responses.create(**asked)
    events = list(sdk.responses.create(**asked, stream=True))
    assert [event.sequence_number for event in events] == [*range(len(events))]
    assert [event.type for event in events[:2]] == ["response.created", "response.in_progress"]
    last: Any = events[-1]
    assert last.type == "response.completed" and last.response.output_text == whole.output_text
    with sdk.responses.stream(**asked) as stream:
        said = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
        assert said == whole.output_text == stream.get_final_response().output_text


def test_a_conversation_by_reference(sdk: openai.OpenAI, served: Served) -> None:
    first = sdk.responses.create(model=served.model, input="Repeat: banana", temperature=0)
    asked: Any = {"model": served.model, "input": "Repeat: pear", "temperature": 0, "previous_response_id": first.id}
    second = sdk.responses.create(**asked)
    assert first.usage is not None and second.usage is not None
    assert second.previous_response_id == first.id and second.usage.input_tokens > first.usage.input_tokens
    (streamed,) = [event.response for event in sdk.responses.create(**asked, stream=True) if event.type == "response.completed"]
    assert streamed.usage is not None and streamed.usage.input_tokens == second.usage.input_tokens
    alone = sdk.responses.input_tokens.count(model=served.model, input="Repeat: pear").input_tokens
    behind = sdk.responses.input_tokens.count(model=served.model, input="Repeat: pear", previous_response_id=first.id).input_tokens
    assert 0 < alone < behind


def test_fetch_list_and_delete(sdk: openai.OpenAI, served: Served) -> None:
    made = sdk.responses.create(model=served.model, input=[{"role": "user", "content": "Repeat: lamp"}], temperature=0, metadata={"a": "b"})
    found = sdk.responses.retrieve(made.id)
    assert found == made and found.metadata == {"a": "b"}
    (item,) = sdk.responses.input_items.list(made.id).data
    assert item.type == "message" and item.content[0].text == "Repeat: lamp"  # type: ignore[union-attr]
    referred: Any = [{"type": "item_reference", "id": item.id}]
    assert "lamp" in sdk.responses.create(model=served.model, input=referred, temperature=0).output_text
    sdk.responses.delete(made.id)
    for attempt in (
        lambda: sdk.responses.retrieve(made.id),
        lambda: sdk.responses.delete(made.id),
        lambda: sdk.responses.input_items.list(made.id),
    ):
        with pytest.raises(openai.NotFoundError):
            attempt()
    with pytest.raises(openai.BadRequestError) as caught:
        sdk.responses.create(model=served.model, input="x", previous_response_id=made.id)
    assert caught.value.code == "previous_response_not_found"
    unkept = sdk.responses.create(model=served.model, input="Repeat: sun", temperature=0, store=False)
    with pytest.raises(openai.NotFoundError):
        sdk.responses.retrieve(unkept.id)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_tools(sdk: openai.OpenAI, served: Served, stream: bool) -> None:
    asked: Any = {
        "model": served.model, "input": "What is the weather in Paris?", "tools": [WEATHER], "tool_choice": "required", "temperature": 0,
        "max_output_tokens": 100,
    }  # fmt: skip
    if stream:
        with sdk.responses.stream(**asked) as events:
            response: Any = events.get_final_response()
    else:
        response = sdk.responses.create(**asked)
    (call,) = [item for item in response.output if item.type == "function_call"]
    assert call.name == "get_weather" and isinstance(json.loads(call.arguments)["city"], str)
    result: Any = [{"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}]
    last = sdk.responses.create(model=served.model, input=result, previous_response_id=response.id, tools=[WEATHER], max_output_tokens=50)
    assert last.output


def test_parse(sdk: openai.OpenAI, served: Served) -> None:
    parsed = sdk.responses.parse(model=served.model, input="A colour, as JSON", text_format=Colour, temperature=0).output_parsed
    assert parsed is not None and parsed.colour in ("red", "blue")


def test_errors_have_the_types_that_the_sdk_knows(sdk: openai.OpenAI, served: Served) -> None:
    with openai.OpenAI(base_url=served.url, api_key="sk-wrong", max_retries=0) as wrong:
        for attempt in (lambda: wrong.responses.create(model=served.model, input="x"), lambda: wrong.responses.retrieve("resp_1")):
            with pytest.raises(openai.AuthenticationError):
                attempt()
    with pytest.raises(openai.NotFoundError, match="no-such"):
        sdk.responses.create(model="no-such", input="x")
    for param, value in (("background", True), ("tools", [{"type": "web_search"}]), ("conversation", "conv_1")):
        with pytest.raises(openai.BadRequestError) as caught:
            sdk.responses.create(model=served.model, input="x", **{param: value})  # type: ignore[call-overload]
        assert str(caught.value.param).startswith(param), caught.value
    with pytest.raises(openai.APIStatusError) as method:
        sdk.post("/responses/resp_1", cast_to=object)
    assert method.value.status_code == 405


def test_async_many_at_once(served: Served) -> None:
    async def one(sdk: openai.AsyncOpenAI, word: str) -> str:
        async with sdk.responses.stream(model=served.model, input=f"Repeat: {word}", temperature=0) as stream:
            return (await stream.get_final_response()).output_text

    async def all_of_them(words: list[str]) -> list[str]:
        async with openai.AsyncOpenAI(base_url=served.url, api_key=served.key, max_retries=0, timeout=60) as sdk:
            return await asyncio.gather(*(one(sdk, word) for word in words))

    words = ["apple", "river", "stone", "cloud"]
    for word, said in zip(words, asyncio.run(all_of_them(words)), strict=True):
        assert said and (served.real or word in said)
