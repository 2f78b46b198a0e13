"""Messages and Responses over sockets: what is translated, what is relayed, what fails and how it is told."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anthropic
import httpx
import openai
import pytest

from backends.types import Usage
from gateway.config import Config, parse
from tests.fakes.answers import DONE, data, openai_error, reply, sse
from tests.fakes.engine import Engine
from tests.fakes.providers import anthropic as claude
from tests.fakes.providers import openai_chat, openai_responses
from tests.fakes.providers.common import Fault, Provider
from tests.fakes.request import Request
from tests.fakes.script import Gate, Script
from tests.gateway.serving import serving
from tests.harness import Running, both_ways, config_for, merged, running

SAY: Any = [{"role": "user", "content": "two words"}]
MESSAGE: Any = {"model": "m", "max_tokens": 50, "messages": SAY}
ASK: Any = {"model": "m", "input": "two words"}
PATHS = {"messages": ("/v1/messages", MESSAGE), "responses": ("/v1/responses", ASK)}
CLAUDE = "claude-sonnet-4-5-20250929"
FIRST, LAST = "The code word is albatross. Keep it for later.", "Which code word did I give you?"
surfaces = pytest.mark.parametrize("api", ["messages", "responses"])


def ask(gateway: Running, api: str, headers: Mapping[str, str] | None = None, **more: Any) -> httpx.Response:
    path, doc = PATHS[api]
    return httpx.post(f"http://127.0.0.1:{gateway.port}{path}", json={**doc, **more}, headers=headers, timeout=60)


def events(answer: httpx.Response) -> list[dict[str, Any]]:
    """The JSON of every event; the name of each is its type."""
    found = []
    for event in answer.text.split("\n\n"):
        lines = [line for line in event.splitlines() if not line.startswith(":")]
        if lines:
            name, line = lines
            found.append(json.loads(line.removeprefix("data: ")))
            assert name == f"event: {found[-1]['type']}"
    return found


def chunk(delta: Mapping[str, Any], finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return data({"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "fake", "choices": [choice]})


def routed(backends: Mapping[str, Any], targets: list[Any], **more: Any) -> Config:
    """One route `m` to those targets."""
    base = {
        "server": {"port": 0, "admin": {"port": None}, "log": {"level": "error"}, "drain_seconds": 1},
        "backends": backends,
        "routes": {"m": {"targets": targets}},
    }
    return parse(json.dumps(merged(base, more)), {})


@contextmanager
def native(provider: Provider, kind: str, key: str, model: str, **more: Any) -> Iterator[Running]:
    """A gateway whose only target speaks the client's dialect."""
    with provider.serving() as root:
        backend = {"kind": kind, "url": f"{root}/v1", "key": key}
        with running(routed({"own": backend}, [{"backend": "own", "model": model}], **more)) as gateway:
            yield gateway


def records(gateway: Running) -> list[Any]:
    """What was recorded so far, the latest first."""
    return [*gateway.records()]


# --- failures
@surfaces
@both_ways
def test_an_answer_that_breaks_ends_with_the_surfaces_own_error(api: str, asgi: bool) -> None:
    with Engine() as engine, running(config_for([engine]), asgi) as gateway:
        engine.queue(sse([chunk({"role": "assistant", "content": "Hel"})], ending="rst"))
        found = events(ask(gateway, api, stream=True))
    assert "".join(e["delta"] if api == "responses" else e["delta"]["text"] for e in found if e["type"].endswith("delta")) == "Hel"
    if api == "messages":
        assert found[-1]["type"] == "error" and found[-1]["error"]["type"] == "api_error" and found[-1]["request_id"]
    else:
        assert [e["type"] for e in found[-2:]] == ["error", "response.failed"]
        assert found[-1]["response"]["status"] == "failed" and found[-1]["response"]["error"]["message"]


