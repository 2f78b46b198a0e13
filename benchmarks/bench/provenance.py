"""Where a run comes from: what is needed to repeat it, and to doubt it. Nothing secret is in it."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.bench.options import Options, masked, redacted
from benchmarks.bench.words import Provenance

_LONGEST = 200  # characters of one thing that a server tells
_SECONDS = 10  # that a program may take to tell its version


def provenance(options: Options, server: Mapping[str, str], salt: str) -> Provenance:
    """All of it, now. Blocks: starts git and systemd-detect-virt, and reads /proc and /sys."""
    return Provenance(
        command=redacted(options.command),
        version=options.version or _installed("pointsman"),
        commit=commit(),
        python=f"{platform.python_implementation()} {platform.python_version()}",
        machine=machine(),
        server={name: value[:_LONGEST] for name, value in server.items()},
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        seed=options.seed,
        salt=salt,
        options=said(options),
    )


def said(options: Options) -> dict[str, Any]:
    """What was asked for, defaults filled in. Without the key; of headers the names alone. Pure."""
    left_out = ("key", "command", "version", "url", "model", "seed", "salt")
    plain: dict[str, Any] = msgspec.to_builtins({**msgspec.structs.asdict(options), "headers": sorted(options.headers)})
    return {name: masked(value) for name, value in plain.items() if name not in left_out}


def machine(root: Path = Path("/")) -> dict[str, str]:
    """Processor, cores, memory, governor, virtualisation, kernel, and the versions of what sends: name -> text. Blocks. `root` is where
    proc and sys hang."""
    cpuinfo, meminfo = _read(root / "proc/cpuinfo"), _read(root / "proc/meminfo")
    memory = re.search(r"^MemTotal:\s+(\d+) kB", meminfo, re.M)
    found = {
        "processor": _field(cpuinfo, "model name") or _field(cpuinfo, "Model") or platform.processor() or platform.machine(),
        "cores": f"{os.cpu_count()} on line, {_usable()} for this process",
        "memory": f"{int(memory[1]) / 2**20:.1f} GiB" if memory else "",
        "load": " ".join(_read(root / "proc/loadavg").split()[:3]),
        "governor": _read(root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "virtualisation": _first_line("systemd-detect-virt") or ("yes" if " hypervisor" in cpuinfo else ""),
        "kernel": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        **{name: _installed(name) for name in ("httptools", "uvloop", "msgspec")},
    }
    return {name: value for name, value in found.items() if value}


def commit() -> str:
    """The git commit of the checkout that this file is in, with whether it was changed; empty where it is in none. Blocks."""
    here = Path(__file__).resolve().parent
    if not (here.parents[1] / ".git").exists():  # an installed copy below some other project's checkout is not that project
        return ""
    found = _first_line("git", "-C", str(here), "rev-parse", "--short=12", "HEAD")
    if not re.fullmatch(r"[0-9a-f]{12}", found):
        return ""
    return found + (" with local changes" if _first_line("git", "-C", str(here), "status", "--porcelain", "--untracked-files=no") else "")


def _usable() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _installed(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def _field(text: str, name: str) -> str:
    found = re.search(rf"^{re.escape(name)}\s*:\s*(.+)$", text, re.M)
    return found[1].strip() if found else ""


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _first_line(*command: str) -> str:
    """The first line that a program writes to standard output; empty where there is none, or no such program."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_SECONDS, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    lines = done.stdout.strip().splitlines()
    return lines[0].strip() if lines else ""
