"""One request driven by hand: each way it can go, and that each end releases and records exactly once."""

from __future__ import annotations

import json
from typing import Any

import pytest

from backends.types import Fault, Timeouts
from gateway.answering import MAX_ERROR
from gateway.config import KeyConfig, Limits
from tests.gateway.parts import JSON, SSE, World

ANSWER = b'{"choices":[{"message":{"content":"x"}}],"usage":{"prompt_tokens":1,"completion_tokens":2}}'
ROLE = b'data: {"choices":[{"delta":{"role":"assistant"}}]}\n\n'
TEXT = b'data: {"choices":[{"delta":{"content":"x"}}]}\n\n'
FINISH = b'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}\n\n'
USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":1}}\n\n'
DONE = b"data: [DONE]\n\n"
BOOM = b'data: {"error":{"message":"boom","code":503}}\n\n'


def lost(**more: Any) -> Fault:
    return Fault("upstream", "lost", origin="backend", **{"code": "connection_lost", "retry": True, **more})


def test_a_whole_answer() -> None:
    world = World()
    sink, _ = world.ask({"n": 1}, headers={b"x-request-id": b"mine-1"})
    flight = world.flight
    assert (flight.call.api, flight.call.model, flight.target.model, flight.call.stream) == ("chat", "m", "t", False)
    assert flight.timeouts == Timeouts(total=7.0) and world.replicas[int(flight.replica)].inflight == 1
    flight.whole(ANSWER, headers={**JSON, b"openai-version": b"7", b"set-cookie": b"no"})
    assert (sink.status, sink.body) == (200, ANSWER)
    assert sink.headers == {
        "content-type": "application/json", "x-request-id": "mine-1", "x-pointsman-backend": flight.replica, "openai-version": "7",
    }  # fmt: skip
    world.check_idle(1)
    record = world.record
    assert (record.id, record.api, record.route, record.backend, record.status, record.attempts) == ("mine-1", "chat", "m", "b", 200, 1)
    assert record.fault == "" and record.ttft is not None and record.bytes_out == len(ANSWER) and record.reason == "weighted"
    assert b'"usage"' in (world.recorder.tails[-1] or b"")


def test_a_whole_answer_in_pieces() -> None:
    world = World()
    sink, _ = world.ask()
    flight = world.flight
    flight.head(201, JSON)
    flight.data(ANSWER[:9])
    flight.data(ANSWER[9:])
    flight.end()
    assert (sink.status, sink.body) == (201, ANSWER)
    world.check_idle(1)


def test_a_stream() -> None:
    world = World()
    sink, _ = world.ask(stream=True)
    flight = world.flight
    flight.head(200, SSE)
    flight.data(ROLE)
    assert not sink.begun  # nothing is promised before content
    flight.data(TEXT)
    assert sink.begun and sink.body == ROLE + TEXT
    flight.data(TEXT + FINISH + USAGE + DONE)
    assert sink.body == ROLE + TEXT + TEXT + FINISH and not sink.done
    flight.end()
    assert sink.body == ROLE + TEXT + TEXT + FINISH + DONE and sink.done
    assert sink.headers["content-type"].startswith("text/event-stream")
    world.check_idle(1)
    assert world.record.stream and world.record.chunks == 2 and world.record.bytes_out == len(sink.body)
    assert world.recorder.tails[-1] == USAGE[6:].strip()


@pytest.mark.parametrize("options", ['{"include_usage":true}', '{ "include_usage" : true }'])
def test_usage_reaches_who_asked(options: str) -> None:
    world = World()
    sink, _ = world.ask({"stream_options": json.loads(options)}, stream=True)
    world.flight.whole(TEXT + FINISH + USAGE + DONE, headers=SSE)
    assert sink.body == TEXT + FINISH + USAGE + DONE
    world.check_idle(1)


def test_a_stream_that_came_whole() -> None:
    world = World()
    for stream in (TEXT + FINISH, FINISH.rstrip()):
        sink, _ = world.ask(stream=True)
        world.flight.whole(stream, headers=SSE)
        assert sink.body == stream.rstrip() + b"\n\n" + DONE and sink.done and sink.status == 200
    world.check_idle(2)


def test_a_stream_that_says_nothing_is_tried_elsewhere() -> None:
    world = World()
    sink, _ = world.ask(stream=True)
    for _ in range(2):
        world.flight.whole(ROLE + DONE, headers=SSE)
    assert sink.status == 502 and sink.error["code"] == "stream_empty"
    world.check_idle(1)


