"""Takes a bundle of a model apart and puts the model into our storage (`quant.bundle` says what a bundle is).

An archive is believed in nothing: it must be just what its list says, byte for byte, and the model must be sound, before anything comes to
its place. Paths, links, other kinds of entries and further data are refused; nothing is left of what was refused. Blocks on the disk.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import msgspec

from quant import about, facts, hub, places
from quant.about import About, FileFact
from quant.bundle import BLOCK, FORMAT, LIST, PIECE, SUMS, TEXTS, BundleError, Contents, Progress, Told, header, padded, sums
from quant.output import OutputError

MAX_LIST = 1 << 20  # bytes
MAX_FILES = 1000
MAX_SIZE = 1 << 46
_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+@=,()-]{0,99}")
_NAME = re.compile(r"[A-Za-z0-9][\w.+@-]{0,99}", re.A)


class Imported(msgspec.Struct, frozen=True):
    """What an import placed. `already`: it was there, and nothing was done."""

    name: str
    path: Path
    size: int
    licence: str
    already: bool = False


def unpack(path: Path, where: places.Places | None = None, *, name: str = "", progress: Progress | None = None) -> Imported:
    """Places the model of the bundle at `path` in our storage, once all of it is checked. `name`: what to call it. Raises `BundleError`."""
    where = where or places.from_environment()
    try:
        with path.open("rb") as file:
            contents, wanted = _contents(file, path.name)
            size = sum(entry.size for entry in contents.files)
            folder = _target(contents, where.own, name)
            with _staging(where.own, size) as staging:
                _unpack(file, contents, staging, path.name, Told(progress, size))
                _ends(file, wanted, path.name)
                _sound(contents, staging)
                return _place(contents, staging, folder, where, name)
    except OutputError as error:
        raise BundleError(str(error)) from None
    except OSError as error:
        raise BundleError(f"{path} cannot be imported: {error.strerror} ({error.filename or where.own}).") from None


def _contents(file: BinaryIO, shown: str) -> tuple[Contents, bytes]:
    """The list at the beginning, refused unless all of it is as it must be; and the checksums that must stand at the end."""
    name, size = _header(file, shown)
    if name != LIST or size > MAX_LIST:
        raise BundleError(f"{shown} is not a bundle of a model: it does not begin with {LIST}; make one with `pointsman export`.")
    head = _exactly(file, size, shown)
    _padding(file, size, shown)
    try:
        contents = msgspec.json.decode(head, type=Contents)
    except places.UNREADABLE as error:
        raise BundleError(f"{shown} is not a usable bundle: its list is wrong ({facts.clean(error, 120)}).") from None
    if contents.format != FORMAT:
        raise BundleError(f"{shown} has the format {contents.format}; this version reads {FORMAT}.")
    for fault in _faults(contents):
        raise BundleError(f"{shown} is not a usable bundle: {fault}.")
    return contents, sums(head, contents)


def _faults(contents: Contents) -> Iterator[str]:
    names = [entry.name for entry in contents.files]
    if len(set(map(str.lower, names))) != len(names) or len(names) > MAX_FILES:
        yield f"it lists a file twice, or more than {MAX_FILES}"
    for entry in contents.files:
        wanted = TEXTS.get(entry.role)
        if not _FILE.fullmatch(entry.name) or (entry.name != wanted if wanted else not entry.name.lower().endswith(".gguf")):
            yield f"it lists a file of the name {facts.clean(entry.name, 60)!r}"
        if not 0 <= entry.size <= (about.MAX_LICENCE if wanted else MAX_SIZE) or not re.fullmatch(r"[0-9a-f]{64}", entry.sha256):
            yield f"it lists {facts.clean(entry.name, 60)!r} with a size or hash that cannot be"
    roles: list[str] = [entry.role for entry in contents.files]
    if "weights" not in roles or max(map(roles.count, ("projector", *TEXTS))) > 1:
        yield "it lists no weights, or several files where only one can be"
    if len(hub.grouped(_weights(contents))) != 1 or not hub.complete(_weights(contents)):
        yield "its weights are not one whole model"


def _weights(contents: Contents) -> list[str]:
    return [entry.name for entry in contents.files if entry.role == "weights"]


def _header(file: BinaryIO, shown: str) -> tuple[str, int]:
    """(name, size) of the next entry, which must be an ordinary file."""
    block = _exactly(file, BLOCK, shown)
    try:
        info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        raise BundleError(f"{shown} is not a bundle of a model, or it is damaged: there is no tar header where one must be.") from None
    if info.type != tarfile.REGTYPE or info.linkname or info.size < 0:
        raise BundleError(f"{shown} is not a usable bundle: {facts.clean(info.name, 60)!r} in it is no ordinary file.")
    if block != header(info.name, info.size):
        raise BundleError(f"{shown} is damaged: the header of {facts.clean(info.name, 60)!r} is not as `export` writes it; copy it again.")
    return info.name, info.size


def _padding(file: BinaryIO, size: int, shown: str) -> None:
    """The zeros behind an entry of `size` bytes."""
    if any(_exactly(file, padded(size) - size, shown)):
        raise BundleError(f"{shown} is damaged: there is something between its files; copy it again.")


def _exactly(file: BinaryIO, size: int, shown: str) -> bytes:
    data = file.read(size)
    if len(data) < size:
        raise BundleError(f"{shown} is cut off; copy it again.")
    return data


def _target(contents: Contents, own: Path, name: str) -> Path:
    """The folder that the model goes to: where a pull would put it, if it came from the hub."""
    if name:
        if not _NAME.fullmatch(name):
            raise BundleError(f"{facts.clean(name, 60)!r} cannot be a name; use letters, digits and .+@_-, and no more than 100.")
        return own / "local" / name
    if contents.origin.startswith("hf:"):
        try:
            return own / "hf" / hub.parse(contents.origin).repo
        except hub.HubError:
            pass  # whatever it says, it is not a repository's name
    plain = re.sub(r"[^\w.+@-]+", "-", contents.name.removeprefix("ollama:").rpartition("/")[2].removesuffix(".gguf"), flags=re.A).strip(
        "-._+@"
    )[:100]
    return own / "local" / (plain or "model")


@contextmanager
def _staging(own: Path, size: int) -> Iterator[Path]:
    """A folder on the same disk as the storage, gone afterwards whatever happens."""
    own.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(own).free
    if size > free:
        raise BundleError(f"The model needs {size / 1e9:.1f} GB but {own} has {free / 1e9:.1f} GB free; free some and import it again.")
    with tempfile.TemporaryDirectory(dir=own, prefix=".import-") as folder:
        yield Path(folder)


def _unpack(file: BinaryIO, contents: Contents, staging: Path, shown: str, told: Told) -> None:
    for entry in contents.files:
        if _header(file, shown) != (entry.name, entry.size):
            raise BundleError(f"{shown} is not a usable bundle: {entry.name} is not where its list says.")
        digest, left = hashlib.sha256(), entry.size
        with (staging / entry.name).open("xb") as out:
            while left:
                data = _exactly(file, min(left, PIECE), shown)
                digest.update(data)
                out.write(data)
                left -= len(data)
                told(entry.name, len(data))
            out.flush()
            os.fsync(out.fileno())
        _padding(file, entry.size, shown)
        if digest.hexdigest() != entry.sha256:
            raise BundleError(f"{shown} is damaged: {entry.name} has another hash than its list says; copy it again.")


def _ends(file: BinaryIO, wanted: bytes, shown: str) -> None:
    """The checksums, and nothing after them."""
    name, size = _header(file, shown)
    if (name, size) != (SUMS, len(wanted)) or _exactly(file, size, shown) != wanted:
        raise BundleError(f"{shown} is not a usable bundle: its checksums are not those of its list.")
    _padding(file, size, shown)
    if any(_exactly(file, 2 * BLOCK, shown)) or file.read(1):
        raise BundleError(f"{shown} is not a usable bundle: there is more in it than its list says.")


def _sound(contents: Contents, staging: Path) -> None:
    """The model itself must be one that an engine may be given."""
    said = facts.read([staging / name for name in _weights(contents)])
    if said.fault:
        raise BundleError(said.fault if said.fault.endswith(".") else f"{contents.name[:100]!r} is not a whole model: {said.fault}.")


def _place(contents: Contents, staging: Path, folder: Path, where: places.Places, name: str) -> Imported:
    files = {entry.name: FileFact(entry.size, entry.sha256) for entry in contents.files}
    weights, texts = _weights(contents), {*TEXTS.values()}
    with about.held(folder):
        before = about.load(folder)
        already = _already(folder, before, {file: fact for file, fact in files.items() if file not in texts})
        if not already:
            for file in files:
                if file not in texts or not (folder / file).exists():
                    os.replace(staging / file, folder / file)
            about.sync(folder)
            settings = contents.settings or before.settings
            about.save(folder, About(
                contents.origin, contents.revision, facts.clean(contents.licence), facts.clean(contents.licence_link), before.base,
                before.author, {**before.files, **files}, settings,
            ))  # fmt: skip
    size = sum(fact.size for fact in files.values())
    return Imported(_called(folder / weights[0], where), folder / weights[0], size, facts.clean(contents.licence), already)


def _already(folder: Path, before: About, files: Mapping[str, FileFact]) -> bool:
    """Whether the same model is there. Another one under these names is never replaced."""
    there = [file for file in files if (folder / file).exists()]
    for file in there:
        known = before.files.get(file) or FileFact((folder / file).stat().st_size, about.sha256(folder / file))
        if known != files[file]:
            raise BundleError(f"{folder / file} is another model of the same name; remove it first, or import this one with --as NAME.")
    return len(there) == len(files)


def _called(path: Path, where: places.Places) -> str:
    return next((found.name for found in places.look(places.Places(where.own)) if path in found.files), str(path))
