"""All models on this machine in one namespace, whoever put them there: what `--model` and `model:` take besides a file.

Names: `hf:OWNER/NAME:QUANT` (ours or in Hugging Face's cache), `ollama:llama3.2`, `lmstudio:PUBLISHER/NAME:QUANT`, `llamacpp:FILE`, and
plain names of imported models and of files in the folders of $POINTSMAN_MODELS. A name may leave out its quantisation, and its prefix
where only one model is meant. Only what lies in our own folder can be removed. Everything here blocks on the disk.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import msgspec

from backends.engines import gguf
from quant import about, facts, hub, places, tensors
from quant.label import SUFFIX, label

PREFIXES = ("hf:", "ollama:", "lmstudio:", "llamacpp:")
INDEX = "index.json"
_SHOWN = 6  # names in a sentence


class ModelError(ValueError):
    """Why a model cannot be found or changed. `str()` is one sentence: what, where, what to do."""


class Model(msgspec.Struct, frozen=True):
    """A model on this machine. `files`: its GGUF files, the first one is what an engine is given; `projector`: its vision part; `owned`:
    it lies in our own folder and may be removed; `fault`: why it cannot be used ("" when it can)."""

    name: str
    place: str
    files: tuple[Path, ...]
    facts: facts.Facts
    quant: str = ""
    origin: str = ""
    licence: str = ""
    licence_link: str = ""
    base: str = ""
    author: str = ""
    projector: Path | None = None
    beside: dict[str, Path] = {}
    revision: str = ""
    owned: bool = False
    fault: str = ""

    @property
    def path(self) -> Path:
        """The file that an engine is given."""
        return self.files[0]

    @property
    def quality(self) -> str:
        """Its quality as it was measured, "" if it was not. Blocks on the disk."""
        try:
            found = label(self.path) if not self.fault else None
        except (OSError, ValueError):
            return ""
        return facts.clean(found) if found is not None else ""

    @property
    def bytes(self) -> int:
        """Of all its files, without the projector."""
        return self.facts.bytes


def every(where: places.Places | None = None) -> list[Model]:
    """All models on this machine, ours first; those that cannot be used say why. Blocks; the first time it reads every header."""
    where = where or places.from_environment()
    index = facts.Index(where.own / INDEX)
    models = [_model(found, index) for found in places.look(where)]
    index.save(whole=True)
    return models


def find(name: str, where: places.Places | None = None) -> Model:
    """The model that `name` means: `builtin`, a file, a name of `every`, or as much of one as is needed. Blocks; raises `ModelError`."""
    where = where or places.from_environment()
    if name == "builtin":
        from quant import builtin

        return _of_file(builtin.path(), where)
    if is_file(name):
        return _of_file(places.expanded(name), where)
    found = list(places.look(where))
    meant = _meant(name, found)
    if not meant:
        raise ModelError(_nothing(name, found))
    if len(meant) > 1:
        shown = ", ".join(one.name for one in meant[:_SHOWN]) + (", ..." if len(meant) > _SHOWN else "")
        raise ModelError(f"{facts.clean(name, 100)} can mean {shown}; write one of these.")
    index = facts.Index(where.own / INDEX)
    model = _model(meant[0], index)
    index.save()
    return model


def resolve(name: str, where: places.Places | None = None) -> Path:
    """The file that an engine is given for `name` in the configuration; what is `hf:` and not here is fetched. Blocks, possibly for hours;
    raises `ModelError` or `hub.HubError`."""
    if name == "builtin":
        from quant import builtin

        return builtin.path()
    if is_file(name):
        return places.expanded(name)
    if not name.startswith("hf:"):
        return _usable(find(name, where))
    where = where or places.from_environment()
    ours = _meant(name, [found for found in places.look(msgspec.structs.replace(where, **_NOWHERE)) if not found.fault])
    return ours[0].files[0] if ours else hub.resolve(name, cache=where.huggingface[0] if where.huggingface else None)


def projector(name: str, path: Path) -> Path | None:
    """The vision projector that belongs to the model `name`, whose file is `path`; None for a model that is named by its file, which may
    lie beside anything. Blocks."""
    if is_file(name):
        return None
    try:
        beside = find(name).projector
    except ModelError:  # of a cache that is nowhere in the list
        beside = None
    if beside is None and name.startswith("hf:"):
        eyes = places.projector([one.name for one in path.parent.iterdir()])
        beside = path.parent / eyes if eyes else None
    return beside


_NOWHERE: dict[str, tuple[Path, ...]] = {"huggingface": (), "ollama": (), "lmstudio": (), "llamacpp": (), "folders": ()}


def _usable(model: Model) -> Path:
    if model.fault:
        raise ModelError(f"{model.name} cannot be used: {model.fault.rstrip('.')}.")
    return model.path


def is_file(name: str) -> bool:
    """Whether `name` is meant as a file rather than as a name of a model."""
    if name.startswith(PREFIXES):
        return False
    return name.startswith(("/", ".", "~")) or name.lower().endswith(".gguf") or Path(name).is_file()


def remove(model: Model, where: places.Places | None = None) -> list[Path]:
    """Removes a model of ours: its files, and what only it needed; the removed paths. Blocks; raises `ModelError` for models of others."""
    where = where or places.from_environment()
    if not model.owned or not all(path.is_relative_to(where.own) for path in model.files):
        raise ModelError(f"{model.name} lies in {model.path.parent} and belongs to {_WHO[model.place]}; remove it there.")
    folder = _home(model.path, where.own)
    try:
        with about.held(folder):
            return _remove(model, folder)
    except OSError as error:
        raise ModelError(f"{model.name} cannot be removed: {error.strerror} ({error.filename}).") from None


_WHO = {
    "huggingface": "the Hugging Face cache", "ollama": "Ollama", "lmstudio": "LM Studio", "llama.cpp": "llama.cpp's cache",
    "folder": "you", "file": "you",
}  # fmt: skip


def _home(path: Path, own: Path) -> Path:
    """The folder of ours that holds a model: `hf/OWNER/NAME` or `local/NAME`."""
    parts = path.relative_to(own).parts
    return own.joinpath(*parts[: 3 if parts[0] == "hf" else 2])


def _remove(model: Model, folder: Path) -> list[Path]:
    going = [*model.files, *(path for file in model.files if (path := file.with_name(file.name + SUFFIX)).is_file())]
    others = [name for name in places.walk(folder) if folder / name not in going and folder / name != model.projector]
    if not others:
        going += [path for path in sorted(folder.iterdir()) if path.is_file() and path not in going and path.name != about.LOCK]
    else:
        known = about.load(folder)
        gone = {str(path.relative_to(folder)) for path in going}
        about.save(folder, msgspec.structs.replace(known, files={name: fact for name, fact in known.files.items() if name not in gone}))
    for path in going:
        path.unlink(missing_ok=True)
    inner = {parent for file in going for parent in file.parents if parent.is_relative_to(folder) and parent != folder}
    for path in sorted(inner, reverse=True):
        with contextlib.suppress(OSError):  # another model lies in it
            path.rmdir()
    return going


# -- names --------------------------------------------------------------------------------------------------------------------------------


def _meant(name: str, found: Sequence[places.Found]) -> list[places.Found]:
    """The models that a name can mean: the first rule that fits any decides. Pure."""
    rules: tuple[Callable[[places.Found], bool], ...] = (
        lambda one: one.name == name,
        lambda one: one.name.lower() == name.lower(),
        lambda one: _bare(one.name).lower() == name.lower(),
        lambda one: _short(one.name).lower() == name.lower(),
        lambda one: _short(_bare(one.name)).lower() == name.lower(),
    )
    for number, rule in enumerate(rules):
        fitting = [one for one in found if rule(one)]
        if number < 2 and fitting:
            return fitting[:1]  # the same name in two places: ours comes first
        if fitting:
            return _best(fitting)
    return []


def _best(found: Sequence[places.Found]) -> list[places.Found]:
    """Of one model in several quantisations the one that we would fetch; of different models all. Pure."""
    if len({_bare(one.name).lower() for one in found}) > 1:
        return list({one.name: one for one in reversed(found)}.values())[::-1]
    rank = {quant: place for place, quant in enumerate(hub.PREFERRED)}
    return sorted(found, key=lambda one: (bool(one.fault), rank.get(one.quant.removeprefix("UD-"), len(rank))))[:1]


def _bare(name: str) -> str:
    """A name without its quantisation; Ollama's tags are more than that and stay."""
    prefix = next((prefix for prefix in PREFIXES if name.startswith(prefix)), "")
    return name if prefix == "ollama:" else prefix + name.removeprefix(prefix).partition(":")[0]


