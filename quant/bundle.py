"""One file that carries a model to a machine without a network: weights, projector, licence, template, settings, and checksums of all.

A plain tar (no compression: weights do not shrink) whose first member is `bundle.json`, the list of all others with size and SHA-256, in
order. The same model always gives the same bytes. An archive is believed in nothing: it must be just what its list says, byte for byte, and
the model must be sound, before anything comes to its place; paths, links, other kinds of entries and further data are refused.
Format of headers: POSIX ustar, sizes from 8 GiB as GNU tar writes them. Blocks on the disk.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Literal

import msgspec

from backends.engines import gguf
from quant import about, facts, hub, places
from quant.about import About, FileFact
from quant.models import Model, read_text
from quant.output import Output, OutputError

LIST = "bundle.json"
FORMAT = 1
MAX_LIST = 1 << 20  # bytes
MAX_FILES = 1000
MAX_SIZE = 1 << 46
_PIECE = 1 << 20
_BLOCK = tarfile.BLOCKSIZE
_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+@=,()-]{0,99}")
_NAME = re.compile(r"[A-Za-z0-9][\w.+@-]{0,99}")
_TEXTS = {"licence": about.LICENCE, "template": about.TEMPLATE, "system": "system.txt"}
Role = Literal["weights", "projector", "licence", "template", "system"]
_TEXT_ROLES: tuple[Role, ...] = ("licence", "template", "system")
Progress = Callable[[str, int, int], None]  # file, bytes done, bytes in all


class BundleError(ValueError):
    """Why a bundle cannot be made or is refused. `str()` is one sentence: what, where, what to do."""


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One file of a bundle."""

    name: str
    role: Role
    size: int
    sha256: str


