"""`pointsman serve` as a process of its own, for what only a whole process shows: workers, signals, reloads."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import httpx

T = TypeVar("T")
DEADLINE = 60.0


def eventually(look: Callable[[], T | None], what: str) -> T:
    """The first thing that `look` finds; refused connections count as nothing found. Raises TimeoutError naming `what`."""
    end = time.monotonic() + DEADLINE
    while time.monotonic() < end:
        try:
            found = look()
        except httpx.TransportError:
            found = None
        if found is not None:
            return found
        time.sleep(0.02)  # polls another process: it gives no signal
    raise TimeoutError(what)


class Process:
    """One running `pointsman serve`."""

    def __init__(self, folder: Path, config: dict[str, Any], *flags: str) -> None:
        self.file = folder / "pointsman.json"  # JSON is YAML
        self.log = folder / "log"
        self.write(config)
        command = [sys.executable, "-m", "gateway", "serve", "--config", str(self.file), *flags]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        assert self.process.stdout is not None
        text = ""
        while "Ctrl-C" not in text:
            line = self.process.stdout.readline()
            assert line, self.log.read_text()
            text += line
        self.base = text.split("Endpoint")[1].split()[0].removesuffix("/v1")
        self.admin = text.split("Status")[1].split()[0].rstrip("/")

    def write(self, config: dict[str, Any]) -> None:
        """Puts a configuration in the place of the present one, at once."""
        new = self.file.with_suffix(".new")
        new.write_text(json.dumps(config))
        os.replace(new, self.file)

    def get(self, path: str) -> httpx.Response:
        return httpx.get(self.base + path, timeout=DEADLINE)

    def chat(self, **more: Any) -> httpx.Response:
        body = {"model": "m", "messages": [{"role": "user", "content": "two words"}], **more}
        return httpx.post(self.base + "/v1/chat/completions", json=body, timeout=DEADLINE)

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = httpx.get(self.admin + "/api/status", timeout=DEADLINE).json()
        return found

    def models(self) -> list[str]:
        return [m["id"] for m in self.get("/v1/models").json()["data"]]

    def children(self) -> list[int]:
        """The process ids of the workers."""
        found = []
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdigit() and int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1]) == self.process.pid:
                    if b"gateway.worker" in (entry / "cmdline").read_bytes():
                        found.append(int(entry.name))
            except OSError:
                continue
        return sorted(found)

    def stop(self) -> int:
        """Asks it to stop and waits; its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(DEADLINE)


@contextmanager
def serving(folder: Path, config: dict[str, Any], *flags: str) -> Iterator[Process]:
    """A started process for the time of the block; killed if it does not stop by itself."""
    process = Process(folder, config, *flags)
    try:
        yield process
        assert process.stop() == 0, process.log.read_text()
    finally:
        if process.process.poll() is None:
            process.process.kill()
            process.process.wait()
        assert process.process.stdout is not None
        process.process.stdout.close()
