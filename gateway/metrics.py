"""Prometheus counters and histograms for finished requests, without a library: one dictionary look-up a record.

`Metrics` is owned by one thread (the event loop). Everything is bounded: rows, codes per row, the length of a label.
Several workers' figures are merged from their `snapshot()`s.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from backends.types import Usage
from gateway.record import Record

Samples = float | Sequence[tuple[Mapping[str, str], float]]
Merge = Literal["sum", "max"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

ROWS = 256  # distinct (route, backend, api); the rest is counted as "other"
CODES = 48  # distinct statuses in a row, and distinct fault kinds
LABEL_CHARS = 128
SAMPLES = 2048  # of one callback

TTFT_BUCKETS = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0)
DURATION_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0)
TPOT_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)

_CODES = tuple(str(status) for status in range(600))


# Plain classes with slots, which msgspec turns into JSON values too: setting a field of its own structs takes twice as long.
@dataclass(slots=True)
class Histogram:
    """Counts by upper bound; `counts` has one more entry than the bounds, for +Inf. Not cumulative in memory.

    `counts[bisect_left(bounds, value)] += 1`: a value at a bound counts below it, as Prometheus has it.
    """

    counts: list[int]
    sum: float = 0.0


def _histogram(bounds: tuple[float, ...]) -> Histogram:
    return Histogram([0] * (len(bounds) + 1))


@dataclass(slots=True)
class Row:
    """Everything counted for one (route, backend, api)."""

    route: str
    backend: str
    api: str
    codes: dict[str, int] = field(default_factory=dict)
    errors: dict[str, dict[str, int]] = field(default_factory=dict)  # kind -> origin -> count
    tokens: dict[str, int] = field(default_factory=dict)
    retries: int = 0
    bytes: int = 0
    chunks: int = 0
    cost: float = 0.0  # dollars
    cost_reported: float = 0.0
    ttft: Histogram = field(default_factory=lambda: _histogram(TTFT_BUCKETS))
    duration: Histogram = field(default_factory=lambda: _histogram(DURATION_BUCKETS))
    tpot: Histogram = field(default_factory=lambda: _histogram(TPOT_BUCKETS))


NO_USAGE = Usage()


class Extra(msgspec.Struct):
    """One family read from a callback, frozen for a snapshot."""

    name: str
    help: str
    kind: Literal["gauge", "counter"]
    merge: Merge
    samples: list[tuple[dict[str, str], float]]


class Dump(msgspec.Struct):
    rows: list[Row] = []
    extras: list[Extra] = []


class _Source(msgspec.Struct):
    help: str
    kind: Literal["gauge", "counter"]
    merge: Merge
    read: Callable[[], Samples]


class Metrics:
    """All figures of one process, or, from `merge`, of several.

    `known` are the route names that may become label values (None: any, up to the cap): a client may ask for any
    model name, and must not fill the table with them.
    """

    def __init__(self, known: Collection[str] | None = None, *, rows: int = ROWS) -> None:
        self.known = None if known is None else frozenset(known)
        self._rows: dict[tuple[str, str, str], Row] = {}
        self._cap = rows
        self._sources: dict[str, _Source] = {}

    def __repr__(self) -> str:
        return f"Metrics({len(self._rows)} of {self._cap} rows, {len(self._sources)} callbacks)"

    def observe(self, record: Record) -> None:
        """Counts one finished request. Mutates, constant time, never raises for a bad value."""
        # In one piece, without a call: this runs once for every request, and each frame would cost as much as what it does.
        row = self._rows.get((record.route, record.backend, record.api))
        if row is None or (self.known is not None and record.route not in self.known):
            row = self._row(record.route, record.backend, record.api, record.fault)
        status, codes, duration, ttft, histogram = record.status, row.codes, record.duration, record.ttft, row.duration
        code = _CODES[status] if 0 <= status < 600 else str(status)
        if code in codes:
            codes[code] += 1
        else:
            _bump(codes, code)
        histogram.counts[bisect_left(DURATION_BUCKETS, duration)] += 1
        histogram.sum += duration
        row.bytes += record.bytes_out
        row.chunks += record.chunks
        if record.attempts > 1:
            row.retries += record.attempts - 1
        if ttft is not None:
            histogram = row.ttft
            histogram.counts[bisect_left(TTFT_BUCKETS, ttft)] += 1
            histogram.sum += ttft
        if record.fault:
            _bump(_inner(row.errors, record.fault), record.origin or "gateway")
        usage = record.usage
        if usage is None:
            return
        tokens, written = row.tokens, usage.output
        if "output" not in tokens:
            tokens["input"] = tokens["output"] = 0
        tokens["input"] += usage.input
        tokens["output"] += written
        if usage.cached or usage.reasoning or usage.cache_write:
            written += usage.reasoning
            _rarer(tokens, usage)
        # A whole answer arrives at once: only a stream has time between its tokens.
        if ttft is not None and written > 1 and record.stream:
            apart = (duration - ttft) / (written - 1) if duration > ttft else 0.0
            histogram = row.tpot
            histogram.counts[bisect_left(TPOT_BUCKETS, apart)] += 1
            histogram.sum += apart

    def observe_plain(self, route: str, backend: str, api: str, seconds: list[float], size: int, usage: Usage) -> None:
        """Counts plain answers (see `record.Plain`) of one route, backend and api at once. `seconds`: their durations, which are their
        times to first token too, sorted; `size`: bytes, and `usage`: tokens, all together. Mutates."""
        row = self._rows.get((route, backend, api))
        if row is None or (self.known is not None and route not in self.known):
            row = self._row(route, backend, api)
        _bump(row.codes, "200", len(seconds))
        _add_all(row.duration, DURATION_BUCKETS, seconds)
        _add_all(row.ttft, TTFT_BUCKETS, seconds)
        row.bytes += size
        tokens = row.tokens
        if usage != NO_USAGE:
            tokens["input"] = tokens.get("input", 0) + usage.input
            tokens["output"] = tokens.get("output", 0) + usage.output
            if usage.cached or usage.reasoning or usage.cache_write:
                _rarer(tokens, usage)

    def observe_cost(self, route: str, backend: str, api: str, cost: float, reported: float) -> None:
        """Adds dollars: by our prices, and in the provider's words. Mutates."""
        row = self._row(route, backend, api)
        row.cost += cost
        row.cost_reported += reported

    def _row(self, route: str, backend: str, api: str, fault: str = "") -> Row:
        """The row of names whose raw form are not a key: cleaned, and "other" once the table is full. Mutates."""
        key = (self._route(route, fault), _clean(backend), _clean(api))
        row = self._rows.get(key)
        if row is not None:
            return row
        if len(self._rows) >= self._cap:
            key = ("other", "other", "other")
            row = self._rows.get(key)
        if row is None:
            row = self._rows[key] = Row(*key)
        return row

    def _route(self, route: str, fault: str) -> str:
        unknown = fault == "not_found" if self.known is None else route not in self.known
        return "unknown" if unknown or not route else _clean(route)

    def callback(
        self, name: str, help: str, read: Callable[[], Samples], *, kind: Literal["gauge", "counter"] = "gauge", merge: Merge = "sum"
    ) -> None:
        """Registers a family that is read when rendered: `read()` returns a number, or (labels, number) pairs.

        It must be cheap and must not block. `merge` says what becomes of several workers' values. ValueError: taken or no name.
        """
        if not name.isascii() or not name.isidentifier():
            raise ValueError(f"metric name {name!r}: use ASCII letters, digits and underscores")
        if name in self._sources or name in FAMILY_NAMES:
            raise ValueError(f"metric {name} is registered already")
        self._sources[name] = _Source(help, kind, merge, read)

    def snapshot(self) -> dict[str, Any]:
        """Everything as plain JSON values, for `merge`. Reads the callbacks."""
        built: dict[str, Any] = msgspec.to_builtins(Dump(list(self._rows.values()), list(self._extras())))
        return built

    @classmethod
    def merge(cls, snapshots: Iterable[Mapping[str, Any]]) -> Metrics:
        """The sum of several workers' snapshots. Keep a dead worker's last one in the list, or its counters are lost.

        msgspec.ValidationError or ValueError: a snapshot has another shape (a worker of another version).
        """
        merged = cls()
        extras: dict[str, Extra] = {}
        for raw in snapshots:
            dump = msgspec.convert(raw, Dump)
            for row in dump.rows:
                merged._absorb(row)
            for extra in dump.extras:
                _absorb_extra(extras, extra)
        for extra in extras.values():
            merged._sources[extra.name] = _Source(extra.help, extra.kind, extra.merge, _constant(extra.samples))
        return merged

    def _absorb(self, row: Row) -> None:
        key = (row.route, row.backend, row.api)
        mine = self._rows.get(key)
        if mine is None and len(self._rows) >= self._cap:
            key = ("other", "other", "other")
            mine = self._rows.get(key)
        if mine is None:
            mine = self._rows[key] = Row(*key)
        for name, count in row.codes.items():
            _bump(mine.codes, name, count)
        for kind, origins in row.errors.items():
            for origin, count in origins.items():
                _bump(_inner(mine.errors, kind), origin, count)
        for name, count in row.tokens.items():
            _bump(mine.tokens, name, count)
        mine.retries, mine.bytes, mine.chunks = mine.retries + row.retries, mine.bytes + row.bytes, mine.chunks + row.chunks
        mine.cost, mine.cost_reported = mine.cost + row.cost, mine.cost_reported + row.cost_reported
        for ours, theirs in ((mine.ttft, row.ttft), (mine.duration, row.duration), (mine.tpot, row.tpot)):
            ours.counts = [a + b for a, b in zip(ours.counts, theirs.counts, strict=True)]
            ours.sum += theirs.sum

    def _extras(self) -> Iterator[Extra]:
        for name, source in self._sources.items():
            value = source.read()
            pairs = [({}, float(value))] if isinstance(value, int | float) else [(dict(labels), float(v)) for labels, v in value[:SAMPLES]]
            yield Extra(name, source.help, source.kind, source.merge, pairs)

    def render(self) -> str:
        """The Prometheus text exposition, HELP and TYPE first. Some milliseconds at worst; not for the hot path."""
        rows = [(f'route="{_escape(r.route)}",backend="{_escape(r.backend)}",api="{_escape(r.api)}"', r) for r in self._rows.values()]
        out: list[str] = []
        for name, help, kind, lines in FAMILIES:
            out.append(f"# HELP {name} {help}\n# TYPE {name} {kind}\n")
            for labels, row in rows:
                out.extend(f"{name}{line}\n" for line in lines(labels, row))
        for extra in self._extras():
            out.append(f"# HELP {extra.name} {_escape_help(extra.help)}\n# TYPE {extra.name} {extra.kind}\n")
            out.extend(f"{extra.name}{_braces(labels)} {_number(value)}\n" for labels, value in extra.samples)
        return "".join(out)


