"""Nothing that `fit` calls fitting is killed: engines in a memory cgroup of what was predicted and 5 %.

A cgroup counts what is resident, as a prediction does. RLIMIT_AS would not do: it counts addresses, and an engine reserves far more of them
(its compute buffer for logits of every token, stacks and arenas of threads) than it ever touches.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

import msgspec
import pytest

from backends.engines.child import Settings
from quant.fit_measure import KINDS
from quant.fit_memory import MIB, Setup, predict
from quant.hardware import look
from tests.quant.fit_made import Made

ROOT = Path(__file__).resolve().parents[2]
CACHE = 8  # MiB of finished prompts
ROUNDS = 3


def own() -> Path | None:
    """The folder of this process's own memory group (version 1, where groups may lie in groups that hold processes)."""
    lines = Path("/proc/self/cgroup").read_text().splitlines() if Path("/proc/self/cgroup").exists() else []
    path = next((line.split(":", 2)[2] for line in lines if "memory" in line.split(":")[1].split(",")), None)
    place = Path("/sys/fs/cgroup/memory", (path or "/").lstrip("/"))
    return place if path is not None and (place / "memory.limit_in_bytes").exists() else None


@pytest.fixture
def group() -> Iterator[Path]:
    """A new memory group below this process's own."""
    base = own()
    if base is None:
        pytest.skip("there is no memory controller of cgroup v1 here")
    place = base / f"pointsman-test-{os.getpid()}"
    try:
        place.mkdir()
    except OSError:
        pytest.skip("no memory group may be made here")
    yield place
    until = time.monotonic() + 30
    while time.monotonic() < until:  # an ended process leaves its group a moment later
        with contextlib.suppress(OSError):
            place.rmdir()
            return
    raise AssertionError(f"{place} still has processes")


@contextlib.contextmanager
def engine(group: Path, limit: int, settings: Settings) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """Our engine in the group; the port that it says, 0 where it ended before."""
    (group / "memory.limit_in_bytes").write_text(str(limit))
    command = f'echo $$ > "{group}/cgroup.procs" && exec "$@"'
    process = subprocess.Popen(
        ["/bin/sh", "-c", command, "sh", sys.executable, "-m", "backends.engines.child"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_WAIT_POLICY": "passive"},
    )  # fmt: skip
    assert process.stdin is not None and process.stdout is not None
    try:
        with process.stdin as channel:
            channel.write(msgspec.json.encode(settings))
        port = 0
        for line in process.stdout:
            said = json.loads(line)
            if "port" in said or "error" in said:
                port = said.get("port", 0)
                break
        yield process, port
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def ask(port: int, slot: int, first: int, count: int) -> bool:
    """A prompt of `count` tokens that no other round had; whether an answer came."""
    body: dict[str, Any] = {"prompt": [(first + place * 7) % 200 + 1 for place in range(count)], "n_predict": 8, "id_slot": slot}
    connection = HTTPConnection("127.0.0.1", port, timeout=120)
    try:
        connection.request("POST", "/completion", json.dumps({**body, "ignore_eos": True}), {"Authorization": "Bearer key"})
        return bool(json.loads(connection.getresponse().read())["timings"]["predicted_n"])
    except (OSError, HTTPException, ValueError):
        return False
    finally:
        connection.close()


CASES = [
    (Made(layers=4, width=512, inner=1536, heads=8, kv=4, vocab=16_000, qt="Q4_0"), Setup(1024, 2)),
    (Made(layers=4, width=256, inner=1024, heads=4, kv=4, vocab=2000, qt="F16"), Setup(512, 4, "Q8_0", "Q8_0")),
    (Made(layers=3, width=768, inner=2048, heads=12, kv=4, vocab=40_000, qt="Q8_0"), Setup(768, 1)),
]  # fmt: skip


def settings(path: Path, setup: Setup) -> Settings:
    kinds = (("cache_type_k", setup.key), ("cache_type_v", setup.value))
    extra = (f"cache_ram_mib={CACHE}", *(f"{name}={KINDS[kind]}" for name, kind in kinds))
    return Settings(str(path), "m", "key", slots=setup.slots, context=setup.context, threads=2, extra=extra)


@pytest.mark.full
@pytest.mark.usefixtures("uncovered")
@pytest.mark.parametrize(("made", "setup"), CASES)
def test_what_was_predicted_is_enough(tmp_path: Path, group: Path, made: Made, setup: Setup) -> None:
    path = made.write(tmp_path / "made.gguf")
    said = predict(made.card(), msgspec.structs.replace(setup, prompt_cache=CACHE * MIB), look().features)
    with engine(group, int(said.most * 1.05), settings(path, setup)) as (process, port):
        assert port, "it was killed while it loaded"
        for number in range(ROUNDS):
            for slot in range(setup.slots):
                assert ask(port, slot, number * 11 + slot, setup.context - 16), f"round {number}, slot {slot}, code {process.poll()}"
        assert process.poll() is None


@pytest.mark.full
@pytest.mark.usefixtures("uncovered")
def test_the_limit_is_a_limit(tmp_path: Path, group: Path) -> None:
    made, setup = CASES[0]
    said = predict(made.card(), setup, look().features)
    with engine(group, said.anonymous // 2, settings(made.write(tmp_path / "made.gguf"), setup)) as (process, port):
        assert not port or not all(ask(port, slot, slot, setup.context - 16) for slot in range(setup.slots))
        assert process.wait(60) == -9
