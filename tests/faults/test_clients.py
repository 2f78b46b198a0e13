"""Clients that leave, that are slow, that are in a hurry. What the engine sees of it is the proof."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.fakes.answers import DONE, paced, sse
from tests.fakes.engine import Engine
from tests.fakes.reader import AnswerReader, events
from tests.fakes.script import Gate, script
from tests.faults.check import complete
from tests.golden import BY_NAME
from tests.harness import Client, Running, both_ways, chat, config_for, encoded, request, running

STREAM, WHOLE = BY_NAME["vllm-chat-stream"], BY_NAME["vllm-chat"]
LEAVE = pytest.mark.parametrize("leave", ["close", "reset"])


def depart(client: Client, how: str) -> None:
    client.reset() if how == "reset" else client.sock.close()


@both_ways
@LEAVE
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_a_client_that_leaves_while_waiting_aborts_the_engine(stream: bool, leave: str, asgi: bool) -> None:
    """Nothing has come of the answer: the engine computes, and must stop."""
    with Engine() as engine, running(config_for([engine]), asgi) as gateway:
        engine.queue(script(Gate()))
        client = gateway.dial()
        client.post(chat(stream=stream))
        engine.wait(lambda e: len(e.posts()) == 1, "the request")
        assert gateway.held() == (1, {name: 1 for name in gateway.held()[1]})
        depart(client, leave)
        engine.wait(lambda e: len(e.left) == 1, "the gateway hanging up")
        assert engine.left[0].sent == 0
        gateway.settled()


@both_ways
@LEAVE
def test_a_client_that_leaves_in_mid_stream_aborts_the_engine(leave: str, asgi: bool) -> None:
    gate = Gate()
    whole = events(STREAM.upstream)
    with Engine() as engine, running(config_for([engine]), asgi) as gateway:
        engine.queue(sse(paced(whole, gate)))
        client = gateway.dial()
        client.post(STREAM.doc)
        gate.open(2)
        status, _ = client.reader.head()
        assert (status, client.reader.chunk()) == (200, b"".join(whole[:2]))
        depart(client, leave)
        engine.wait(lambda e: len(e.left) == 1, "the gateway hanging up")
        gateway.settled()


@both_ways
def test_a_client_that_leaves_while_the_whole_answer_comes_in(asgi: bool) -> None:
    gate = Gate()
    half = WHOLE.answer()
    with Engine() as engine, running(config_for([engine]), asgi) as gateway:
        engine.queue(script(half.raw[:-50], gate, half.raw[-50:]))
        client = gateway.dial()
        client.post(WHOLE.doc)
        assert gate.reached.wait(20)
        client.sock.close()
        engine.wait(lambda e: len(e.left) == 1, "the gateway hanging up")
        gateway.settled()
        engine.queue(WHOLE.answer())
        complete(gateway.ask(WHOLE.doc), WHOLE)


@both_ways
def test_many_clients_leave_at_once(asgi: bool) -> None:
    with Engine() as engine, running(config_for([engine]), asgi) as gateway:
        gate = Gate()
        engine.on_model("fake", sse([events(STREAM.upstream)[1], gate, DONE]))
        clients = [gateway.dial() for _ in range(64)]
        for client in clients:
            client.post(STREAM.doc)
        for client in clients:
            assert client.reader.head()[0] == 200
        assert gateway.held()[0] == 64
        for client in clients:
            client.sock.close()
        engine.wait(lambda e: len(e.left) == 64, "64 aborted answers")
        gateway.settled()


@both_ways
def test_a_client_that_leaves_before_its_body_reaches_no_engine(asgi: bool) -> None:
    with Engine() as engine, running(config_for([engine]), asgi) as gateway:
        whole = request("POST", "/v1/chat/completions", encoded(chat()))
        for size in (1, 20, len(whole) - 1):
            with gateway.dial() as client:
                client.send(whole[:size])
        gateway.ask(chat())
        assert len(engine.posts()) == 1


@both_ways
def test_a_finished_client_may_close_its_sending_side(asgi: bool) -> None:
    """A half-closed client (`nc`, some proxies) has said all it wants; leaving it without an answer is allowed, hanging is not."""
    with Engine() as engine, running(config_for([engine]), asgi) as gateway:
        engine.on_model("fake", WHOLE.answer())
        with gateway.dial() as client:
            client.post(WHOLE.doc)
            client.sock.shutdown(1)
            reader = AnswerReader(client.sock)
            while reader._more():
                pass
            assert not reader.buffer or reader.buffer.startswith(b"HTTP/1.1 200 ")
        gateway.settled()


def resident() -> int:
    """Bytes of this process in memory now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def quiet(engine: Engine, gateway: Running) -> None:
    """Returns when the engine's first answer makes no progress although the gateway is alive: 20 other requests were served meanwhile."""
    engine.wait(lambda e: e.blocks > 0, "a blocked write")
    while not engine.answered:
        before = engine.turns[0].written
        for _ in range(20):
            assert gateway.get("/health").status == 200
        if engine.turns[0].written == before:
            return
    raise AssertionError("the engine could write its whole answer although the client read nothing")


