"""Brings models from the Hugging Face hub into our own storage: `hf/OWNER/NAME/FILE`, checked against the hub's own hashes.

A download goes on where it stopped, also after a crash; a file gets its name only once all files of the model are whole and right. Two
processes that want the same repository wait for each other. What the Hugging Face cache holds already is used there. Everything that goes
wrong is a `hub.HubError` with one sentence. Blocks, possibly for hours: call it from a thread, or on the command line.
"""

from __future__ import annotations

import os
import re
import shutil
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple
from urllib.parse import urlsplit

import msgspec

from quant import about, facts, hub, places
from quant.about import About, FileFact
from quant.hub import HubError, Ref
from quant.output import OutputError

PART = ".part"
_NAME = re.compile(r"[^/\\\x00-\x1f\x7f.][^/\\\x00-\x1f\x7f]{0,200}")
_LICENCES = re.compile(r"(LICENSE|LICENCE|COPYING)(\.(txt|md))?", re.I)
_ATTEMPTS = 2  # where parts of an earlier try turn out not to fit, the file is fetched once more from its beginning
Progress = Callable[[str, int, int], None]  # file, bytes done of all files, bytes in all


class Remote(NamedTuple):
    """A file on the hub. `sha256` of its content where the hub knows it, else `git`: its name in git."""

    name: str
    size: int
    sha256: str
    git: str


class Pulled(msgspec.Struct, frozen=True):
    """What a pull did. `path`: the model's first file; `fetched`: bytes that came over the network; `where`: "own" or "huggingface"."""

    ref: Ref
    path: Path
    fetched: int
    size: int
    where: str
    licence: str = ""


class _Heard(msgspec.Struct):
    """Who is told how it goes on."""

    progress: Progress | None
    done: int = 0
    total: int = 0

    def tell(self, name: str, more: int) -> None:
        self.done += more
        if self.progress is not None:
            self.progress(name, self.done, self.total)


def pull(
    ref: Ref | str, where: places.Places | None = None, *, offline: bool = False, vision: bool = True, progress: Progress | None = None,
    waiting: Callable[[], None] | None = None,
) -> Pulled:  # fmt: skip
    """Fetches what is missing of a model; raises `HubError`. `offline` (or HF_HUB_OFFLINE): nobody is asked. `vision`: the projector of a
    model that sees is fetched too. `waiting` is called before it waits for another process that fetches from the same repository."""
    ref = hub.parse(ref) if isinstance(ref, str) else ref
    where = where or places.from_environment()
    if offline or hub.offline_asked():
        return _here(ref, where)
    folder = where.own / "hf" / ref.repo
    try:
        with about.held(folder, waiting), hub.clear(ref, "XDG_DATA_HOME"):
            return _pull(ref, folder, where, vision, _Heard(progress))
    except OutputError as error:
        raise HubError(str(error)) from None
    except OSError as error:
        raise HubError(f"{ref} cannot be written to {folder}: {error.strerror or error}.") from None


def _here(ref: Ref, where: places.Places) -> Pulled:
    """The model as it is on this machine, without the network."""
    found = [one for one in places.look(where) if one.origin == f"hf:{ref.repo}" and one.place in ("own", "huggingface") and not one.fault]
    folders = {one.files[0]: one for one in found}
    if not folders:
        raise HubError(f"{ref} is not on this machine and the hub may not be asked (offline); go online once, or name a local file.")
    names = {one.files[0].name: one for one in found}
    first = hub.choose([file.name for one in found for file in one.files], Ref(ref.repo, ref.quant.rpartition("/")[2]))[0]
    one = names[first]
    return Pulled(ref, one.files[0], 0, sum(file.stat().st_size for file in one.files), one.place)


