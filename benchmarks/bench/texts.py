"""Numbers, times and levels of load as people read them. Pure: a value in, a text out; a dash for what is not known.

Three significant digits: no latency is known better than that, and repeats differ before the fourth.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import PurePath

import msgspec

from benchmarks.bench.words import Figures, Level, Profile, Result, Slo, Spread

NONE = "–"
MOST = 1e15  # what is greater is no measurement
FEW = "p99 needs 1,000 answers, p95 200, p90 100, p50 5"
UPPER = ("p99", "p95", "p90")
_LISTED = 8  # levels named in one line
_NUMBERS = re.compile(r"\d[\d.,]*")
_UNITS = ((1e9, "G"), (1e6, "M"), (1e3, "k"))
_CLOSED = ("sync", "concurrent")


def sane(value: float | None) -> float | None:
    """`value`, or None where it is no number that can be drawn."""
    return value if value is not None and math.isfinite(value) and abs(value) <= MOST else None


def number(value: float | None, digits: int = 3) -> str:
    """To `digits` significant digits with thousands separators; whole numbers keep all theirs; tiny ones by powers of ten."""
    value = sane(value)
    if value is None:
        return NONE
    if not value:
        return "0"
    if abs(value) < 1e-4:
        return f"{value:.{digits - 1}e}"
    rounded = float(f"{value:.{digits - 1}e}")  # 9.996 is 10.0, not 10.00
    after = max(0, digits - 1 - math.floor(math.log10(abs(rounded))))
    return f"{value:,.{after}f}"


def brief(value: float | None) -> str:
    """Like `number`, without zeros at its end that say nothing: for ticks and names."""
    text = number(value)
    return text.rstrip("0").rstrip(".") if "." in text and "e" not in text else text


def count(value: float | None) -> str:
    """A whole number."""
    value = sane(value)
    return NONE if value is None else f"{value:,.0f}"


def ms(seconds: float | None) -> str:
    """A time in milliseconds, without its unit: for tables whose heads name it."""
    value = sane(seconds)
    return NONE if value is None else number(value * 1e3)


def duration(seconds: float | None, short: bool = False) -> str:
    """A time with the unit that suits it. `short`: without zeros at its end."""
    value = sane(seconds)
    if value is None:
        return NONE
    say = brief if short else number
    size = abs(value)
    if size >= 7200:
        return f"{say(value / 3600)} h"
    if size >= 120:
        return f"{say(value / 60)} min"
    if size >= 1 or not size:
        return f"{say(value)} s"
    return f"{say(value * 1e3)} ms" if size >= 1e-3 else f"{say(value * 1e6)} µs"


def percent(share: float | None) -> str:
    """A share of 1 in per cent. What is not all is never written as 100 %, what is not nothing never as 0 %."""
    value = sane(share)
    if value is None:
        return NONE
    if value in (0.0, 1.0):
        return f"{value:.0%}".replace("%", " %")
    places = 1
    while places < 6 and float(f"{100 * value:.{places}f}") in (0.0, 100.0):
        places += 1
    return f"{100 * value:,.{places}f} %"


def size(octets: float | None) -> str:
    """Bytes, in MiB or GiB."""
    value = sane(octets)
    if value is None:
        return NONE
    return f"{number(value / 2**30)} GiB" if value >= 2**30 else f"{number(value / 2**20)} MiB"


def compact(value: float) -> str:
    """A count in few characters: 1.2k, 34M."""
    for unit, letter in _UNITS:
        if abs(value) >= unit:
            return f"{brief(value / unit)}{letter}"
    return brief(value)


def is_closed(profile: Profile) -> bool:
    """Whether the server sets the pace: a closed loop has no offered rate."""
    return profile.name in _CLOSED


def option(profile: Profile) -> str:
    """A level as the command line writes it: `sync`, `concurrent=8`, `rate=12`, `trace=FILE`."""
    if profile.name in ("concurrent", "rate"):
        return f"{profile.name}={brief(profile.value)}"
    if profile.source:
        faster = f"x{brief(profile.speed)}" if profile.speed != 1 else ""
        return f"{profile.name}={PurePath(profile.source).name}{faster}"
    return profile.name


def in_words(profile: Profile) -> str:
    """A level in words: "one request at a time", "8 at once", "12 requests/s"."""
    if profile.name == "sync":
        return "one at a time"
    if profile.name == "concurrent":
        return f"{brief(profile.value)} at once"
    if profile.name == "rate":
        return f"{brief(profile.value)} requests/s"
    name = PurePath(profile.source).name
    faster = f", {brief(profile.speed)} times as fast" if profile.speed != 1 else ""
    return f"{profile.name} {name}{faster}".strip()


def slo_words(slo: Slo) -> str:
    """What a service level asks, in words."""
    limits = (("first token", slo.ttft), ("per token", slo.tpot), ("any gap", slo.itl), ("whole answer", slo.e2e))
    asked = ", ".join(f"{what} ≤ {duration(value, short=True)}" for what, value in limits if value is not None)
    return f"{asked or 'any answer'}, for {brief(100 * slo.share)} % of requests"


def error_share(f: Figures) -> float | None:
    """Failed requests by those sent; None: none was sent."""
    return f.failed / f.sent if f.sent else None


def offered(f: Figures) -> float | None:
    """The rate at which requests came, where the schedule set it and not the server."""
    return None if is_closed(f.profile) else sane(f.offered_rate) or sane(f.profile.value) or None


class Note(msgspec.Struct, frozen=True):
    """A sentence about some levels. `alike`: at these it is the same but for its numbers."""

    text: str
    levels: tuple[str, ...] = ()
    alike: tuple[str, ...] = ()

    def __str__(self) -> str:
        where = [_listed(self.levels), f"alike: {_listed(self.alike)}" if self.alike else ""]
        said = "; ".join(w for w in where if w)
        return f"{self.text} [{said}]" if said else self.text


def _listed(levels: Sequence[str]) -> str:
    more = f" and {len(levels) - _LISTED} more" if len(levels) > _LISTED else ""
    return ", ".join(levels[:_LISTED]) + more


def merged(notes: Iterable[tuple[str, str]]) -> list[Note]:
    """(level, sentence) by sentence, in order of first sight: what several levels say is said once."""
    kinds: dict[str, Note] = {}
    for level, text in notes:
        if not text:
            continue
        kind = _NUMBERS.sub("#", text)
        known = kinds.setdefault(kind, Note(text))
        if level and level not in known.levels + known.alike:
            same = text == known.text
            kinds[kind] = Note(text=known.text, levels=known.levels + (level,) * same, alike=known.alike + (level,) * (not same))
    return list(kinds.values())


def troubles(levels: Iterable[Level]) -> list[Note]:
    """Where the client measured itself."""
    return merged((option(one.profile), f.health.trouble) for one in levels for f in (one.median, *one.repeats))


def warnings(result: Result) -> list[Note]:
    """All other warnings of a run, those of the whole run first."""
    client = {f.health.trouble for one in result.levels for f in (one.median, *one.repeats)}
    whole = (("", text) for text in result.warnings)
    told = ((option(one.profile), text) for one in result.levels for f in _all_told(one) for text in f.warnings)
    return merged((level, text) for level, text in (*whole, *told) if not any(t and text.startswith(t) for t in client))


def _all_told(level: Level) -> list[Figures]:
    """Where a level's warnings stand: merged beside its medians, or at its repeats where nobody merged them."""
    return [level.median] if level.median.warnings else level.repeats