@surfaces
@both_ways
def test_an_answer_that_fails_at_once_is_tried_again(api: str, asgi: bool) -> None:
    with Engine() as one, Engine() as two, running(config_for([one, two]), asgi) as gateway:
        for engine in (one, two):
            engine.on_model("fake", openai_error(503))
        failed = ask(gateway, api)
        assert failed.status_code == 503 and len(one.posts()) == len(two.posts()) == 1
        two.forget()
        for stream in (False, True):
            assert " words" in ask(gateway, api, stream=stream).text
    error = failed.json()
    if api == "messages":
        assert error["type"] == "error" and error["error"]["type"] == "overloaded_error" and error["request_id"]
    else:
        assert error["error"]["origin"] == "backend"


@surfaces
def test_what_is_no_answer_is_told(api: str) -> None:
    with Engine() as engine, running(config_for([engine], route={"retries": 0})) as gateway:
        engine.queue(reply({"choices": []}), reply({"object": "odd"}))
        for _ in range(2):
            assert ask(gateway, api).status_code == 502
        gateway.until(lambda: [r.status for r in gateway.gateway.recent(9)] == [502, 502], "two records")


@surfaces
def test_a_slow_answer_gets_comments(api: str) -> None:
    gate = Gate()
    path, doc = PATHS[api]
    with Engine() as engine, running(config_for([engine], server={"head_commit_seconds": 0.2})) as gateway:
        engine.queue(sse([gate, chunk({"content": "late"}), chunk({}, "stop"), DONE]))
        with httpx.stream("POST", f"http://127.0.0.1:{gateway.port}{path}", json={**doc, "stream": True}, timeout=60) as answer:
            parts = answer.iter_text()
            assert next(parts).startswith(": waiting")
            gate.open()
            rest = "".join(parts)
    assert "late" in rest and rest.rstrip().splitlines()[-1].startswith("data:")


@surfaces
@pytest.mark.parametrize("stream", [False, True])
def test_usage_is_recorded(api: str, stream: bool) -> None:
    with Engine() as engine, running(config_for([engine])) as gateway:
        assert ask(gateway, api, stream=stream).status_code == 200
        gateway.until(lambda: bool(gateway.gateway.recent(1)), "a record")
        (record,) = records(gateway)
        assert record.api == api and record.usage.input > 0 and record.usage.output == 4 and record.status == 200


def test_what_cannot_be_said_in_chat() -> None:
    tool: Any = {"type": "bash_20250124", "name": "bash"}
    with Engine() as engine, running(config_for([engine])) as gateway:
        refused = ask(gateway, "messages", tools=[tool])
        assert refused.status_code == 400 and "tools[0]" in refused.json()["error"]["message"] and not engine.posts()
    with Engine() as engine, running(config_for([engine], route={"on_unsupported": "drop"})) as gateway:
        taken = ask(gateway, "messages", tools=[tool])
        assert taken.status_code == 200 and "tools[0]=dropped" in taken.headers["x-pointsman-parameters"]


def test_bad_requests_have_the_surfaces_form() -> None:
    with Engine() as engine, running(config_for([engine], more={"keys": [{"name": "k", "key": "sk-0123456789abcdef"}]})) as gateway:
        for headers, status in (({}, 401), ({"x-api-key": "sk-0123456789abcdef"}, 200)):
            answer = ask(gateway, "messages", headers)
            assert answer.status_code == status and answer.headers["request-id"] == answer.headers["x-request-id"]
        bad = httpx.post(f"http://127.0.0.1:{gateway.port}/v1/messages", content=b"{", headers={"x-api-key": "sk-0123456789abcdef"})
        assert bad.status_code == 400 and bad.json()["type"] == "error"
        assert httpx.get(f"http://127.0.0.1:{gateway.port}/v1/messages").status_code == 405


