"""Memory growth: what a gateway's process tree holds after 20,000 and 200,000 answers, and over two million streamed chunks."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from benchmarks.overhead import machine, meter
from benchmarks.overhead.peers import UNPACED
from benchmarks.overhead.peers import WHOLE as MODEL
from benchmarks.overhead.phases import Bench, run_load
from benchmarks.overhead.report import NONE, Section, number, table
from benchmarks.overhead.run import FAULTS, SCHEMA, Plan, Say, check_ports
from benchmarks.overhead.target import WHOLE_EVENTS, Broken, Mock, Target

ANSWERS = (20_000, 200_000)  # whole answers after which memory is read
CHUNKS = (200_000, 2_000_000)  # streamed events after which it is read
CONNECTIONS, STREAMS = 16, 32
STAGE_SECONDS = 900.0  # no stage takes longer
SETTLE_SECONDS = 2.0
SAMPLE_SECONDS = 0.5
NOTE = (
    "Resident memory of the gateway's whole process tree at rest after so much was served, MiB (whole answers first, then streams); "
    "growth is from the first to the last of a kind, so that pools and caches that fill once are not in it."
)


@dataclass(frozen=True)
class Point:
    """Resident memory of the process tree, MiB, at a moment of rest. `answers` and `chunks` are what was served until then.

    `stage` is "idle", or what was asked for until then; chunks come in whole streams, so a few more are served.
    """

    stage: str
    answers: int
    chunks: int
    rss: float
    seconds: float


@dataclass
class Soak:
    """One gateway's soak. `series`: (seconds since its start, MiB) twice a second, under load too."""

    name: str
    points: list[Point] = field(default_factory=list)
    series: list[tuple[float, float]] = field(default_factory=list)
    failed: str = ""

    def at(self, stage: str) -> float | None:
        """MiB at the end of `stage`."""
        return next((p.rss for p in self.points if p.stage == stage), None)

    def growth(self, first: str, last: str) -> float | None:
        """MiB gained from the end of one stage to the end of another."""
        a, b = self.at(first), self.at(last)
        return b - a if a is not None and b is not None else None


class Watch(threading.Thread):
    """Reads memory twice a second until it is told to stop."""

    def __init__(self, target: Target, began: float, series: list[tuple[float, float]]) -> None:
        super().__init__(name="watch-memory", daemon=True)
        self.target, self.began, self.series = target, began, series
        self.done = threading.Event()

    def run(self) -> None:
        """The thread."""
        while not self.done.wait(SAMPLE_SECONDS):
            self.series.append((round(time.monotonic() - self.began, 2), round(self.target.memory(), 2)))

    def stop(self) -> None:
        """Ends the thread."""
        self.done.set()
        self.join()


def soak_one(bench: Bench, target: Target, soak: Soak, scale: float) -> None:
    """All stages on a gateway that was started. `scale` multiplies the counts. Raises Broken unless every count was met, none failed."""
    began = time.monotonic()
    served = {"answers": 0, "chunks": 0}

    def rest(stage: str) -> None:
        meter.drain(target.root)
        time.sleep(SETTLE_SECONDS)
        soak.points.append(Point(stage, served["answers"], served["chunks"], target.memory(), time.monotonic() - began))

    watch = Watch(target, began, soak.series)
    watch.start()
    try:
        rest("idle")
        for kind, totals in (("answers", ANSWERS), ("chunks", CHUNKS)):
            for total in totals:
                wanted = max(1, round(total * scale))
                if wanted > served[kind]:
                    served[kind] += _serve(bench, target, kind, wanted - served[kind])
                rest(f"{wanted:,} {kind}")
    finally:
        watch.stop()


def _serve(bench: Bench, target: Target, kind: str, more: int) -> int:
    """Asks for `more` answers, or for as many whole streams as have `more` chunks; returns what was served."""
    if kind == "answers":
        settings = (f"streams={CONNECTIONS}", f"answers={more}", f"measure={STAGE_SECONDS}")
        phase = run_load(bench, target, MODEL, False, *settings)
        wanted, had = more, int(phase["answers"])
    else:
        wanted = -(-more // WHOLE_EVENTS)
        settings = (f"streams={STREAMS}", f"answers={wanted}", f"measure={STAGE_SECONDS}")
        phase = run_load(bench, target, UNPACED, True, *settings)
        had = int(phase["answers"])
    if phase["failed"] or had < wanted:
        raise Broken(f"{had:,} of {wanted:,} {'answers' if kind == 'answers' else 'streams'} served whole, {phase['failed']:.0f} failed")
    return had if kind == "answers" else int(phase["events"])


def run(plan: Plan, say: Say, scale: float = 1.0) -> list[Soak]:
    """Soaks every gateway of the plan, one after the other."""
    check_ports(plan.site)
    found = []
    with Mock(plan.programs["mock"], plan.site, plan.cores.load) as mock:
        bench = Bench(plan.programs, plan.site.run, plan.cores, mock, plan.seconds)
        for name, peer in plan.peers.items():
            if peer is None:
                continue
            target, soak = Target(name, plan.site, peer, plan.cores.gateway), Soak(name)
            found.append(soak)
            try:
                target.start()
                target.check()
                soak_one(bench, target, soak, scale)
            except FAULTS as e:
                soak.failed = f"{type(e).__name__}: {e}"
            finally:
                target.stop()
            points = ", ".join(f"{p.stage} {p.rss:.1f} MiB" for p in soak.points)
            say(f"{name}: {points}" + (f"; FAILED: {soak.failed}" if soak.failed else ""))
    return found


def as_json(plan: Plan, soaks: Sequence[Soak]) -> dict[str, Any]:
    """What the JSON file holds."""
    return {
        "schema": SCHEMA,
        "kind": "soak",
        "when": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
        "command": list(plan.command),
        "machine": machine.facts(plan.cores),
        "load1": os.getloadavg()[0],
        "soaks": [asdict(s) for s in soaks],
    }


def from_json(data: dict[str, Any]) -> list[Soak]:
    """The soaks of a JSON file's content."""
    return [Soak(s["name"], [Point(**p) for p in s["points"]], [(t, m) for t, m in s["series"]], s["failed"]) for s in data["soaks"]]


def growths(soak: Soak) -> list[str]:
    """Growth over the answers and over the chunks, from the first point of rest of a kind to its last: signed text, a dash if unknown."""
    grown = []
    for kind in ("answers", "chunks"):
        stages = [p.stage for p in soak.points if p.stage.endswith(kind)]
        found = soak.growth(stages[0], stages[-1]) if len(stages) > 1 else None
        grown.append(NONE if found is None else f"{found:+.1f}")
    return grown


def section(soaks: Sequence[Soak]) -> Section:
    """Memory at every point of rest, and growth between the first and the last of each kind of load. MiB."""
    stages: list[str] = []
    for s in soaks:
        stages += [p.stage for p in s.points if p.stage not in stages]
    body = []
    for s in soaks:
        body.append([s.name, *(number(s.at(stage), 1) for stage in stages), *growths(s)])
    head = ("gateway", *stages, "growth over answers", "growth over chunks")
    return Section("Memory growth", NOTE, head, body)


def markdown(soaks: Sequence[Soak]) -> str:
    """The table of a soak."""
    found = section(soaks)
    failed = [f"{s.name}: {' '.join(s.failed.split())[:300]}" for s in soaks if s.failed]
    out = f"**{found.title}.** {found.note}\n\n{table(found.head, found.body)}\n"
    return out + (f"\nNot finished: {'; '.join(failed)}.\n" if failed else "")
