"""The repeats of one level of load as one: medians, and how far they spread. Pure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import msgspec

from benchmarks.bench.spread import merge, middle_of
from benchmarks.bench.words import Figures, Goodput, Health, Level

SPREADS = ("ttft", "ttft_due", "tpot", "itl", "e2e", "e2e_due")
RATES = ("request_rate", "answered_rate", "offered_rate", "input_rate", "output_rate", "concurrency")
SHARES = ("cached_share", "output_share")
WIDE = 0.05  # repeats further apart than this are said to be
_WATCHED = (("ttft", "p50"), ("tpot", "p50"), ("itl", "p50"), ("e2e", "p50"), ("e2e", "p99"))
_KINDS = 20  # of errors, of warnings


def level(repeats: Sequence[Figures]) -> Level:
    """Of one profile. In `median`, latencies, rates and shares are medians over the repeats; what is counted (sent, good, failed, errors,
    seconds) are sums, so that one repeat's failures never vanish; memory and the client's health are the worst of them; `saturated`: more
    than half of them were. `spread`: (highest - lowest) / median, where at least two repeats have the figure and it is not 0. ValueError:
    there are none."""
    if not repeats:
        raise ValueError("a level takes at least one repeat")
    spread = _spread(repeats)
    median = msgspec.structs.replace(
        repeats[0],
        repeat=0,
        seconds=sum(one.seconds for one in repeats),
        sent=sum(one.sent for one in repeats),
        good=sum(one.good for one in repeats),
        failed=sum(one.failed for one in repeats),
        goodput=_goodput(repeats),
        errors=_errors(repeats),
        health=_health(repeats),
        saturated=2 * sum(one.saturated for one in repeats) > len(repeats),
        warnings=_warnings(repeats, spread),
        memory_most=_memory(repeats),
        **{name: merge([getattr(one, name) for one in repeats]) for name in SPREADS},
        **{name: middle_of([getattr(one, name) for one in repeats]) for name in (*RATES, *SHARES)},
    )
    return Level(repeats[0].profile, list(repeats), median, spread)


def _spread(repeats: Sequence[Figures]) -> dict[str, float]:
    found = {f"{name}_{place}": [getattr(getattr(one, name), place) for one in repeats] for name, place in _WATCHED}
    found |= {name: [getattr(one, name) for one in repeats] for name in ("request_rate", "output_rate")}
    out = {}
    for name, values in found.items():
        known = [value for value in values if value is not None]
        middle = middle_of(known)
        if len(known) > 1 and middle:
            out[name] = (max(known) - min(known)) / middle
    return out


def _goodput(repeats: Sequence[Figures]) -> list[Goodput]:
    out = []
    for kept in zip(*(one.goodput for one in repeats), strict=False):
        share = middle_of([one.share for one in kept]) or 0.0
        held = 2 * sum(one.held for one in kept) > len(kept)
        out.append(Goodput(kept[0].slo, middle_of([one.rate for one in kept]) or 0.0, share, held))
    return out


def _errors(repeats: Sequence[Figures]) -> dict[str, int]:
    kinds: Counter[str] = Counter()
    for one in repeats:
        kinds.update(one.errors)
    most = kinds.most_common()
    if len(most) <= _KINDS:
        return dict(most)
    shown = dict(most[: _KINDS - 1])
    return {**shown, "other kinds": sum(kinds.values()) - sum(shown.values())}


def _health(repeats: Sequence[Figures]) -> Health:
    healths = [one.health for one in repeats]
    worst = {name: max(getattr(one, name) for one in healths) for name in Health.__struct_fields__ if name != "trouble"}
    return msgspec.structs.replace(Health(**worst), trouble=next((one.trouble for one in healths if one.trouble), ""))


def _memory(repeats: Sequence[Figures]) -> dict[str, int]:
    names = dict.fromkeys(name for one in repeats for name in one.memory_most)
    return {name: max(one.memory_most.get(name, 0) for one in repeats) for name in names}


def _warnings(repeats: Sequence[Figures], spread: dict[str, float]) -> list[str]:
    """Those of all repeats, each once: sentences that differ in their numbers only are the same, and the first one is shown."""
    first: dict[str, str] = {}
    often: Counter[str] = Counter()
    for one in repeats:
        kinds = {re.sub(r"\d[\d.,]*", "#", text): text for text in one.warnings}
        often.update(kinds.keys())  # a mapping would be added up
        first = {**kinds, **first}
    out = [text if len(repeats) < 2 else f"{text} ({often[kind]} of {len(repeats)} repeats)" for kind, text in first.items()]
    name, widest = max(spread.items(), key=lambda item: item[1], default=("", 0.0))
    if widest > WIDE:
        out.append(f"Repeats differ by up to {100 * widest:.0f} % ({name.replace('_', ' ')}): less than that between levels says nothing.")
    return out[:_KINDS]
