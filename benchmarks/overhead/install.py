"""Virtual environments for the peers that come from PyPI, at the versions named in peers.py."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.overhead.peers import ENVS


def commands(envs: Path, name: str) -> list[list[str]]:
    """What `install` runs for one environment."""
    python = str(envs / name / "bin" / "python")
    return [
        [sys.executable, "-m", "venv", str(envs / name)],
        [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *ENVS[name].packages],
    ]


def install(envs: Path, names: Sequence[str], say: Callable[[str], None]) -> int:
    """Makes the environments; returns how many failed. KeyError for a name that is not known."""
    failed = 0
    envs.mkdir(parents=True, exist_ok=True)
    for name in names:
        say(f"{name}: {', '.join(ENVS[name].packages)}")
        for command in commands(envs, name):
            if subprocess.run(command, check=False).returncode != 0:
                say(f"{name}: FAILED: {' '.join(command)}")
                failed += 1
                break
    return failed
