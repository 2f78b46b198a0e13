"""Folders of one process, for what is not to outlive it. Everything here blocks."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
from pathlib import Path

_NAME = re.compile(r"pointsman-([a-z]+)-(\d+)-(\d+)-[0-9a-z_]+")


def folder(kind: str, parent: Path) -> Path:
    """A new folder of this process in `parent`, for this user only; those of its kind that processes left when they died are removed: who
    is killed cannot. Raises OSError."""
    sweep(kind, parent)
    return Path(tempfile.mkdtemp(prefix=f"pointsman-{kind}-{os.getuid()}-{os.getpid()}-", dir=parent))


def sweep(kind: str, parent: Path) -> None:
    """Removes folders that processes of this user left behind when they died."""
    with contextlib.suppress(OSError):
        for entry in parent.iterdir():
            found = _NAME.fullmatch(entry.name)
            if found and found[1] == kind and int(found[2]) == os.getuid() and not _alive(int(found[3])):
                shutil.rmtree(entry, ignore_errors=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
