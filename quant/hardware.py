"""What this machine is: processor, memory, limits of its container, graphics cards, how fast it reads memory.

`look` reads a few files and asks the tools of the cards' makers; `bandwidth` measures for about two seconds. Both block. `root` stands
for `/`, so that other machines can be looked at in tests. Whatever cannot be found out is 0 or empty, never an error.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from backends.engines import sizing

ROOT = Path("/")
BLOCK = 64 << 20  # bytes that one thread reads at a time: more than any cache of a laptop
TOOL_SECONDS = 10.0
MAX_GPUS = 64
_NO_LIMIT = 1 << 60  # cgroup v1 writes a huge number where there is no limit
_MAX_FILE = 1 << 20

Tool = Callable[[Sequence[str]], str]


class Gpu(msgspec.Struct, frozen=True):
    """A graphics card. Memory in bytes."""

    name: str
    total: int
    free: int


class Limit(msgspec.Struct, frozen=True):
    """What a container may use. Bytes; `version`: of the cgroups that say so, 0: there is no limit."""

    version: int = 0
    limit: int = 0
    used: int = 0


class Machine(msgspec.Struct, frozen=True):
    """A machine. Memory in bytes, `bandwidth` in bytes a second, `hertz` of a core; `features`: "avx2", "dotprod" or ""."""

    system: str
    processor: str
    features: str
    cores: int
    hertz: float
    total: int
    available: int
    swap: int
    limit: Limit
    gpus: tuple[Gpu, ...] = ()
    bandwidth: float = 0.0

    @property
    def reserve(self) -> int:
        """Bytes that are left to everybody else: a tenth, on a machine that others use too at least 1.5 GiB (but never more than half)."""
        if self.limit.version and self.limit.limit - self.limit.used <= self.available:
            return self.available // 20
        return min(max(3 << 29, self.available // 10), self.available // 2)

    @property
    def budget(self) -> int:
        """Bytes that an engine may take."""
        return max(0, self.available - self.reserve)

    @property
    def fingerprint(self) -> str:
        """Tells machines apart for which something was measured."""
        return f"{self.system}|{self.processor}|{self.cores}|{self.total >> 28}"


def look(root: Path = ROOT, tool: Tool | None = None) -> Machine:
    """This machine, but for its bandwidth. Blocks for files, and for a few seconds where a card's tool is slow."""
    memory = _meminfo(root)
    limit = cgroup(root)
    available = memory.get("MemAvailable", 0) or _elsewhere()
    if limit.version:
        left = max(0, limit.limit - limit.used)
        available = min(available, left) if available else left
    name, flags, hertz = _processor(root)
    return Machine(
        system=f"{platform.system()} {platform.machine()}", processor=name, features=_features(flags), cores=sizing.machine_cores(),
        hertz=hertz, total=memory.get("MemTotal", 0) or _elsewhere(), available=available, swap=memory.get("SwapFree", 0), limit=limit,
        gpus=gpus(tool or _run),
    )  # fmt: skip


def _read(path: Path) -> str:
    """A small file's text; empty where there is none."""
    with contextlib.suppress(OSError), path.open("rb") as file:
        return file.read(_MAX_FILE).decode("utf-8", "replace")
    return ""


def _meminfo(root: Path) -> dict[str, int]:
    """`/proc/meminfo` in bytes."""
    found = re.findall(r"^(\w+):\s+(\d{1,18}) kB$", _read(root / "proc/meminfo"), re.M)
    return {name: int(size) << 10 for name, size in found}


def _elsewhere() -> int:
    """All memory of a system without `/proc`: half of it is counted as available, since nothing tells."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        return int(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")) // 2
    return 0


def cgroup(root: Path = ROOT) -> Limit:
    """The tightest limit of memory on this process, of either version of cgroups. Blocks for files."""
    places = dict(_groups(_read(root / "proc/self/cgroup")))
    found = [limit for limit in (_second(root, places.get("")), _first(root, places.get("memory"))) if limit.version]
    return min(found, key=lambda limit: limit.limit - limit.used, default=Limit())


def _groups(text: str) -> list[tuple[str, str]]:
    """(controller, path) of every line of `/proc/self/cgroup`; the controller of version 2 is empty."""
    rows = [line.split(":", 2) for line in text.splitlines() if line.count(":") >= 2]
    return [(controller, path) for _, names, path in rows for controller in names.split(",")]


def _up(base: Path, path: str) -> list[Path]:
    """The group's folder and those above it, up to `base`. Inside a container the group often *is* the base."""
    inner = base / path.lstrip("/")
    if not inner.is_dir() or ".." in path:
        return [base]
    return [inner, *(parent for parent in inner.parents if parent.is_relative_to(base))]