# --- relays
def test_messages_pass_to_anthropic_as_they_are() -> None:
    provider = claude.Anthropic()
    with native(provider, "anthropic", claude.KEY, CLAUDE) as gateway:
        base = f"http://127.0.0.1:{gateway.port}"
        with anthropic.Anthropic(base_url=base, api_key="none", max_retries=0, default_headers={"anthropic-beta": "b-1"}) as sdk:
            thinking: Any = {"type": "enabled", "budget_tokens": 2000}
            asked: Any = {"model": "m", "max_tokens": 4000, "messages": SAY, "thinking": thinking}
            whole = sdk.messages.create(**asked)
            with sdk.messages.stream(**asked) as stream:
                streamed = stream.get_final_message()
            counted = sdk.messages.count_tokens(model="m", messages=SAY)
            with pytest.raises(anthropic.BadRequestError):
                sdk.messages.create(**{**asked, "messages": [{"role": "user", "content": ""}]})
            provider.fail(Fault(after=4, error=True))
            with pytest.raises(anthropic.APIStatusError), sdk.messages.stream(**asked) as stream:
                stream.get_final_message()
        gateway.until(lambda: len(gateway.gateway.recent(9)) == 4, "records")
        assert [r.usage is not None and r.usage.input > 0 for r in records(gateway)[-2:]] == [True, True]
    assert whole.content[0].type == streamed.content[0].type == "thinking" and whole.content[0].signature
    assert whole.model == CLAUDE and counted.input_tokens == whole.usage.input_tokens
    sent = provider.requests[0]
    assert sent.doc == {**asked, "model": CLAUDE} and sent.header("anthropic-beta") == "b-1"
    assert sent.header("x-api-key") == claude.KEY and sent.header("authorization") is None


def test_responses_pass_to_openai_as_they_are() -> None:
    provider = openai_responses.OpenAIResponses()
    with native(provider, "openai", openai_chat.KEY, "gpt-5") as gateway, openai.OpenAI(base_url=gateway.url, api_key="x") as sdk:
        first = sdk.responses.create(model="m", input=FIRST, reasoning={"effort": "low"})
        last: Any = list(sdk.responses.create(model="m", input=LAST, previous_response_id=first.id, stream=True))[-1]
        assert last.type == "response.completed" and "albatross" in last.response.output_text
        assert sdk.responses.retrieve(last.response.id).output_text == last.response.output_text
        assert sdk.responses.input_tokens.count(model="m", input="x").input_tokens > 0
        provider.fail(Fault(after=6, error=True))
        with pytest.raises(openai.APIError):
            list(sdk.responses.create(model="m", input="Say more words than one.", stream=True))
        gateway.until(lambda: len(gateway.gateway.recent(9)) == 3, "records")
        assert records(gateway)[-1].usage != Usage() and first.id in provider.stored
    posts = [r.doc for r in provider.requests if r.path == "/v1/responses"]
    assert posts[1] == {"model": "gpt-5", "input": LAST, "previous_response_id": first.id, "stream": True}


@pytest.mark.parametrize("locked", [False, True])
def test_what_is_no_keys_own_is_not_asked_of_a_provider(locked: bool) -> None:
    provider = openai_responses.OpenAIResponses()
    keys = [{"name": name, "key": f"sk-{name}-0123456789"} for name in ("a", "b")] if locked else []
    with native(provider, "openai", openai_chat.KEY, "gpt-5", keys=keys) as gateway:
        sdks = [openai.OpenAI(base_url=gateway.url, api_key=f"sk-{name}-0123456789", max_retries=0) for name in ("a", "b")]
        first = sdks[0].responses.create(model="m", input=FIRST)
        assert "albatross" in sdks[0].responses.create(model="m", input=LAST, previous_response_id=first.id).output_text
        if locked:
            for asked in ({"previous_response_id": first.id}, {"conversation": "conv_1"}):
                with pytest.raises(openai.BadRequestError):
                    sdks[1].responses.create(model="m", input=LAST, **asked)  # type: ignore[call-overload]
            with pytest.raises(openai.NotFoundError):
                sdks[1].responses.retrieve(first.id)
        else:  # who has no keys has the provider's whole account: it may know what is not kept here
            with pytest.raises(openai.APIStatusError):
                sdks[1].responses.create(model="m", input="x", previous_response_id="resp_unknown")
        with pytest.raises(openai.BadRequestError, match="background"):
            sdks[0].responses.create(model="m", input="x", background=True)
        for sdk in sdks:
            sdk.close()
    asked_there = [r.doc.get("previous_response_id") for r in provider.requests if r.doc]
    assert ("resp_unknown" in asked_there) != locked


