"""Requests that were made once, read again: public traces of lengths and times, and captures of whole requests.

Read line by line, plain or gzip; how a file is written is seen by its first line. Blocks on the disk for one line at a time.

- Mooncake (Qin et al., FAST '25): JSONL with `timestamp` in milliseconds, `input_length`, `output_length` and `hash_ids`: one id for each
  block of 512 tokens of the prompt, which stands for the whole prefix up to it; the last block may be partial. In some files times lie on a
  grid of three seconds, with up to 28 requests at one: they are replayed so, unless `Cut.jitter` spreads them.
- Azure (Splitwise, ISCA '24; DynamoLLM, HPCA '25): CSV with the columns TIMESTAMP, ContextTokens, GeneratedTokens.
- Captures: JSONL, a line a request: `{"at": seconds, "body": {...}, "headers": {...}}`, or the body or its messages alone, without a
  time, as `pointsman quant evaluate --prompts` takes them.
- The gateway's store of responses (`responses.path` of its configuration).
"""

from __future__ import annotations

import gzip
import heapq
import io
import random
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import Annotated

import msgspec

from benchmarks.bench import captures, stored
from benchmarks.bench.captures import MOST, BadLine, Line
from benchmarks.bench.errors import BenchError

BLOCK = 512  # tokens of a Mooncake block
MAX_LINE = 8 << 20  # bytes
MAX_LINES = 10_000_000
_WINDOW = 256  # lines that may be out of order: captures are written when answers end
_WINDOW_BYTES = 64 << 20
_MOST_JITTER = 10.0
_LONGEST = 3650 * 86400.0  # seconds
_AZURE = ("timestamp", "contexttokens", "generatedtokens")
_Parse = Callable[[bytes], Line | None]  # None: cannot be replayed


class Cut(msgspec.Struct, frozen=True):
    """Which lines are taken. `start`, `stop`: seconds from the first line, the latter not included, where
    lines have times; `limit`: lines in all; `max_input`:
    tokens that a prompt may have; `context`: prompt and answer together. What is longer is left out, or its prompt is cut with `clip`.
    `jitter`: each line comes so many seconds later at most, by chance, the same for the same line; at most 10."""

    start: float = 0.0
    stop: float | None = None
    limit: int | None = None
    max_input: int | None = None
    context: int | None = None
    clip: bool = False
    jitter: float = 0.0


class Counts(msgspec.Struct):
    """What became of the lines: `taken`, of these `clipped`; `too_long` and `not_text` (holds what cannot be replayed, or is private) were
    left out."""

    taken: int = 0
    clipped: int = 0
    too_long: int = 0
    not_text: int = 0

    def notes(self) -> list[str]:
        """The same in sentences; nothing where every line was taken as it is."""
        said = []
        if self.clipped:
            said.append(f"{self.clipped} of {self.taken} prompts were longer than the model takes and were cut.")
        if self.too_long:
            said.append(f"{self.too_long} prompts were longer than the model takes and were left out.")
        if self.not_text:
            said.append(f"{self.not_text} requests were left out: they are private, or hold more than text and calls of functions.")
        return said


def lines(path: Path, cut: Cut | None = None, counts: Counts | None = None) -> Iterator[Line]:
    """The lines of `path` that `cut` takes, by time, with times from its `start`. `counts` is kept up to date.

    Blocks on the disk. Raises `BenchError`, with the number of the line that is at fault.
    """
    cut, counts = cut or Cut(), counts or Counts()
    if not 0 <= cut.jitter <= _MOST_JITTER:
        raise BenchError(f"a jitter of {cut.jitter:g} seconds is none; write 0 to {_MOST_JITTER:g}", usage=True)
    first = None
    for line in _ordered(_spread(_parsed(path, counts), cut.jitter), path.name):
        first = line.at if first is None else first
        at = line.at - first
        if at > _LONGEST:
            raise BenchError(f"line {line.number} of {path.name} is {at:,.0f} seconds after the first; check its time")
        if at < cut.start and line.timed:
            continue
        if (cut.stop is not None and at >= cut.stop and line.timed) or (cut.limit is not None and counts.taken >= cut.limit):
            return
        kept = _within(line, cut, counts)
        if kept is not None:
            counts.taken += 1
            yield msgspec.structs.replace(kept, at=at - cut.start if line.timed else 0.0)


