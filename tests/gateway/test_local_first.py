"""Private calls never leave: whatever the policy, the surface and the failure, a backend that is not local gets nothing of one."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.config import Config, parse
from tests.fakes.answers import DONE, data, openai_error, reply, sse
from tests.fakes.engine import Engine
from tests.fakes.script import Script
from tests.gateway.forms import TYPE, file, form, model
from tests.harness import Running, request, running

SECRET = "the-patient-is-called-Ada"
PRIVATE_KEY, PLAIN_KEY = "sk-private-0001", "sk-plain-0001"
POLICIES: tuple[Any, ...] = (
    "weighted", "round_robin", "least_busy", "p2c", "latency", "cost", "session", "priority", "local_first",
    {"costs": {"latency": 1, "money": 20, "busy": 0.1}, "pick": "p2c"}, {"costs": {"latency": 1}, "pick": "weighted"},
    {"name": "kv_aware", "seconds_per_dollar": 0.5}, {"costs": {"scheduled": 1, "latency": 1}},
    {"name": "local_first", "ttft": 0.001, "tpot": 0.0001, "seconds_per_dollar": 0.5},
)  # fmt: skip


def chat_stream(text: str) -> Script:
    chunk = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "fake"}
    deltas = [{"content": word + " "} for word in text.split()]
    return sse([*(data(chunk | {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]}) for delta in deltas), DONE])


FAULTS: Mapping[str, Callable[[], Script]] = {
    "500": lambda: openai_error(500, "it broke"),
    "503": lambda: openai_error(503, "overloaded"),
    "429": lambda: openai_error(429, "later"),
    "401": lambda: openai_error(401, "whose key is this"),
    "404": lambda: openai_error(404, "no such model"),
    "too long": lambda: openai_error(400, "This model's maximum context length is 10 tokens.", code="context_length_exceeded"),
    "filtered": lambda: openai_error(400, "no", code="content_filter"),
    "reset": lambda: reply({"a": 1}).but(ending="rst", cut=0),
    "cut": lambda: reply({"a": "b" * 100}).but(cut=120),
    "stall": lambda: reply({"a": 1}).but(ending="stall", cut=0),
    "stream cut": lambda: chat_stream("one two three four five six").but(cut=700, ending="rst"),
    "stream stall": lambda: chat_stream("one two three four five six").but(cut=700, ending="stall"),
    "rubbish": lambda: reply([1]).but(piece=3),
}


def message(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def posted(path: str, doc: Mapping[str, Any], headers: Mapping[str, str]) -> bytes:
    return request("POST", path, json.dumps(doc).encode(), headers)


Surface = Callable[[str, Mapping[str, str]], bytes]
SURFACES: Mapping[str, Surface] = {
    "chat": lambda text, h: posted("/v1/chat/completions", {"model": "m", "messages": message(text), "seed": 1}, h),
    "stream": lambda text, h: posted("/v1/chat/completions", {"model": "m", "messages": message(text), "stream": True}, h),
    "completions": lambda text, h: posted("/v1/completions", {"model": "m", "prompt": text, "stream": True}, h),
    "embeddings": lambda text, h: posted("/v1/embeddings", {"model": "m", "input": [text]}, h),
    "rerank": lambda text, h: posted("/v1/rerank", {"model": "m", "query": text, "documents": [text, "b"]}, h),
    "messages": lambda text, h: posted("/v1/messages", {"model": "m", "max_tokens": 9, "messages": message(text)}, h),
    "messages stream": lambda text, h: posted(
        "/v1/messages", {"model": "m", "max_tokens": 9, "messages": message(text), "stream": True}, h
    ),
    "responses": lambda text, h: posted("/v1/responses", {"model": "m", "input": text}, h),
    "responses stream": lambda text, h: posted("/v1/responses", {"model": "m", "input": text, "stream": True}, h),
    "count": lambda text, h: posted("/v1/messages/count_tokens", {"model": "m", "messages": message(text)}, h),
    "input tokens": lambda text, h: posted("/v1/responses/input_tokens", {"model": "m", "input": text}, h),
    "tokenize": lambda text, h: posted("/tokenize", {"model": "m", "prompt": text}, h),
    "explain": lambda text, h: posted("/v1/explain", {"model": "m", "messages": message(text)}, h),
    "moderations": lambda text, h: posted("/v1/moderations", {"model": "m", "input": text}, h),
    "speech": lambda text, h: posted("/v1/audio/speech", {"model": "m", "input": text, "voice": "v"}, h),
    "images": lambda text, h: posted("/v1/images/generations", {"model": "m", "prompt": text}, h),
    "transcriptions": lambda text, h: request(
        "POST", "/v1/audio/transcriptions", form(model(), file(text.encode())), {**h, **TYPE}
    ),
    "upload": lambda text, h: request(
        "POST", "/v1/files?x-pointsman-route=m", form(file(text.encode())), {**h, **TYPE}
    ),
    "upload to whoever": lambda text, h: request("POST", "/v1/files", form(file(text.encode())), {**h, **TYPE}),
    "batch": lambda text, h: posted("/v1/batches?x-pointsman-route=m", {"input_file_id": text}, h),
    "batch to whoever": lambda text, h: posted("/v1/batches", {"input_file_id": text}, h),
    "file": lambda text, h: request("GET", f"/v1/files/{text}?x-pointsman-route=m", b"", h),
}  # fmt: skip


def config(near: str, cloud: str, policy: Any, marked: str, plan: Mapping[str, Any]) -> Config:
    """Route `m` to `near` (local) and `cloud`, nearly always the latter; `far` is on `cloud` alone. `marked`: what makes calls private."""
    targets = [
        {"backend": "cloud", "model": "c", "weight": 1000},
        {"backend": "near", "model": "fake", "weight": 1},
    ]
    if marked == "route":
        targets = targets[1:]
    backends: dict[str, Any] = {
        "near": {"url": near, "local": True, "kind": "vllm", "health_seconds": 0},
        "cloud": {"url": cloud, "prices": {"input": 1, "output": 2}, "kind": "vllm", "health_seconds": 0},
    }
    for backend in backends.values():
        backend["timeouts"] = {"connect": 1, "first_byte": 0.3, "idle": 0.3, "total": 2}
    made = {
        "server": {"port": 0, "admin": {"port": None}, "drain_seconds": 1, "log": {"level": "error"}, "wait_seconds": 1},
        "backends": backends,
        "routes": {
            "m": {"targets": targets, "policy": policy, "private": marked == "route", "retries": 3, **plan},
            "far": {"targets": [{"backend": "cloud", "model": "f"}]},
        },
        "keys": [{"name": "p", "key": PRIVATE_KEY, "private": True}, {"name": "q", "key": PLAIN_KEY}],
    }
    return parse(json.dumps(made), {})


def headers(marked: str) -> dict[str, str]:
    key = PRIVATE_KEY if marked == "key" else PLAIN_KEY
    return {"authorization": f"Bearer {key}", **({"x-pointsman-private": "true"} if marked == "header" else {})}


def send(gateway: Running, data: bytes) -> bytes:
    """All that comes back, up to the end of the connection or of the answer."""
    with gateway.dial(seconds=20) as client:
        client.send(data.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n", 1))
        out = b""
        while part := client.sock.recv(65536):
            out += part
        return out


def seen(engine: Engine) -> str:
    return "\n".join(r.raw.decode("latin-1") for r in engine.requests)


plans = st.fixed_dictionaries(
    {},
    optional={
        "fallbacks": st.sampled_from([["far"], {"any": ["far"], "context": "far", "content": "far"}]),
        "hedge": st.just({"after": 0.05, "budget": 1.0}),
        "continue": st.just(True),
        "backoff": st.just({"base": 0.01, "cap": 0.02}),
        "coalesce": st.just(True),
    },
)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    policy=st.sampled_from(POLICIES), marked=st.sampled_from(["header", "key", "route"]), plan=plans,
    calls=st.lists(
        st.tuples(st.sampled_from(sorted(SURFACES)), st.lists(st.sampled_from(sorted(FAULTS)), max_size=5)), min_size=1, max_size=4
    ),
    dead=st.booleans(), asgi=st.booleans(),
)  # fmt: skip
def test_nothing_private_reaches_what_is_not_local(
    policy: Any, marked: str, plan: dict[str, Any], calls: list[tuple[str, list[str]]], dead: bool, asgi: bool
) -> None:
    with Engine(strict=False) as near, Engine(strict=False) as cloud:
        if dead:
            near.stop()
        with running(config(near.url, cloud.url, policy, marked, plan), asgi) as gateway:
            for surface, faults in calls:
                near.forget()
                near.queue(*(FAULTS[name]() for name in faults))
                answer = send(gateway, SURFACES[surface](SECRET, headers(marked)))
                assert answer.startswith(b"HTTP/1.1 "), (surface, answer[:200])
                if surface != "explain":
                    assert SECRET not in seen(cloud), surface
                    assert not cloud.posts(), (surface, [r.path for r in cloud.requests])


@pytest.mark.parametrize("marked", ["header", "key"])
@pytest.mark.parametrize("asgi", [False, True], ids=["own", "asgi"])
def test_the_same_call_goes_to_the_cloud_where_it_is_not_private(marked: str, asgi: bool) -> None:
    """So that the test above shows what it says."""
    with Engine() as near, Engine() as cloud, running(config(near.url, cloud.url, "priority", marked, {}), asgi) as gateway:
        for surface in ("chat", "messages", "responses", "embeddings"):
            send(gateway, SURFACES[surface](SECRET, {"authorization": f"Bearer {PLAIN_KEY}"}))
        send(gateway, SURFACES["chat"](SECRET, {"authorization": f"Bearer {PLAIN_KEY}", "x-pointsman-private": "false"}))
        assert len(cloud.posts()) == 5 and SECRET in seen(cloud) and not near.posts()
        for surface in ("chat", "messages", "responses", "embeddings"):
            answer = send(gateway, SURFACES[surface](SECRET, headers(marked)))
            assert answer.startswith(b"HTTP/1.1 200"), answer
        assert len(cloud.posts()) == 5 and len(near.posts()) == 4


@pytest.mark.parametrize(("surface", "path"), [("chat", "/v1/chat/completions"), ("messages", "/v1/messages")])
def test_a_private_call_fails_closed_with_a_clear_code(surface: str, path: str) -> None:
    with Engine() as near, Engine() as cloud, running(config(near.url, cloud.url, "local_first", "header", {})) as gateway:
        doc = {"model": "far", "max_tokens": 5, "messages": message(SECRET)}
        answer = gateway.ask(doc, path, headers("header"))
        assert answer.status == 403 and "is on no local backend" in answer.body.decode()
        near.stop()
        answer = gateway.ask(doc | {"model": "m"}, path, headers("header"))
        assert answer.status in (502, 503) and SECRET not in answer.body.decode()
        assert not cloud.posts()


def test_the_codes_of_a_refusal() -> None:
    with Engine() as near, Engine() as cloud, running(config(near.url, cloud.url, "local_first", "header", {})) as gateway:
        error = gateway.ask({"model": "far", "messages": message(SECRET)}, headers=headers("header")).doc["error"]
        assert (error["code"], error["param"]) == ("no_local_target", "model")
        assert gateway.ask({"model": "far", "messages": message("hi")}, headers=headers("")).status == 200


@pytest.mark.parametrize("marked", ["header", "key"])
def test_who_follows_a_private_response_is_private(marked: str) -> None:
    """The conversation is written out for the next target, so what was said in private would be told there."""
    key = PRIVATE_KEY if marked == "key" else PLAIN_KEY
    with Engine() as near, Engine() as cloud, running(config(near.url, cloud.url, "priority", marked, {})) as gateway:
        plain = {"authorization": f"Bearer {key}"}

        def respond(**doc: Any) -> dict[str, Any]:
            answer = gateway.ask({"model": "m", "input": "go on", **doc}, "/v1/responses", plain)
            found: dict[str, Any] = answer.doc
            return found

        first = gateway.ask({"model": "m", "input": SECRET}, "/v1/responses", headers(marked)).doc
        second = respond(previous_response_id=first["id"])
        third = respond(previous_response_id=second["id"])
        assert third["status"] == "completed" and len(near.posts()) == 3 and not cloud.posts()
        item = first["output"][0]["id"]
        assert respond(input=[{"type": "item_reference", "id": item}])["status"] == "completed"
        assert respond(model="far", previous_response_id=third["id"])["error"]["code"] == "no_local_target"
        counted = gateway.ask({"model": "m", "input": "x", "previous_response_id": first["id"]}, "/v1/responses/input_tokens", plain)
        assert counted.status == 200 and not cloud.posts()
        assert gateway.get(f"/v1/responses/{first['id']}", plain).status == 200
        if marked == "header":
            assert respond()["status"] == "completed" and len(cloud.posts()) == 1, "a conversation of its own is nobody's secret"
        with gateway.dial() as client:
            client.send(request("DELETE", f"/v1/responses/{first['id']}", b"", plain))
            assert client.reader.read().status == 200
        assert gateway.get(f"/v1/responses/{first['id']}", plain).status == 404