@both_ways
def test_a_slow_client_slows_the_engine(asgi: bool) -> None:
    """64 MiB of events for a client that reads nothing: the engine's writes must block, and then go on when it reads."""
    event = b'data: {"choices":[{"index":0,"delta":{"content":"' + b"x" * 65_000 + b'"},"finish_reason":null}]}\n\n'
    last = events(STREAM.upstream)[3:]
    count = 1000
    with Engine(sndbuf=65536) as engine, running(config_for([engine]), asgi) as gateway:
        engine.queue(sse([*[event] * count, *last]))
        with gateway.dial(rcvbuf=65536) as client:
            before = resident()
            client.post(STREAM.doc | {"stream_options": {"include_usage": True}})
            quiet(engine, gateway)
            assert engine.turns[0].written < 32 * 1024 * 1024
            assert resident() - before < 48 * 1024 * 1024
            answer = client.reader.read()
        assert answer.body == event * count + b"".join(last)


@both_ways
def test_pipelined_requests_are_answered_in_order(asgi: bool) -> None:
    with Engine() as engine, running(config_for([engine]), asgi) as gateway:
        asked = [chat(f"number {at}", stream=at % 2 == 1) for at in range(6)]
        with gateway.dial() as client:
            for doc in asked:
                client.post(doc)
            answered = 0
            for doc in asked:
                answer = client.reader.read()
                assert answer.status == 200
                assert doc["messages"][0]["content"].split()[1].encode() in answer.body
                answered += 1
                if not answer.keeps:
                    break
            assert answered >= 1
        gateway.settled()


@both_ways
def test_two_requests_in_one_write(asgi: bool) -> None:
    """Either both are answered, or the first with `connection: close`; never one of them twice, never mixed up."""
    one, two = (request("POST", "/v1/chat/completions", encoded(chat(text))) for text in ("first", "second"))
    with Engine() as engine, running(config_for([engine]), asgi) as gateway:
        with gateway.dial() as client:
            client.send(one + two)
            answer = client.reader.read()
            assert b"first" in answer.body and b"second" not in answer.body
            if answer.keeps:
                assert b"second" in client.reader.read().body
            else:
                assert client.reader.at_end()


@both_ways
def test_a_connection_is_kept_for_mixed_requests(asgi: bool) -> None:
    """Hot paths and others by turns on one connection: the ways must hand it over cleanly."""
    with Engine() as engine, running(config_for([engine]), asgi) as gateway:
        with gateway.dial() as client:
            for turn in range(5):
                assert client.ask(chat(f"turn {turn}")).doc["choices"][0]["message"]["content"] == f"You said: turn {turn}"
                assert client.get("/v1/models").doc["data"][0]["id"] == "m"
                assert client.ask(chat(stream=True)).events[-1] == DONE
                assert client.get("/health").status == 200
                assert client.ask({"model": "m", "input": "x"}, "/v1/embeddings").status == 200
                assert client.get("/nothing/here").status == 404
                assert client.ask({"model": "none", "messages": []}).status == 404


@both_ways
@pytest.mark.parametrize("size", [1, 3, 50])
def test_requests_in_small_pieces(size: int, asgi: bool) -> None:
    whole = request("POST", "/v1/chat/completions", encoded(chat("pieces")))
    with Engine() as engine, running(config_for([engine]), asgi) as gateway, gateway.dial() as client:
        for _ in range(2):
            for at in range(0, len(whole), size):
                client.send(whole[at : at + size])
            assert client.reader.read().doc["choices"][0]["message"]["content"] == "You said: pieces"


@both_ways
def test_large_bodies_pass_through_whole(asgi: bool) -> None:
    text = "äö€ " * 500_000
    with Engine() as engine, running(config_for([engine]), asgi) as gateway:
        assert gateway.ask(chat(text)).doc["choices"][0]["message"]["content"] == "You said: " + text
