"""What a result has to say of the machine and the programs, so that another can repeat it."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path

from benchmarks.overhead import tools
from benchmarks.overhead.meter import Cores


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def _first_line(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    lines = (done.stdout.strip() or done.stderr.strip()).splitlines()
    return lines[0].strip() if lines else ""


def cpu_model(text: str) -> str:
    """The processor's name in the text of /proc/cpuinfo; empty where it has none."""
    for line in text.splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return ""


def siblings(cores: Cores) -> str:
    """Whether both cores are two threads of one physical core, which then share its speed."""
    if cores.gateway is None or cores.load is None:
        return "not pinned"
    listed = _read(f"/sys/devices/system/cpu/cpu{cores.gateway}/topology/thread_siblings_list")
    return "two threads of one core" if str(cores.load) in listed.replace("-", ",").split(",") else "two cores"


def facts(cores: Cores) -> dict[str, str]:
    """Name and value of everything that bears on the figures."""
    wrk, compiler = tools.find("wrk"), tools.find("cc")
    commit = _first_line("git", "-C", str(Path(__file__).resolve().parent), "rev-parse", "--short=12", "HEAD")
    dirty = _first_line("git", "-C", str(Path(__file__).resolve().parent), "status", "--porcelain", "--untracked-files=no")
    found = {
        "processor": cpu_model(_read("/proc/cpuinfo")) or platform.machine(),
        "cores": f"{os.cpu_count()} on line; gateway on {cores.gateway}, load and mock on {cores.load} ({siblings(cores)})",
        "governor": _read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor") or "not shown (virtual machine?)",
        "virtualisation": _first_line("systemd-detect-virt") or "unknown",
        "kernel": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "wrk": _first_line(wrk, "-v").split("Copyright")[0].strip() if wrk else "",
        "compiler": _first_line(compiler, "--version") if compiler else "",
        "commit": "" if "fatal" in commit else commit + (" with local changes" if dirty else ""),
    }
    return {k: v for k, v in found.items() if v}
