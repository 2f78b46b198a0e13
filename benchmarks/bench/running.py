"""What the commands do around their measuring: Ctrl-C, the live line, files, the table, the exit code."""

from __future__ import annotations

import asyncio
import gc
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import msgspec

from benchmarks.bench import files
from benchmarks.bench.errors import BenchError
from benchmarks.bench.options import Options
from benchmarks.bench.plain import to_json
from benchmarks.bench.progress import Progress
from benchmarks.bench.run import exit_code, run
from benchmarks.bench.session import Interrupted
from benchmarks.bench.table import table

T = TypeVar("T")


def bench(options: Options, outs: list[Path], *, overwrite: bool, as_json: bool) -> int:
    """Measures, writes the files, shows the table or JSON; the exit code. Blocks for as long as the load lasts. Raises BenchError."""
    progress = Progress(sys.stderr)
    try:
        outcome = measured(lambda stop: run(options, progress, stop))
    finally:
        progress.close()
    try:
        files.write(outs, outcome.result, outcome.stages, overwrite)
    finally:  # a full disk does not take what was measured, nor does a reader that has gone take the files
        sys.stdout.write(json_of(outcome.result) if as_json else table(outcome.result) + "\n")
        sys.stdout.flush()
    code, why = exit_code(outcome)
    if why:
        sys.stderr.write(f"pointsman bench: {why}\n")
    return code


def json_of(document: object) -> str:
    """As JSON for people and programs."""
    return msgspec.json.format(to_json(document), indent=2).decode() + "\n"


def measured(work: Callable[[asyncio.Event], Awaitable[T]]) -> T:
    """Runs `work` in a loop of its own. The first Ctrl-C sets its event, the second ends it at once. Blocks. Raises BenchError."""

    async def watched() -> T:
        stop = asyncio.Event()
        with _interrupts(stop):
            return await work(stop)

    gc.collect()
    gc.freeze()  # what is loaded by now is not looked at again while requests are timed
    try:
        return asyncio.run(watched())
    except Interrupted as error:
        raise BenchError(str(error)) from None
    except KeyboardInterrupt:
        raise BenchError("interrupted twice: nothing was kept") from None
    finally:
        gc.unfreeze()


@contextmanager
def _interrupts(stop: asyncio.Event) -> Iterator[None]:
    """The first SIGINT or SIGTERM sets `stop`; the next one is Python's own."""
    loop = asyncio.get_running_loop()
    numbers = (signal.SIGINT, signal.SIGTERM)

    def once() -> None:
        stop.set()
        for number in numbers:
            loop.remove_signal_handler(number)

    try:
        for number in numbers:
            loop.add_signal_handler(number, once)
    except (NotImplementedError, RuntimeError, ValueError):  # not the main thread, or Windows: Ctrl-C ends it at once
        yield
        return
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)
