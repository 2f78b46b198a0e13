"""From what was seen of a stage to its figures, each by a definition that is shown beside it. Pure; blocks for as long as sorting takes.

Who failed is in no latency: a latency is of a whole answer. So failures stand in the same row, and count against every service level. Who
belongs to the warm-up counts nowhere, nor what was still under way when the run itself ended the stage.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence

import msgspec

from benchmarks.bench.advice import warnings
from benchmarks.bench.saturate import saturated
from benchmarks.bench.slo import keeps
from benchmarks.bench.spread import spread, weighted
from benchmarks.bench.times import end, gaps, output_tokens, tpot
from benchmarks.bench.words import Figures, Goodput, Slo, Stage, Timed

OPEN = ("rate", "trace", "capture")  # profiles whose schedule does not wait for answers
_KINDS = 20  # of errors
_LONG = 160  # characters of one
_END = 20  # the part of a stage that counts as one of its ends

DEFINITIONS: dict[str, str] = {
    "sent": "Requests that were sent, warm-up left out, and those that the run itself cut off at its end.",
    "good": "Requests answered whole: a status of 200 to 299, no error in the stream, no early end.",
    "failed": "Requests that were not answered whole; they are in no latency and no token rate, but in the error rate and against goodput.",
    "error_rate": "Failed requests as a share of those sent.",
    "ttft": "Time to first token: from the request's last byte sent to the first chunk with content read (text, reasoning or a tool call).",
    "ttft_due": "From when the request was due to its first content, so that a stall counts for all who waited (open loop).",
    "tpot": "Time per output token: (last content - first content) / (completion tokens - 1), one value an answer of at least 2 tokens.",
    "itl": "Inter-token latency by token: a chunk of k tokens ends k gaps, each a k-th of the time since the chunk before.",
    "e2e": "End to end: from the request's last byte sent to the last content read, not to [DONE].",
    "e2e_due": "End to end from the schedule: from when the request was due to the last content read (open loop).",
    "seconds": "From the first request sent to the last answer's last byte, warm-up left out.",
    "request_rate": "Good answers a second of the stage, its ends included.",
    "offered_rate": "Requests a second that the schedule wanted; without a schedule, those that were sent.",
    "answered_rate": "Good answers a second without the stage's ends (a twentieth each), for the schedule's mean rate: what was kept up.",
    "input_rate": "Prompt tokens of good answers a second of the stage, by the server's usage, cached ones included.",
    "output_rate": "Completion tokens of good answers a second of the stage, by the server's usage, reasoning included.",
    "concurrency": "Requests under way on average: the sum of (answer's last byte - sent) over the stage's seconds (Little's law).",
    "cached_share": "Prompt tokens that the server says came from its cache, of those of answers where it says so.",
    "output_share": "Completion tokens by those asked for; far from 100 % other lengths were measured than wanted.",
    "goodput": "Good answers a second that keep the service level, from the schedule where there is one; the share is of all sent.",
    "saturated": "Requests under way and TTFT both grew throughout, significantly at 5 %: latencies then say how long the stage lasted.",
    "spread": "How far repeats differ: (highest - lowest) / median.",
    "percentiles": "Interpolated; left out with fewer than 10 samples beyond (p99 takes 1,000, p95 200, p90 100), the median below 5.",
}  # fmt: skip


def figures(stage: Stage, slos: Sequence[Slo]) -> Figures:
    """A stage's figures. Requests of the warm-up load the server, but count nowhere."""
    sent = [timed for timed in stage.timed if not timed.warm]
    good = [timed for timed in sent if timed.good]
    seconds = duration(sent) or stage.seconds
    opened = stage.profile.name in OPEN
    dues = good if opened else []
    shown = [timed for timed in good if timed.stamps]
    out = Figures(
        profile=stage.profile,
        repeat=stage.repeat,
        seconds=seconds,
        sent=len(sent),
        good=len(good),
        failed=len(sent) - len(good),
        ttft=spread([timed.stamps[0] - timed.sent for timed in shown]),
        ttft_due=spread([timed.stamps[0] - timed.due for timed in dues if timed.stamps]),
        tpot=spread([value for timed in good if (value := tpot(timed)) is not None]),
        itl=weighted(gap for timed in good for gap in gaps(timed)),
        e2e=spread([end(timed) - timed.sent for timed in good]),
        e2e_due=spread([end(timed) - timed.due for timed in dues]),
        request_rate=_per(len(good), seconds),
        offered_rate=_offered(sent, seconds, opened),
        input_rate=_per(sum(timed.prompt_tokens or 0 for timed in good), seconds),
        output_rate=_per(sum(output_tokens(timed) or 0 for timed in good), seconds),
        concurrency=_per(math.fsum(max(0.0, timed.done - timed.sent) for timed in sent if timed.sent > 0), seconds),
        cached_share=_cached(good),
        output_share=_lengths(good),
        goodput=[_goodput(slo, sent, seconds) for slo in slos],
        errors=_errors(timed for timed in sent if not timed.good),
        health=stage.health,
        saturated=opened and (stage.cut == "saturated" or saturated(stage.timed, max((timed.done for timed in sent), default=0.0))),
        memory_most=_memory(stage),
        answered_rate=_answered(sent, good, seconds, opened),
    )
    return msgspec.structs.replace(out, warnings=warnings(out, stage, good))