@pytest.mark.parametrize("stream", [False, True])
def test_from_a_target_that_relays_to_one_that_is_translated(stream: bool) -> None:
    """The first attempt is native and fails before any content; the second answers in chat. And the other way round."""
    provider = claude.Anthropic()
    with provider.serving() as root, Engine() as engine:
        backends = {"own": {"kind": "anthropic", "url": root, "key": claude.KEY}, "chat": {"url": engine.url}}
        own, chat = {"backend": "own", "model": CLAUDE}, {"backend": "chat", "model": "fake"}
        with running(routed(backends, [own, {**chat, "weight": 0}])) as gateway:
            provider.fail(Fault(after=1, error=True) if stream else Fault(status=529))
            answer = ask(gateway, "messages", stream=stream)
            assert answer.status_code == 200 and "fake" in answer.text and answer.headers["x-pointsman-backend"] == "chat"
        with running(routed(backends, [{**own, "weight": 0}, chat])) as gateway:
            engine.queue(openai_error(503))
            answer = ask(gateway, "messages", stream=stream)
            assert answer.status_code == 200 and "claude" in answer.text and answer.headers["x-pointsman-backend"] == "own"


def test_what_only_one_target_can_read_goes_there() -> None:
    provider = claude.Anthropic()
    tool: Any = {"type": "bash_20250124", "name": "bash"}
    with provider.serving() as root, Engine() as engine:
        backends = {"own": {"kind": "anthropic", "url": root, "key": claude.KEY}, "chat": {"url": engine.url}}
        targets = [{"backend": "own", "model": CLAUDE, "weight": 0}, {"backend": "chat", "model": "fake"}]
        with running(routed(backends, targets, routes={"m": {"retries": 1}})) as gateway:
            assert ask(gateway, "messages", tools=[tool]).headers["x-pointsman-backend"] == "own"
            provider.fail(Fault(status=529))
            told = ask(gateway, "messages", tools=[tool])
            assert told.status_code in (400, 503) and not engine.posts()
        routes = {
            "m": {"targets": [{**targets[0], "weight": 1}], "fallbacks": ["l"], "retries": 0},
            "l": {"targets": [{"backend": "chat", "model": "fake"}]},
        }
        with running(routed(backends, [], routes=routes)) as gateway:
            provider.fail(Fault(status=529), Fault(status=529))
            assert ask(gateway, "messages", tools=[tool]).status_code in (400, 503) and not engine.posts()
            assert ask(gateway, "messages").headers["x-pointsman-backend"] == "chat"


@pytest.mark.parametrize("stream", [False, True])
def test_claude_on_vertex_has_its_model_in_the_path(stream: bool) -> None:
    with Engine(responder=lambda _: reply({"type": "message", "content": [], "usage": {"input_tokens": 1, "output_tokens": 2}})) as engine:
        root = engine.url.removesuffix("/v1")
        backend = {
            "kind": "vertex-anthropic", "url": f"{root}/v1/projects/p/locations/l/publishers/anthropic", "key": "ya29.x", "project": "p",
            "location": "l",
        }  # fmt: skip
        with running(routed({"v": backend}, [{"backend": "v", "model": "claude-x"}])) as gateway:
            ask(gateway, "messages", {"anthropic-beta": "b-1"}, stream=stream)
            count = httpx.post(f"http://127.0.0.1:{gateway.port}/v1/messages/count_tokens", json={"model": "m", "messages": SAY})
            assert count.status_code == 200
        sent, counted = engine.posts()[0], engine.posts()[-1]
    verb = "streamRawPredict" if stream else "rawPredict"
    assert sent.path == f"/v1/projects/p/locations/l/publishers/anthropic/models/claude-x:{verb}"
    assert sent.doc["anthropic_version"] == "vertex-2023-10-16" and "model" not in sent.doc and sent.header("anthropic-beta") == "b-1"
    assert sent.header("authorization") == "Bearer ya29.x" and sent.header("anthropic-version") is None
    assert counted.path.endswith("/models/count-tokens:rawPredict") and counted.doc["model"] == "claude-x"


