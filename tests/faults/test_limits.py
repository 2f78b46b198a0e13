"""Caps and keys: bodies, headers, connections, concurrency, slow senders, and who may call."""

from __future__ import annotations

from typing import Any

import pytest

from tests.fakes.engine import Engine
from tests.fakes.reader import Answer
from tests.fakes.request import Request, RequestReader
from tests.fakes.script import Gate, script
from tests.faults.check import failed
from tests.harness import both_ways, chat, config_for, encoded, request, running

BODY = encoded(chat())
HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
LENGTH = b"Content-Length: %d\r\n" % len(BODY)


@both_ways
def test_a_body_over_the_cap_is_refused(asgi: bool) -> None:
    with Engine() as engine, running(config_for([engine], server={"limits": {"body_bytes": 10_000}}), asgi) as gateway:
        assert gateway.ask(chat("x" * 9_000)).status == 200
        failed(gateway.ask(chat("x" * 10_000)), 413, origin="client")
        failed(gateway.ask(chat("x" * 5_000_000)), 413, origin="client")
        with gateway.dial() as client:  # said by the head alone, the body never comes
            client.send(HEAD + b"Content-Length: 10001\r\n\r\n")
            failed(client.reader.read(), 413, origin="client")
        with gateway.dial() as client:  # not said at all: caught while it comes in, allowing for framing
            client.send(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"3e8\r\n" + b"x" * 1000 + b"\r\n")
            for _ in range(200):
                client.send(b"3e8\r\n" + b"x" * 1000 + b"\r\n")
            failed(client.reader.read(), 413, origin="client")
        assert len(engine.posts()) == 1


@both_ways
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/models"])
def test_headers_over_the_cap_are_refused(path: str, asgi: bool) -> None:
    method = "POST" if "chat" in path else "GET"
    with Engine() as engine, running(config_for([engine], server={"limits": {"header_bytes": 8192}}), asgi) as gateway:
        for headers in ({"x-long": "a" * 9000}, {f"x-{at}": "b" * 50 for at in range(300)}, {"x-long": "a" * 1_000_000}):
            with gateway.dial() as client:
                client.send(request(method, path, BODY if method == "POST" else b"", headers))
                failed(client.reader.read(), 431, 400, origin="client")
        assert not engine.posts()


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/models"])
def test_slow_headers_time_out(path: str) -> None:
    limits = {"header_seconds": 0.2, "body_seconds": 0.2}
    with Engine() as engine, running(config_for([engine], server={"limits": limits})) as gateway:
        for start in (b"P", b"POST %s HTTP/1.1\r\n" % path.encode(), b"GET %s HTTP/1.1\r\nHost: 127.0.0.1\r\n" % path.encode()):
            with gateway.dial() as client:
                client.send(start)
                failed(client.reader.read(), 408, origin="client")
                assert client.reader.at_end()


@both_ways
def test_slow_bodies_time_out(asgi: bool) -> None:
    limits = {"header_seconds": 0.2, "body_seconds": 0.2}
    with Engine() as engine, running(config_for([engine], server={"limits": limits}), asgi) as gateway:
        with gateway.dial() as client:
            client.send(HEAD + LENGTH + b"\r\n" + BODY[:-1])
            failed(client.reader.read(), 408, origin="client")
            assert client.reader.at_end()
        assert not engine.posts()


def test_idle_connections_are_closed() -> None:
    with Engine() as engine, running(config_for([engine], server={"limits": {"keep_alive_seconds": 0.2}})) as gateway:
        with gateway.dial() as client:
            assert client.ask(chat()).status == 200
            assert client.reader.at_end()
        with gateway.dial() as client:
            assert client.reader.at_end()


@both_ways
def test_concurrency_over_the_cap_is_refused_at_once(asgi: bool) -> None:
    gate = Gate()
    with Engine() as engine, running(config_for([engine], server={"limits": {"concurrency": 3}}), asgi) as gateway:
        engine.queue(*[script(gate, engine.choose(request_of(chat("held"))).steps)] * 3)
        held = [gateway.dial() for _ in range(3)]
        for client in held:
            client.post(chat("held"))
        engine.wait(lambda e: len(e.posts()) == 3, "three calls")
        over = gateway.ask(chat())
        failed(over, 429, 503, origin="gateway")
        assert int(over.headers["retry-after"]) >= 1
        gate.open()
        for client in held:
            assert client.reader.read().status == 200
            client.sock.close()
        gateway.settled()
        assert gateway.ask(chat()).status == 200


def request_of(doc: dict[str, Any]) -> Request:
    """A request as the fake engine reads it, to compute its answer ahead."""
    raw = request("POST", "/v1/chat/completions", encoded(doc | {"model": "fake"}))
    return next(RequestReader().feed(raw))


