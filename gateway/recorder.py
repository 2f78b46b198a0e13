"""Takes a record from the hot path in constant time, and later, on a tick, makes metrics, a log line and figures of it.

One `Recorder` belongs to one event loop. `put` is the only call on the hot path.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from backends import wire
from backends.types import Usage
from gateway.admin.state import Traffic
from gateway.admin.window import Windows
from gateway.logs import Checked, cut, redact
from gateway.metrics import Metrics
from gateway.record import Record

BATCH = 32  # records
REQUEST_LOG = "pointsman.request"


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
        for _ in range(min(limit, len(queue))):
            record, tail = queue.popleft()
            if tail is not None:
                record.usage = self._usage(tail)
            observe(record)
            usage = record.usage
            bad = failed(record)
            count(now, _route(record), bad, record.ttft, usage.output + usage.reasoning if usage is not None else 0, _over(record))
            keep(record)
            if info or (bad and warn):
                log_record(log, record)
        return len(queue)

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


def failed(record: Record) -> bool:
    """Whether the gateway or a backend failed this request; a client's own mistake, or its leaving, is none."""
    return record.origin in ("gateway", "backend") if record.fault else record.status >= 500


def log_record(log: logging.Logger, record: Record) -> None:
    """One line for one request: WARNING when we or a backend failed it, else INFO. The level is checked before anything is formatted."""
    level = logging.WARNING if failed(record) else logging.INFO
    if not log.isEnabledFor(level):
        return
    usage = record.usage
    fields = Checked(
        id=_safe(record.id), api=record.api, route=_safe(record.route), status=record.status, seconds=round(record.duration, 4),
        ttft=None if record.ttft is None else round(record.ttft, 4), replica=_safe(record.replica), tenant=_safe(record.tenant),
        stream=record.stream, attempts=record.attempts, bytes=record.bytes_out,
    )  # fmt: skip
    if usage is not None:
        fields["tokens_in"] = usage.input + usage.cached + usage.cache_write
        fields["tokens_cached"] = usage.cached
        fields["tokens_out"] = usage.output + usage.reasoning
    if record.fault:
        fields.update(fault=record.fault, origin=record.origin, error=_safe(record.message))
    # Not `log.log`: it looks up which line of code is calling, for some 10 µs.
    log.handle(log.makeRecord(log.name, level, __file__, 0, "request", (), None, extra={"fields": fields}))


def _safe(text: str) -> str:
    return redact(cut(text, 500))


def _route(record: Record) -> str:
    # A client can ask for any name: those that are no route share one ring.
    return "unknown" if record.fault == "not_found" or not record.route else record.route


def _over(record: Record) -> float:
    return record.duration - record.ttft if record.stream and record.ttft is not None else record.duration