def _short(name: str) -> str:
    """A name without where it comes from."""
    prefix = next((prefix for prefix in PREFIXES if name.startswith(prefix)), "")
    head, colon, tail = name.removeprefix(prefix).partition(":")
    return head.rpartition("/")[2] + colon + tail


def _nothing(name: str, found: Iterable[places.Found]) -> str:
    shown = facts.clean(name, 100)
    if name.startswith("hf:"):
        return f"{shown} is not on this machine; `pointsman pull {shown}` fetches it."
    import difflib

    names = sorted({spelt for one in found for spelt in (one.name, _short(_bare(one.name)))})
    near = difflib.get_close_matches(name, names, 3, 0.6)
    end = f"; did you mean {' or '.join(near)}?" if near else "; `pointsman ls` lists those that are."
    return f"There is no model {shown!r} on this machine{end}"


# -- models -------------------------------------------------------------------------------------------------------------------------------


def _model(found: places.Found, index: facts.Index) -> Model:
    """What was found, with what its header and its folder say."""
    said = facts.Facts(fault=found.fault) if found.fault else index.facts(found.files)
    owned = found.place == "own"
    known = about.load(_folder_of(found)) if owned else about.About()
    licence = known.licence or _licence_beside(found) or said.licence
    return Model(
        found.name, found.place, found.files, said, found.quant or said.quant,
        facts.clean(known.origin or found.origin or said.origin), facts.clean(licence),
        facts.clean(known.licence_link or said.licence_link), facts.clean(known.base or said.base),
        facts.clean(known.author or said.author), found.projector,
        dict(found.beside), facts.clean(known.revision, 80), owned, said.fault,
    )  # fmt: skip


