"""Every kind of provider through a whole gateway, by nothing but configuration: the official OpenAI client in front, and behind it a
scripted server that refuses what the real one refuses."""

from __future__ import annotations

import asyncio
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
from tests.backends.auth.served import served
from tests.backends.proxies import proxy
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
        return [*self.gateway.records()]

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


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.embedder])
def test_embeddings(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with placed(name, tmp_path, monkeypatch) as place:
        found = place.client.embeddings.create(model="embed", input=["one", "two words"], dimensions=8)
        assert [len(one.embedding) for one in found.data] == [8, 8] and found.data[0].embedding != found.data[1].embedding
        assert place.client.embeddings.create(model="embed", input="one", dimensions=8).data[0].embedding == found.data[0].embedding
        assert place.provider.rejected == [] and place.gateway.gateway.recorder.untrue == {}


def test_what_a_backend_does_not_take_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with placed("bedrock", tmp_path, monkeypatch) as place, pytest.raises(openai.BadRequestError) as refused:
        place.client.embeddings.create(model="m", input="one")
    assert "'far' does not take embeddings; it takes: chat." in refused.value.message


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


# --- what a route may say


def route(**settings: Any) -> Doc:
    return {"routes": {"m": settings}}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("style", ["reasoning_content", "reasoning", "both", "none"])
def test_what_reasoning_is_called(style: str, stream: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with placed("anthropic", tmp_path, monkeypatch, **route(reasoning=style)) as place:
        question = [{"role": "user", "content": "Say hello."}]
        body: Doc = {"model": "m", "messages": question, "max_tokens": 4000, "reasoning_effort": "low", "stream": stream}
        answer = place.gateway.ask(body)
        assert answer.status == 200, answer.body
        shown = {name for name in ("reasoning_content", "reasoning", "thinking_blocks") if f'"{name}":'.encode() in answer.body}
        names = {"both": {"reasoning_content", "reasoning"}, "none": set()}.get(style, {style})
        assert shown == names | ({"thinking_blocks"} if names else set())
        assert b"hello" in answer.body and (b"2 words" in answer.body) == bool(names)


def test_turn_two_of_thinking_works_though_the_client_is_shown_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with placed("anthropic", tmp_path, monkeypatch, **route(reasoning="none")) as place:
        messages: list[Doc] = [{"role": "user", "content": "What is the weather in Paris?"}]
        found, _ = place.ask(messages, tools=[TOOL], reasoning_effort="low", max_completion_tokens=4000)
        (call,) = found.choices[0].message.tool_calls
        assert not found.choices[0].message.model_extra
        function = {"name": call.function.name, "arguments": call.function.arguments}
        messages.append({"role": "assistant", "content": None, "tool_calls": [{"id": call.id, "type": "function", "function": function}]})
        messages.append({"role": "tool", "tool_call_id": call.id, "content": SAID["Paris"]})
        found, headers = place.ask(messages, tools=[TOOL], reasoning_effort="low", max_completion_tokens=4000)
        assert found.choices[0].message.content == "Paris: 14 degrees and rain."
        sent = json.loads(place.provider.requests[-1].body)
        assert sent["thinking"]["type"] == "enabled" and sent["messages"][1]["content"][0]["type"] == "thinking"
        assert "reasoning_effort=mapped" in headers["x-pointsman-parameters"]


def test_parameters_by_policy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Strict refuses by name, warn names it in a header of its own, drop tells it in the report alone; all stand in the record."""
    hello: list[Doc] = [{"role": "user", "content": "Say hello."}]
    odd: Doc = {"seed": 7, "presence_penalty": 0.5}
    with placed("anthropic", tmp_path, monkeypatch) as place:
        with pytest.raises(openai.BadRequestError) as refused:
            place.ask(hello, **odd)
        assert refused.value.param in odd and place.provider.requests == []
        assert place.ask(hello, presence_penalty=0, n=1, logprobs=False)[0].choices  # as good as not said
    for policy in ("warn", "drop"):
        for stream in (False, True):
            with placed("anthropic", tmp_path, monkeypatch, **route(on_unsupported=policy)) as place:
                _, headers = place.ask(hello, stream=stream, **odd)
                told = set(headers["x-pointsman-parameters"].split(","))
                assert {"seed=dropped", "presence_penalty=dropped"} <= told
                (record,) = place.records()
                assert record.notes == headers["x-pointsman-parameters"]


def test_parameters_of_a_relay_by_policy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hello: list[Doc] = [{"role": "user", "content": "Say hello."}]
    odd: Doc = {"temperature": 0.5, "top_p": 1}
    with placed("openai, reasoning", tmp_path, monkeypatch) as place:
        with pytest.raises(openai.BadRequestError) as refused:
            place.ask(hello, **odd)
        assert refused.value.param == "temperature" and place.provider.requests == []
        found, headers = place.ask(hello, top_p=1, temperature=1)  # what its absence says too: left out without a word
        assert found.choices and "x-pointsman-parameters" not in headers and "x-pointsman-dropped" not in headers
        assert place.records()[0].notes == ""
    for policy in ("warn", "drop"):
        with placed("openai, reasoning", tmp_path, monkeypatch, **route(on_unsupported=policy)) as place:
            _, headers = place.ask(hello, **odd)
            assert headers["x-pointsman-parameters"] == "temperature=dropped" == place.records()[0].notes
            assert headers.get("x-pointsman-dropped") == ("temperature" if policy == "warn" else None)
            assert "top_p" not in json.loads(place.provider.requests[-1].body)
    facts = {"backends": {"far": {"facts": {"sampling": True}}}}
    with placed("openai, reasoning", tmp_path, monkeypatch, **facts) as place, pytest.raises(openai.BadRequestError) as theirs:
        place.ask(hello, **odd)
    assert place.provider.requests and theirs.value.body["origin"] == "backend"  # type: ignore[index]


def test_facts_of_a_target_are_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = {"backend": "far", "model": "claude-sonnet-4-5-20250929", "facts": {"max_output": 321, "context": 4567}}
    with placed("anthropic", tmp_path, monkeypatch, **route(targets=[target])) as place:
        place.client.chat.completions.create(model="m", messages=[{"role": "user", "content": "Say hello."}])
        assert json.loads(place.provider.requests[-1].body)["max_tokens"] == 321
        listed = json.loads(place.gateway.get("/v1/models").body)["data"]
        assert {one["id"]: one["max_model_len"] for one in listed}["m"] == 4567


# --- what it costs

PRICES = {"input": 3.0, "output": 15.0}


@pytest.mark.parametrize("name", ["openai", "anthropic"])
def test_the_cost_of_answers(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with placed(name, tmp_path, monkeypatch, backends={"far": {"prices": PRICES}}) as place:
        hello: list[Doc] = [{"role": "user", "content": "Say hello."}]
        dollars = 0.0
        for stream in (False, True):
            found, headers = place.ask(hello, stream=stream)
            cost = (found.usage.prompt_tokens * 3 + found.usage.completion_tokens * 15) / 1e6
            dollars += cost
            record = place.records()[0]
            assert record.cost == pytest.approx(cost) and record.cost_reported is None
            assert headers.get("x-pointsman-cost") == (None if stream else f"{cost:.9f}")
        lines = [line for line in place.gateway.gateway.metrics().splitlines() if line.startswith("pointsman_cost_dollars_total{")]
        assert len(lines) == 1 and 'route="m",backend="far"' in lines[0]
        assert float(lines[0].rpartition(" ")[2]) == pytest.approx(dollars)


def test_prices_are_known_without_being_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with placed("anthropic", tmp_path, monkeypatch) as place:
        place.gateway.run(place.gateway.gateway._price())  # what runs beside the start has come to its end
        _, headers = place.ask([{"role": "user", "content": "Say hello."}])
        assert float(headers["x-pointsman-cost"]) == pytest.approx(place.records()[0].cost) and place.records()[0].cost > 0


# --- credentials that must be obtained


def test_credentials_that_cannot_be_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with ExitStack() as stack:
        server = stack.enter_context(served(lambda asked: (400, b'{"error":"invalid_grant","error_description":"canary-0123456789"}')))
        paper = stack.enter_context(account(tmp_path, f"{server.url}/token"))
        config = CASES["vertex"].config("http://127.0.0.1:9", paper)
        gateway = stack.enter_context(running(config))

        def down() -> bool:
            return all(replica.health == "down" for replica in gateway.gateway.fleet.every())

        gateway.until(down, "credentials that failed")
        answer = gateway.ask({"model": "m", "messages": [{"role": "user", "content": "hi"}]})
        error = json.loads(answer.body)["error"]
        assert (answer.status, error["code"]) == (503, "no_replica")
        assert "The Google credentials of backend 'far' cannot be used" in error["message"] and "canary" not in error["message"]
        assert json.loads(gateway.get("/v1/models").body)["data"][0]["state"] == "down"


def test_a_backend_that_leaves_ends_its_credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with placed("bedrock, signed", tmp_path, monkeypatch) as place:
        place.ask([{"role": "user", "content": "Say hello."}])
        fleet = place.gateway.gateway.fleet
        ((signer,),) = [list(one.values()) for one in fleet._signers.values()]
        gone = place.case.config("http://127.0.0.1:9", "", backends={"far": {"region": "eu-west-1"}})
        place.gateway.run(place.gateway.gateway.adopt(gone))
        assert [signer] != [one for signers in fleet._signers.values() for one in signers.values()]
        keys: Any = signer._keys.__self__  # type: ignore[attr-defined]
        assert keys._closed


def test_a_missing_package_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_BEARER_TOKEN_BEDROCK", raising=False)
    monkeypatch.setattr("backends.auth.aws.find_spec", lambda name: None)
    with running(CASES["bedrock, signed"].config("http://127.0.0.1:9", "")) as gateway:
        answer = gateway.ask({"model": "m", "messages": [{"role": "user", "content": "hi"}]})
        assert answer.status == 503
        assert "needs the package botocore (pip install 'pointsman[bedrock]')" in json.loads(answer.body)["error"]["message"]


def test_through_a_proxy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def use(url: str) -> None:
        with placed("anthropic", tmp_path, monkeypatch, backends={"far": {"proxy": url}}) as place:
            for stream in (False, True):
                found, _ = place.ask([{"role": "user", "content": "Say hello."}], stream=stream)
                assert found.choices[0].message.content == "You said: Say hello."

    async def work() -> None:
        async with proxy() as via:
            await asyncio.to_thread(use, f"http://127.0.0.1:{via.port}")
            assert via.tunnels and all(b"/v1/messages " in line for line in via.asked)

    asyncio.run(work())
