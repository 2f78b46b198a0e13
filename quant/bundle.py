"""One file that carries a model to a machine without a network: weights, projector, licence, template, settings, and checksums of all.

A plain tar (no compression: weights do not shrink) whose first member is `bundle.json`, the list of all files with size and SHA-256, in
order; the last one, `SHA256SUMS`, says the same for `sha256sum -c`. The same model always gives the same bytes. Headers are POSIX ustar,
sizes from 8 GiB as GNU tar writes them. `quant.bundle_read` takes it apart. Blocks on the disk.
"""

from __future__ import annotations

import hashlib
import re
import tarfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import msgspec

from backends.engines import gguf
from quant import about, places
from quant.models import Model, read_text
from quant.output import Output, OutputError

LIST = "bundle.json"
SUMS = "SHA256SUMS"
FORMAT = 1
PIECE = 1 << 20
BLOCK = tarfile.BLOCKSIZE
TEXTS = {"licence": about.LICENCE, "template": about.TEMPLATE, "system": "system.txt"}
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
            while data := file.read(PIECE):
                yield data


# -- export -------------------------------------------------------------------------------------------------------------------------------


def export(model: Model, target: Path, *, overwrite: bool = False, progress: Progress | None = None) -> Contents:
    """Writes the bundle of `model` to `target`, whole or not at all. Raises `BundleError`."""
    if model.fault:
        raise BundleError(f"{model.name} cannot be exported: {model.fault.rstrip('.')}.")
    if target.exists() and not overwrite:  # said before all of the model is read
        raise BundleError(f"{target} is there already; remove it, choose another name, or allow overwriting it (--overwrite).")
    try:
        sources = list(_sources(model))
        total = 2 * sum(source.size for source in sources)
        told = Told(progress, total)
        contents = Contents(
            FORMAT, model.name, [_entry(source, told) for source in sources], model.origin, model.revision, model.licence,
            model.licence_link, _settings(model),
        )  # fmt: skip
        head = msgspec.json.format(msgspec.json.encode(contents), indent=1) + b"\n"
        size = sum(padded(entry.size) + BLOCK for entry in contents.files) + padded(2 * len(head)) + 4 * BLOCK
        with Output(target, size, overwrite=overwrite) as out:
            _member(out, LIST, len(head), [head])
            for source, entry in zip(sources, contents.files, strict=True):
                _member(out, entry.name, entry.size, _checked(source, entry, told))
            told_sums = sums(head, contents)
            _member(out, SUMS, len(told_sums), [told_sums])
            out.write(bytes(2 * BLOCK))
    except OutputError as error:
        raise BundleError(str(error)) from None
    except OSError as error:
        raise BundleError(f"{model.name} cannot be read: {error.strerror} ({error.filename}).") from None
    return contents


def sums(head: bytes, contents: Contents) -> bytes:
    """The checksums of all files as `sha256sum -c` reads them; `head` is the list. Pure."""
    rows = [(hashlib.sha256(head).hexdigest(), LIST), *((entry.sha256, entry.name) for entry in contents.files)]
    return "".join(f"{digest}  {name}\n" for digest, name in rows).encode()


class Told:
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
    texts = {role: read_text(path) for role, path in model.beside.items() if role in TEXTS}
    texts.setdefault("licence", _licence(model))
    texts.setdefault("template", _template(model.path))
    for role in _TEXT_ROLES:
        if texts.get(role):
            yield _Source(TEXTS[role], role, text=texts[role].encode())


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
        except places.UNREADABLE:
            return {}
    return about.load(model.path.parent).settings if model.owned else {}


def _entry(source: _Source, told: Told) -> Entry:
    digest, size = hashlib.sha256(), 0
    for data in source.pieces():
        digest.update(data)
        size += len(data)
        told(source.name, len(data))
    return Entry(source.name, source.role, size, digest.hexdigest())


def _checked(source: _Source, entry: Entry, told: Told) -> Iterator[bytes]:
    digest, size = hashlib.sha256(), 0
    for data in source.pieces():
        digest.update(data)
        size += len(data)
        told(source.name, len(data))
        yield data
    if (size, digest.hexdigest()) != (entry.size, entry.sha256):
        raise BundleError(f"{entry.name} changed while it was exported; nothing was written. Export it again.")


def header(name: str, size: int) -> bytes:
    """What stands before a file. Nothing of this machine or of this day is in it: the same content gives the same bytes. Pure."""
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o644
    return info.tobuf(tarfile.GNU_FORMAT)


def _member(out: Output, name: str, size: int, pieces: Iterator[bytes] | Sequence[bytes]) -> None:
    out.write(header(name, size))
    for data in pieces:
        out.write(data)
    out.write(bytes(padded(size) - size))


def padded(size: int) -> int:
    """`size` up to whole blocks. Pure."""
    return -(-size // BLOCK) * BLOCK
