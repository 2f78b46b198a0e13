"""Routes with `policy: kv_aware` over strict fake engines and real sockets: where calls go, what is held, and that every count ends at
zero."""

from __future__ import annotations

import gc
import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import msgspec
import pytest

from gateway.config import Config, parse
from gateway.dispatcher import Dispatcher
from gateway.kv_route import KVPilot
from routing.kv_model import PrefillModel
from tests.fakes.engine import Engine
from tests.fakes.script import Gate
from tests.faults import test_matrix as matrix
from tests.faults.check import failed
from tests.faults.minds import Counter
from tests.harness import Running, chat, config_for, running

SYSTEM = "You are the keeper of the points at a busy junction. " * 40


def dispatchers(gateway: Running) -> list[Dispatcher]:
    scheduling = gateway.gateway.scheduling
    assert scheduling is not None
    return scheduling.dispatchers


def at_rest(gateway: Running) -> None:
    """Nothing is booked or held, and the index is what the books say."""
    gateway.settled()

    def look() -> None:
        for dispatcher in dispatchers(gateway):
            dispatcher.scheduler.check()
            assert not dispatcher.scheduler.load.bookings and not dispatcher.waiting and not dispatcher.scheduler.held

    gateway.call(look)


@contextmanager
def fleet(
    count: int, *, backend: Mapping[str, Any] | None = None, route: Mapping[str, Any] | None = None
) -> Iterator[tuple[Running, list[Engine]]]:
    """A gateway before so many engines, on one KV-aware route."""
    with ExitStack() as stack:
        engines = [stack.enter_context(Engine(responder=Counter())) for _ in range(count)]
        config = config_for(engines, backend=backend, route={"policy": "kv_aware", **(route or {})})
        gateway = stack.enter_context(running(config))
        yield gateway, engines
        at_rest(gateway)


def talk(system: str, *turns: str, **more: Any) -> dict[str, Any]:
    messages = [{"role": "system", "content": system}]
    for i, turn in enumerate(turns):
        messages.append({"role": "user" if i % 2 == 0 else "assistant", "content": turn})
    return {"model": "m", "messages": messages, **more}


def test_a_conversation_stays_where_its_prefix_is(monkeypatch: pytest.MonkeyPatch) -> None:
    # The fakes compute nothing: it is not learned that their prefill costs no time, after which any replica would do.
    monkeypatch.setattr(PrefillModel, "learn", lambda *args: None)
    with fleet(4) as (gateway, engines):
        for name in "abcdefgh":
            turns: list[str] = []
            for turn in range(4):
                turns.append(f"count {name}{turn}")
                assert gateway.ask(talk(name + SYSTEM, *turns)).status == 200
                turns.append("noted")
        homes = [{json.loads(post.body)["messages"][0]["content"][0] for post in engine.posts()} for engine in engines]
        assert sum(map(len, homes)) == 8, "every conversation has one home"
        assert sum(bool(home) for home in homes) > 1, "and they do not share one"


@pytest.mark.parametrize("stream", [False, True])
def test_a_call_leaves_nothing_to_the_collector_of_garbage(stream: bool) -> None:
    with fleet(2) as (gateway, _):
        gateway.ask(talk(SYSTEM, "count a", stream=stream))
        gc.collect()
        gc.disable()
        try:
            for turn in range(8):
                assert gateway.ask(talk(SYSTEM, f"count {turn}", stream=stream)).status == 200
            gateway.settled()
            assert sum(isinstance(one, KVPilot) for one in gc.get_objects()) < 4, "those of connections that are still there"
        finally:
            gc.enable()


def test_a_decision_is_told_to_who_asks() -> None:
    with fleet(2) as (gateway, _):
        gateway.ask(talk(SYSTEM, "count a"))
        told = gateway.ask(talk(SYSTEM, "count b"), headers={"x-pointsman-explain": "1"}).headers["x-pointsman-decision"]
        assert "least seconds by prefix cache and load; next fake#" in told and "tokens cached)" in told
        assert "x-pointsman-decision" not in gateway.ask(talk(SYSTEM, "count c")).headers


def test_calls_beyond_the_slots_are_held_and_then_sent() -> None:
    gate = Gate()
    with Engine(responder=Counter(gate)) as engine:
        config = config_for([engine], backend={"slots": 2}, route={"policy": "kv_aware"})
        with running(config) as gateway:
            clients = [gateway.dial() for _ in range(6)]
            for at, client in enumerate(clients):
                client.post(chat(f"count {at}", stream=True))
            gateway.until(lambda: len(dispatchers(gateway)[0].waiting) == 4, "four held")
            gateway.until(lambda: len(engine.posts()) == 2, "two are there")
            clients[5].sock.close()  # a held one leaves
            gateway.until(lambda: len(dispatchers(gateway)[0].waiting) == 3, "three held")
            gate.open()
            for client in clients[:5]:
                assert matrix.told(client.reader.read())[1]
                client.sock.close()
            at_rest(gateway)
            assert len(engine.posts()) == 5


def test_a_deadline_that_cannot_be_kept_is_refused_with_the_time_to_come_back() -> None:
    gate = Gate()
    with Engine(responder=Counter(gate)) as engine:
        config = config_for([engine], backend={"slots": 1}, route={"policy": "kv_aware"})
        with running(config) as gateway, gateway.dial() as first:
            first.post(chat("count 1", stream=True))
            gateway.until(lambda: len(engine.posts()) == 1, "the first is there")
            answer = gateway.ask(chat("count 2"), headers={"x-pointsman-deadline": "0.000001"})
            assert answer.status == 503 and answer.doc["error"]["code"] == "deadline_unreachable"
            gate.open()
            assert first.reader.read().status == 200
            at_rest(gateway)


