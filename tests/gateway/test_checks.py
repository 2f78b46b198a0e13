"""Looks at servers: what is asked, how often, and what a replica's absence makes of it."""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import Any

import pytest

from gateway import checks
from gateway.checks import Checks, interval
from gateway.config import BackendConfig
from tests.fakes import answers
from tests.fakes.engine import Engine
from tests.harness import Running, chat, config_for, running
from tests.routing.made import replica


async def looked(gateway: Running, later: float) -> None:
    """All looks that are due then, to their end."""
    own: Checks = gateway.gateway.checks
    own.turn(monotonic() + later)
    await asyncio.gather(*own.tasks)


def look(gateway: Running, later: float) -> None:
    gateway.run(looked(gateway, later))


@pytest.mark.parametrize(("kind", "path"), [("vllm", "/health"), ("tgi", "/health"), ("sglang", "/v1/models"), ("ollama", "/v1/models")])
def test_what_is_asked_costs_nothing(kind: str, path: str) -> None:
    with Engine() as engine, running(config_for([engine], backend={"kind": kind})) as gateway:
        for at in range(1, 4):
            look(gateway, 100.0 * at)
        seen = [(r.method, r.path) for r in engine.requests]
        assert seen.count(("GET", path)) == len(seen) >= 2
        assert not engine.posts()


def test_who_is_not_there_is_sent_nothing_until_it_is_back() -> None:
    with Engine() as one, Engine() as two:
        config = config_for([one, two], backend={"kind": "vllm"}, route={"retries": 0})
        with running(config) as gateway:
            look(gateway, 0.0)
            port = one.port
            one.stop()
            for at in (100.0, 200.0):
                look(gateway, at)
            first = next(r for r in gateway.gateway.fleet.every() if str(port) in r.url)
            assert first.down_until > monotonic() + 15 and first.reason
            for _ in range(6):
                assert gateway.ask(chat()).status == 200  # without a retry
            with Engine(port=port) as again:
                look(gateway, 300.0)
                assert first.down_until == 0.0
                for _ in range(4):
                    assert gateway.ask(chat()).status == 200
                assert again.posts()


def test_one_look_that_fails_is_nothing() -> None:
    with Engine() as engine, running(config_for([engine], backend={"kind": "vllm"})) as gateway:
        look(gateway, 0.0)
        (first,) = gateway.gateway.fleet.every()
        engine.responder = lambda request: answers.vllm_error(503)
        look(gateway, 100.0)
        assert first.down_until == 0.0
        look(gateway, 200.0)
        assert first.down_until and "503" in first.reason


def test_who_is_looked_at() -> None:
    def seconds(**fields: Any) -> float:
        return interval(BackendConfig(**fields))

    assert seconds(url="http://x", kind="vllm") == checks.USUAL_SECONDS
    assert seconds(url="http://x") == seconds(url="http://x", kind="openai") == seconds(engine="vllm", model="m") == 0
    assert seconds(url="http://x", kind="openai", health_seconds=60.0) == 60
    assert seconds(url="http://x", kind="vllm", health_seconds=0.0) == 0


def test_a_look_in_time_is_no_news() -> None:
    one = replica()
    own = Checks(None)  # type: ignore[arg-type]
    own.judge(one, "gone", 15.0, 100.0)
    own.judge(one, "", 15.0, 101.0)
    own.judge(one, "gone", 15.0, 102.0)
    assert one.down_until == 0.0
    own.judge(one, "gone", 15.0, 103.0)
    assert one.down_until == 103.0 + 31.0 and one.reason == "gone"
    own.judge(one, "", 15.0, 110.0)
    assert (one.down_until, one.failures, one.reason) == (0.0, 0, "")
