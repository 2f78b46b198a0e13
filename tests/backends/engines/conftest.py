"""A tiny model on disk, made once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.backends.engines import tiny


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The path of a sound, very small GGUF model."""
    return tiny.write(tmp_path_factory.mktemp("models") / "tiny.gguf")
