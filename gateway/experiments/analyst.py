"""The analyst: a child process that turns what experiments have seen into results, so that no request waits for statistics.

`python -m gateway.experiments.analyst PATH`, started by whoever owns the control plane (`running`). It is told what to do in lines of JSON
on its standard input (`Order`), answers orders that have a number with a line (`Done`), looks at the file every few seconds, and ends when
its input does. It may be killed at any time: see `folding`.
"""

from __future__ import annotations

import logging
import os
import queue
import signal
import sqlite3
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import BinaryIO

import msgspec

from gateway.experiments.aside import NICE, Aside, Spare, here
from gateway.experiments.folding import Folding
from gateway.experiments.judging import Judging, look_at
from gateway.experiments.keeping import Retain, sweep
from gateway.experiments.tables import Tables
from routing.experiments.words import Design, Result

log = logging.getLogger("pointsman.experiments")
LOOK_SECONDS = 3.0
FOLD_SECONDS = 20.0  # of one look, before what is folded so far is judged
SWEEP_SECONDS = 60.0
SWEEPS = 20  # in one go
_BROKEN = (sqlite3.Error, msgspec.MsgspecError, ValueError, ArithmeticError, LookupError)


class Order(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the analyst is told. None: as before. `begins`: unix seconds, by experiment. `number`: look now, and say when it is done."""

    designs: tuple[Design, ...] | None = None
    begins: dict[str, float] = {}
    retain: Retain | None = None
    number: int | None = None


class Done(msgspec.Struct, frozen=True):
    """The answer to an order with a number. `problem`: why the look came to nothing, "" when it did not."""

    number: int
    problem: str = ""


class Analyst:
    """What the process does, without the process. `clock`: unix seconds; `aside`: does what takes long and holds no lock. Blocking; for one
    thread."""

    def __init__(self, tables: Tables, clock: Callable[[], float] = time.time, aside: Aside = here) -> None:
        self.tables, self.clock = tables, clock
        self.retain = Retain()
        self.folding = Folding(tables, aside=aside)
        self.judging = Judging(tables, self.folding, aside)
        self._told = False  # which experiments there are; before it nothing may be folded, or it would count for none
        self._swept = 0.0

    def obey(self, order: Order) -> Done | None:
        """Takes over what an order says; looks when it has a number. Never raises for what is in the file."""
        if order.designs is not None:
            self._told = True
            self.folding.follow(order.designs)
            self.judging.begins = order.begins
        self.retain = order.retain or self.retain
        return None if order.number is None else Done(order.number, self.look(all=True))

    def look(self, *, all: bool = False) -> str:
        """Folds what is new, writes results, does what is due, and lets go of what is old. Why that failed, or "". `all`: however long that
        takes. Else, on a core that is full and leaves the analyst next to nothing, what is judged and acted on is what it has got to."""
        if not self._told:
            return "no experiments are known yet"
        unix = self.clock()
        self.folding.oldest = unix - self.retain.answers
        problems = [self._try("what experiments saw cannot be folded", self.folding.all if all else self._fold)]
        if not problems[0]:
            for design in [*self.folding.designs.values()]:
                problems.append(self._try(f"experiment '{design.name}' cannot be analysed", partial(self.judging.look, design, unix)))
        if unix - self._swept >= SWEEP_SECONDS:
            self._swept = unix
            problems.append(self._try("what experiments saw cannot be cleared", partial(self._sweep, unix)))
        return "; ".join(problem for problem in problems if problem)

    def _fold(self) -> None:
        end = time.monotonic() + FOLD_SECONDS
        while self.folding.step() and time.monotonic() < end:
            pass

    def _sweep(self, unix: float) -> None:
        for _ in range(SWEEPS):
            if not sweep(self.tables, self.retain, unix, {*self.folding.designs}):
                return

    def _try(self, what: str, do: Callable[[], object]) -> str:
        try:
            do()
        except _BROKEN as e:
            log.exception("%s", what)
            return f"{what}: {e}"
        return ""


def analyse_file(path: str, design: Design, clock: Callable[[], float] = time.time) -> Result:
    """The result of an experiment from a file, whether a gateway uses it or not; nothing in it is changed. Blocks, for seconds where much
    is not folded. Raises OSError, `sqlite3.Error`, msgspec.MsgspecError: the file cannot be used."""
    tables = Tables(path, readonly=True)
    try:
        return look_at(tables, design, clock())
    finally:
        tables.close()


def read_orders(stream: BinaryIO, orders: queue.Queue[Order | None]) -> None:
    """Passes on orders until the stream ends, then None. What is no order is told and passed over."""
    decoder = msgspec.json.Decoder(Order)
    for line in stream:
        try:
            orders.put(decoder.decode(line))
        except msgspec.MsgspecError as e:
            log.error("an order to the analyst of experiments cannot be read: %s", e)
    orders.put(None)


def serve(analyst: Analyst, orders: queue.Queue[Order | None], out: BinaryIO) -> None:
    """Obeys until there are no more orders; looks every LOOK_SECONDS."""
    next_look = time.monotonic()
    while True:
        try:
            order = orders.get(timeout=max(0.0, next_look - time.monotonic()))
        except queue.Empty:
            analyst.look()
            next_look = time.monotonic() + LOOK_SECONDS
            continue
        if order is None:
            return
        done = analyst.obey(order)
        if done is not None:
            out.write(msgspec.json.encode(done) + b"\n")
            out.flush()


def main() -> int:
    """Entry point of the process."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    for sig in (signal.SIGINT, signal.SIGHUP):  # a terminal sends them to the whole group; our input ends when it is time
        signal.signal(sig, signal.SIG_IGN)
    os.nice(NICE)
    orders: queue.Queue[Order | None] = queue.Queue()  # no `SimpleQueue`: see `store`
    tables = Tables(sys.argv[1])
    try:
        threading.Thread(target=read_orders, args=(sys.stdin.buffer, orders), name="orders", daemon=True).start()
        serve(Analyst(tables, aside=Spare()), orders, sys.stdout.buffer)
    finally:
        tables.close()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