def _pull(ref: Ref, folder: Path, where: places.Places, vision: bool, heard: _Heard) -> Pulled:
    info = _info(ref)
    remote = {file.name: file for file in map(_remote, info.siblings or ())}
    names = hub.choose(list(remote), ref)
    eyes = places.projector(list(remote)) if vision else ""
    wanted = [remote[name] for name in (*names, *([eyes] if eyes else []))]
    for file in wanted:
        _sound(ref, file)
    size = sum(file.size for file in wanted)
    if (cached := _cached(ref, wanted, where)) is not None:
        return Pulled(ref, cached, 0, size, "huggingface", _card(info).licence)
    known = about.load(folder)
    missing = [file for file in wanted if not _same(folder, file, known)]
    heard.total = sum(file.size for file in missing)
    _room(ref, missing, folder)
    parts = {file: _fetch(ref, file, str(info.sha), folder, heard) for file in missing}
    for file in missing:  # only now that all are there: a reader never meets half a model
        (folder / file.name).parent.mkdir(parents=True, exist_ok=True)
        os.replace(parts[file][0], folder / file.name)
    about.sync(folder)
    files = {**known.files, **{file.name: FileFact(file.size, parts[file][1]) for file in missing}}
    files |= {file.name: FileFact(file.size, about.sha256(folder / file.name)) for file in wanted if file.name not in files}
    card = _card(info)
    about.save(folder, msgspec.structs.replace(card, origin=f"hf:{ref.repo}", revision=str(info.sha)[:80], files=files))
    _licence(ref, list(remote.values()), str(info.sha), folder)
    return Pulled(ref, folder / names[0], heard.done, size, "own", card.licence)


def _info(ref: Ref) -> Any:
    from huggingface_hub import HfApi

    return HfApi(endpoint=hub.endpoint()).model_info(ref.repo, files_metadata=True)


def _remote(sibling: Any) -> Remote:
    large: Any = sibling.lfs
    sha256 = str(large.sha256).lower() if large is not None and large.sha256 else ""
    return Remote(str(sibling.rfilename), int(sibling.size or 0), sha256, str(sibling.blob_id or "").lower())


def _sound(ref: Ref, file: Remote) -> None:
    """Refuses what the hub says of a file where it cannot be meant well."""
    if len(file.name) > 400 or not all(_NAME.fullmatch(part) for part in file.name.split("/")):
        raise HubError(f"{ref.repo} has a file that cannot be stored under its name, {facts.clean(file.name, 60)!r}; nothing was fetched.")
    sound = re.fullmatch(r"[0-9a-f]{64}", file.sha256) if file.sha256 else re.fullmatch(r"[0-9a-f]{40}", file.git)
    if file.size <= 0 or not sound:
        raise HubError(f"{hub.endpoint()} tells no size or no hash of {file.name} in {ref.repo}, so it could not be checked.")


def _right(path: Path, file: Remote) -> str:
    """The SHA-256 of what lies at `path` if it is the hub's file, else ""."""
    digest = about.sha256(path)
    right = digest == file.sha256 if file.sha256 else about.git_hash(path) == file.git
    return digest if right else ""


def _same(folder: Path, file: Remote, known: About) -> bool:
    """Whether the file is in its place already. Its content was checked when it was placed; what we did not place is checked now."""
    path = folder / file.name
    try:
        if path.stat().st_size != file.size:
            return False
        before = known.files.get(file.name)
        if before is not None and file.sha256:
            return before == FileFact(file.size, file.sha256)
        return bool(_right(path, file))
    except OSError:
        return False


def _cached(ref: Ref, wanted: Sequence[Remote], where: places.Places) -> Path | None:
    """The model in the Hugging Face cache, if all of it is there: files there have the hub's hash as their name."""
    for cache in where.huggingface:
        folder = cache / f"models--{ref.repo.replace('/', '--')}"
        blobs = [folder / "blobs" / (file.sha256 or file.git) for file in wanted]
        try:
            if not all(blob.stat().st_size == file.size for blob, file in zip(blobs, wanted, strict=True)):
                continue
        except OSError:
            continue
        for found in places.look(places.Places(where.own, huggingface=(cache,))):
            if found.place == "huggingface" and os.path.realpath(found.files[0]) == os.path.realpath(blobs[0]) and not found.fault:
                return found.files[0]
    return None


def _room(ref: Ref, missing: Sequence[Remote], folder: Path) -> None:
    there = sum(path.stat().st_size for file in missing if (path := _part(folder, file)).exists())
    needed, free = sum(file.size for file in missing) - there, shutil.disk_usage(folder).free
    if needed > free:
        raise HubError(
            f"{ref} needs {needed / 1e9:.1f} GB more but {folder} has {free / 1e9:.1f} GB free; free some, or set XDG_DATA_HOME to a "
            "folder on a larger disk."
        )


def _part(folder: Path, file: Remote) -> Path:
    """Where a file lies until it is whole. The hash is in the name: parts of another version are not gone on with."""
    return folder / f".{zlib.crc32(file.name.encode()):08x}-{(file.sha256 or file.git)[:32]}{PART}"