def errors(levels: Iterable[Level]) -> dict[str, int]:
    """Error texts of all levels with how often, the most frequent first."""
    out: dict[str, int] = {}
    for one in levels:
        for text, n in one.median.errors.items():
            out[text] = out.get(text, 0) + n
    return dict(sorted(out.items(), key=lambda item: (-item[1], item[0])))


def upper(spreads: Iterable[Spread], share: float = 0.0) -> str | None:
    """The highest percentile that more than a `share` of these have samples for, else that any has. None: none."""
    found = list(spreads)
    known = {name: sum(sane(getattr(s, name)) is not None for s in found) for name in UPPER}
    most = max(known.values(), default=0)
    return next((name for name, n in known.items() if n > min(share * len(found), most - 1)), None)


def visible(text: str) -> str:
    """A text of which nothing moves a terminal's cursor or changes its colours: what is not printed is U+FFFD; white space is one space."""
    return "".join(c if c.isprintable() else "\ufffd" for c in " ".join(text.split()))


def wide(text: str) -> int:
    """How many cells of a terminal a text takes."""
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def cut(text: str, cells: int) -> str:
    """A text that takes at most so many cells; what is left out shows as an ellipsis."""
    if wide(text) <= cells:
        return text
    while text and wide(text) > cells - 1:
        text = text[:-1]
    return f"{text}…"
