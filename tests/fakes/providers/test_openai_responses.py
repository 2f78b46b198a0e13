"""The scripted OpenAI's Responses API, driven by the official SDK and by hand."""

from __future__ import annotations

import json
from typing import Any

import httpx
import openai
import pytest
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from tests.fakes.providers.brain import CONVERSATION, SYSTEM, Call, Step, expect
from tests.fakes.providers.common import Fault, seal
from tests.fakes.providers.media import PDF, wav
from tests.fakes.providers.openai_asks import CALL, ITEM, OUT, RESPONSES, WEATHER_TOOL, Doc, exact, fetch, post, put, refused, spoken, uri
from tests.fakes.providers.openai_chat import KEY
from tests.fakes.providers.openai_responses import OpenAIResponses


def added(step: Step, calls: list[tuple[str, str]]) -> list[Doc]:
    """The items that the client adds. `calls`: (call id, city) of the answer before."""
    if step.results:
        return [{"type": "function_call_output", "call_id": name, "output": step.results[city]} for name, city in calls]
    if step.media:
        picture = {"type": "input_image", "image_url": uri(step.media.media_type, step.media.data), "detail": "auto"}
        return [{"role": "user", "content": [{"type": "input_text", "text": step.text}, picture]}]
    return [{"role": "user", "content": step.text}]


def settings(step: Step) -> Doc:
    doc: Doc = {"model": "gpt-5", "instructions": SYSTEM}
    if step.tools:
        doc |= {"tools": [WEATHER_TOOL], "parallel_tool_calls": True}
    if step.schema:
        doc["text"] = {"format": {"type": "json_schema", "name": "report", "strict": True, "schema": step.schema}}
    if step.thinking:
        doc["reasoning"] = {"effort": "low", "summary": "auto"}
    return doc


def check(step: Step, said: Response) -> list[tuple[str, str]]:
    found = [item for item in said.output if item.type == "function_call"]
    calls = [Call(item.name, json.loads(item.arguments), item.call_id) for item in found]
    thinking = "".join(part.text for item in said.output if item.type == "reasoning" for part in item.summary)
    expect(step, said.output_text, calls, thinking)
    assert said.status == "completed" and said.usage
    assert bool(said.usage.output_tokens_details.reasoning_tokens) == bool(thinking)
    return [(call.id, call.arguments["city"]) for call in calls]


def send(client: openai.OpenAI, doc: Doc, stream: bool) -> Response:
    if not stream:
        return client.responses.create(**doc)
    with client.responses.stream(**doc) as events:
        seen = list(events)
        said = events.get_final_response()
    assert [one.sequence_number for one in seen] == list(range(len(seen)))
    assert [one.type for one in seen[:2]] == ["response.created", "response.in_progress"] and seen[-1].type == "response.completed"
    return said


def sent_back(item: Doc) -> Doc:
    """An output item as input: without what the SDK's streaming helper parsed into it."""
    content = [{key: value for key, value in part.items() if key != "parsed"} for part in item.get("content") or ()]
    return {key: value for key, value in item.items() if key != "parsed_arguments"} | ({"content": content} if content else {})


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("state", ["stored", "whole", "sealed"])
def test_the_conversation(state: str, stream: bool) -> None:
    """By `previous_response_id`; by sending all items back; and without the service keeping anything, by sealed reasoning."""
    fake = OpenAIResponses()
    calls: list[tuple[str, str]] = []
    items: list[Doc] = []
    before: str | None = None
    with fake.serving() as root, openai.OpenAI(base_url=root + "/v1", api_key=KEY, max_retries=0, timeout=20) as client:
        for step in CONVERSATION:
            items += added(step, calls)
            doc = {**settings(step), "input": added(step, calls) if state == "stored" else items}
            if state == "stored" and before:
                doc["previous_response_id"] = before
            if state == "sealed":
                doc |= {"store": False, "include": ["reasoning.encrypted_content"]}
            said = send(client, doc, stream)
            calls, before = check(step, said), said.id
            items += [sent_back(item.model_dump(exclude_unset=True)) for item in said.output]
    assert len(fake.docs) == 6 and fake.rejected == []
    assert len(fake.stored) == (0 if state == "sealed" else 6)


def test_a_call_wants_its_reasoning_back() -> None:
    fake = OpenAIResponses()
    asked = {"model": "gpt-5", "tools": [WEATHER_TOOL], "reasoning": {"effort": "low"}, "input": "weather in Oslo"}
    with fake.serving() as root:
        thought, call = post(root, asked, RESPONSES).json()["output"]
        out = {**OUT, "call_id": call["call_id"]}
        refused(
            "alone",
            post(root, {**asked, "input": [ITEM, call, out]}, RESPONSES),
            f"without its required 'reasoning' item: '{thought['id']}'",
            "input",
            None,
        )
        nameless = {key: value for key, value in call.items() if key != "id"}
        for items in ([thought, call, out], [nameless, out]):
            assert post(root, {**asked, "input": [ITEM, *items]}, RESPONSES).json()["output"][0]["content"][0]["text"] == "Oslo: fine."


