"""A head that came before is not parsed again: everything that depends on it must still hold on the very same connection."""

from __future__ import annotations

import json
from typing import Any

import pytest

from backends.heads import MAX_LEARNED, learn
from gateway.auth import Door
from gateway.config import KeyConfig
from gateway.front import Front
from gateway.serve import Generation
from tests.fakes.engine import Engine
from tests.faults.check import failed
from tests.faults.test_requests import BODY, SMUGGLING
from tests.harness import Client, Running, chat, config_for, encoded, request, running

KEYS = {
    "routes": {"other": {"targets": [{"backend": "fake", "model": "fake"}]}},
    "keys": [{"name": "one", "key": "sk-one"}, {"name": "two", "key": "sk-two", "routes": ["other"]}],
}
BEARER = {"authorization": "Bearer sk-one"}


def front(gateway: Running) -> Front:
    """The only client connection's protocol."""
    (one,) = gateway.gateway._data.connections
    assert isinstance(one, Front)
    return one


def taught(gateway: Running, client: Client, headers: dict[str, str] | None = None) -> Front:
    """The connection's protocol once it knows the head: a connection's first may be its only one."""
    assert client.ask(chat(), headers=headers).status == 200
    assert front(gateway).known is None
    assert client.ask(chat(), headers=headers).status == 200
    protocol = front(gateway)
    assert protocol.known is not None
    return protocol


def test_requests_of_every_length_on_one_connection() -> None:
    with Engine() as engine, running(config_for([engine])) as gateway, gateway.dial() as client:
        known = taught(gateway, client).known
        for size in (0, 1, 9, 500, 20_000, 3):
            answer = client.ask(chat("x" * size))
            assert answer.status == 200 and front(gateway).known is known
            assert json.loads(engine.requests[-1].body)["messages"][0]["content"] == "x" * size
        whole = request("POST", "/v1/chat/completions", encoded(chat("in two pieces")))
        for at in (5, 60, len(whole) - 3):
            client.send(whole[:at])
            gateway.until(lambda: front(gateway).state != 0 or front(gateway).buffer != b"", "the first piece")
            client.send(whole[at:])
            assert client.reader.read().status == 200
        assert client.ask({"model": "m", "input": "x"}, "/v1/embeddings").status == 200
        assert client.ask(chat()).status == 200


@pytest.mark.parametrize("name", SMUGGLING)
def test_what_is_refused_is_refused_also_after_a_good_request(name: str) -> None:
    with Engine() as engine, running(config_for([engine])) as gateway, gateway.dial() as client:
        taught(gateway, client, {"content-type": "application/json"})
        asked = len(engine.requests)
        client.send(b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
                    b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY)  # fmt: skip
        assert client.reader.read().status == 200
        client.send(SMUGGLING[name])
        assert client.reader.read().status in (400, 431, 505)
        assert len(engine.requests) == asked + 1


def swapped(gateway: Running, keys: tuple[KeyConfig, ...]) -> None:
    """A generation with other keys, as a reload makes it."""
    core = gateway.gateway.core
    old = core.generation
    gateway.call(lambda: core.swap(Generation(2, old.server, Door(keys, ("127.0.0.1",), ()), old.routes)))


def test_a_key_that_a_reload_took_away_is_refused_on_an_open_connection() -> None:
    with Engine() as engine, running(config_for([engine], more=KEYS)) as gateway, gateway.dial() as client:
        taught(gateway, client, BEARER)
        assert client.ask(chat(), headers=BEARER).status == 200
        keys = gateway.config.keys
        swapped(gateway, keys[1:])
        failed(client.ask(chat(), headers=BEARER), 401, origin="client")
        swapped(gateway, keys)
        assert client.ask(chat(), headers=BEARER).status == 200


def test_another_key_is_another_head() -> None:
    with Engine() as engine, running(config_for([engine], more=KEYS)) as gateway, gateway.dial() as client:
        taught(gateway, client, BEARER)
        failed(client.ask(chat(), headers={"authorization": "Bearer sk-two"}), 404, origin="client")
        failed(client.ask(chat(), headers={"authorization": "Bearer sk-non"}), 401, origin="client")
        failed(client.ask(chat()), 401, origin="client")
        assert client.ask(chat(), headers=BEARER).status == 200


def test_a_foreign_host_stays_foreign() -> None:
    with Engine() as engine, running(config_for([engine])) as gateway, gateway.dial() as client:
        for _ in range(3):
            error = failed(client.ask(chat(), headers={"host": "evil.example"}), 403, origin="client")
            assert error["code"] == "host_not_allowed"
        assert not engine.requests


def test_cors_lines_follow_each_answer() -> None:
    server = {"cors_origins": ["https://app.example"]}
    with Engine() as engine, running(config_for([engine], server=server)) as gateway, gateway.dial() as client:
        for _ in range(3):
            answer = client.ask(chat(), headers={"origin": "https://app.example"})
            assert answer.headers["access-control-allow-origin"] == "https://app.example"