def duration(sent: Sequence[Timed]) -> float:
    """Seconds from the first send to the last byte. 0: nothing was sent."""
    starts = [timed.sent for timed in sent if timed.sent > 0 or timed.good]
    return max(0.0, max(timed.done for timed in sent) - min(starts)) if starts else 0.0


def _per(amount: float, seconds: float) -> float:
    return amount / seconds if seconds > 0 else 0.0


def _between(moments: Sequence[float], seconds: float) -> float:
    """Events a second, of the gaps between them: n events make n - 1. All at once, or one only: over the stage's seconds."""
    span = max(moments) - min(moments) if moments else 0.0
    return (len(moments) - 1) / span if span > 0 else _per(len(moments), seconds)


def _offered(sent: Sequence[Timed], seconds: float, opened: bool) -> float:
    return _between([timed.due for timed in sent], seconds) if opened else _per(len(sent), seconds)


def _answered(sent: Sequence[Timed], good: Sequence[Timed], seconds: float, opened: bool) -> float:
    """Good answers a second without the stage's ends, where the server fills up and empties. In an open loop it is the offered rate times
    the ratio of both in the middle, so that the schedule's own ups and downs fall out (a ratio estimate: Cochran 1977, 6)."""
    middle = _between(_middle([timed.done for timed in good]), seconds)
    offered = _between(_middle([timed.due for timed in sent]), seconds) if opened else 0.0
    return _offered(sent, seconds, opened) * middle / offered if offered > 0 else middle


def _middle(moments: Sequence[float]) -> list[float]:
    """All but the first and the last twentieth."""
    ranked = sorted(moments)
    return ranked[len(ranked) // _END : len(ranked) - len(ranked) // _END]


def _cached(good: Sequence[Timed]) -> float | None:
    told = [(timed.cached_tokens, timed.prompt_tokens) for timed in good if timed.cached_tokens is not None and timed.prompt_tokens]
    return sum(cached for cached, _ in told) / sum(prompt for _, prompt in told) if told else None


def _lengths(good: Sequence[Timed]) -> float | None:
    told = [(tokens, timed.asked_output) for timed in good if (tokens := output_tokens(timed)) is not None and timed.asked_output > 0]
    return sum(tokens for tokens, _ in told) / sum(asked for _, asked in told) if told else None


def _goodput(slo: Slo, sent: Sequence[Timed], seconds: float) -> Goodput:
    kept = sum(keeps(slo, timed) for timed in sent)
    share = kept / len(sent) if sent else 0.0
    return Goodput(slo, _per(kept, seconds), share, bool(sent) and share >= slo.share)


def _errors(failed: Iterable[Timed]) -> dict[str, int]:
    kinds = Counter((timed.error or f"status {timed.status}")[:_LONG] for timed in failed)
    most = kinds.most_common()
    if len(most) <= _KINDS:
        return dict(most)
    shown = dict(most[: _KINDS - 1])
    rest = f"{len(most) - len(shown)} other kinds"
    return {**shown, rest: sum(kinds.values()) - sum(shown.values())}


def _memory(stage: Stage) -> dict[str, int]:
    most: dict[str, int] = {}
    for sample in stage.samples:
        for name, size in sample.memory.items():
            most[name] = max(size, most.get(name, 0))
    return most
