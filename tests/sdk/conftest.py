"""What the stock clients talk to: a gateway in front of the fake engine, on both ways, and `pointsman serve` with the built-in model."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from quant import builtin
from tests.fakes.engine import Engine
from tests.harness import config_for, running

ROOT = Path(__file__).resolve().parents[2]
KEY = "sk-test-0123456789abcdef"


@dataclass(frozen=True)
class Served:
    """Where a client connects: the base URL with /v1, a key, a model's name; whether a real model and which way is behind it."""

    url: str
    key: str
    model: str
    real: bool
    asgi: bool = False


@contextmanager
def behind_fake(asgi: bool) -> Iterator[Served]:
    with Engine() as engine, running(config_for([engine], more={"keys": [{"name": "sdk", "key": KEY}]}), asgi) as gateway:
        yield Served(gateway.url, KEY, "m", False, asgi)


@contextmanager
def serve(*flags: str) -> Iterator[Served]:
    """`pointsman serve` as a user starts it, with a key from the environment. Ready when its banner says so."""
    command = [sys.executable, "-m", "gateway", "serve", "--port", "0", "--admin-port", "off", "--log-level", "warning", *flags]
    environment = os.environ | {"POINTSMAN_KEYS": KEY, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert process.stdout is not None
        url = next((match[1] for line in process.stdout if (match := re.search(r"Endpoint\s+(http\S+)", line))), "")
        assert url, f"pointsman serve ended with {process.wait(30)} before it was ready"
        yield Served(url, KEY, builtin.MODEL_NAME, True)
    finally:
        process.terminate()
        process.communicate(timeout=60)


@pytest.fixture(scope="session", params=["own", "asgi", "real"])
def served(request: pytest.FixtureRequest) -> Iterator[Served]:
    """Every SDK test runs three times: fake engine behind both ways, and the real built-in model."""
    if request.param == "real":
        with serve() as real:
            yield real
    else:
        with behind_fake(request.param == "asgi") as fake:
            yield fake
