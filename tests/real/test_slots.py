"""KV that moves, on a real llama.cpp: the same answers, one prefill for all, over two replicas, through an engine's death, and not at all
where it is turned off. The model has 107 million random weights (`benchmarks.slots.model`): its prefill takes long enough for a burst to
come within it on any machine."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from backends.slots import table
from backends.slots.link import SlotLink
from backends.slots.shared import Figures
from benchmarks.slots import model
from gateway.config import Config, parse
from tests.harness import Running, running
from tests.real.test_engine_death import _engine_pid, until_ready

WAIT = 280.0  # a generous bound
SHARED = "You are agent. Rules: " + " ".join(f"rule {i} says {i * 7 % 13};" for i in range(45))  # 850 characters, one a token

pytestmark = pytest.mark.timeout(600)


def config(replicas: int = 1, slots: int = 4, **more: Any) -> Config:
    engine = {"engine": "llamacpp", "model": str(model.path()), "slots": slots, "context": 2048, "replicas": replicas, **more}
    return parse(
        json.dumps(
            {
                "server": {"port": 0, "admin": {"port": None}, "log": {"level": "error"}},
                "backends": {"toy": engine},
                "routes": {"toy": {"targets": [{"backend": "toy"}]}},
            }
        ),
        {},
    )


class Asked(threading.Thread):
    """One client: what it asked, and the answer's text and cached tokens."""

    def __init__(self, gateway: Running, own: str, stream: bool = True, shared: str = SHARED, tokens: int = 8) -> None:
        super().__init__(daemon=True)
        messages = [{"role": "system", "content": shared}, {"role": "user", "content": own}]
        self.doc = {"model": "toy", "messages": messages, "max_tokens": tokens, "temperature": 0, "stream": stream}
        self.doc |= {"stream_options": {"include_usage": True}} if stream else {}
        self.gateway, self.text, self.status, self.cached, self.body = gateway, "", 0, -1, b""
        self.start()

    def run(self) -> None:
        with self.gateway.dial(seconds=WAIT) as client:
            answer = client.ask(self.doc)
        self.status, self.body = answer.status, answer.body
        events = [line[6:] for line in answer.body.split(b"\n") if line.startswith(b"data: {")] if self.doc["stream"] else [answer.body]
        docs = [json.loads(event) for event in events] if self.status == 200 else []
        for doc in docs:
            for choice in doc.get("choices", ()):
                self.text += (choice.get("delta") or choice.get("message") or {}).get("content") or ""
            if doc.get("usage"):
                self.cached = doc["usage"]["prompt_tokens_details"]["cached_tokens"]


def burst(gateway: Running, count: int, **more: Any) -> list[Asked]:
    """`count` clients at once; all have their answers."""
    asked = [Asked(gateway, f"question {i}", stream=i % 3 != 2, **more) for i in range(count)]
    for each in asked:
        each.join(WAIT)
        assert each.status == 200, each.body
    return asked


def figures(gateway: Running) -> Figures:
    return gateway.call(lambda: gateway.gateway.fleet.slots.figures()["toy"])


def at_rest(gateway: Running) -> None:
    """Blocks until no slot is taken and nobody waits for one."""

    def links() -> list[SlotLink]:
        return [r.link for r in gateway.gateway.fleet.replicas["toy"] if isinstance(r.link, SlotLink)]

    def rests() -> bool:
        return not any(link.tasks or len(link.line) or link.shared.groups or any(s.busy for s in link.table.slots) for link in links())

    gateway.until(rests, "slots at rest")


def all_ready(gateway: Running) -> None:
    async def wait() -> None:
        end = time.monotonic() + WAIT
        while any(replica.health != "ready" for replica in gateway.gateway.fleet.replicas["toy"]):
            assert time.monotonic() < end
            await asyncio.sleep(0.01)

    gateway.run(wait(), WAIT + 5)


QUESTIONS = ["Repeat: banana", "Reverse: stone", "What is 12+7?", "What is the capital of France?", "Count to 5", "Uppercase: tiger"]


def answers(moved: bool) -> list[str]:
    """What the built-in model, which is trained, says to questions after long system prompts: in bursts, one after the other, with others
    in between."""
    texts = []
    with running(config(replicas=2, slots=3, model="builtin", kv_transfer=moved)) as gateway:
        all_ready(gateway)
        for which in (0, 1, 2, 0, 1, 2):
            shared = " ".join(f"{word}{which}" for word in ("river", "stone", "green", "window", "paper", "light") * 20)
            asked = [Asked(gateway, own, stream=i % 2 == 0, shared=shared, tokens=24) for i, own in enumerate(QUESTIONS)]
            for each in asked:
                each.join(WAIT)
                assert each.status == 200, each.body
            texts += [each.text for each in asked]
        if moved:
            assert figures(gateway).restores > 0 and figures(gateway).tokens_saved > 0 and figures(gateway).failed == 0
            at_rest(gateway)
    return texts


