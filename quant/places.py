"""Where models lie on this machine: our own folder, Ollama, LM Studio, the caches of Hugging Face and llama.cpp, plain folders.

Models of other programs are found and used where they are: nothing is copied, written or removed there. Only names and sizes of files and
small manifests are read here, never a model. All of it comes from other programs or the network, so it is bounded and believed in nothing:
a broken entry is left out or told as the model's `fault`. Blocks on the disk.

Layouts: Ollama's `manifests/HOST/NAMESPACE/MODEL/TAG` (an OCI image manifest) over `blobs/sha256-HEX`; LM Studio's
`models/PUBLISHER/REPOSITORY/FILE`; huggingface_hub's `models--OWNER--NAME/snapshots/REVISION/FILE` with `refs/main`; llama.cpp's flat one.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from quant import hub

MAX_ENTRIES = 50_000  # of files and folders looked at in one place
MAX_DEPTH = 6
MAX_MANIFEST = 1 << 20  # bytes
MODEL_FOLDERS_VARIABLE = "POINTSMAN_MODELS"
_MODEL, _PROJECTOR = "application/vnd.ollama.image.model", "application/vnd.ollama.image.projector"
_BESIDE = {
    "application/vnd.ollama.image.license": "licence", "application/vnd.ollama.image.template": "template",
    "application/vnd.ollama.image.params": "settings", "application/vnd.ollama.image.system": "system",
    "application/vnd.ollama.image.adapter": "adapter",
}  # fmt: skip
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")
_PROJECTOR_ORDER = ("F16", "BF16", "Q8_0", "F32")


# What msgspec raises for bytes that are no JSON of the wanted kind.
UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


class Found(msgspec.Struct, frozen=True):
    """A model that lies somewhere. `name`: what it is called by; `files`: its GGUF files in order; `beside`: other files that belong to it
    (licence, template, settings, system, adapter); `origin`: where it came from, if the place tells; `fault`: why it cannot be used."""

    name: str
    place: str
    files: tuple[Path, ...]
    quant: str = ""
    origin: str = ""
    projector: Path | None = None
    beside: Mapping[str, Path] = {}
    fault: str = ""


class Places(msgspec.Struct, frozen=True):
    """The folders to look into. `own` is ours; all others are read only."""

    own: Path
    huggingface: tuple[Path, ...] = ()
    ollama: tuple[Path, ...] = ()
    lmstudio: tuple[Path, ...] = ()
    llamacpp: tuple[Path, ...] = ()
    folders: tuple[Path, ...] = ()


def from_environment(environ: Mapping[str, str] | None = None) -> Places:
    """The folders as each program's own variables and defaults say. Reads LM Studio's small settings file."""
    env = os.environ if environ is None else environ
    home = expanded(env.get("HOME") or "~")
    cache = _folder(env, "XDG_CACHE_HOME", home / ".cache")
    hf = _folder(env, "HF_HOME", cache / "huggingface")
    hub_cache = env.get("HF_HUB_CACHE") or env.get("HUGGINGFACE_HUB_CACHE")
    llamacpp = home / "Library" / "Caches" if sys.platform == "darwin" else cache
    system = () if env.get("OLLAMA_MODELS") else (Path("/usr/share/ollama/.ollama/models"), Path("/var/lib/ollama/.ollama/models"))
    return Places(
        own=_folder(env, "XDG_DATA_HOME", home / ".local" / "share") / "pointsman" / "models",
        huggingface=(expanded(hub_cache) if hub_cache else hf / "hub",),
        ollama=(_folder(env, "OLLAMA_MODELS", home / ".ollama" / "models"), *system),
        lmstudio=_lmstudio_folders(home, cache),
        llamacpp=(_folder(env, "LLAMA_CACHE", llamacpp / "llama.cpp"),),
        folders=tuple(expanded(part) for part in env.get(MODEL_FOLDERS_VARIABLE, "").split(os.pathsep) if part),
    )


def _folder(env: Mapping[str, str], variable: str, default: Path) -> Path:
    return expanded(env[variable]) if env.get(variable) else default


def expanded(path: str) -> Path:
    """The path with the user's home folder for "~"; as it stands where nobody knows one, as in some containers."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def _lmstudio_folders(home: Path, cache: Path) -> tuple[Path, ...]:
    """LM Studio's folder may have been moved: a pointer in the home folder, and `downloadsFolder` in its settings, say so."""
    pointer = _small(home / ".lmstudio-home-pointer").decode("utf-8", "replace").strip()
    base = Path(pointer) if pointer.startswith("/") else home / ".lmstudio"
    try:
        stated = msgspec.json.decode(_small(base / "settings.json") or b"{}", type=dict[str, object]).get("downloadsFolder")
    except UNREADABLE:
        stated = None
    moved = (Path(stated),) if isinstance(stated, str) and stated.startswith("/") else ()
    return tuple(dict.fromkeys((*moved, base / "models", cache / "lm-studio" / "models")))


