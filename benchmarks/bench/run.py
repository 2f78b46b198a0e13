"""One run against one server: what it can do is asked, prompts and client are calibrated, then levels of load are measured in turn.

Repeats are interleaved over the levels (all levels once, then all again), so that what changes slowly (heat, other users of a machine)
shows as spread of a level and not as a difference between levels. A sweep chooses its levels as it goes, in the first round.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import msgspec

from benchmarks.bench.calibrate import calibrate
from benchmarks.bench.drive import Limits, run_stage
from benchmarks.bench.errors import BenchError
from benchmarks.bench.figures import figures
from benchmarks.bench.health import memory_of
from benchmarks.bench.levels import level
from benchmarks.bench.options import Options
from benchmarks.bench.prompts import on_target
from benchmarks.bench.provenance import provenance
from benchmarks.bench.saturate import hopeless, knee
from benchmarks.bench.session import Interrupted, Session, or_stop, prepare
from benchmarks.bench.sweep import Sweep, next_rate
from benchmarks.bench.texts import option
from benchmarks.bench.words import Figures, Profile, Result, Sample, Stage
from benchmarks.bench.workload import parse_length

_OFF_TARGET = 0.9  # of the prompts that should have the length that was asked for, within a tenth
_MOST_CHUNKS = 256  # of an answer that the client is measured with
_CLIENTS_SHARE = 0.2  # of a latency that may be the client's own before it is said


class Watcher(Protocol):
    """Who is told how it goes. None of these may block."""

    def say(self, text: str) -> None:
        """What is done now, before the measuring."""

    def begin(self, profile: Profile, repeat: int) -> None:
        """A stage begins."""

    def sample(self, sample: Sample) -> None:
        """Once a second of a stage."""

    def end(self, stage: Stage, found: Figures) -> None:
        """A stage has ended."""


class Outcome(msgspec.Struct):
    """A run's result, the stages that it comes from, and whether it was interrupted."""

    result: Result
    stages: list[Stage]
    interrupted: bool


async def run(options: Options, watcher: Watcher, stop: asyncio.Event) -> Outcome:
    """Measures what `options` ask for. `stop`: set it, and what was measured until then is the outcome. Raises BenchError (nothing can be
    measured), Interrupted."""
    watched(options.watch)  # a wrong number is told before anything is sent
    session = await or_stop(prepare(options, watcher.say), stop)
    try:
        found: Measured = []
        with suppress(Interrupted):  # while the client was measured: what was found until then stays
            await _measure(session, found, watcher, stop)
    finally:
        await session.client.close()
    if not found and stop.is_set():
        raise Interrupted("interrupted before anything was measured")
    if not found:
        raise BenchError(session.warnings[-1])
    return Outcome(_result(session, found), [stage for _, stage, _ in found], stop.is_set())


Measured = list[tuple[int, Stage, Figures]]  # level, stage, what it comes to


async def _measure(session: Session, found: Measured, watcher: Watcher, stop: asyncio.Event) -> None:
    """All levels in turn, as often as asked; each stage into `found`. A level of which nothing counts is not run again."""
    profiles: dict[int, Profile] = {}
    for number, profile in enumerate(_first_round(session.options, found)):
        if await _stage(session, profile, 0, number, found, watcher, stop):
            profiles[number] = profile
        elif session.options.profiles[0].name == "sweep":
            break  # it would choose the same level for ever
        if stop.is_set():
            return
    for repeat in range(1, session.options.repeats):
        for number, profile in profiles.items():
            await _stage(session, profile, repeat, number, found, watcher, stop)
            if stop.is_set():
                return


def _first_round(options: Options, found: Measured) -> Iterator[Profile]:
    """The levels as they come: those that were named, or those that a sweep chooses by what was found until then."""
    if options.profiles[0].name != "sweep":
        yield from options.profiles
        return
    shape = options.profiles[0].shape
    plan = Sweep(connections=options.max_concurrency) if options.max_concurrency is not None else Sweep()
    while (profile := next_rate([each for _, _, each in found], shape, plan)) is not None:
        yield profile


