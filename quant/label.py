"""A model's quality label: how far a quantised file is from its source, as it was measured here (`quant.evaluate`).

It lies beside the model as `MODEL.gguf.quality.json`, or, where that folder cannot be written (an engine's own store), in this user's data
folder under the file's size and sample. It belongs to one content: a file of another size, or with other bytes where it is sampled, has no
label. Blocks on the disk.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import msgspec

from quant.evaluate_figures import Estimate
from quant.output import Output, OutputError

SUFFIX = ".quality.json"
VERSION = 1
MAX_BYTES = 1 << 20  # of a label's file
_SAMPLES, _SAMPLE = 64, 16 << 10  # places that are looked at, bytes at each: one mebibyte, whatever the model's size
_CHUNK = 4 << 20

Progress = Callable[[int, int], None]  # bytes done, bytes in all


class LabelError(RuntimeError):
    """Why a label cannot be written. `str()` is one sentence."""


class Identity(msgspec.Struct, frozen=True):
    """Which content. `sample`: SHA-256 over its size and a mebibyte of it, evenly spread; `sha256`: of all of it ("": not computed)."""

    bytes: int
    sample: str
    sha256: str = ""


class Label(msgspec.Struct, frozen=True):
    """What was measured of one file. `of`: that file; `source`, `source_sha256`: what it was compared with ("": nothing). `kld`: nats a
    token; `same`: share of tokens with the same first choice; `flips`: share where just one of both has the text's own token first.
    `prompts_kld`, `prompts_same`: the same on the user's own prompts. `tasks`, `source_tasks`: share of small questions with the right
    answer; `task_flips`: share whose answer changed between right and wrong. `texts`: hash of what was read, `tokens` of it. `date`: ISO
    8601, UTC. `kind`: "Q4_K_M"."""

    version: int
    of: Identity
    name: str
    kind: str
    date: str
    texts: str
    tokens: int
    perplexity: Estimate
    source: str = ""
    source_sha256: str = ""
    source_kind: str = ""
    kld: Estimate | None = None
    same: Estimate | None = None
    flips: Estimate | None = None
    perplexity_ratio: Estimate | None = None
    prompts: str = ""
    prompts_kld: Estimate | None = None
    prompts_same: Estimate | None = None
    tasks: Estimate | None = None
    source_tasks: Estimate | None = None
    task_flips: Estimate | None = None
    engine: str = ""

    def __str__(self) -> str:
        """In short: "KLD 0.028, 92 % same top token"."""
        if self.kld is None or self.same is None:
            return f"perplexity {self.perplexity.value:.4g}"
        return f"KLD {kld_text(self.kld.value)}, {share_text(self.same.value)} same top token"


def kld_text(value: float) -> str:
    """A KLD with the digits that mean something. Pure."""
    if value < 5e-6:
        return "0"
    return f"{value:.2g}" if value < 0.001 else f"{value:.4f}" if value < 0.01 else f"{value:.3f}" if value < 1 else f"{value:.2f}"


def share_text(value: float) -> str:
    """A share in per cent; only all of it is 100 %, and only nothing 0 %. Pure."""
    if 0 < value < 0.1:
        return f"{max(value * 100, 0.1):.1f} %"
    if 0.99 <= value < 1:
        return f"{min(value * 100, 99.9):.1f} %"
    return f"{value * 100:.0f} %"


def identity(path: Path, *, whole: bool = False, progress: Progress | None = None) -> Identity:
    """Which content a file has. `whole`: with the hash of all of it, which takes as long as reading it. Raises `OSError`."""
    with path.open("rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        sample = hashlib.sha256(str(size).encode())
        for start in _places(size):
            sample.update(os.pread(file.fileno(), _SAMPLE, start))
        return Identity(size, sample.hexdigest(), _whole(file.fileno(), size, progress) if whole else "")


def _places(size: int) -> Iterator[int]:
    """Where a file is sampled: its start, its end, and evenly between."""
    last = max(0, size - _SAMPLE)
    yield from sorted({last * at // (_SAMPLES - 1) for at in range(_SAMPLES)})


def _whole(file: int, size: int, progress: Progress | None) -> str:
    whole, done = hashlib.sha256(), 0
    os.lseek(file, 0, os.SEEK_SET)
    while data := os.read(file, _CHUNK):
        whole.update(data)
        done += len(data)
        if progress is not None:
            progress(done, max(size, done))
    return whole.hexdigest()


def folder(environment: Mapping[str, str] = os.environ) -> Path:
    """Where labels lie that cannot lie beside their model: `$XDG_DATA_HOME/pointsman/labels`."""
    data = environment.get("XDG_DATA_HOME")
    return (Path(data) if data and os.path.isabs(data) else Path.home() / ".local" / "share") / "pointsman" / "labels"


def place(path: str | os.PathLike[str]) -> Path:
    """Where a model's label lies beside it. Pure."""
    return Path(f"{os.fspath(path)}{SUFFIX}")


def _apart(which: Identity, environment: Mapping[str, str]) -> Path:
    return folder(environment) / f"{which.bytes}-{which.sample[:32]}.json"


def label(path: str | os.PathLike[str], environment: Mapping[str, str] = os.environ) -> Label | None:
    """The label of the model at `path`, or None where it has none, or one of another content. Reads at most some mebibytes; a label that is
    no label counts as none."""
    model = Path(path)
    try:
        which = identity(model)
        candidates = [place(model), place(model.resolve()), _apart(which, environment)]
    except (OSError, RuntimeError):  # RuntimeError: a home that nobody has, links in a circle
        return None
    for candidate in dict.fromkeys(candidates):
        found = _read(candidate)
        if found is not None and (found.of.bytes, found.of.sample) == (which.bytes, which.sample):
            return found
    return None


def _read(path: Path) -> Label | None:
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
        found = msgspec.json.decode(raw, type=Label) if len(raw) <= MAX_BYTES else None
    except (OSError, msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return None
    return found if found is not None and found.version == VERSION else None


def write(path: str | os.PathLike[str], made: Label, environment: Mapping[str, str] = os.environ) -> Path:
    """Puts a label beside the model at `path`, or into the user's folder where that does not work; where it is. Raises `LabelError`."""
    raw = msgspec.json.format(msgspec.json.encode(made), indent=2) + b"\n"
    try:
        return _put(place(path), raw)
    except OutputError as beside:
        apart = _apart(made.of, environment)
        try:
            apart.parent.mkdir(parents=True, exist_ok=True)
            return _put(apart, raw)
        except (OSError, OutputError):
            raise LabelError(f"The label cannot be kept: {beside}") from None


def _put(path: Path, raw: bytes) -> Path:
    with Output(path, len(raw), overwrite=True) as output:
        output.write(raw)
    return path


def remove(path: str | os.PathLike[str]) -> None:
    """Removes the label beside a model, if there is one: for whoever removes the model. Raises `OSError`."""
    place(path).unlink(missing_ok=True)