# --- what fails before an engine is asked


@pytest.mark.parametrize(
    ("doc", "status", "code"),
    [
        (b"", 400, "bad_request"),
        (b"{", 400, "bad_request"),
        (b'{"messages":[]}', 400, "missing_model"),
        (b'{"model":7}', 400, "bad_request"),
        (b'{"model":"m","stream":"yes"}', 400, "bad_request"),
        (b'{"model":"mm"}', 404, "model_not_found"),
        (b'{"model":"other"}', 503, "no_replica"),
    ],
)
def test_refusals(doc: bytes, status: int, code: str) -> None:
    world = World()
    sink, exchange = world.ask(doc)
    assert sink.status == status and sink.error["code"] == code and sink.headers["x-request-id"].startswith("req-")
    exchange.gone()
    exchange.refuse(lost())
    exchange.shut()
    world.check_idle(1)
    assert world.record.status == status


def test_limits_and_draining() -> None:
    world = World(concurrency=1)
    world.ask()
    sink, _ = world.ask()
    assert (sink.status, sink.error["code"], sink.headers["retry-after"]) == (429, "route_busy", "1")
    world = World(limits=Limits(concurrency=1))
    world.ask()
    assert world.ask()[0].error["code"] == "gateway_busy"
    world.core.draining = True
    assert world.ask()[0].error["code"] == "draining"
    world.flight.whole(ANSWER)
    world.check_idle(3)


def test_keys_and_cors() -> None:
    key = KeyConfig(name="team", hash="sha256:2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b", routes=("m",))  # "secret"
    world = World(keys=(key,), origins=("https://app.example",))
    sink, _ = world.ask()
    assert sink.status == 401 and sink.headers["www-authenticate"] == "Bearer"
    sink, _ = world.ask({"model": "other"}, headers={b"authorization": b"Bearer secret"})
    assert sink.error["code"] == "model_not_found"
    sink, _ = world.ask(headers={b"authorization": b"Bearer secret", b"origin": b"https://app.example"})
    world.flight.whole(ANSWER)
    assert sink.headers["access-control-allow-origin"] == "https://app.example" and world.record.tenant == "team"
    world.check_idle(3)


def test_parameters_that_are_not_supported() -> None:
    world = World(unsupported=frozenset({"audio", "seed"}))
    sink, _ = world.ask({"seed": 1, "audio": {}})
    assert sink.status == 400 and sink.error["code"] == "unsupported_parameter" and sink.error["param"] == "audio"
    assert "'audio', 'seed'" in sink.error["message"]
    world.ask({"seed": None})
    assert "seed" not in world.flight.call.doc  # null is as good as absent
    world.flight.whole(ANSWER)
    world.check_idle(2)
    world = World(unsupported=frozenset({"audio", "seed"}), drop=True)
    sink, _ = world.ask({"seed": 1, "n": 1})
    assert set(world.flight.call.doc) == {"model", "messages", "stream", "n"}
    world.flight.whole(ANSWER)
    assert sink.headers["x-pointsman-dropped"] == "seed"
    world.check_idle(1)


def test_a_link_that_refuses_the_call() -> None:
    world = World()
    for link in world.links:
        link.refuse = Fault("bad_request", "too deep", origin="client", param="grammar")
    sink, _ = world.ask()
    assert sink.status == 400 and sink.error["param"] == "grammar"
    world.check_idle(1)


# --- retries


@pytest.mark.parametrize("how", ["fault", "503", "whole 503", "error event", "whole error event", "error in 200", "cut", "html"])
@pytest.mark.parametrize("stream", [True, False])
def test_before_content_another_replica_answers(how: str, stream: bool) -> None:
    world = World()
    sink, _ = world.ask(stream=stream)
    first = world.flight
    if how == "fault":
        first.fail(lost())
    elif how == "503":
        first.head(503, {**JSON, b"retry-after": b"9"})
        first.data(b"{}")
        first.end()
    elif how == "whole 503":
        first.whole(b"", 503)
    elif how == "whole error event":
        first.whole(ROLE + BOOM, headers=SSE)
    elif how == "error in 200":
        first.whole(b'{"error":{"message":"boom","code":500}}')
    elif how == "html":
        first.whole(b"<html>", headers={b"content-type": b"text/html"})
    else:
        first.head(200, SSE)
        first.data(ROLE)
        if how == "cut":
            first.end()
        else:
            first.data(BOOM)
    second = world.flight
    assert second.replica != first.replica and not sink.begun and not sink.done
    second.whole(ANSWER)
    assert sink.status == 200 and sink.body == ANSWER and sink.headers["x-pointsman-backend"] == second.replica
    world.check_idle(1)
    assert world.record.attempts == 2 and world.record.fault == ""


