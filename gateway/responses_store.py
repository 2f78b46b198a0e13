"""Keeps Responses for `store`, `previous_response_id` and `GET /v1/responses/{id}`: memory in front, SQLite behind one thread.

1. `put` is a plain call: the response is in memory at once and in the queue of the thread. It says no when the queue is full.
2. The thread owns the only connection (WAL, so that other processes can use the same file) and takes jobs in order, in batches of one
   transaction each. A read that memory cannot answer is a job too, so it sees every write put before it.
3. What was put and not yet written stays in memory until it is. `stop` writes all of it.
4. After each batch the thread deletes what is too old, and the oldest of what is too much.

A response belongs to a tenant; another tenant's request for it finds nothing. What a private call was answered is kept apart under the
same tenant (`private_of`), so that who follows it can be told that this is private too. One event loop owns a store.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import sqlite3
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import msgspec

from backends.types import Fault
from gateway.responses_table import Table

log = logging.getLogger("pointsman.responses")
T = TypeVar("T")
BATCH = 64  # jobs in one transaction
MOST_TURNS = 1000  # responses in one conversation
MOST_HISTORY = 64 << 20  # bytes of one conversation


class Keep(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How much is kept: responses and bytes in all, seconds since each was made; bytes held in memory; and how many responses, bytes and
    reads may wait for the thread."""

    count: int = 10_000
    bytes: int = 1 << 30
    age: float = 30 * 86400.0
    memory: int = 64 << 20
    waiting: int = 1024
    waiting_bytes: int = 64 << 20


class Kept(msgspec.Struct, frozen=True):
    """One response: `items` its own new input items (a JSON list), `response` the Response object. `unix`: seconds, when it was made."""

    tenant: str
    id: str
    items: bytes
    response: bytes
    unix: float
    previous: str | None = None

    @property
    def private(self) -> bool:
        """Whether it was the answer to a private call."""
        return self.tenant.endswith(_PRIVATE)

    @property
    def size(self) -> int:
        """Bytes of what is kept."""
        return len(self.items) + len(self.response)


Key = tuple[str, str]  # tenant, id
_PRIVATE = " private"  # a tenant's own name has no space


def private_of(tenant: str) -> str:
    """Under whose name answers to a tenant's private calls are kept."""
    return tenant + _PRIVATE


class _Ask:
    """A question to the thread, and where its answer goes. `write`: a response that is to be written instead. `changes`: it writes."""

    __slots__ = ("answer", "ask", "changes", "error", "future", "write")

    def __init__(
        self, ask: Callable[[Table], Any], future: asyncio.Future[Any] | None = None, *, write: Kept | None = None, changes: bool = True
    ) -> None:
        self.ask, self.future, self.write, self.changes = ask, future, write, changes
        self.answer: Any = None
        self.error: Exception | None = None