def _folder_of(found: places.Found) -> Path:
    """Where `about.json` of a model of ours lies: beside its files, or above them where the repository has folders."""
    folder = found.files[0].parent
    return next((parent for parent in (folder, *folder.parents[:2]) if (parent / about.NAME).is_file()), folder)


def _licence_beside(found: places.Found) -> str:
    text = found.beside.get("licence")
    return facts.licence_of_text(read_text(text)) if text is not None else ""


def read_text(path: Path, limit: int = about.MAX_LICENCE) -> str:
    """A text beside a model, at most `limit` bytes of it; "" if it cannot be read."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return ""
        with path.open("rb") as file:
            return file.read(limit).decode("utf-8", "replace")
    except OSError:
        return ""


def _of_file(path: Path, where: places.Places) -> Model:
    """A file as a model: with the other parts, where it is the first of several."""
    if not path.exists():
        raise ModelError(f"The model file {path} does not exist.")
    if path.is_dir():
        raise ModelError(f"{path} is a folder; name the .gguf file in it.")
    beside = [name for name in os.listdir(path.parent) if name.lower().endswith(".gguf")]
    parts = next((parts for parts in hub.grouped(beside).values() if path.name in parts), [path.name])
    found = places.Found(str(path), "file", tuple(path.parent / part for part in parts), hub.quant_of(path.name))
    index = facts.Index(where.own / INDEX)
    if path.absolute().is_relative_to(where.own):
        return next((_model(one, index) for one in places.look(where) if path.absolute() in one.files), _model(found, index))
    return _model(found, index)


# -- more of one model --------------------------------------------------------------------------------------------------------------------


class Kind(msgspec.Struct, frozen=True):
    """The tensors of one type. `share`: of the bytes of all tensors."""

    kind: str
    number: int
    bytes: int
    share: float


class Detail(msgspec.Struct, frozen=True):
    """What of a model only its table of tensors tells. `bits`: per weight; `fault`: why the table cannot be read."""

    kinds: tuple[Kind, ...] = ()
    tensor_bytes: int = 0
    bits: float = 0.0
    fault: str = ""


def detail(model: Model) -> Detail:
    """The tensors of all files by type, largest share first. Blocks; never raises."""
    if model.fault:
        return Detail(fault=model.fault)
    try:
        loaded = [tensors.load(file, model=not at) for at, file in enumerate(model.files)]
    except (gguf.GgufError, tensors.TensorError) as error:
        return Detail(fault=facts.clean(error))
    sizes: dict[str, tuple[int, int]] = {}
    for tensor in (tensor for one in loaded for tensor in one.tensors):
        number, size = sizes.get(tensor.kind, (0, 0))
        sizes[tensor.kind] = (number + 1, size + tensor.size)
    total, weights = sum(size for _, size in sizes.values()), sum(one.weights for one in loaded)
    kinds = sorted((Kind(kind, number, size, size / total) for kind, (number, size) in sizes.items()), key=lambda one: -one.bytes)
    return Detail(tuple(kinds), total, 8 * total / weights)


def template(model: Model) -> str:
    """The chat template in the model's file, "" if it has none. Blocks; raises `ModelError`."""
    try:
        value = gguf.read(model.path).values.get("tokenizer.chat_template")
    except gguf.GgufError as error:
        raise ModelError(str(error)) from None
    return value if isinstance(value, str) else ""