async def _stage(
    session: Session, profile: Profile, repeat: int, number: int, found: Measured, watcher: Watcher, stop: asyncio.Event
) -> bool:
    """Runs one stage, and keeps it in `found` if anything of it counts; whether it did."""
    options = session.options
    if not repeat:
        await or_stop(_calibrated(session, concurrency(profile), watcher), stop)
    workload = session.workload((number, repeat))
    watcher.begin(profile, repeat)
    stage = await run_stage(
        session.client,
        profile,
        session.asks(profile, repeat, number, workload),
        limits(options),
        repeat=repeat,
        watch=watcher.sample,
        stop=stop,
        saturated=hopeless if profile.name == "rate" else None,
        memory=memory_of(watched(options.watch)) if options.watch else None,
    )
    stage.health.null_p50, stage.health.null_p99 = session.null.get(concurrency(profile), (0.0, 0.0))
    if all(each.warm for each in stage.timed):
        notes = " ".join(workload.counts.notes())
        session.warnings.append(
            f"Of {option(profile)} no request was counted; give it more --seconds or --requests, or less --warmup. {notes}"
        )
        return False
    if stage.cut == "interrupted" and any(which == number for which, _, _ in found):
        return False  # a piece of a repeat would weigh as much as a whole one
    came = figures(stage, options.slos)
    _client_share(came)
    _off_target(stage, came)
    came.warnings += workload.counts.notes()
    if profile.source and options.seconds is not None:
        came.warnings.append(f"At most {options.seconds:g} s of the file were replayed; --seconds and --requests say how much.")
    found.append((number, stage, came))
    watcher.end(stage, came)
    return True


async def _calibrated(session: Session, connections: int, watcher: Watcher) -> None:
    """Measures the client itself, once for each number of connections."""
    if connections in session.null:
        return
    watcher.say(f"measuring this client against a server that computes nothing, {connections} at a time")
    chunks = min(_MOST_CHUNKS, max(1, round(parse_length(session.options.output).a)))
    try:
        session.null[connections] = await calibrate(concurrency=connections, chunks=chunks)
    except RuntimeError as error:
        session.warnings.append(f"The client could not be measured by itself: {error}")


def concurrency(profile: Profile) -> int:
    """Connections that the client is measured with for a level: one, whatever the level. Of a server that answers at once, more of them
    only wait for each other, which would be taken for the client's share of every answer."""
    return 1


def watched(pids: Sequence[int]) -> dict[str, int]:
    """Processes by a name for people: the command's, and the number where two have the same."""
    named: dict[str, int] = {}
    for pid in pids:
        try:
            name = Path(f"/proc/{pid}/comm").read_text(encoding="utf-8", errors="replace").strip()
        except OSError:
            raise BenchError(f"--watch-pid {pid}: there is no such process here", usage=True) from None
        named[f"{name} {pid}" if name in named else name] = pid
    return named


def limits(options: Options) -> Limits:
    """When a stage ends, and what of it is not counted."""
    return Limits(requests=options.requests, seconds=options.seconds, warmup=options.warmup, max_concurrency=options.max_concurrency)


def _client_share(found: Figures) -> None:
    """Says so where much of a median may be the client's own time."""
    for name, spread in (("TTFT", found.ttft), ("E2E", found.e2e)):
        if spread.p50 and found.health.null_p50 > _CLIENTS_SHARE * spread.p50:
            found.warnings.append(
                f"The client alone takes {1e3 * found.health.null_p50:.2f} ms against a server that answers at once: "
                f"{100 * found.health.null_p50 / spread.p50:.0f} % of the median {name} may be its own."
            )


def _off_target(stage: Stage, found: Figures) -> None:
    """Says so where prompts did not get the length that was asked for."""
    share = on_target(each for each in stage.timed if not each.warm)
    if share is not None and share < _OFF_TARGET:
        found.warnings.append(f"Only {100 * share:.0f} % of the prompts have the wanted length within a tenth, as the server counts them.")


def _result(session: Session, found: Measured) -> Result:
    """Levels in the order in which they were first run."""
    options = session.options
    numbers = list(dict.fromkeys(number for number, _, _ in found))
    return Result(
        target=session.target.url,
        model=session.target.model,
        provenance=provenance(options, session.facts, session.salt),
        levels=[level([each for n, _, each in found if n == number]) for number in numbers],
        slos=list(options.slos),
        saturation=knee([each for _, _, each in found]),
        warnings=session.warnings,
    )


def exit_code(outcome: Outcome) -> tuple[int, str]:
    """See `exit_code_of`. Pure."""
    return exit_code_of([outcome.result], outcome.interrupted)


def exit_code_of(results: Sequence[Result], interrupted: bool) -> tuple[int, str]:
    """0, or 1 and why: nothing was answered, the client was the bottleneck, it was interrupted. Pure."""
    for result in results:
        every = [each for level_ in result.levels for each in level_.repeats]
        if not any(each.good for each in every):
            first = next((error for each in every for error in each.errors), "no answer came")
            return 1, f"nothing was answered by {result.target}: {first}"
        troubled = [each for each in every if each.health.trouble]
        if troubled:
            return 1, f"the client was the bottleneck in {len(troubled)} of {len(every)} stages: {troubled[0].health.trouble}"
    return (1, "interrupted: these are the figures until then") if interrupted else (0, "")