class ResponsesStore:
    """See the module. `path`: a file, made with access for its owner only; None keeps all in memory. `shared`: other processes use the
    file too, so memory is asked only for what is not written yet. `clock` gives unix seconds."""

    def __init__(
        self, path: str | None = None, keep: Keep | None = None, *, shared: bool = False, clock: Callable[[], float] = time.time
    ) -> None:
        self.path, self.keep, self.shared, self.clock = path, keep or Keep(), shared and path is not None, clock
        self.written = self.refused = self.lost = 0  # responses, since the start
        self._jobs: queue.SimpleQueue[_Ask | None] = queue.SimpleQueue()
        self._recent: OrderedDict[Key, Kept] = OrderedDict()
        self._recent_bytes = 0
        self._waiting: dict[Key, Kept] = {}
        self._waiting_bytes = 0
        self._asked: set[_Ask] = set()  # those with a future
        self._open = False
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def __repr__(self) -> str:
        return f"ResponsesStore({len(self._recent)} in memory, {len(self._waiting)} waiting, {self.written} written, {self.lost} lost)"

    async def start(self) -> None:
        """Opens the file. Raises `Fault` (unavailable) when it cannot be used."""
        self._loop = asyncio.get_running_loop()
        opened: asyncio.Future[None] = self._loop.create_future()
        self._thread = threading.Thread(target=self._run, args=(opened,), name="responses", daemon=True)
        self._thread.start()
        try:
            await opened
        except (sqlite3.Error, OSError) as e:
            raise Fault("unavailable", f"The file '{self.path}' for stored responses cannot be used: {e}.") from e
        self._open = True

    async def stop(self) -> None:
        """Writes what waits and closes the file. Idempotent. After it nothing is taken or given."""
        self._open = False
        thread, self._thread = self._thread, None
        if thread is not None:
            self._jobs.put(None)
            await asyncio.to_thread(thread.join)
            await asyncio.sleep(0)  # the thread's last answers are in the loop's queue

    def put(self, kept: Kept) -> bool:
        """Takes a response; never blocks. False when the store is closed, too much waits, or it alone is more than may be kept."""
        waiting = len(self._waiting) >= self.keep.waiting or self._waiting_bytes + kept.size > self.keep.waiting_bytes
        if not self._open or waiting or kept.size > self.keep.bytes:
            self.refused += 1
            return False
        key = kept.tenant, kept.id
        self._wait(key, kept)
        self._remember(key, kept)
        self._jobs.put(_Ask(lambda table: table.write(kept), write=kept))
        return True

    def peek(self, tenant: str, id: str) -> Kept | None:
        """A response, private or not, if memory has it."""
        found = self._peek((tenant, id))
        return self._peek((private_of(tenant), id)) if found is None else found

    def _peek(self, key: Key) -> Kept | None:
        kept = self._waiting.get(key) or (None if self.shared else self._recent.get(key))
        if kept is None or kept.unix + self.keep.age <= self.clock():
            return None
        if key in self._recent:
            self._recent.move_to_end(key)
        return kept

    async def get(self, tenant: str, id: str) -> Kept | None:
        """A response of this tenant, private or not, or None. Raises `Fault` (overloaded, unavailable)."""
        kept = self.peek(tenant, id)
        if kept is not None or not _plausible(id):
            return kept
        oldest, owners = self.clock() - self.keep.age, (tenant, private_of(tenant))
        rows = await self._ask(lambda table: [table.read(owner, id, oldest) for owner in owners], changes=False)
        row = next((row for row in rows if row is not None), None)
        if row is None:
            return None
        found = Kept(*row)
        self._remember((found.tenant, id), found)
        return found

    async def delete(self, tenant: str, id: str) -> bool:
        """Deletes a response of this tenant; when this returns it is gone from the file too. False when there was none. Responses that
        follow it can then not be followed any more. Raises `Fault` (overloaded, unavailable)."""
        if not _plausible(id):
            return False
        keys, oldest = ((tenant, id), (private_of(tenant), id)), self.clock() - self.keep.age
        for key in keys:
            self._drop(key)
            self._settled(key, self._waiting.get(key))
        gone = await self._ask(lambda table: [table.delete(owner, id, oldest) for owner, _ in keys])
        for key in keys:
            self._drop(key)  # a read that came before may have brought it back
        return any(gone)

    async def chain(self, tenant: str, id: str) -> list[Kept]:
        """The conversation that ends with this response, the oldest first. Raises `Fault` (bad_request) when a response of it is not
        there, or when it is longer than may be followed; (overloaded, unavailable)."""
        out: list[Kept] = []
        size, at = 0, id
        while True:
            kept = await self.get(tenant, at)
            if kept is None:
                message = f"Previous response with id '{at}' not found."
                raise Fault("bad_request", message, origin="client", param="previous_response_id", code="previous_response_not_found")
            out.append(kept)
            size += kept.size
            if kept.previous is None:
                return out[::-1]
            at = kept.previous
            if len(out) >= MOST_TURNS or size > MOST_HISTORY:
                message = f"The conversation before '{id}' is longer than {MOST_TURNS} responses or {MOST_HISTORY} bytes; begin a new one."
                raise Fault("bad_request", message, origin="client", param="previous_response_id", code="conversation_too_long")

    async def flush(self) -> None:
        """Returns when all that was put before is in the file, or lost. Raises `Fault` (overloaded, unavailable)."""
        await self._ask(lambda table: None, changes=False)

    async def _ask(self, ask: Callable[[Table], T], *, changes: bool = True) -> T:
        if not self._open or self._loop is None:
            raise Fault("unavailable", "Stored responses are not available: the gateway is shutting down.")
        if len(self._asked) >= self.keep.waiting:
            raise Fault("overloaded", "Too many reads of stored responses are waiting; try again.", retry_after=1.0)
        future: asyncio.Future[T] = self._loop.create_future()
        job = _Ask(ask, future, changes=changes)
        self._asked.add(job)
        self._jobs.put(job)
        try:
            return await future
        except sqlite3.Error as e:
            log.error("stored responses: %s", e)
            raise Fault("unavailable", "Stored responses cannot be read now.") from e

    # Memory, on the loop.

    def _wait(self, key: Key, kept: Kept) -> None:
        before = self._waiting.get(key)
        self._waiting[key] = kept
        self._waiting_bytes += kept.size - (before.size if before else 0)

    def _remember(self, key: Key, kept: Kept) -> None:
        self._drop(key)
        if self.shared:
            return
        self._recent[key] = kept
        self._recent_bytes += kept.size
        while self._recent_bytes > self.keep.memory and self._recent:
            self._recent_bytes -= self._recent.popitem(last=False)[1].size

    def _drop(self, key: Key) -> None:
        kept = self._recent.pop(key, None)
        if kept is not None:
            self._recent_bytes -= kept.size

    def _settled(self, key: Key, kept: Kept | None) -> None:
        """`kept` waits no more; a later one of the same name still does."""
        if kept is not None and self._waiting.get(key) is kept:
            del self._waiting[key]
            self._waiting_bytes -= kept.size

    def _done(self, jobs: list[_Ask], gone: Iterable[Key]) -> None:
        """A batch has ended, on the loop."""
        for job in jobs:
            kept = job.write
            if kept is not None:
                self._settled((kept.tenant, kept.id), kept)
                self.written += job.error is None
                self.lost += job.error is not None
            elif job.future is not None:
                self._asked.discard(job)
                if not job.future.done():
                    _resolve(job.future, job)
        for key in gone:
            self._drop(key)

    def _ended(self) -> None:
        """The thread has ended, on the loop. Nothing waits for it unless it broke."""
        self._open = False
        for job in self._asked:
            job.error = sqlite3.OperationalError("the thread of the store has ended")
        self._done(list(self._asked), ())

    # The thread.

    def _run(self, opened: asyncio.Future[None]) -> None:
        try:
            table = Table(self.path)
        except (sqlite3.Error, OSError) as e:
            self._call(opened.set_exception, e)
            return
        self._call(opened.set_result, None)
        try:
            with contextlib.closing(table):
                more = True
                while more:
                    jobs, more = self._batch()
                    gone = self._work(table, jobs) if jobs else []
                    self._call(self._done, jobs, gone)
        finally:
            self._call(self._ended)

    def _batch(self) -> tuple[list[_Ask], bool]:
        """The jobs that wait, at least one; whether more may come."""
        jobs: list[_Ask] = []
        job = self._jobs.get()
        while job is not None:
            jobs.append(job)
            if len(jobs) == BATCH:
                return jobs, True
            try:
                job = self._jobs.get_nowait()
            except queue.Empty:
                return jobs, True
        return jobs, False

    def _work(self, table: Table, jobs: list[_Ask]) -> list[Key]:
        """Does the jobs in one transaction; when that fails, each in its own, so that one bad write costs only itself."""
        try:
            with table.transaction(any(job.changes for job in jobs)):
                for job in jobs:
                    job.answer = job.ask(table)
        except sqlite3.Error:
            for job in jobs:
                self._alone(table, job)
        if not any(job.write for job in jobs):
            return []
        try:
            with table.transaction():
                return table.sweep(self.keep.count, self.keep.bytes, self.clock() - self.keep.age)
        except sqlite3.Error as e:
            log.error("old responses could not be deleted: %s", e)
            return []

    def _alone(self, table: Table, job: _Ask) -> None:
        try:
            with table.transaction(job.changes):
                job.answer = job.ask(table)
        except sqlite3.Error as e:
            job.error = e
            if job.write is not None:
                log.error("a response could not be stored: %s", e)

    def _call(self, what: Callable[..., object], *args: object) -> None:
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop was closed without `stop`
                self._loop.call_soon_threadsafe(what, *args)


def _plausible(id: str) -> bool:
    """Whether this can be the id of a response: not all text can be asked of SQLite."""
    return id.isascii() and len(id) <= 256


def _resolve(future: asyncio.Future[Any], job: _Ask) -> None:
    if job.error is not None:
        future.set_exception(job.error)
    else:
        future.set_result(job.answer)
