"""How many threads and how much context an engine on this machine may have.

The decisions are pure; the looks at the machine are named `machine_*`.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

DEFAULT_CONTEXT = 16_384  # tokens a slot when nobody asked for more
SMALLEST_CONTEXT = 512
STEP = 256
SMALL_MODEL = 1_000_000_000  # parameters below which a large batch costs no other stream noticeable time


def machine_cores() -> int:
    """Cores that this process may really use: affinity and the container's CPU quota. Blocks for a file read."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        if quota != "max":
            allowed = min(allowed, max(1, int(quota) // int(period)))
    return allowed


def machine_memory() -> int:
    """Bytes that new processes can get without swapping; 0 when unknown. Blocks for a file read."""
    available = 0
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                available = int(line.split()[1]) << 10
    with contextlib.suppress(OSError, ValueError):
        limit, used = (Path(f"/sys/fs/cgroup/memory.{name}").read_text().strip() for name in ("max", "current"))
        if limit != "max":
            available = min(available or int(limit), max(0, int(limit) - int(used)))
    return available


def threads(asked: int | None, replicas: int, cores: int) -> int:
    """Threads of one replica. More threads than cores only slow llama.cpp down, so never more."""
    return max(1, min(asked or cores // max(1, replicas), cores))


def context(asked: int | None, trained: int, slots: int, kv_bytes: int, memory: int) -> int:
    """Tokens a slot. What was asked for is kept; else the trained length, up to a default, halved until the KV cache
    of all slots fits into half of `memory` (bytes; 0: unknown). A multiple of 256, as llama.cpp would round it up to that."""
    if asked:
        return -(-asked // STEP) * STEP
    tokens = min(trained or DEFAULT_CONTEXT, DEFAULT_CONTEXT)
    while tokens > SMALLEST_CONTEXT and memory and tokens * slots * kv_bytes > memory // 2:
        tokens //= 2
    return -(-tokens // STEP) * STEP


def batch(context_tokens: int, parameters: int, embeds_only: bool, slots: int = 1) -> int:
    """Tokens computed at once: a multiple of `slots`, since llama.cpp's mean pooling aborts while it loads where it is none (its graph pads
    the tokens to the sequences, but not the matrix that takes their mean). An embedded text must fit into one batch; for a
    large generator a large batch would hold up every other stream."""
    most = min(context_tokens, 8192 if embeds_only else 2048 if parameters < SMALL_MODEL else 512)
    return max(most, 32, slots) // slots * slots


def prompt_cache_mib(memory: int) -> int:
    """MiB of finished prompts that llama.cpp may keep in RAM: a sixteenth of what is free, at most 1 GiB."""
    return max(0, min(1024, (memory >> 20) // 16))