def test_a_conversation_that_moves_between_what_is_kept_here_and_at_openai() -> None:
    """Begun on an engine, gone on with at OpenAI, which never saw the beginning; and back."""
    provider = openai_responses.OpenAIResponses()
    with provider.serving() as root, Engine() as engine:
        backends = {"own": {"kind": "openai", "url": f"{root}/v1", "key": openai_chat.KEY}, "chat": {"url": engine.url}}
        routes = {
            "m": {"targets": [{"backend": "own", "model": "gpt-5"}]},
            "local": {"targets": [{"backend": "chat", "model": "fake-reasoning"}]},
        }
        config = routed(backends, [], routes=routes)
        with running(config) as gateway, openai.OpenAI(base_url=gateway.url, api_key="x", max_retries=0) as sdk:
            first = sdk.responses.create(model="local", input=FIRST)
            second = sdk.responses.create(model="m", input=LAST, previous_response_id=first.id)
            assert "albatross" in second.output_text
            third = sdk.responses.create(model="local", input="Repeat: lamp", previous_response_id=second.id)
            (item,) = [i for i in first.output if i.type == "message"]
            referred: Any = [{"type": "item_reference", "id": item.id}, {"role": "user", "content": "x"}]
            sdk.responses.create(model="m", input=[*[i.model_dump(exclude_none=True) for i in first.output], *referred])  # type: ignore[misc]
    assert not provider.rejected and "lamp" in third.output_text
    sent = [r.doc for r in provider.requests if r.path == "/v1/responses"]
    assert "previous_response_id" not in sent[0] and "_req-" not in json.dumps(sent[0]["input"]) and len(sent[0]["input"]) == 3
    assert "_req-" not in json.dumps(sent[1]["input"])
    (chat,) = [r.doc for r in engine.posts() if "lamp" in json.dumps(r.doc)]
    assert [m["role"] for m in chat["messages"]] == ["user", "assistant", "user", "assistant", "user"]


# --- kept responses
def test_a_file_outlives_the_gateway(tmp_path: Path) -> None:
    with Engine() as engine:
        config = config_for([engine], server={"responses": {"path": str(tmp_path / "kept.db")}})
        with running(config) as gateway:
            first = ask(gateway, "responses").json()
        with running(config) as gateway:
            assert httpx.get(f"{gateway.url}/responses/{first['id']}").json() == first
            assert ask(gateway, "responses", previous_response_id=first["id"]).status_code == 200


def test_queries_of_kept_responses() -> None:
    with Engine() as engine, running(config_for([engine])) as gateway:
        id = ask(gateway, "responses", input=[{"role": "user", "content": str(i)} for i in range(5)]).json()["id"]
        url = f"{gateway.url}/responses/{id}"
        listed = httpx.get(f"{url}/input_items?limit=2&order=asc").json()
        assert [i["content"][0]["text"] for i in listed["data"]] == ["0", "1"] and listed["has_more"]
        after = httpx.get(f"{url}/input_items?order=asc&after={listed['last_id']}").json()
        assert [i["content"][0]["text"] for i in after["data"]] == ["2", "3", "4"]
        for query in ("limit=x", "limit=1000", "limit=0", "order=up", "after=nothing"):
            assert httpx.get(f"{url}/input_items?{query}").status_code == 400, query
        assert httpx.get(f"{url}?stream=true").status_code == 400
        assert httpx.get(f"{url}/cancel").status_code == 404 and httpx.post(f"{url}").status_code == 405
        assert httpx.get(f"{gateway.url}/responses/input_tokens").status_code == 405
        assert httpx.get(f"{gateway.url}/responses/input_tokens").json()["error"]["code"] == "method_not_allowed"
        assert httpx.post(f"{gateway.url}/responses/input_tokens", json={}).status_code == 400