def _limits(folders: Sequence[Path], version: int, most: str, used: str) -> Limit:
    found = []
    for folder in folders:
        limit, now = _read(folder / most).strip(), _read(folder / used).strip()
        if limit.isdigit() and now.isdigit() and int(limit) < _NO_LIMIT:
            found.append(Limit(version, int(limit), max(0, int(now) - _droppable(folder))))
    return min(found, key=lambda each: each.limit - each.used, default=Limit())


def _droppable(folder: Path) -> int:
    """Bytes of file pages that the group has not used lately: they count as used, but are dropped before anybody is killed."""
    match = re.search(r"^(?:total_)?inactive_file (\d{1,18})$", _read(folder / "memory.stat"), re.M)
    return int(match[1]) if match else 0


def _second(root: Path, path: str | None) -> Limit:
    if path is None:
        return Limit()
    bases = [base for base in (root / "sys/fs/cgroup", root / "sys/fs/cgroup/unified") if (base / "cgroup.controllers").exists()]
    return _limits([folder for base in bases for folder in _up(base, path)], 2, "memory.max", "memory.current")


def _first(root: Path, path: str | None) -> Limit:
    if path is None:
        return Limit()
    return _limits(_up(root / "sys/fs/cgroup/memory", path), 1, "memory.limit_in_bytes", "memory.usage_in_bytes")


def _processor(root: Path) -> tuple[str, frozenset[str], float]:
    """(name, flags, hertz) by `/proc/cpuinfo`; the name that Python knows and no flags elsewhere."""
    text = _read(root / "proc/cpuinfo")
    name = re.search(r"^(?:model name|Model|Processor)\s*:\s*(.+)$", text, re.M)
    flags = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", text, re.M)
    speed = re.search(r"^cpu MHz\s*:\s*(\d{1,6}(?:\.\d+)?)$", text, re.M)
    known = name[1].strip()[:100] if name else platform.processor() or platform.machine()
    return known, frozenset(flags[1].split()) if flags else frozenset(), float(speed[1]) * 1e6 if speed else 0.0


def _features(flags: frozenset[str]) -> str:
    if "avx2" in flags:
        return "avx2"
    return "dotprod" if flags & {"asimddp", "i8mm"} or platform.machine() == "arm64" else ""


def _run(words: Sequence[str]) -> str:
    """What a tool prints; empty where it is missing, fails or takes too long."""
    if shutil.which(words[0]) is None:
        return ""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(words, capture_output=True, timeout=TOOL_SECONDS, check=True, stdin=subprocess.DEVNULL)
        return done.stdout[:_MAX_FILE].decode("utf-8", "replace")
    return ""


def gpus(tool: Tool = _run) -> tuple[Gpu, ...]:
    """Graphics cards as `nvidia-smi` or `rocm-smi` tell them. Blocks for up to ten seconds a tool."""
    asked = tool(["nvidia-smi", "--query-gpu=name,memory.total,memory.free", "--format=csv,noheader,nounits"])
    rows = re.findall(r"^(.+), (\d{1,9}), (\d{1,9})$", asked, re.M)
    if rows:
        return tuple(Gpu(name[:100], int(total) << 20, int(free) << 20) for name, total, free in rows[:MAX_GPUS])
    asked = tool(["rocm-smi", "--showmeminfo", "vram", "--csv"])
    rows = re.findall(r"^(card\d+),(\d{1,15}),(\d{1,15})\s*$", asked, re.M)
    return tuple(Gpu(f"AMD {name}", int(total), max(0, int(total) - int(used))) for name, total, used in rows[:MAX_GPUS])


def bandwidth(threads: int, seconds: float = 2.0, clock: Callable[[], float] = time.perf_counter, block: int = BLOCK) -> float:
    """Bytes a second that `threads` threads read from memory together, 0 where it cannot be measured. Blocks for about `seconds`.

    Each thread lets the C library look for a byte that is not there, in a block larger than the caches: a pure read, and outside of
    Python's lock. What counts is the best of several rounds, since other programs can only slow a round down.
    """
    try:
        search = ctypes.CDLL(None).memchr
    except (OSError, AttributeError, TypeError):
        return 0.0
    search.restype, search.argtypes = ctypes.c_void_p, [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
    count = max(1, min(threads, 64))
    blocks = [ctypes.create_string_buffer(block) for _ in range(count)]
    for each in blocks:  # untouched pages are all one page of zeros
        ctypes.memset(each, 1, block)
    best, until = 0.0, clock() + seconds
    while best == 0.0 or clock() < until:
        spent = _round(search, blocks, block, clock)
        best = max(best, count * block / spent if spent > 0 else 1.0)
    return best


def _round(search: Callable[..., object], blocks: Sequence[ctypes.Array[ctypes.c_char]], size: int, clock: Callable[[], float]) -> float:
    """Seconds in which all blocks are read once, by a thread each."""
    start = clock()
    threads = [threading.Thread(target=search, args=(ctypes.addressof(each), 0, size)) for each in blocks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return clock() - start
