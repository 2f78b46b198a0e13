"""Replicas that come and go by what followers say; no cluster and no client."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.http import Clients
from gateway.config import BackendConfig, parse
from gateway.discovery import finder as finding
from gateway.discovery.finder import Finder, Located
from gateway.discovery.kubernetes import Seen
from gateway.discovery.places import Places, arranged
from gateway.discovery.slices import Endpoint, Found
from gateway.fleet import Fleet
from gateway.metrics import Metrics
from routing.types import Replica

TEXT = "k8s:models/vllm"


def backend(**more: Any) -> BackendConfig:
    doc = {"backends": {"b": {"urls": TEXT, **more}}, "routes": {"m": {"targets": [{"backend": "b", "model": "x"}]}}}
    return parse(json.dumps(doc), {}).backends["b"]


def located(*endpoints: tuple[int, str, bool], **more: Any) -> Located:
    return Located("b", TEXT, {number: Endpoint(f"http://{host}:80", ready) for number, host, ready in endpoints}, **more)


class Told:
    """A follower that says what a test has it say."""

    def __init__(self, tell: Callable[[Seen], None], service: str) -> None:
        self.tell, self.service, self.ended = tell, service, False

    def start(self) -> None:
        return None

    def stop(self) -> None:
        self.ended = True

    def join(self, seconds: float) -> None:
        assert self.ended


class Hand:
    """What a fleet does, written down."""

    def __init__(self, follows: bool = True) -> None:
        self.clients = Clients(asyncio.get_running_loop())
        self.configs = {"b": backend()}
        self.replicas: dict[str, tuple[Replica, ...]] = {}
        self.follows = follows
        self.log: list[str] = []

    def on_health(self, replica: Replica, /) -> None:
        self.log.append(f"{replica.name} {replica.url.removeprefix('http://').removesuffix(':80') or '-'} {replica.health}")

    def on_models(self) -> None:
        self.log.append("routes")

    def connect(self, replica: Replica, backend: BackendConfig) -> None:
        self.log.append(f"connect {replica.name}")

    def disconnect(self, replica: Replica) -> None:
        self.log.append(f"disconnect {replica.name}")

    def credentials(self, replica: Replica) -> None:
        return None

    def look_again(self, name: str) -> None:
        return None

    def said(self) -> list[str]:
        said, self.log = self.log, []
        return said


def test_replicas_come_wait_and_go() -> None:
    async def run() -> None:
        hand = Hand()
        places = Places(hand)
        places.added("b", TEXT)
        (nobody,) = hand.replicas["b"]
        assert (nobody.health, nobody.reason, nobody.url) == ("loading", "the Kubernetes API has not answered yet", "")
        hand.said()
        places.take(located((0, "a", True), (1, "b", False)))
        assert hand.said() == ["connect b#0", "connect b#1", "disconnect b#0", "routes", "b#0 a ready", "b#1 b loading", "b#0 - down"]
        first, second = hand.replicas["b"]
        places.take(located((0, "a", True), (1, "b", False)))
        assert hand.said() == [], "nothing is new"
        first.failures, first.down_until, first.reason = 3, 5.0, "it failed"
        second.failures, second.down_until = 3, 5.0
        places.take(located((0, "a", True), (1, "b", True)))
        assert hand.said() == ["b#1 b ready"] and (second.failures, second.down_until, second.reason) == (0, 0.0, "")
        assert (first.failures, first.reason) == (3, "it failed"), "what calls have found is not overruled"
        places.take(located((1, "b", True), (0, "c", True)))
        assert hand.replicas["b"][1] is second and hand.replicas["b"][0] is not first
        assert (first.health, first.reason) == ("down", "It is no longer an endpoint of its Service.")
        hand.said()
        places.take(located(health="down", reason="none"))
        (nobody,) = hand.replicas["b"]
        assert (nobody.name, nobody.health, nobody.reason) == ("b#0", "down", "none") and second.health == "down"
        hand.said()
        places.take(located(health="down", reason="still none"))
        assert hand.said() == ["b#0 - down"] and hand.replicas["b"] == (nobody,) and nobody.reason == "still none"

    asyncio.run(run())


def test_what_is_told_of_another_configuration_waits_for_it() -> None:
    async def run() -> None:
        hand = Hand()
        places = Places(hand)
        places.added("b", TEXT)
        before = hand.replicas["b"]
        places.take(Located("b", "k8s:models/other", {0: Endpoint("http://a:80")}))
        places.take(Located("c", TEXT, {0: Endpoint("http://a:80")}))
        assert hand.replicas["b"] is before
        hand.configs["b"] = backend(urls="k8s:models/other")
        places.added("b", "k8s:models/other")
        assert [r.url for r in hand.replicas["b"]] == ["http://a:80"]
        places.keep(["b"])
        assert [*places.located] == ["b"]

    asyncio.run(run())


STEPS = st.lists(st.dictionaries(st.integers(0, 6), st.tuples(st.sampled_from("abcdefgh"), st.booleans()), max_size=6), max_size=8)


@settings(max_examples=60, deadline=None)
@given(STEPS)
def test_after_any_steps_the_replicas_are_what_was_told_last(steps: list[dict[int, tuple[str, bool]]]) -> None:
    async def run() -> None:
        hand = Hand()
        places = Places(hand)
        places.added("b", TEXT)
        ever: set[Replica] = set()
        for step in steps:
            before = hand.replicas["b"]
            ever.update(before)
            told = located(*((number, host, ready) for number, (host, ready) in step.items()), health="down")
            places.take(told)
            now = hand.replicas["b"]
            shown = {int(r.name.removeprefix("b#")): Endpoint(r.url, r.health == "ready") for r in now if r.url}
            assert shown == told.members and len(now) == max(1, len(step))
            known = {(r.name, r.url): r for r in before}
            assert all(known.get((r.name, r.url), r) is r for r in now), "who stays is the same"
            assert all(r.health == "down" for r in ever if r not in now), "nothing is sent to those that went"
            again, came = arranged(told, now, None)
            assert again == now and not came

    asyncio.run(run())


def test_only_the_last_word_of_a_follower_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        said: list[Located] = []
        made: list[Told] = []
        news = asyncio.Event()

        def heard(told: Located) -> None:
            said.append(told)
            news.set()

        def follows(tell: Callable[[Seen], None], service: str) -> Any:
            made.append(Told(tell, service))
            return made[-1]

        finder = Finder(asyncio.get_running_loop(), heard, follows)
        figures = Metrics()
        finder.gauges(figures)
        finder.follow("b", TEXT)
        assert finder.warnings() == []
        for hosts in ("a", "ab", "bc"):
            made[0].tell(Seen(Found(tuple(Endpoint(f"http://{host}") for host in hosts))))
        await finder.known()
        await news.wait()
        assert [told.members for told in said] == [{0: Endpoint("http://b"), 1: Endpoint("http://c")}]
        assert 'ready="true"} 2' in figures.render() and 'stale_seconds{backend="b"} 0' in figures.render()
        news.clear()
        await asyncio.to_thread(made[0].tell, Seen(Found((Endpoint("http://c", False),), "a port is missing"), "the API is away"))
        await news.wait()
        assert said[-1].members == {1: Endpoint("http://c", False)}, "who stays keeps its number"
        assert [text.split(" for ")[0] for text in finder.warnings()] == [
            f"Backend b: {TEXT} has not been followed", f"Backend b: {TEXT}: a port is missing.",
        ]  # fmt: skip
        news.clear()
        made[0].tell(Seen(Found((), "a port is missing")))
        await news.wait()
        assert (said[-1].health, said[-1].reason) == ("down", f"{TEXT} has no endpoints: a port is missing")
        finder.forget("b")
        finder.forget("b")
        made[0].tell(Seen(None, "too late"))
        await asyncio.sleep(0)
        assert made[0].ended and len(said) == 3
        finder.follow("b", TEXT)
        await finder.stop()
        assert made[1].ended and not finder.followed

    monkeypatch.setattr(finding, "GAP_SECONDS", 0.0)
    asyncio.run(run())


def test_a_fleet_gives_pods_links_and_workers_the_same() -> None:
    async def run() -> None:
        clients = Clients(asyncio.get_running_loop())
        fleet = Fleet(clients, lambda replica: None, lambda: None, follows=True)
        config = parse(
            json.dumps({"backends": {"b": {"urls": TEXT, "kind": "vllm", "kv_events": "tcp://{host}:5557", "discover": True}}}), {}
        )
        await fleet.apply(config)
        fleet.follow([], {}, [located((0, "10.0.0.1", True), (1, "[fd00::1]", True))])
        assert [fleet.kv_events(r).endpoint for r in fleet.replicas["b"]] == ["tcp://10.0.0.1:5557", "tcp://[fd00::1]:5557"]  # type: ignore[union-attr]
        assert len(clients.pools) == 2
        other = Fleet(clients, lambda replica: None, lambda: None, follows=True)
        await other.apply(config)
        other.follow(*fleet.told())
        assert [(r.name, r.url) for r in other.replicas["b"]] == [(r.name, r.url) for r in fleet.replicas["b"]]
        fleet.follow([], {}, [located(health="down", reason="none")])
        assert fleet.replicas["b"][0].url == "" and fleet.kv_events(fleet.replicas["b"][0]) is None
        await fleet.apply(parse("{}", {}))
        assert fleet.places.located == {} and fleet.replicas == {}
        await other.stop()
        await fleet.stop()
        clients.close()

    asyncio.run(run())
