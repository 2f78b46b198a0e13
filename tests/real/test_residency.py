"""Twelve models on a budget for four, in real time: engines of the built-in model, clients that ask for any of them at random.

In CI for a short while; `POINTSMAN_TEST_RESIDENCY_SECONDS=600` makes it ten minutes.
"""

from __future__ import annotations

import json
import os
import random
import sys
import threading
import time
from typing import Any

import pytest

from gateway.config import Config, parse
from gateway.residency_footprint import measured
from tests.harness import Running, running

MODELS, CLIENTS = 12, 8
SECONDS = float(os.environ.get("POINTSMAN_TEST_RESIDENCY_SECONDS", "60"))
ONE = 62 << 20  # bytes that the prediction sets aside for one, with its slots and its prompt cache full
BUDGET = 4 * ONE
WAIT = 300  # seconds that a call may wait for its model, and that all of it may take longer where the machine is busy with other engines


def config() -> Config:
    toy = {"engine": "llamacpp", "model": "builtin", "context": 1024, "slots": 2, "threads": 1, "resident": {"idle_seconds": 20}}
    server = {"port": 0, "admin": {"port": None}, "memory": BUDGET, "log": {"level": "error"}, "wait_seconds": WAIT}
    return parse(json.dumps({"server": server, "backends": {f"toy{i}": toy for i in range(MODELS)}}), {})


class Client(threading.Thread):
    """Asks until it is over, streaming or not; every answer must be whole."""

    def __init__(self, gateway: Running, seed: int, over: threading.Event) -> None:
        super().__init__(daemon=True)
        self.gateway, self.draw, self.over = gateway, random.Random(seed), over
        self.asked = 0
        self.wrong: list[str] = []

    def run(self) -> None:
        while not self.over.is_set() and not self.wrong:
            model = f"toy{min(MODELS - 1, int(self.draw.expovariate(0.35)))}"
            stream = self.draw.random() < 0.5
            doc: dict[str, Any] = {"model": model, "messages": [{"role": "user", "content": "What is the capital of France?"}]}
            doc |= {"stream": stream, "max_tokens": self.draw.choice([8, 64, 400]), "ignore_eos": self.draw.random() < 0.2}
            with self.gateway.dial(seconds=WAIT) as client:
                answer = client.ask(doc)
            self.asked += 1
            good = answer.status == 200 and (answer.body.rstrip().endswith(b"data: [DONE]") if stream else b'"choices"' in answer.body)
            if not good or b'"error"' in answer.body:
                self.wrong.append(f"{model}: {answer.status} {answer.body[-300:]!r}")


class Judge(threading.Thread):
    """Looks at what all engines' processes really hold, a hundred times a second or more: it must not take a core from them."""

    def __init__(self, gateway: Running, over: threading.Event) -> None:
        super().__init__(daemon=True)
        self.gateway, self.over = gateway, over
        self.peak, self.most, self.looks = 0, 0, 0

    def run(self) -> None:
        while not self.over.wait(0.005):
            pids = self.gateway.call(lambda: [i.pid for i in self.gateway.gateway.fleet.instances() if i.pid is not None])
            held = measured(frozenset(pids))
            self.peak, self.most, self.looks = max(self.peak, sum(held.values())), max(self.most, len(held)), self.looks + 1


@pytest.mark.full
@pytest.mark.timeout(SECONDS + 2 * WAIT)
def test_twelve_models_on_a_budget_for_four() -> None:
    with running(config()) as gateway:
        over = threading.Event()
        judge = Judge(gateway, over)
        clients = [Client(gateway, seed, over) for seed in range(CLIENTS)]
        keeper = gateway.gateway.fleet.keeper
        assert keeper is not None

        def seen() -> tuple[int, dict[str, int], dict[tuple[str, str], int]]:
            loads = gateway.call(lambda: {name: entry.loads for name, entry in keeper.residency.entries.items()})
            return sum(client.asked for client in clients), loads, gateway.call(lambda: dict(keeper.residency.evictions))

        def proven() -> bool:
            asked, loads, unloads = seen()
            enough = asked >= MODELS and sum(map(bool, loads.values())) > 4 and any(why == "room" for _, why in unloads)
            return enough or any(client.wrong for client in clients)

        begun = time.monotonic()
        for thread in (*clients, judge):
            thread.start()
        while not over.wait(0.5):
            passed = time.monotonic() - begun
            if passed >= SECONDS and (proven() or passed >= SECONDS + WAIT):
                over.set()
        for thread in (*clients, judge):
            thread.join()
        asked, loads, unloads = seen()
        sys.stdout.write(f"{asked} calls, {sum(loads.values())} loads, peak {judge.peak / BUDGET:.3f} of the budget, {judge.looks} looks\n")
        assert not [wrong for client in clients for wrong in client.wrong]
        assert proven(), "it proves nothing"
        assert judge.peak <= 1.03 * BUDGET, (judge.peak, BUDGET)
        assert sum(count for (_, why), count in unloads.items() if why == "room") > 0
        gateway.until(lambda: not gateway.gateway.core.parked and not gateway.gateway.core.inflight, "the end of all calls")