def test_a_route_beside_keeps_the_books() -> None:
    gate = Gate()
    with Engine(responder=Counter(gate)) as engine:
        plain = {"targets": [{"backend": "fake", "model": "fake"}], "policy": "least_busy"}
        config = config_for([engine], route={"policy": "kv_aware"}, more={"routes": {"plain": plain}})
        with running(config) as gateway, gateway.dial() as client:
            client.post({**chat("count 1", stream=True), "model": "plain"})
            gateway.until(lambda: len(dispatchers(gateway)[0].scheduler.load.bookings) == 1, "booked")
            gate.open()
            assert client.reader.read().status == 200
            at_rest(gateway)


def test_a_reload_keeps_numbers_caches_and_bookings() -> None:
    gate = Gate()
    with Engine(responder=Counter(gate)) as one, Engine(responder=Counter(gate)) as two:
        config = config_for([one, two], route={"policy": "kv_aware"})
        with running(config) as gateway, gateway.dial() as client:
            client.post(chat("count 1", stream=True))
            before = dispatchers(gateway)[0]
            gateway.until(lambda: len(before.scheduler.load.bookings) == 1, "booked")
            raw = {"server": {"port": 0, "admin": {"port": None}, "log": {"level": "error"}},
                   "backends": {"fake": {"urls": [one.url, two.url]}},
                   "routes": {"m": {"targets": [{"backend": "fake", "model": "fake"}], "policy": "kv_aware"},
                              "n": {"targets": [{"backend": "fake", "model": "fake"}]}}}  # fmt: skip
            gateway.run(gateway.gateway.adopt(parse(json.dumps(raw), {})))
            assert dispatchers(gateway) == [before] and len(before.scheduler.load.bookings) == 1
            raw["backends"] = {"other": {"urls": [two.url]}}
            raw["routes"] = {"m": {"targets": [{"backend": "other", "model": "fake"}], "policy": "kv_aware"}}
            gateway.run(gateway.gateway.adopt(parse(json.dumps(raw), {})))
            gate.open()
            assert client.reader.read().status == 200
            assert gateway.ask(chat("count 2")).status == 200
            at_rest(gateway)
            assert not before.scheduler.load.bookings


def with_kv(made: Config) -> Config:
    """The same with every route KV-aware."""
    routes = {name: msgspec.structs.replace(route, policy="kv_aware") for name, route in made.routes.items()}
    return msgspec.structs.replace(made, routes=routes)


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize("policy", matrix.POLICIES)
@pytest.mark.parametrize("fault", list(matrix.BEFORE))
def test_faults_before_the_commit(fault: str, policy: str, stream: bool) -> None:
    with Engine(responder=Counter()) as bad, Engine(responder=Counter()) as good, matrix.dead() as nobody:
        first = matrix.BEFORE[fault]
        if first is not None:
            bad.queue(first)
        with running(with_kv(matrix.world(policy, nobody if first is None else bad, good))) as gateway:
            answer = gateway.ask(chat("count", stream=stream))
            if answer.status == 200:
                assert matrix.told(answer) == (matrix.WHOLE, True)
            else:
                failed(answer, 429, 500, 502, 503, 504)
            assert matrix.heals(policy, fault) <= (answer.status == 200)
            at_rest(gateway)


@pytest.mark.parametrize("policy", matrix.POLICIES)
@pytest.mark.parametrize("fault", matrix.LATER)
def test_faults_after_the_commit(fault: str, policy: str) -> None:
    def spoil(made: Any) -> Any:
        return matrix.ends(fault, matrix.AFTER, made)

    with Engine(responder=Counter(spoil=spoil)) as bad, Engine(responder=Counter()) as good:
        with running(with_kv(matrix.world(policy, bad, good))) as gateway:
            answer = gateway.ask(chat("count", stream=True))
            text, whole = matrix.told(answer)
            assert matrix.WHOLE.startswith(text) and (not whole or text == matrix.WHOLE)
            at_rest(gateway)


def test_explain_says_what_the_scheduler_would_do() -> None:
    with fleet(2) as (gateway, _):
        gateway.ask(talk(SYSTEM, "count a"))
        told = gateway.ask({"path": "/v1/chat/completions", "body": talk(SYSTEM, "count b")}, path="/v1/explain").doc
        assert told["policy"] == "kv_aware" and told["decision"]["runner_up"].startswith("fake#")
        assert "tokens cached)" in told["decision"]["words"]
        seconds = {c["replica"]: c["seconds"] for c in told["candidates"]}
        assert len(seconds) == 2 and all(s is not None for s in seconds.values())
        assert min(seconds, key=lambda name: seconds[name]) == told["decision"]["replica"]


def test_books_are_told_in_metrics() -> None:
    with fleet(2) as (gateway, _):
        gateway.ask(talk(SYSTEM, "count a"))
        gateway.settled()
        lines = gateway.get("/metrics").body.decode().splitlines()
        assert 'pointsman_scheduler_bookings{group="m"} 0' in lines and 'pointsman_scheduler_held{group="m"} 0' in lines
        assert any(line.startswith('pointsman_cache_prompt_tokens_total{group="m",replica="fake#0"}') for line in lines)