def _small(path: Path) -> bytes:
    """A small file's content; nothing if it is not there, cannot be read, or is not small."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_MANIFEST + 1)
    except (OSError, ValueError):
        return b""
    return data if len(data) <= MAX_MANIFEST else b""


def look(places: Places) -> Iterator[Found]:
    """Every model in all places, ours first. A file that two places lead to is told once, where it was found first."""
    seen: set[str] = set()
    for found in _look(places):
        key = os.path.realpath(found.files[0])
        if found.place == "ollama" or key not in seen:  # Ollama has several names for one file, and all are meant
            seen.add(key)
            yield found


def _look(places: Places) -> Iterator[Found]:
    yield from _own(places.own)
    for hub_cache in places.huggingface:
        yield from _huggingface(hub_cache)
    for root in places.ollama:
        yield from _ollama(root)
    for root in places.lmstudio:
        yield from _lmstudio(root)
    for root in places.llamacpp:
        yield from _flat("llama.cpp", "llamacpp:", root, depth=1)
    for root in places.folders:
        yield from _flat("folder", "", root, depth=MAX_DEPTH)


# -- folders of GGUF files ----------------------------------------------------------------------------------------------------------------


def walk(root: Path, depth: int = MAX_DEPTH, end: str = ".gguf") -> list[str]:
    """The files below `root` whose name ends so, relative to it and sorted. Hidden entries and links to folders are passed by."""
    found: list[str] = []
    todo, seen = [("", depth)], 0
    while todo:
        folder, left = todo.pop()
        try:
            entries = os.scandir(root / folder)
        except OSError:
            continue  # not there, or not ours to read
        with entries:
            for entry in entries:
                seen += 1
                if seen > MAX_ENTRIES:
                    return sorted(found)
                path = f"{folder}/{entry.name}" if folder else entry.name
                if entry.name.startswith(".") or not entry.name.isprintable():
                    continue
                if entry.is_dir(follow_symlinks=False):
                    todo += [(path, left - 1)] if left > 1 else []
                elif entry.name.lower().endswith(end) and _is_file(entry):
                    found.append(path)
    return sorted(found)


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:  # a link to itself
        return False


def projector(files: Sequence[str]) -> str:
    """The vision projector among a repository's files, "" if there is none. Pure."""
    found = [name for name in files if name.lower().endswith(".gguf") and "mmproj" in name.rpartition("/")[2].lower()]
    rank = {quant: place for place, quant in enumerate(_PROJECTOR_ORDER)}
    return min(found, key=lambda name: (rank.get(hub.quant_of(name), len(rank)), name), default="")


def _fault(parts: Sequence[str]) -> str:
    return "" if hub.complete(parts) else f"only {len(parts)} of its parts are there ({Path(parts[0]).name}); fetch the others"


def repository(place: str, prefix: str, folder: Path, files: Sequence[str], origin: str = "") -> Iterator[Found]:
    """The models among the files of one repository: PREFIX:QUANT, or PREFIX:FILE where the quantisation does not tell them apart."""
    models = list(hub.grouped(files).values())
    quants = [hub.quant_of(parts[0]) for parts in models]
    eyes = projector(files)
    for parts, quant in zip(models, quants, strict=True):
        end = quant if quant and quants.count(quant) == 1 else parts[0]
        yield Found(
            f"{prefix}:{end}", place, tuple(folder / part for part in parts), quant, origin, folder / eyes if eyes else None,
            fault=_fault(parts),
        )  # fmt: skip


def _own(root: Path) -> Iterator[Found]:
    for folder in _folders(root / "hf", 2):
        repo = f"hf:{folder.parent.name}/{folder.name}"
        yield from repository("own", repo, folder, walk(folder), repo)
    for folder in _folders(root / "local", 1):
        files = walk(folder)
        models = list(repository("own", folder.name, folder, files))
        for found in models:  # one model in a folder is called by the folder alone
            yield msgspec.structs.replace(found, name=folder.name) if len(models) == 1 else found


def _folders(root: Path, depth: int) -> list[Path]:
    try:
        names = sorted(entry.name for entry in os.scandir(root) if entry.is_dir(follow_symlinks=False) and not entry.name.startswith("."))
    except OSError:
        return []
    found = [root / name for name in names[:MAX_ENTRIES] if name.isprintable()]
    return found if depth == 1 else [deeper for folder in found for deeper in _folders(folder, depth - 1)]


