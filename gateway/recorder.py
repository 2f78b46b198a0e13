"""Takes a record from the hot path in constant time, and later, on a tick, makes metrics, a log line and figures of it.

One `Recorder` belongs to one event loop. `put` is the only call on the hot path. Lines about requests go past `logging`, whose
records, and the thread woken for each, would cost more than the request itself: a batch of them becomes one text for the `Writer`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import msgspec

from backends import wire
from backends.types import Usage
from gateway.admin.state import Traffic
from gateway.admin.window import Windows
from gateway.logs import LINE, Checked, JsonFormatter, TextFormatter, Writer, cut, hidden, redact, show
from gateway.metrics import Metrics
from gateway.record import Record

BATCH = 32  # records
REQUEST_LOG = "pointsman.request"
MESSAGE = "request"
TEXT = 500  # characters of one field
NAMES, NAME = 1024, 100  # names whose shown form is kept, and the characters of the longest such
MESSAGES = 128  # messages of faults, likewise: in an outage there are many of the same
# Ids of our own making and UUIDs: no pattern for secrets can match these characters.
_PLAIN_ID = re.compile(r"(?:req-)?[0-9a-f-]{1,64}\Z")

Ended = tuple[Record, bool]  # a finished request, and whether it counts as `failed`


class Recorder:
    """A bounded queue of finished requests and what is made of them.

    `capacity`: records waiting at most; more are dropped and counted. `recent`: how many the status page can list.
    """

    def __init__(
        self,
        metrics: Metrics,
        *,
        capacity: int = 10_000,
        recent: int = 200,
        log: logging.Logger | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.dropped = 0
        self.soon: Callable[[Callable[[], None]], object] | None = None  # the loop's `call_soon`; None: only the tick drains
        self.unparsed = 0  # answers whose usage could not be read
        self._metrics, self._capacity, self._clock = metrics, capacity, clock
        self._log = log or logging.getLogger(REQUEST_LOG)
        self._lines: JsonLines | TextLines | None = None
        self._queue: deque[tuple[Record, bytes | None]] = deque()
        self._recent: deque[Record] = deque(maxlen=recent)
        self._windows = Windows(clock())
        for name, help, read in (
            ("pointsman_records_dropped_total", "Records lost because the queue was full.", lambda: self.dropped),
            ("pointsman_usage_unreadable_total", "Answers whose token counts could not be read.", lambda: self.unparsed),
        ):
            metrics.callback(name, help, read, kind="counter")
        metrics.callback("pointsman_records_waiting", "Records not yet counted.", lambda: len(self._queue))

    def __repr__(self) -> str:
        return f"Recorder({len(self._queue)} of {self._capacity} waiting, {self.dropped} dropped, {len(self._recent)} recent)"

    def put(self, record: Record, tail: bytes | None = None) -> None:
        """Queues one record; never blocks, never raises. The usage is read from `tail`, the end of an answer, later, in `drain`."""
        queue = self._queue
        if len(queue) >= self._capacity:
            self.dropped += 1
            return
        queue.append((record, tail))
        if len(queue) == BATCH and self.soon is not None:
            # Under load records are handled in small batches while they are still in the processor's caches.
            self.soon(self._drain_batch)

    def _drain_batch(self) -> None:
        self.drain(BATCH)

    def drain(self, limit: int = 1000) -> int:
        """Handles up to `limit` records (a few µs each) and returns how many are left. Blocks for that long, mutates."""
        now, queue, log = self._clock(), self._queue, self._log
        # Looked up once for all of them: at 20,000 requests a second each microsecond here is two per cent of a core.
        observe, count, keep = self._metrics.observe, self._windows.add, self._recent.append
        info, warn = log.isEnabledFor(logging.INFO), log.isEnabledFor(logging.WARNING)
        told: list[Ended] = []
        plain: dict[tuple[str, str, str], list[Record]] = {}
        for _ in range(min(limit, len(queue))):
            record, tail = queue.popleft()
            if tail is not None:
                record.usage = self._usage(tail)
            keep(record)
            if is_plain(record):
                plain.setdefault((record.route, record.backend, record.api), []).append(record)
                if info:
                    told.append((record, False))
                continue
            observe(record)
            usage, ttft, route, over, bad = record.usage, record.ttft, record.route, record.duration, False
            if record.fault or record.status >= 500 or not route:
                bad, route = failed(record), _route(record)
            if ttft is not None and record.stream:
                over -= ttft
            count(now, route, bad, ttft, usage.output + usage.reasoning if usage is not None else 0, over)
            if info or (bad and warn):
                told.append((record, bad))
        for batch in plain.values():
            self._count(now, batch)
        if told:
            self._tell(told)
        return len(queue)

    def _count(self, now: float, batch: list[Record]) -> None:
        """Counts plain answers of one route, backend and api together."""
        self._metrics.observe_plain(batch)
        ttfts = sorted([r.ttft for r in batch if r.ttft is not None])
        tokens = sum([r.usage.output + r.usage.reasoning for r in batch if r.usage is not None])
        self._windows.add_plain(now, batch[0].route, ttfts, len(batch), tokens)

    def _tell(self, batch: list[Ended]) -> None:
        """One line for each. The logger's level has been looked at."""
        log, unix = self._log, time.time()
        writer, others = writer_of(log)
        if writer is None:
            for record, bad in batch:
                log.handle(log_record(log, record, bad, unix))
            return
        if self._lines is None or self._lines.writer is not writer:
            self._lines = lines_for(writer, log)
        writer.put(self._lines(batch, unix), len(batch))
        for record, bad in batch if others else ():
            made = log_record(log, record, bad, unix)
            for handler in others:
                if made.levelno >= handler.level:
                    handler.handle(made)

    def _usage(self, tail: bytes) -> Usage | None:
        usage = wire.usage(tail)
        if usage is None:
            self.unparsed += 1
        return usage

    async def run(self, *, interval: float = 0.1, batch: int = 64) -> None:
        """Drains for ever, `batch` records between two looks at the network, so that a burst never stalls a stream.

        Cancel it to stop; what waits is then drained at once.
        """
        try:
            while True:
                left = self.drain(batch)
                await asyncio.sleep(0 if left else interval)
        finally:
            while self.drain(batch):
                pass

    def recent(self, limit: int) -> list[Record]:
        """The last finished requests, newest first."""
        newest = list(self._recent)[::-1]
        return newest[: max(0, limit)]

    def traffic(self) -> Traffic:
        """The last minute's figures and the last five minutes' history."""
        return self._windows.traffic(self._clock(), self.dropped)

    def window(self) -> dict[str, Any]:
        """The figures in a form that `gateway.admin.window.merge_traffic` adds up over workers."""
        return self._windows.dump(self._clock())


