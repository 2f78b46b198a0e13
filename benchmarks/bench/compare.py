"""`pointsman bench compare`: two servers, request by request in turn, and what is sure of their difference.

What both have in common falls out of a pair's difference: the same lengths, the same moment. Both servers get as much load as the other; at
`concurrent=N` there are N requests under way in all, at one server or at the other.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from benchmarks.bench import files, pairs
from benchmarks.bench.errors import BenchError
from benchmarks.bench.figures import figures
from benchmarks.bench.levels import level
from benchmarks.bench.options import Options
from benchmarks.bench.paired import Difference, paired
from benchmarks.bench.progress import Progress
from benchmarks.bench.provenance import provenance
from benchmarks.bench.run import exit_code_of
from benchmarks.bench.running import json_of, measured
from benchmarks.bench.session import Interrupted, Session, or_stop, prepare
from benchmarks.bench.table import compare_table, table, wrapped
from benchmarks.bench.words import Profile, Result, Stage


class Comparison(msgspec.Struct):
    """Both runs, and the differences by latency."""

    a: Result
    b: Result
    differences: dict[str, Difference]
    format: int = 1


class Outcome(msgspec.Struct):
    """A comparison, with the requests that it comes from."""

    found: Comparison
    stages: tuple[Stage, Stage]
    interrupted: bool


def main(a: Options, b: Options, outs: Sequence[Path], *, overwrite: bool, as_json: bool) -> int:
    """Measures, tells, writes; the exit code. Blocks. Raises BenchError."""
    if a.profiles[0].name not in ("sync", "concurrent") or len(a.profiles) > 1:
        raise BenchError("compare takes --profile sync or concurrent=N: pairs follow one another, at no rate of their own", usage=True)
    progress = Progress(sys.stderr)
    try:
        outcome = measured(lambda stop: measure(a, b, progress.say, stop))
    finally:
        progress.close()
    try:
        for path in outs:
            files.save(path, _content(path, outcome), overwrite)
    finally:
        sys.stdout.write(json_of(outcome.found) if as_json else text(outcome.found))
        sys.stdout.flush()
    code, why = exit_code_of([outcome.found.a, outcome.found.b], outcome.interrupted)
    if why:
        sys.stderr.write(f"pointsman bench: {why}\n")
    return code


async def measure(a: Options, b: Options, say: Callable[[str], None], stop: asyncio.Event) -> Outcome:
    """Sends the pairs. `stop`: set it, and the pairs until then are the answer. Raises BenchError, Interrupted."""
    first = await or_stop(prepare(a, say), stop)
    try:
        other = msgspec.structs.replace(b, salt=f"{first.salt}/b")
        second = await or_stop(prepare(other, say), stop)
        try:
            sides = await _pairs(first, second, say, stop)
        finally:
            await second.client.close()
    finally:
        await first.client.close()
    timed = [side.timed for side in sides]
    if not any(not each.warm for each in timed[0]):
        raise Interrupted("interrupted before anything was measured")
    profile = a.profiles[0]
    stages = (_stage(profile, sides[0]), _stage(profile, sides[1]))
    results = [_result(session, stage) for session, stage in zip((first, second), stages, strict=True)]
    found = Comparison(results[0], results[1], paired(timed[0], timed[1], seed=a.seed))
    return Outcome(found, stages, stop.is_set())


async def _pairs(first: Session, second: Session, say: Callable[[str], None], stop: asyncio.Event) -> list[pairs.Side]:
    options = first.options
    profile = options.profiles[0]
    concurrency = int(profile.value) if profile.name == "concurrent" else 1
    sides = [pairs.Side(session.client, session.asks(profile, 0, 0)) for session in (first, second)]
    bounds = pairs.Bounds(concurrency, options.requests, options.seconds, pairs.warm(options))
    say(f"{concurrency} pairs at a time, in turn")
    await pairs.measure(sides, bounds, options.seed, stop, lambda done: say(f"{done} pairs") if done % 10 == 0 else None)
    return sides


def _stage(profile: Profile, side: pairs.Side) -> Stage:
    counted = [each for each in side.timed if not each.warm]
    seconds = max(each.done for each in counted) - min(each.due for each in counted)
    return Stage(profile, 0, seconds, side.timed, side.health)


def _result(session: Session, stage: Stage) -> Result:
    options = session.options
    return Result(
        target=session.target.url, model=session.target.model, provenance=provenance(options, session.facts, session.salt),
        levels=[level([figures(stage, options.slos)])], slos=list(options.slos), warnings=session.warnings,
    )  # fmt: skip


def _names(a: Result, b: Result) -> tuple[str, str]:
    """What tells them apart: the servers, or their models where these differ at one server."""
    return (a.model, b.model) if a.target == b.target and a.model != b.model else (a.target, b.target)


def text(found: Comparison) -> str:
    """For a terminal: the differences, then each server by itself."""
    names = _names(found.a, found.b)
    alone = [wrapped("A by itself:"), table(found.a, definitions={}), "", wrapped("B by itself:"), table(found.b)]
    return "\n".join([compare_table(found.differences, names), "", *alone]) + "\n"


def _content(path: Path, outcome: Outcome) -> list[bytes]:
    kind = path.suffix.lower()
    if kind == ".json":
        return [json_of(outcome.found).encode()]
    if kind == ".jsonl":
        return [line for name, stage in zip("ab", outcome.stages, strict=True) for line in _lines(name, stage)]
    from benchmarks.bench.compare_page import page

    return [page(outcome.found, _names(outcome.found.a, outcome.found.b), outcome.stages)]


def _lines(side: str, stage: Stage) -> list[bytes]:
    """A line a request, with the side that it went to."""
    return [msgspec.json.encode({"side": side, **msgspec.structs.asdict(files.request(stage, timed))}) + b"\n" for timed in stage.timed]
