"""Keeps what experiments see and are told: a bounded queue in front, SQLite behind one thread.

1. `put` is a plain call that appends a tuple to a queue; `pair` likewise. What does not fit is counted, nothing waits. The most common
   requests come as blocks that were read some hundred at a time on the loop (`plain`).
2. The thread wakes a few times a second. It reads the tuples a few at a time and lets go of the interpreter in between, so that the
   event loop never waits for more than about a millisecond; it writes a row for up to CHUNK requests, at least one a second.
3. It owns the only connection and takes jobs in order: feedback and what is put in force are answered when they are on the disk.
4. Other processes write to the same file. What they put in force is read when SQLite says that the file has changed.
5. What cannot be written is kept, up to a bound, and tried again; beyond it is lost, and counted.

One event loop owns a store.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import msgspec

from backends.types import Fault
from gateway.experiments import ended
from gateway.experiments.plain import UNREADABLE, Blocks, together
from gateway.experiments.tables import CHUNK, Tables
from gateway.experiments.words import Feedback, Pair, State
from gateway.metrics import Metrics
from routing.experiments.words import Audit, Result, Seen

log = logging.getLogger("pointsman.experiments")
T = TypeVar("T")
BATCH = 64  # jobs in one transaction
STINT = 0.0007  # seconds of reading tuples in one go
YIELD = 0.0005  # seconds that the thread then leaves the interpreter to others
WAKE = 0.2  # seconds between two looks at the queue and at the file
FLUSH = 0.8  # seconds that a request waits at most for others to share its row
FULL = 8 * CHUNK  # requests in blocks that are written before that
_NO_STATES = "what is in force of the experiments cannot be read: %s"


class Keep(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How much may wait in memory: requests, pairs, and jobs that somebody waits for; requests that are read and could not be written."""

    queue: int = 50_000
    pairs: int = 2_000
    jobs: int = 1_024
    unwritten: int = 50_000


class _Job:
    """A question to the thread, and where its answer goes. `writes`: it changes the file."""

    __slots__ = ("answer", "ask", "error", "future", "writes")

    def __init__(self, ask: Callable[[Tables], Any], future: asyncio.Future[Any], writes: bool) -> None:
        self.ask, self.future, self.writes = ask, future, writes
        self.answer: Any = None
        self.error: Exception | None = None


