"""llama.cpp's own converter, `convert_hf_to_gguf.py`, where somebody has it: a checkout, an installation, or the copy in the source
distribution of llama-cpp-python (`convert_fetch`). It runs as a child process, with a Python that has what it imports. Blocks.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import msgspec

from quant import convert_fetch
from quant.convert_source import ConvertError

SCRIPT = "convert_hf_to_gguf.py"
HOME = "POINTSMAN_LLAMA_CPP"  # environment: a checkout of llama.cpp
NEEDED = ("torch", "transformers", "numpy", "sentencepiece", "yaml", "tqdm", "google.protobuf")  # modules that it imports
_PIP = {"yaml": "pyyaml", "google.protobuf": "protobuf"}
_KEPT = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "TEMP", "TMP", "SYSTEMROOT", "LD_LIBRARY_PATH", "OMP_NUM_THREADS")
_STEP = re.compile(r"Writing:\s+(\d+)%")
_TELLING = re.compile(r"error|not supported|not found|unrecognized|cannot|failed|missing", re.I)
_LAST, _LINE = 20, 4096  # lines of its log that are kept for an error's text; characters of a line that are looked at

Progress = Callable[[str, int, int], None]


class Tool(msgspec.Struct, frozen=True):
    """Where llama.cpp's converter is looked for. `home`: a checkout ("": see `script`). `python`: what runs it ("": this one). `fetch`: it
    may be fetched. `cache`: where what is fetched is kept ("": the user's cache)."""

    home: str = ""
    python: str = ""
    fetch: bool = False
    cache: str = ""


def script(tool: Tool) -> Path | None:
    """The converter on this machine, None where there is none. Blocks on the disk; raises `ConvertError` for a `home` without one."""
    asked = tool.home or os.environ.get(HOME, "")
    if asked:
        found = Path(asked) if asked.endswith(".py") else Path(asked) / SCRIPT
        if not found.is_file():
            raise ConvertError(f"{found} does not exist; name a checkout of llama.cpp.")
        return found
    on_path = shutil.which(SCRIPT)
    for place in (Path(on_path) if on_path else None, *_beside(), Path.home() / "llama.cpp" / SCRIPT):
        if place is not None and place.is_file():
            return place
    return None


def _beside() -> Iterator[Path]:
    """Above an installed program of llama.cpp: that of a checkout lies in its build/bin."""
    program = shutil.which("llama-quantize")
    if program:
        yield from (parent / SCRIPT for parent in list(Path(program).resolve().parents)[:4])


def ready(tool: Tool) -> bool:
    """Whether `run` can be tried: the converter is here, or may be fetched, and its Python has what it needs. Blocks."""
    there = script(tool) is not None or tool.fetch or convert_fetch.cached(tool.cache) is not None
    return there and not missing(tool)


def missing(tool: Tool) -> list[str]:
    """The packages that the converter's Python lacks. Blocks; raises `ConvertError` where there is no such Python."""
    code = (
        "import importlib.util as u, json, sys\n"
        "def has(name):\n    try:\n        return u.find_spec(name) is not None\n    except ImportError:\n        return False\n"
        "print(json.dumps([name for name in sys.argv[1:] if not has(name)]))"
    )
    python = tool.python or sys.executable
    try:
        done = subprocess.run([python, "-c", code, *NEEDED], capture_output=True, text=True, timeout=60, check=True, env=_environment())
        return [_PIP.get(name, name) for name in json.loads(done.stdout)]
    except (OSError, subprocess.SubprocessError, ValueError):
        raise ConvertError(f"{python} does not run as a Python; name one that does (--python).") from None


def run(tool: Tool, folder: Path, target: Path, kind: str, progress: Progress) -> None:
    """Has llama.cpp's converter write `target`. Blocks, possibly for minutes; raises `ConvertError`. Ends the child in any case."""
    with _found(tool) as place:
        ends = [str(folder.resolve()), "--outfile", str(target.resolve()), "--outtype", kind.lower() or "auto"]
        _child([tool.python or sys.executable, str(place), *ends], progress)


@contextmanager
def _found(tool: Tool) -> Iterator[Path]:
    place = script(tool)
    if place is not None:
        _able(tool)
        yield place
        return
    archive = convert_fetch.cached(tool.cache)
    if archive is None and not tool.fetch:
        raise ConvertError(
            f"llama.cpp's converter is not on this machine: set {HOME} to a checkout of llama.cpp, or allow fetching it (--fetch: "
            f"{convert_fetch.MEGABYTES} MB, {convert_fetch.NAME} {convert_fetch.VERSION}'s copy)."
        )
    _able(tool)  # before anything is fetched
    with convert_fetch.unpacked(archive or convert_fetch.fetch(tool.cache)) as home:
        yield home / SCRIPT


def _able(tool: Tool) -> None:
    if lacking := missing(tool):
        raise ConvertError(
            f"llama.cpp's converter needs {', '.join(lacking)}, which {tool.python or sys.executable} does not have; "
            f"run: pip install {' '.join(lacking)} (or name another Python with --python)."
        )


def _environment() -> dict[str, str]:
    """Nothing of ours but what a program needs: no keys, no network for the hub's library."""
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    return {**kept, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8"}


def _child(command: list[str], progress: Progress) -> None:
    try:
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=_environment(), text=True,
            errors="replace",
        )  # fmt: skip
    except OSError as error:
        raise ConvertError(f"{command[0]} cannot be started: {error.strerror}.") from None
    with child:
        assert child.stdout is not None
        try:
            said = _follow(child.stdout, progress)
        except BaseException:
            child.kill()
            raise
    if child.returncode:
        telling = [line for line in said if _TELLING.search(line)]
        ending = f"exit status {child.returncode}" if child.returncode > 0 else f"signal {-child.returncode}"
        raise ConvertError(f"llama.cpp's converter failed ({ending}): {(telling or said or ['it said nothing.'])[-1][:300]}")


def _follow(lines: IO[str], progress: Progress) -> list[str]:
    """Reads until the child closes its output; its last lines. What it draws over itself counts as lines of their own."""
    last: deque[str] = deque(maxlen=_LAST)
    while line := lines.readline(_LINE):
        if step := _STEP.search(line):
            progress("llama.cpp", int(step[1]), 100)
        elif line.strip():
            last.append(line.strip())
    return list(last)
