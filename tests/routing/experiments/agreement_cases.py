"""Made-up units on which our numbers are compared with those of other programs. The standard library alone, so that it runs beside them."""

from __future__ import annotations

import random
from collections.abc import Callable
from math import exp
from pathlib import Path

KEPT = Path(__file__).with_name("agreement.json")

Unit = tuple[int, float, float]  # requests, total, mean before
Request = Callable[[random.Random, float], float]


def yes(share: float, alike: float = 0.0) -> Request:
    return lambda rng, level: float(rng.random() < min(0.99, max(0.001, share + alike * level)))


def skewed(level: float) -> Request:
    return lambda rng, base: exp(level + 0.5 * base + 0.5 * rng.gauss(0.0, 1.0))


def far(level: float) -> Request:
    return lambda rng, base: 1e6 + level + base + rng.gauss(0.0, 1.0)


# By name: what a request of control and of treated is, units of both, the most requests of a unit.
CASES: dict[str, tuple[Request, Request, int, int, int]] = {
    "share": (yes(0.12), yes(0.14), 4000, 3900, 1),
    "rare": (yes(0.010), yes(0.016), 6000, 6000, 1),
    "uneven": (yes(0.40), yes(0.43), 9000, 1000, 1),
    "share_by_users": (yes(0.3, 0.1), yes(0.33, 0.1), 2500, 2500, 20),
    "mean": (skewed(0.0), skewed(0.05), 5000, 5000, 1),
    "mean_by_users": (skewed(0.0), skewed(0.1), 3000, 2800, 12),
    "far_from_zero": (far(0.0), far(0.1), 3000, 3000, 1),
    "few": (skewed(0.0), skewed(0.6), 120, 130, 3),
}
BOOLEAN = {"share", "rare", "uneven", "share_by_users"}
ALPHAS = (0.05, 0.01)
COUNTS = {"sound": ([5021, 4979], [1.0, 1.0]), "leak": ([51_000, 49_000], [1.0, 1.0]), "three": ([810, 101, 120], [8.0, 1.0, 1.0])}


def units(name: str) -> tuple[list[Unit], list[Unit]]:
    """Control's and treated's units of a case: the same ones everywhere."""
    control, treated, many, others, most = CASES[name]
    rng = random.Random(name)
    return [_unit(rng, control, most) for _ in range(many)], [_unit(rng, treated, most) for _ in range(others)]


def _unit(rng: random.Random, request: Request, most: int) -> Unit:
    level = rng.gauss(0.0, 1.0)
    n = rng.randint(1, most)
    return n, sum(request(rng, level) for _ in range(n)), sum(request(rng, level) for _ in range(4)) / 4
