"""KV in files, addressed by content: a folder in memory first, one on disk behind it, both within byte budgets.

The engine writes and reads the files itself (`/slots/ID?action=save`), so the near folder is the one that it was started with. A file's
name is the digest of what it is of: the model's own bytes, the settings that shape its KV, and the tokens. A file is restored only when
its head still has the tokens of its name and its length is what was written.

The index belongs to the event loop; files are touched in one thread. Folders are private to the user, named after the process, and
removed with it; those of processes that are gone are removed at the next start. Where the store is to last (`keep`), `lasting` has copies
that stay, in place of the far folder: an entry that was copied leaves memory without being lost, and the next process begins with it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import tempfile
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeVar

import msgspec

from backends import scratch
from backends.slots import files, table
from backends.slots.disk import Card, Disk
from backends.slots.lasting import Lasting
from backends.slots.table import Speed

log = logging.getLogger("pointsman.slots")

MAX_ENTRIES = 128
REFUSALS = 2
MAX_TEXT = 1 << 20  # bytes of a prompt's text; longer ones are not kept
SPARE = 0.5  # of a folder's free space may be used
_SHM = Path("/dev/shm")
T = TypeVar("T")


class Limits(NamedTuple):
    """What may be kept: bytes in memory (None: what the machine can spare), bytes on disk, in which folder, whether that is to last, and
    whether what private calls said may last too."""

    memory: int | None
    disk: int = 0
    path: str | None = None
    keep: bool = False
    private: bool = False


class Kept:
    """One file. `near`: it lies where the engine reads; `pins`: how many are about to read it; `private`: only private calls have said it;
    `card`: that of its copy that lasts, `asked`: which is being written; `refused`: how often an engine would not have it."""

    __slots__ = ("asked", "card", "name", "near", "pins", "private", "refused", "size", "text", "tokens")

    def __init__(self, name: str, text: bytes, tokens: int, size: int, *, private: bool = False, card: Card | None = None) -> None:
        self.name, self.text, self.tokens, self.size = name, text, tokens, size
        self.private, self.card = private, card
        self.near, self.pins, self.asked, self.refused = card is None, 0, False, 0

    def __repr__(self) -> str:
        return f"<Kept {self.name[:12]} {self.tokens} tokens {self.size} bytes {'near' if self.near else 'far'}>"


class Store:
    """The saved KV of one model. `repr` is written to be read."""

    def __init__(self, near: Path, far: Path | None, memory: int, disk: int, of: bytes) -> None:
        self.near, self.far, self.of = near, far, of
        self.budget = {True: memory, False: disk if far is not None else 0}
        self.bytes = {True: 0, False: 0}
        self.kept: OrderedDict[str, Kept] = OrderedDict()  # longest unused first
        self.parts = 0
        self.limits = Limits(memory, disk)  # as they were asked for
        self.closed = False
        self.thread = ThreadPoolExecutor(1, "kv-store")
        self.lasting: Lasting | None = None
        self.tasks: set[asyncio.Task[None]] = set()

    def __repr__(self) -> str:
        return f"<Store {len(self.kept)} entries, {self.bytes[True]} bytes near, {self.bytes[False]} far>"

    @classmethod
    def open(cls, memory: int, disk: int, path: str | None, of: bytes) -> Store:
        """Makes the folders; where there is no folder in memory, all is on disk. Blocks. Raises OSError."""
        behind = Path(path) if path is not None else Path(tempfile.gettempdir())
        if path is not None:
            behind.mkdir(parents=True, exist_ok=True)
        if memory and _SHM.is_dir() and os.access(_SHM, os.W_OK):
            return cls(scratch.folder("kv", _SHM), scratch.folder("kv", behind) if disk else None, memory, disk, of)
        return cls(scratch.folder("kv", behind), None, disk or memory, 0, of)

    @classmethod
    def lasts(cls, memory: int, disk: int, path: str, of: bytes, private: bool) -> Store:
        """A store whose entries last in `path`, with those that are there. `memory` is where the engine writes: in memory, else beside
        the others. Blocks. Raises OSError."""
        lasting = Lasting(Disk.open(Path(path), disk, time.time()), of, private)
        in_memory = memory and _SHM.is_dir() and os.access(_SHM, os.W_OK)
        store = cls(scratch.folder("kv", _SHM if in_memory else Path(path)), None, memory or disk, 0, of)
        store.lasting, store.budget[False] = lasting, disk
        for card in lasting.disk.cards(lasting.of, MAX_ENTRIES):
            store._learn(card)
        return store

    def _learn(self, card: Card) -> None:
        """Takes over a file that was there already."""
        if card.name not in self.kept and len(card.text) <= MAX_TEXT and len(self.kept) < MAX_ENTRIES:
            self.kept[card.name] = Kept(card.name, card.text, card.tokens, card.size, card=card)
            self.bytes[False] += card.size
            if self.lasting is not None:
                self.lasting.learned = card

    def fits(self, context: int) -> None:
        """An engine of `context` tokens a slot runs: files of another are not for it, as some models' positions depend on that."""
        if self.lasting is not None:
            self.lasting.context = context
            for entry in [e for e in self.kept.values() if e.card is not None and e.card.context != context]:
                self._lost(entry)

    def keep(self, entry: Kept, speed: Speed) -> None:
        """Begins to write a copy of `entry` that lasts, where it should have one."""
        lasting = self.lasting
        if lasting is None or self.closed or not entry.near or entry.card is not None or entry.asked:
            return
        if lasting.wants(self.kept.values(), entry.text, entry.private, speed):
            entry.pins, entry.asked = entry.pins + 1, True
            task = asyncio.get_running_loop().create_task(self._keep(lasting, entry, speed))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)

    async def _keep(self, lasting: Lasting, entry: Kept, speed: Speed) -> None:
        try:
            done = await lasting.put(self._file(entry, True), entry.name, entry, self.kept.values(), speed)
        finally:
            entry.pins, entry.asked = entry.pins - 1, False
        if done is None:
            return
        for other in [e for e in self.kept.values() if e.card is not None and e.card.key in done.gone]:
            self._lost(other)
        if done.card is not None and self.kept.get(entry.name) is entry:
            entry.card = msgspec.structs.replace(done.card, text=entry.text)
        for card in done.news:
            self._learn(card)

    def _lost(self, entry: Kept) -> None:
        """The copy that lasts is not there, or not for us; what lies in memory still is."""
        entry.card = None
        if not entry.near and self.kept.get(entry.name) is entry:
            del self.kept[entry.name]
            self.bytes[False] -= entry.size

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
        return self.bytes[True] + size <= (files.free(self.near) + self.bytes[True]) * SPARE

    async def adopt(self, part: str, text: bytes, tokens: int, size: int, *, private: bool = False) -> Kept | None:
        """Takes over what the engine wrote: `tokens` tokens, `size` bytes, said by a private call or not. None, and the file is
        gone, when it is not that."""
        name = await self._do(lambda: self._named(part, size))
        if name is None or len(text) > MAX_TEXT:
            await self.discard(part)
            return None
        old = self.kept.get(name)
        if old is not None and old.near:
            self.kept.move_to_end(name)
            old.private = old.private and private
            return old
        if old is not None and old.card is not None and old.size == size:  # it is in memory again
            self._move(old, True)
            self.kept.move_to_end(name)
            await self._shrink(True, 0)
            return old if old.near else None
        if old is not None:
            await self._drop(old)
        entry = self.kept[name] = Kept(name, text, tokens, size, private=private)
        self.bytes[True] += size
        while len(self.kept) > MAX_ENTRIES and (oldest := next((e for e in self.kept.values() if not e.pins), None)) is not None:
            await self._drop(oldest)
        await self._shrink(True, 0)
        return entry if name in self.kept else None

    def _named(self, part: str, size: int) -> str | None:
        file = self.near / part
        try:
            if file.stat().st_size != size or (name := files.address(file, self.of)) is None:
                return None
            file.chmod(0o600)
            file.replace(self.near / name)
        except OSError:
            return None
        return name

    async def discard(self, part: str) -> None:
        """Removes what a failed save may have left."""
        await self._do(lambda: files.unlink(self.near / part))

    async def ready(self, entry: Kept, speed: Speed | None = None) -> bool:
        """Makes sure that the engine can read `entry`, bringing it from disk, which `speed` learns from. False, and it is forgotten, when
        its file is not what it was. The entry must be pinned."""
        if self.kept.get(entry.name) is not entry:
            return False
        self.kept.move_to_end(entry.name)
        if not entry.near:
            if not await self.room(entry.size) or self.kept.get(entry.name) is not entry:
                return False
            if not entry.near and not await self._brought(entry, speed):
                return False
        good = await self._do(lambda: self._good(entry))
        if not good:
            await self._drop(entry)
        return good

    async def refuse(self, entry: Kept) -> None:
        """An engine would not have `entry`. One that died says nothing of it; twice is enough to forget it."""
        entry.refused += 1
        if entry.refused >= REFUSALS:
            await self._drop(entry)

    async def _brought(self, entry: Kept, speed: Speed | None) -> bool:
        """Brings the file of `entry` to where the engine reads."""
        lasting, card = self.lasting, entry.card
        if lasting is not None and card is not None:
            good = await lasting.fetch(card, self._file(entry, True), speed)
            if good is False:
                log.warning("KV on disk is not what was written: it is computed again")
                self._lost(entry)
            if not good:
                return False
        else:
            await self._do(lambda: files.copy(self._file(entry, False), self._file(entry, True)))
            await self._do(lambda: files.unlink(self._file(entry, False)))
        if self.kept.get(entry.name) is not entry:  # another process has evicted it meanwhile
            if entry.name not in self.kept:
                await self._do(lambda: files.unlink(self._file(entry, True)))
            return False
        self._move(entry, True)
        await self._shrink(True, 0)
        return True

    def _good(self, entry: Kept) -> bool:
        try:
            file = self._file(entry, True)
            return file.stat().st_size == entry.size and files.address(file, self.of) == entry.name
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
                if entry.card is not None:
                    if not near:
                        return False  # what lasts has its own budget
                    await self._do(lambda e=entry: files.unlink(self._file(e, True)))  # type: ignore[misc]
                    self._move(entry, False)
                    continue
                lower = near and self.far is not None and entry.size <= self.budget[False] and await self._shrink(False, entry.size)
                if lower and await self._do(lambda e=entry: files.copy(self._file(e, True), self._file(e, False))):  # type: ignore[misc]
                    await self._do(lambda e=entry: files.unlink(self._file(e, True)))  # type: ignore[misc]
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
            if near or entry.card is None:
                await self._do(lambda: files.unlink(self._file(entry, near)))
            if entry.card is not None and self.lasting is not None:
                await self.lasting.remove(entry.card)

    async def _do(self, work: Callable[[], T]) -> T:
        if self.closed:
            return work()  # there are no files left: it fails at once
        return await asyncio.get_running_loop().run_in_executor(self.thread, work)

    def close(self) -> None:
        """Removes everything but what lasts, of which all is written. Blocks while that is written and the folders are emptied."""
        self.closed = True
        self.thread.shutdown(wait=True)
        if self.lasting is not None:
            self.lasting.close()
        self.kept.clear()
        self.bytes = {True: 0, False: 0}
        for folder in (self.near, self.far):
            if folder is not None:
                shutil.rmtree(folder, ignore_errors=True)
