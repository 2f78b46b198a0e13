"""Runs the analyst of experiments as a child process: started, told what to do, started again when it ends, stopped with its owner.

It has a pipe for its input, so it ends when this process does, however that happens.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
import time
from collections.abc import Sequence

import msgspec

from gateway.experiments.analyst import Done, Order
from gateway.experiments.aside import NICE

log = logging.getLogger("pointsman.experiments")
DELAY_SECONDS = 2.0  # before the first start, for which nothing is waiting: the gateway's own start comes first
AGAIN_SECONDS, AGAIN_MAX = 0.5, 60.0
WELL_SECONDS = 60.0  # after which an end is no reason to wait longer before the next start
STOP_SECONDS = 5.0
_done = msgspec.json.Decoder(Done)


class Running:
    """The analyst of one file. Owned by the event loop. `argv`: the command without the path."""

    def __init__(self, path: str, argv: Sequence[str] = (sys.executable, "-m", "gateway.experiments.analyst")) -> None:
        self.path, self.argv = path, argv
        self.order = Order()  # what holds, for one that starts anew
        self.starts = 0
        self._process: asyncio.subprocess.Process | None = None
        self._task: asyncio.Task[None] | None = None
        self._asked: dict[int, asyncio.Future[str]] = {}
        self._number = 0
        self._wanted = asyncio.Event()

    def __repr__(self) -> str:
        there = f"process {self._process.pid}" if self._process is not None else "not there"
        return f"<Running analyst of {self.path}: {there}, started {self.starts} times>"

    @property
    def pid(self) -> int | None:
        """Of the process, while there is one."""
        return self._process.pid if self._process is not None else None

    def start(self) -> None:
        """Starts it, soon, or when it is asked for a look, and keeps it running. Needs a running loop."""
        if self._task is None:
            self._task = asyncio.create_task(self._keep())

    def follow(self, order: Order) -> None:
        """What holds from now on, also for one that must be started anew."""
        self.order = order
        self._say(order)

    async def look(self, seconds: float = 30.0) -> str:
        """Lets it look at the file now; why that came to nothing, or "". Waits while it is being started. Raises TimeoutError."""
        self._number += 1
        number, asked = self._number, asyncio.get_running_loop().create_future()
        self._asked[number] = asked
        self._wanted.set()
        self._say(Order(number=number))
        try:
            async with asyncio.timeout(seconds):
                answer: str = await asked
                return answer
        finally:
            self._asked.pop(number, None)

    async def stop(self) -> None:
        """Ends it; kills it when that takes more than STOP_SECONDS. Idempotent."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        for asked in self._asked.values():
            if not asked.done():
                asked.set_result("the analyst of experiments is stopped")

    def _say(self, order: Order) -> None:
        process = self._process
        if process is not None and process.stdin is not None and not process.stdin.is_closing():
            process.stdin.write(msgspec.json.encode(order) + b"\n")

    async def _keep(self) -> None:
        """Runs it for ever: an end is followed by a new start, later when that happens often."""
        quick = 0
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DELAY_SECONDS):
                await self._wanted.wait()
        while True:
            began = time.monotonic()
            try:
                await self._run()
            except OSError as e:
                log.error("the analyst of experiments did not start: %s", e)
            quick = 0 if time.monotonic() - began > WELL_SECONDS else quick + 1
            await asyncio.sleep(min(AGAIN_MAX, AGAIN_SECONDS * 2 ** (quick - 1) if quick else AGAIN_SECONDS))

    async def _run(self) -> None:
        """One process, from its start to its end. Raises OSError."""
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(*self.argv, self.path, stdin=pipe, stdout=pipe)
        assert process.stdin is not None and process.stdout is not None
        if not self._asked:  # from its first moment: what it imports costs as much as many looks
            with contextlib.suppress(OSError):  # it has ended, or a sandbox forbids it
                os.setpriority(os.PRIO_PROCESS, process.pid, NICE)
        self._process = process
        self.starts += 1
        try:
            self._say(self.order)
            for number in self._asked:
                self._say(Order(number=number))
            async for line in process.stdout:
                self._heard(line)
            code = await process.wait()
            log.error("the analyst of experiments ended with code %s; a new one starts", code)
        finally:
            self._process = None
            await _end(process)

    def _heard(self, line: bytes) -> None:
        try:
            done = _done.decode(line)
        except msgspec.MsgspecError:
            log.error("the analyst of experiments said something that cannot be read")
            return
        asked = self._asked.get(done.number)
        if asked is not None and not asked.done():
            asked.set_result(done.problem)


async def _end(process: asyncio.subprocess.Process) -> None:
    """Closes its input and waits for its end; when that takes too long, kills it."""
    assert process.stdin is not None
    process.stdin.close()
    with contextlib.suppress(ConnectionError):
        await process.stdin.wait_closed()
    try:
        async with asyncio.timeout(STOP_SECONDS):
            await process.wait()
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
