"""The six-turn conversation (thinking, parallel calls, an image, structured output) of a plain OpenAI client with a strict Gemini."""

from __future__ import annotations

import base64
from typing import Any

import httpx
import msgspec
import pytest
from openai.lib.streaming.chat import ChatCompletionStreamState
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from backends import sse, wire
from backends.dialects import gemini_embed
from backends.dialects.gemini import Gemini
from backends.dialects.types import Context, Facts
from tests.fakes.providers.brain import CONVERSATION, SYSTEM, WEATHER, Call, Step, expect
from tests.fakes.providers.gemini import KEY, LOCATION, PROJECT, TOKEN
from tests.fakes.providers.gemini import Gemini as Fake

Doc = dict[str, Any]
BASES = {
    "studio": ("/v1beta", {"x-goog-api-key": KEY}),
    "vertex": (f"/v1/projects/{PROJECT}/locations/{LOCATION}/publishers/google", {"authorization": f"Bearer {TOKEN}"}),
}
MODELS = {
    "gemini-2.0-flash": Facts(full_schema=False), "gemini-2.5-flash": Facts(thinking="budget"), "gemini-2.5-pro": Facts(thinking="budget"),
    "gemini-3-pro-preview": Facts(thinking="level"), "gemini-3.5-flash": Facts(thinking="level"),
}  # fmt: skip
TOOL = {"type": "function", "function": {"name": WEATHER.name, "description": WEATHER.description, "parameters": WEATHER.schema}}


def post(root: str, service: str, path: str, body: bytes) -> bytes:
    base, headers = BASES[service]
    answer = httpx.post(root + base + path, content=body, headers={**headers, "content-type": "application/json"}, timeout=20)
    assert answer.status_code == 200, answer.text
    return answer.content


def asked(step: Step, last: Doc) -> list[Doc]:
    """What the client adds to its history."""
    if step.results:
        calls = [(c["id"], msgspec.json.decode(c["function"]["arguments"])["city"]) for c in last["tool_calls"]]
        return [{"role": "tool", "tool_call_id": name, "content": step.results[city]} for name, city in reversed(calls)]
    content: Any = step.text
    if step.media:
        url = f"data:{step.media.media_type};base64,{base64.b64encode(step.media.data).decode()}"
        content = [{"type": "text", "text": step.text}, {"type": "image_url", "image_url": {"url": url}}]
    return [{"role": "user", "content": content}]


def request(step: Step, history: list[Doc], facts: Facts) -> Doc:
    doc: Doc = {"messages": history}
    if step.tools:
        doc["tools"] = [TOOL]
    if step.thinking and facts.thinking != "none":
        doc["reasoning_effort"] = "high"
    if step.schema:
        doc["response_format"] = {"type": "json_schema", "json_schema": {"name": "report", "strict": True, "schema": step.schema}}
    return doc


def streamed(dialect: Gemini, body: bytes, made: Any, context: Context) -> ChatCompletion:
    """The whole answer as OpenAI's own accumulator puts it together."""
    stream, state = dialect.stream(made, context), ChatCompletionStreamState()
    data = b"".join(stream.feed(body[i : i + 100]) for i in range(0, len(body), 100)) + stream.close()
    events = [sse.payload(event)[1] for event in sse.events(data)]
    assert events[-1] == b"[DONE]"
    for event in events[:-1]:
        state.handle_chunk(ChatCompletionChunk.model_validate_json(event))
    return state.get_final_completion()


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("service", BASES)
@pytest.mark.parametrize("model", MODELS)
def test_the_conversation(model: str, service: str, stream: bool) -> None:
    fake, dialect, facts = Fake(), Gemini(), MODELS[model]
    history: list[Doc] = [{"role": "system", "content": SYSTEM}]
    with fake.serving() as root:
        for i, step in enumerate(CONVERSATION):
            history += asked(step, history[-1])
            context = Context(f"req-{i}", 1_700_000_000, model, stream, facts)
            made = dialect.request(wire.parse(msgspec.json.encode(request(step, history, facts))), context)
            body = post(root, service, made.path, made.body)
            if stream:
                done = streamed(dialect, body, made, context)
            else:
                done = ChatCompletion.model_validate_json(dialect.reply(body, made, context))
            message = done.choices[0].message
            calls = [c for c in message.tool_calls or () if c.type == "function"]
            expect(
                step, message.content, [Call(c.function.name, msgspec.json.decode(c.function.arguments), c.id) for c in calls],
                None if facts.thinking == "none" else (message.model_extra or {}).get("reasoning_content", ""),
            )  # fmt: skip
            assert done.choices[0].finish_reason == ("tool_calls" if calls else "stop") and done.usage and done.usage.prompt_tokens
            history.append(message.model_dump(exclude_none=True))
    assert fake.rejected == [] and len(fake.seen) == len(CONVERSATION)


def test_a_history_of_another_provider_is_taken() -> None:
    """Calls that Gemini never made have no signature: the strictest model takes them all the same."""
    call = {"id": "toolu_1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city":"Oslo"}'}}
    history = [
        {"role": "user", "content": "weather in Oslo"}, {"role": "assistant", "tool_calls": [call], "reasoning_content": "Let me see."},
        {"role": "tool", "tool_call_id": "toolu_1", "content": "cold"},
    ]  # fmt: skip
    context = Context("r", 0, "gemini-3.5-flash", facts=Facts(thinking="level"))
    made = Gemini().request(wire.parse(msgspec.json.encode({"messages": history, "tools": [TOOL]})), context)
    with Fake().serving() as root:
        assert b"cold" in Gemini().reply(post(root, "vertex", made.path, made.body), made, context)


@pytest.mark.parametrize("service", BASES)
@pytest.mark.parametrize("texts", [["a"], ["a", "b"]])
def test_embeddings(service: str, texts: list[str]) -> None:
    context = Context("r", 0, "gemini-embedding-001")
    doc = wire.parse(msgspec.json.encode({"input": texts, "dimensions": 8, "google": {"task_type": "CLUSTERING"}}))
    made = gemini_embed.request(doc, context, vertex=service == "vertex")
    with Fake().serving() as root:
        out = msgspec.json.decode(gemini_embed.reply(post(root, service, made.path, made.body), made, context))
    assert [len(row["embedding"]) for row in out["data"]] == [8] * len(texts)
