"""What a run leaves on the disk: a report, a summary, a line for each request. Blocks while it reads and writes."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import msgspec

from benchmarks.bench import times
from benchmarks.bench.errors import BenchError
from benchmarks.bench.figures import OPEN
from benchmarks.bench.plain import from_json, to_json
from benchmarks.bench.texts import option, sane
from benchmarks.bench.words import Result, Stage, Timed

SUFFIXES = {".html": "the report", ".json": "the summary", ".jsonl": "a line for each request"}
_MOST = 1 << 28  # bytes of a summary that is read; real ones have some kilobytes


class Request(msgspec.Struct):
    """One line of FILE.jsonl: one request, without anything of its text or of its answer's.

    `level`, `repeat` and `index` name it; `warm`: part of the warm-up, which counts in no figure. Requests that
    the run itself ended are not there.
    `due`, `sent`, `first`, `last` and `done` are seconds from its stage's start, null for what did not happen; `due` is null in a closed
    loop. `ttft` and `e2e` are seconds from `sent`, `ttft_due` and `e2e_due` from `due`, `tpot` seconds a token after the first; all are
    null for a request that failed. Tokens are as the server counts them, null where it does not tell; `chunks`: how many brought content.
    `status`: 0 where none came. `error`: what it failed of, as far as 300 characters; empty: it was answered whole.
    """

    level: str
    repeat: int
    index: int
    due: float | None
    sent: float | None
    first: float | None
    last: float | None
    done: float | None
    ttft: float | None
    ttft_due: float | None
    tpot: float | None
    e2e: float | None
    e2e_due: float | None
    prompt_tokens: int | None
    completion_tokens: int | None
    cached_tokens: int | None
    reasoning_tokens: int | None
    asked_prompt: int
    asked_output: int
    chunks: int
    bytes_in: int
    status: int
    finish: str
    error: str
    warm: bool


def checked(paths: Iterable[str | Path], overwrite: bool, suffixes: Sequence[str] = tuple(SUFFIXES)) -> list[Path]:
    """The files that `--out` names, before anything is measured for them. Reads folders, writes nothing.

    BenchError: one cannot be meant or cannot be written, or is there already and may not be replaced.
    """
    found: list[Path] = []
    for path in map(Path, paths):
        try:
            _meant(path, suffixes)
            there = os.path.lexists(path)
        except (OSError, ValueError) as error:  # a name that is too long, or no name
            raise BenchError(f"--out {str(path)[:80]!r} cannot be written: {error}", usage=True) from None
        if path.resolve() in (p.resolve() for p in found):
            raise BenchError(f"--out {path} is named twice; name each file once", usage=True)
        if there and not overwrite:
            raise BenchError(f"--out {path} is there already; name another file, or add --overwrite", usage=True)
        found.append(path)
    return found


def _meant(path: Path, suffixes: Sequence[str]) -> None:
    if path.suffix.lower() not in suffixes:
        known = ", ".join(f"{s} ({SUFFIXES[s]})" if s in SUFFIXES else s for s in suffixes)
        raise BenchError(f"--out {path}: what is to be written goes by its end, and that is none of {known}", usage=True)
    if path.is_dir():
        raise BenchError(f"--out {path} is a folder; name a file in it", usage=True)
    if not path.parent.is_dir():
        raise BenchError(f"--out {path}: there is no folder {path.parent}; make it first", usage=True)
    if not os.access(path.parent, os.W_OK):
        raise BenchError(f"--out {path}: you may not write into {path.parent}; name another folder", usage=True)


def write(paths: Iterable[Path], result: Result, stages: Sequence[Stage], overwrite: bool) -> None:
    """A run into all files that were asked for, each by its suffix. What one cannot take does not keep the others from being written.

    BenchError: some could not be written, with all reasons.
    """
    problems = []
    for path in paths:
        try:
            save(path, content(path, result, stages), overwrite)
        except BenchError as error:
            problems.append(str(error))
    if problems:
        raise BenchError("; ".join(problems))


def content(path: Path, result: Result, stages: Sequence[Stage]) -> Iterator[bytes]:
    """What stands in `path`, by its suffix, in pieces."""
    kind = path.suffix.lower()
    if kind == ".jsonl":
        yield from lines(stages)
    elif kind == ".json":
        yield to_json(result) + b"\n"
    else:
        from benchmarks.bench.report import page

        yield page(result, stages)


def save(path: Path, pieces: Iterable[bytes], overwrite: bool) -> None:
    """Writes a file whole or not at all: beside it first, then under its name. BenchError: it cannot be, or is there already."""
    beside = path.with_name(f".{secrets.token_hex(6)}.part")
    try:
        with open(beside, "xb") as file:
            for piece in pieces:
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        _place(beside, path, overwrite)
    except FileExistsError:
        raise BenchError(f"{path} was written by someone else meanwhile, and was left as it is; run again with --overwrite") from None
    except OSError as error:
        raise BenchError(f"{path} could not be written: {error.strerror or error}") from None
    finally:
        beside.unlink(missing_ok=True)


def _place(beside: Path, path: Path, overwrite: bool) -> None:
    if overwrite:
        os.replace(beside, path)
        return
    try:
        os.link(beside, path)  # unlike a rename, it never replaces
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        if path.exists():
            raise FileExistsError(path) from None
        os.replace(beside, path)


def lines(stages: Sequence[Stage]) -> Iterator[bytes]:
    """A line of JSON for each request, stage after stage."""
    encoder = msgspec.json.Encoder()
    for stage in stages:
        for timed in stage.timed:
            yield encoder.encode(request(stage, timed)) + b"\n"


def request(stage: Stage, timed: Timed) -> Request:
    """One request as its line says it. Pure."""
    due = _moment(timed.due) if stage.profile.name in OPEN else None
    sent = _moment(timed.sent)
    good = timed.good and sent is not None
    end = times.end(timed)
    first = timed.first
    return Request(
        level=option(stage.profile),
        repeat=stage.repeat,
        index=timed.index,
        due=due,
        sent=sent,
        first=first,
        last=timed.last,
        done=_moment(timed.done),
        ttft=first - timed.sent if good and first is not None else None,
        ttft_due=first - due if good and first is not None and due is not None else None,
        tpot=times.tpot(timed) if good else None,
        e2e=end - timed.sent if good else None,
        e2e_due=end - due if good and due is not None else None,
        prompt_tokens=timed.prompt_tokens,
        completion_tokens=timed.completion_tokens,
        cached_tokens=timed.cached_tokens,
        reasoning_tokens=timed.reasoning_tokens,
        asked_prompt=timed.asked_prompt,
        asked_output=timed.asked_output,
        chunks=len(timed.stamps),
        bytes_in=timed.bytes_in,
        status=timed.status,
        finish=timed.finish,
        error=timed.error[:300].encode(errors="replace").decode(),
        warm=timed.warm,
    )


def _moment(at: float) -> float | None:
    """A moment of a stage, None where it never came: Timed says 0 then."""
    return sane(at) if at > 0 else None


def write_requests(path: Path, stages: Sequence[Stage], overwrite: bool = False) -> None:
    """A line for each request: see `Request`. BenchError: it could not be written, or is there already."""
    save(path, lines(stages), overwrite)


def write_result(path: Path, result: Result, overwrite: bool = False) -> None:
    """The summary, with all provenance. BenchError: it could not be written, or is there already."""
    save(path, [to_json(result) + b"\n"], overwrite)


def read_result(path: Path) -> Result:
    """A summary that `write_result` wrote. BenchError: there is none, it cannot be read, or it is something else."""
    return from_json(_read(path), str(path))


def read_requests(path: Path) -> list[Request]:
    """All lines that `write_requests` wrote. BenchError: there are none, they cannot be read, or one is something else (which one)."""
    out = []
    decoder = msgspec.json.Decoder(Request)
    for number, line in enumerate(_read(path).splitlines(), 1):
        try:
            out.append(decoder.decode(line))
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise BenchError(f"{path}, line {number}, is no request of `pointsman bench` (its --out FILE.jsonl): {error}") from None
    return out


def _read(path: Path) -> bytes:
    try:
        with open(path, "rb") as file:
            data = file.read(_MOST + 1)
    except OSError as error:
        raise BenchError(f"{path} cannot be read: {error.strerror or error}") from None
    if len(data) > _MOST:
        raise BenchError(f"{path} has more than {_MOST >> 20} MiB: that is no file of `pointsman bench` that can be read whole")
    return data
