"""What we know of the models in a folder of our own storage beside the files themselves: `about.json`, and who may change the folder now.

It can be lost without harm: models are found by their files, and only where they came from and under which licence is forgotten.
Blocks on the disk.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from quant.output import Output
from quant.places import UNREADABLE

NAME = "about.json"
LOCK = ".lock"
LICENCE = "LICENSE.txt"
TEMPLATE = "template.txt"
MAX_ABOUT = 4 << 20  # bytes
MAX_LICENCE = 1 << 20
_TRIES = 100  # to get into a folder that others remove


class FileFact(msgspec.Struct, frozen=True):
    """A file as it was when it was placed."""

    size: int
    sha256: str


class About(msgspec.Struct, frozen=True, omit_defaults=True):
    """`origin`: where the models came from ("hf:OWNER/NAME"); `revision`: the commit there; `files`: by name; `settings`: sampling and the
    like that came with them."""

    origin: str = ""
    revision: str = ""
    licence: str = ""
    licence_link: str = ""
    base: str = ""
    author: str = ""
    files: dict[str, FileFact] = {}
    settings: dict[str, msgspec.Raw] = {}


def load(folder: Path) -> About:
    """What is known of the models in `folder`; nothing if its file is not there or spoilt."""
    try:
        with (folder / NAME).open("rb") as file:
            return msgspec.json.decode(file.read(MAX_ABOUT), type=About)
    except (OSError, *UNREADABLE):
        return About()


def save(folder: Path, about: About) -> None:
    """Keeps it, whole or not at all. Raises `OutputError`."""
    with Output(folder / NAME, overwrite=True) as out:
        out.write(msgspec.json.format(msgspec.json.encode(about), indent=1) + b"\n")


@contextmanager
def held(folder: Path, waiting: Callable[[], None] | None = None) -> Iterator[None]:
    """Makes the folder and lets only one process at a time in; a folder in which nothing lies afterwards goes. `waiting` is called before
    it waits for another process. Raises `OSError`."""
    file = _enter(folder, waiting)
    try:
        yield
    finally:
        _leave(folder)
        os.close(file)


def _enter(folder: Path, waiting: Callable[[], None] | None) -> int:
    for _ in range(_TRIES):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            file = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
        except FileNotFoundError:
            continue  # whoever was in it has just removed it
        try:
            _lock(file, waiting)
            if _still(file, folder / LOCK):
                return file
        except BaseException:
            os.close(file)
            raise
        os.close(file)
    raise OSError(errno.EBUSY, "other processes use it all the time", str(folder))


def _leave(folder: Path) -> None:
    """Removes the folder, and the one above it, if nothing is left there. The lock is still held: who waits for it begins anew."""
    with contextlib.suppress(OSError):
        if os.listdir(folder) == [LOCK]:
            (folder / LOCK).unlink()
        folder.rmdir()
        folder.parent.rmdir()


def _lock(file: int, waiting: Callable[[], None] | None) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        if waiting is not None:
            waiting()
        fcntl.flock(file, fcntl.LOCK_EX)


def _still(file: int, path: Path) -> bool:
    """Whether the file that is locked is the one in the folder: whoever had it may have removed the folder."""
    with contextlib.suppress(OSError):
        return os.path.samestat(os.fstat(file), os.stat(path, follow_symlinks=False))
    return False


def sha256(path: Path) -> str:
    """The file's SHA-256 in hex. Raises `OSError`."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def git_hash(path: Path) -> str:
    """The file's name in git (SHA-1 of a blob), which is what the hub says of files outside its large storage. Raises `OSError`."""
    with path.open("rb") as file:
        digest = hashlib.sha1(b"blob %d\0" % os.fstat(file.fileno()).st_size, usedforsecurity=False)
        while data := file.read(1 << 20):
            digest.update(data)
    return digest.hexdigest()


def sync(folder: Path) -> None:
    """Makes what was renamed in the folder durable. Raises `OSError`."""
    handle = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