def test_nothing_of_the_first_attempt_is_told_of_the_second() -> None:
    world = World(drop=True, unsupported=frozenset({"seed"}), retries=3)
    sink, _ = world.ask({"seed": 1})
    world.flight.whole(b"{}", 500, {**JSON, b"openai-version": b"old"})
    world.flight.fail(Fault("upstream", "second", origin="backend", retry=False))
    assert sink.status == 502 and sink.error["message"] == "second" and "openai-version" not in sink.headers
    world.check_idle(1)


def test_retries_are_bounded_and_the_last_fault_is_told() -> None:
    world = World(3)
    sink, _ = world.ask()
    world.flight.fail(lost())
    world.flight.fail(Fault("timeout", "slow", origin="backend", retry=True, code="first_byte_timeout"))
    assert sink.status == 504 and sink.error == {
        "message": "slow", "type": "timeout_error", "param": None, "code": "first_byte_timeout", "origin": "backend",
    }  # fmt: skip
    world.check_idle(1)
    assert world.record.attempts == 2 and (world.record.fault, world.record.origin) == ("timeout", "backend")


@pytest.mark.parametrize("fault", [lost(retry=False), Fault("bad_request", "no", origin="backend", status=400)])
def test_what_is_not_to_be_retried(fault: Fault) -> None:
    world = World()
    sink, _ = world.ask()
    world.flight.fail(fault)
    assert sink.status == fault.status
    world.check_idle(1)


def test_with_one_replica_the_first_fault_is_told() -> None:
    world = World(1)
    sink, _ = world.ask()
    world.flight.fail(lost())
    assert sink.error["message"] == "lost"
    world.check_idle(1)


def test_a_retry_that_meets_a_refusal_tells_that() -> None:
    world = World()
    sink, _ = world.ask()
    first = world.flight
    world.links[1 - int(first.replica)].refuse = Fault("bad_request", "too long", origin="client")
    first.fail(lost())
    assert sink.error["message"] == "too long"
    world.check_idle(1)


@pytest.mark.parametrize("how", ["fault", "error event", "cut", "finish in the tail"])
def test_after_content_the_client_gets_an_error_event(how: str) -> None:
    world = World()
    sink, _ = world.ask(stream=True)
    flight = world.flight
    flight.head(200, SSE)
    flight.data(TEXT)
    if how == "fault":
        flight.fail(lost())
    elif how == "error event":
        flight.data(TEXT + BOOM + TEXT)
        assert flight.cancels
    elif how == "cut":
        flight.data(b"data: {")
        flight.end()
    else:
        flight.data(TEXT.rstrip())
        flight.end()
    assert sink.done and sink.status == 200 and DONE not in sink.body
    assert sink.body.startswith(TEXT) and sink.body.count(b'"error"') == 1 and sink.error["origin"] == "backend"
    assert sink.body.count(TEXT) == (1 if how in ("fault", "cut") else 2)
    world.check_idle(1)
    assert world.record.status == 200 and world.record.fault and world.record.attempts == 1


def test_too_much_is_cut_off() -> None:
    world = World(limits=Limits(answer_bytes=50), retries=0)
    sink, _ = world.ask()
    flight = world.flight
    flight.head()
    flight.data(b"[" * 51)
    assert flight.cancels and sink.error["code"] == "answer_too_large"
    sink, _ = world.ask()
    world.flight.whole(ANSWER)
    assert sink.error["code"] == "answer_too_large"
    sink, _ = world.ask()
    flight = world.flight
    flight.head(400)
    flight.data(b"x" * (MAX_ERROR + 1))
    assert flight.cancels and sink.status == 400
    world.check_idle(3)


def test_an_answer_that_ends_with_its_connection_must_be_whole() -> None:
    world = World(retries=0)
    for body, status in ((ANSWER, 200), (ANSWER[:-1], 502)):
        sink, _ = world.ask()
        flight = world.flight
        flight.head(200, {b"content-type": b"application/json"})
        flight.data(body)
        flight.end()
        assert sink.status == status
    world.check_idle(2)
