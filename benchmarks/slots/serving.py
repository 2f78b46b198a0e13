"""One gateway with the random model, as a process of its own."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from benchmarks.overhead import proc
from benchmarks.slots import client, model

START_SECONDS, STOP_SECONDS = 120.0, 30.0


@contextmanager
def gateway(command: Sequence[str], folder: Path, name: str, replicas: int, slots: int, transfer: bool, **more: Any) -> Iterator[int]:
    """Pointsman with the random model on engines of its own; gives its port when all are ready. `more`: of the backend's configuration."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port: int = s.getsockname()[1]
    engine = {
        "engine": "llamacpp",
        "model": str(model.path()),
        "slots": slots,
        "context": 2048,
        "replicas": replicas,
        "kv_transfer": transfer,
        **more,
    }
    config = {
        "server": {"port": port, "admin": {"port": None}, "log": {"level": "warning"}},
        "backends": {"m": {**engine, "threads": max(1, (os.cpu_count() or 1) // replicas)}},
        "routes": {"m": {"targets": [{"backend": "m"}]}},
    }
    file, log = folder / f"{name}.yaml", folder / f"{name}.log"
    file.write_text(json.dumps(config))
    with log.open("wb") as out:
        process = proc.spawn([*command, "serve", "--config", str(file)], out)
    try:
        end = time.monotonic() + START_SECONDS
        while True:
            try:
                for i in range(4 * replicas):  # all replicas have answered, and their speed is known
                    client.ask(port, "warm up", f"{i}" * 200)
                break
            except (OSError, RuntimeError):
                if process.poll() is not None or time.monotonic() > end:
                    raise RuntimeError(f"the gateway does not answer: {log.read_text(errors='replace')[-600:]}") from None
                time.sleep(0.2)
        yield port
    finally:
        process.terminate()  # the gateway alone: it stops its engines itself
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOP_SECONDS)
        proc.stop(process)
