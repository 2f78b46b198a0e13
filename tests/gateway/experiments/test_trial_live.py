"""Experiments through a whole gateway: every surface, both ways in, retries, coalescing, schemas."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest

from gateway.experiments.words import unit_of
from tests.fakes.answers import openai_error, reply
from tests.fakes.engine import Engine
from tests.fakes.providers import anthropic as claude
from tests.gateway.experiments.test_arms import ARMS, begun, tried
from tests.gateway.experiments.tried import FakeStore
from tests.gateway.test_surface import CLAUDE, routed
from tests.harness import Running, both_ways, chat, running

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": False}
FORMAT = {"type": "json_schema", "json_schema": {"name": "s", "schema": SCHEMA, "strict": True}}
DOCS: Mapping[str, dict[str, Any]] = {
    "chat/completions": chat(user="u"),
    "completions": {"model": "m", "prompt": "two words", "user": "u"},
    "embeddings": {"model": "m", "input": "two words", "user": "u"},
    "messages": {"model": "m", "max_tokens": 50, "messages": [{"role": "user", "content": "two words"}], "metadata": {"user_id": "u"}},
    "responses": {"model": "m", "input": "two words", "user": "u"},
}
PAIRS = [(api, stream) for api in DOCS for stream in (False, True) if api != "embeddings" or not stream]


@contextmanager
def trying(
    asgi: bool, arms: dict[str, Any], route: dict[str, Any] | None = None, **more: Any
) -> Iterator[tuple[Running, FakeStore, Engine]]:
    with Engine() as own, Engine() as other, running(tried(own, other, arms, route, **more), asgi) as gateway:
        yield gateway, begun(gateway), own


@both_ways
@pytest.mark.parametrize(("api", "stream"), PAIRS)
def test_every_surface_leaves_the_id_that_its_client_has(asgi: bool, api: str, stream: bool) -> None:
    with trying(asgi, ARMS) as (gateway, store, _):
        answer = gateway.ask({**DOCS[api], **({"stream": True} if stream else {})}, f"/v1/{api}", {"x-request-id": "mine"})
        gateway.until(lambda: bool(store.ended), "what the request left")
    one = store.one
    assert answer.status == 200 and one.unit == unit_of("", b"u") and one.request == "mine"
    assert one.arm in ARMS and not (one.error or one.gone or one.fallback or one.refused)
    assert one.stream is stream and (one.ttft is not None) is stream and one.seconds > 0
    assert one.input
    if api != "embeddings":
        assert one.output and one.response and f'"{one.response}"'.encode() in answer.body
    if api in ("messages", "responses"):
        assert one.response.startswith(("msg_", "resp_"))


@both_ways
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("api", ["chat/completions", "messages", "responses"])
def test_an_answer_is_held_against_the_schema_that_was_asked_for(asgi: bool, stream: bool, api: str) -> None:
    form: dict[str, Any] = {"response_format": FORMAT}
    if api == "messages":
        form = {"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}}
    elif api == "responses":
        form = {"text": {"format": {"type": "json_schema", "name": "s", "schema": SCHEMA, "strict": True}}}
    with trying(asgi, {"old": {}, "new": {}}) as (gateway, store, own):
        ask = {**DOCS[api], **form, "stream": stream}
        answer = gateway.ask(ask, f"/v1/{api}")
        assert answer.status == 200
        gateway.until(lambda: len(store.ended) == 1, "the first")
        if not stream:
            wrong = {"role": "assistant", "content": '{"a":"no number"}'}
            own.queue(reply({"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "fake",
                             "choices": [{"index": 0, "message": wrong, "finish_reason": "stop"}]}))  # fmt: skip
            assert gateway.ask(ask, f"/v1/{api}").status == 200
            gateway.until(lambda: len(store.ended) == 2, "the second")
    assert [one.valid for one in store.seen] == ([True] if stream else [True, False])
    assert all(one.response for one in store.seen)


@both_ways
def test_the_bytes_that_a_client_gets_are_those_without_an_experiment(asgi: bool) -> None:
    found: list[list[Any]] = []
    for begun_at in ("2999-01-01T00:00:00Z", "2000-01-01T00:00:00Z"):
        with trying(asgi, {"old": {}, "new": {}}, start=begun_at, history=False) as (gateway, store, _):
            found.append([])
            for stream in (False, True):
                for more in ({}, {"response_format": FORMAT}):
                    answer = gateway.ask({**chat(user="u", stream=stream), **more}, headers={"x-request-id": "r"})
                    found[-1].append((answer.status, answer.body, {**answer.headers, "date": ""}, answer.framing))
        assert len(store.ended) == (0 if begun_at.startswith("2999") else 4)
    plain, tested = [[(*row[:2], {**row[2], "x-pointsman-backend": ""}, row[3]) for row in rows] for rows in found]  # its port is in it
    assert plain == tested


@both_ways
def test_an_arm_that_changes_a_request_is_never_passed_by_a_target_that_speaks_the_clients_dialect(asgi: bool) -> None:
    provider = claude.Anthropic()
    with provider.serving() as root:
        backends = {"own": {"kind": "anthropic", "url": f"{root}/v1", "key": claude.KEY}}
        arms = {"old": {}, "new": {"weight": 1, "parameters": {"max_tokens": 3}, "system": "Be brief."}}
        config = routed(backends, [{"backend": "own", "model": CLAUDE}], experiments={"e": {"route": "m", "arms": arms}})
        with running(config, asgi) as gateway:
            store = begun(gateway)
            for user in map(str, range(6)):
                for stream in (False, True):
                    doc = {**DOCS["messages"], "metadata": {"user_id": user}, "stream": stream, "system": "Own."}
                    assert gateway.ask(doc, "/v1/messages").status == 200
            gateway.until(lambda: len(store.ended) == 12, "all of them")
    sent = [(str(r.doc["system"]), r.doc["max_tokens"]) for r in provider.requests]
    assert len(sent) == 12
    assert {one.arm for one in store.seen} == {"old", "new"}
    assert all(one.response.startswith("msg_") and one.output for one in store.seen)
    assert all(("Be brief." in system) is (tokens == 3) for system, tokens in sent)


@both_ways
def test_a_conversation_of_responses_stays_in_its_arm(asgi: bool) -> None:
    with trying(asgi, ARMS, key="conversation") as (gateway, store, _):
        for number in range(4):
            first = gateway.ask({"model": "m", "input": f"hello {number}"}, "/v1/responses")
            second = gateway.ask({"model": "m", "input": "more", "previous_response_id": first.doc["id"]}, "/v1/responses")
            gateway.ask({"model": "m", "input": "again", "previous_response_id": second.doc["id"]}, "/v1/responses")
        gateway.until(lambda: len(store.ended) == 12, "all of them")
    units = [one.unit for one in store.seen]
    assert [len(set(units[i : i + 3])) for i in range(0, 12, 3)] == [1] * 4 and len(set(units)) == 4


@both_ways
def test_who_follows_another_calls_answer_is_a_request_of_its_own(asgi: bool) -> None:
    with trying(asgi, {"old": {}, "new": {}}, {"coalesce": True}) as (gateway, store, own):
        with gateway.dial() as one, gateway.dial() as two:
            one.post(chat(user="u", temperature=0))
            two.post(chat(user="u", temperature=0))
            assert one.reader.read().status == two.reader.read().status == 200
        gateway.until(lambda: len(store.ended) == 2, "both")
        assert len(own.posts()) <= 2
    assert len({one.unit for one in store.seen}) == 1 and len({one.request for one in store.seen}) == 2


def test_another_route_or_target_that_answers_is_a_fallback() -> None:
    with trying(False, {"old": {}, "new": {}}, {"fallbacks": ["spare"], "retries": 0}) as (gateway, store, own):
        own.queue(openai_error(500))
        assert gateway.ask(chat(user="u")).status == 200
        assert gateway.ask(chat(user="u")).status == 200
        gateway.until(lambda: len(store.ended) == 2, "both")
    assert [one.fallback for one in store.seen] == [True, False]


def test_assignment_is_the_same_in_another_process_of_the_gateway() -> None:
    found = []
    for _ in range(2):
        with trying(False, ARMS) as (gateway, store, _):
            for user in map(str, range(20)):
                gateway.ask(chat(user=user))
            gateway.until(lambda: len(store.ended) == 20, "all")
        found.append([(one.unit, one.arm) for one in store.seen])
    assert found[0] == found[1] and {arm for _, arm in found[0]} == {"old", "new"}
