"""Every kind of provider through a whole gateway, by nothing but configuration: the official OpenAI client in front, and behind it a
scripted server that refuses what the real one refuses."""

from __future__ import annotations

import base64
import io
import json
import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import pytest
from openai.lib.streaming.chat import ChatCompletionStreamState

from gateway import logs
from tests.fakes.providers.brain import PICTURE, WEATHER
from tests.fakes.providers.common import Fault, Provider
from tests.gateway.provided import CASES, Case, account
from tests.harness import Running, running

Doc = dict[str, Any]
TOOL: Any = {"type": "function", "function": {"name": WEATHER.name, "description": WEATHER.description, "parameters": WEATHER.schema}}
SAID = {"Paris": "14 degrees and rain", "Tokyo": "21 degrees and sun"}
every = pytest.mark.parametrize("name", CASES)


@dataclass
class Place:
    """A gateway in front of one provider, and its client. `seen`: all that clients were shown."""

    case: Case
    provider: Provider
    gateway: Running
    client: openai.OpenAI
    log: io.StringIO

    def ask(self, messages: list[Doc], *, stream: bool = False, model: str = "m", **more: Any) -> tuple[Any, dict[str, str]]:
        """The whole completion, put together by the client's own reader when it was streamed, and the answer's headers."""
        create = self.client.chat.completions.with_raw_response.create
        options: Doc = {"model": model, "messages": messages, "max_completion_tokens": 2000, **more}
        if not stream:
            answer = create(**options)
            return answer.parse(), dict(answer.headers)
        answer = create(**options, stream=True, stream_options={"include_usage": True})
        state: Any = ChatCompletionStreamState()
        for chunk in answer.parse():
            state.handle_chunk(chunk)
        return state.get_final_completion(), dict(answer.headers)

    def records(self) -> list[Any]:
        """The gateway's records, newest first."""

        def drained() -> list[Any]:
            recorder = self.gateway.gateway.recorder
            while recorder.drain():
                pass
            return recorder.recent(99)

        return self.gateway.call(drained)

    def hides(self, *shown: object) -> None:
        """No secret stands in what is shown, in a log, or in what the gateway says of itself."""
        gateway = self.gateway.gateway
        for handler in logging.getLogger().handlers:
            handler.flush()
        links = [replica.link for replica in self.gateway.call(gateway.fleet.every)]
        texts = [
            *map(str, shown), self.log.getvalue(), repr(gateway.configuration), *map(repr, links), repr(gateway.fleet._signers),
            repr([getattr(link, "auth", None) for link in links]), repr(self.records()), gateway.metrics(),
            repr(self.gateway.call(gateway.snapshot)),
        ]  # fmt: skip
        for secret in self.case.secrets:
            assert not [text for text in texts if secret in text]


@contextmanager
def placed(name: str, folder: Path, patch: pytest.MonkeyPatch, **more: Any) -> Iterator[Place]:
    case, log = CASES[name], io.StringIO()
    for variable, value in case.environ.items():
        patch.setenv(variable, value)
    writer = logs.setup("debug", "json", stream=log)
    with ExitStack() as stack:
        stack.callback(writer.close)
        stack.callback(logging.getLogger().removeHandler, writer)
        provider = case.provider()
        root = stack.enter_context(provider.serving())
        paper = stack.enter_context(account(folder)) if case.account else ""
        gateway = stack.enter_context(running(case.config(root, paper, **more)))
        client = stack.enter_context(openai.OpenAI(base_url=gateway.url, api_key="none", max_retries=0))
        yield Place(case, provider, gateway, client, log)


@every
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_a_chat(name: str, stream: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with placed(name, tmp_path, monkeypatch) as place:
        found, headers = place.ask([{"role": "user", "content": "Say hello."}], stream=stream)
        choice = found.choices[0]
        assert (choice.message.content, choice.finish_reason) == ("You said: Say hello.", "stop")
        assert found.usage.prompt_tokens > 0 and found.usage.total_tokens == found.usage.prompt_tokens + found.usage.completion_tokens
        assert headers["x-pointsman-backend"] == "far"
        (record,) = place.records()
        usage = record.usage
        assert (record.backend, record.status, record.stream) == ("far", 200, stream)
        assert usage.input + usage.cached + usage.cache_write == found.usage.prompt_tokens
        assert place.gateway.gateway.recorder.untrue == {} and place.provider.rejected == []
        place.hides(headers)


@every
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_two_calls_at_once_and_their_results(name: str, stream: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with placed(name, tmp_path, monkeypatch) as place:
        messages: list[Doc] = [{"role": "user", "content": "What is the weather in Paris and in Tokyo?"}]
        found, _ = place.ask(messages, stream=stream, tools=[TOOL])
        calls = found.choices[0].message.tool_calls
        assert found.choices[0].finish_reason == "tool_calls"
        assert [json.loads(call.function.arguments) for call in calls] == [{"city": "Paris"}, {"city": "Tokyo"}]
        kept = [{"id": c.id, "type": "function", "function": {"name": c.function.name, "arguments": c.function.arguments}} for c in calls]
        messages.append({"role": "assistant", "content": None, "tool_calls": kept})
        for call in calls:
            said = SAID[json.loads(call.function.arguments)["city"]]
            messages.append({"role": "tool", "tool_call_id": call.id, "content": said})
        found, _ = place.ask(messages, stream=stream, tools=[TOOL])
        assert found.choices[0].message.content == "Paris: 14 degrees and rain. Tokyo: 21 degrees and sun."
        assert place.provider.rejected == []


@every
def test_an_image(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with placed(name, tmp_path, monkeypatch) as place:
        url = "data:image/png;base64," + base64.b64encode(PICTURE.data).decode()
        parts = [{"type": "text", "text": "What do you see?"}, {"type": "image_url", "image_url": {"url": url}}]
        found, _ = place.ask([{"role": "user", "content": parts}])
        assert found.choices[0].message.content == "I see a png image of 3 by 2 pixels."


@every
def test_what_providers_refuse_and_secrets(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with placed(name, tmp_path, monkeypatch) as place:
        hello: list[Doc] = [{"role": "user", "content": "Say hello."}]
        secret = " ".join(place.case.secrets) if place.case.sent else ""
        place.provider.fail(Fault(status=429, message=f"Slow down, {secret}"), Fault(status=503, message=f"Overloaded: {secret}"))
        shown: list[object] = []
        for stream, wanted in ((False, openai.RateLimitError), (True, openai.InternalServerError)):
            with pytest.raises(wanted) as failed:
                place.ask(hello, stream=stream)
            error: Any = failed.value.body
            assert error["origin"] == "backend"
            shown += [failed.value, dict(failed.value.response.headers)]
        with pytest.raises(openai.APIStatusError) as lost:
            place.ask(hello, model="lost")
        assert lost.value.status_code in (400, 404), lost.value
        shown += [lost.value, dict(lost.value.response.headers)]
        assert place.ask(hello)[0].choices[0].message.content == "You said: Say hello."
        place.hides(*shown)
