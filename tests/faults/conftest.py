"""One engine and one gateway a way, shared by all tests that need nothing special: starting them anew 500 times takes minutes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.fakes.engine import Engine
from tests.harness import Running, config_for, running


class Plain:
    """A context manager that lends the shared pair: the engine forgets what it saw, and at the end nothing may be left over."""

    def __init__(self, engine: Engine, gateway: Running) -> None:
        self.engine, self.gateway = engine, gateway

    def __enter__(self) -> tuple[Engine, Running]:
        self.engine.forget()
        return self.engine, self.gateway

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.gateway.settled()
            assert not self.engine.violations, self.engine.violations


@pytest.fixture(scope="session", params=[False, True], ids=["own", "asgi"])
def plain(request: pytest.FixtureRequest) -> Iterator[Plain]:
    """No retries, one replica, no keys; on both ways."""
    with Engine(strict=False) as engine, running(config_for([engine], route={"retries": 0}), request.param) as gateway:
        yield Plain(engine, gateway)