class Contents(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The list that a bundle begins with. `name`: how the model was called where it was packed."""

    format: int
    name: str
    files: list[Entry]
    origin: str = ""
    revision: str = ""
    licence: str = ""
    licence_link: str = ""
    settings: dict[str, msgspec.Raw] = {}


class Imported(msgspec.Struct, frozen=True):
    """What an import placed. `already`: it was there, and nothing was done."""

    name: str
    path: Path
    size: int
    licence: str
    already: bool = False


class _Source(msgspec.Struct, frozen=True):
    """Where a file's bytes come from: a file, or a text."""

    name: str
    role: Role
    path: Path | None = None
    text: bytes = b""

    @property
    def size(self) -> int:
        return self.path.stat().st_size if self.path is not None else len(self.text)

    def pieces(self) -> Iterator[bytes]:
        if self.path is None:
            yield self.text
            return
        with self.path.open("rb") as file:
            while data := file.read(_PIECE):
                yield data


# -- export -------------------------------------------------------------------------------------------------------------------------------


def export(model: Model, target: Path, *, overwrite: bool = False, progress: Progress | None = None) -> Contents:
    """Writes the bundle of `model` to `target`, whole or not at all. Raises `BundleError`."""
    if model.fault:
        raise BundleError(f"{model.name} cannot be exported: {model.fault.rstrip('.')}.")
    try:
        sources = list(_sources(model))
        total = 2 * sum(source.size for source in sources)
        told = _Told(progress, total)
        contents = Contents(
            FORMAT, model.name, [_entry(source, told) for source in sources], model.origin, model.revision, model.licence,
            model.licence_link, _settings(model),
        )  # fmt: skip
        head = msgspec.json.format(msgspec.json.encode(contents), indent=1) + b"\n"
        size = sum(_padded(entry.size) + _BLOCK for entry in contents.files) + _padded(len(head)) + 3 * _BLOCK
        with Output(target, size, overwrite=overwrite) as out:
            _member(out, LIST, len(head), [head])
            for source, entry in zip(sources, contents.files, strict=True):
                _member(out, entry.name, entry.size, _checked(source, entry, told))
            out.write(bytes(2 * _BLOCK))
    except OutputError as error:
        raise BundleError(str(error)) from None
    except OSError as error:
        raise BundleError(f"{model.name} cannot be read: {error.strerror} ({error.filename}).") from None
    return contents


class _Told:
    """Counts bytes for whoever wants to know."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress, self._total, self._done = progress, total, 0

    def __call__(self, name: str, more: int) -> None:
        self._done += more
        if self._progress is not None:
            self._progress(name, self._done, self._total)


def _sources(model: Model) -> Iterator[_Source]:
    for path in model.files:
        yield _Source(_weights_name(model, path), "weights", path)
    if model.projector is not None:
        yield _Source(_stored(model.projector.name), "projector", model.projector)
    texts = {role: read_text(path) for role, path in model.beside.items() if role in _TEXTS}
    texts.setdefault("licence", _licence(model))
    texts.setdefault("template", _template(model.path))
    for role in _TEXT_ROLES:
        if texts.get(role):
            yield _Source(_TEXTS[role], role, text=texts[role].encode())


def _weights_name(model: Model, path: Path) -> str:
    """The file's own name; Ollama's blobs have none, so they get the model's."""
    if model.place != "ollama":
        return _stored(path.name)
    part = f"-{model.files.index(path) + 1:05}-of-{len(model.files):05}" if len(model.files) > 1 else ""
    return _stored(f"{model.name.removeprefix('ollama:')}-{model.quant or 'model'}{part}.gguf")


def _stored(name: str) -> str:
    """A file's name as it is in the bundle: plain, and with the ending that Ollama's blobs lack. Pure."""
    plain = re.sub(r"^[^A-Za-z0-9]+", "", re.sub(r"[^A-Za-z0-9._+@=,()-]+", "-", name)[-90:]) or "model"
    return plain if plain.lower().endswith(".gguf") else f"{plain}.gguf"


def _licence(model: Model) -> str:
    above = (model.path.parent, *model.path.parent.parents[:2]) if model.owned else ()
    return next((text for folder in above if (text := read_text(folder / about.LICENCE))), "")


def _template(path: Path) -> str:
    value = gguf.read(path).values.get("tokenizer.chat_template")
    return value if isinstance(value, str) and len(value) <= about.MAX_LICENCE else ""


def _settings(model: Model) -> dict[str, msgspec.Raw]:
    """Sampling and the like that came with the model: of ours from `about.json`, of Ollama's from its layer of parameters."""
    if "settings" in model.beside:
        try:
            return msgspec.json.decode(read_text(model.beside["settings"], 65_536), type=dict[str, msgspec.Raw])
        except msgspec.MsgspecError:
            return {}
    return about.load(model.path.parent).settings if model.owned else {}


def _entry(source: _Source, told: _Told) -> Entry:
    digest, size = hashlib.sha256(), 0
    for data in source.pieces():
        digest.update(data)
        size += len(data)
        told(source.name, len(data))
    return Entry(source.name, source.role, size, digest.hexdigest())


def _checked(source: _Source, entry: Entry, told: _Told) -> Iterator[bytes]:
    digest, size = hashlib.sha256(), 0
    for data in source.pieces():
        digest.update(data)
        size += len(data)
        told(source.name, len(data))
        yield data
    if (size, digest.hexdigest()) != (entry.size, entry.sha256):
        raise BundleError(f"{entry.name} changed while it was exported; nothing was written. Export it again.")


def _member(out: Output, name: str, size: int, pieces: Iterator[bytes] | Sequence[bytes]) -> None:
    """One entry of the archive. Nothing of this machine or of this day is in it: the same content gives the same bytes."""
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o644
    out.write(info.tobuf(tarfile.GNU_FORMAT))
    for data in pieces:
        out.write(data)
    out.write(bytes(_padded(size) - size))


def _padded(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK


# -- import -------------------------------------------------------------------------------------------------------------------------------


def unpack(path: Path, where: places.Places | None = None, *, name: str = "", progress: Progress | None = None) -> Imported:
    """Places the model of the bundle at `path` in our storage, once all of it is checked. `name`: what to call it. Raises `BundleError`."""
    where = where or places.from_environment()
    try:
        with path.open("rb") as file:
            contents = _contents(file, path.name)
            size = sum(entry.size for entry in contents.files)
            folder = _target(contents, where.own, name)
            with _staging(where.own, size) as staging:
                _unpack(file, contents, staging, path.name, _Told(progress, size))
                _sound(contents, staging)
                return _place(contents, staging, folder, where, name)
    except OutputError as error:
        raise BundleError(str(error)) from None
    except OSError as error:
        raise BundleError(f"{path} cannot be imported: {error.strerror} ({error.filename or where.own}).") from None


def _contents(file: BinaryIO, shown: str) -> Contents:
    """The list at the beginning, refused unless all of it is as it must be."""
    name, size = _header(file, shown)
    if name != LIST or size > MAX_LIST:
        raise BundleError(f"{shown} is not a bundle of a model: it does not begin with {LIST}; make one with `pointsman export`.")
    try:
        contents = msgspec.json.decode(_exactly(file, _padded(size), shown)[:size], type=Contents)
    except msgspec.MsgspecError as error:
        raise BundleError(f"{shown} is not a usable bundle: its list is wrong ({facts.clean(error, 120)}).") from None
    if contents.format != FORMAT:
        raise BundleError(f"{shown} has the format {contents.format}; this version reads {FORMAT}.")
    for fault in _faults(contents):
        raise BundleError(f"{shown} is not a usable bundle: {fault}.")
    return contents


def _faults(contents: Contents) -> Iterator[str]:
    names = [entry.name for entry in contents.files]
    if len(set(map(str.lower, names))) != len(names) or len(names) > MAX_FILES:
        yield f"it lists a file twice, or more than {MAX_FILES}"
    for entry in contents.files:
        wanted = _TEXTS.get(entry.role)
        if not _FILE.fullmatch(entry.name) or (entry.name != wanted if wanted else not entry.name.lower().endswith(".gguf")):
            yield f"it lists a file of the name {facts.clean(entry.name, 60)!r}"
        if not 0 <= entry.size <= (about.MAX_LICENCE if wanted else MAX_SIZE) or not re.fullmatch(r"[0-9a-f]{64}", entry.sha256):
            yield f"it lists {facts.clean(entry.name, 60)!r} with a size or hash that cannot be"
    roles: list[str] = [entry.role for entry in contents.files]
    if "weights" not in roles or max(map(roles.count, ("projector", *_TEXTS))) > 1:
        yield "it lists no weights, or several files where only one can be"
    if len(hub.grouped(_weights(contents))) != 1 or not hub.complete(_weights(contents)):
        yield "its weights are not one whole model"


def _weights(contents: Contents) -> list[str]:
    return [entry.name for entry in contents.files if entry.role == "weights"]


def _header(file: BinaryIO, shown: str) -> tuple[str, int]:
    """(name, size) of the next entry, which must be an ordinary file."""
    block = _exactly(file, _BLOCK, shown)
    try:
        info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        raise BundleError(f"{shown} is not a bundle of a model, or it is damaged: there is no tar header where one must be.") from None
    if info.type != tarfile.REGTYPE or info.linkname or info.size < 0:
        raise BundleError(f"{shown} is not a usable bundle: {facts.clean(info.name, 60)!r} in it is no ordinary file.")
    return info.name, info.size


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


def _unpack(file: BinaryIO, contents: Contents, staging: Path, shown: str, told: _Told) -> None:
    for entry in contents.files:
        if _header(file, shown) != (entry.name, entry.size):
            raise BundleError(f"{shown} is not a usable bundle: {entry.name} is not where its list says.")
        digest, left = hashlib.sha256(), entry.size
        with (staging / entry.name).open("xb") as out:
            while left:
                data = _exactly(file, min(left, _PIECE), shown)
                digest.update(data)
                out.write(data)
                left -= len(data)
                told(entry.name, len(data))
            out.flush()
            os.fsync(out.fileno())
        _exactly(file, _padded(entry.size) - entry.size, shown)
        if digest.hexdigest() != entry.sha256:
            raise BundleError(f"{shown} is damaged: {entry.name} has another hash than its list says; copy it again.")
    if any(_exactly(file, 2 * _BLOCK, shown)) or file.read(1):
        raise BundleError(f"{shown} is not a usable bundle: there is more in it than its list says.")


def _sound(contents: Contents, staging: Path) -> None:
    """The model itself must be one that an engine may be given."""
    said = facts.read([staging / name for name in _weights(contents)])
    if said.fault:
        raise BundleError(said.fault if said.fault.endswith(".") else f"{contents.name[:100]!r} is not a whole model: {said.fault}.")


def _place(contents: Contents, staging: Path, folder: Path, where: places.Places, name: str) -> Imported:
    files = {entry.name: FileFact(entry.size, entry.sha256) for entry in contents.files}
    weights, texts = _weights(contents), {*_TEXTS.values()}
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
