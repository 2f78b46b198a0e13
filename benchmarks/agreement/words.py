"""What is compared: loads, what a client said of one of them, and what it saw of each request. Data only; times are seconds."""

from __future__ import annotations

from typing import Literal

import msgspec

from benchmarks.bench.words import Profile, Timed

Verdict = Literal["agrees", "differs", "unsteady", "other"]
Who = Literal["pointsman", "guidellm", "aiperf"]
OURS: Who = "pointsman"
OTHERS: tuple[Who, ...] = ("guidellm", "aiperf")
MOST_APART = 0.03  # between a client's figure and ours
MOST_SPREAD = 0.05  # of a figure over repeats, (highest - lowest) / median

FIGURES: dict[str, str] = {
    "TTFT p50": "s",
    "TTFT mean": "s",
    "TPOT p50": "s",
    "TPOT mean": "s",
    "ITL p50": "s",
    "ITL mean": "s",
    "E2E p50": "s",
    "E2E mean": "s",
    "requests/s": "1/s",
    "tokens/s": "1/s",
}


class Load(msgspec.Struct, frozen=True):
    """One way to send requests, the same for every client: `requests` that count after `warm` that do not."""

    name: str
    profile: Profile
    requests: int
    warm: int


class Run(msgspec.Struct):
    """One client, one load, once. `said`: figures as the client itself reports them, by the names of `FIGURES`, where it has them;
    `timed`: its requests, as the words that our own figures are computed from, warm ones marked; empty where it keeps none. `trouble`:
    what the client said against its own run."""

    who: Who
    load: Load
    repeat: int
    said: dict[str, float]
    timed: list[Timed] = []
    failed: int = 0
    trouble: str = ""


class Row(msgspec.Struct, frozen=True):
    """One figure of one load, ours beside another client's; medians of the repeats. `said`: as the client reports it, `ratio` to ours;
    `redone`: from its requests by our definition, `redone_ratio` to ours. None: it has no such figure; of a
    spread: there is one repeat. `verdict`: "agrees", "differs",
    "unsteady" (it agrees or differs by chance: a spread is too wide), "other" (another definition, nothing to compare)."""

    load: str
    who: Who
    figure: str
    ours: float
    ours_spread: float | None
    said: float | None
    ratio: float | None
    said_spread: float | None
    redone: float | None
    redone_ratio: float | None
    redone_spread: float | None
    verdict: Verdict