def is_plain(record: Record) -> bool:
    """Whether a record is of the most common kind, which is counted in batches: a whole good answer at the first attempt, within a
    second."""
    once = record.attempts == 1 and not record.chunks
    return once and record.status == 200 and not record.stream and not record.fault and record.duration <= 1.0


def failed(record: Record) -> bool:
    """Whether the gateway or a backend failed this request; a client's own mistake, or its leaving, is none."""
    return record.origin in ("gateway", "backend") if record.fault else record.status >= 500


def _route(record: Record) -> str:
    # A client can ask for any name: those that are no route share one ring.
    return "unknown" if record.fault == "not_found" or not record.route else record.route


def writer_of(log: logging.Logger) -> tuple[Writer | None, list[logging.Handler]]:
    """The writer that takes this logger's lines as text, if there is one, and the other handlers, which need records. Reads only.

    Without a writer records go to the logger itself, as ever.
    """
    found: list[logging.Handler] = []
    at: logging.Logger | None = log
    while at is not None:
        found += at.handlers
        at = at.parent if at.propagate else None
    for handler in found:
        # One with a filter, a level or a format of its own must see each record.
        plain = isinstance(handler, Writer) and not (handler.filters or handler.level or log.filters)
        if isinstance(handler, Writer) and plain and type(handler.formatter) in (JsonFormatter, TextFormatter):
            return handler, [other for other in found if other is not handler]
    return None, found


def lines_for(writer: Writer, log: logging.Logger) -> JsonLines | TextLines:
    """What makes this writer's lines. TypeError: its formatter is neither of ours."""
    if isinstance(writer.formatter, JsonFormatter):
        return JsonLines(writer, writer.formatter, log)
    if isinstance(writer.formatter, TextFormatter):
        return TextLines(writer, writer.formatter, log)
    raise TypeError(f"no request lines for a {type(writer.formatter).__name__}")


