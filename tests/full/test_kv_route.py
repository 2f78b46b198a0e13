"""Two replicas of a real vLLM behind a `kv_aware` route: conversations stay where their prefix is, and what the scheduler predicts to be
cached is what the engines report."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from typing import Any

import msgspec
import openai
import pytest

from gateway.dispatcher import Dispatcher
from routing.kv import Truth
from routing.prefix import TOKEN_BLOCK
from tests.full.test_engines import READY_SECONDS, launched
from tests.harness import Running, running

pytestmark = [pytest.mark.full, pytest.mark.timeout(900)]
TALKS, TURNS = 6, 4


@pytest.fixture(scope="module")
def gateway() -> Iterator[Running]:
    """Two engines, a KV-aware route over them and one that takes turns."""
    config = launched("vllm")
    backend = msgspec.structs.replace(config.backends["vllm"], replicas=2, kv_events=True)
    aware = msgspec.structs.replace(config.routes["m"], policy="kv_aware")
    turns = msgspec.structs.replace(config.routes["m"], policy="round_robin")
    config = msgspec.structs.replace(config, backends={"vllm": backend}, routes={"m": aware, "turns": turns})
    with running(config) as made:
        until(made, lambda: all(r.health == "ready" for r in made.gateway.fleet.every()), "both engines", READY_SECONDS)
        until(made, lambda: dispatcher(made).prompter.mode == "tokens", "token mode", 120.0)
        until(made, lambda: live(made) == 2, "both feeds", 120.0)
        yield made


def dispatcher(gateway: Running) -> Dispatcher:
    scheduling = gateway.gateway.scheduling
    assert scheduling is not None
    return scheduling.dispatchers[0]


def live(gateway: Running) -> int:
    feeds = dispatcher(gateway).feeds
    return sum(one.state == "live" for one in feeds.states()) if feeds is not None else 0


def until(gateway: Running, holds: Any, what: str, seconds: float) -> None:
    async def wait() -> None:
        for _ in range(int(seconds * 10)):
            if holds():
                return
            await asyncio.sleep(0.1)  # polls a state; how long an engine takes is not ours to know
        found = dispatcher(gateway)
        raise AssertionError(f"never came: {what}; {found.prompter.reason}; {found.feeds and found.feeds.states()}")

    gateway.run(wait(), seconds + 30)


def talk(gateway: Running, route: str, seed: int) -> tuple[int, int]:
    """Conversations turn by turn, all of them in each round: prompt tokens, and those that the engines had cached."""
    client = openai.OpenAI(base_url=gateway.url, api_key="none", max_retries=0, timeout=120)
    rng = random.Random(seed)

    def words(count: int) -> str:
        return " ".join(rng.choice(("rail", "point", "signal", "train", "switch", "line")) + str(rng.randrange(1000)) for _ in range(count))

    talks: list[list[Any]] = [[{"role": "system", "content": words(40)}] for _ in range(TALKS)]
    prompt = cached = 0
    for _ in range(TURNS):
        rng.shuffle(talks)
        for messages in talks:
            messages.append({"role": "user", "content": words(12)})
            answer = client.chat.completions.create(model=route, messages=messages, max_tokens=4, temperature=0)
            messages.append({"role": "assistant", "content": answer.choices[0].message.content or ""})
            assert answer.usage is not None
            prompt += answer.usage.prompt_tokens
            details = answer.usage.prompt_tokens_details
            cached += (details.cached_tokens or 0) if details is not None else 0
    return prompt, cached


def test_prediction_is_what_engines_report_and_conversations_stay(gateway: Running) -> None:
    prompt, cached = talk(gateway, "turns", 1)
    in_turn = cached / prompt
    prompt, cached = talk(gateway, "m", 2)
    found = dispatcher(gateway)
    truths: list[Truth] = gateway.call(lambda: [found.scheduler.truth(n) for n in found.numbers.values()])
    assert sum(t.answers for t in truths) == 2 * TALKS * TURNS, "every answer told its cached tokens"
    assert max(t.p95 for t in truths) < TOKEN_BLOCK, truths
    assert cached / prompt > in_turn, (cached / prompt, in_turn)
    gateway.settled()
    gateway.call(found.scheduler.check)
    assert not found.scheduler.load.bookings
