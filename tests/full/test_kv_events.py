"""Real vLLM and SGLang on the CPU, started by the gateway with KV events: what the feed says is cached against what the engine reports.

`./scripts/test --full` installs the engines. Their caches are made small, so that blocks are evicted.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import msgspec
import pytest

from gateway.feeds import Feeds, FeedState, Publisher
from routing.prefix import PrefixIndex, salted, token_blocks
from tests.full.test_engines import READY_SECONDS, launched
from tests.harness import Running, running

pytestmark = [pytest.mark.full, pytest.mark.timeout(900)]
BLOCK = {"vllm": 32, "sglang": 16}  # tokens, as `launched` asks for
CACHE = 3072  # tokens
SMALL = {"vllm": ("--num-gpu-blocks-override", str(CACHE // 32)), "sglang": ("--max-total-tokens", str(CACHE))}
SECONDS = 60.0  # for what must come


class Owner:
    """What a scheduler is to its feeds."""

    def __init__(self) -> None:
        self.index, self.lower = PrefixIndex(1), PrefixIndex(1)
        self.told: list[Any] = []

    def trust(self, replica: int, precise: bool) -> None:
        self.told.append(precise)

    def restarted(self, replica: int) -> None:
        self.told.append("restarted")


class Followed:
    """A gateway's one engine, its feed, and a client that speaks to it directly."""

    def __init__(self, gateway: Running, kind: str) -> None:
        self.gateway, self.kind, self.size = gateway, kind, BLOCK[kind]
        self.owner = Owner()
        self.feeds: Feeds = gateway.call(lambda: Feeds(self.owner, self.size))
        self.root = salted("tiny", "", "")
        self.follow()

    @property
    def instance(self) -> Any:
        return next(iter(self.gateway.gateway.fleet.instances()))

    @property
    def state(self) -> FeedState:
        return self.gateway.call(self.feeds.states)[0]

    def follow(self) -> None:
        """Follows the engine wherever it is now."""
        fleet = self.gateway.gateway.fleet
        kv = self.gateway.call(lambda: fleet.kv_events(fleet.every()[0]))
        assert kv is not None and kv.endpoint.startswith("ipc:///") and kv.replay
        publisher = Publisher(kv.endpoint, kv.replay, kv.topic, kv.ranks, "the engine", "tiny")
        self.gateway.call(lambda: self.feeds.follow(0, publisher))

    def until(self, holds: Callable[[], bool], what: str) -> None:
        """Blocks until `holds()` on the gateway's loop."""

        async def wait() -> None:
            for _ in range(int(SECONDS * 100)):
                if holds():
                    return
                await asyncio.sleep(0.01)  # polls a state; how long an engine takes is not ours to know
            raise AssertionError(f"never came: {what}; {self.feeds.states()}")

        self.gateway.run(wait(), SECONDS * 10)

    def post(self, path: str, **body: Any) -> Any:
        headers = {"authorization": f"Bearer {self.instance.api_key}"}
        answer = httpx.post(self.instance.base_url + path, json={"model": "tiny", **body}, headers=headers, timeout=120)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def turn(self, messages: list[dict[str, str]]) -> tuple[int, int, str]:
        """One turn of a chat. Returns the cached tokens as predicted and as reported, and the answer."""
        ids = self.post("/tokenize", messages=messages)["tokens"]
        blocks = token_blocks(ids, self.root, self.size)
        predicted = self.gateway.call(lambda: min(self.owner.index.match(blocks)[0] * self.size, len(ids) - 1))
        answer = self.post("/v1/chat/completions", messages=messages, max_tokens=12, temperature=0)
        cached = (answer["usage"].get("prompt_tokens_details") or {}).get("cached_tokens") or 0
        self.gateway.call(lambda: self.feeds.hit(0, cached, predicted))
        self.until(lambda: self.owner.index.match(blocks)[0] == len(blocks), "what was just computed in the index")
        return predicted, cached, answer["choices"][0]["message"]["content"] or ""


