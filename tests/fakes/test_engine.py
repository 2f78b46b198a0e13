"""The fake engine itself, held against clients that we did not write."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest

from tests.fakes import answers, certs
from tests.fakes.answers import DONE, data, respond, sse
from tests.fakes.engine import Engine
from tests.fakes.reader import AnswerReader, Cut, Malformed, events
from tests.fakes.request import RequestReader, Violation
from tests.fakes.script import Gate, Script, script

ASK = {"model": "fake", "messages": [{"role": "user", "content": "two words"}]}


@pytest.fixture
def engine() -> Iterator[Engine]:
    with Engine() as running:
        yield running


def client(engine: Engine) -> openai.OpenAI:
    return openai.OpenAI(base_url=engine.url, api_key="none", max_retries=0, timeout=20)


def dial(engine: Engine) -> socket.socket:
    return socket.create_connection(("127.0.0.1", engine.port), timeout=20)


def post(doc: bytes = b'{"model":"fake"}', path: str = "/v1/chat/completions") -> bytes:
    return b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (path.encode(), len(doc), doc)


def test_the_stock_sdk_reads_its_answers(engine: Engine) -> None:
    with client(engine) as sdk:
        twice = sdk.chat.completions.create(model="fake", messages=[{"role": "user", "content": "two words"}], n=2)
        assert twice.choices[1].message.content == "You said: two words"
        stream = sdk.chat.completions.create(**ASK, stream=True, stream_options={"include_usage": True})  # type: ignore[call-overload]
        chunks = list(stream)
        assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "You said: two words"
        assert chunks[-1].usage.completion_tokens == 4
        assert sdk.embeddings.create(model="fake-embed", input=["a", "bb"]).data[1].embedding[1] == 15 / 64
        assert sdk.completions.create(model="fake", prompt="x", max_tokens=2).choices[0].text == "You said:"
        assert [model.id for model in sdk.models.list()] == ["fake", "fake-reasoning", "fake-embed"]


def test_tools_stream_as_openai_does(engine: Engine) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string"}}}
    tools = [{"type": "function", "function": {"name": name, "parameters": schema}} for name in "fg"]
    with client(engine) as sdk, sdk.chat.completions.stream(**ASK, tools=tools, parallel_tool_calls=True) as stream:  # type: ignore[arg-type]
        message = stream.get_final_completion().choices[0].message
    assert message.tool_calls is not None
    assert [(call.function.name, call.function.arguments) for call in message.tool_calls] == [("f", '{"a": "x"}'), ("g", '{"a": "x"}')]


@pytest.mark.parametrize("framing", ["length", "chunked", "eof"])
@pytest.mark.parametrize("piece", [0, 1])
def test_every_framing_reads_the_same(engine: Engine, framing: answers.Framing, piece: int) -> None:
    whole = [data({"a": 1}), data({"b": "é"}), DONE]
    engine.queue(sse(whole, framing=framing).but(piece=piece))
    reply = httpx.post(engine.url + "/chat/completions", json=ASK, timeout=20)
    assert reply.content == b"".join(whole)
    engine.queue(sse(whole, framing=framing).but(piece=piece))
    with dial(engine) as sock:
        sock.sendall(post())
        answer = AnswerReader(sock).read()
    assert (answer.framing, answer.body, events(answer.body)) == (framing, b"".join(whole), whole)


def test_interim_answers_extensions_and_trailers(engine: Engine) -> None:
    interim = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n"
    engine.queue(respond([b"{}"], framing="chunked", extension=";x=1", trailers=[("x-sum", "1")], interim=interim))
    assert httpx.post(engine.url + "/chat/completions", json=ASK, timeout=20).json() == {}


@pytest.mark.parametrize("ending", ["fin", "rst"])
def test_cuts_after_exactly_n_bytes(engine: Engine, ending: str) -> None:
    whole = sse([data({"a": 1}), DONE])
    for size in range(len(whole.raw) + 1):
        engine.queue(whole.but(cut=size, ending=ending))  # type: ignore[arg-type]
        with dial(engine) as sock:
            sock.sendall(post())
            reader = AnswerReader(sock)
            while reader._more():
                pass
            assert bytes(reader.buffer) == whole.raw[:size]


def test_gates_hold_the_answer_until_they_are_opened(engine: Engine) -> None:
    gate = Gate()
    engine.queue(script(b"one", gate, b"two", gate, b"three", ending="fin"))
    with dial(engine) as sock:
        sock.sendall(post())
        assert gate.reached.wait(20)
        assert sock.recv(100) == b"one"
        gate.open(1)
        assert sock.recv(100) == b"two"
        gate.open()
        assert sock.recv(100) == b"three"
        assert sock.recv(100) == b""


def test_a_client_that_leaves_is_recorded_with_the_bytes_it_had(engine: Engine) -> None:
    engine.queue(script(b"x" * 1000, ending="stall"))
    with dial(engine) as sock:
        sock.sendall(post())
        assert sock.recv(1000, socket.MSG_WAITALL) == b"x" * 1000
    engine.wait(lambda e: len(e.left) == 1, "the client leave")
    assert engine.left[0].sent == 1000


def test_stale_connections_drop_at_the_next_request(engine: Engine) -> None:
    engine.queue(answers.reply({}).but(ending="stale"))
    with dial(engine) as sock:
        sock.sendall(post())
        assert AnswerReader(sock).read().keeps
        sock.sendall(post())
        with pytest.raises(Cut):
            AnswerReader(sock).read()
    engine.wait(lambda e: e.stale_drops == 1, "the stale drop")


def test_a_half_closed_answer_ends_while_requests_are_still_read(engine: Engine) -> None:
    engine.queue(answers.reply({}).but(ending="half"))
    with dial(engine) as sock:
        sock.sendall(post())
        reader = AnswerReader(sock)
        assert reader.read().doc == {}
        assert reader.at_end()
        sock.sendall(post())
        engine.wait(lambda e: len(e.requests) == 2, "the second request")


def test_writes_block_when_the_client_does_not_read() -> None:
    with Engine(sndbuf=8192) as engine:
        engine.queue(script([b"y" * 65536] * 64, ending="fin"))
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
            sock.settimeout(20)
            sock.connect(("127.0.0.1", engine.port))
            sock.sendall(post())
            engine.wait(lambda e: e.blocks > 0, "a blocked write")
            assert engine.turns[0].written < 64 * 65536
            reader = AnswerReader(sock)
            while reader._more():
                pass
            assert len(reader.buffer) == 64 * 65536


def test_unix_and_tls(tmp_path: Path) -> None:
    made = certs.make(tmp_path)
    with Engine(tls=made.server) as engine:
        context = ssl.create_default_context(cafile=str(made.authority))
        assert httpx.post(engine.url + "/chat/completions", json=ASK, verify=context, timeout=20).status_code == 200
    with Engine(unix=tmp_path / "engine.sock") as engine:
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(tmp_path / "engine.sock"))) as http:
            assert http.get("http://engine/v1/models").json()["data"][0]["id"] == "fake"


@pytest.mark.parametrize("name", list(answers.MALFORMED))
def test_malformed_answers_are_malformed(engine: Engine, name: str) -> None:
    """The strict reader refuses what the gateway will be given (but `connection: upgrade` is well-formed)."""
    engine.queue(script(answers.MALFORMED[name], ending="fin"))
    with dial(engine) as sock:
        sock.sendall(post())
        if name == "switching protocols":
            assert AnswerReader(sock).read().status == 101
        else:
            with pytest.raises(Malformed):
                AnswerReader(sock).read()


BAD_REQUESTS = {
    "bare LF": b"POST /v1/x HTTP/1.1\nHost: x\nContent-Length: 2\n\n{}\r\n\r\n",
    "no host": b"POST /v1/x HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}",
    "no length": b"POST /v1/x HTTP/1.1\r\nHost: x\r\n\r\n",
    "two lengths": b"POST /v1/x HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\n{}",
    "chunked": b"POST /v1/x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "folded": b"POST /v1/x HTTP/1.1\r\nHost: x\r\n y\r\nContent-Length: 2\r\n\r\n{}",
    "upgrade": b"POST /v1/x HTTP/1.1\r\nHost: x\r\nUpgrade: h2c\r\nContent-Length: 2\r\n\r\n{}",
    "not JSON": post(b"{"),
    "duplicate key": post(b'{"model":"a","model":"b"}'),
    "invalid UTF-8": post(b'{"model":"\xff"}'),
    "HTTP/1.0": b"POST /v1/x HTTP/1.0\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}",
}


@pytest.mark.parametrize("name", list(BAD_REQUESTS))
def test_requests_that_a_strict_engine_refuses(name: str) -> None:
    with pytest.raises(Violation):
        list(RequestReader().feed(BAD_REQUESTS[name]))


def test_requests_split_anywhere_are_the_same() -> None:
    two = post() + post(b'{"a":{"b":1,"b":2}}')
    for at in range(len(two)):
        reader = RequestReader()
        assert len([*reader.feed(two[:at]), *reader.feed(two[at:])]) == 2
        assert reader.idle


def test_violations_fail_the_test_that_made_them() -> None:
    with pytest.raises(AssertionError, match="duplicate top-level key"), Engine() as engine, dial(engine) as sock:
        sock.sendall(BAD_REQUESTS["duplicate key"])
        engine.wait(lambda e: bool(e.violations), "the violation")


def test_async_sdk(engine: Engine) -> None:
    async def talk() -> str | None:
        async with openai.AsyncOpenAI(base_url=engine.url, api_key="none", timeout=20) as sdk:
            return (await sdk.chat.completions.create(**ASK)).choices[0].message.content  # type: ignore[call-overload, no-any-return]

    assert asyncio.run(talk()) == "You said: two words"


def test_models_choose_scripts(engine: Engine) -> None:
    engine.on_model("dead", Script((b"",), ending="rst"))
    with client(engine) as sdk, pytest.raises(openai.APIConnectionError):
        sdk.chat.completions.create(model="dead", messages=[])
