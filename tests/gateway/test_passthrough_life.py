"""The life of relayed requests: those that wait, stop, come too early or too slowly, and go elsewhere."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from gateway.fleet_types import NoLink
from tests.fakes.answers import Framing, openai_error, reply, respond, sse
from tests.fakes.engine import Engine
from tests.fakes.script import Gate
from tests.gateway.forms import AUDIO, file, form, model, posted
from tests.harness import both_ways, config_for, request, running


@both_ways
def test_a_backend_that_is_busy_is_waited_for(asgi: bool) -> None:
    gate = Gate()
    with Engine() as engine, running(config_for([engine], backend={"slots": 1}), asgi) as gateway:
        engine.queue(respond([gate, b"{}"]), reply({"text": "second"}))
        with gateway.dial() as first, gateway.dial() as second, gateway.dial() as third:
            first.post({"model": "m", "input": "x"}, "/v1/moderations")
            engine.wait(lambda e: len(e.requests) == 1, "the first")
            second.send(posted(form(model(), file(AUDIO))))
            gateway.until(lambda: len(gateway.gateway.core.parked) == 1, "that the second waits")
            third.send(posted(form(model(), file(AUDIO))))
            gateway.until(lambda: len(gateway.gateway.core.parked) == 2, "that the third waits")
            third.reset()
            gate.open()
            assert first.reader.read().body == b"{}"
            assert second.reader.read().doc == {"text": "second"} and AUDIO in engine.requests[1].body


@both_ways
@pytest.mark.parametrize("status", [200, 413])
@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_an_answer_that_overtakes_its_request(asgi: bool, status: int, framing: Any) -> None:
    """An error is told; that all is well cannot be, since not all was sent."""
    early = respond([b'{"error":{"message":"Too long."}}'], status=status, framing=framing)
    with Engine() as engine, running(config_for([engine]), asgi) as gateway:
        engine.queue(replace(early, early=True))
        body = posted(form(model(), file(AUDIO)))
        with gateway.dial() as client:
            client.send(body[:-500_000])
            answer = client.reader.read()
        assert (answer.status, answer.error["code"]) == ((502, "early_answer") if status == 200 else (413, "too_large"))
        assert not answer.keeps


@both_ways
def test_a_stream_that_overtakes_its_request(asgi: bool) -> None:
    with Engine() as engine, running(config_for([engine]), asgi) as gateway:
        engine.queue(replace(sse([b"data: {}\n\n", Gate()]), early=True))
        with gateway.dial() as client:
            client.send(posted(form(model(), file(AUDIO)))[:-500_000])
            assert client.reader.read().error["code"] == "early_answer"
        engine.wait(lambda e: len(e.left) == 1, "that nobody listens")


@both_ways
def test_a_stop_ends_what_is_under_way(asgi: bool) -> None:
    gate = Gate()
    with Engine() as engine, running(config_for([engine]), asgi) as gateway:
        engine.queue(respond([AUDIO, gate], content_type="audio/mpeg", framing="chunked"))
        with gateway.dial() as client, gateway.dial() as upload:
            client.post({"model": "m", "input": "x"}, "/v1/audio/speech")
            assert client.sock.recv(100)
            upload.send(posted(form(model(), file(AUDIO)))[:-500_000])
            engine.wait(lambda e: e.open_connections == 2, "the upload")
            gateway.call(gateway.gateway.core.cut)
            assert upload.reader.read().status == 503
            rest = b"".join(iter(lambda: client.sock.recv(1 << 20), b""))
            assert not rest.endswith(b"0\r\n\r\n")


@both_ways
def test_limits_hold_here_too(asgi: bool) -> None:
    gate = Gate()
    with Engine() as engine, running(config_for([engine], route={"concurrency": 1}), asgi) as gateway:
        engine.queue(respond([gate, b"{}"]))
        with gateway.dial() as first:
            first.post({"model": "m", "input": "x"}, "/v1/moderations")
            engine.wait(lambda e: len(e.requests) == 1, "the first")
            assert gateway.ask({"model": "m", "input": "x"}, "/v1/moderations").error["code"] == "route_busy"
            gate.open()
            assert first.reader.read().status == 200
        gateway.settled()
        gateway.gateway.core.draining = True
        assert gateway.ask({"model": "m", "input": "x"}, "/v1/moderations").error["code"] == "draining"


@both_ways
def test_a_client_that_sends_no_more(asgi: bool) -> None:
    limits = {"limits": {"body_seconds": 0.2}}
    with Engine() as engine, running(config_for([engine], server=limits), asgi) as gateway, gateway.dial() as client:
        client.send(posted(form(model(), file(AUDIO)))[:-500_000])
        answer = client.reader.read()
        assert (answer.status, answer.error["code"], answer.keeps) == (408, "request_timeout", False)
        engine.wait(lambda e: e.connections == 1 and e.open_connections == 0, "the end of the upload")


@both_ways
def test_an_old_client_gets_it_whole(asgi: bool) -> None:
    """HTTP/1.0 knows no chunks."""
    with Engine() as engine, running(config_for([engine]), asgi) as gateway:
        framings: tuple[Framing, ...] = ("length", "chunked")
        for framing in framings:
            engine.queue(respond([AUDIO, AUDIO], content_type="audio/mpeg", framing=framing))
            with gateway.dial() as client:
                body = request("POST", "/v1/audio/speech", b'{"model":"m","input":"x"}').replace(b"HTTP/1.1", b"HTTP/1.0", 1)
                client.send(body)
                answer = client.reader.read()
                assert answer.body == AUDIO + AUDIO and answer.headers["content-length"] == str(2 * len(AUDIO))


@both_ways
def test_what_was_sent_is_not_sent_again(asgi: bool) -> None:
    """A form has passed through, and a batch exists: neither goes to the other replica; a picture is asked for there."""
    with Engine() as one, Engine() as two, running(config_for([one, two], route={"retries": 1}), asgi) as gateway:
        for engine in (one, two):
            engine.responder = lambda asked: reply({})
            engine.queue(*[openai_error(500, "broken")] * 3)

        def total() -> int:
            return len(one.requests) + len(two.requests)

        with gateway.dial() as client:
            client.send(posted(form(model(), file(AUDIO))))
            assert client.reader.read().status == 500 and total() == 1
        assert gateway.ask({"input_file_id": "file-1"}, "/v1/batches").status == 500 and total() == 2
        assert gateway.ask({"model": "m", "prompt": "x"}, "/v1/images/generations").status == 500 and total() == 4


@both_ways
def test_an_engine_that_is_loading(asgi: bool) -> None:
    """It has no address yet, so a form for it is held, and sent when it has one."""
    with Engine() as engine, running(config_for([engine]), asgi) as gateway:
        replica = gateway.gateway.core.generation.routes["m"].replicas[0]
        link, nothing = replica.link, NoLink()

        def load() -> None:
            replica.link, replica.health, replica.managed = nothing, "loading", True

        def ready() -> None:
            replica.link, replica.health = link, "ready"
            gateway.gateway.core.wake(replica)

        gateway.call(load)
        engine.queue(reply({"text": "ok"}))
        with gateway.dial() as client:
            client.send(posted(form(model(), file(AUDIO))))
            gateway.until(lambda: len(gateway.gateway.core.parked) == 1, "that it waits")
            gateway.call(ready)
            assert client.reader.read().doc == {"text": "ok"} and AUDIO in engine.requests[0].body
            gateway.call(lambda: setattr(replica, "link", nothing))
            client.post({"model": "m", "input": "x"}, "/v1/moderations")
            assert client.reader.read().error["code"] == "no_replica"
        gateway.call(lambda: setattr(replica, "link", link))
