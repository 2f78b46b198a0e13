"""A sweep against a queue whose capacity is known."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from benchmarks.bench.figures import figures
from benchmarks.bench.saturate import knee
from benchmarks.bench.sweep import Sweep, next_rate
from benchmarks.bench.words import Figures, Profile
from tests.bench.seen import closed, failure, queue, stage


def measured(profile: Profile, servers: int, count: int = 1500, patience: float = 0.0) -> Figures:
    rng = random.Random(f"{profile.name} {profile.value} {servers}")
    if profile.name == "rate":
        return figures(stage(queue(rng, profile.value, servers, count, patience=patience), profile), [])
    connections = 1 if profile.name == "sync" else int(profile.value)
    return figures(stage(closed(rng, connections, servers, 300 if connections == 1 else count), profile), [])


def swept(measure: Callable[[Profile], Figures], plan: Sweep) -> list[Figures]:
    found: list[Figures] = []
    while (profile := next_rate(found, 1.0, plan)) is not None:
        assert len(found) < 2 + plan.rates + plan.refine
        found.append(measure(profile))
    return found


@pytest.mark.parametrize("servers", [1, 8, 32])
def test_the_knee_of_a_queue_is_near_its_capacity(servers: int) -> None:
    found = swept(lambda profile: measured(profile, servers), Sweep(connections=4 * servers))
    assert [one.profile.name for one in found[:2]] == ["sync", "concurrent"]
    assert all(one.profile.name == "rate" for one in found[2:])
    assert len({one.profile.value for one in found[2:]}) == len(found) - 2
    at = knee(found)
    assert at is not None
    assert 0.75 * servers <= at <= 1.05 * servers
    assert any(one.profile.value > at for one in found[2:])  # beyond it was tried too


def test_a_server_that_refuses_has_its_knee_where_it_begins_to() -> None:
    found = swept(lambda profile: measured(profile, 8, patience=1.0), Sweep(connections=16))
    at = knee(found)
    assert at is not None
    assert 4 <= at <= 8.4


def test_rates_ascend_between_the_two_ends() -> None:
    levels = [measured(Profile("sync"), 8), measured(Profile("concurrent", value=32), 8)]
    alone, most = levels[0].request_rate, levels[1].request_rate
    rates = []
    for _ in range(4):
        profile = next_rate(levels, 2.0, Sweep(rates=4))
        assert profile is not None and profile.shape == 2.0
        rates.append(profile.value)
        levels.append(measured(profile, 100))  # keeps all
    assert rates == sorted(rates)
    assert alone < rates[0] and rates[-1] < most
    top = next_rate(levels, 1.0, Sweep(rates=4))
    assert top is not None and top.value == pytest.approx(most, rel=0.01)  # all are kept: upwards
    levels.append(measured(top, 100))
    further = next_rate(levels, 1.0, Sweep(rates=4))
    assert further is not None and further.value > top.value


def test_where_no_rate_is_kept_it_goes_down() -> None:
    levels = [measured(Profile("sync"), 8), measured(Profile("concurrent", value=32), 8)]
    for _ in range(2):
        profile = next_rate(levels)
        assert profile is not None
        levels.append(measured(profile, 8, patience=1e-9))
        levels[-1].answered_rate = 0.0
    lower = next_rate(levels)
    assert lower is not None and lower.value < levels[2].profile.value
    assert knee(levels) is None


def test_repeats_change_no_step() -> None:
    levels = [measured(Profile("sync"), 4), measured(Profile("concurrent", value=16), 4)]
    once = next_rate(levels)
    assert next_rate([*levels, measured(Profile("sync"), 40), measured(Profile("concurrent", value=16), 40)]) == once
    assert next_rate(levels) == once


def test_a_server_that_answers_nothing_ends_it() -> None:
    dead = figures(stage([failure()], Profile("sync")), [])
    assert next_rate([]) == Profile("sync")
    assert next_rate([dead]) is None
    alive = measured(Profile("sync"), 4)
    assert next_rate([alive]) == Profile("concurrent", value=64.0)