@pytest.fixture(scope="module", params=["vllm", "sglang"])
def engine(request: pytest.FixtureRequest) -> Iterator[Followed]:
    """An engine that the gateway launched, ready, and followed."""
    kind = request.param
    config = launched(kind)
    backend = config.backends[kind]
    backend = msgspec.structs.replace(backend, kv_events=True, args=(*backend.args, *SMALL[kind]))
    with running(msgspec.structs.replace(config, backends={kind: backend})) as gateway:
        _ready(gateway, 0)
        followed = Followed(gateway, kind)
        yield followed
        gateway.call(followed.feeds.close)


def _ready(gateway: Running, restarts: int) -> None:
    async def until() -> None:
        for _ in range(int(READY_SECONDS * 2)):
            instance = next(iter(gateway.gateway.fleet.instances()), None)
            if instance is not None and instance.restarts >= restarts and instance.state == "ready":
                return
            await asyncio.sleep(0.5)  # polls a state, as above
        raise AssertionError(gateway.gateway.engine_log(gateway.gateway.fleet.every()[0].name, 30))

    gateway.run(until(), READY_SECONDS + 60)


def _words(rng: random.Random, count: int) -> str:
    return " ".join(rng.choice(("import", "return", "def", "class", "self", "None", "value", "for")) for _ in range(count))


def test_it_is_live_before_anything_is_asked(engine: Followed) -> None:
    engine.until(lambda: engine.feeds.states()[0].state == "live", "a live feed")
    assert engine.owner.told[-1] is True and engine.state.lost == 0


def test_predicted_cached_tokens_are_those_that_the_engine_reports(engine: Followed) -> None:
    rng = random.Random(4)
    system = {"role": "system", "content": _words(rng, 60)}
    chats: list[list[dict[str, str]]] = [[system] for _ in range(8)]
    errors, hits = [], 0
    for _ in range(48):
        chat = rng.choice(chats)
        if len(chat) > 8:
            del chat[1:]
        chat.append({"role": "user", "content": f"{chats.index(chat)} {_words(rng, 40)}"})
        predicted, cached, text = engine.turn(chat)
        chat.append({"role": "assistant", "content": text})
        errors.append(abs(predicted - cached))
        hits += cached > 0
    errors.sort()
    state = engine.state
    figures = f"{engine.kind}: errors {errors}, {hits} hits, {state}"
    assert errors[round(0.95 * (len(errors) - 1))] < engine.size, figures
    assert hits > 24 and state.state == "live" and state.orphans == state.gaps == 0, figures
    stored = engine.gateway.call(lambda: engine.owner.index.counts[0])
    assert stored * engine.size <= CACHE, f"nothing was evicted, or not told: {figures}"


def test_who_joins_late_is_told_all_by_the_replay(engine: Followed) -> None:
    before = engine.gateway.call(lambda: dict(engine.owner.index.masks))
    assert before
    late = Owner()
    kv = engine.gateway.call(lambda: engine.feeds.states()[0])
    fleet = engine.gateway.gateway.fleet
    feeds: Feeds = engine.gateway.call(lambda: Feeds(late, engine.size))
    where = engine.gateway.call(lambda: fleet.kv_events(fleet.every()[0]))
    assert where is not None and where.replay is not None and where.endpoint == kv.endpoint
    engine.gateway.call(lambda: feeds.follow(0, Publisher(where.endpoint, where.replay or "", model="tiny")))
    engine.until(lambda: feeds.states()[0].state == "live", "a live feed of who joined late")
    assert engine.gateway.call(lambda: dict(late.index.masks)) == before
    engine.gateway.call(feeds.close)


def test_an_engine_that_was_killed_is_followed_anew(engine: Followed) -> None:
    instance = engine.instance
    restarts, first = instance.restarts, engine.state.endpoint
    os.killpg(instance.pid, signal.SIGKILL)
    engine.until(lambda: engine.feeds.states()[0].state == "waiting", "the loss of the engine")
    assert engine.owner.told[-1] is False and not engine.gateway.call(lambda: engine.owner.index.masks)
    _ready(engine.gateway, restarts + 1)
    engine.follow()
    assert engine.state.endpoint != first
    engine.until(lambda: engine.feeds.states()[0].state == "live", "a live feed of the new engine")
    predicted, cached, _ = engine.turn([{"role": "user", "content": _words(random.Random(1), 200)}])
    assert (predicted, cached) == (0, 0)
    again, found, _ = engine.turn([{"role": "user", "content": _words(random.Random(1), 200)}])
    assert abs(again - found) < engine.size <= found