def test_answers_are_the_same_with_kv_that_was_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "WORTH", 0.0)  # so small a model computes as fast as files are read
    moved = answers(True)
    assert moved == answers(False) and len(set(moved)) > 6


def test_turned_off_it_is_stock() -> None:
    with running(config(kv_transfer=False)) as gateway:
        all_ready(gateway)
        burst(gateway, 4)
        assert gateway.call(lambda: gateway.gateway.fleet.slots.figures()) == {}
        instance = gateway.gateway.fleet.instance("toy#0")
        assert instance is not None and instance.spec.slot_save_path == ""
        assert not isinstance(gateway.gateway.fleet.replicas["toy"][0].link, SlotLink)


def test_a_burst_computes_its_prefix_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "WORTH", 0.0)  # as above; on a busy machine files may well be read more slowly
    with running(config(slots=8)) as gateway:
        all_ready(gateway)
        store = Path(gateway.gateway.fleet.slots.shared["toy"].store.near)
        asked = burst(gateway, 8)
        assert min(each.cached for each in asked) >= len(SHARED), [each.cached for each in asked]
        told = figures(gateway)
        assert (told.primes, told.restores, told.failed) == (1, 7, 0) and told.tokens_saved >= 7 * len(SHARED)
        assert told.bytes_memory == sum(file.stat().st_size for file in store.iterdir())
        later = Asked(gateway, "question 1", stream=False)
        later.join(WAIT)
        assert later.status == 200 and later.cached >= len(SHARED)
        at_rest(gateway)
    assert not store.exists()


def test_another_replica_restores_what_one_has_computed() -> None:
    with running(config(replicas=2)) as gateway:
        all_ready(gateway)
        asked = burst(gateway, 8)
        assert min(each.cached for each in asked) >= len(SHARED)
        assert (figures(gateway).primes, figures(gateway).restores) == (1, 7)
        at_rest(gateway)


def test_an_engine_that_is_killed_while_others_wait_for_its_prefix() -> None:
    with running(config()) as gateway:
        until_ready(gateway)
        asked = [Asked(gateway, f"question {i}", stream=i % 3 != 2) for i in range(4)]
        gateway.until(lambda: any(group.closing for group in gateway.gateway.fleet.slots.shared["toy"].groups), "a leader called back")
        instance = gateway.gateway.fleet.instance("toy#0")
        assert instance is not None and instance.pid is not None
        os.kill(_engine_pid(instance.pid), signal.SIGKILL)
        for each in asked:
            each.join(WAIT)
            assert each.status == 200 and each.text, each.body  # none had been shown anything: all waited for the engine
        until_ready(gateway)
        again = burst(gateway, 4)
        assert min(each.cached for each in again) >= len(SHARED)
        at_rest(gateway)


def test_what_was_saved_outlives_the_engine() -> None:
    with running(config()) as gateway:
        until_ready(gateway)
        burst(gateway, 2)
        before = figures(gateway)
        instance = gateway.gateway.fleet.instance("toy#0")
        assert instance is not None and instance.pid is not None
        restarts = instance.restarts
        os.kill(_engine_pid(instance.pid), signal.SIGKILL)
        gateway.until(lambda: instance.restarts > restarts, "the engine's next start")
        until_ready(gateway)
        after = Asked(gateway, "question 3")
        after.join(WAIT)
        assert after.status == 200 and after.cached >= len(SHARED)
        assert figures(gateway).restores == before.restores + 1 and figures(gateway).primes == before.primes


def test_clients_that_leave_at_any_moment_leave_nothing() -> None:
    with running(config()) as gateway:
        until_ready(gateway)
        for moment in (0.0, 0.05, 0.3, 1.0):
            clients = []
            for i in range(6):
                client = gateway.dial()
                messages = [{"role": "system", "content": f"{moment} {SHARED}"}, {"role": "user", "content": f"{i}"}]
                body = json.dumps({"model": "toy", "messages": messages, "max_tokens": 50, "stream": i % 2 == 0}).encode()
                client.sock.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n")
                client.sock.sendall(b"content-length: %d\r\n\r\n%b" % (len(body), body))
                clients.append(client)
            left = threading.Event()
            left.wait(moment)  # some are waiting then, some are being computed, some are answered
            for client in clients:
                client.sock.close()
        gateway.settled()
        at_rest(gateway)
        answer = Asked(gateway, "and now?")
        answer.join(WAIT)
        assert answer.status == 200
