"""A gateway of ours as a child process: started on a free port for a measurement, and ended with it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections import deque
from pathlib import Path
from typing import IO, Any, Self

from benchmarks.bench.errors import BenchError

_END_SECONDS = 15.0
_KEPT = 30  # lines of what it says that are kept for the case that it ends


class Gateway:
    """`pointsman serve` with a configuration, from `with` to its end. `base` is where its API begins."""

    def __init__(self, config: dict[str, Any], ready_seconds: float = 3600.0) -> None:
        self._config, self._ready_seconds = config, ready_seconds
        self._folder = tempfile.TemporaryDirectory(prefix="pointsman-bench-")
        self._said: deque[str] = deque(maxlen=_KEPT)
        self._listens = threading.Event()
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None
        self.base = ""

    @property
    def pid(self) -> int:
        """The process's number; 0 while it does not run."""
        return self._process.pid if self._process is not None else 0

    def __enter__(self) -> Self:
        """Starts it; blocks until it listens, which takes as long as fetching a model takes. Raises BenchError where it ends instead."""
        file = Path(self._folder.name, "config.json")  # JSON is YAML
        file.write_text(json.dumps(self._config), encoding="utf-8")
        environment = {name: value for name, value in os.environ.items() if not name.startswith("POINTSMAN_")}
        command = [sys.executable, "-m", "gateway", "serve", "--config", str(file), "--port", "0", "--admin-port", "off"]
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                                         errors="replace", env=environment, start_new_session=True)  # fmt: skip
        if self._process.stdout is not None:
            self._reader = threading.Thread(target=self._read, args=(self._process.stdout,), name="bench-gateway", daemon=True)
            self._reader.start()
        try:
            self._listens.wait(self._ready_seconds)
        except BaseException:  # Ctrl-C while a model is fetched
            self._end()
            raise
        if not self.base:
            said = self.said()
            self._end()
            raise BenchError(f"pointsman serve did not start: {said or 'it said nothing'}")
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def said(self) -> str:
        """The last that it said, in one line."""
        return " ".join(line.strip() for line in list(self._said)[-5:])[-600:]

    def _read(self, stream: IO[str]) -> None:
        for line in stream:
            self._said.append(line)
            words = line.split()
            if not self.base and len(words) == 2 and words[0] == "Endpoint":
                self.base = words[1]
                self._listens.set()
        self._listens.set()

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(_END_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if self._reader is not None:
                self._reader.join(_END_SECONDS)
            if process.stdout is not None:
                process.stdout.close()
        self._folder.cleanup()