class TrialStore:
    """See the module. `path`: a file, made with access for its owner only. `seen`: what makes a request of a tuple; called in the thread.
    None: that of `ended`. `on_states` is called on the loop, whenever something else is in force, and once at the start. `clock` gives
    unix seconds."""

    def __init__(
        self,
        path: str,
        keep: Keep | None = None,
        clock: Callable[[], float] = time.time,
        *,
        seen: Callable[[Any], Seen | None] | None = None,
    ) -> None:
        self.path, self.keep, self.clock = path, keep or Keep(), clock
        self.on_states: Callable[[Mapping[str, State]], None] | None = None
        self.states: Mapping[str, State] = {}
        self.written = self.lost = 0  # requests and pairs, counted by the thread
        self._seen: Callable[[Any], Seen | None] = seen or ended.seen
        self._queue: deque[tuple[Any, ...]] = deque()
        self._most = self.keep.queue
        self._lacked = 0  # requests and pairs for which there was no room, without those in blocks
        self.plain = Blocks(self._most, self.put)  # takes what the most common requests leave
        self.hurry: Callable[[], object] = lambda: None  # makes who holds some of them back hand them over now
        self._pairs: deque[Pair] = deque()
        self._read: list[Seen] = []  # the thread's: not yet in a row
        self._since = 0.0  # monotonic, when the first was found of what is not in a row; 0: there is nothing
        self._jobs: queue.Queue[_Job | None] = queue.Queue()  # a `SimpleQueue` whose wait a signal ends late waits for ever (CPython 3.11)
        self._asked: set[_Job] = set()
        self._told = 0.0  # monotonic, when the log last told of a failure
        self._open = False
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def __repr__(self) -> str:
        return f"TrialStore({self.queued} queued, {self.written} written, {self.dropped} dropped, {self.lost} lost)"

    @property
    def queued(self) -> int:
        """Requests and pairs that came here and are not in the file yet."""
        return len(self._queue) + len(self._pairs) + len(self._read) + len(self.plain)

    @property
    def dropped(self) -> int:
        """Requests and pairs for which there was no room."""
        return self._lacked + self.plain.dropped

    async def start(self) -> None:
        """Opens the file. Raises `Fault` (unavailable) when it cannot be used."""
        self._loop = asyncio.get_running_loop()
        opened: asyncio.Future[dict[str, State]] = self._loop.create_future()
        self._thread = threading.Thread(target=self._run, args=(opened,), name="experiments", daemon=True)
        self._thread.start()
        try:
            states = await opened
        except (sqlite3.Error, OSError, msgspec.MsgspecError) as e:
            raise Fault("unavailable", f"The file '{self.path}' for experiments cannot be used: {e}.") from e
        self._open, self.states = True, states
        if self.on_states is not None:
            self.on_states(states)

    async def stop(self) -> None:
        """Writes what waits and closes the file. Idempotent. What comes after it is not written."""
        self.hurry()
        self._open = False
        thread, self._thread = self._thread, None
        if thread is not None:
            self._jobs.put(None)
            await asyncio.to_thread(thread.join)
            await asyncio.sleep(0)  # the thread's last answers are in the loop's queue

    def put(self, left: tuple[Any, ...]) -> None:
        """Takes what a request left; never blocks, never raises."""
        waiting = self._queue
        if len(waiting) < self._most:
            waiting.append(left)
        else:
            self._lacked += 1

    def pair(self, pair: Pair) -> None:
        """Takes a pair of a shadow; never blocks, never raises."""
        if len(self._pairs) < self.keep.pairs:
            self._pairs.append(pair)
        else:
            self._lacked += 1

    async def feedback(self, item: Feedback) -> None:
        """Returns when it is on the disk. Raises `Fault` (overloaded, unavailable): it is not."""
        await self._ask(lambda tables: tables.add_feedback(item), writes=True)

    async def act(self, name: str, state: State, actor: str, action: str, detail: str = "") -> None:
        """Puts a state in force here, and within about a second in every process, and writes down who did it and why. Returns when both are
        on the disk. ValueError: the state is another experiment's. Raises `Fault` (overloaded, unavailable): neither is."""
        if state.name != name:
            raise ValueError(f"a state of '{state.name}' was given for the experiment '{name}'")
        done = Audit(self.clock(), actor, action, detail)
        await self._ask(lambda tables: tables.act(state, done), writes=True)

    async def read(self, ask: Callable[[Tables], T]) -> T:
        """What `ask` reads, in the thread; it must not write, and everybody waits for it. Raises `Fault` (overloaded, unavailable)."""
        return await self._ask(ask, writes=False)

    async def result(self, name: str) -> Result | None:
        """The last analysis of an experiment. None: there was none yet. Raises `Fault` (overloaded, unavailable)."""
        return await self.read(lambda tables: tables.result(name))

    async def flush(self) -> None:
        """Returns when all that was put before is in the file, or lost. Raises `Fault` (overloaded, unavailable)."""
        await self._ask(lambda tables: None, writes=True)

    async def _ask(self, ask: Callable[[Tables], T], *, writes: bool) -> T:
        if not self._open or self._loop is None:
            raise Fault("unavailable", "The store of experiments is not available: the gateway is shutting down.")
        if len(self._asked) >= self.keep.jobs:
            raise Fault("overloaded", "Too much is waiting for the store of experiments; try again.", retry_after=1.0)
        if writes:
            self.hurry()  # all that ended before
        future: asyncio.Future[T] = self._loop.create_future()
        job = _Job(ask, future, writes)
        self._asked.add(job)
        self._jobs.put(job)
        try:
            return await future
        except (sqlite3.Error, msgspec.MsgspecError) as e:
            log.error("experiments: %s", e)
            raise Fault("unavailable", "The store of experiments cannot be used now; try again.", retry_after=1.0) from e

    def _follow(self, states: Mapping[str, State]) -> None:
        """What is in force now, on the loop."""
        if states != self.states:
            self.states = states
            if self.on_states is not None:
                self.on_states(states)

    def _answered(self, jobs: list[_Job]) -> None:
        """Jobs are done, on the loop."""
        for job in jobs:
            self._asked.discard(job)
            if not job.future.done():
                if job.error is not None:
                    job.future.set_exception(job.error)
                else:
                    job.future.set_result(job.answer)

    def _ended(self) -> None:
        """The thread has ended, on the loop. Nothing waits for it unless it broke."""
        self._open = False
        for job in self._asked:
            job.error = sqlite3.OperationalError("the thread of the store has ended")
        self._answered([*self._asked])

    # The thread.

    def _run(self, opened: asyncio.Future[dict[str, State]]) -> None:
        try:
            tables = Tables(self.path)
        except (sqlite3.Error, OSError) as e:
            self._call(_fail, opened, e)
            return
        try:
            with contextlib.closing(tables):
                try:
                    version, states = tables.version(), tables.states()
                except (sqlite3.Error, msgspec.MsgspecError) as e:
                    self._call(_fail, opened, e)
                    return
                self._call(_give, opened, states)
                self._serve(tables, version)
        finally:
            self._call(self._ended)

    def _serve(self, tables: Tables, version: int) -> None:
        more = True
        while more:
            jobs, more = self._wait()
            self._convert()
            if jobs or not more or self._due():
                self._write(tables, jobs)
            version = self._look(tables, version)
        left = self.queued
        if left:
            self.lost += left
            log.error("%d requests of experiments could not be stored before the gateway ended", left)

    def _wait(self) -> tuple[list[_Job], bool]:
        """The jobs that wait, after at most WAKE seconds; whether more may come."""
        jobs: list[_Job] = []
        with contextlib.suppress(queue.Empty):
            job = self._jobs.get(timeout=WAKE)
            while job is not None:
                jobs.append(job)
                if len(jobs) == BATCH:
                    return jobs, True
                job = self._jobs.get_nowait()
            return jobs, False
        return jobs, True

    def _convert(self) -> None:
        """Makes requests of the tuples that wait now; what comes meanwhile is for the next time."""
        waiting, left = self._queue, len(self._queue)
        if not self._since and (left or self.plain):
            self._since = time.monotonic()
        begun = time.perf_counter()
        for _ in range(left):
            self._convert_one(waiting.popleft())
            if time.perf_counter() - begun > STINT:
                time.sleep(YIELD)  # lets go of the interpreter: the loop has waited long enough
                begun = time.perf_counter()
        over = len(self._read) - self.keep.unwritten
        if over > 0:
            del self._read[:over]
            self.lost += over

    def _convert_one(self, left: tuple[Any, ...]) -> None:
        try:
            seen = ended.fitting(self._seen(left))
        except UNREADABLE as e:
            self.lost += 1
            self._tell("what a request of an experiment left cannot be read: %s", e)
            return
        if seen is not None:
            self._read.append(seen)

    def _due(self) -> bool:
        full = len(self._read) >= CHUNK or len(self.plain) >= FULL
        return bool(self._pairs) or full or (self._since > 0 and time.monotonic() - self._since >= FLUSH)

    def _write(self, tables: Tables, jobs: list[_Job]) -> None:
        """Requests and pairs in one transaction, then the jobs in one; when that fails each in its own, so that one costs only itself."""
        self._store(tables)
        if not jobs:
            return
        writes = any(job.writes for job in jobs)
        try:
            with tables.transaction(writes, durable=writes):
                for job in jobs:
                    job.answer = job.ask(tables)
        except (sqlite3.Error, msgspec.MsgspecError):
            for job in jobs:
                self._alone(tables, job)
        if writes:
            self._say_states(tables)  # before the answer: who has put something in force finds it so
        self._call(self._answered, jobs)

    def _alone(self, tables: Tables, job: _Job) -> None:
        try:
            with tables.transaction(job.writes, durable=job.writes):
                job.answer = job.ask(tables)
        except (sqlite3.Error, msgspec.MsgspecError) as e:
            job.error = e

    def _store(self, tables: Tables) -> None:
        seen, pairs, blocks = self._read, [*self._pairs], self.plain.ready()
        if not seen and not pairs and not blocks:
            self._since = 0.0
            return
        try:
            with tables.transaction():
                for at in range(0, len(seen), CHUNK):
                    tables.add_chunk(seen[at : at + CHUNK])
                for row in together(blocks, CHUNK):
                    tables.add_blocks(row.unix, row.requests, row.body)
                tables.add_pairs(pairs)
        except sqlite3.Error as e:
            self._tell("requests of experiments could not be stored, they are tried again: %s", e)
            return
        except UNREADABLE as e:  # trying again would not help, and would keep all that follow out
            self._tell("requests of experiments cannot be written, they are lost: %s", e)
            self.lost += len(seen) + len(pairs) + sum(block.requests for block in blocks)
        else:
            self.written += len(seen) + len(pairs) + sum(block.requests for block in blocks)
        self._since = 0.0
        seen.clear()
        self.plain.written(len(blocks))
        for _ in pairs:
            self._pairs.popleft()

    def _look(self, tables: Tables, version: int) -> int:
        """Reads what is in force when another process has changed the file."""
        try:
            now = tables.version()
        except sqlite3.Error as e:
            self._tell(_NO_STATES, e)
            return version
        return now if now == version or self._say_states(tables) else version

    def _say_states(self, tables: Tables) -> bool:
        try:
            self._call(self._follow, tables.states())
        except (sqlite3.Error, msgspec.MsgspecError) as e:
            self._tell(_NO_STATES, e)
            return False
        return True

    def _tell(self, text: str, error: Exception) -> None:
        now = time.monotonic()
        if now - self._told >= 10.0:
            self._told = now
            log.error(text, error)

    def _call(self, what: Callable[..., object], *args: object) -> None:
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop was closed without `stop`
                self._loop.call_soon_threadsafe(what, *args)


def gauges(figures: Metrics, store: Callable[[], TrialStore | None]) -> None:
    """Registers what the store in force, if there is one, counts."""

    def read(field: str) -> Callable[[], float]:
        return lambda: 0.0 if (there := store()) is None else float(getattr(there, field))

    figures.callback("pointsman_experiment_records_queued", "Requests and pairs of experiments not yet in their file.", read("queued"))
    for field, help in (
        ("dropped", "Requests and pairs of experiments for which the queue had no room."),
        ("written", "Requests and pairs of experiments that were written."),
        ("lost", "Requests and pairs of experiments that could not be read or written."),
    ):
        figures.callback(f"pointsman_experiment_records_{field}_total", help, read(field), kind="counter")


def _fail(future: asyncio.Future[Any], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)


def _give(future: asyncio.Future[Any], answer: object) -> None:
    if not future.done():
        future.set_result(answer)