def test_workers_know_each_others_responses(tmp_path: Path) -> None:
    with Engine() as engine:
        routes = {"m": {"targets": [{"backend": "fake", "model": "fake"}]}}
        server = {"port": 0, "admin": {"port": 0}, "workers": 2, "log": {"level": "error"}}
        with serving(tmp_path, {"server": server, "backends": {"fake": {"url": engine.url}}, "routes": routes}) as process:
            id: str | None = None
            for stream in [False, True] * 8:
                asked = {**ASK, "previous_response_id": id, "stream": stream}
                answer = httpx.post(f"{process.base}/v1/responses", json=asked, timeout=60)  # each on a connection of its own
                assert answer.status_code == 200, answer.text
                id = events(answer)[-1]["response"]["id"] if stream else answer.json()["id"]
    assert len(engine.posts()[-1].doc["messages"]) == 31


@surfaces
def test_an_answer_that_goes_on_elsewhere_is_one_answer(api: str) -> None:
    """A target dies in the middle, another continues its words: the client of the surface sees neither end nor beginning."""
    begins, ends = sse([chunk({"role": "assistant", "content": "Hel"})], ending="rst"), [chunk({"content": "lo"}), chunk({}, "stop"), DONE]

    def answer(request: Request) -> Script:
        return sse(ends) if request.doc.get("continue_final_message") else begins

    with Engine(responder=answer) as one, Engine(responder=answer) as two:
        with running(config_for([one, two], backend={"kind": "vllm"}, route={"continue": True})) as gateway:
            found = events(ask(gateway, api, stream=True))
        assert len(one.posts()) == len(two.posts()) == 1
    kinds = [event["type"] for event in found]
    if api == "responses":
        assert kinds[0] == "response.created" and kinds[-1] == "response.completed" and kinds.count("response.created") == 1
        assert found[-1]["response"]["output"][0]["content"][0]["text"] == "Hello"
    else:
        assert kinds[-1] == "message_stop" and kinds.count("message_start") == kinds.count("content_block_start") == 1
        assert "".join(e["delta"]["text"] for e in found if e["type"] == "content_block_delta") == "Hello"


@pytest.mark.parametrize("api", ["messages", "responses"])
def test_an_engine_that_counts_is_asked(api: str) -> None:
    """Where the engine has a tokeniser its count holds; where it cannot say, as of an image, an estimate does."""
    path = "messages/count_tokens" if api == "messages" else "responses/input_tokens"
    doc = {"model": "m", "messages": SAY} if api == "messages" else ASK
    counts = [{"count": 42, "tokens": []}, {"count": "many"}, {"odd": 1}]
    queue = iter([*(reply(count) for count in counts), openai_error(400)])
    with Engine(responder=lambda request: next(queue)) as engine:
        with running(config_for([engine], backend={"kind": "vllm"})) as gateway:
            told = [httpx.post(f"{gateway.url}/{path}", json=doc).json()["input_tokens"] for _ in range(4)]
        assert [request.path for request in engine.requests] == ["/tokenize"] * 4
        assert engine.requests[0].doc["messages"] == SAY and engine.requests[0].doc["model"] == "fake"
    assert told[0] == 42 and told[1] == told[2] == told[3] > 0 and told[1] != 42
