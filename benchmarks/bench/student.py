"""Student's t: its distribution and its quantiles. Pure, blocks for microseconds.

The distribution is a regularised incomplete beta function (Abramowitz & Stegun 1964, 26.7.1 and 26.5.8), here by the continued fraction in
Lentz's form; a quantile is found by bisection, which always ends.
"""

from __future__ import annotations

import math
from functools import lru_cache

_TINY = 1e-300
_CLOSE = 1e-15
_TERMS = 500  # of the fraction; it takes about 5 * sqrt(degrees) of them at worst, and far fewer on the side that is chosen below
_HALVINGS = 200


def incomplete_beta(a: float, b: float, x: float) -> float:
    """I_x(a, b), for a, b > 0 and x from 0 to 1, to about 12 digits."""
    if x <= 0 or x >= 1:
        return 0.0 if x <= 0 else 1.0
    if x > (a + 1) / (a + b + 2):  # where the fraction converges fast
        return 1.0 - incomplete_beta(b, a, 1.0 - x)
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x))
    return front * _fraction(a, b, x) / a


def _fraction(a: float, b: float, x: float) -> float:
    c, d = 1.0, 1.0 / _away(1.0 - (a + b) * x / (a + 1))
    value = d
    for m in range(1, _TERMS):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for term in (even, odd):
            d = 1.0 / _away(1.0 + term * d)
            c = _away(1.0 + term / c)
            value *= d * c
        if abs(d * c - 1.0) < _CLOSE:
            break
    return value


def _away(x: float) -> float:
    """Never zero, so that it can be divided by."""
    return x if abs(x) > _TINY else _TINY


def below(t: float, degrees: float) -> float:
    """The share of Student's distribution below `t`. ValueError: no degrees of freedom."""
    if degrees <= 0:
        raise ValueError(f"Student's distribution needs degrees of freedom above 0, not {degrees}")
    tail = 0.5 * incomplete_beta(degrees / 2, 0.5, degrees / (degrees + t * t))
    return 1.0 - tail if t > 0 else tail


@lru_cache(maxsize=256)
def quantile(share: float, degrees: float) -> float:
    """The t that has this share of the distribution below it. ValueError: a share that is not between 0 and 1, no degrees of freedom."""
    if not 0.0 < share < 1.0:
        raise ValueError(f"a quantile's share is between 0 and 1, not {share}")
    if share < 0.5:
        return -quantile(1.0 - share, degrees)
    low, high = 0.0, 1.0
    while below(high, degrees) < share and high < 1e150:
        low, high = high, high * 2
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (middle, high) if below(middle, degrees) < share else (low, middle)
    return (low + high) / 2
