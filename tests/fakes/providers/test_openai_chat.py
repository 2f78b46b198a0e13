"""The scripted OpenAI's chat completions, driven by the official SDK and by hand."""

from __future__ import annotations

import base64
import json

import httpx
import openai
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from tests.fakes.providers.brain import CONVERSATION, SYSTEM, WEATHER, Call, Step, expect
from tests.fakes.providers.common import Fault
from tests.fakes.providers.media import PDF, wav
from tests.fakes.providers.openai_asks import HI, OBJECT, Doc, F, asking, called, exact, form, post, refused, saying, told, uri
from tests.fakes.providers.openai_chat import KEY, OpenAIChat

TOOL = {
    "type": "function",
    "function": {"name": WEATHER.name, "description": WEATHER.description, "parameters": WEATHER.schema, "strict": True},
}


def ask(step: Step, model: str, history: list[Doc]) -> Doc:
    """The next request of the conversation; `history` grows."""
    if step.results:
        for call in history[-1]["tool_calls"]:
            city = json.loads(call["function"]["arguments"])["city"]
            history.append({"role": "tool", "tool_call_id": call["id"], "content": step.results[city]})
    elif step.media:
        picture = {"type": "image_url", "image_url": {"url": uri(step.media.media_type, step.media.data)}}
        history.append({"role": "user", "content": [{"type": "text", "text": step.text}, picture]})
    else:
        history.append({"role": "user", "content": step.text})
    doc: Doc = {"model": model, "messages": [{"role": "developer", "content": SYSTEM}, *history]}
    if step.tools:
        doc |= {"tools": [TOOL], "parallel_tool_calls": True}
    if step.schema:
        doc["response_format"] = {"type": "json_schema", "json_schema": {"name": "report", "strict": True, "schema": step.schema}}
    if step.thinking:
        doc["reasoning_effort"] = "low"
    return doc


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("shows", ["", "reasoning_content"])
def test_the_conversation(shows: str, stream: bool) -> None:
    fake = OpenAIChat(shows=shows)
    history: list[Doc] = []
    with fake.serving() as root, openai.OpenAI(base_url=root + "/v1", api_key=KEY, max_retries=0, timeout=20) as client:
        for step in CONVERSATION:
            doc = ask(step, "gpt-5", history)
            if stream:
                with client.chat.completions.stream(**{**doc, "stream_options": {"include_usage": True}}) as events:
                    said = events.get_final_completion()
            else:
                said = client.chat.completions.create(**doc)
            message, thought = said.choices[0].message, said.usage
            assert said.choices[0].finish_reason == ("tool_calls" if step.calls else "stop")
            assert thought and thought.completion_tokens_details
            assert bool(thought.completion_tokens_details.reasoning_tokens) == (step.thinking and not step.results)
            calls = [Call(one.function.name, json.loads(one.function.arguments), one.id) for one in message.tool_calls or ()]  # type: ignore[union-attr]
            thinking = getattr(message, shows, None) or "" if shows else None
            expect(step, message.content, calls, thinking)
            kept = message.model_dump(exclude_unset=True, exclude={"parsed", "annotations"})
            if not kept.get("tool_calls"):
                kept.pop("tool_calls", None)  # the streaming helper says null, which the service refuses
            for call in kept.get("tool_calls", ()):
                call["function"].pop("parsed_arguments", None)
                call.pop("index", None)
            history.append(kept)
    assert len(fake.docs) == 6 and fake.rejected == []


