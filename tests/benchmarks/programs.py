"""The C programs of the harness for tests: built once, and a mock on a free port."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from benchmarks.overhead import tools
from tests.ports import free_port as free_port

needs_cc = pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler: the mock upstream is C and is built by the harness")
needs_load = pytest.mark.skipif(shutil.which("taskset") is None or shutil.which("wrk") is None, reason="needs taskset and wrk")


def build(folder: Path) -> dict[str, Path]:
    """Both programs, warnings being errors."""
    return tools.build(folder, ("-O1", "-Wall", "-Wextra", "-Werror", "-Wno-sign-compare"))


@contextmanager
def mock(program: Path) -> Iterator[int]:
    """A mock that runs; its port."""
    port = free_port()
    with subprocess.Popen([str(program), str(port)]) as process:
        try:
            end = time.monotonic() + 20
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port), 1).close()
                    break
                except OSError:
                    assert process.poll() is None and time.monotonic() < end
                    time.sleep(0.01)
            yield port
        finally:
            process.terminate()


def load(program: Path, port: int, body: Path, *settings: str, path: str = "/v1/chat/completions") -> dict[str, Any]:
    """One run of the load generator; its result, START and END being in their places."""
    command = [str(program), str(port), path, str(body), *settings]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    lines = done.stdout.splitlines()
    assert lines[:2] == ["START", "END"] and lines[2].startswith("JSON ") and len(lines) == 3
    found: dict[str, Any] = json.loads(lines[2][5:])
    return found