def _within(line: Line, cut: Cut, counts: Counts) -> Line | None:
    """The line as the model can take it."""
    most = MOST if cut.max_input is None else cut.max_input
    if cut.context is not None:
        most = min(most, cut.context - max(1, line.output_tokens))
    if line.input_tokens <= most:
        return line
    if not cut.clip or line.body is not None or most < 1:
        counts.too_long += 1
        return None
    counts.clipped += 1
    return msgspec.structs.replace(line, input_tokens=most, blocks=line.blocks[: -(-most // BLOCK)])


def _spread(found: Iterable[Line], jitter: float) -> Iterator[Line]:
    for line in found:
        late = jitter * random.Random(line.number).random() if jitter and line.timed else 0.0
        yield msgspec.structs.replace(line, at=line.at + late) if late else line


def _ordered(found: Iterable[Line], name: str) -> Iterator[Line]:
    """By time, as far as a window reaches. Raises `BenchError` beyond it."""
    waiting: list[tuple[float, int, Line]] = []
    size, reached = 0, -float("inf")
    for line in found:
        heapq.heappush(waiting, (line.at, line.number, line))
        size += len(line.body or b"")
        while len(waiting) > _WINDOW or size > _WINDOW_BYTES:
            at, number, out = heapq.heappop(waiting)
            if at < reached:
                raise BenchError(f"line {number} of {name} is earlier than lines far before it; sort it by time, and use little jitter")
            size, reached = size - len(out.body or b""), at
            yield out
    for at, number, out in sorted(waiting, key=lambda each: each[:2]):
        if at < reached:
            raise BenchError(f"line {number} of {name} is earlier than lines far before it; sort it by time, and use little jitter")
        yield out


def _parsed(path: Path, counts: Counts) -> Iterator[Line]:
    """All lines in the file's order."""
    with ExitStack() as stack:
        try:
            file = stack.enter_context(path.open("rb"))
            magic = file.peek(16)[:16]
        except FileNotFoundError:
            raise BenchError(f"the trace {path} does not exist", usage=True) from None
        except OSError as error:
            raise BenchError(f"the trace {path} cannot be read: {error.strerror}", usage=True) from None
        if magic.startswith(stored.MAGIC):
            yield from _known(stored.lines(path), counts)
            return
        plain = stack.enter_context(gzip.GzipFile(fileobj=file, mode="rb")) if magic.startswith(b"\x1f\x8b") else file
        yield from _known(_read(_rows(plain, path.name), path.name), counts)


def _known(found: Iterable[Line | None], counts: Counts) -> Iterator[Line]:
    for line in found:
        if line is None:
            counts.not_text += 1
        else:
            yield line


def _rows(file: io.BufferedIOBase, name: str) -> Iterator[tuple[int, bytes]]:
    """Lines that hold something, numbered from 1."""
    number = 0
    try:
        while row := file.readline(MAX_LINE + 1):
            number += 1
            if len(row) > MAX_LINE or number > MAX_LINES:
                raise BenchError(f"line {number} of {name} is too much; a trace has at most {MAX_LINES:,} lines of {MAX_LINE >> 20} MiB")
            row = row.removeprefix(b"\xef\xbb\xbf") if number == 1 else row
            if stripped := row.strip():
                yield number, stripped
    except (EOFError, zlib.error, OSError) as error:
        raise BenchError(f"{name} is damaged or cannot be read after line {number}: {str(error)[:120]}") from None


def _read(rows: Iterator[tuple[int, bytes]], name: str) -> Iterator[Line | None]:
    """Lines, and None for each that cannot be replayed."""
    number, first = next(rows, (0, b""))
    if not first:
        raise BenchError(f"the trace {name} is empty", usage=True)
    parse, header = _parser(first, name)
    try:
        if not header:
            yield _numbered(parse(first), number)
        for number, row in rows:
            yield _numbered(parse(row), number)
    except BadLine as bad:
        raise BenchError(f"line {number} of {name} {bad}") from None


def _numbered(line: Line | None, number: int) -> Line | None:
    return msgspec.structs.replace(line, number=number) if line is not None else None


def _parser(first: bytes, name: str) -> tuple[_Parse, bool]:
    """What reads the lines of a file that begins so, and whether this one is a header. Raises `BenchError`."""
    if first[:1] in (b"{", b"["):
        if b'"input_length"' in first and b'"timestamp"' in first and b'"messages"' not in first:
            return _mooncake, False
        return captures.reader(first), False
    columns = [column.strip().strip('"').lower() for column in first[:1000].decode("utf-8", "replace").split(",")]
    if all(wanted in columns for wanted in _AZURE):
        return _azure([columns.index(wanted) for wanted in _AZURE], len(columns)), True
    raise BenchError(
        f"{name} is no trace that is known: its first line is neither a JSON object (Mooncake, captured requests) nor the header "
        "TIMESTAMP,ContextTokens,GeneratedTokens (Azure)",
        usage=True,
    )


# -- Mooncake -----------------------------------------------------------------------------------------------------------------------------

_Tokens = Annotated[int, msgspec.Meta(ge=0, le=MOST)]
_Id = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]


class _Mooncake(msgspec.Struct):
    timestamp: Annotated[float, msgspec.Meta(ge=0, le=1e16)]
    input_length: _Tokens
    output_length: _Tokens
    hash_ids: tuple[_Id, ...] = ()


_mooncakes = msgspec.json.Decoder(_Mooncake)


def _mooncake(row: bytes) -> Line:
    read = captures.decoded(_mooncakes, row)
    if len(read.hash_ids) > -(-read.input_length // BLOCK):
        raise BadLine(f"has {len(read.hash_ids)} blocks for {read.input_length} tokens; one is for {BLOCK}")
    return Line(read.timestamp / 1000, read.input_length, read.output_length, read.hash_ids)


# -- Azure --------------------------------------------------------------------------------------------------------------------------------


def _azure(places: list[int], columns: int) -> _Parse:
    """Reads rows with the three columns at `places`."""
    origin: list[datetime] = []  # the first line's time: differences are exact, and need no time zone

    def parse(row: bytes) -> Line:
        cells = [cell.strip().strip('"') for cell in row.decode("utf-8", "replace").split(",")]
        if len(cells) != columns:
            raise BadLine(f"has {len(cells)} columns instead of {columns}")
        when, asked, given = (cells[place] for place in places)
        try:
            time = datetime.fromisoformat(when)
            origin[:] = origin or [time]
            at = (time - origin[0]).total_seconds()
        except (ValueError, TypeError):  # TypeError: one with a time zone, one without
            raise BadLine(f"has the time {when[:40]!r}; write them all as 2023-11-16 18:15:46.680590") from None
        return Line(at, _tokens(asked), _tokens(given))

    return parse


def _tokens(cell: str) -> int:
    if not (cell.isascii() and cell.isdigit() and len(cell) <= 9 and int(cell) <= MOST):
        raise BadLine(f"has {cell[:20]!r} tokens; write a whole number up to {MOST:,}")
    return int(cell)