def _add_all(histogram: Histogram, bounds: tuple[float, ...], values: list[float]) -> None:
    """Adds sorted values: one search a bucket that has any, instead of one a value. Mutates."""
    histogram.sum += sum(values)
    counts, done, n = histogram.counts, 0, len(values)
    bucket = bisect_left(bounds, values[0]) if values else 0
    while done < n:
        upto = bisect_right(values, bounds[bucket]) if bucket < len(bounds) else n
        counts[bucket] += upto - done
        done = upto
        bucket += 1


def _bump(counts: dict[str, int], key: str, by: int = 1) -> None:
    """Adds to one counter; a new key beyond the cap counts as "other"."""
    if key in counts:
        counts[key] += by
    else:
        key = key if len(counts) < CODES else "other"
        counts[key] = counts.get(key, 0) + by


def _inner(errors: dict[str, dict[str, int]], kind: str) -> dict[str, int]:
    if kind not in errors and len(errors) >= CODES:
        kind = "other"
    return errors.setdefault(kind, {})


def _rarer(tokens: dict[str, int], usage: Usage) -> None:
    if usage.cached > 0:
        tokens["cached"] = tokens.get("cached", 0) + usage.cached
    if usage.cache_write > 0:
        tokens["cache_write"] = tokens.get("cache_write", 0) + usage.cache_write
    if usage.reasoning > 0:
        tokens["reasoning"] = tokens.get("reasoning", 0) + usage.reasoning