def unfinished(where: places.Places | None = None) -> list[Path]:
    """Parts of downloads that were given up, or that are going on."""
    where = where or places.from_environment()
    return sorted((where.own / "hf").glob(f"*/*/.*{PART}"))


def _fetch(ref: Ref, file: Remote, revision: str, folder: Path, heard: _Heard) -> tuple[Path, str]:
    """One file, whole and right, under its passing name; and its SHA-256."""
    part = _part(folder, file)
    before = heard.done
    for _ in range(_ATTEMPTS):
        with part.open("ab") as out:
            resumed = out.tell()
            if resumed > file.size:
                out.truncate(0)
                resumed = out.seek(0)
            heard.tell(file.name, resumed)
            if resumed < file.size:
                _download(ref, file, revision, _Bounded(out, file, heard), resumed)
            out.flush()
            os.fsync(out.fileno())
        if part.stat().st_size == file.size and (digest := _right(part, file)):
            return part, digest
        part.unlink()
        heard.done = before
        if not resumed:
            break
    raise HubError(f"{file.name} from {ref} came with other bytes than {hub.endpoint()} promised; it was thrown away. Try again later.")


class _Bounded:
    """The file that huggingface_hub writes to: never longer than was promised."""

    def __init__(self, out: BinaryIO, file: Remote, heard: _Heard) -> None:
        self._out, self._file, self._heard = out, file, heard

    def write(self, data: bytes) -> int:
        if self._out.tell() + len(data) > self._file.size:
            self._out.truncate(0)
            raise HubError(f"{self._file.name} came longer than {hub.endpoint()} promised; it was thrown away. Try again later.")
        self._out.write(data)
        self._heard.tell(self._file.name, len(data))
        return len(data)

    def tell(self) -> int:
        return self._out.tell()

    def seek(self, place: int) -> int:
        return self._out.seek(place)

    def truncate(self) -> int:
        """Down to where it stands: the server sends the file from its beginning although it was asked for the rest."""
        left = self._out.tell()
        self._heard.done -= os.fstat(self._out.fileno()).st_size - left
        return self._out.truncate()


def _download(ref: Ref, file: Remote, revision: str, out: _Bounded, resumed: int) -> None:
    from huggingface_hub import get_hf_file_metadata, hf_hub_url, utils
    from huggingface_hub.file_download import http_get

    helpers: Any = utils
    url = hf_hub_url(ref.repo, file.name, revision=revision, endpoint=hub.endpoint())
    meta = get_hf_file_metadata(url, endpoint=hub.endpoint())
    headers = helpers.build_hf_headers()
    if urlsplit(meta.location).netloc != urlsplit(url).netloc:
        headers.pop("authorization", None)  # the token is the hub's, not the storage's to which it redirects
    target: Any = out
    try:
        http_get(meta.location, target, resume_size=resumed, headers=headers, displayed_filename=file.name, tqdm_class=hub.silent())
    except OSError as error:
        if error.errno is not None or type(error) is not OSError:
            raise
        # huggingface_hub's own word that less came than was announced; what came is kept
        raise HubError(f"The connection broke off while {file.name} was fetched; the same command resumes the download of {ref}.") from None


# -- what the model card says -------------------------------------------------------------------------------------------------------------


def _card(info: Any) -> About:
    """Licence and origin by the head of the model card. The card is somebody's text: anything may be missing or of another kind."""
    data = info.card_data.to_dict() if info.card_data is not None else {}
    tags = [tag.partition(":")[2] for tag in info.tags or () if isinstance(tag, str) and tag.startswith("license:")]
    base = data.get("base_model")
    stated = data.get("license") if isinstance(data.get("license"), str) else (tags or [""])[0]
    return About(
        licence=facts.licence(str(stated), str(data.get("license_name") or "")), licence_link=facts.clean(data.get("license_link") or ""),
        base=facts.clean(", ".join(map(str, base[:4])) if isinstance(base, list) else base or ""),
        author=facts.clean(info.author or ""),
    )  # fmt: skip


def _licence(ref: Ref, files: Sequence[Remote], revision: str, folder: Path) -> None:
    """The licence's text, where the repository has one."""
    file = next((file for file in files if _LICENCES.fullmatch(file.name) and 0 < file.size <= about.MAX_LICENCE), None)
    if file is None or (folder / about.LICENCE).exists():
        return
    _sound(ref, file)
    part, _ = _fetch(ref, file, revision, folder, _Heard(None))
    os.replace(part, folder / about.LICENCE)
