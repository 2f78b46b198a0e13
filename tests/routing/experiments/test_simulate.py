"""Simulations of designs: what comes out is counted right, is the same whoever does the work, and shows a design that fails its promise."""

from __future__ import annotations

from math import exp, isclose, log
from random import Random

import msgspec
import pytest

from routing.experiments import walk as walks
from routing.experiments.compare import sides
from routing.experiments.moments import Moments
from routing.experiments.scenario import Scenario, stream
from routing.experiments.simulate import Rate, Simulated, rate, run
from routing.experiments.walk import Arm, Course, truths, walk
from routing.experiments.words import Design

DESIGN = Design("d", "r", ("a", "b"), (1.0, 1.0), primary="schema_valid", effect=0.25, planned=660, least=30)
EVEN = Scenario("boolean", 0.5)
KNOWN = Scenario("log", 0.5, 0.7, requests=3, alike=0.6, history=0.8)


@pytest.mark.parametrize("made", [EVEN, Scenario("log", 0.5, 0.6, requests=3, alike=0.4), Scenario("boolean", 0.1, requests=3), KNOWN])
def test_a_runs_sums_are_those_of_the_analysis(made: Scenario) -> None:
    arm, exact, boolean = Arm(made.kind == "boolean", True), Moments(), made.kind == "boolean"
    for number, (at, count, total, value, past) in enumerate(stream(made, (1.0, 1.0), (0.0, 0.0), Random(1))):
        if number > 3000:
            break
        if at == 0:
            arm.add(count, total, value, past)
            exact.change(count, total, count + 1, total + value, past)
            if exact.k > 1:
                assert isclose(arm.mean, exact.mean, rel_tol=1e-9, abs_tol=1e-9)
                assert isclose(arm.variance, exact.smoothed if boolean else exact.variance, rel_tol=1e-6, abs_tol=1e-12)
    sums = arm.moments()
    assert (sums.k, sums.n, sums.nn) == (exact.k, exact.n, exact.nn)
    assert sums.variance == pytest.approx(exact.variance, rel=1e-9)
    assert arm.sketch().total == exact.n


@pytest.mark.parametrize("made", [KNOWN, Scenario("boolean", 0.2, requests=4, alike=0.5, history=0.5)])
def test_history_takes_away_what_it_does_in_the_analysis(made: Scenario) -> None:
    arms = [Arm(made.kind == "boolean", False) for _ in range(2)]
    for number, (at, *request) in enumerate(stream(made, (1.0, 1.0), (0.0, 0.2), Random(1))):
        arms[at].add(*request)
        if number > 2000:
            break
        if number > 1000 and number % 100 == 0:
            control, treated = arms
            c, t, cuped = sides(control.moments(), treated.moments(), made.kind, True)
            gap, variance = walks._adjusted(control, treated, treated.mean - control.mean, control.variance + treated.variance)
            exact = c.variance + t.variance
            assert cuped > 0 and gap == pytest.approx(t.mean - c.mean, abs=1e-9)
            assert 0.75 * exact < variance <= exact * (1 + 1e-9)  # never more: what the quick look leaves out would be missed


def test_history_makes_it_shorter() -> None:
    design = msgspec.structs.replace(DESIGN, primary="latency", effect=0.25, planned=500)
    known, unknown = (run(msgspec.structs.replace(design, history=history), KNOWN, 20, seed=1) for history in (True, False))
    assert known.problems() == [] and unknown.problems() == [] and known.fixed == unknown.fixed
    assert known.stopped["mean"] < 0.9 * unknown.stopped["mean"]


def test_rates_have_the_interval_of_their_runs() -> None:
    assert rate(5, 100) == Rate(5, 100, 0.05, pytest.approx(0.02154, abs=1e-5), pytest.approx(0.11175, abs=1e-5))  # statsmodels: wilson
    assert rate(0, 0).hi == 1.0 and rate(0, 50).lo == 0.0 and rate(50, 50).hi == 1.0


