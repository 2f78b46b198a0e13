"""Saved KV that outlives the gateway: files in a folder, each with a card that says what it is, within one budget of bytes.

A file `KEY-SUM.kv` is what the engine wrote; its card `KEY.card` has its digest (SUM), what it is of, and the text of its prompt. What a
reader may rely on:
1. A file counts only with its card. The file is written whole under another name, flushed to the disk, renamed; then its card in the
   same way. Whatever has no partner is removed at the next look: a crash between any two steps costs one file, never a wrong one.
2. A file's bytes are compared with its card's digest while they are copied out. What differs is removed, and its prefix computed again.
   A card begins with the digest of its own text.
3. Several processes may share a folder: listing, evicting and naming are done under a lock of the folder; bytes are copied outside of it.
   A file that is being written has its length from the start, so that the budget holds meanwhile, and is locked by who writes it: one
   that nobody locks was left by a process that died. The kernel lets locks go when a process ends, however it ends.
4. The budget is one for the folder, whichever models its files are of. What is worth least a byte goes first: the seconds that computing
   it would take, halved for each `HALF_LIFE` that it was not used.

The folder is this user's alone (0700, files 0600): prompts can be read from it. Every method blocks; one thread owns an object.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import math
import os
import re
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from backends.slots import files

NAME = "pointsman-kv"  # of the folder, in the one that was configured
HALF_LIFE = 86_400.0  # seconds
MAX_CARDS = 1024  # files in one folder
MAX_CARD = 4 << 20  # bytes
NEWS = 16  # cards of others that are read at once
CHUNK = 1 << 20
SPARE = 0.5  # of the disk's free space may be used
PATIENCE, PAUSE = 5.0, 0.01  # seconds: another process holds the folder's lock for a few milliseconds
DEMOTED = 3  # half-lives that a file ages when a longer one holds all that it holds
_DATA = re.compile(r"([0-9a-f]{32}-\d+)-([0-9a-f]{32})\.kv")
_CARD = re.compile(r"([0-9a-f]{32}-\d+)\.card")
_PART = re.compile(r"[0-9a-f]{32}-\d+\.[0-9a-f]{16}\.part")
_CREATE = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC


class Card(msgspec.Struct, frozen=True):
    """What a file is. `name`: its content's address; `of`: fingerprint of model, settings and engine, in hex; `context`: tokens a slot;
    `seconds`: what computing it takes. The rest is what was learned on this machine until then: see `table.Speed`."""

    name: str
    of: str
    context: int
    tokens: int
    size: int
    text: bytes
    seconds: float
    prefill: float
    ratio: float
    density: float
    sum: str = ""

    @property
    def key(self) -> str:
        """What its file is called by."""
        return f"{self.name.removesuffix('.kv')}-{self.context}"


class _Row:
    """One card as the budget sees it. `used` is unix time: that of its file."""

    __slots__ = ("card", "data", "mark", "of", "size", "used", "worth")

    def __init__(self, card: Path, data: str, mark: tuple[int, ...], told: Card) -> None:
        self.card, self.data, self.mark, self.used = card, data, mark, 0.0
        self.of, self.size, self.worth = told.of, told.size, told.seconds / max(1, told.size)

    def value(self, now: float) -> float:
        """Seconds spared a byte, less for each half-life."""
        return self.worth * math.exp2(-max(0.0, now - self.used) / HALF_LIFE)


class Put(msgspec.Struct, frozen=True):
    """What became of a file that was to be kept: its card, None when it was not. `gone`: which of the known keys are not there any more;
    `news`: cards of the same model and context that other processes have put there."""

    card: Card | None
    gone: frozenset[str] = frozenset()
    news: tuple[Card, ...] = ()


class Busy(OSError):
    """The folder's lock was not to be had."""