@both_ways
def test_a_routes_own_concurrency(asgi: bool) -> None:
    gate = Gate()
    with Engine() as engine, running(config_for([engine], route={"concurrency": 1}), asgi) as gateway:
        engine.queue(script(gate, ending="fin"))
        with gateway.dial() as client:
            client.post(chat())
            engine.wait(lambda e: len(e.posts()) == 1, "the call")
            over = gateway.ask(chat())
            failed(over, 429, 503, origin="gateway")
            assert over.headers["retry-after"]
            gate.open()
            failed(client.reader.read(), 502)
        gateway.settled()
        assert gateway.ask(chat()).status == 200


def test_connections_over_the_cap_are_refused() -> None:
    with Engine() as engine, running(config_for([engine], server={"limits": {"connections": 4}})) as gateway:
        kept = [gateway.dial() for _ in range(4)]
        for client in kept:
            assert client.ask(chat()).status == 200
        try:
            with gateway.dial() as fifth:
                failed(fifth.ask(chat()), 503, origin="gateway")
        finally:
            for client in kept:
                client.sock.close()


def test_slots_make_calls_wait_and_not_fail() -> None:
    gate = Gate()
    with Engine() as engine, running(config_for([engine], backend={"slots": 1})) as gateway:
        engine.queue(script(gate, engine.choose(request_of(chat("one"))).steps))
        one, two = gateway.dial(), gateway.dial()
        with one, two:
            one.post(chat("one"))
            engine.wait(lambda e: len(e.posts()) == 1, "the first call")
            two.post(chat("two"))
            gateway.until(lambda: gateway.gateway.snapshot().inflight_total == 2, "the second call waiting")
            assert len(engine.posts()) == 1
            gate.open()
            assert one.reader.read().status == two.reader.read().status == 200


# Who may call


def keyed(engine: Engine) -> Any:
    ann, bob = {"name": "ann", "key": "sk-ann-0123456789"}, {"name": "bob", "key": "sk-bob-9876543210", "routes": ["other"]}
    target = {"targets": [{"backend": "fake", "model": "fake"}]}
    return config_for([engine], more={"keys": [ann, bob], "routes": {"other": target}})


@both_ways
def test_keys(asgi: bool) -> None:
    with Engine() as engine, running(keyed(engine), asgi) as gateway:

        def asked(key: str | None) -> Answer:
            return gateway.ask(chat(), headers={"authorization": f"Bearer {key}"} if key is not None else {})

        assert asked("sk-ann-0123456789").status == 200
        for key in (None, "", "sk-ann", "sk-ann-0123456789x", "ä", "x" * 10_000):
            answer = asked(key)
            failed(answer, 401, origin="client")
            assert key is None or len(key) < 3 or key not in str(answer.error)
        failed(asked("sk-bob-9876543210"), 404, 403, origin="client")
        assert gateway.get("/health").status == 200
        failed(gateway.get("/v1/models"), 401, origin="client")
        sent = engine.posts()[0]
        assert not any("sk-ann" in value for _, value in sent.headers), "a client's key was sent to an engine"


@both_ways
@pytest.mark.parametrize(
    "headers", [{"host": "evil.example"}, {"host": "127.0.0.1.evil.example"}, {"origin": "https://evil.example"}, {"origin": "null"}]
)
def test_browser_attacks_on_a_keyless_gateway(headers: dict[str, str], asgi: bool) -> None:
    with Engine() as engine, running(config_for([engine]), asgi) as gateway:
        failed(gateway.ask(chat(), headers=headers), 403, origin="client")
        failed(gateway.get("/v1/models", headers=headers), 403, origin="client")
        assert not engine.posts()


def test_a_flood_of_early_bytes_does_not_fill_memory() -> None:
    """A client that sends while its answer is under way: bounded, and the engine is let go when it is thrown out.
    Our own protocol only: what comes early is the server's to keep, and uvicorn's own stops reading instead."""
    with Engine() as engine, running(config_for([engine])) as gateway:
        engine.queue(script(Gate()))
        with gateway.dial() as client:
            client.post(chat())
            engine.wait(lambda e: len(e.posts()) == 1, "the call")
            client.sock.settimeout(1)
            sent = 0
            try:
                while sent < 64 * 1024 * 1024:
                    sent += client.sock.send(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Pad: " + b"x" * 60_000 + b"\r\n\r\n")
            except OSError:  # thrown out, or no longer read: either bounds what is kept
                pass
            assert sent < 64 * 1024 * 1024
        engine.wait(lambda e: len(e.left) == 1, "the engine being let go")
