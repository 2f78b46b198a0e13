"""What was measured on this machine, and what it makes of predictions: one small JSON file.

For every kind of weights ("Q4_K_M"), for small models, and for all others together it keeps by how much predictions were off: seconds of a
token, seconds of a prompt, bytes beside weights and cache. Each new truth moves a factor by a part, on a logarithmic scale, so that neither
one bad moment nor a busy machine spoils it. The rules are pure; `load` and `save` block on the disk. A file of another machine, or one that
cannot be read, is as good as none.
"""

from __future__ import annotations

import contextlib
import fcntl
import math
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from quant.fit_factors import Factors
from quant.fit_speed import SMALL
from quant.places import expanded

FILE = "machine.json"
MAX_KINDS = 64
MAX_RUNS = 1_000_000
MAX_FILE = 1 << 20
SHARE = 0.3  # how far a new truth moves a factor that others have already shaped
_ALL = ""
_BOUNDS = {"decode": (1 / 64, 64.0), "prefill": (1 / 64, 64.0), "base": (0.5, 2.0), "memory": (0.5, 2.0)}


class CalibrationError(ValueError):
    """The file cannot be written. `str()` is one sentence."""


class Kept(msgspec.Struct, frozen=True):
    """Factors of one kind of weights, and how many truths shaped each."""

    decode: float = 1.0
    prefill: float = 1.0
    base: float = 1.0
    memory: float = 1.0
    runs: Mapping[str, int] = {}


class Book(msgspec.Struct, frozen=True):
    """All that is kept of a machine. `bandwidth`: bytes a second, 0: not measured yet."""

    fingerprint: str = ""
    bandwidth: float = 0.0
    kinds: Mapping[str, Kept] = {}

    def factors(self, kind: str) -> Factors:
        """For weights of this kind: its own truths, else those of all kinds, else none."""

        def one(what: str) -> float:
            return float(getattr(self._source(kind, what), what))

        return Factors(one("decode"), one("prefill"), one("base"), one("memory"))

    def knows(self, kind: str) -> bool:
        """Whether speeds of such weights are corrected by a truth."""
        return bool(self._source(kind, "decode").runs.get("decode"))

    def _source(self, kind: str, what: str) -> Kept:
        own = self.kinds.get(kind, Kept())
        return own if kind == SMALL or own.runs.get(what) else self.kinds.get(_ALL, Kept())


def learn(book: Book, kind: str, what: str, predicted: float, measured: float) -> Book:
    """The book after a truth. `what`: "decode" or "prefill" (seconds), "base" or "memory" (bytes); `predicted`: without any
    factor. Numbers that can be no truth (none, negative, infinite) change nothing. Pure; raises `KeyError` for another `what`."""
    low, high = _BOUNDS[what]
    if not (math.isfinite(predicted) and math.isfinite(measured) and predicted > 0 and measured > 0):
        return book
    seen = min(high, max(low, measured / predicted))
    kinds = dict(book.kinds)
    for name in {kind, kind if kind == SMALL else _ALL}:
        if name in kinds or len(kinds) < MAX_KINDS:
            kinds[name] = _moved(kinds.get(name, Kept()), what, seen)
    return msgspec.structs.replace(book, kinds=kinds)


def _moved(kept: Kept, what: str, seen: float) -> Kept:
    runs = kept.runs.get(what, 0)
    share = max(SHARE, 1.0 / (runs + 1))
    low, high = _BOUNDS[what]
    factor = math.exp((1 - share) * math.log(getattr(kept, what)) + share * math.log(seen))
    counted = {**kept.runs, what: min(runs + 1, MAX_RUNS)}
    return msgspec.structs.replace(kept, runs=counted, **{what: min(high, max(low, factor))})


def with_bandwidth(book: Book, bandwidth: float, change: float) -> Book:
    """The book with another bandwidth, by which tokens are predicted to be `change` times as fast as with the one before. What was learned
    of their seconds was relative to that, and keeps its meaning. Pure."""
    low, high = _BOUNDS["decode"]
    kinds = {
        name: msgspec.structs.replace(kept, decode=min(high, max(low, kept.decode * change))) if kept.runs.get("decode") else kept
        for name, kept in book.kinds.items()
    }
    return msgspec.structs.replace(book, bandwidth=bandwidth, kinds=kinds)


def place(environ: Mapping[str, str] = os.environ) -> Path:
    """Where the file is: `pointsman/machine.json` in the folder for state (XDG base directories)."""
    base = environ.get("XDG_STATE_HOME", "")
    return (Path(base) if os.path.isabs(base) else expanded("~/.local/state")) / "pointsman" / FILE


def update(path: Path, fingerprint: str, change: Callable[[Book], Book]) -> Book:
    """Changes what is kept, as it is in this moment: one process at a time. Returns the new book. Blocks; raises `CalibrationError`, and
    then nothing has changed."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.with_name(f"{path.name}.lock").open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            book = change(load(path, fingerprint))
            save(path, book)
            return book
    except OSError as error:
        raise _unkept(path, error) from None


def load(path: Path, fingerprint: str) -> Book:
    """What is kept of the machine `fingerprint`; an empty book where nothing is, or nothing usable. Blocks; never raises."""
    with contextlib.suppress(OSError, msgspec.DecodeError, UnicodeDecodeError), path.open("rb") as file:
        book = msgspec.json.decode(file.read(MAX_FILE), type=Book)
        if book.fingerprint == fingerprint and _sane(book):
            return book
    return Book(fingerprint)


def _sane(book: Book) -> bool:
    """Whether every number is one that `learn` could have left: the file may have been edited."""
    if len(book.kinds) > MAX_KINDS or not (math.isfinite(book.bandwidth) and book.bandwidth >= 0):
        return False
    factors = [(what, getattr(kept, what)) for kept in book.kinds.values() for what in _BOUNDS]
    return all(_BOUNDS[what][0] <= factor <= _BOUNDS[what][1] for what, factor in factors)


def save(path: Path, book: Book) -> None:
    """Writes the book whole or not at all. Blocks; raises `CalibrationError`."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        number, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(number, "wb") as file:
                file.write(msgspec.json.format(msgspec.json.encode(book), indent=2))
            os.replace(name, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(name)
            raise
    except OSError as error:
        raise _unkept(path, error) from None


def _unkept(path: Path, error: OSError) -> CalibrationError:
    return CalibrationError(f"What was measured cannot be kept in {path}: {error.strerror}; set XDG_STATE_HOME to a writable folder.")
