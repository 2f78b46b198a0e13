"""Shadows with all that is around them in a gateway: the store, the analyst, metrics, and states that an operator puts in force."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gateway.experiments.store import TrialStore
from gateway.experiments.words import Pair, State
from routing.experiments.words import Result
from tests.fakes.engine import Engine
from tests.gateway.experiments.mirrored import shadowed
from tests.harness import Running, chat, running


def rested(gateway: Running) -> None:
    shadows = gateway.gateway.core.shadows
    assert shadows is not None
    gateway.until(lambda: not shadows.tasks and not shadows.keepers and not shadows.unsent, "shadows at rest")


def test_what_is_found_is_in_the_result(tmp_path: Path) -> None:
    over: dict[str, Any] = {
        "server": {"experiments": {"path": str(tmp_path / "e.db")}},
        "backends": {"near": {"prices": {"input": 0, "output": 1000}}},
    }
    with Engine() as own, Engine() as near:
        config = shadowed(own, near, over, queue=50)
        with running(config) as gateway:
            for number in range(12):
                assert gateway.ask(chat(max_tokens=3), headers={"x-request-id": f"r-{number}"}).status == 200
            rested(gateway)
            gateway.records()  # all are counted
            metrics = gateway.get("/metrics").body.decode()
            assert 'pointsman_shadow_requests_total{experiment="e",arm="cand",outcome="ok"} 12' in metrics.splitlines()
            mine = [line for line in metrics.splitlines() if 'route="m"' in line and line.startswith("pointsman_requests_total")]
            theirs = [line for line in metrics.splitlines() if 'route="shadow:e"' in line and line.startswith("pointsman_requests_total")]
            assert [line.rpartition(" ")[2] for line in (*mine, *theirs)] == ["12", "12"]

            async def look() -> tuple[list[Pair], Result | None]:
                store, analyst = gateway.gateway.wired.store, gateway.gateway.wired.analyst
                assert isinstance(store, TrialStore) and analyst is not None
                await store.flush()
                assert await analyst.look(30.0) == ""
                return await store.read(lambda tables: tables.pairs("e", 100)), await store.result("e")

            pairs, result = gateway.run(look())
            assert {pair.request for pair in pairs} == {f"r-{number}" for number in range(12)}
            assert result is not None
            (found,) = result.shadows
            assert (found.arm, found.pairs, found.failed, found.left_out) == ("cand", 12, 0, {})
            assert found.similarity.value == 1.0 and found.cost is not None and abs(found.cost - 12 * 0.003) < 1e-9

            async def stop() -> None:
                store = gateway.gateway.wired.store
                assert store is not None
                await store.act("e", State("e", "stopped"), "a test", "stop")

            gateway.run(stop())
            gateway.until(lambda: "e" in gateway.gateway.core.shadows.halted, "it is stopped")  # type: ignore[union-attr]
            assert gateway.ask(chat()).status == 200
            rested(gateway)
            assert len(near.posts()) == 12
