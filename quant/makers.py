"""llama.cpp's own quantisers, where somebody has them: the program `llama-quantize`, and the package llama-cpp-python.

Both run as child processes: llama.cpp ends its process where something is wrong with a file. What they say of their progress is the same
line of llama.cpp's log. Blocks.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import IO

import msgspec

ROOT = str(Path(__file__).resolve().parents[1])  # where the package `quant` lies, also without an installation
_PROGRAM, _PACKAGE = "llama-quantize", "llama-cpp-python"
_STEP = re.compile(r"\[ *(\d+)/ *(\d+)\] +(\S+)")
_LAST = 20  # lines of the log that are kept for an error's text
_LINE = 4096  # characters of a line that are looked at
_TELLING = re.compile(r"error|failed|invalid|cannot|unable|requires|disabled", re.I)

Progress = Callable[[str, int, int], None]


class MakerError(RuntimeError):
    """Another tool is not there or failed. `str()` is one sentence."""


class Asked(msgspec.Struct, frozen=True):
    """What another tool is to make. `importance`: a file, or ""."""

    source: str
    target: str
    kind: str
    file_type: int
    threads: int
    importance: str


def found() -> str | None:
    """The name of a tool that is installed, or None."""
    if shutil.which(_PROGRAM):
        return _PROGRAM
    return _PACKAGE if importlib.util.find_spec("llama_cpp") else None


def run(maker: str, asked: Asked, progress: Progress) -> None:
    """Has `maker` write `asked.target`. Blocks until it is done; raises `MakerError`. Ends the child whatever happens here."""
    command = _program(asked) if maker == _PROGRAM else _package(asked)
    path = os.pathsep.join(part for part in (ROOT, os.environ.get("PYTHONPATH", "")) if part)
    env = {**os.environ, "GGML_NO_BACKTRACE": "1", "PYTHONPATH": path, "PYTHONSAFEPATH": "1", "PYTHONUNBUFFERED": "1"}
    try:
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=env, text=True, errors="replace"
        )
    except OSError as error:
        raise MakerError(f"{maker} cannot be started: {error.strerror}.") from None
    with child:
        assert child.stdout is not None
        try:
            said = _follow(child.stdout, progress)
        except BaseException:
            child.kill()
            raise
    if child.returncode:
        raise MakerError(f"{maker} failed ({_ending(child.returncode)}): {_reason(said)}")


def _program(asked: Asked) -> list[str]:
    program = shutil.which(_PROGRAM)
    if program is None:
        raise MakerError("llama-quantize is not installed (it comes with llama.cpp); leave out --with, or put it on the PATH.")
    importance = ["--imatrix", os.path.abspath(asked.importance)] if asked.importance else []
    ends = [os.path.abspath(asked.source), os.path.abspath(asked.target)]  # never taken for options
    return [program, "--allow-requantize", *importance, *ends, asked.kind, str(asked.threads)]


def _package(asked: Asked) -> list[str]:
    if importlib.util.find_spec("llama_cpp") is None:
        raise MakerError("llama-cpp-python is not installed; leave out --with, or run: pip install llama-cpp-python")
    return [sys.executable, "-m", "quant.makers_child", msgspec.json.encode(asked).decode()]


def _follow(lines: IO[str], progress: Progress) -> list[str]:
    """Reads until the child closes its output; its last lines."""
    last: deque[str] = deque(maxlen=_LAST)
    while line := lines.readline(_LINE):
        if step := _STEP.search(line):
            progress(step[3], int(step[1]), int(step[2]))
        elif line.strip():
            last.append(line.strip())
    return list(last)


def _ending(code: int) -> str:
    return f"exit status {code}" if code > 0 else f"signal {-code}"


def _reason(said: list[str]) -> str:
    telling = [line for line in said if _TELLING.search(line)]
    return (telling or said or ["it said nothing."])[-1][:300]
