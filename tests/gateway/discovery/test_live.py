"""A gateway whose backend is a Kubernetes Service: pods come, end, fail and come back under running calls."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from gateway.config import Config, parse
from tests.fakes.engine import Engine
from tests.fakes.kubernetes import Cluster, ending, endpoint, port, slice_of
from tests.fakes.openai import chat_stream
from tests.fakes.reader import Answer
from tests.fakes.script import Gate, script
from tests.gateway.discovery.following import REASON, way_to
from tests.gateway.serving import eventually, serving
from tests.harness import Running, running

pytest.importorskip("kubernetes", reason=REASON)
DOC = {"model": "m", "messages": [{"role": "user", "content": "two words"}]}
STREAM = {**DOC, "stream": True}


def written(**more: Any) -> dict[str, Any]:
    return {
        "server": {"port": 0, "admin": {"port": None}, "drain_seconds": 1, "log": {"level": "error"}, "wait_seconds": 30},
        "backends": {"pool": {"urls": "k8s:models/vllm:http/v1", **more.pop("backend", {})}},
        "routes": {"m": {"targets": [{"backend": "pool", "model": "fake"}], **more.pop("route", {})}}, **more,
    }  # fmt: skip


def config(**more: Any) -> Config:
    import json

    return parse(json.dumps(written(**more)), {})


class Pods:
    """Engines that are pods of one Service. Each has a slice of its own, since their ports differ."""

    def __init__(self, cluster: Cluster, stack: ExitStack) -> None:
        self.cluster, self.stack = cluster, stack
        self.engines: list[Engine] = []

    def add(self, ready: bool = True) -> Engine:
        engine = self.stack.enter_context(Engine())
        self.engines.append(engine)
        self.say(engine, ready)
        return engine

    def say(self, engine: Engine, ready: bool) -> None:
        self._put(engine, endpoint("127.0.0.1", pod=f"p{engine.port}", ready=ready))

    def end(self, engine: Engine) -> None:
        self._put(engine, ending("127.0.0.1", pod=f"p{engine.port}"))

    def _put(self, engine: Engine, one: dict[str, Any]) -> None:
        self.cluster.put(slice_of(f"s{engine.port}", "vllm", [one], [port(engine.port)]))

    def calls(self) -> list[int]:
        return [len(engine.posts()) for engine in self.engines]


@pytest.fixture
def pods(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pods]:
    with ExitStack() as stack:
        cluster = stack.enter_context(Cluster())
        way_to(cluster, tmp_path, monkeypatch)
        yield Pods(cluster, stack)


def ready(gateway: Running) -> list[str]:
    """The URLs of replicas that take calls."""
    return [r.url for r in gateway.gateway.fleet.replicas["pool"] if r.health == "ready"]


def assert_whole(answer: Answer) -> None:
    """A stream that ended as it should."""
    assert answer.status == 200 and answer.body.endswith(b"data: [DONE]\n\n")
    assert b'"finish_reason": "stop"' in answer.body and b"error" not in answer.body


def until(gateway: Running, *engines: Engine) -> None:
    gateway.until(lambda: sorted(ready(gateway)) == sorted(e.url for e in engines), f"{len(engines)} ready endpoints")


@pytest.mark.parametrize("route", [{}, {"policy": "kv_aware"}, {"policy": "latency"}], ids=["weighted", "kv_aware", "latency"])
def test_a_stream_on_a_pod_that_ends_is_whole_and_new_calls_go_elsewhere(route: dict[str, Any], pods: Pods) -> None:
    first, second = pods.add(), pods.add()
    with running(config(route=route)) as gateway, gateway.dial() as client:
        until(gateway, first, second)
        gate = Gate()
        steps = chat_stream({**STREAM, "model": "fake"}).steps
        for engine in (first, second):
            engine.queue(script(steps[:2], gate, steps[2:]))
        client.post(STREAM)
        gateway.until(lambda: gate.reached.is_set(), "the stream")
        mine, other = (first, second) if first.posts() else (second, first)
        pods.end(mine)
        until(gateway, other)
        gate.open()
        for _ in range(6):
            assert gateway.ask(DOC if other.posts() else STREAM).status == 200
        assert len(mine.posts()) == 1 and len(other.posts()) == 6
        answer = client.reader.read()
        assert (
            answer.status == 200
            and answer.body.endswith(b"data: [DONE]\n\n")
            and b'"finish_reason":"stop"' in answer.body.replace(b" ", b"")
        )
        third = pods.add()
        until(gateway, other, third)
        for _ in range(8):
            assert gateway.ask({**DOC, "messages": [{"role": "user", "content": "words of its own " * 40}]}).status == 200
        if not route:
            assert len(third.posts()) == 4
        pods.end(other)
        until(gateway, third)
        assert gateway.ask(DOC).status == 200 and third.posts()


@pytest.mark.parametrize("route", [{}, {"policy": "kv_aware"}, {"policy": "latency"}], ids=["weighted", "kv_aware", "latency"])
def test_without_endpoints_calls_fail_with_the_reason_and_wait_for_pods_that_start(route: dict[str, Any], pods: Pods) -> None:
    with running(config(route=route)) as gateway:
        gateway.until(lambda: gateway.gateway.fleet.replicas["pool"][0].health == "down", "the first list")
        answer = gateway.ask(DOC)
        assert answer.status == 503 and "k8s:models/vllm:http/v1 has no endpoints" in answer.error["message"]
        assert gateway.get("/ready").status == 503 and gateway.get("/ready").doc["models"] == {"m": "down"}
        one = pods.add(ready=False)
        gateway.until(lambda: gateway.gateway.fleet.replicas["pool"][0].health == "loading", "a pod that starts")
        assert gateway.get("/ready").doc["models"] == {"m": "loading"}
        told: list[Answer] = []
        callers = [threading.Thread(target=lambda: told.append(gateway.ask(DOC))) for _ in range(3)]
        for caller in callers:
            caller.start()
        gateway.until(lambda: len(gateway.gateway.core.parked) == 3, "calls that wait")
        pods.say(one, True)
        for caller in callers:
            caller.join()
        assert [answer.status for answer in told] == [200] * 3 and gateway.get("/ready").status == 200
        name = gateway.gateway.fleet.replicas["pool"][0]
        pods.say(one, False)
        pods.say(one, True)
        until(gateway, one)
        assert gateway.gateway.fleet.replicas["pool"] == (name,), "the replica of a pod that was not ready for a while is the same"


def test_calls_that_wait_for_a_slot_get_a_pod_that_comes(pods: Pods) -> None:
    busy = pods.add()
    with running(config(backend={"slots": 1})) as gateway, gateway.dial() as client:
        until(gateway, busy)
        gate = Gate()
        steps = chat_stream({**STREAM, "model": "fake"}).steps
        busy.queue(script(steps[:2], gate, steps[2:]))
        client.post(STREAM)
        gateway.until(gate.reached.is_set, "the stream")
        told: list[Answer] = []
        caller = threading.Thread(target=lambda: told.append(gateway.ask(DOC)))
        caller.start()
        gateway.until(lambda: len(gateway.gateway.core.parked) == 1, "a call that waits")
        fresh = pods.add()
        caller.join()
        assert told[0].status == 200 and len(fresh.posts()) == 1
        gate.open()
        assert client.reader.read().body.endswith(b"data: [DONE]\n\n")


def test_a_call_whose_pods_have_all_gone_is_tried_on_those_in_their_place(pods: Pods) -> None:
    old = pods.add()
    with running(config()) as gateway, gateway.dial() as client:
        until(gateway, old)
        gate = Gate()
        old.queue(script(gate, ending="rst"))
        client.post(DOC)
        gateway.until(gate.reached.is_set, "the call")
        new = pods.add()
        pods.end(old)
        until(gateway, new)
        gate.open()
        assert client.reader.read().status == 200 and len(new.posts()) == 1


def test_while_the_api_is_away_what_is_known_stays(pods: Pods) -> None:
    one = pods.add()
    with running(config()) as gateway:
        until(gateway, one)
        finder = gateway.gateway.fleet.places.finder
        assert finder is not None
        pods.cluster.until_watched()
        followed = finder.followed["pool"]
        assert 'pointsman_discovery_endpoints{backend="pool",ready="true"} 1' in gateway.call(gateway.gateway.metrics)
        assert 'pointsman_discovery_stale_seconds{backend="pool"} 0' in gateway.call(gateway.gateway.metrics)
        pods.cluster.refusals += [503] * 1000
        pods.cluster.cut()
        gateway.until(lambda: followed.stale is not None, "the loss")
        assert gateway.ask(DOC).status == 200 and ready(gateway) == [one.url]
        (warning,) = gateway.call(gateway.gateway.warnings)
        assert warning.startswith("Backend pool: k8s:models/vllm:http/v1 has not been followed for ")
        assert 'pointsman_discovery_stale_seconds{backend="pool"} 0\n' not in gateway.call(gateway.gateway.metrics)
        pods.cluster.refusals.clear()
        gateway.until(lambda: followed.stale is None, "the return")
        assert gateway.call(gateway.gateway.warnings) == []


def test_a_reload_keeps_what_did_not_change_and_follows_what_did(pods: Pods) -> None:
    one = pods.add()
    pods.cluster.put(slice_of("other", "sglang", [endpoint("127.0.0.1")], [port(one.port)]))
    with running(config()) as gateway:
        until(gateway, one)
        (replica,) = gateway.gateway.fleet.replicas["pool"]
        gateway.run(gateway.gateway.adopt(config(route={"retries": 3})))
        assert gateway.gateway.fleet.replicas["pool"] == (replica,)
        gateway.run(gateway.gateway.adopt(config(backend={"urls": "k8s:models/sglang/v1", "slots": 2})))
        until(gateway, one)
        assert gateway.gateway.fleet.replicas["pool"] != (replica,) and gateway.ask(DOC).status == 200
        gateway.run(gateway.gateway.adopt(config(backend={"urls": [one.url]})))
        assert gateway.gateway.fleet.places.finder is not None and not gateway.gateway.fleet.places.finder.followed
        assert ready(gateway) == [one.url] and gateway.ask(DOC).status == 200


def test_models_are_asked_of_pods_that_come(pods: Pods) -> None:
    with running(config(backend={"discover": True})) as gateway:
        gateway.until(lambda: gateway.gateway.fleet.replicas["pool"][0].health == "down", "the first list")
        pods.add()
        gateway.until(lambda: "fake" in gateway.gateway.core.generation.routes, "the models of the first pod")
        assert gateway.ask({**DOC, "model": "fake"}).status == 200


def test_each_pod_publishes_its_own_cache(pods: Pods) -> None:
    one = pods.add()
    with running(config(backend={"kind": "vllm", "kv_events": "tcp://{host}:5557"}, route={"policy": "kv_aware"})) as gateway:
        until(gateway, one)
        said = gateway.call(lambda: gateway.gateway.fleet.kv_events(gateway.gateway.fleet.replicas["pool"][0]))
        assert said is not None and said.endpoint == "tcp://127.0.0.1:5557"


def test_workers_hear_of_pods_from_their_parent(pods: Pods, tmp_path: Path) -> None:
    first, second = pods.add(), pods.add()
    server = {"port": 0, "admin": {"port": 0}, "workers": 2, "log": {"level": "error"}}
    with serving(tmp_path, {**written(), "server": server}) as process:
        eventually(lambda: all(process.get("/ready").status_code == 200 for _ in range(8)) or None, "pods in every worker")
        for _ in range(16):
            assert process.chat().status_code == 200
        assert first.posts() and second.posts()
        pods.end(first)
        eventually(lambda: len([r for r in process.status()["replicas"] if r["state"] == "up"]) == 1 or None, "the end of the first")

        def elsewhere() -> bool | None:  # a worker hears of it a moment after the parent
            before = len(first.posts())
            assert all(process.chat().status_code == 200 for _ in range(8))
            return len(first.posts()) == before or None

        eventually(elsewhere, "calls to the second only")
        assert 'pointsman_discovery_endpoints{backend="pool",ready="true"} 1' in process.get("/metrics").text
        assert len({str(one) for one in pods.cluster.watches()}) == 1, "one watch for all workers"
