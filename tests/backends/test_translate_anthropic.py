"""chat → Anthropic through a link, a real pool and sockets, against the scripted Anthropic that refuses what the real one refuses."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from openai.lib.streaming.chat import ChatCompletionStreamState
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from backends import wire
from backends.dialects.anthropic import Anthropic
from backends.facts import facts
from backends.faults import from_answer, from_event
from backends.http import Clients
from backends.translate import TranslatedLink
from backends.types import Call, Target
from tests.backends.seen import Seen
from tests.fakes.providers import anthropic as fake
from tests.fakes.providers.brain import CONVERSATION, PICTURE, SYSTEM, WEATHER, Step, expect
from tests.fakes.providers.brain import Call as Made
from tests.fakes.providers.common import Fault

Doc = dict[str, Any]
HAIKU, SONNET, BOTH, OPUS, FABLE = (
    "claude-3-5-haiku-20241022", "claude-sonnet-4-5-20250929", "claude-opus-4-6", "claude-opus-4-7", "claude-fable-5",
)  # fmt: skip
TOOL = {"type": "function", "function": {"name": WEATHER.name, "description": WEATHER.description, "parameters": WEATHER.schema}}


class Key:
    """A signer with a plain key."""

    def lines(self, method: str, path: str, body: bytes) -> bytes:
        assert (method, path) == ("POST", "/v1/messages") and json.loads(body)
        return f"x-api-key: {fake.KEY}\r\n".encode()


def with_link(provider: fake.Anthropic, work: Callable[[TranslatedLink], Coroutine[Any, Any, None]]) -> None:
    async def run(url: str) -> None:
        clients = Clients(asyncio.get_running_loop())
        link = TranslatedLink(clients.pool(url, "claude"), Anthropic(), Key(), lambda model: facts("anthropic", model))
        try:
            await work(link)
        finally:
            clients.close()
            await asyncio.sleep(0)  # closing a transport takes a turn of the loop

    with provider.serving() as url:
        asyncio.run(run(url))


async def asked(link: TranslatedLink, doc: Doc, model: str, *, strict: bool = True) -> Seen:
    seen = Seen()
    call = Call(b"req-1", "chat", "m", bool(doc.get("stream")), wire.parse(json.dumps(doc).encode()), "", {}, 0.0)
    link.send(call, Target("claude", model, strict=strict), None, seen)
    return await seen.whole()


def events(seen: Seen) -> list[Doc]:
    assert seen.headers[b"content-type"] == b"text/event-stream" and seen.body.endswith(b"data: [DONE]\n\n")
    return [json.loads(event[6:]) for event in seen.body.split(b"\n\n")[:-2]]


def message_of(seen: Seen, stream: bool) -> Doc:
    """The assistant's message as a client has it after a whole answer, or after a stream put together by the official SDK."""
    assert (seen.outcome, seen.status) == ("ok", 200), seen.body
    if not stream:
        found: Doc = ChatCompletion.model_validate_json(seen.body, strict=True).choices[0].message.model_dump(exclude_none=True)
        return found
    state: Any = ChatCompletionStreamState()
    for event in events(seen):
        state.handle_chunk(ChatCompletionChunk.model_validate(event))
    message: Doc = state.get_final_completion().choices[0].message.model_dump(exclude_none=True)
    for call in message.get("tool_calls", ()):
        call["function"].pop("parsed_arguments", None)
        call.pop("index", None)
    message.pop("parsed", None)
    return message


def turn(step: Step, last: Doc) -> list[Doc]:
    if step.results:
        calls = last["tool_calls"]
        cities = [json.loads(one["function"]["arguments"])["city"] for one in calls]
        return [{"role": "tool", "tool_call_id": one["id"], "content": step.results[c]} for one, c in zip(calls, cities, strict=True)]
    text = {"type": "text", "text": step.text}
    url = "data:image/png;base64," + base64.b64encode(PICTURE.data).decode()
    image = {"type": "image_url", "image_url": {"url": url}}
    return [{"role": "user", "content": [image, text] if step.media else [text]}]


@pytest.mark.parametrize("model", [HAIKU, SONNET, BOTH, OPUS, FABLE])
@pytest.mark.parametrize("stream", [False, True])
def test_the_conversation(model: str, stream: bool) -> None:
    provider = fake.Anthropic(redact=model == BOTH)
    known = facts("anthropic", model)

    async def work(link: TranslatedLink) -> None:
        messages: list[Doc] = [{"role": "system", "content": SYSTEM}]
        last: Doc = {}
        for step in CONVERSATION:
            messages += turn(step, last)
            doc: Doc = {"model": "m", "messages": messages, "stream": stream, "max_completion_tokens": 4096}
            if step.tools:
                doc["tools"] = [TOOL]
            if step.thinking and known.thinking != "none":
                doc["reasoning_effort"] = "low"
            if step.schema:
                form = {"name": "report", "strict": True, "schema": step.schema}
                doc["response_format"] = {"type": "json_schema", "json_schema": form}
            seen = await asked(link, doc, model)
            last = message_of(seen, stream)
            messages.append(last)
            calls = [Made(c["function"]["name"], json.loads(c["function"]["arguments"]), c["id"]) for c in last.get("tool_calls", ())]
            thought = "".join(b.get("signature", "") for b in last.get("thinking_blocks", ())) if known.thinking != "none" else None
            expect(step, last.get("content"), calls, thought)

    with_link(provider, work)
    assert not provider.rejected
    assert all(dict(r.headers)["anthropic-version"] == "2023-06-01" for r in provider.requests)


