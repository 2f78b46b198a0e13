"""Takes a record from the hot path in constant time, and later, on a tick, makes metrics, a log line and figures of it.

One `Recorder` belongs to one event loop. `put` and `put_plain` are the only calls on the hot path. A batch of lines about requests
becomes one text for the log's writer (see `gateway.lines`).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from backends import prices, wire
from backends.types import Target
from gateway.admin.state import Traffic
from gateway.admin.window import Windows
from gateway.lines import Ended, JsonLines, TextLines, lines_for, log_record, writer_of
from gateway.logs import Writer
from gateway.metrics import Metrics
from gateway.record import Columns, Plain, Record, priced, record_of
from routing.types import Decision

BATCH = 32  # records, which take some microseconds each
PLAIN, MOST = 256, 512  # plain answers, about one each: so many that what is done once a batch does not count; at most, in one turn
REQUEST_LOG = "pointsman.request"
log = logging.getLogger("pointsman.recorder")
NOWHERE = Target("", "")


class Hears(Protocol):
    """Who is told of plain answers that are in experiments (`gateway.experiments.plain.Blocks`)."""

    def add(self, columns: Columns, told: Sequence[wire.Told | None], *, priced: bool) -> bool:
        """They are of one target. `told`: the token counts of each, where it has any. Not all need be in an experiment. `priced`: it may
        be known what some of them cost. Whether they have what `lasting` leaves out."""
        ...

    def missed(self, plain: Plain) -> None:
        """This one is lost."""
        ...

    def lasting(self, batch: list[Plain]) -> list[Plain]:
        """The same without what is only for `add`, to be kept for longer."""
        ...


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
        self.hears: Hears | None = None  # of plain answers in experiments, when they are counted
        self.unparsed = 0  # answers whose usage could not be read
        self.untrue: dict[str, int] = {}  # answers whose usage cannot be true, by the invariant that it breaks
        self._metrics, self._capacity, self._clock = metrics, capacity, clock
        self._enough = min(PLAIN - 1, capacity)  # before that many plain ones wait there is nothing to decide
        self._log = log or logging.getLogger(REQUEST_LOG)
        self._lines: JsonLines | TextLines | None = None
        self._queue: deque[tuple[Record, bytes | None, Target]] = deque()
        self._plain: deque[Plain] = deque()
        self._recent: deque[Record | Plain] = deque(maxlen=recent)
        self._windows = Windows(clock())
        for name, help, read in (
            ("pointsman_records_dropped_total", "Records lost because the queue was full.", lambda: self.dropped),
            ("pointsman_usage_unreadable_total", "Answers whose token counts could not be read.", lambda: self.unparsed),
        ):
            metrics.callback(name, help, read, kind="counter")
        metrics.callback(
            "pointsman_usage_untrue_total", "Answers whose token counts contradict themselves, by what they break.",
            lambda: [({"invariant": name}, count) for name, count in self.untrue.items()], kind="counter",
        )  # fmt: skip
        metrics.callback("pointsman_records_waiting", "Records not yet counted.", lambda: len(self._queue) + len(self._plain))

    def __repr__(self) -> str:
        waiting = len(self._queue) + len(self._plain)
        return f"Recorder({waiting} of {self._capacity} waiting, {self.dropped} dropped, {len(self._recent)} recent)"

    def put(self, record: Record, tail: bytes | None = None, target: Target = NOWHERE) -> None:
        """Queues one record; never blocks, never raises. The usage is read from `tail`, the end of an answer, later, in `drain`; so is what
        it cost at `target`."""
        queue = self._queue
        if len(queue) >= self._capacity:
            self.dropped += 1
            return
        queue.append((record, tail, target))
        if len(queue) == BATCH and self.soon is not None:
            # Under load records are handled in small batches while they are still in the processor's caches.
            self.soon(self._drain_batch)

    def put_plain(self, plain: Plain) -> None:
        """Queues what the most common kind of request leaves; never blocks, never raises."""
        queue = self._plain
        waiting = len(queue)
        if waiting >= self._enough:
            if waiting >= self._capacity:
                self.dropped += 1
                if self.hears is not None:
                    self.hears.missed(plain)
                return
            if waiting == PLAIN - 1 and self.soon is not None:
                self.soon(self._drain_some)
        queue.append(plain)

    def _drain_batch(self) -> None:
        self._drain_records(BATCH, self._clock())

    def _drain_some(self) -> None:
        self._drain_plain(MOST, self._clock())  # what has come since in the same turn of the loop too

    def drain(self, limit: int = 1000) -> int:
        """Handles up to `limit` records (a few µs each) and up to four times as many plain answers, and returns how many are left of both.
        Blocks for that long, mutates."""
        now = self._clock()
        self._drain_plain(4 * limit, now)
        self._drain_records(limit, now)
        return len(self._queue) + len(self._plain)

    def catch_up(self) -> None:
        """Counts all plain answers that wait. Blocks for about two microseconds each, mutates."""
        self._drain_plain(len(self._plain), self._clock())

    def _drain_records(self, limit: int, now: float) -> None:
        queue = self._queue
        if not queue:
            return
        # Looked up once for all of them: at 20,000 requests a second each microsecond here is two per cent of a core.
        batch = [queue.popleft() for _ in range(min(limit, len(queue)))]
        observe, spend, count = self._metrics.observe, self._metrics.observe_cost, self._windows.add
        keep, log = self._recent.append, self._log
        info, warn = log.isEnabledFor(logging.INFO), log.isEnabledFor(logging.WARNING)
        told: list[Ended] = []
        for record, tail, target in batch:
            if tail is not None:
                self._usage(record, tail, target)
            keep(record)
            observe(record)
            if record.cost is not None or record.cost_reported is not None:
                spend(record.route, record.backend, record.api, record.cost or 0.0, record.cost_reported or 0.0)
            usage, ttft, route, over, bad = record.usage, record.ttft, record.route, record.duration, False
            if record.fault or record.status >= 500 or not route:
                bad, route = failed(record), _route(record)
            if ttft is not None and record.stream:
                over -= ttft
            count(now, route, bad, ttft, usage.output + usage.reasoning if usage is not None else 0, over)
            if info or (bad and warn):
                told.append((record, bad))
        if told:
            self._tell(told)

    def _drain_plain(self, limit: int, now: float) -> None:
        """Counts plain answers of one target, route and api together: a third of the steps that one by one would take."""
        queue = self._plain
        if not queue:
            return
        if len(queue) <= limit:
            batch = [*queue]
            queue.clear()
        else:
            batch = [queue.popleft() for _ in range(limit)]
        windows: dict[str, tuple[list[float], list[int]]] = defaultdict(lambda: ([], []))  # by route: durations, tokens
        passing = False  # what is not for the ring
        known: dict[bytes, wire.Told | None] | None = {} if self._log.isEnabledFor(logging.INFO) else None
        for (_, route, api), group in _alike(batch).items():
            try:
                durations, tokens, more = self._count(group, route, api, known)
            except Exception:  # one odd answer must not end the recorder, nor cost the others
                log.exception("a bug: %d answers are not in the figures", len(group))
                self.dropped += len(group)
                passing = True
                continue
            passing = passing or more
            windows[route][0].extend(durations)
            windows[route][1].append(tokens)
        self._recent.extend(self.hears.lasting(batch) if passing and self.hears is not None else batch)
        for route, (seconds, counts) in windows.items():
            self._windows.add_plain(now, route, sorted(seconds), sum(counts))
        if known is not None:
            self._tell_plain(batch, known)

    def _count(
        self, group: list[Plain], route: str, api: str, known: dict[bytes, wire.Told | None] | None
    ) -> tuple[list[float], int, bool]:
        """Counts plain answers of one target. `known`: takes their token counts, for the log. Their durations, ascending, their tokens, and
        whether they have what the ring must not keep."""
        columns: Columns = tuple(zip(*group, strict=True))
        times, ends = columns[6], columns[8]
        durations, tails, odd, hears, passing = sorted(times), [*filter(None, ends)], list[bytes](), self.hears, False
        tried = hears is not None and (any(columns[9]) or any(columns[10]))
        told: list[wire.Told | None] | None = [] if tried or known is not None else None
        target = group[0][0].target
        costly = target.price is not None or prices.told(tails)
        usage, unparsed = wire.usage_sum(tails, odd, told)
        self.unparsed += unparsed
        if told is not None:
            if known is not None:
                known.update(zip(tails, told, strict=True))
            if tried and hears is not None:
                every = told if len(tails) == len(ends) else [*map(dict(zip(tails, told, strict=True)).get, ends)]
                passing = hears.add(columns, every, priced=costly)
        for tail in odd:
            self._check(tail)
        self._metrics.observe_plain(route, target.backend, api, durations, sum(columns[7]), usage)
        if costly:
            cost, reported = prices.together(tails, target.price)
            if cost or reported:
                self._metrics.observe_cost(route, target.backend, api, cost, reported)
        return durations, usage.output + usage.reasoning, passing

    @staticmethod
    def _epoch() -> float:
        return time.time() - time.monotonic()

    def _tell_plain(self, batch: list[Plain], told: dict[bytes, wire.Told | None]) -> None:
        epoch, (writer, others) = self._epoch(), writer_of(self._log)
        if writer is not None and not others:
            lines = self._lines_of(writer)
            if isinstance(lines, JsonLines):
                writer.put(lines.plain(batch, told, time.time(), epoch), len(batch))
                return
        self._tell([(record_of(plain, epoch), False) for plain in batch])

    def _lines_of(self, writer: Writer) -> JsonLines | TextLines:
        if self._lines is None or self._lines.writer is not writer:
            self._lines = lines_for(writer, self._log)
        return self._lines

    def _tell(self, batch: list[Ended]) -> None:
        """One line for each. The logger's level has been looked at."""
        log, unix = self._log, time.time()
        writer, others = writer_of(log)
        if writer is None:
            for record, bad in batch:
                log.handle(log_record(log, record, bad, unix))
            return
        writer.put(self._lines_of(writer)(batch, unix), len(batch))
        for record, bad in batch if others else ():
            made = log_record(log, record, bad, unix)
            for handler in others:
                if made.levelno >= handler.level:
                    handler.handle(made)

    def _usage(self, record: Record, tail: bytes, target: Target) -> None:
        record.usage = wire.usage(tail)
        if record.usage is None:
            self.unparsed += 1
            return
        priced(record, tail, target)
        self._check(tail)

    def _check(self, tail: bytes) -> None:
        """Counts what in the token counts of an answer cannot be true."""
        for name in prices.untrue(tail):
            self.untrue[name] = self.untrue.get(name, 0) + 1

    async def run(self, *, interval: float = 0.1, batch: int = 64) -> None:
        """Drains for ever, `batch` records (see `drain`) between two looks at the network, so that a burst never stalls a stream.

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
        epoch = self._epoch()
        newest = [one if isinstance(one, Record) else record_of(one, epoch) for one in self._recent][::-1]
        newest.sort(key=lambda record: -(record.unix + record.duration))
        return newest[: max(0, limit)]

    def traffic(self) -> Traffic:
        """The last minute's figures and the last five minutes' history."""
        return self._windows.traffic(self._clock(), self.dropped)

    def window(self) -> dict[str, Any]:
        """The figures in a form that `gateway.admin.window.merge_traffic` adds up over workers."""
        return self._windows.dump(self._clock())


def _alike(batch: list[Plain]) -> dict[tuple[int, str, str], list[Plain]]:
    """Plain answers by target (its identity), route and api."""
    chosen: dict[Decision, list[Plain]] = defaultdict(list)
    for plain in batch:
        chosen[plain[0]].append(plain)  # a third of what a key of all three would cost each
    groups: dict[tuple[int, str, str], list[Plain]] = defaultdict(list)
    for decision, some in chosen.items():
        target, (_, route, _, api) = id(decision.target), some[0][:4]
        if all([plain[1] is route and plain[3] is api for plain in some]):  # nearly always
            groups[target, route, api] += some
            continue
        for plain in some:
            groups[target, plain[1], plain[3]].append(plain)
    return groups


def failed(record: Record) -> bool:
    """Whether the gateway or a backend failed this request; a client's own mistake, or its leaving, is none."""
    return record.origin in ("gateway", "backend") if record.fault else record.status >= 500


def _route(record: Record) -> str:
    # A client can ask for any name: those that are no route share one ring.
    return "unknown" if record.fault == "not_found" or not record.route else record.route