def _absorb_extra(extras: dict[str, Extra], extra: Extra) -> None:
    mine = extras.setdefault(extra.name, Extra(extra.name, extra.help, extra.kind, extra.merge, []))
    values = {tuple(sorted(labels.items())): value for labels, value in mine.samples}
    for labels, value in extra.samples:
        key = tuple(sorted(labels.items()))
        if key in values:
            value = max(values[key], value) if mine.merge == "max" else values[key] + value
        values[key] = value
    mine.samples = [(dict(key), value) for key, value in values.items()]


def _constant(samples: list[tuple[dict[str, str], float]]) -> Callable[[], Samples]:
    return lambda: samples


def _clean(label: str) -> str:
    """A label value that is short and can be encoded (a JSON string may hold half a surrogate pair)."""
    return label[:LABEL_CHARS].encode("utf-8", "replace").decode()


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def _escape_help(value: str) -> str:
    return value.replace("\\", "\\\\").replace("\n", "\\n")


def _braces(labels: Mapping[str, str]) -> str:
    return "{" + ",".join(f'{name}="{_escape(_clean(value))}"' for name, value in labels.items()) + "}" if labels else ""


def _number(value: float) -> str:
    if value != value:
        return "NaN"
    if value in (float("inf"), float("-inf")):
        return "+Inf" if value > 0 else "-Inf"
    return str(int(value)) if value == int(value) and abs(value) < 1e15 else repr(value)


