"""What a report knows of its levels: their names and looks, and the single requests where the raw stages are at hand. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from benchmarks.bench.report.plot import COLOURS
from benchmarks.bench.texts import in_words, is_closed, offered, option, sane
from benchmarks.bench.words import Figures, Level, Profile, Result, Spread, Stage, Timed

Value = Callable[[Timed], float | None]


@dataclass(frozen=True, slots=True)
class Shown:
    """One level as the page shows it. `number` counts from 1 as in the table; `stages`: its raw repeats, where there are some."""

    number: int
    level: Level
    stages: Sequence[Stage] = field(default=())

    @property
    def figures(self) -> Figures:
        """The medians of its repeats."""
        return self.level.median

    @property
    def profile(self) -> Profile:
        """How its load came."""
        return self.level.profile

    @property
    def name(self) -> str:
        """In words, as in a legend."""
        return in_words(self.profile)

    @property
    def rate(self) -> float | None:
        """Requests a second as they came: offered by the schedule, or in a closed loop as fast as the server let them."""
        return offered(self.figures) or sane(self.figures.request_rate)


def shown(result: Result, stages: Sequence[Stage]) -> list[Shown]:
    """The levels by load: closed loops first, then by rate. A stage belongs to the level of the same profile."""
    by: dict[str, list[Stage]] = {}
    for stage in stages:
        by.setdefault(key(stage.profile), []).append(stage)
    ordered = sorted(result.levels, key=lambda one: (not is_closed(one.profile), sane(one.profile.value) or 0.0))
    return [Shown(i, one, by.get(key(one.profile), ())) for i, one in enumerate(ordered, 1)]


def key(profile: Profile) -> str:
    """What tells levels apart."""
    return f"{option(profile)} {profile.value!r} {profile.shape!r} {profile.source}"


def chosen(levels: Sequence[Shown], most: int = COLOURS) -> list[Shown]:
    """At most `most` levels, spread evenly over all of them, the first and the last among them."""
    if len(levels) <= most:
        return list(levels)
    return [levels[round(i * (len(levels) - 1) / (most - 1))] for i in range(most)]


def colour(place: int, of: int) -> str:
    """The class of the `place`-th of `of` series: cold for little load, warm for much."""
    step = 0 if of <= 1 else round(place * (COLOURS - 1) / (of - 1))
    return f"c{step}"


def counted(stages: Iterable[Stage]) -> list[Timed]:
    """Answers that count for latencies: whole, and not of the warm-up."""
    return [t for stage in stages for t in stage.timed if t.good and not t.warm]


def values(stages: Iterable[Stage], of: Value) -> list[float]:
    """One latency of all that count, ascending."""
    return sorted(v for t in counted(stages) if (v := sane(of(t))) is not None)


def at(spread: Spread, name: str) -> float | None:
    """A percentile by its name."""
    value: float | None = getattr(spread, name)
    return sane(value)
