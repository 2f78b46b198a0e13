"""Whether two clients saw the same: medians of repeats, their ratio, their spread, a verdict. Pure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

import msgspec

from benchmarks.agreement.words import FIGURES, MOST_APART, MOST_SPREAD, OTHERS, OURS, Load, Row, Run, Verdict, Who
from benchmarks.bench.figures import figures
from benchmarks.bench.words import Figures, Health, Profile, Stage

# Figures that a client defines otherwise than we do, with how. They are shown and not judged; the same from its requests is.
OTHERWISE: dict[tuple[str, str], str] = {
    ("guidellm", "requests/s"): "mean of a rate over time: each completion counts over half the time to its neighbours, from the start of "
    "the measured window; ours is answers by the seconds from the first request sent to the last byte",
    ("guidellm", "tokens/s"): "mean of a rate over time, as its requests/s, an answer's tokens spread evenly from its first to its last",
}

# What is the same although it is called or taken otherwise, or what differs by less than is judged.
NOTES: tuple[str, ...] = (
    "TPOT here is our word: (last content - first content) / (tokens - 1). guidellm and aiperf call it inter-token latency. What guidellm "
    "calls time per output token is (last content - start) / tokens, with the first token in it, and is not compared.",
    "ITL by token is ours; aiperf's inter-chunk latency is the same where a chunk is one token, as here. guidellm keeps no chunk's time.",
    "A request starts when its last byte was given to the kernel (ours), when its headers are begun (guidellm), or when it is given to the "
    "HTTP client (aiperf): the connection's setup is in aiperf's, and nobody's own queue is in any.",
    "Content is stamped when the socket was read (ours), or when its line was handed out by the HTTP client (guidellm, aiperf): on a busy "
    "machine these are later.",
    "E2E ends with the last content (ours, aiperf) or with [DONE] (guidellm); the scripted server writes both at once.",
    "In a closed loop the time that a client takes from an answer to its next request is in its requests/s and tokens/s, and nowhere else.",
    "Answers' tokens are the server's usage for all three.",
)


def ours_of(found: Figures) -> dict[str, float]:
    """Our figures by the names of `FIGURES`; those that have no value are left out."""
    values = {
        "TTFT p50": found.ttft.p50, "TTFT mean": found.ttft.mean, "TPOT p50": found.tpot.p50, "TPOT mean": found.tpot.mean,
        "ITL p50": found.itl.p50, "ITL mean": found.itl.mean, "E2E p50": found.e2e.p50, "E2E mean": found.e2e.mean,
        "requests/s": found.request_rate, "tokens/s": found.output_rate,
    }  # fmt: skip
    return {name: value for name, value in values.items() if value is not None}


def redone(run: Run) -> dict[str, float]:
    """What a client's requests come to by our own definitions, computed by our own code; ITL only where it keeps the time of each chunk.
    Empty where it keeps no requests."""
    if not run.timed:
        return {}
    found = ours_of(figures(Stage(_closed(run.load.profile), run.repeat, 0.0, run.timed, Health()), []))
    chunks = all(len(each.stamps) == each.completion_tokens for each in run.timed if each.good)
    return {name: value for name, value in found.items() if chunks or not name.startswith("ITL")}


def _closed(profile: Profile) -> Profile:
    """The others' schedules are not known, so that nothing is computed from them: latencies here are from when a request was sent."""
    return msgspec.structs.replace(profile, name="concurrent") if profile.name == "rate" else profile


def rows(runs: Sequence[Run]) -> list[Row]:
    """Every figure that another client shares with us, load by load. A client without a run of a load has no rows there."""
    found = []
    for load in dict.fromkeys(run.load for run in runs):
        ours = _column([run.said for run in _of(runs, OURS, load)])
        for who in OTHERS:
            theirs = _of(runs, who, load)
            said, again = _column([run.said for run in theirs]), _column([redone(run) for run in theirs])
            found += [
                _row(load.name, who, name, ours[name], said.get(name), again.get(name))
                for name in FIGURES
                if name in ours and (name in said or name in again)
            ]
    return found


def _of(runs: Sequence[Run], who: Who, load: Load) -> list[Run]:
    return [run for run in runs if run.who == who and run.load == load]


Middle = tuple[float, float | None]  # median and spread over repeats; one repeat has no spread


def _column(repeats: Sequence[dict[str, float]]) -> dict[str, Middle]:
    """Each figure over the repeats that have it."""
    found = {name: [one[name] for one in repeats if name in one] for name in FIGURES}
    return {name: _middle(values) for name, values in found.items() if values}


def _middle(values: Sequence[float]) -> Middle:
    middle = statistics.median(values)
    return middle, (max(values) - min(values)) / middle if middle and len(values) > 1 else None


def _row(load: str, who: Who, name: str, ours: Middle, said: Middle | None, again: Middle | None) -> Row:
    same = said is not None and (who, name) not in OTHERWISE
    judged = [each for each in (said if same else None, again) if each is not None]
    return Row(
        load=load, who=who, figure=name, ours=ours[0], ours_spread=ours[1],
        said=said and said[0], ratio=said and _ratio(said[0], ours[0]), said_spread=said and said[1],
        redone=again and again[0], redone_ratio=again and _ratio(again[0], ours[0]), redone_spread=again and again[1],
        verdict=_verdict(ours, judged),
    )  # fmt: skip


def _ratio(theirs: float, ours: float) -> float:
    return theirs / ours if ours else math.inf if theirs else 1.0


def _verdict(ours: Middle, judged: Sequence[Middle]) -> Verdict:
    """A figure further away than chance moves it differs, however wide its repeats; one within them is unsteady where they are wide."""
    if not judged:
        return "other"
    apart = max(abs(_ratio(value, ours[0]) - 1) for value, _ in judged)
    wide = max(spread or 0.0 for _, spread in (ours, *judged))
    if wide > MOST_SPREAD and apart <= wide:
        return "unsteady"
    return "agrees" if apart <= MOST_APART else "differs"
