"""A running gateway whose route `m` is mirrored: what its shadows found, and waits for them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import msgspec

from gateway import build
from gateway.config import Config, parse
from gateway.experiments.ended import Ended
from gateway.experiments.shadow import Shadows
from gateway.experiments.trial import Trials
from gateway.experiments.words import Pair
from tests.fakes.engine import Engine
from tests.harness import Running, merged, running


class Nowhere:
    """A store that keeps nothing."""

    def put(self, ended: Ended) -> None:
        return None


class Mirroring:
    """A gateway, and what is found while it runs. Methods are called from the test's thread."""

    def __init__(self, gateway: Running, config: Config) -> None:
        self.gateway = gateway
        self.pairs: list[Pair] = []
        self.unix = 1_000_000.0
        self.generations = 1
        gateway.call(lambda: self._begin(config))

    def _begin(self, config: Config) -> None:
        core = self.gateway.gateway.core
        self._adopt(config)
        core.shadows = Shadows(core, self.pairs.append, lambda: self.unix)
        core.run_trials(Trials(Nowhere()))

    def adopt(self, config: Config) -> None:
        """Another configuration of the same backends."""
        self.gateway.call(lambda: self._adopt(config))

    def _adopt(self, config: Config) -> None:
        self.generations += 1
        self.gateway.gateway.core.swap(build.generation(self.generations, config, self.gateway.gateway.fleet))

    @property
    def shadows(self) -> Shadows:
        found = self.gateway.gateway.core.shadows
        assert found is not None
        return found

    def found(self, count: int = 1) -> list[Pair]:
        """Waits for so many pairs in all, and gives them."""
        self.gateway.until(lambda: len(self.pairs) >= count, f"{count} pairs")
        assert len(self.pairs) == count
        return self.pairs

    def rested(self) -> None:
        """Waits until nothing is mirrored, and looks that nothing is held."""

        def rests() -> bool:
            s = self.shadows
            return not (s.tasks or s.keepers or s.unsent or any(lane.queue or lane.running for lane in s.lanes.values()))

        self.gateway.until(rests, "shadows at rest")
        self.gateway.settled()
        assert self.shadows.room.used == 0
        budgets = [lane.budget for lane in self.shadows.lanes.values()]
        assert all(abs(b.booked_dollars) < 1e-9 and not b.booked_tokens for b in budgets)


def shadowed(own: Engine, shadow: Engine, over: Mapping[str, Any] | None = None, **told: Any) -> Config:
    """Route `m` to one engine, mirrored to another as `cand`. `told`: of the shadow; `over`: laid over all."""
    base = {
        "server": {"port": 0, "admin": {"port": None}, "drain_seconds": 1, "log": {"level": "error"}},
        "backends": {
            "own": {"url": own.url, "health_seconds": 0},
            "near": {"url": shadow.url, "local": True, "health_seconds": 0},
        },
        "routes": {"m": {"targets": [{"backend": "own", "model": "fake"}]}},
        "experiments": {
            "e": {
                "route": "m",
                "key": "conversation",
                "arms": {"a": {}, "b": {}},
                "shadow": {"targets": {"cand": {"backend": "near", "model": "other"}}} | told,
            }
        },
    }
    return parse(json.dumps(merged(base, over or {})), {})


@contextmanager
def serving(config: Config, asgi: bool = False) -> Iterator[Mirroring]:
    """A gateway that mirrors, for the time of the block, without a store and an analyst: it learns of its experiments once it runs."""
    with running(msgspec.structs.replace(config, experiments={}), asgi) as gateway:
        yield Mirroring(gateway, config)


@contextmanager
def mirroring(config: Config, asgi: bool = False) -> Iterator[Mirroring]:
    """The same; at its end nothing may be held."""
    with serving(config, asgi) as made:
        yield made
        made.rested()