def test_what_is_kept() -> None:
    fake = OpenAIResponses()
    with fake.serving() as root:
        doc = post(root, {"model": "gpt-4o", "input": "hello", "metadata": {"a": "b"}}, RESPONSES).json()
        assert fetch(root, f"{RESPONSES}/{doc['id']}").json() == doc and doc["metadata"] == {"a": "b"}
        assert fetch(root, f"{RESPONSES}/{doc['id']}/input_items").json()["data"][0]["content"] == "hello"
        assert fetch(root, f"{RESPONSES}/{doc['id']}", "DELETE").json() == {"id": doc["id"], "object": "response", "deleted": True}
        assert fetch(root, f"{RESPONSES}/{doc['id']}").status_code == 404
        assert post(root, {"model": "gpt-4o", "input": "hello"}, RESPONSES + "/input_tokens").json() == {
            "object": "response.input_tokens",
            "input_tokens": 4,
        }


def test_what_is_taken() -> None:
    fake = OpenAIResponses()
    files = [
        {"type": "input_file", "file_data": uri("application/pdf", PDF), "filename": "a.pdf"},
        {"type": "input_image", "detail": "auto", "file_id": "file-1"},
        {"type": "input_file", "file_url": "https://example.org/a"},
    ]
    kept = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": seal(fake.secret, b"T", "x")}
    with fake.serving() as root:
        for model, doc, text in (
            ("gpt-4o", spoken(*files), f"I see a pdf of {len(PDF)} bytes and a unknown of 6 bytes and a unknown of 21 bytes."),
            ("gpt-4o", put(ITEM, {"role": "assistant", "content": [{"type": "output_text", "text": "a"}]}, ITEM), "You said: hello"),
            ("gpt-4o", put({"role": "assistant", "content": "a"}, {"role": "user", "content": "b"}), "You said: b"),
            ("gpt-4o", put(CALL, {**OUT, "output": [{"type": "input_text", "text": "fine"}]}), "f: fine."),
            ("gpt-5", put(ITEM, kept, CALL, OUT), "f: fine."),
            (
                "gpt-4o",
                put({"role": "system", "content": "The password is x."}, {"role": "user", "content": "Which code word did I say?"}),
                "The code word is unknown and the password is x.",
            ),
            ("gpt-4o", put({"role": "user", "content": "json"}, text={"format": {"type": "json_object"}}), '{"echo": "json"}'),
        ):
            assert post(root, {"model": model, **doc}, RESPONSES).json()["output"][-1]["content"][0]["text"] == text, fake.rejected
        sound = {"type": "input_audio", "input_audio": {"data": uri("", wav()).partition(",")[2], "format": "wav"}}
        refused(
            "audio",
            post(root, {"model": "gpt-4o", **spoken(sound)}, RESPONSES),
            "Invalid value: 'input_audio'",
            "input[0].content[0].type",
            "invalid_value",
        )


@pytest.mark.parametrize("asked", ["weather in Oslo", "hello"])
def test_every_field_is_one_of_the_sdk(asked: str) -> None:
    doc = {
        "model": "gpt-5", "input": asked, "tools": [WEATHER_TOOL], "reasoning": {"effort": "low", "summary": "auto"},
        "include": ["reasoning.encrypted_content", "message.output_text.logprobs"],
    }  # fmt: skip
    events: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
    with OpenAIResponses().serving() as root:
        exact(Response.model_validate(post(root, doc, RESPONSES).json()))
        found = post(root, {**doc, "stream": True}, RESPONSES).text.split("\n\n")[:-1]
    for one in found:
        name, data = one.split("\n")
        event = events.validate_json(data.removeprefix("data: "))
        assert name == f"event: {event.type}"
        exact(event)


def test_limits_and_choices() -> None:
    with OpenAIResponses().serving() as root:
        long = post(root, {"model": "gpt-4o", "input": "word " * 30, "max_output_tokens": 16}, RESPONSES).json()
        assert (long["status"], long["incomplete_details"], long["output"][0]["status"]) == (
            "incomplete",
            {"reason": "max_output_tokens"},
            "incomplete",
        )
        other = {**WEATHER_TOOL, "name": "other"}
        allowed = {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "other"}]}
        for choice in (allowed, {"type": "function", "name": "other"}):
            doc = {"model": "gpt-4o", "input": "hello", "tools": [WEATHER_TOOL, other], "tool_choice": choice}
            assert post(root, doc, RESPONSES).json()["output"][0]["name"] == "other"
        likely = {"model": "gpt-4o", "input": "a", "include": ["message.output_text.logprobs"], "top_logprobs": 1}
        assert len(post(root, likely, RESPONSES).json()["output"][0]["content"][0]["logprobs"]) == 3


def test_faults_as_the_sdk_reads_them() -> None:
    fake = OpenAIResponses()
    with fake.serving() as root, openai.OpenAI(base_url=root + "/v1", api_key=KEY, max_retries=0, timeout=20) as client:
        fake.fail(
            Fault(429, kind="insufficient_quota"), Fault(after=3, error=True, message="broken"), Fault(after=3, error=True, kind="failed")
        )
        with pytest.raises(openai.RateLimitError) as spent:
            client.responses.create(model="gpt-4o", input="hello")
        assert spent.value.code == "insufficient_quota"
        broken = list(client.responses.create(model="gpt-4o", input="hello", stream=True))
        assert (broken[-1].type, broken[-1].sequence_number) == ("error", 3)
        ended = list(client.responses.create(model="gpt-4o", input="hello", stream=True))
        assert ended[-1].type == "response.failed" and ended[-1].response.error and ended[-1].response.error.code == "server_error"
        fake.fail(Fault(after=2))
        with pytest.raises((httpx.RemoteProtocolError, openai.APIConnectionError)):
            list(client.responses.create(model="gpt-4o", input="hello", stream=True))
        fake.fail(Fault(after=1, error=True))
        with pytest.raises(openai.APIError):
            list(client.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": "a"}], stream=True))