def test_usage_of_a_cached_prompt_both_ways() -> None:
    mark = {"cache_control": {"type": "ephemeral"}}
    long = {"role": "system", "content": [{"type": "text", "text": "A long prompt. " * 20, **mark}]}
    doc: Doc = {"model": "m", "messages": [long, {"role": "user", "content": "Hi"}]}
    provider = fake.Anthropic()

    async def work(link: TranslatedLink) -> None:
        first = wire.usage((await asked(link, doc, SONNET)).body)
        again = wire.usage((await asked(link, doc, SONNET)).body)
        streamed = wire.usage(json.dumps(events(await asked(link, doc | {"stream": True}, SONNET))[-1]).encode())
        assert first is not None and again is not None
        assert first.cache_write > 0 and first.cached == 0
        assert (again.cached, again.cache_write, again.input, again.output) == (first.cache_write, 0, first.input, first.output)
        assert streamed == again

    with_link(provider, work)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("fault", "told", "kind", "retry"),
    [
        (Fault(529, "Overloaded"), 503, "overloaded", True),
        (Fault(429, "Slow down", headers=(("retry-after", "7"),)), 429, "rate_limited", True),
        (Fault(429, "Spent", details={"error_code": "enforced_spend_limit_reached"}), 429, "rate_limited", False),
        (Fault(413, "Request exceeds the maximum size"), 413, "too_large", False),
        (Fault(400, "prompt is too long: 9 tokens > 8 maximum"), 400, "bad_request", False),
    ],
)
def test_errors_pass_as_they_came(stream: bool, fault: Fault, told: int, kind: str, retry: bool) -> None:
    provider = fake.Anthropic()
    provider.fail(fault)

    async def work(link: TranslatedLink) -> None:
        seen = await asked(link, {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "stream": stream}, SONNET)
        assert (seen.outcome, seen.status) == ("ok", fault.status)
        found = from_answer(seen.status, seen.headers, seen.body, "claude", 0.0)
        assert (found.status, found.kind, found.retry) == (told, kind, retry)

    with_link(provider, work)


def test_an_error_in_the_middle_of_a_stream() -> None:
    provider = fake.Anthropic()
    provider.fail(Fault(after=4, error=True, message="Overloaded"))

    async def work(link: TranslatedLink) -> None:
        seen = await asked(link, {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "stream": True}, SONNET)
        last = json.loads(seen.body.split(b"\n\n")[-2][6:])
        found = from_event(last["error"], "claude")
        assert (found.message, found.status, found.retry) == ("Overloaded", 503, True)
        assert b"[DONE]" not in seen.body and b'"finish_reason":"' not in seen.body

    with_link(provider, work)


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_that_is_cut(stream: bool) -> None:
    provider = fake.Anthropic()
    provider.fail(Fault(after=4))

    async def work(link: TranslatedLink) -> None:
        seen = await asked(link, {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "stream": stream}, SONNET)
        assert seen.fault is not None and seen.fault.retry
        assert b"[DONE]" not in seen.body and b'"finish_reason":"' not in seen.body

    with_link(provider, work)


@pytest.mark.parametrize("stream", [False, True])
def test_three_choices(stream: bool) -> None:
    provider = fake.Anthropic()
    doc: Doc = {"model": "m", "messages": [{"role": "user", "content": "Keep: albatross."}], "n": 3, "stream": stream}

    async def work(link: TranslatedLink) -> None:
        one = await asked(link, {k: v for k, v in doc.items() if k != "n"} | {"stream": False}, SONNET)
        single = wire.usage(one.body)
        seen = await asked(link, doc, SONNET)
        assert single is not None and seen.outcome == "ok"
        if stream:
            found = events(seen)
            texts = ["", "", ""]
            for event in found:
                for choice in event["choices"]:
                    texts[choice["index"]] += choice["delta"].get("content") or ""
            total = wire.usage(json.dumps(found[-1]).encode())
            assert sum("usage" in event for event in found) == 1 and len({event["id"] for event in found}) == 1
        else:
            answer = ChatCompletion.model_validate_json(seen.body, strict=True)
            assert [choice.index for choice in answer.choices] == [0, 1, 2]
            texts = [choice.message.content or "" for choice in answer.choices]
            total = wire.usage(seen.body)
        assert len(set(texts)) == 1 and texts[0]
        assert total is not None and (total.input, total.output) == (single.input, single.output * 3)

    with_link(provider, work)
    assert len(provider.requests) == 4
