"""Bad requests: smuggling, wrong bodies, wrong types, Each gets one clear error; none reaches an engine twice."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from tests.fakes.engine import Engine
from tests.fakes.reader import Answer
from tests.faults.check import failed
from tests.faults.conftest import Plain
from tests.harness import Client, chat, config_for, encoded, request, running

PATHS = ["/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/rerank"]
BODY = encoded(chat())
HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
LENGTH = b"Content-Length: %d\r\n" % len(BODY)
HIDDEN = b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: %d\r\n\r\n%s" % (len(BODY), BODY)
CHUNKED = b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY)

# Every way to say two things about where a request ends: refused, and the connection closed before what was hidden is read.
SMUGGLING = {
    "two lengths": HEAD + LENGTH + b"Content-Length: 5\r\n\r\n" + BODY,
    "two equal lengths": HEAD + LENGTH + LENGTH + b"\r\n" + BODY,
    "a list of lengths": HEAD + b"Content-Length: %d, %d\r\n\r\n" % (len(BODY), len(BODY)) + BODY,
    "length and chunked": HEAD + LENGTH + b"Transfer-Encoding: chunked\r\n\r\n" + CHUNKED,
    "chunked and length": HEAD + b"Transfer-Encoding: chunked\r\n" + LENGTH + b"\r\n" + CHUNKED,
    "unknown coding": HEAD + b"Transfer-Encoding: xchunked\r\n\r\n" + CHUNKED,
    "chunked twice": HEAD + b"Transfer-Encoding: chunked, chunked\r\n\r\n" + CHUNKED,
    "chunked not last": HEAD + b"Transfer-Encoding: chunked, identity\r\n\r\n" + CHUNKED,
    "negative length": HEAD + b"Content-Length: -1\r\n\r\n" + BODY,
    "plus length": HEAD + b"Content-Length: +%d\r\n\r\n" % len(BODY) + BODY,
    "hex length": HEAD + b"Content-Length: 0x20\r\n\r\n" + BODY,
    "length overflows": HEAD + b"Content-Length: 99999999999999999999999\r\n\r\n" + BODY,
    "space before colon": HEAD + b"Content-Length : %d\r\n\r\n" % len(BODY) + BODY,
    "obsolete folding": HEAD + b"X-A: 1\r\n Content-Length: 5\r\n" + LENGTH + b"\r\n" + BODY,
    "folded coding": HEAD + b"Transfer-Encoding:\r\n chunked\r\n\r\n" + CHUNKED,
    "bare LF between headers": HEAD + b"X-A: 1\nX-B: 2\r\n" + LENGTH + b"\r\n" + BODY,
    "bare LF everywhere": (HEAD + LENGTH + b"\r\n").replace(b"\r\n", b"\n") + BODY,
    "bare CR in a value": HEAD + b"X-A: 1\rX-B: 2\r\n" + LENGTH + b"\r\n" + BODY,
    "null in a value": HEAD + b"X-A: \x00\r\n" + LENGTH + b"\r\n" + BODY,
    "bad chunk size": HEAD + b"Transfer-Encoding: chunked\r\n\r\n-5\r\n" + BODY + b"\r\n0\r\n\r\n",
    "chunk longer than said": HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\n" + BODY + b"\r\n0\r\n\r\n",
    "chunk size with LF": HEAD + b"Transfer-Encoding: chunked\r\n\r\n%x\n" % len(BODY) + BODY + b"\r\n0\r\n\r\n",
    "no name": HEAD + b": x\r\n" + LENGTH + b"\r\n" + BODY,
    "space in the target": b"POST /v1/chat/completions /x HTTP/1.1\r\nHost: 127.0.0.1\r\n" + LENGTH + b"\r\n" + BODY,
    "rubbish": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 100 + b"\r\n\r\n",
    "another version": b"POST /v1/chat/completions HTTP/3.7\r\nHost: 127.0.0.1\r\n" + LENGTH + b"\r\n" + BODY,
    "HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
}

HOSTS = {
    "no host": b"POST /v1/chat/completions HTTP/1.1\r\n" + LENGTH + b"\r\n" + BODY,
    "two hosts": HEAD + b"Host: evil\r\n" + LENGTH + b"\r\n" + BODY,
}


def drain(client: Client) -> bytes:
    """Everything until the server closes."""
    reader = client.reader
    while reader._more():
        pass
    return bytes(reader.buffer)


def refused(raw: bytes) -> None:
    """Raw bytes of a connection: at most one answer, 400 to 417 or 505, and no trace of a second one."""
    assert len(re.findall(rb"HTTP/1\.1 \d\d\d ", raw)) <= 1, raw
    assert not raw or re.match(rb"HTTP/1\.1 (400|403|408|411|413|417|431|501|505) ", raw), raw[:200]
    assert b"Traceback" not in raw


@pytest.mark.parametrize("name", list(SMUGGLING))
def test_a_request_with_two_readings_is_refused(name: str, plain: Plain) -> None:
    with plain as (engine, gateway):
        with gateway.dial() as client:
            client.send(SMUGGLING[name] + HIDDEN)
            refused(drain(client))  # until the gateway closes: it must, since it cannot know where a next request would begin
        assert gateway.ask(chat()).status == 200
        assert len(engine.posts()) == 1, "a refused request, or one hidden behind it, reached the engine"


@pytest.mark.parametrize("name", list(HOSTS))
def test_a_request_to_no_one_host_is_refused(name: str, plain: Plain) -> None:
    with plain as (engine, gateway), gateway.dial() as client:
        client.send(HOSTS[name])
        assert client.reader.read().status in (400, 403)
        assert not engine.posts()


def test_chunked_bodies_are_read(plain: Plain) -> None:
    """With extensions and trailers too: the engine gets one plain length."""
    head = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
    parts = b"".join(b'%x;note="a;b"\r\n%c\r\n' % (1, byte) for byte in BODY)
    with plain as (engine, gateway), gateway.dial() as client:
        for body in (CHUNKED, parts + b"0\r\n\r\n", parts + b"0\r\nX-Sum: 1\r\n\r\n"):
            client.send(head + body)
            assert client.reader.read().status == 200
        assert [request.doc for request in engine.posts()] == [chat() | {"model": "fake"}] * 3


@pytest.mark.parametrize("split", [0, 1])
def test_an_offer_of_http2_is_declined_in_silence(split: int) -> None:
    """What every stock Java client sends. The body must survive, however the bytes are split. Our own protocol only: on the
    ASGI way the parser is the server's, and uvicorn's loses the body (uvicorn#2722)."""
    offer = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA\r\n"
    head = HEAD + offer + LENGTH + b"\r\n"
    with Engine() as engine, running(config_for([engine])) as gateway, gateway.dial() as client:
        for _ in range(2):
            for part in [head + BODY] if not split else [bytes([byte]) for byte in head + BODY]:
                client.send(part)
            assert client.reader.read().status == 200
        assert len(engine.posts()) == 2


def test_expect_100_continue(plain: Plain) -> None:
    with plain as (_, gateway), gateway.dial() as client:
        client.send(HEAD + LENGTH + b"Expect: 100-continue\r\n\r\n")
        assert client.reader.head()[0] == 100
        client.send(BODY)
        assert client.reader.read().status == 200
        client.send(HEAD + LENGTH + b"Expect: 100-continue\r\n\r\n" + BODY)
        assert client.reader.read().status == 200


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_http_1_0_gets_no_chunks(stream: bool, plain: Plain) -> None:
    body = encoded(chat(stream=stream))
    with plain as (_, gateway), gateway.dial() as client:
        client.send(b"POST /v1/chat/completions HTTP/1.0\r\nHost: 127.0.0.1\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        raw = drain(client)
        head, _, content = raw.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 ") and b"chunked" not in head.lower()
        assert content.endswith(b"data: [DONE]\n\n") if stream else json.loads(content)


def test_connection_close_is_honoured(plain: Plain) -> None:
    with plain as (_, gateway):
        for stream in (False, True):
            with gateway.dial() as client:
                answer = client.ask(chat(stream=stream), headers={"connection": "close"})
                assert answer.status == 200 and not answer.keeps
                assert client.reader.at_end()


WRONG: dict[str, Any] = {
    "empty": b"", "not JSON": b"hello", "cut": BODY[:-1], "two documents": BODY + BODY, "a list": b"[]", "a text": b'"x"', "null": b"null",
    "number": b"7", "invalid UTF-8": b'{"model":"m","messages":[{"role":"user","content":"\xff\xfe"}]}',
    "UTF-16": BODY.decode().encode("utf-16"),
    "lone surrogate byte": b'{"model":"m","messages":"\xed\xa0\x80"}', "NaN": b'{"model":"m","messages":[],"temperature":NaN}',
    "deep lists": b'{"model":"m","messages":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "deep objects": b'{"model":"m","messages":' + b'{"a":' * 100_000 + b"1" + b"}" * 100_000 + b"}",
    "deep and open": b"[" * 1_000_000, "no model": {"messages": []}, "null model": {"model": None}, "number model": {"model": 7},
    "list model": {"model": ["m"]}, "empty model": {"model": ""}, "text stream": {"model": "m", "stream": "yes"},
    "number stream": {"model": "m", "stream": 1}, "trailing comma": b'{"model":"m",}', "comment": b'{"model":"m"/**/}',
    "BOM": b"\xef\xbb\xbf" + BODY,
    "control characters": b'{"model":"m\x01"}', "long model": {"model": "m" * 100_000},
    "strange model": {"model": "../../etc/passwd\r\nx: y\u2028"},
}  # fmt: skip


@pytest.mark.parametrize("name", list(WRONG))
def test_wrong_bodies_get_one_clear_sentence(name: str, plain: Plain) -> None:
    with plain as (engine, gateway), gateway.dial() as client:
        for path in PATHS:
            answer = client.ask(WRONG[name], path)
            error = failed(answer, 400, 404, origin="client")
            assert answer.status == 404 or error["type"] == "invalid_request_error"
            assert len(error["message"]) < 1000
        assert not engine.requests or not engine.posts()


def test_a_duplicate_key_has_one_meaning(plain: Plain) -> None:
    """Refused, or decided once: the engine (which refuses duplicates itself) never sees two."""
    with plain as (engine, gateway):
        twice = b'{"model":"none","model":"m","messages":[],"messages":[{"role":"user","content":"b"}],"stream":true,"stream":false}'
        answer = gateway.ask(twice)
        assert answer.status in (200, 400)
        if answer.status == 200:
            assert answer.doc["choices"][0]["message"]["content"] == "You said: b"
            assert engine.posts()[0].doc["stream"] is False


def test_unknown_fields_and_odd_numbers_survive(plain: Plain) -> None:
    thing = b'{"b":1.0,"a":1e400,"big":123456789012345678901234567890}'
    body = b'{"model":"m","messages":[{"role":"user","content":"\\ud83d\\udc4b"}],"new_thing":' + thing + b"}"
    with plain as (engine, gateway):
        assert gateway.ask(body).status == 200
        assert thing in engine.posts()[0].body
        assert b'"\\ud83d\\udc4b"' in engine.posts()[0].body


@pytest.mark.parametrize(
    "path", ["/", "/v1", "/v1/nothing", "/v1/chat/completions/x", "//v1/models", "/v1/../v1/models", "/%2e%2e/", "/v1/models/none"]
)
def test_unknown_paths(path: str, plain: Plain) -> None:
    with plain as (_, gateway):
        answer = gateway.get(path)
        if path != "/":
            failed(answer, 404, origin="client")
        assert answer.headers.get("x-request-id")


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "TRACE", "BREW"])
def test_wrong_methods(method: str, plain: Plain) -> None:
    with plain as (engine, gateway), gateway.dial() as client:
        client.send(request(method, "/v1/chat/completions"))
        answer = client.reader.read(method)
        assert answer.status in (400, 404, 405)
        assert answer.headers.get("x-request-id") or answer.status == 400
        assert not engine.posts()


def test_every_answer_has_a_request_id(plain: Plain) -> None:
    with plain as (engine, gateway):
        given = {"x-request-id": "abc-123"}
        answers: list[Answer] = [
            gateway.ask(chat(), headers=given), gateway.ask(chat(stream=True), headers=given), gateway.ask({}, headers=given),
            gateway.get("/v1/models", headers=given), gateway.get("/health", headers=given), gateway.get("/nothing", headers=given),
        ]  # fmt: skip
        assert [answer.headers.get("x-request-id") for answer in answers] == ["abc-123"] * len(answers)
        own = [gateway.ask(chat()).headers["x-request-id"] for _ in range(5)]
        assert len(set(own)) == 5
        evil = gateway.ask(chat(), headers={"x-request-id": "a b\tc" + "d" * 500}).headers["x-request-id"]
        assert re.fullmatch(r"[A-Za-z0-9._:-]{1,128}", evil)
        assert engine.posts()[0].header("x-request-id") == "abc-123"
