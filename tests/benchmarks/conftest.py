"""Fixtures of the harness's tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.benchmarks import programs


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The mock and the load generator."""
    return programs.build(tmp_path_factory.mktemp("built"))


@pytest.fixture(scope="session")
def mock_port(built: dict[str, Path]) -> Iterator[int]:
    """A running mock."""
    with programs.mock(built["mock"]) as port:
        yield port
