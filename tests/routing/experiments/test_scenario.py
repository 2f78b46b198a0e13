"""Made-up and recorded requests: they are what the scenario says, and their true numbers are theirs."""

from __future__ import annotations

from itertools import islice
from math import exp, log
from random import Random
from statistics import correlation, fmean, pvariance

import msgspec
import pytest

from routing.experiments.scenario import Scenario, baseline, check, mean, quantile, recorded, stream
from routing.experiments.words import Kind, Seen

MADE = [
    Scenario("boolean", 0.3),
    Scenario("boolean", 0.3, requests=4, alike=0.3),
    Scenario("mean", 2.0, 0.8),
    Scenario("mean", 2.0, 0.8, requests=4, alike=0.3),
    Scenario("log", 0.5, 0.6, tail=0.05),
    Scenario("log", 0.5, 0.6, tail=0.05, requests=4, alike=0.3),
    Scenario("log", recorded=tuple((log(0.1 + i / 100), log(0.2)) for i in range(60))),
    Scenario("mean", recorded=tuple((float(i),) * (1 + i % 3) for i in range(60))),
    Scenario("boolean", recorded=tuple((float(i % 3 == 0), 1.0) for i in range(60))),
]


def units(made: Scenario, effects: tuple[float, float], count: int, seed: int) -> list[dict[int, list[float]]]:
    """Values by unit and arm; a unit is told from its requests so far."""
    found: list[dict[int, list[float]]] = [{}, {}]
    open_units: dict[tuple[int, int, float], list[int]] = {}
    for number, (arm, before, total, value, _) in enumerate(islice(stream(made, (3.0, 1.0), effects, Random(seed)), count)):
        if before:
            unit = open_units[arm, before, total].pop()
            found[arm][unit].append(value)
        else:
            unit = number
            found[arm][unit] = [value]
        open_units.setdefault((arm, before + 1, total + value), []).append(unit)
    return found


@pytest.mark.parametrize("made", MADE)
@pytest.mark.parametrize("effect", [0.0, 0.2])
def test_requests_have_the_mean_and_the_variance_that_are_said(made: Scenario, effect: float) -> None:
    found = units(made, (0.0, effect), 40_000, 1)
    control, treated = found
    assert len(control) / (len(control) + len(treated)) == pytest.approx(0.75, abs=0.02)
    base = baseline(made)
    values = [value for unit in control.values() for value in unit]
    assert fmean(values) == pytest.approx(base.mean, abs=0.03 * max(1.0, abs(base.mean)))
    size = len(values) / len(control)
    parts = [(sum(unit) - base.mean * len(unit)) / size for unit in control.values()]
    assert pvariance(parts) == pytest.approx(base.variance, rel=0.12)
    changed = fmean([value for unit in treated.values() for value in unit])
    wanted = mean(made, effect)
    assert (exp(changed) if made.kind == "log" else changed) == pytest.approx(wanted, rel=0.05)


@pytest.mark.parametrize("made", [one for one in MADE if one.kind == "log"])
def test_quantiles_are_the_true_ones(made: Scenario) -> None:
    values = sorted(value for unit in units(made, (0.0, 0.5), 120_000, 2)[1].values() for value in unit)
    for p in (0.5, 0.9, 0.97):
        assert exp(values[int(p * len(values))]) == pytest.approx(quantile(made, p, 0.5), rel=0.12)


@pytest.mark.parametrize("kind", ["boolean", "mean", "log"])
@pytest.mark.parametrize("effect", [-0.4, 0.4])
def test_history_knows_nothing_of_the_effect_and_something_of_the_unit(kind: Kind, effect: float) -> None:
    made = Scenario(kind, 0.4, 0.5, requests=5, alike=0.5, history=0.6)
    begun = [one for one in islice(stream(made, (1.0, 1.0), (0.0, effect), Random(5)), 60_000) if not one[1]]
    known = [(one[0], one[3], one[4]) for one in begun if one[4] is not None]
    assert len(known) / len(begun) == pytest.approx(0.6, abs=0.02)
    for arm in (0, 1):
        assert fmean(past for at, _, past in known if at == arm) == pytest.approx(baseline(made).mean, abs=0.025)
        assert correlation([value for at, value, _ in known if at == arm], [past for at, _, past in known if at == arm]) > 0.35


def test_units_of_a_scenario_have_geometric_sizes_and_mix() -> None:
    found = units(Scenario("mean", 1.0, requests=4), (0.0, 0.0), 40_000, 3)
    sizes = [len(unit) for arm in found for unit in arm.values()]
    assert fmean(sizes) == pytest.approx(4, rel=0.05) and sizes.count(1) / len(sizes) == pytest.approx(0.25, abs=0.02)
    orders = [before for _, before, _, _, _ in islice(stream(Scenario("mean", 1.0, requests=4), (1, 1), (0, 0), Random(1)), 50)]
    assert orders.count(0) >= 15  # several begin before one ends


@pytest.mark.parametrize(("kind", "effect"), [("boolean", -0.3), ("boolean", 0.3)])
def test_recorded_answers_are_turned_until_the_effect_is_there(kind: Kind, effect: float) -> None:
    made = Scenario(kind, recorded=tuple((float(i % 2), 0.0, 1.0) for i in range(60)))
    values = [value for unit in units(made, (0.0, effect), 60_000, 4)[1].values() for value in unit]
    assert set(values) == {0.0, 1.0} and fmean(values) == pytest.approx(0.5 * (1 + effect), abs=0.01)


def test_a_scenario_of_what_was_recorded() -> None:
    seen = [Seen(float(i), "e", 0, "a", i // 2, seconds=0.5 + i / 100, cost=None) for i in range(120)]
    made = recorded([*seen, Seen(1.0, "e", 0, "a", 5, seconds=99.0, gone=True)], "latency", "log")
    assert len(made.recorded) == 60 and made.recorded[1] == pytest.approx((log(0.52), log(0.53)))
    with pytest.raises(ValueError, match="at least 50 units"):
        recorded(seen, "cost", "mean")
    with pytest.raises(ValueError, match="latency"):
        recorded(seen, "speed", "mean")


@pytest.mark.parametrize(
    "wrong",
    [
        {"mean": 0.0},
        {"mean": 1.0},
        {"spread": 0.0},
        {"requests": 0.5},
        {"alike": 1.0},
        {"tail": 1.0},
        {"history": 1.1},
        {"mean": float("nan")},
    ],
)
def test_a_scenario_that_makes_no_sense_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="a scenario"):
        check(msgspec.structs.replace(Scenario("boolean", 0.5), **wrong))