def _lmstudio(root: Path) -> Iterator[Found]:
    for folder in _folders(root, 2):
        name = f"{folder.parent.name}/{folder.name}"
        yield from repository("lmstudio", f"lmstudio:{name}", folder, walk(folder), f"hf:{name}")


def _flat(place: str, prefix: str, root: Path, depth: int) -> Iterator[Found]:
    """Models in a folder that has no order of its own: called by their file, with its folder in front where that is ambiguous."""
    files = walk(root, depth)
    models = hub.grouped(files)
    stems = [Path(stem).name for stem in models]
    for stem, parts in models.items():
        name = Path(stem).name if stems.count(Path(stem).name) == 1 else stem
        eyes = projector([file for file in files if Path(file).parent == Path(parts[0]).parent]) if depth > 1 else ""
        beside = root / eyes if eyes else None
        yield Found(
            prefix + name, place, tuple(root / part for part in parts), hub.quant_of(parts[0]), projector=beside, fault=_fault(parts)
        )


def _huggingface(root: Path) -> Iterator[Found]:
    for folder in _folders(root, 1):
        kind, _, name = folder.name.partition("--")
        repo = name.replace("--", "/")
        if kind != "models" or not re.fullmatch(r"[\w.-]+/[\w.-]+", repo):
            continue
        snapshot = _snapshot(folder)
        if snapshot is not None:
            yield from repository("huggingface", f"hf:{repo}", snapshot, walk(snapshot), f"hf:{repo}")


def _snapshot(folder: Path) -> Path | None:
    """The version that `main` names, else the newest."""
    revision = _small(folder / "refs" / "main").decode("ascii", "replace").strip()
    if re.fullmatch(r"[0-9a-zA-Z]{1,80}", revision) and (folder / "snapshots" / revision).is_dir():
        return folder / "snapshots" / revision
    versions = _folders(folder / "snapshots", 1)
    return max(versions, key=lambda path: path.stat().st_mtime, default=None)


# -- Ollama -------------------------------------------------------------------------------------------------------------------------------


class _Layer(msgspec.Struct):
    media: str = msgspec.field(name="mediaType", default="")
    digest: str = ""
    size: int = 0


class _Manifest(msgspec.Struct):
    layers: list[_Layer] = []


def _ollama(root: Path) -> Iterator[Found]:
    manifests = root / "manifests"
    for path in walk(manifests, end=""):
        parts = path.split("/")
        if len(parts) >= 3:
            found = _ollama_model(root, manifests / path, _ollama_name(parts))
            if found is not None:
                yield found


def _ollama_name(parts: Sequence[str]) -> str:
    """As `ollama` itself calls it: what goes without saying is left out."""
    host, *middle, model, tag = parts
    space = "/".join(middle)
    shown = (
        "" if (host, space) == ("registry.ollama.ai", "library") else space + "/" if host == "registry.ollama.ai" else f"{host}/{space}/"
    )
    return f"ollama:{shown}{model}" + ("" if tag == "latest" else f":{tag}")


def _ollama_model(root: Path, path: Path, name: str) -> Found | None:
    try:
        layers = msgspec.json.decode(_small(path), type=_Manifest).layers[:64]
    except UNREADABLE:
        return Found(name, "ollama", (path,), fault="its manifest cannot be read; `ollama pull` it again")
    weights = [layer for layer in layers if layer.media == _MODEL]
    blobs = [_blob(root, layer) for layer in weights]
    if not weights:
        return None  # a model in the cloud, or one that is not a GGUF file
    files = tuple(blob for blob in blobs if blob is not None)
    if len(files) < len(blobs):
        return Found(name, "ollama", (path,), fault="its manifest names no proper blob; `ollama pull` it again")
    beside = {_BESIDE[layer.media]: blob for layer in layers if layer.media in _BESIDE and (blob := _blob(root, layer)) is not None}
    eyes = next((_blob(root, layer) for layer in layers if layer.media == _PROJECTOR), None)
    origin = "/".join(path.parts[-4:-1]) + f":{path.name}"
    return Found(name, "ollama", files, "", origin, eyes, beside, _lacking(weights, files))


def _blob(root: Path, layer: _Layer) -> Path | None:
    match = _DIGEST.fullmatch(layer.digest)  # nothing else may become a path
    return root / "blobs" / f"sha256-{match[1]}" if match else None


def _lacking(layers: Sequence[_Layer], files: Sequence[Path]) -> str:
    for layer, file in zip(layers, files, strict=True):
        try:
            size = file.stat().st_size
        except OSError:
            return f"its blob {file.name[:19]} is not there or not readable for this user; `ollama pull` it again"
        if layer.size and size != layer.size:
            return f"its blob {file.name[:19]} has {size} of {layer.size} bytes; `ollama pull` it again"
    return ""