class Disk:
    """`bytes` and `count`: of the whole folder, as of the last look."""

    def __init__(self, folder: Path, budget: int) -> None:
        self.folder, self.budget = folder, budget
        self.bytes = self.count = 0
        self._rows: dict[str, _Row] = {}

    def __repr__(self) -> str:
        return f"<Disk {self.folder.name}: {self.count} files, {self.bytes} of {self.budget} bytes>"

    @classmethod
    def open(cls, path: Path, budget: int, now: float) -> Disk:
        """Makes the folder where it is missing and removes what a crash left. `now` is unix time. Raises OSError: it cannot be had,
        or is not ours alone."""
        folder = path / NAME
        path.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        about = folder.lstat()
        if not folder.is_dir() or folder.is_symlink() or about.st_uid != os.getuid() or about.st_mode & 0o077:
            raise PermissionError(f"{folder} must be a folder that belongs to this user, with mode 0700")
        disk = cls(folder, budget)
        with disk._locked():
            disk._look()
            disk._evict(0, now)
        return disk

    def cards(self, of: str, most: int) -> list[Card]:
        """What there is of one model, longest unused first; at most `most`, those used last. Raises OSError."""
        with self._locked():
            self._look()
        rows = sorted((row for row in self._rows.values() if row.of == of), key=lambda row: row.used)
        return [card for row in rows[-most:] if (card := _read(row.card)) is not None]

    def put(self, source: Path, card: Card, shorter: Iterable[str], known: frozenset[str], now: float) -> Put:
        """Keeps a copy of `source`. `shorter`: keys whose text `card` begins with; they age. `known`: those that the caller has heard of.
        `now` is unix time. Raises OSError."""
        if card.size > self.budget:
            return Put(None)
        with self._locked():
            self._look()
            if card.key in self._rows:
                self._touch(self._rows[card.key], now)
                return self._told(card, known)
            if card.size > (files.free(self.folder) + self.bytes) * SPARE:
                return self._told(card, known)
            for row in (self._rows[key] for key in shorter if key in self._rows):
                self._touch(row, row.used - DEMOTED * HALF_LIFE)
            self._evict(card.size, now)
            if self.bytes + card.size > self.budget:  # others are writing
                return self._told(card, known)
            part, file = self._part(card)
        try:
            card = msgspec.structs.replace(card, sum=_copied(source, file, card.size))
            os.utime(file, (now, now))
            with self._locked():
                self._name(part, card)
                self._look()
                return self._told(card, known)
        except OSError:
            files.unlink(part)
            raise
        finally:
            os.close(file)

    def _told(self, card: Card, known: frozenset[str]) -> Put:
        """What there is now, told to who knows of `known`."""
        mine = self._rows.get(card.key)
        others = [row for key, row in self._rows.items() if row.of == card.of and key != card.key and key not in known]
        told = [each for row in others[:NEWS] if (each := _read(row.card)) is not None and each.context == card.context]
        return Put(_read(mine.card) if mine is not None else None, known - set(self._rows), tuple(told))

    def _part(self, card: Card) -> tuple[Path, int]:
        """A new file of the card's length, locked: its path and descriptor."""
        part = self._blank(card)
        file = os.open(part, _CREATE, 0o600)
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(file, card.size)
        return part, file

    def _blank(self, card: Card) -> Path:
        """A name that nobody else takes: a process's number means nothing to another container."""
        return self.folder / f"{card.key}.{os.urandom(8).hex()}.part"

    def _name(self, part: Path, card: Card) -> None:
        """Gives a whole file its name, then its card. Another process that has put the same leaves this one without a card."""
        os.replace(part, self.folder / f"{card.key}-{card.sum}.kv")
        self._flush()
        text = msgspec.json.encode(card)
        blank = self._blank(card)
        file = os.open(blank, _CREATE, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _write(file, hashlib.blake2b(text, digest_size=16).hexdigest().encode() + b"\n" + text)
            os.fsync(file)
            os.replace(blank, self.folder / f"{card.key}.card")
        except OSError:
            files.unlink(blank)
            raise
        finally:
            os.close(file)
        self._flush()

    def fetch(self, card: Card, target: Path, now: float) -> bool:
        """Copies a file out, whole and as it was written. False, and it is gone, when it is not that any more; OSError when `target`
        cannot be written."""
        part = target.with_suffix(".copy")
        try:
            source = self.folder / f"{card.key}-{card.sum}.kv"
            out = os.open(part, _CREATE, 0o600)
            try:
                good = _same(source, out, card)
            finally:
                os.close(out)
            if good and files.address(part, bytes.fromhex(card.of)) == card.name:
                part.replace(target)
                with contextlib.suppress(OSError):
                    os.utime(source, (now, now))
                return True
        finally:
            files.unlink(part)
        self.remove(card)
        return False

    def remove(self, card: Card) -> None:
        """Forgets a file; not another of the same content that has come in its place."""
        with contextlib.suppress(OSError), self._locked():
            self._look()
            row = self._rows.get(card.key)
            if row is not None and row.data == f"{card.key}-{card.sum}.kv":
                self._gone(card.key, row)

    # --- under the lock
    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Holds the folder's lock. Raises Busy when another process does not let it go."""
        file = os.open(self.folder / "lock", os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            for _ in range(int(PATIENCE / PAUSE)):
                with contextlib.suppress(BlockingIOError):
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                threading.Event().wait(PAUSE)  # a lock of files has no other wait that ends
            else:
                raise Busy(f"another process holds the lock of {self.folder}")
            yield
        finally:
            os.close(file)

    def _look(self) -> None:
        """Reads what is there anew and removes what has no partner or no writer."""
        about: dict[str, os.stat_result] = {}
        with os.scandir(self.folder) as found:
            for entry in found:
                with contextlib.suppress(OSError):
                    about[entry.name] = entry.stat(follow_symlinks=False)
        rows = {match[1]: row for name in about if (match := _CARD.fullmatch(name)) and (row := self._row(match[1], about)) is not None}
        partners = {row.data for row in rows.values()}
        total = sum(row.size for row in rows.values())
        for name, told in about.items():
            single = (_DATA.fullmatch(name) and name not in partners) or ((match := _CARD.fullmatch(name)) and match[1] not in rows)
            if single or (_PART.fullmatch(name) and _left(self.folder / name)):
                files.unlink(self.folder / name)
            elif _PART.fullmatch(name):
                total += told.st_size
        self._rows, self.bytes, self.count = rows, total, len(rows)

    def _row(self, key: str, about: dict[str, os.stat_result]) -> _Row | None:
        """The card of `key`, if it is whole and its file has its length."""
        name = f"{key}.card"
        mark = (about[name].st_ino, about[name].st_mtime_ns, about[name].st_size)
        row = self._rows.get(key)
        if row is None or row.mark != mark:
            card = _read(self.folder / name)
            if card is None or card.key != key:
                return None
            row = _Row(self.folder / name, f"{key}-{card.sum}.kv", mark, card)
        told = about.get(row.data)
        if told is None or told.st_size != row.size:
            return None
        row.used = told.st_mtime
        return row

    def _evict(self, size: int, now: float) -> None:
        """Makes room for a file of `size` bytes, as far as that can be had."""
        for key in sorted(self._rows, key=lambda key: self._rows[key].value(now)):
            if self.bytes + size <= self.budget and self.count < MAX_CARDS:
                break
            self._gone(key, self._rows[key])

    def _gone(self, key: str, row: _Row) -> None:
        """The card goes first: from then on the file counts no more."""
        files.unlink(row.card)
        files.unlink(self.folder / row.data)
        del self._rows[key]
        self.bytes -= row.size
        self.count -= 1

    def _touch(self, row: _Row, used: float) -> None:
        with contextlib.suppress(OSError):
            os.utime(self.folder / row.data, (used, used))
            row.used = used

    def _flush(self) -> None:
        """What was renamed stays renamed, whatever happens to the machine."""
        file = os.open(self.folder, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(file)
        finally:
            os.close(file)


def _left(part: Path) -> bool:
    """Whether nobody writes a file any more."""
    try:
        file = os.open(part, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(file)
    return True


def _read(file: Path) -> Card | None:
    """A card; None for one that is gone, or not as it was written."""
    try:
        with open(file, "rb") as data:
            told = data.read(MAX_CARD + 1)
        mark, _, text = told.partition(b"\n")
        if len(told) > MAX_CARD or mark != hashlib.blake2b(text, digest_size=16).hexdigest().encode():
            return None
        return msgspec.json.decode(text, type=Card)
    except (OSError, msgspec.MsgspecError):
        return None


def _copied(source: Path, target: int, size: int) -> str:
    """Writes `source` into `target` and to the disk: the digest of its bytes, in hex. Raises OSError, also when it is not `size` bytes."""
    digest, copied = hashlib.blake2b(digest_size=16), 0
    with open(source, "rb", buffering=0) as data:
        while chunk := data.read(CHUNK):
            digest.update(chunk)
            _write(target, chunk)
            copied += len(chunk)
    if copied != size:
        raise OSError(f"{source.name} has {copied} bytes instead of {size}")
    os.fsync(target)
    return digest.hexdigest()


def _same(source: Path, target: int, card: Card) -> bool:
    """Copies `source` and says whether it is what `card` says. Raises OSError when `target` cannot be written."""
    digest, copied = hashlib.blake2b(digest_size=16), 0
    try:
        file = os.open(source, _READ)
    except OSError:
        return False
    with open(file, "rb", buffering=0) as data:
        while copied <= card.size:
            try:
                chunk = data.read(CHUNK)
            except OSError:  # a disk that cannot be read
                return False
            if not chunk:
                break
            digest.update(chunk)
            _write(target, chunk)
            copied += len(chunk)
    return copied == card.size and digest.hexdigest() == card.sum


def _write(file: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]
