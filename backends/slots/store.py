"""KV in files, addressed by content: a folder in memory first, one on disk behind it, both within byte budgets.

The engine writes and reads the files itself (`/slots/ID?action=save`), so the near folder is the one that it was started with. A file's
name is the digest of what it is of: the model's own bytes, the settings that shape its KV, and the tokens. A file is restored only when
its head still has the tokens of its name and its length is what was written. llama.cpp's file (llama_state_seq_save_file, read on
xllamacpp 2026.10): magic `qsgg` as bytes, version, count, so many 32-bit words, which hold the tokens, then the KV.

The index belongs to the event loop; files are touched in one thread. Folders are private to the user, named after the process, and
removed with it; those of processes that are gone are removed at the next start.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import re
import shutil
import struct
import tempfile
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from backends.slots import table

MAGIC = b"qsgg"
HEAD = struct.Struct("<4sII")
MAX_WORDS = 1 << 24
MAX_ENTRIES = 128
MAX_TEXT = 1 << 20  # bytes of a prompt's text; longer ones are not kept
SAMPLES, SAMPLE = 64, 64 * 1024  # of a model file, for its fingerprint
SPARE = 0.5  # of a folder's free space may be used
_NAME = re.compile(r"pointsman-kv-(\d+)-(\d+)-[0-9a-z_]+")
_SHM = Path("/dev/shm")
T = TypeVar("T")


class Kept:
    """One file. `near`: it lies where the engine reads; `pins`: how many are about to read it."""

    __slots__ = ("name", "near", "pins", "size", "text", "tokens")

    def __init__(self, name: str, text: bytes, tokens: int, size: int) -> None:
        self.name, self.text, self.tokens, self.size = name, text, tokens, size
        self.near, self.pins = True, 0

    def __repr__(self) -> str:
        return f"<Kept {self.name[:12]} {self.tokens} tokens {self.size} bytes {'near' if self.near else 'far'}>"


def fingerprint(model: str, settings: tuple[str, ...]) -> bytes:
    """What KV is of: samples of the model's file and whatever else shapes it. Blocks for a few MB of reading. Raises OSError."""
    digest = hashlib.blake2b(repr(settings).encode(), digest_size=16)
    with open(model, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        digest.update(b"%d" % size)
        for i in range(SAMPLES):
            file.seek(i * max(0, size - SAMPLE) // (SAMPLES - 1))
            digest.update(file.read(SAMPLE))
    return digest.digest()


def address(file: Path, of: bytes) -> str | None:
    """The name that a file's tokens give it; None for one that is no saved slot. Blocks. Raises OSError."""
    with file.open("rb") as data:
        head = data.read(HEAD.size)
        if len(head) < HEAD.size:
            return None
        magic, version, count = HEAD.unpack(head)
        if magic != MAGIC or not 0 < count <= MAX_WORDS:
            return None
        words = data.read(4 * count)
    if len(words) < 4 * count:
        return None
    return hashlib.blake2b(b"%b%d%b" % (of, version, words), digest_size=16).hexdigest() + ".kv"


def sweep(parent: Path) -> None:
    """Removes folders that processes of this user left behind when they died. Blocks."""
    with contextlib.suppress(OSError):
        for entry in parent.iterdir():
            found = _NAME.fullmatch(entry.name)
            if found and int(found[1]) == os.getuid() and not _alive(int(found[2])):
                shutil.rmtree(entry, ignore_errors=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _folder(parent: Path) -> Path:
    sweep(parent)
    return Path(tempfile.mkdtemp(prefix=f"pointsman-kv-{os.getuid()}-{os.getpid()}-", dir=parent))


class Store:
    """The saved KV of one model. `repr` is written to be read."""

    def __init__(self, near: Path, far: Path | None, memory: int, disk: int, of: bytes) -> None:
        self.near, self.far, self.of = near, far, of
        self.budget = {True: memory, False: disk if far is not None else 0}
        self.bytes = {True: 0, False: 0}
        self.kept: OrderedDict[str, Kept] = OrderedDict()  # longest unused first
        self.parts = 0
        self.limits: tuple[int | None, int, str | None] = (memory, disk, None)  # as they were asked for
        self.closed = False
        self.thread = ThreadPoolExecutor(1, "kv-store")

    def __repr__(self) -> str:
        return f"<Store {len(self.kept)} entries, {self.bytes[True]} bytes near, {self.bytes[False]} far>"

    @classmethod
    def open(cls, memory: int, disk: int, path: str | None, of: bytes) -> Store:
        """Makes the folders; where there is no folder in memory, all is on disk. Blocks. Raises OSError."""
        behind = Path(path) if path is not None else Path(tempfile.gettempdir())
        if path is not None:
            behind.mkdir(parents=True, exist_ok=True)
        if memory and _SHM.is_dir() and os.access(_SHM, os.W_OK):
            return cls(_folder(_SHM), _folder(behind) if disk else None, memory, disk, of)
        return cls(_folder(behind), None, disk or memory, 0, of)

    def find(self, text: bytes, ratio: float) -> tuple[Kept | None, int]:
        """The entry that spares most of `text`, and how many bytes of it."""
        return table.nearest(self.kept.values(), text, ratio)

    def part(self) -> str:
        """A name for a file that the engine is about to write."""
        self.parts += 1
        return f"{self.parts}.part"

    async def room(self, size: int) -> bool:
        """Makes room for `size` bytes where the engine writes; False when there cannot be."""
        if size > self.budget[True] or not await self._do(lambda: self._fits(size)):
            return False
        return await self._shrink(True, size)

    def _fits(self, size: int) -> bool:
        return self.bytes[True] + size <= (_free(self.near) + self.bytes[True]) * SPARE

    async def adopt(self, part: str, text: bytes, tokens: int, size: int) -> Kept | None:
        """Takes over what the engine wrote: `tokens` tokens, `size` bytes. None, and the file is gone, when it is not that."""
        name = await self._do(lambda: self._named(part, size))
        if name is None or len(text) > MAX_TEXT:
            await self.discard(part)
            return None
        old = self.kept.get(name)
        if old is not None and old.near:
            self.kept.move_to_end(name)
            return old
        if old is not None:
            await self._drop(old)
        entry = self.kept[name] = Kept(name, text, tokens, size)
        self.bytes[True] += size
        while len(self.kept) > MAX_ENTRIES and (oldest := next((e for e in self.kept.values() if not e.pins), None)) is not None:
            await self._drop(oldest)
        await self._shrink(True, 0)
        return entry if name in self.kept else None

    def _named(self, part: str, size: int) -> str | None:
        file = self.near / part
        try:
            if file.stat().st_size != size or (name := address(file, self.of)) is None:
                return None
            file.chmod(0o600)
            file.replace(self.near / name)
        except OSError:
            return None
        return name

    async def discard(self, part: str) -> None:
        """Removes what a failed save may have left."""
        await self._do(lambda: _unlink(self.near / part))

    async def ready(self, entry: Kept) -> bool:
        """Makes sure that the engine can read `entry`, bringing it from disk. False, and it is forgotten, when its file is not
        what it was. The entry must be pinned."""
        if self.kept.get(entry.name) is not entry:
            return False
        self.kept.move_to_end(entry.name)
        if not entry.near:
            if not await self.room(entry.size) or self.kept.get(entry.name) is not entry:
                return False
            if not entry.near:
                await self._do(lambda: _copy(self._file(entry, False), self._file(entry, True)))
                await self._do(lambda: _unlink(self._file(entry, False)))
                self._move(entry, True)
        good = await self._do(lambda: self._good(entry))
        if not good:
            await self._drop(entry)
        return good

    def _good(self, entry: Kept) -> bool:
        try:
            file = self._file(entry, True)
            return file.stat().st_size == entry.size and address(file, self.of) == entry.name
        except OSError:
            return False

    def _file(self, entry: Kept, near: bool) -> Path:
        folder = self.near if near else self.far
        assert folder is not None
        return folder / entry.name

    def _move(self, entry: Kept, near: bool) -> None:
        if entry.near != near and self.kept.get(entry.name) is entry:
            self.bytes[entry.near] -= entry.size
            entry.near = near
            self.bytes[near] += entry.size

    async def _shrink(self, near: bool, size: int) -> bool:
        """Until `size` more bytes fit one tier. What leaves memory goes to disk, what leaves disk is gone."""
        while self.bytes[near] + size > self.budget[near]:
            entry = next((e for e in self.kept.values() if e.near == near and not e.pins), None)
            if entry is None:
                return False
            entry.pins += 1
            try:
                lower = near and entry.size <= self.budget[False] and await self._shrink(False, entry.size)
                if lower and await self._do(lambda e=entry: _copy(self._file(e, True), self._file(e, False))):  # type: ignore[misc]
                    await self._do(lambda e=entry: _unlink(self._file(e, True)))  # type: ignore[misc]
                    self._move(entry, False)
                else:
                    await self._drop(entry)
            finally:
                entry.pins -= 1
        return True

    async def _drop(self, entry: Kept) -> None:
        if self.kept.get(entry.name) is entry:
            del self.kept[entry.name]
            self.bytes[entry.near] -= entry.size
            near = entry.near
            await self._do(lambda: _unlink(self._file(entry, near)))

    async def _do(self, work: Callable[[], T]) -> T:
        if self.closed:
            return work()  # there are no files left: it fails at once
        return await asyncio.get_running_loop().run_in_executor(self.thread, work)

    def close(self) -> None:
        """Removes everything. Blocks while the folders are emptied."""
        self.closed = True
        self.thread.shutdown(wait=True)
        self.kept.clear()
        self.bytes = {True: 0, False: 0}
        for folder in (self.near, self.far):
            if folder is not None:
                shutil.rmtree(folder, ignore_errors=True)


def _free(folder: Path) -> int:
    try:
        about = os.statvfs(folder)
    except OSError:
        return 0
    return about.f_bavail * about.f_frsize


def _copy(source: Path, target: Path) -> bool:
    """Copies a file so that it appears whole or not at all."""
    part = target.with_suffix(".copy")
    try:
        shutil.copyfile(source, part)
        part.replace(target)
    except OSError:
        _unlink(part)
        return False
    return True


def _unlink(file: Path) -> None:
    with contextlib.suppress(OSError):
        file.unlink()
