"""Wrong answers of every kind: statuses, errors inside a 200, garbage, broken framing, timeouts. And odd ones that are right."""

from __future__ import annotations

import random

import pytest

from tests.fakes import answers
from tests.fakes.answers import DONE, ERROR_EVENTS, ERRORS, MALFORMED, data, dumps, head, respond, sse
from tests.fakes.engine import Engine
from tests.fakes.reader import events
from tests.fakes.script import Script, script
from tests.faults.check import complete, cut_stream, failed
from tests.faults.conftest import Plain
from tests.golden import BY_NAME
from tests.harness import both_ways, chat, config_for, running

STREAM, WHOLE = BY_NAME["vllm-chat-stream"], BY_NAME["vllm-chat"]
# What the client is told: our own credentials' refusal is not the client's, and 529 is nobody's standard.
TOLD = {400: 400, 401: 502, 402: 502, 403: 502, 404: 404, 413: 413, 422: 422, 429: 429, 500: 500, 502: 502, 503: 503, 504: 504, 529: 503}


@pytest.mark.parametrize("provider", list(ERRORS))
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_error_statuses_become_the_envelope(provider: str, stream: bool, plain: Plain) -> None:
    with plain as (engine, gateway):
        for status, told in TOLD.items():
            engine.queue(ERRORS[provider](status, "the engine's own words"))
            error = failed(gateway.ask(chat(stream=stream)), told)
            assert "the engine's own words" in error["message"], error


@pytest.mark.parametrize(("given", "told"), [("7", "7"), ("0.2", "1"), ("Wed, 21 Oct 2015 07:28:00 GMT", "1"), ("soon", None)])
def test_retry_after_is_passed_on(given: str, told: str | None, plain: Plain) -> None:
    with plain as (engine, gateway):
        engine.queue(answers.openai_error(429, headers=[("retry-after", given)]))
        answer = gateway.ask(chat())
        failed(answer, 429)
        assert answer.headers.get("retry-after") == told


@both_ways
@pytest.mark.parametrize("name", list(ERROR_EVENTS))
@pytest.mark.parametrize("before", [0, 1], ids=["first", "after the role"])
def test_an_error_in_a_200_before_content_is_a_status(name: str, before: int, asgi: bool) -> None:
    """And the second replica is asked first."""
    role = events(STREAM.upstream)[:before]
    with Engine() as one, Engine() as two, running(config_for([one, two]), asgi) as gateway:
        for engine in (one, two):
            engine.queue(sse([*role, ERROR_EVENTS[name], DONE]))
        failed(gateway.ask(STREAM.doc), 500, 502, 503)
        asked = len(one.posts()) + len(two.posts())
        assert asked == 2 or name in ("openai", "flat"), "an error that says nothing of retrying may go either way"
        one.queue(STREAM.answer())
        two.queue(STREAM.answer())
        complete(gateway.ask(STREAM.doc), STREAM)


@pytest.mark.parametrize("name", list(ERROR_EVENTS))
def test_an_error_in_a_200_after_content_ends_the_stream(name: str, plain: Plain) -> None:
    """As vLLM does it: the error event and then [DONE]. Every place after content, in one write or in many."""
    whole = events(STREAM.upstream)
    with plain as (engine, gateway):
        for at in range(2, len(whole) - 2):
            for parts in ([*whole[:at], ERROR_EVENTS[name], DONE], [b"".join(whole[:at]) + ERROR_EVENTS[name] + DONE]):
                engine.queue(sse(parts))
                answer = gateway.ask(STREAM.doc)
                cut_stream(answer, STREAM.client_events)
                assert len(answer.events) == at + 1
        assert len(engine.posts()) == 2 * (len(whole) - 4)


