"""The six-turn conversation through the strict scripted Bedrock: requests signed, streams cut into small reads, every turn as promised."""

from __future__ import annotations

import base64
import json
from typing import Any

import httpx
import pytest

from backends.auth.sigv4 import AwsKeys, SigV4
from backends.dialects.bedrock import Bedrock
from backends.dialects.types import Context
from backends.facts import facts
from backends.wire import encode, parse
from tests.fakes.providers import bedrock as fake
from tests.fakes.providers.brain import CONVERSATION, SYSTEM, WEATHER, Call, Step, expect
from tests.fakes.providers.common import Fault

SONNET, OPUS, NOVA = "us.anthropic.claude-sonnet-4-5-20250929-v1:0", "us.anthropic.claude-opus-4-7", "us.amazon.nova-pro-v1:0"
TOOL = {"type": "function", "function": {"name": WEATHER.name, "description": WEATHER.description, "parameters": WEATHER.schema}}
Doc = dict[str, Any]


class Client:
    """A plain chat client that keeps what it is given, before a link made of the dialect, the signer and httpx."""

    def __init__(self, url: str, model: str, stream: bool) -> None:
        self.http = httpx.Client(base_url=url, trust_env=False)
        keys = AwsKeys(fake.KEY_ID, fake.SECRET)
        self.signer = SigV4(fake.REGION, "bedrock", url.removeprefix("http://"), lambda: keys)
        self.dialect, self.model, self.stream = Bedrock(), model, stream
        self.messages: list[Doc] = [{"role": "system", "content": SYSTEM}]

    def ask(self, doc: Doc) -> tuple[Doc, str | None]:
        """The assistant's message, and its finish reason."""
        context = Context("r-1", 1, self.model, self.stream, facts("bedrock", self.model), False)
        request = self.dialect.request(parse(encode(doc)), context)
        signed = self.signer.lines("POST", request.path, request.body).decode().split("\r\n")[:-1]
        headers = dict(line.split(": ", 1) for line in signed) | dict(request.headers) | {"content-type": "application/json"}
        with self.http.stream("POST", request.path, content=request.body, headers=headers) as answer:
            if answer.status_code != 200:
                raise AssertionError(answer.read())
            if not self.stream:
                choice = json.loads(self.dialect.reply(answer.read(), request, context))["choices"][0]
                return choice["message"], choice["finish_reason"]
            stream = self.dialect.stream(request, context)
            out = b"".join(stream.feed(part) for part in answer.iter_raw(17))
            return gathered(out + stream.close())

    def turn(self, step: Step) -> tuple[Doc, str | None]:
        last = self.messages[-1]
        if step.results:
            for call in last["tool_calls"]:
                city = json.loads(call["function"]["arguments"])["city"]
                self.messages.append({"role": "tool", "tool_call_id": call["id"], "content": step.results[city]})
        else:
            content: list[Doc] = [{"type": "text", "text": step.text}]
            if step.media is not None:
                data = base64.b64encode(step.media.data).decode()
                content.insert(0, {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}})
            self.messages.append({"role": "user", "content": content})
        doc: Doc = {"model": "route", "messages": self.messages, "max_tokens": 4096, "stream": self.stream}
        if step.tools:
            doc["tools"] = [TOOL]
        if step.thinking and "anthropic" in self.model:
            doc["reasoning_effort"] = "low"
        if step.schema:
            doc["response_format"] = {"type": "json_schema", "json_schema": {"name": "report", "schema": step.schema}}
        message, finish = self.ask(doc)
        self.messages.append(message)
        return message, finish


def gathered(events: bytes) -> tuple[Doc, str | None]:
    """One message out of a stream's chunks, as clients put it together. Errors fail."""
    message: Doc = {"role": "assistant", "content": ""}
    finish = None
    texts = events.decode().split("\n\n")
    assert texts.pop() == "" and texts.pop() == "data: [DONE]", events.decode()
    for event in texts:
        chunk = json.loads(event.removeprefix("data: "))
        assert "error" not in chunk, chunk
        for choice in chunk["choices"]:
            finish = choice["finish_reason"] or finish
            delta = choice["delta"]
            for key in ("content", "reasoning_content"):
                if key in delta:
                    message[key] = message.get(key, "") + delta[key]
            message.setdefault("thinking_blocks", []).extend(delta.get("thinking_blocks", []))
            for call in delta.get("tool_calls", []):
                calls = message.setdefault("tool_calls", [])
                if call["index"] == len(calls):
                    calls.append(call)
                else:
                    calls[call["index"]]["function"]["arguments"] += call["function"]["arguments"]
    assert chunk["usage"]["total_tokens"] > 0
    return message, finish


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("model", [SONNET, OPUS, NOVA])
def test_the_conversation(model: str, stream: bool) -> None:
    provider = fake.Bedrock()
    with provider.serving() as url:
        client = Client(url, model, stream)
        for step in CONVERSATION:
            message, finish = client.turn(step)
            calls = [Call(c["function"]["name"], json.loads(c["function"]["arguments"]), c["id"]) for c in message.get("tool_calls") or []]
            expect(step, message["content"], calls, message.get("reasoning_content", "") if model == SONNET else None)
            assert finish == ("tool_calls" if calls else "stop")
        client.http.close()
    assert provider.rejected == []


def test_a_failure_in_the_stream() -> None:
    provider = fake.Bedrock()
    with provider.serving() as url:
        client = Client(url, SONNET, True)
        provider.fail(Fault(after=3, error=True, kind="serviceUnavailableException", message="Busy."))
        with pytest.raises(AssertionError) as e:
            client.ask({"model": "route", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 100})
        client.http.close()
    assert '"message":"Busy.","type":"overloaded_error","code":503' in str(e.value)
