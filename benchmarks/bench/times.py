"""What one request's stamps come to: its latencies and the gaps between its tokens. Pure. Times are seconds.

A request starts when it was sent, or, where a schedule said when, at that moment (`due`); a `due` of 0 means that there was no schedule.
"""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.bench.words import Timed


def start(timed: Timed) -> float:
    """When the schedule wanted it sent; without a schedule, when it was sent."""
    return timed.due if timed.due > 0 else timed.sent


def end(timed: Timed) -> float:
    """When its reader had all of it: the last content, or, of an answer that had none, its last byte."""
    return timed.last if timed.last is not None else timed.done


def first_after(timed: Timed) -> float | None:
    """Time to the first content since `start`. None: none came."""
    return None if timed.first is None else timed.first - start(timed)


def whole_after(timed: Timed) -> float:
    """Time to the last content since `start`."""
    return end(timed) - start(timed)


def output_tokens(timed: Timed) -> int | None:
    """Completion tokens by the server's usage, else what it told as it went. None: it told neither."""
    if timed.completion_tokens is not None:
        return timed.completion_tokens
    return max(timed.counts, default=0) or None


def tpot(timed: Timed) -> float | None:
    """(last content - first content) / (completion tokens - 1). None: fewer than 2 tokens, their number is not known, or the answer came
    in one chunk, between whose tokens no time was seen."""
    tokens = output_tokens(timed)
    if tokens is None or tokens < 2 or len(timed.stamps) < 2:
        return None
    return (timed.stamps[-1] - timed.stamps[0]) / (tokens - 1)


def told(timed: Timed) -> bool:
    """Whether the server told the count of tokens with every chunk."""
    return len(timed.counts) == len(timed.stamps) and all(count > 0 for count in timed.counts)


def gaps(timed: Timed) -> Iterator[tuple[float, int]]:
    """Gaps by token, as (gap, how many tokens had it): a chunk that brought k tokens ends k gaps, each a k-th of the time since the chunk
    before. k comes from `counts` where the server told them with every chunk; else the completion tokens are spread evenly over the
    chunks, and where their number is not known either, a chunk counts as one token. A chunk that brought none adds its time to the next."""
    chunks = len(timed.stamps)
    tokens = output_tokens(timed)
    counts = timed.counts if told(timed) else [chunk * (chunks if tokens is None else tokens) // chunks for chunk in range(1, chunks + 1)]
    since = timed.stamps[0] if timed.stamps else 0.0
    before = counts[0] if counts else 0
    for stamp, count in zip(timed.stamps[1:], counts[1:], strict=True):
        if count > before:
            yield (stamp - since) / (count - before), count - before
            since, before = stamp, count