def log_record(log: logging.Logger, record: Record, bad: bool, unix: float) -> logging.LogRecord:
    """One finished request for any handler of `logging`: WARNING when we or a backend failed it, else INFO. Some 20 µs.

    `unix` is the line's time in seconds. Mutates nothing.
    """
    usage = record.usage
    fields = Checked(
        id=_safe(record.id), api=record.api, route=_safe(record.route), status=record.status, seconds=_rounded(record.duration),
        ttft=None if record.ttft is None else _rounded(record.ttft), replica=_safe(record.replica), tenant=_safe(record.tenant),
        stream=record.stream, attempts=record.attempts, bytes=record.bytes_out,
    )  # fmt: skip
    if usage is not None:
        fields["tokens_in"] = usage.input + usage.cached + usage.cache_write
        fields["tokens_cached"] = usage.cached
        fields["tokens_out"] = usage.output + usage.reasoning
    if record.fault:
        fields.update(fault=record.fault, origin=record.origin, error=_safe(record.message))
    level = logging.WARNING if bad else logging.INFO
    # Not `log.log`: it looks up which line of code is calling, for some 10 µs.
    made = log.makeRecord(log.name, level, __file__, 0, MESSAGE, (), None, extra={"fields": fields})
    made.created, made.msecs = unix, unix % 1.0 * 1000
    return made


def _safe(text: str) -> str:
    return redact(cut(text, TEXT))


def _rounded(seconds: float) -> float:
    """To a tenth of a millisecond; a third of what `round` costs."""
    return (seconds * 10_000.0 + 0.5) // 1.0 / 10_000.0


class Names(dict[str, str]):
    """How a text is shown, for those that stand in line after line: a look-up. `clear` it when `hide` has learned something.

    Holds `size` texts of at most `longest` characters; others are made anew each time.
    """

    def __init__(self, make: Callable[[str], str], size: int = NAMES, longest: int = NAME) -> None:
        super().__init__()
        self._make, self._size, self._longest = make, size, longest

    def __missing__(self, text: str) -> str:
        shown = self._make(text)
        if len(text) <= self._longest:
            if len(self) >= self._size:
                self.clear()
            self[text] = shown
        return shown


class _Line(msgspec.Struct, gc=False):
    """A line as JSON, in this order. UNSET is left out."""

    time: str
    level: str
    logger: str
    message: str
    id: str
    api: str
    route: str
    status: int
    seconds: float
    ttft: float | msgspec.UnsetType
    replica: str
    tenant: str
    stream: bool
    attempts: int
    bytes: int
    tokens_in: int | msgspec.UnsetType = msgspec.UNSET
    tokens_cached: int | msgspec.UnsetType = msgspec.UNSET
    tokens_out: int | msgspec.UnsetType = msgspec.UNSET
    fault: str | msgspec.UnsetType = msgspec.UNSET
    origin: str | msgspec.UnsetType = msgspec.UNSET
    error: str | msgspec.UnsetType = msgspec.UNSET


class _Lines:
    """What both formats share: the names of every line, and which texts are known to hold no secret."""

    def __init__(self, writer: Writer, log: logging.Logger) -> None:
        self.writer, self._log = writer, log
        self._hidden = hidden()

    def _learned(self) -> bool:
        """Whether `hide` was told of something since the last look: what was kept may hold it. Mutates."""
        before, self._hidden = self._hidden, hidden()
        return before != self._hidden

    def _plain(self, id: str) -> bool:
        # An id is new each time, so there is nothing to look up: its characters must do, and that it is too short for our own keys.
        count, shortest = self._hidden
        return _PLAIN_ID.match(id) is not None and (not count or len(id) < shortest)


