"""What a hypervisor spoiled is measured again, and chosen by nothing else."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator, Sequence

import pytest

from benchmarks.bench import calm
from benchmarks.bench.calm import Calm


@pytest.fixture
def second(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every try takes a second."""
    ticks = itertools.count()
    monkeypatch.setattr(calm.time, "monotonic", lambda: float(next(ticks)))


def taken(shares: Sequence[float]) -> Iterator[float]:
    """The kernel's count before and after tries of a second, in which so much was taken."""
    total = 0.0
    for share in shares:
        yield total
        total += share
        yield total


def tried(shares: Sequence[float], stop_after: int = 9) -> tuple[list[int], int, Calm]:
    """The tries that were made, which of them counts, and the counts."""
    made: list[int] = []
    count = taken(shares)
    watched = Calm(lambda: len(made) >= stop_after, lambda: next(count))

    async def once() -> int:
        made.append(len(made))
        return made[-1]

    return made, asyncio.run(watched.measure(once)), watched


@pytest.mark.usefixtures("second")
def test_a_calm_one_counts_at_once() -> None:
    made, kept, watched = tried([0.009])
    assert (made, kept, watched.again, watched.never, watched.words()) == ([0], 0, 0, 0, "")


@pytest.mark.usefixtures("second")
def test_a_spoiled_one_is_taken_again() -> None:
    made, kept, watched = tried([0.5, 0.02, 0.0])
    assert (made, kept, watched.again, watched.never) == ([0, 1, 2], 2, 2, 0)
    assert watched.words() == "2 measurements were taken again, since the hypervisor kept 1% of a core or more meanwhile."


@pytest.mark.usefixtures("second")
def test_the_calmest_counts_where_none_was_calm() -> None:
    made, kept, watched = tried([0.5, 0.125, 0.25])
    assert (made, kept, watched.never, watched.worst) == ([0, 1, 2], 1, 1, 0.125)
    assert "1 never had a calm try, the worst of them lost 12.5% of a core." in watched.words()


@pytest.mark.usefixtures("second")
def test_one_that_was_stopped_is_not_whole() -> None:
    assert tried([0.5, 0.0], stop_after=1)[:2] == ([0], 0)
    made, kept, _ = tried([0.5, 0.0], stop_after=2)
    assert (made, kept) == ([0, 1], 0)
