"""The promises hold in every kind of case, with fewer runs than `proof.py` takes: what is surely worse than promised shows."""

from __future__ import annotations

import pytest

from tests.routing.experiments.proof import CASES, line, recorded, simulate


@pytest.mark.full
@pytest.mark.parametrize("name", sorted(CASES))
def test_the_promises_hold(name: str) -> None:
    result = simulate(name, 120, 1)
    assert result.problems() == []
    assert result.alarms.hits <= 14  # of 120 at 5 %: more come by chance once in a thousand times


def test_a_case_of_few_runs_can_be_shown() -> None:
    row = line("boolean even", simulate("boolean even", 4, 1))
    assert row.startswith("| boolean even | +20% | 103") and row.count("|") == 10 and "change" in row


def test_what_is_taken_for_recorded_is_of_many_alike_requests() -> None:
    sizes = [len(unit) for unit in recorded().recorded]
    assert len(sizes) == 3000 and max(sizes) == 40 and 1.5 < sum(sizes) / len(sizes) < 4
