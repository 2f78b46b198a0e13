"""What an engine takes: predicted from its model's header before it runs, read from the kernel while it runs.

Whoever knows better gives the keeper another function of the shape of `footprint`.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection
from pathlib import Path

import msgspec

from backends.engines import gguf, sizing
from backends.engines.spec import EngineSpec

MIB = 1 << 20
_CACHE = "cache_ram_mib"  # llama.cpp's name for it
_FILE_SUFFIXES = (".safetensors", ".gguf", ".bin", ".pt")


def footprint(spec: EngineSpec) -> int:
    """Bytes that all replicas of an engine will hold when every slot's context is full; 0 where nothing tells. Blocks on the disk.

    llama.cpp: what `quant.fit` predicts, with its prompt cache full. Any other engine: what it is bounded to, else the size of its model's
    files and a fifth.
    """
    if spec.kind in ("llamacpp", "llama-server"):
        from quant import fit_engine  # only where memory is counted

        return fit_engine.footprint(spec)
    return (spec.memory or int(1.2 * _files(spec.model))) * spec.replicas


def bounded(spec: EngineSpec) -> EngineSpec:
    """The engine for a place where memory is counted. llama.cpp keeps finished prompts in memory beside its slots, by default up to a
    gigabyte: here at most as much as its slots hold themselves, unless its arguments say otherwise. Blocks on the disk."""
    if spec.kind != "llamacpp" or any(item.startswith(f"{_CACHE}=") for item in spec.args):
        return spec
    try:
        meta = gguf.read(spec.model)
    except gguf.GgufError:
        return spec
    memory = sizing.machine_memory()
    slots = sizing.context(spec.context, meta.context, spec.slots, meta.kv_bytes, memory) * spec.slots * meta.kv_bytes
    most = min(sizing.prompt_cache_mib(memory), -(-slots // MIB))
    return msgspec.structs.replace(spec, args=(*spec.args, f"{_CACHE}={most}"))


def _files(model: str) -> int:
    """Bytes of a model's weights: of a file, or of those in a folder; 0 where it is neither."""
    place = Path(model)
    total = 0
    with contextlib.suppress(OSError):
        files = sorted(place.iterdir()) if place.is_dir() else [place]
        total = sum(f.stat().st_size for f in files if place.is_file() or f.suffix in _FILE_SUFFIXES)
    return total


def measured(groups: Collection[int]) -> dict[int, int]:
    """Bytes that the processes of each process group hold: their proportional share of pages (what several processes map counts once
    in all; Linux, Documentation/filesystems/proc.rst, smaps_rollup), else what is resident. Groups without a process are left out.
    Blocks: it reads /proc."""
    found: dict[int, int] = {}
    for entry in os.listdir("/proc") if groups and os.path.isdir("/proc/self") else ():
        if entry.isdigit() and (group := _group(entry)) in groups:
            found[group] = found.get(group, 0) + _held(entry)
    return found


def _group(process: str) -> int:
    with contextlib.suppress(OSError, ValueError, IndexError):
        return int(Path(f"/proc/{process}/stat").read_bytes().rpartition(b")")[2].split()[2])
    return 0


def _held(process: str) -> int:
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) << 10
    with contextlib.suppress(OSError, ValueError, IndexError):
        return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0


def budget(asked: int | str | None) -> int | None:
    """Bytes that all engines together may take. "auto": what is free now, less 1.5 GiB or a tenth, whichever is more, for everything
    else, and never less than half of it. None: no limit. Blocks for a file read."""
    if asked != "auto":
        return asked if isinstance(asked, int) else None
    free = sizing.machine_memory()
    return max(free // 2, free - max(1536 * MIB, free // 10)) if free else None
