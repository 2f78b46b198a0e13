"""What a run comes to, in one or two plain sentences. Pure."""

from __future__ import annotations

from collections.abc import Sequence

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
    found = sane(result.saturation)
    end = f" It saturates at about {brief(found)} requests/s." if found else ""
    return f"{_what(level)}{end}"


def telling(levels: Sequence[Level], saturation: float | None = None) -> Level | None:
    """The level that a headline speaks of: the highest offered rate that is kept, else the closed loop with the most requests a second.

    None: no level has an answer.
    """
    answered = [one for one in levels if one.median.good]
    open_ = [one for one in answered if offered(one.median) is not None]
    limit = sane(saturation)
    kept = [one for one in open_ if not one.median.saturated and (limit is None or (offered(one.median) or 0.0) <= limit * 1.001)]
    if kept:
        return max(kept, key=lambda one: offered(one.median) or 0.0)
    closed = [one for one in answered if one not in open_]
    return max(closed or answered, key=lambda one: sane(one.median.request_rate) or 0.0, default=None)


def _what(level: Level) -> str:
    f = level.median
    where, rate = _load(f), offered(f)
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


def _load(f: Figures) -> str:
    rate = offered(f)
    if rate is not None:
        return f"At {brief(f.profile.value if f.profile.name == 'rate' else rate)} requests/s"
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