@pytest.mark.parametrize("doc", [
    {"error": {"message": "no", "type": "server_error", "code": 500}},
    {"error": "no"},
    {"object": "error", "message": "no", "type": "InternalServerError", "code": 500},
    {"type": "error", "error": {"type": "overloaded_error", "message": "no"}},
], ids=["openai", "text", "flat", "anthropic"])  # fmt: skip
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_a_json_error_under_200_is_an_error(doc: object, stream: bool, plain: Plain) -> None:
    with plain as (engine, gateway):
        engine.queue(answers.reply(doc))
        assert failed(gateway.ask(chat(stream=stream)), 500, 502, 503)["message"] == "no"


@pytest.mark.parametrize("name", list(MALFORMED))
def test_malformed_answers_are_errors(name: str, plain: Plain) -> None:
    with plain as (engine, gateway):
        engine.queue(script(MALFORMED[name], ending="fin"))
        failed(gateway.ask(chat()), 502)


@pytest.mark.parametrize("status", [200, 502, 503])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_html_pages_are_errors(status: int, stream: bool, plain: Plain) -> None:
    with plain as (engine, gateway):
        engine.queue(answers.html(status))
        error = failed(gateway.ask(chat(stream=stream)), 502, 503)
        assert "<" not in error["message"]


def test_random_bytes_are_errors(plain: Plain) -> None:
    noise = random.Random(1)
    with plain as (engine, gateway):
        for _ in range(50):
            engine.queue(script(noise.randbytes(noise.randrange(1, 3000)), ending="fin"))
            failed(gateway.ask(chat()), 502)
            engine.queue(respond([noise.randbytes(noise.randrange(1, 3000))]))
            failed(gateway.ask(chat()), 502)
            engine.queue(sse([noise.randbytes(noise.randrange(1, 3000))]))
            failed(gateway.ask(chat(stream=True)), 502)


WRONG = {
    "empty body": respond([b""]),
    "no content": script(head(204, [])),
    "JSON cut": respond([WHOLE.upstream[:-20]]),
    "JSON cut at a brace": respond([b'{"id":"x","choices":[{"index":0}'], framing="eof"),
    "a number": respond([b"7"]),
    "redirect": script(head(307, [("location", "http://127.0.0.1:1/"), ("content-length", "0")])),
    "not modified": script(head(304, [])),
    "stream without anything": sse([]),
    "stream of comments": sse([b": ping\n\n"] * 3),
    "stream of DONE only": sse([DONE]),
    "stream without a finish": sse(events(STREAM.upstream)[:1]),
    "compressed": respond([b"\x1f\x8b\x08\x00" + b"\x00" * 20], headers=[("content-encoding", "gzip")]),
}


@pytest.mark.parametrize("name", list(WRONG))
def test_answers_that_are_none(name: str, plain: Plain) -> None:
    with plain as (engine, gateway):
        engine.queue(WRONG[name])
        failed(gateway.ask(chat(stream="stream" in name)), 502)
        assert len(engine.posts()) == 1


@pytest.mark.parametrize("headers", [
    [("x-long", "a" * 1_000_000)],
    [(f"x-{at}", "b" * 100) for at in range(10_000)],
], ids=["long", "many"])  # fmt: skip
def test_huge_headers_are_refused(headers: answers.Headers, plain: Plain) -> None:
    with plain as (engine, gateway):
        engine.queue(respond([WHOLE.upstream], headers=headers))
        failed(gateway.ask(chat()), 502)


def test_endless_interim_answers_are_refused(plain: Plain) -> None:
    with plain as (engine, gateway):
        engine.queue(script(b"HTTP/1.1 100 Continue\r\n\r\n" * 20_000, ending="fin"))
        failed(gateway.ask(chat()), 502)


