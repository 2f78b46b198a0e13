"""Where a call goes when an attempt fails: stale connections, dead replicas, refusals. How often, and never after content."""

from __future__ import annotations

import socket

import pytest

from tests.fakes import answers
from tests.fakes.engine import Engine
from tests.fakes.script import Gate, Script, script
from tests.faults.check import complete, cut_stream, failed
from tests.golden import BY_NAME, Golden
from tests.harness import both_ways, chat, config_for, running

STREAM, WHOLE = BY_NAME["vllm-chat-stream"], BY_NAME["vllm-chat"]
CASES = pytest.mark.parametrize("case", [STREAM, WHOLE], ids=["stream", "whole"])


@both_ways
@CASES
def test_a_stale_connection_is_retried_once_and_unseen(case: Golden, asgi: bool) -> None:
    with Engine() as engine, running(config_for([engine], route={"retries": 0}), asgi) as gateway:
        for turn in range(1, 4):
            engine.queue(case.answer().but(ending="stale"))
            complete(gateway.ask(case.doc), case)
            engine.queue(case.answer("eof"))
            complete(gateway.ask(case.doc), case)
            assert engine.stale_drops == turn
        assert len(engine.posts()) == 6  # a dropped request was never seen whole


@both_ways
def test_a_stale_connection_is_retried_only_once(asgi: bool) -> None:
    """The pool may hold many stale connections; the retry must not walk through them."""
    gate = Gate()
    with Engine() as engine, running(config_for([engine], route={"retries": 0}), asgi) as gateway:
        engine.queue(*[script(gate, WHOLE.answer().steps, ending="stale")] * 4)
        clients = [gateway.dial() for _ in range(4)]
        for client in clients:
            client.post(WHOLE.doc)
        engine.wait(lambda e: len(e.posts()) == 4, "four requests at once")
        gate.open()
        for client in clients:
            complete(client.reader.read(), WHOLE)
            client.sock.close()
        before = engine.connections
        engine.queue(Script((), cut=0, ending="rst"))
        failed(gateway.ask(chat()), 502)
        assert (engine.stale_drops, engine.connections - before, len(engine.posts())) == (1, 1, 5)


@both_ways
@pytest.mark.parametrize("size", [1, 12, 60])
def test_a_pooled_connection_is_not_retried_after_one_byte(size: int, asgi: bool) -> None:
    with Engine() as engine, running(config_for([engine], route={"retries": 0}), asgi) as gateway:
        assert gateway.ask(chat()).status == 200
        engine.queue(WHOLE.answer().but(cut=size))
        failed(gateway.ask(chat()), 502)
        assert len(engine.posts()) == 2
        assert engine.connections == 1


@both_ways
@CASES
def test_a_restarted_engine_costs_no_request(case: Golden, asgi: bool) -> None:
    """All pooled connections close while idle: later requests meet none of them."""
    with Engine() as engine, running(config_for([engine]), asgi) as gateway:
        for _ in range(5):
            engine.queue(case.answer(), case.answer())
            complete(gateway.ask(case.doc), case)
            engine.drop_idle()
            complete(gateway.ask(case.doc), case)


FAILURES = {
    "500": answers.openai_error(500), "502": answers.html(502), "503": answers.vllm_error(503), "529": answers.anthropic_error(529),
    "429": answers.openai_error(429), "closed": Script((), cut=0), "reset": Script((), cut=0, ending="rst"),
    "cut": WHOLE.answer().but(cut=100), "garbage": script(b"\x00\x01\x02\r\n\r\n", ending="fin"),
    "error under 200": answers.sse([answers.ERROR_EVENTS["vllm"], answers.DONE]),
    "role, then cut": STREAM.answer().but(cut=400),
}  # fmt: skip


@both_ways
@CASES
@pytest.mark.parametrize("name", list(FAILURES))
def test_when_both_replicas_fail_each_was_asked_once(name: str, case: Golden, asgi: bool) -> None:
    with Engine() as one, Engine() as two, running(config_for([one, two]), asgi) as gateway:
        for engine in (one, two):
            engine.queue(FAILURES[name])
            engine.on_model("fake", case.answer())
        failed(gateway.ask(case.doc), 429, 500, 502, 503)
        assert (len(one.posts()), len(two.posts())) == (1, 1), "one retry, on the other replica"
        complete(gateway.ask(case.doc), case)


@both_ways
@CASES
@pytest.mark.parametrize("name", list(FAILURES))
def test_failover_before_content(name: str, case: Golden, asgi: bool) -> None:
    """The first replica always fails, the second is good: no client ever notices."""
    with Engine() as bad, Engine() as good, running(config_for([bad, good]), asgi) as gateway:
        bad.on_model("fake", FAILURES[name])
        good.on_model("fake", case.answer())
        for _ in range(6):
            complete(gateway.ask(case.doc), case)
        assert bad.posts(), "the failing replica was never asked"
        gateway.settled()


@both_ways
@pytest.mark.parametrize("status", [400, 404, 413, 422])
def test_the_clients_own_faults_are_not_retried(status: int, asgi: bool) -> None:
    with Engine() as one, Engine() as two, running(config_for([one, two], route={"retries": 3}), asgi) as gateway:
        for engine in (one, two):
            engine.on_model("fake", answers.openai_error(status))
        failed(gateway.ask(chat()), status)
        assert len(one.posts()) + len(two.posts()) == 1


@both_ways
def test_retries_are_bounded_by_the_route(asgi: bool) -> None:
    engines = [Engine() for _ in range(4)]
    with engines[0], engines[1], engines[2], engines[3]:
        for retries in (0, 1, 2, 10):
            with running(config_for(engines, route={"retries": retries}), asgi) as gateway:
                for engine in engines:
                    engine.on_model("fake", answers.openai_error(500))
                before = sum(len(engine.posts()) for engine in engines)
                failed(gateway.ask(chat()), 500)
                asked = sum(len(engine.posts()) for engine in engines) - before
                assert asked == min(retries + 1, len(engines)), "no replica is asked twice for one call"


@both_ways
def test_no_retry_after_content(asgi: bool) -> None:
    content = STREAM.answer().raw.index(b"\n\n", STREAM.answer().raw.index(b" import")) + 2
    with Engine() as one, Engine() as two, running(config_for([one, two], route={"retries": 3}), asgi) as gateway:
        for engine in (one, two):
            engine.on_model("fake", STREAM.answer().but(cut=content))
        cut_stream(gateway.ask(STREAM.doc), STREAM.client_events)
        assert len(one.posts()) + len(two.posts()) == 1


@both_ways
def test_a_dead_replica_is_passed_over(asgi: bool) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused, and nobody else gets the port
        dead = f"http://127.0.0.1:{closed.getsockname()[1]}/v1"
        with Engine() as engine, running(config_for([dead, engine]), asgi) as gateway:
            engine.on_model("fake", WHOLE.answer())
            for _ in range(20):
                complete(gateway.ask(WHOLE.doc), WHOLE)
            assert len(engine.posts()) == 20


@both_ways
def test_an_engine_that_comes_back_is_used_again(asgi: bool) -> None:
    with Engine() as engine:
        port = engine.port
        url = engine.url
        with running(config_for([engine]), asgi) as gateway:
            engine.on_model("fake", WHOLE.answer())
            complete(gateway.ask(WHOLE.doc), WHOLE)
            engine.stop()
            failed(gateway.ask(chat()), 502, 503)
            with Engine(port=port) as again:
                assert again.url == url
                again.on_model("fake", WHOLE.answer())
                complete(gateway.ask(WHOLE.doc), WHOLE)