TOKEN_TYPES = ("input", "cached", "cache_write", "output", "reasoning")
Lines = Callable[[str, Row], Iterator[str]]


def _codes(labels: str, row: Row) -> Iterator[str]:
    return (f'{{{labels},code="{_escape(code)}"}} {count}' for code, count in row.codes.items())


def _errors(labels: str, row: Row) -> Iterator[str]:
    for kind, origins in row.errors.items():
        for origin, count in origins.items():
            yield f'{{{labels},kind="{_escape(kind)}",origin="{_escape(origin)}"}} {count}'


def _token_lines(labels: str, row: Row) -> Iterator[str]:
    return (f'{{{labels},type="{name}"}} {count}' for name, count in row.tokens.items())


def _counter(name: str, *, sparse: bool = False) -> Lines:
    return lambda labels, row: iter((f"{{{labels}}} {_number(getattr(row, name))}",) if getattr(row, name) or not sparse else ())


def _buckets(name: str, bounds: tuple[float, ...]) -> Lines:
    edges = [*(_number(bound) for bound in bounds), "+Inf"]

    def lines(labels: str, row: Row) -> Iterator[str]:
        histogram: Histogram = getattr(row, name)
        running = 0
        for edge, count in zip(edges, histogram.counts, strict=True):
            running += count
            yield f'_bucket{{{labels},le="{edge}"}} {running}'
        yield f"_sum{{{labels}}} {_number(histogram.sum)}"
        yield f"_count{{{labels}}} {running}"

    return lines


FAMILIES: tuple[tuple[str, str, str, Lines], ...] = (
    ("pointsman_requests_total", "Finished requests by the status that the client was told (499: it left first).", "counter", _codes),
    ("pointsman_request_errors_total", "Failed requests by what happened and whose fault it was.", "counter", _errors),
    ("pointsman_retries_total", "Attempts after a request's first one.", "counter", _counter("retries")),
    ("pointsman_tokens_total", "Tokens by type; the types are disjoint and may be added.", "counter", _token_lines),
    ("pointsman_cost_dollars_total", "What answers cost by our prices, in dollars.", "counter", _counter("cost", sparse=True)),
    ("pointsman_cost_reported_dollars_total", "The same as their providers tell it.", "counter", _counter("cost_reported", sparse=True)),
    ("pointsman_response_bytes_total", "Bytes of answers sent to clients.", "counter", _counter("bytes")),
    ("pointsman_response_chunks_total", "Reads relayed to clients.", "counter", _counter("chunks")),
    ("pointsman_time_to_first_token_seconds", "From arrival to the first content.", "histogram", _buckets("ttft", TTFT_BUCKETS)),
    ("pointsman_request_duration_seconds", "From arrival to the end.", "histogram", _buckets("duration", DURATION_BUCKETS)),
    ("pointsman_time_per_output_token_seconds", "Mean time between tokens of a stream.", "histogram", _buckets("tpot", TPOT_BUCKETS)),
)
FAMILY_NAMES = frozenset(name + end for name, *_ in FAMILIES for end in ("", "_bucket", "_sum", "_count"))