def test_what_is_taken() -> None:
    """Things that a careless fake would refuse."""
    fake = OpenAIChat()
    with fake.serving() as root:
        for model, doc in (
            ("gpt-4o", saying(HI, called(arguments=""), told(content=[{"type": "text", "text": "a"}]))),
            ("gpt-4o", saying({"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]}, HI)),
            ("gpt-5", asking(temperature=1, n=1, presence_penalty=0, seed=7, service_tier="auto", store=False)),
            ("gpt-5.2", asking(temperature=0.2, stop="x", logprobs=True, top_logprobs=2)),
            ("gpt-4o", asking(stop=None, tools=[F], tool_choice="required", parallel_tool_calls=False)),
            ("gpt-4o", form({**OBJECT, "properties": {"a": {"$ref": "#/$defs/x"}}, "$defs": {"x": {"type": "string"}}})),
        ):
            assert post(root, {"model": model, **doc}).status_code == 200, fake.rejected
        assert httpx.get(root + "/v1/models", headers={"authorization": f"Bearer {KEY}"}).json()["data"][0]["id"] == "gpt-4o"


def test_what_is_asked_for_is_done() -> None:
    with OpenAIChat().serving() as root:
        reply = post(root, {"model": "gpt-4o", **asking(n=2, max_completion_tokens=2, logprobs=True, top_logprobs=1)}).json()
        assert [one["finish_reason"] for one in reply["choices"]] == ["length", "length"]
        assert [len(row["top_logprobs"]) for row in reply["choices"][0]["logprobs"]["content"]] == [1, 1]
        named = post(root, {"model": "gpt-4o", **asking(tools=[F], tool_choice={"type": "function", "function": {"name": "f"}})}).json()
        assert named["choices"][0]["finish_reason"] == "stop" and named["choices"][0]["message"]["tool_calls"]
        made = post(
            root, {"model": "gpt-4o", **saying({"role": "user", "content": "in json"}), "response_format": {"type": "json_object"}}
        ).json()
        assert json.loads(made["choices"][0]["message"]["content"]) == {"echo": "in json"}
        files = [
            {"type": "file", "file": {"file_data": uri("application/pdf", PDF), "filename": "a.pdf"}},
            {"type": "input_audio", "input_audio": {"data": base64.b64encode(wav()).decode(), "format": "wav"}},
            {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}},
        ]
        seen = post(root, {"model": "gpt-4o", **saying({"role": "user", "content": files})}).json()["choices"][0]["message"]["content"]
        assert seen == f"I see a pdf of {len(PDF)} bytes and a wav of 60 bytes and a unknown of 25 bytes."


def test_chunks() -> None:
    asked = {
        "model": "gpt-4o",
        "stream": True,
        "stream_options": {"include_usage": True},
        "tools": [TOOL],
        "messages": [{**HI, "content": "in Oslo"}],
    }
    with OpenAIChat().serving() as root:
        events = post(root, asked).text.split("\n\n")
    docs = [json.loads(one.removeprefix("data: ")) for one in events[:-2]]
    assert events[-2:] == ["data: [DONE]", ""]
    deltas = [choice["delta"] for doc in docs for choice in doc["choices"]]
    assert deltas[0] == {"role": "assistant", "content": None, "refusal": None} and deltas[-1] == {}
    begun = deltas[1]["tool_calls"][0]
    assert (begun["index"], begun["type"], begun["function"]) == (0, "function", {"name": "get_weather", "arguments": ""})
    assert "".join(delta["tool_calls"][0]["function"]["arguments"] for delta in deltas[1:-1]) == '{"city":"Oslo"}'
    assert [doc["usage"] is None for doc in docs] == [True] * (len(docs) - 1) + [False] and docs[-1]["choices"] == []


def test_every_field_is_one_of_the_sdk() -> None:
    """The SDK reads leniently; here its types are held against each document, required fields and unknown ones too."""
    doc = {
        "model": "gpt-4o",
        "messages": [{**HI, "content": "say what you do in Oslo"}],
        "tools": [TOOL],
        "logprobs": True,
        "top_logprobs": 1,
    }
    with OpenAIChat().serving() as root:
        exact(ChatCompletion.model_validate(post(root, doc).json()))
        events = post(root, {**doc, "stream": True, "stream_options": {"include_usage": True}}).text.split("\n\n")[:-2]
    for one in events:
        exact(ChatCompletionChunk.model_validate_json(one.removeprefix("data: ")))


def test_embeddings() -> None:
    with OpenAIChat().serving() as root, openai.OpenAI(base_url=root + "/v1", api_key=KEY, max_retries=0, timeout=20) as client:
        found = client.embeddings.create(model="text-embedding-3-small", input=["a", "bb"], dimensions=2)
        assert [row.embedding for row in found.data] == [[1 / 64, 2 / 64], [2 / 64, 3 / 64]]
        floats = client.embeddings.create(model="text-embedding-3-large", input="a", encoding_format="float")
        assert len(floats.data[0].embedding) == 3072
        refused(
            "none", post(root, {"model": "text-embedding-3-small", "input": []}, "/v1/embeddings"), "empty array", "input", "empty_array"
        )
        refused("model", post(root, {"model": "gpt-4o", "input": "a"}, "/v1/embeddings"), "does not exist", None, "model_not_found", 404)


def test_faults_as_the_sdk_reads_them() -> None:
    fake = OpenAIChat()
    with fake.serving() as root, openai.OpenAI(base_url=root + "/v1", api_key=KEY, max_retries=0, timeout=20) as client:
        fake.fail(Fault(429, headers=(("retry-after-ms", "40"),)), Fault(429, kind="insufficient_quota"), Fault(503))
        with pytest.raises(openai.RateLimitError) as limited:
            client.chat.completions.create(model="gpt-4o", messages=[HI])  # type: ignore[list-item]
        assert limited.value.code == "rate_limit_exceeded" and limited.value.response.headers["retry-after-ms"] == "40"
        with pytest.raises(openai.RateLimitError) as spent:
            client.chat.completions.create(model="gpt-4o", messages=[HI])  # type: ignore[list-item]
        assert spent.value.code == "insufficient_quota"
        with pytest.raises(openai.InternalServerError):
            client.chat.completions.create(model="gpt-4o", messages=[HI])  # type: ignore[list-item]
        fake.fail(Fault(after=2, error=True, message="The server had an error"))
        with pytest.raises(openai.APIError, match="The server had an error"):
            list(client.chat.completions.create(model="gpt-4o", messages=[HI], stream=True))  # type: ignore[list-item]
        fake.fail(Fault(after=2))
        with pytest.raises((httpx.RemoteProtocolError, openai.APIConnectionError)):
            list(client.chat.completions.create(model="gpt-4o", messages=[HI], stream=True))  # type: ignore[list-item]
