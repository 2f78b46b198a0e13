"""Sums over the units of one arm for one metric, from which mean, variance and covariance with history follow. Pure; nothing blocks.

A unit has n requests with the total y. The mean is that of requests, sum(y) / sum(n); its variance counts units, since requests of one unit
are alike: the delta method for a ratio of two means (Deng, Knoblich, Lu 2018, "Applying the delta method in metric analytics", KDD, section
3). A unit with history also has x, its mean before it took part.

All sums are whole multiples of 2^-50 (products: of 2^-100): they are exact, so the order of changes does not matter, what is taken back
leaves nothing behind, and nothing is lost when large numbers cancel.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf, nan
from typing import NamedTuple

_SCALE = 1 << 50
_FLOAT = float(_SCALE)
_SQUARE = _SCALE * _SCALE
_LARGEST = 1e15


class Past(NamedTuple):
    """History in one arm as deviations from a centre, 0 for units without one: their mean, their variance over units, and their covariance
    with the units' linearised values (y - mean n) / mean of n."""

    mean: float
    variance: float
    covariance: float


class Moments:
    """The sums of one arm and metric: k units, their n, y and products; of the h units with history x, the same with x. Empty at first. One
    owner changes it."""

    __slots__ = _SUMS = ("k", "n", "y", "nn", "yy", "ny", "h", "x", "xx", "hn", "hy", "xn", "xy")

    k: int
    n: int
    y: int
    nn: int
    yy: int
    ny: int
    h: int
    x: int
    xx: int
    hn: int
    hy: int
    xn: int
    xy: int

    def __init__(self) -> None:
        self.k = self.n = self.y = self.nn = self.yy = self.ny = 0
        self.h = self.x = self.xx = self.hn = self.hy = self.xn = self.xy = 0

    def change(self, n0: int, y0: float, n1: int, y1: float, x: float | None = None) -> None:
        """One unit goes from n0 requests with total y0 to n1 with y1; n of 0: it is not (or no longer) there. `x`: its mean before it took
        part, the same at each of its changes; None: no history. O(1). ValueError: a number that is not finite or beyond 1e15."""
        old, new = _fixed(y0) if n0 else 0, _fixed(y1) if n1 else 0
        past = 0 if x is None else _fixed(x)
        units = (n1 > 0) - (n0 > 0)
        n, y, ny = n1 - n0, new - old, n1 * new - n0 * old
        self.k += units
        self.n += n
        self.y += y
        self.nn += n1 * n1 - n0 * n0
        self.yy += new * new - old * old
        self.ny += ny
        if x is not None:
            if units:
                self.h += units
                self.x += units * past
                self.xx += units * past * past
            self.hn += n
            self.hy += y
            self.xn += past * n
            self.xy += past * y

    def merge(self, other: Moments) -> None:
        """Adds the units of another, which must be other units than these."""
        for name in self._SUMS:
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Moments) and all(getattr(self, name) == getattr(other, name) for name in self._SUMS)

    __hash__ = None  # type: ignore[assignment]

    @property
    def mean(self) -> float:
        """Total by requests. nan: there are none."""
        return self.y / (self.n * _SCALE) if self.n else nan

    @property
    def total(self) -> float:
        """The sum of y."""
        return self.y / _SCALE

    @property
    def before(self) -> float:
        """The sum of x over the units with history."""
        return self.x / _SCALE

    @property
    def variance(self) -> float:
        """Of the mean, by the delta method, with k - 1 for k. inf: fewer than two units."""
        k, n, y = self.k, self.n, self.y
        if k < 2 or not n:
            return inf
        squares = self.yy * n * n - 2 * y * n * self.ny + y * y * self.nn  # n² times the sum of (y - mean n)²
        return k * squares / ((k - 1) * n**4 * _SQUARE)

    @property
    def smoothed(self) -> float:
        """Of booleans, the variance of the mean as if there were two more units of the usual size, one with yes in all its requests and one
        with no: never 0 when an outcome has not been seen yet, and little changed when both were seen often (Agresti, Coull 1998,
        "Approximate is better than 'exact'", American Statistician 52(2), by units). inf: fewer than two units."""
        k, n = self.k, self.n
        if k < 2 or not n:
            return inf
        size = n / k
        mean = (self.y / _SCALE + size) / (n + 2.0 * size)
        squares = self.yy / _SQUARE - 2.0 * mean * (self.ny / _SCALE) + mean * mean * self.nn
        added = size * size * ((1.0 - mean) ** 2 + mean * mean)
        return (max(squares, 0.0) + added) * (k + 2) / ((k + 1) * (n + 2.0 * size) ** 2)

    def past(self, centre: float) -> Past:
        """History around `centre`. All 0: fewer than two units, or no history. ValueError: `centre` is not finite or beyond 1e15."""
        k, n, h = self.k, self.n, self.h
        if k < 2 or not n or not h:
            return Past(0.0, 0.0, 0.0)
        c = _fixed(centre)
        away = self.x - h * c
        variance = (k * (self.xx - 2 * c * self.x + h * c * c) - away * away) / (k * (k - 1) * _SQUARE)
        products = n * (self.xy - c * self.hy) - self.y * (self.xn - c * self.hn)
        return Past(away / (k * _SCALE), variance, k * products / ((k - 1) * n * n * _SQUARE))

    def dump(self) -> tuple[float, ...]:
        """All sums as floats, exactly: each as pieces that add up to it, ended by a 0."""
        pieces: list[float] = []
        for name in self._SUMS:
            rest = getattr(self, name)
            while rest:
                piece = float(rest)
                pieces.append(piece)
                rest -= int(piece)
            pieces.append(0.0)
        return tuple(pieces)

    @classmethod
    def load(cls, pieces: Sequence[float]) -> Moments:
        """What `dump` gave. ValueError: it is not that."""
        sums = [0]
        for at, piece in enumerate(pieces):
            if not piece.is_integer():
                raise ValueError(f"sums of an experiment: piece {at} is not a whole number")
            if piece:
                sums[-1] += int(piece)
            else:
                sums.append(0)
        if len(sums) != len(cls._SUMS) + 1 or sums[-1] or not pieces:
            raise ValueError(f"sums of an experiment: {len(cls._SUMS)} are needed, {len(sums) - 1} are there")
        moments = cls()
        for name, value in zip(cls._SUMS, sums, strict=False):
            setattr(moments, name, value)
        return moments


def _fixed(value: float) -> int:
    """In multiples of 2^-50, towards 0."""
    if not -_LARGEST <= value <= _LARGEST:
        raise ValueError(f"a metric's value must be between -1e15 and 1e15, not {value!r}")
    return int(value * _FLOAT)
