"""Numbers as people read them. Pure: a number in, a text out; a dash for what is not known.

The exact numbers stand beside them in the page (`data-` attributes and the JSON block), so these may be short.
"""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime

from routing.experiments.words import Estimate, Metric

NONE = "–"
MOST = 1e150
MINUS = "−"
_SPANS = ((86400.0, "d"), (3600.0, "h"), (60.0, "min"))


def sane(value: float | None) -> float | None:
    """`value`, or None where it is no number that can be drawn: not finite, or so large that sums of such are not."""
    return value if value is not None and abs(value) <= MOST else None


def signed(text: str) -> str:
    """With a true minus sign; "-0.0" loses its sign."""
    if not text.startswith("-"):
        return text
    return MINUS + text[1:] if text.strip("-0.,% ") else text[1:]


def number(value: float | None, digits: int = 3) -> str:
    """To some significant digits, with thousands separators; very large and very small ones by powers of ten."""
    value = sane(value)
    if value is None:
        return NONE
    size = abs(value)
    if size and (size >= 1e9 or size < 1e-4):
        mantissa, _, power = f"{value:.{digits - 1}e}".partition("e")
        return signed(f"{mantissa}×10{_raised(int(power))}")
    if not size:
        return "0"
    after = max(0, digits - 1 - math.floor(math.log10(size)))
    return signed(f"{value:,.{after}f}")


def _raised(power: int) -> str:
    return str(power).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def short(text: str) -> str:
    """A number's text without zeros at its end that say nothing: "2.50 s" is "2.5 s"."""
    return re.sub(r"\.0+(?=\D|$)|(\.\d*?[1-9])0+(?=\D|$)", r"\1", text)


def count(value: float | None) -> str:
    """A whole number."""
    value = sane(value)
    return NONE if value is None else number(value) if abs(value) >= 1e12 else signed(f"{value:,.0f}")


def percent(share: float | None) -> str:
    """A share of 1 in per cent: one place after the point, more near 0 and 100 %."""
    share = sane(share)
    if share is None or abs(share) >= 1e300:
        return NONE
    if 0 < abs(share) < 0.0005 or abs(share) >= 1e4:
        return number(100 * share, 2) + " %"
    far = min(abs(share), abs(1 - share))
    places = 0 if share in (0.0, 1.0) or abs(share) >= 2 else 1 if far >= 0.02 else 2 if far >= 0.0005 else 3
    return signed(f"{100 * share:,.{places}f}") + " %"


def change(value: float | None) -> str:
    """A relative change in per cent, with its sign; from tenfold on by how many times."""
    value = sane(value)
    if value is None:
        return NONE
    if value >= 9:
        return f"×{number(1 + value)}"
    if value <= -9:  # no true change; an interval's lower end may be such
        return number(100 * value) + " %"
    if abs(value) < 1e-9:
        return "0.0 %"
    text = f"{100 * abs(value):.{0 if abs(value) >= 1 else 1}f}" if abs(value) >= 0.001 else number(100 * abs(value), 2)
    return f"{MINUS if value < 0 else '+'}{text} %"


def seconds(value: float | None) -> str:
    """A time, in the unit that suits it."""
    value = sane(value)
    if value is None:
        return NONE
    for size, unit in _SPANS:
        if abs(value) >= 2 * size:
            return f"{number(value / size)} {unit}"
    if value == 0 or abs(value) >= 1:
        return f"{number(value)} s"
    return f"{number(value * 1e3)} ms" if abs(value) >= 1e-3 else f"{number(value * 1e6)} µs"


def dollars(value: float | None) -> str:
    """Money: cents where there are some, else as many places as say something."""
    value = sane(value)
    if value is None:
        return NONE
    sign, size = (MINUS if value < 0 else ""), abs(value)
    return f"{sign}${size:,.2f}" if 1 <= size < 1e9 or size == 0 else f"{sign}${number(size)}"


def value_of(metric: Metric, value: float | None) -> str:
    """A metric's value with its unit."""
    if metric.kind == "boolean":
        return percent(value)
    if metric.unit == "s":
        return seconds(value)
    if metric.unit == "$":
        return dollars(value)
    text = number(value)
    return f"{text} {metric.unit}" if metric.unit and text != NONE else text


def between(lo: str, hi: str) -> str:
    """An interval of two texts; where an end is not known, that is said."""
    if lo == NONE and hi == NONE:
        return "no interval yet"
    if lo == NONE:
        return f"up to {hi}"
    return f"{lo} to {hi}" if hi != NONE else f"{lo} and more"


def interval_of(metric: Metric, estimate: Estimate) -> str:
    """Where a metric's value is."""
    return between(value_of(metric, estimate.lo), value_of(metric, estimate.hi))


def changes_of(estimate: Estimate) -> str:
    """Where a change is."""
    return between(change(estimate.lo), change(estimate.hi))


def chance(value: float | None) -> str:
    """A p value or a probability of error."""
    value = sane(value)
    if value is None:
        return NONE
    return "< 0.0001" if value < 1e-4 else f"{value:.4f}" if value < 0.001 else f"{value:.3f}"


def moment(unix: float | None) -> str:
    """A time as people write it, UTC; "–" for what no calendar knows."""
    made = _datetime(unix)
    return NONE if made is None else f"{made.day} {made:%b %Y, %H:%M} UTC"


def known(unix: float | None) -> bool:
    """Whether a calendar knows this time."""
    return _datetime(unix) is not None


def day(unix: float | None, span: float) -> str:
    """A label of a time axis that spans `span` seconds: the hour within two days, else the day."""
    made = _datetime(unix)
    if made is None:
        return NONE
    return f"{made:%H:%M}" if span < 2 * 86400 else f"{made.day} {made:%b}"


def iso(unix: float | None) -> str:
    """For `<time datetime>`; empty when there is none."""
    made = _datetime(unix)
    return "" if made is None else f"{made:%Y-%m-%dT%H:%M:%SZ}"


def _datetime(unix: float | None) -> datetime | None:
    unix = sane(unix)
    if unix is None or not 0 <= unix < 253_402_300_800:  # the year 10000
        return None
    return datetime.fromtimestamp(unix, UTC)