class JsonLines(_Lines):
    """A batch of finished requests as `JsonFormatter` would write them, some ten times cheaper."""

    def __init__(self, writer: Writer, formatter: JsonFormatter, log: logging.Logger) -> None:
        super().__init__(writer, log)
        self._formatter, self._encoder = formatter, msgspec.json.Encoder()
        self._names, self._messages = Names(_safe), Names(_safe, MESSAGES, TEXT)

    def __call__(self, batch: Sequence[Ended], unix: float) -> str:
        """The lines, each with its end. `unix`: seconds, now. Mutates nothing but what is kept."""
        if self._learned():
            self._names.clear()
            self._messages.clear()
        stamp, _, source = self._formatter.head(unix, "INFO", self._log.name)
        lines = [self._line(record, "warning" if bad else "info", stamp, source) for record, bad in batch]
        with contextlib.suppress(UnicodeEncodeError):  # half a surrogate pair
            encoded = self._encoder.encode_lines(lines)
            if encoded.isascii():
                return encoded.decode()
        return "".join([self._careful(line, *ended, unix) for line, ended in zip(lines, batch, strict=True)])

    def _line(self, record: Record, level: str, stamp: str, source: str) -> _Line:
        names, usage, ttft, id = self._names, record.usage, record.ttft, record.id
        line = _Line(
            stamp, level, source, MESSAGE, id if self._plain(id) else _safe(id), record.api, names[record.route], record.status,
            _rounded(record.duration), msgspec.UNSET if ttft is None else _rounded(ttft), names[record.replica], names[record.tenant],
            record.stream, record.attempts, record.bytes_out,
        )  # fmt: skip
        if usage is not None:
            cached = usage.cached
            line.tokens_in, line.tokens_cached = usage.input + cached + usage.cache_write, cached
            line.tokens_out = usage.output + usage.reasoning
        if record.fault:
            line.fault, line.origin, line.error = record.fault, record.origin, self._messages[record.message]
        return line

    def _careful(self, line: _Line, record: Record, bad: bool, unix: float) -> str:
        """Only the formatter writes out what is not ASCII; the others of a batch need not pay for one such line."""
        with contextlib.suppress(UnicodeEncodeError):
            encoded = self._encoder.encode(line)
            if encoded.isascii():
                return encoded.decode() + "\n"
        return self._formatter.format(log_record(self._log, record, bad, unix)) + "\n"


class TextLines(_Lines):
    """A batch of finished requests as `TextFormatter` would write them."""

    def __init__(self, writer: Writer, formatter: TextFormatter, log: logging.Logger) -> None:
        super().__init__(writer, log)
        self._formatter = formatter
        self._keys = {name: f" {formatter.key(name)}" for name in _Line.__struct_fields__}
        self._api, self._route, self._replica, self._tenant = (Names(partial(self._pair, n)) for n in ("api", "route", "replica", "tenant"))
        self._error = Names(partial(self._pair, "error"), MESSAGES, TEXT)

    def _pair(self, name: str, text: str) -> str:
        return self._keys[name] + show(_safe(text)) if text else ""

    def __call__(self, batch: Sequence[Ended], unix: float) -> str:
        """The lines, each with its end. `unix`: seconds, now. Mutates nothing but what is kept."""
        if self._learned():
            for names in (self._api, self._route, self._replica, self._tenant, self._error):
                names.clear()
        levels = {bad: "WARNING" if bad else "INFO" for _, bad in batch}
        heads = {bad: self._formatter.head(unix, level, self._log.name) + f"{MESSAGE} " for bad, level in levels.items()}
        return "".join([self._line(record, heads[bad]) for record, bad in batch])

    def _line(self, record: Record, head: str) -> str:
        key, id, ttft, usage = self._keys, record.id, record.ttft, record.usage
        line = (
            f"{head}{key['id'] + id if self._plain(id) else self._pair('id', id)}{self._api[record.api]}{self._route[record.route]}"
            f"{key['status']}{record.status}{key['seconds']}{_rounded(record.duration)}"
            f"{'' if ttft is None else key['ttft'] + str(_rounded(ttft))}{self._replica[record.replica]}{self._tenant[record.tenant]}"
            f"{key['stream']}{'true' if record.stream else 'false'}{key['attempts']}{record.attempts}{key['bytes']}{record.bytes_out}"
        )
        if usage is not None:
            into, out = usage.input + usage.cached + usage.cache_write, usage.output + usage.reasoning
            line += f"{key['tokens_in']}{into}{key['tokens_cached']}{usage.cached}{key['tokens_out']}{out}"
        if record.fault:
            line += self._pair("fault", record.fault) + self._pair("origin", record.origin) + self._error[record.message]
        return (line if len(line) <= LINE else cut(line, LINE)) + "\n"