RIGHT: dict[str, Script] = {
    "interim answers": respond([WHOLE.upstream], interim=b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n"),
    "chunk extensions": respond([WHOLE.upstream[:9], WHOLE.upstream[9:]], framing="chunked", extension=';a="b"'),
    "trailers": respond([WHOLE.upstream], framing="chunked", trailers=[("x-checksum", "1")]),
    "half-closed": WHOLE.answer("length").but(ending="half"),
    "half-closed chunked": WHOLE.answer("chunked").but(ending="half"),
    "a byte a chunk": respond([bytes([byte]) for byte in WHOLE.upstream], framing="chunked"),
    "a byte a write": respond([bytes([byte]) for byte in WHOLE.upstream], framing="chunked").but(piece=1),
    "HTTP/1.0": script(head(200, [("content-type", "application/json")], version="1.0"), WHOLE.upstream, ending="fin"),
    "odd header case": script(
        b"HTTP/1.1 200 OK\r\nCONTENT-TYPE: Application/JSON\r\nConTent-LenGth: %d\r\n\r\n" % len(WHOLE.upstream), WHOLE.upstream
    ),
    "many headers": respond([WHOLE.upstream], headers=[(f"x-{at}", "v" * 50) for at in range(200)]),
}


@pytest.mark.parametrize("name", list(RIGHT))
def test_odd_answers_that_are_right(name: str, plain: Plain) -> None:
    with plain as (engine, gateway):
        for _ in range(2):
            engine.queue(RIGHT[name])
            complete(gateway.ask(WHOLE.doc), WHOLE)


def test_engine_headers_do_not_leak(plain: Plain) -> None:
    """Only what is meant for clients comes through; nothing of the engine's connection."""
    sent = [("server", "secret/1.2"), ("set-cookie", "a=1"), ("x-internal", "h7"), ("keep-alive", "timeout=5"), ("x-request-id", "x")]
    with plain as (engine, gateway):
        engine.queue(respond([WHOLE.upstream], headers=sent))
        answer = gateway.ask(chat(), headers={"x-request-id": "mine-1"})
        complete(answer, WHOLE)
        assert answer.headers["x-request-id"] == "mine-1"
        assert not {"set-cookie", "x-internal", "keep-alive"} & set(answer.headers)
        assert "secret" not in str(answer.headers)


@both_ways
@pytest.mark.parametrize("stage", ["head", "content"])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_a_stall_ends_in_a_timeout(stage: str, stream: bool, asgi: bool) -> None:
    case = STREAM if stream else WHOLE
    whole = case.answer()
    size = 0 if stage == "head" else whole.raw.index(b"\n\n", whole.raw.index(b" import")) + 2 if stream else len(whole.raw) - 9
    limits = {"timeouts": {"first_byte": 0.2, "idle": 0.2}}
    with Engine() as engine, running(config_for([engine], backend=limits, route={"retries": 0}), asgi) as gateway:
        engine.queue(whole.but(cut=size, ending="stall"))
        answer = gateway.ask(case.doc)
        if stream and stage == "content":
            assert cut_stream(answer, case.client_events)["type"] == "timeout_error"
            assert len(answer.events) == 3
        else:
            assert failed(answer, 504)["type"] == "timeout_error"
        engine.wait(lambda e: len(e.left) == 1, "the gateway hanging up on a stalled engine")
        assert engine.left[0].sent == size


@both_ways
def test_an_answer_without_end_is_cut_by_its_caps(asgi: bool) -> None:
    limits = {"answer_bytes": 65536, "event_bytes": 65536}
    with Engine() as engine, running(config_for([engine], server={"limits": limits}, route={"retries": 0}), asgi) as gateway:
        engine.queue(respond([b"{" + b" " * 200_000 + b"}"]))
        failed(gateway.ask(chat()), 502)
        engine.queue(sse([b"data: " + b"x" * 200_000 + b"\n\n", DONE]))
        failed(gateway.ask(chat(stream=True)), 502)
        engine.queue(sse([data({"choices": [{"index": 0, "delta": {"role": "assistant"}}]})] * 5_000))
        failed(gateway.ask(chat(stream=True)), 502)
        engine.queue(respond([dumps({"error": {"message": "m" * 10_000_000}})], status=500))
        failed(gateway.ask(chat()), 500)


def test_a_connection_refused_says_so() -> None:
    with Engine() as engine:
        dead = engine.url
    with running(config_for([dead])) as gateway:
        error = failed(gateway.ask(chat()), 502, 503)
        assert "traceback" not in error["message"].lower()