def test_a_simulation_finds_the_effect_and_raises_few_alarms() -> None:
    told: list[tuple[int, int]] = []
    result = run(DESIGN, EVEN, 60, seed=1, progress=lambda done, all_: told.append((done, all_)))
    assert result.problems() == [] and told == [(i, 9) for i in range(1, 10)]
    assert result.alarms.hits <= 9 and result.found.hits >= 46 and result.wrong.hits <= 2
    assert result.limit == pytest.approx(1.6 * result.fixed, abs=1) and result.horizon == 2 * result.limit
    assert 0 < result.stopped["p50"] <= result.stopped["p90"] <= 1.6
    assert set(result.coverage) == {"change at any time", "change at the stop", "mean at any time", "mean at the stop"}
    assert all(one.runs == 60 for one in result.coverage.values())
    assert result.leak.hits >= 50 and result.leak_alarms.hits <= 2
    assert msgspec.json.decode(msgspec.json.encode(result), type=Simulated) == result


def test_the_seed_decides_and_processes_do_not() -> None:
    one, other = run(DESIGN, EVEN, 22, seed=5), run(DESIGN, EVEN, 22, seed=5, workers=2)
    assert one == other
    assert run(DESIGN, EVEN, 22, seed=6) != one


def test_one_who_stops_it_does_not_wait_for_the_rest() -> None:
    def stop(done: int, all_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(DESIGN, EVEN, 2000, seed=5, workers=2, progress=stop)


def test_a_test_that_may_not_be_peeked_at_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """The check itself is checked: with the boundary of a fixed test the false alarms are there to be seen."""
    monkeypatch.setattr(walks, "critical", lambda n, alpha, planned: 1.96)
    monkeypatch.setattr("routing.experiments.compare.critical", lambda n, alpha, planned: 1.96)
    walks._edges.cache_clear()
    result = run(DESIGN, EVEN, 60, seed=1)
    walks._edges.cache_clear()
    assert result.alarms.value > 0.15
    assert any("false alarms" in problem for problem in result.problems())


def test_a_latency_with_a_tail_has_quantiles_that_hold() -> None:
    design = msgspec.structs.replace(DESIGN, primary="latency", effect=0.2, planned=800)
    result = run(design, Scenario("log", 0.4, 0.7, tail=0.02, requests=3, alike=0.3), 30, seed=2)
    assert result.effect == -0.2 and result.problems() == []
    assert {f"{of} at the stop" for of in ("change", "mean", "p50", "p95", "p99")} <= set(result.coverage)


def test_several_arms_are_corrected() -> None:
    design = msgspec.structs.replace(DESIGN, arms=("a", "b", "c"), weights=(2.0, 1.0, 1.0), planned=1200)
    result = run(design, EVEN, 60, seed=4)
    assert result.problems() == [] and result.alarms.hits <= 6 and result.fixed > 1000


def test_what_is_read_is_checked_against_the_truth() -> None:
    made = Scenario("log", 0.5, 0.5)
    course = Course(msgspec.structs.replace(DESIGN, primary="latency"), made, (0.0, 0.0), 2000, truths(made, 0.0))
    assert truths(made, 0.0)["p50"] == pytest.approx(0.5) and truths(made, 0.1)["mean"] == pytest.approx(0.55)
    assert truths(made, 0.0)["p95"] == pytest.approx(exp(log(0.5) + 0.5 * 1.6448536))
    assert all(walk(course, Random(1)).held.values())
    lies = msgspec.structs.replace(course, truths={name: 3 * truth + 3 for name, truth in course.truths.items()})
    held = walk(lies, Random(1)).held
    assert len(held) == 10 and not held["change at any time"] and not held["mean at the stop"] and not held["p50 at the stop"]


def test_what_promises_are_broken_is_said() -> None:
    good, bad = rate(50, 100), rate(10, 100)
    made = Simulated("d", 100, 1, "boolean", 0.05, 0.9, 0.1, 1, 1, 2, 3, good, bad, bad, {}, {"change at the stop": bad}, good, good)
    said = made.problems()
    assert len(said) == 4 and "50.0% of the runs instead of at most 5.0%" in said[0] and "10.0%" in said[1] and "change" in said[2]


@pytest.mark.parametrize(
    ("design", "made", "runs", "said"),
    [
        (DESIGN, EVEN, 0, "at least one run"),
        (DESIGN, Scenario("log"), 1, "of kind boolean"),
        (msgspec.structs.replace(DESIGN, effect=0.0001), EVEN, 1, "takes too long"),
        (msgspec.structs.replace(DESIGN, weights=(1.0, 0.0)), EVEN, 1, "shares above 0"),
    ],
)
def test_what_cannot_be_simulated_is_said(design: Design, made: Scenario, runs: int, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        run(design, made, runs, seed=1)
