"""What a run comes to, in one or two plain sentences. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.bench.saturate import KEPT
from benchmarks.bench.texts import brief, duration, error_share, errors, in_words, number, offered, percent, sane
from benchmarks.bench.words import Figures, Level, Result, Spread

_SHARES = (("p99", "99 %"), ("p95", "95 %"), ("p90", "90 %"), ("p50", "half"))


def headline(result: Result) -> str:
    """The highest rate that the server kept up with, what its answers take there, and where it saturates.

    Latencies are from the schedule where there is one. Shares are of the answers: what failed is said beside them.
    """
    sent = sum(one.median.sent for one in result.levels)
    if not sent:
        return "Nothing was measured: no request was sent."
    level = telling(result.levels, result.saturation)
    if level is None:
        most = next(iter(errors(result.levels)), "")
        return f"No request was answered, of {sent:,} sent{f': {most}' if most else ''}."
    return f"{_what(level, _keeps_up(level, sane(result.saturation)))}{_end(result)}"


def _end(result: Result) -> str:
    between = saturation(result)
    if between is None:
        return ""
    kept, lost = between
    if lost is None:
        return " It kept up with the highest rate that was tried."
    return f" It saturates between {brief(kept)} and {brief(lost)} requests/s."


def saturation(result: Result) -> tuple[float, float | None] | None:
    """The highest rate that the server kept up with, and the lowest one above it that it did not. None: no rate was kept.

    The second is None where no higher rate was tried: then nobody knows where it saturates.
    """
    kept = sane(result.saturation)
    if kept is None:
        return None
    return kept, min((v for one in result.levels if (v := _tried(one)) is not None and v > kept), default=None)


def _tried(level: Level) -> float | None:
    return sane(level.profile.value) if level.profile.name == "rate" else None


def _keeps_up(level: Level, limit: float | None) -> bool:
    """Whether the server kept up with a level. `limit`: the highest rate that it did, where the whole run told one."""
    rate, f = _tried(level), level.median
    if rate is not None and limit is not None:
        return rate <= limit
    return not f.saturated and f.answered_rate >= KEPT * f.offered_rate


def telling(levels: Sequence[Level], limit: float | None = None) -> Level | None:
    """The level that a headline speaks of: the highest rate that the server kept up with, of closed loops the one with the most requests a
    second; where it kept up with no rate, the lowest one. `limit`: `Result.saturation`. None: no level has an answer.
    """
    answered = [one for one in levels if one.median.good]
    open_ = sorted((one for one in answered if offered(one.median) is not None), key=_rate)
    kept = [one for one in open_ if _keeps_up(one, limit)]
    closed = [one for one in answered if one not in open_]
    if kept or not closed:
        return kept[-1] if kept else next(iter(open_), None)
    return max(closed, key=lambda one: sane(one.median.request_rate) or 0.0)


def _rate(level: Level) -> float:
    return _tried(level) or offered(level.median) or 0.0


def _what(level: Level, kept: bool) -> str:
    f = level.median
    where, rate = _load(f, kept), offered(f)
    open_ = rate is not None
    said = [
        _within("have their first token within {}", f.ttft_due if open_ else f.ttft),
        _within("are whole within {}", f.e2e_due if open_ else f.e2e),
    ]
    parts = [s for s in said if s]
    if not parts:
        text = f"{where} it answered {f.good:,} of {f.sent:,} requests, too few for a percentile."
    elif len(parts) == 2 and parts[0].split(" of ")[0] == parts[1].split(" of ")[0]:
        text = f"{where} {parts[0]} and {parts[1].split('answers ')[1]}."
    else:
        text = f"{where} {', and '.join(parts)}."
    speed = sane(f.tpot.p50)
    tokens = f" A user reads {number(1 / speed)} tokens/s." if speed else ""
    return f"{text}{_failed(f)}{tokens}"


def _load(f: Figures, kept: bool) -> str:
    rate = offered(f)
    if rate is not None:
        less = "" if kept else ", more than it keeps up with,"
        return f"At {brief(f.profile.value if f.profile.name == 'rate' else rate)} requests/s{less}"
    return "One request at a time," if f.profile.name == "sync" else f"With {in_words(f.profile)}"


def _within(words: str, spread: Spread) -> str:
    for name, share in _SHARES:
        value = sane(getattr(spread, name))
        if value is not None:
            return f"{share} of the answers {words.format(duration(value))}"
    return ""


def _failed(f: Figures) -> str:
    share = error_share(f)
    return f" {percent(share)} of the requests failed." if share else ""