def test_the_body_limit_and_the_drain_hold() -> None:
    server = {"limits": {"body_bytes": 2000}}
    with Engine() as engine, running(config_for([engine], server=server)) as gateway:
        with gateway.dial() as client:
            taught(gateway, client)
            failed(client.ask(chat("x" * 3000)), 413, origin="client")
        with gateway.dial() as client:
            gateway.until(lambda: len(gateway.gateway._data.connections) == 1, "the first connection's end")
            taught(gateway, client)
            gateway.call(lambda: setattr(gateway.gateway.core, "draining", True))
            failed(client.ask(chat()), 503, origin="gateway")


def test_a_client_whose_heads_differ_is_not_learned_each_time() -> None:
    with Engine() as engine, running(config_for([engine])) as gateway, gateway.dial() as client:
        core = gateway.gateway.core
        gateway.call(lambda: setattr(core.clients, "tick", lambda: None))  # the coarse clock stands
        for n in range(7):
            assert client.ask(chat(), headers={"x-request-id": f"id-{n}"}).headers["x-request-id"] == f"id-{n}"
        assert front(gateway).known is None, "the first was learned, and forgotten with the second"
        gateway.call(lambda: setattr(core.clients, "now", core.clients.now + 1.0))
        assert client.ask(chat(), headers={"x-request-id": "later"}).status == 200
        assert front(gateway).known is not None


def test_a_request_id_of_the_clients_own_is_kept() -> None:
    with Engine() as engine, running(config_for([engine])) as gateway, gateway.dial() as client:
        for _ in range(3):
            assert client.ask(chat(), headers={"x-request-id": "mine"}).headers["x-request-id"] == "mine"


GOOD = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 12\r\nA: b\r\n\r\n"


@pytest.mark.parametrize(
    ("head", "fields"),
    [
        (GOOD.replace(b"Content-Length: 12\r\n", b""), {}),
        (GOOD.replace(b"A: b", b"A: content-length"), {}),
        (GOOD.replace(b"Content-Length: 12", b"Content-Length: 12x"), {}),
        (GOOD.replace(b"A: b", b"A: " + b"b" * MAX_LEARNED), {}),
        (GOOD, {b"transfer-encoding": b"chunked"}),
        (GOOD, {b"expect": b"100-continue"}),
    ],
)
def test_heads_that_are_not_learned(head: bytes, fields: dict[bytes, bytes]) -> None:
    assert learn(head, fields) is None


def test_what_is_known_of_a_head() -> None:
    fields: dict[bytes, Any] = {b"host": b"x", b"content-length": b"12", b"a": b"b"}
    known = learn(GOOD, fields)
    assert known is not None and known.fields == {b"host": b"x", b"a": b"b"}
    assert known.body(GOOD + b"x" * 12) == b"x" * 12
    assert known.body(GOOD.replace(b"12", b"3") + b"abc") == b"abc"
    for bad in (b"-3", b"+3", b"3 ", b"", b"0x3", b"3_0", b"4", b"\xb2"):
        assert known.body(GOOD.replace(b"12", bad) + b"abc") is None
    assert known.body(GOOD.replace(b"a: b", b"A: c") + b"x" * 12) == b"x" * 12
    assert known.body(GOOD.replace(b"A: b", b"A: c") + b"x" * 12) is None
    assert known.body(GOOD) is None and known.body(b"") is None


def test_an_exchange_that_is_over_serves_the_next_request_of_its_connection_as_a_new_one_would() -> None:
    with Engine() as engine, running(config_for([engine], more=KEYS)) as gateway, gateway.dial() as client:
        protocol = taught(gateway, client, BEARER)
        ids = []
        for _ in range(3):
            answer = client.ask(chat(), headers=BEARER)
            ids.append(answer.headers["x-request-id"])
            assert answer.status == 200 and protocol.spare is not None
        assert len(set(ids)) == 3
        spare = protocol.spare
        assert client.ask(chat("again"), headers=BEARER).status == 200 and protocol.spare is spare
        # Nothing of it is left where the next goes another way: refused, unknown, a stream, another API.
        keys = gateway.config.keys
        swapped(gateway, keys[1:])
        failed(client.ask(chat(), headers=BEARER), 401, origin="client")
        assert protocol.spare is None
        assert gateway.records()[0].tenant == "" and gateway.records()[0].route == "" and gateway.records()[0].attempts == 0
        swapped(gateway, keys)
        assert client.ask(chat(), headers=BEARER).status == 200
        assert client.ask(chat(), headers=BEARER).status == 200 and protocol.spare is not None
        failed(client.ask({**chat(), "model": "none"}, headers=BEARER), 404, origin="client")
        assert protocol.spare is None
        assert client.ask(chat(), headers=BEARER).status == 200 and protocol.spare is not None
        assert client.ask(chat(stream=True), headers=BEARER).status == 200 and protocol.spare is None
        core = gateway.gateway.core
        gateway.until(lambda: not core.inflight, "the end of all")
        assert {route.inflight for route in core.generation.routes.values()} == {0}
