"""Policies through a whole gateway: where calls go, what they teach the next ones, and what failures do to it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from gateway.config import Config, parse
from tests.fakes.answers import DONE, data, openai_error, paced, sse
from tests.fakes.engine import Engine
from tests.fakes.script import Gate, Script
from tests.harness import Running, both_ways, chat, running

CHUNK = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "fake"}


def words(*said: str) -> list[bytes]:
    return [data(CHUNK | {"choices": [{"index": 0, "delta": {"content": one}, "finish_reason": None}]}) for one in said]


END = data(CHUNK | {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})


def streamed(*said: str) -> Script:
    return sse([*words(*said), END, DONE])


def config(engines: Mapping[str, Engine], policy: Any, targets: Mapping[str, Mapping[str, Any]] | None = None, **more: Any) -> Config:
    """Route `m` to every engine; the first is local. What `targets` says of one is laid over it."""
    first = next(iter(engines))
    backends = {
        name: {"url": e.url, "local": name == first, "kind": "vllm", "health_seconds": 0} | more.get("backends", {}).get(name, {})
        for name, e in engines.items()
    }  # fmt: skip
    made = [{"backend": name, "model": "fake"} | dict((targets or {}).get(name, {})) for name in engines]
    return parse(json.dumps({
        "server": {"port": 0, "admin": {"port": None}, "drain_seconds": 1, "log": {"level": "error"}},
        "backends": backends, "keys": more.get("keys", []),
        "routes": {"m": {"targets": made, "policy": policy} | more.get("route", {})} | more.get("routes", {}),
    }), {})  # fmt: skip


def who(gateway: Running, headers: Mapping[str, str] | None = None, path: str = "/v1/chat/completions", **doc: Any) -> str:
    """Which backend answered."""
    answer = gateway.ask(chat(**doc), path, headers)
    assert answer.status == 200, answer.body
    return dict(answer.headers)["x-pointsman-backend"]


@both_ways
def test_conditions_send_calls_where_they_belong(asgi: bool) -> None:
    with Engine() as a, Engine() as b, Engine() as c:
        whens = {"a": {"shorter": 1000}, "b": {"longer": 999, "needs": ["tools"]}, "c": {"header": {"X-Tier": "gold"}}}
        targets = {name: {"when": when} for name, when in whens.items()}
        with running(config({"a": a, "b": b, "c": c}, "weighted", targets), asgi) as gateway:
            assert {who(gateway) for _ in range(5)} == {"a"}
            tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
            assert who(gateway, text="x" * 8000, tools=tools) == "b"
            assert who(gateway, {"x-tier": "gold"}, text="x" * 8000) == "c"
            refused = gateway.ask(chat("x" * 8000))
            assert refused.status == 400 and refused.doc["error"]["code"] == "no_target"
            assert "b (takes calls with tools)" in refused.doc["error"]["message"]


def test_a_call_that_no_target_takes_goes_to_the_fallback() -> None:
    with Engine() as a, Engine() as b:
        made = config({"a": a}, "priority", {"a": {"when": {"longer": 5000}}}, backends={}, route={"fallbacks": ["other"]},
                      routes={"other": {"targets": [{"backend": "a", "model": "big"}]}})  # fmt: skip
        with running(made) as gateway:
            assert who(gateway) == "a" and a.posts()[-1].doc is not None
            assert json.loads(a.posts()[-1].body)["model"] == "big"
        assert not b.posts()


def test_local_first_spills_when_it_is_slow_and_a_private_call_does_not() -> None:
    with Engine() as near, Engine() as cloud:
        policy = {"name": "local_first", "ttft": 0.05, "tpot": 5}
        with running(config({"near": near, "cloud": cloud}, policy)) as gateway:
            gate = Gate()
            near.queue(sse([gate, *words("a"), END, DONE]))
            with gateway.dial() as client:
                client.post(chat(stream=True))
                assert gate.reached.wait(30)
                pace = gateway.call(lambda: gateway.gateway.fleet.paces.of(gateway.gateway.fleet.every()[0], "fake"))
                gateway.until(lambda: not pace.idle, "the call is on its way")
                assert who(gateway) == "cloud", "nobody knows how long that one will take, and it has begun"
                assert who(gateway, {"x-pointsman-private": "true"}) == "near"
                gate.open()
                client.reader.read()
            gateway.settled()
            assert gateway.call(lambda: pace.starts.seen) >= 2 and gateway.call(lambda: pace.idle)


def test_what_fails_is_tried_elsewhere_in_the_order_of_the_policy() -> None:
    with (
        Engine() as a,
        Engine() as b,
        Engine() as c,
        running(config({"a": a, "b": b, "c": c}, "priority", route={"retries": 2})) as gateway,
    ):
        a.queue(openai_error(500))
        assert who(gateway) == "b"
        a.queue(openai_error(500))
        b.queue(openai_error(500))
        assert who(gateway) == "c"
        assert who(gateway) == "a"
        records = gateway.records()
        assert [r.attempts for r in records] == [1, 3, 2] and records[0].reason == "first in the list"


@pytest.mark.parametrize(
    "policy", ["round_robin", "least_busy", "p2c", "latency", "session", {"costs": {"latency": 1, "busy": 1}, "pick": "p2c"}]
)
def test_counters_come_to_rest_whatever_happens(policy: Any) -> None:
    with Engine(strict=False) as a, Engine(strict=False) as b:
        route = {"hedge": {"after": 0.01, "budget": 1.0}, "continue": True, "retries": 1}
        backends = {name: {"timeouts": {"first_byte": 0.4, "idle": 0.4}} for name in ("a", "b")}
        with running(config({"a": a, "b": b}, policy, route=route, backends=backends)) as gateway:
            for i in range(12):
                a.queue(streamed("x", "y").but(cut=300, ending="rst") if i % 3 else openai_error(503))
                b.queue(streamed("x", "y").but(ending="stall", cut=0) if i % 4 == 1 else streamed("z"))
                with gateway.dial() as client:
                    client.post(chat(stream=i % 2 == 0))
                    if i % 5 == 0:
                        client.reset()
                    else:
                        client.reader.read()
            gateway.settled()
            paces = gateway.call(lambda: [gateway.gateway.fleet.paces.of(r, "fake") for r in gateway.gateway.fleet.every()])
            gateway.until(lambda: all(pace.idle for pace in paces), "no call is thought to be on its way")


@pytest.mark.parametrize("policy", ["priority", "kv_aware", {"name": "kv_aware", "seconds_per_dollar": 1}])
def test_a_condition_holds_for_second_attempts_and_the_rest_of_answers(policy: Any) -> None:
    with Engine(strict=False) as a, Engine(strict=False) as b:
        targets: dict[str, Any] = {"b": {"when": {"header": {"x-tier": "gold"}}}}
        route = {"hedge": {"after": 0.01, "budget": 1.0}, "continue": True, "retries": 2}
        backends = {name: {"prices": {"input": 1, "output": 1}} for name in "ab"}
        with running(config({"a": a, "b": b}, policy, targets, route=route, backends=backends)) as gateway:
            gate = Gate()
            a.queue(sse([gate, *words("slow", "enough"), END, DONE]))
            with gateway.dial() as client:
                client.post(chat(stream=True))
                assert gate.reached.wait(30)
                gateway.until(lambda: bool(gateway.gateway.core.inflight), "it is under way")
                gate.open()
                client.reader.read()
            a.queue(streamed("one", "two").but(cut=420, ending="rst"), openai_error(500), openai_error(500))
            gateway.ask(chat(stream=True))
            gateway.settled()
            assert a.posts() and not b.posts()
            a.queue(openai_error(500))
            assert who(gateway, {"x-tier": "gold"}) in ("a", "b")


def test_a_kv_aware_route_obeys_conditions_and_tells_when_no_target_takes_a_call() -> None:
    with Engine() as a, Engine() as b:
        targets: dict[str, Any] = {"a": {"when": {"shorter": 1000}}, "b": {"when": {"header": {"x-tier": "gold"}}}}
        with running(config({"a": a, "b": b}, "kv_aware", targets)) as gateway:
            assert {who(gateway, text=f"hello {i}") for i in range(6)} == {"a"}
            assert who(gateway, {"x-tier": "gold"}, text="x" * 8000) == "b"
            refused = gateway.ask(chat("x" * 8000))
            assert refused.status == 400 and refused.doc["error"]["code"] == "no_target"
            private = gateway.ask(chat("x" * 8000), headers={"x-pointsman-private": "yes", "x-tier": "gold"})
            assert private.status == 400 and len(b.posts()) == 1, "the only one that takes it is not local"


def test_latency_is_learned_from_streams() -> None:
    with Engine() as slow, Engine() as fast, running(config({"slow": slow, "fast": fast}, "latency")) as gateway:
        gate = Gate()
        for _ in range(6):
            slow.queue(sse([gate, *words("a"), END, DONE]))
        held = []
        for _ in range(2):  # one of each, whoever comes first
            client = gateway.dial()
            client.post(chat(stream=True))
            held.append(client)
        assert gate.reached.wait(30)
        replica = gateway.gateway.fleet.replicas["fast"][0]
        gateway.until(lambda: len(fast.posts()) == 1 and not replica.inflight, "the fast one's first answer")
        assert {who(gateway) for _ in range(5)} == {"fast"}, "what has not answered yet is behind what has"
        gate.open()
        for client in held:
            client.reader.read()
            client.sock.close()


def test_the_record_and_paced_streams_tell_the_reason() -> None:
    with Engine() as a, running(config({"a": a}, "least_busy")) as gateway:
        a.queue(sse(paced([*words("a", "b"), END, DONE], _open())))
        assert gateway.ask(chat(stream=True)).status == 200
        assert gateway.records()[0].reason == "fewest calls under way"


def _open() -> Gate:
    gate = Gate()
    gate.open()
    return gate
