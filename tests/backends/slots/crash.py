"""A process that keeps files and is killed: `python -m tests.backends.slots.crash FOLDER SEED STEP`. At its STEP-th call of the system it
ends by SIGKILL, as by `kill -9`; with STEP 0 it goes on until it is killed. Prints a line when it begins, and one for each file kept."""

from __future__ import annotations

import os
import random
import signal
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from backends.slots.disk import Card, Disk, Put
from backends.slots.files import MAGIC, address

OF = bytes(range(16))
BUDGET = 60_000
STEPS = ("open", "replace", "fsync", "unlink", "ftruncate", "write", "close", "utime")


def kv(text: bytes, seed: int = 0, size: int = 4000) -> bytes:
    """A saved slot: one token a byte, then noise that is the same for the same text."""
    words = struct.pack(f"<{len(text)}I", *text)
    return MAGIC + struct.pack("<II", 4, len(text)) + words + random.Random(text + b"%d" % seed).randbytes(size)


def card(source: Path, text: bytes, *, seconds: float = 1.0, context: int = 2048, of: bytes = OF) -> Card:
    name = address(source, of)
    assert name is not None
    return Card(name, of.hex(), context, len(text), source.stat().st_size, text, seconds, 0.001, 1.0, 4000.0)


def put(disk: Disk, folder: Path, text: bytes, now: float = 1000.0, *, seed: int = 0, size: int = 4000, **more: Any) -> Put:
    source = folder / f"{os.getpid()}.source"
    source.write_bytes(kv(text, seed, size))
    return disk.put(source, card(source, text, **more), (), frozenset(), now)


def _counted(work: Callable[..., Any], left: list[int]) -> Callable[..., Any]:
    def counted(*args: Any, **more: Any) -> Any:
        left[0] -= 1
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        return work(*args, **more)

    return counted


def main() -> None:
    folder, seed, step = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    rng = random.Random(seed)
    sys.stdout.write("begun\n")
    sys.stdout.flush()
    disk = Disk.open(folder, BUDGET, 0.0)
    if step:
        left = [step]
        for name in STEPS:
            setattr(os, name, _counted(getattr(os, name), left))
    for number in range(3 if step else 1_000_000):
        text = b"%d " % rng.randrange(40) * 100
        put(disk, folder, text, 1000.0 + number)
        sys.stdout.write("kept\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
