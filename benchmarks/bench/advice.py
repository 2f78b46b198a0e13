"""Sentences about what a stage's figures do not say, or say wrongly. Pure. They stand beside the figures, wherever these are shown."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.bench.spread import NEEDED
from benchmarks.bench.times import output_tokens, told
from benchmarks.bench.words import SECONDS_OF_LAG, Figures, Stage, Timed

_LENGTH = (0.9, 1.1)  # of the output asked for; MLPerf Inference accepts 90 % or more, for some models 90 to 110 %
_CACHED = 0.9
_KEPT = 0.95
_MANY = 0.05  # a share of answers from which something is said of them


def warnings(figures: Figures, stage: Stage, good: Sequence[Timed]) -> list[str]:
    """What to know before believing `figures`; `good`: the answers that count."""
    found = [_client(figures), _failures(figures), *_load(figures, stage), _few(figures), *_tokens(figures, good), _cache(figures)]
    return [sentence for sentence in found if sentence]


def _client(figures: Figures) -> str:
    health = figures.health
    if health.trouble:
        return health.trouble
    if health.lag_p99 > SECONDS_OF_LAG:
        return f"The client was late by {1000 * health.lag_p99:.1f} ms (p99): latencies are partly its own."
    return ""


def _failures(figures: Figures) -> str:
    if not figures.sent:
        return "Nothing was sent that counts: no figure of this stage says anything."
    if not figures.failed:
        return ""
    often = next(iter(figures.errors), "")
    share = 100 * figures.failed / figures.sent
    return f"{figures.failed:,} of {figures.sent:,} requests failed ({share:.2g} %) and are in no latency; most often: {often}"


def _load(figures: Figures, stage: Stage) -> list[str]:
    found = []
    if stage.cut_off:
        found.append(f"Requests under way when the stage was ended: {stage.cut_off:,}; they count nowhere, and were likely the longest.")
    if stage.held:
        found.append(f"Requests that waited for a free connection: {stage.held:,} (a limit on concurrency): see latencies by schedule.")
    if stage.cut:
        found.append(f"The stage ended before its time: {stage.cut}.")
    if figures.saturated:
        found.append("The server was saturated: requests under way and TTFT grew throughout, so longer stages have longer latencies.")
    elif stage.profile.name == "rate" and figures.good and figures.answered_rate < _KEPT * figures.offered_rate:
        found.append(f"Of {figures.offered_rate:.3g} requests a second only {figures.answered_rate:.3g} were answered well.")
    return found


def _few(figures: Figures) -> str:
    missing = [name for name in ("p50", "p90", "p95", "p99") if figures.good < NEEDED[name]]
    if not figures.good or not missing:
        return ""
    needed = ", ".join(f"{name} takes {NEEDED[name]:,}" for name in missing)
    return f"Good answers: {figures.good:,}, too few for some percentiles, which are left out ({needed})."


def _tokens(figures: Figures, good: Sequence[Timed]) -> list[str]:
    found = []
    unknown = sum(output_tokens(timed) is None for timed in good)
    if unknown:
        found.append(
            f"The server told no usage for {unknown:,} of {len(good):,} answers: they are in no TPOT and no token rate, and in ITL "
            "their chunks count as tokens."
        )
    whole = [timed for timed in good if len(timed.stamps) == 1 and (output_tokens(timed) or 0) > 1]
    if len(whole) > _MANY * len(good):
        found.append(
            f"{len(whole):,} of {len(good):,} answers came in one piece (not streamed, or held back on the way): their TTFT is the time "
            "to all of it, and they have no TPOT."
        )
    found.append(_bundled(good))
    share = figures.output_share
    if share is not None and not _LENGTH[0] <= share <= _LENGTH[1]:
        found.append(f"Answers have {100 * share:.3g} % of the tokens asked for: other lengths were measured than wanted.")
    return found


def _bundled(good: Sequence[Timed]) -> str:
    """Of streams whose chunks are not their tokens. One more or less is an end token, which has no text."""
    streams = [(timed, tokens) for timed in good if len(timed.stamps) > 1 and (tokens := output_tokens(timed)) is not None]
    apart = [timed for timed, tokens in streams if abs(len(timed.stamps) - tokens) > 1]
    if not streams or len(apart) <= _MANY * len(streams):
        return ""
    each = sum(tokens for _, tokens in streams) / sum(len(timed.stamps) for timed, _ in streams)
    how = "as the server told them" if all(map(told, apart)) else "spread evenly over the chunks of an answer, as the server does not tell"
    return f"Chunks are not tokens: {each:.3g} tokens a chunk. ITL counts tokens, {how}."


def _cache(figures: Figures) -> str:
    if figures.cached_share is None or figures.cached_share < _CACHED:
        return ""
    return f"{100 * figures.cached_share:.3g} % of prompt tokens came from the server's cache: TTFT says little of its prefill."
