"""What the harness needs from the machine: a C compiler, wrk, nginx, taskset; and its own two C programs, built into a cache folder."""

from __future__ import annotations

import hashlib
import os
import resource
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

CSRC = Path(__file__).resolve().parent / "csrc"
FILES_WANTED = 16384  # file descriptors: 1,000 streams take some 2,000 in a gateway, and nginx asks for as many a worker


class Missing(Exception):
    """Something that the harness needs is not there; the text says what and how to get it."""


@dataclass(frozen=True)
class Tool:
    """A program: its name, what it is for, and the packages that have it (Debian and Ubuntu, Fedora, Arch)."""

    name: str
    purpose: str
    packages: tuple[str, str, str]


TOOLS = {
    "cc": Tool("cc", "builds the mock upstream and the load generator", ("build-essential", "gcc glibc-devel", "gcc")),
    "wrk": Tool("wrk", "the load without streaming", ("wrk", "wrk", "wrk")),
    "nginx": Tool("nginx", "the reference that the ratios are taken to", ("nginx", "nginx", "nginx")),
    "taskset": Tool("taskset", "holds the gateway and the load to a core each", ("util-linux", "util-linux", "util-linux")),
}


def cache_dir() -> Path:
    """Where built programs, virtual environments and results are kept: $XDG_CACHE_HOME (or ~/.cache) / pointsman-benchmarks."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "pointsman-benchmarks"


def missing(names: list[str]) -> list[Tool]:
    """Those of `names` that are not on PATH. nginx is also looked for where Debian puts it, outside an ordinary user's PATH."""
    return [TOOLS[name] for name in names if find(name) is None]


def find(name: str) -> str | None:
    """The path of a program, on PATH or in the system's own folders."""
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin:/sbin")


def require(names: list[str]) -> None:
    """Raises Missing with one text that names everything absent and the commands that install it."""
    absent = missing(names)
    if not absent:
        return
    lines = [f"missing: {', '.join(t.name for t in absent)}"]
    lines += [f"  {t.name}: {t.purpose}" for t in absent]
    for i, (system, command) in enumerate(
        (("Debian, Ubuntu", "sudo apt-get install"), ("Fedora", "sudo dnf install"), ("Arch", "sudo pacman -S"))
    ):
        packages = sorted({p for t in absent for p in t.packages[i].split()})
        lines.append(f"install ({system}): {command} {' '.join(packages)}")
    raise Missing("\n".join(lines))


def build(cache: Path, flags: tuple[str, ...] = ("-O2", "-Wall")) -> dict[str, Path]:
    """Compiles `mock` and `load` into `cache`/build, unless the same source with the same flags is there; returns their paths."""
    require(["cc"])
    compiler = find("cc") or "cc"
    built = {}
    for name in ("mock", "load"):
        source = CSRC / f"{name}.c"
        digest = hashlib.sha256(source.read_bytes() + " ".join(flags).encode()).hexdigest()[:12]
        target = cache / "build" / f"{name}-{digest}"
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            part = target.with_name(f"{target.name}.{os.getpid()}")
            done = subprocess.run([compiler, *flags, "-o", str(part), str(source)], capture_output=True, text=True, check=False)
            if done.returncode != 0:
                raise Missing(f"{compiler} could not build {source}:\n{done.stderr.strip()}")
            part.replace(target)
        built[name] = target
    return built


def raise_file_limit(wanted: int = FILES_WANTED) -> int:
    """Raises the soft limit of open files to `wanted` or the hard limit, whichever is less; returns what holds now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < limit:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
        return limit
    return soft
