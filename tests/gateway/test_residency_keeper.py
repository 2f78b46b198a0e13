"""The keeper between engines, processes that serve calls, and the decisions: driven by hand, with a host that notes what it is told."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Coroutine
from typing import Any

import pytest

from backends.engines.instance import Instance, State
from backends.engines.spec import EngineSpec
from backends.types import Fault
from gateway.config import BackendConfig, Config, ServerConfig
from gateway.config_types import ResidentConfig
from gateway.residency_demand import Wants, keep_seconds
from gateway.residency_keeper import ASLEEP, Keeper


class Host:
    """A fleet whose engines become what the test says."""

    def __init__(self) -> None:
        self.now = 100.0
        self.keeper = Keeper(self, predict=lambda spec: 100, clock=lambda: self.now)
        self.running: dict[str, Instance] = {}
        self.told: dict[str, str] = {}  # by backend, what its replicas say
        self.busy: dict[str, int] = {}

    def instances(self) -> list[Instance]:
        return [*self.running.values()]

    def run_engines(self) -> None:
        wanted = {spec.name: spec for spec in self.keeper.wanted()}
        gone = [instance for name, instance in self.running.items() if name not in wanted]
        self.running = {name: self.running.get(name) or Instance(f"{name}#0", spec) for name, spec in wanted.items()}
        for instance in gone:
            asyncio.get_running_loop().call_soon(self.become, instance, "stopped")

    def become(self, instance: Instance, state: State, reason: str = "") -> None:
        instance.state, instance.reason = state, reason
        worded = self.keeper.changed(instance)
        if instance in self.running.values():
            self.told[instance.spec.name] = state if state != "starting" else worded

    def set(self, name: str, state: State, reason: str = "") -> None:
        self.become(self.running[name], state, reason)

    def shut(self, name: str, reason: str, *, asleep: bool = False, down: bool = False) -> None:
        self.told[name] = f"{'down' if down else 'asleep'}: {reason}"

    def reopen(self, name: str) -> None:
        if name in self.running:
            self.become(self.running[name], self.running[name].state)

    def under_way(self, name: str) -> int:
        return self.busy.get(name, 0)

    # --- the test's
    async def prepare(self, count: int, memory: int | None = None, **resident: Any) -> None:
        backend = BackendConfig(engine="command", command=("x",), resident=ResidentConfig(**resident))
        config = Config(server=ServerConfig(memory=memory), backends={f"m{i}": backend for i in range(count)})
        self.keeper.configure(config)
        for name in config.backends:
            await self.keeper.prepared(name, EngineSpec(name, "command", command=("x",)))

    async def turn(self, seconds: float = 0.0) -> None:
        """Lets time pass, and everything happen that follows."""
        self.now += seconds
        self.keeper.step()
        for _ in range(5):
            await asyncio.sleep(0)
        self.keeper.step()

    def state(self, name: str) -> str:
        return self.keeper.residency.entries[name].state


def played(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(work)


def test_what_several_processes_want_is_added_up_and_ends_with_them() -> None:
    async def play() -> None:
        host = Host()
        host.keeper.ask = None
        await host.prepare(1)
        assert host.told == {"m0": f"asleep: {ASLEEP}"} and not host.running
        host.keeper.heard(1, {"m0": Wants(waiting=2, since=99.0)})
        host.keeper.heard(2, {"m0": Wants(waiting=1, since=98.0), "gone": Wants(waiting=1)})
        await host.turn()
        entry = host.keeper.residency.entries["m0"]
        assert (entry.waiting, entry.wait_since, entry.state) == (3, 98.0, "loading")
        host.keeper.deaf(2)
        await host.turn()
        assert entry.waiting == 1 + 1
        host.set("m0", "ready")
        host.keeper.heard(1, {"m0": Wants(total=2)})
        await host.turn(2.0)
        assert entry.state == "resident" and host.keeper.waits == 1 and host.keeper.waited == pytest.approx(3.0)

    played(play())


def test_an_engine_that_a_worker_uses_after_all_is_opened_again() -> None:
    async def play() -> None:
        host = Host()
        answers: list[int | None] = [None, 1, 0]

        async def ask(name: str) -> int | None:
            busy = answers.pop(0)
            host.keeper.heard(1, {name: Wants(total=2, busy=busy or 0)})
            return busy

        host.keeper.ask = ask
        await host.prepare(1, idle_seconds=5.0)
        host.keeper.heard(1, {"m0": Wants(waiting=1, since=100.0)})
        await host.turn()
        host.set("m0", "ready")
        host.keeper.heard(1, {"m0": Wants(total=1)})
        await host.turn(1.0)
        await host.turn(6.0)
        assert host.state("m0") == "resident" and host.told["m0"] == "ready", "a worker had sent a call while it was being closed"
        assert answers == [0]
        host.keeper.heard(1, {"m0": Wants(total=2)})
        await host.turn()
        await host.turn(6.0)
        await host.turn()
        assert not answers
        assert host.state("m0") == "absent" and not host.running and host.told["m0"] == f"asleep: {ASLEEP}"

    played(play())


def test_progress_is_told_while_it_loads_and_the_queue_while_it_waits() -> None:
    async def play() -> None:
        host = Host()
        await host.prepare(3, memory=100)
        host.keeper.heard(0, {f"m{i}": Wants(waiting=1, since=90.0 + i) for i in range(3)})
        await host.turn()
        assert host.told["m1"] == "asleep: loading m1: waiting for memory" and host.told["m2"].endswith("waiting for memory, 1 before it")
        host.set("m0", "starting")
        assert host.told["m0"] == "loading m0 0 %"
        host.keeper.residency.measured("m0", 40)
        host.reopen("m0")
        assert host.told["m0"] == "loading m0 40 %"
        host.keeper.residency.measured("m0", 4000)
        assert host.keeper.progress("m0") == "loading m0 99 %"

    played(play())


def test_a_failed_load_is_down_for_a_while_and_its_process_is_let_go() -> None:
    async def play() -> None:
        host = Host()
        await host.prepare(1)
        host.keeper.heard(0, {"m0": Wants(waiting=1, since=100.0)})
        await host.turn()
        host.set("m0", "failed", "The engine 'm0' ended with code 1.")
        host.keeper.heard(0, {"m0": Wants()})
        await host.turn()
        assert host.told["m0"] == "down: The engine 'm0' ended with code 1." and not host.running
        await host.turn(29.0)
        assert host.state("m0") == "failed"
        await host.turn(2.0)
        assert host.state("m0") == "absent" and host.told["m0"] == f"asleep: {ASLEEP}"

    played(play())


def test_removed_while_it_loads_and_asked_for_before_it_is_gone() -> None:
    async def play() -> None:
        host = Host()
        await host.prepare(1, load="start", pin=True)
        assert host.state("m0") == "loading"
        first = host.running["m0"]
        host.keeper.removed("m0")
        await host.prepare(1, load="start")
        assert host.state("m0") == "stopping" and host.keeper.wanted() == []
        host.running.clear()
        host.become(first, "stopped")
        await host.turn()
        assert host.state("m0") == "loading" and host.running["m0"] is not first
        host.keeper.removed("m0")
        host.become(host.running.pop("m0"), "stopped")
        assert not host.keeper.residency.entries
        await host.keeper.stop()

    played(play())


def test_the_header_that_says_how_long() -> None:
    assert [keep_seconds(text) for text in (b"0", b"90.5", b" Forever ")] == [0.0, 90.5, math.inf]
    for bad in (b"", b"-1", b"nan", b"inf", b"soon", b"1e9"):
        with pytest.raises(Fault) as caught:
            keep_seconds(bad)
        assert caught.value.status == 400 and "x-pointsman-keep-loaded" in caught.value.message


def test_a_request_decides_until_a_later_one_says_otherwise() -> None:
    async def play() -> None:
        host = Host()
        await host.prepare(1, idle_seconds=5.0)
        host.keeper.heard(0, {"m0": Wants(waiting=1, since=100.0, keep=50.0, kept_at=100.0)})
        await host.turn()
        host.set("m0", "ready")
        host.keeper.heard(0, {"m0": Wants(total=1, keep=50.0, kept_at=100.0)})
        await host.turn(20.0)
        assert host.state("m0") == "resident"
        host.keeper.heard(0, {"m0": Wants(total=2, keep=0.0, kept_at=120.0)})
        await host.turn()
        await host.turn(0.1)
        assert host.state("m0") == "absent"

    played(play())
