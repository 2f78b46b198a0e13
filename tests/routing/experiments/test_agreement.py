"""Our numbers beside those of gbstats (GrowthBook) and statsmodels on the same units: kept in agreement.json, and made anew where both are
installed. Variances, sequences and p values are the same to rounding; the published relative change, which is Fieller's and smooths or
shrinks variances of few units, is the same but for a small part of its width."""

from __future__ import annotations

import json
from functools import cache
from math import exp, log, log1p, sqrt
from statistics import NormalDist
from typing import Any

import pytest

from routing.experiments.compare import own, relative, sides
from routing.experiments.moments import Moments
from routing.experiments.sequence import TUNE, critical, p_value, radius
from routing.experiments.srm import fixed
from routing.experiments.words import Estimate, Kind
from tests.routing.experiments.agreement_cases import BOOLEAN, CASES, COUNTS, KEPT, units

KEEP: dict[str, Any] = json.loads(KEPT.read_text())
SINGLE = [name for name in CASES if "plain" in KEEP["cases"][name]]
LARGE = [name for name in CASES if name != "few"]
Z = NormalDist().inv_cdf(0.975)


@cache
def arms(name: str) -> tuple[Moments, Moments]:
    out = Moments(), Moments()
    for moments, arm in zip(out, units(name), strict=True):
        for n, y, x in arm:
            moments.change(0, 0.0, n, y, x)
    return out


def kind(name: str) -> Kind:
    return "boolean" if name in BOOLEAN else "mean"


def planned_for(tuned: float) -> float:
    """Units for which our sequence is the one that has 1 / rho² = `tuned`."""
    return TUNE * tuned


def alpha_of(z: float, n: float, planned: float) -> float:
    """The alpha at which the boundary after n units is z: a fixed-horizon interval by way of the sequence."""
    v = n * TUNE / planned
    return exp((log1p(v) - z * z * v / (1.0 + v)) / 2.0)


def near(ours: Estimate, theirs: list[float], part: float) -> bool:
    """Whether both ends are the same but for `part` of their interval's width."""
    assert ours.lo is not None and ours.hi is not None
    width = theirs[1] - theirs[0]
    return abs(ours.lo - theirs[0]) < part * width and abs(ours.hi - theirs[1]) < part * width


@pytest.mark.parametrize("name", CASES)
def test_means_and_variances_by_units_are_those_of_gbstats(name: str) -> None:
    theirs = KEEP["cases"][name]["ratio"]
    rough = 1e-3 if name == "far_from_zero" else 1e-9  # sums of squares of large numbers: theirs lose digits, ours do not
    for moments, mean, variance in zip(arms(name), theirs["means"], theirs["variances"], strict=True):
        assert moments.mean == pytest.approx(mean, rel=1e-12)
        assert moments.variance == pytest.approx(variance, rel=rough)


@pytest.mark.parametrize("name", SINGLE)
def test_means_and_variances_of_single_requests_are_those_of_gbstats(name: str) -> None:
    theirs = KEEP["cases"][name]["plain"]
    rough = 1e-3 if name == "far_from_zero" else 1e-9
    for moments, mean, variance in zip(arms(name), theirs["means"], theirs["variances"], strict=True):
        assert moments.mean == pytest.approx(mean, rel=1e-12)
        factor = (moments.k - 1) / moments.k if name in BOOLEAN else 1.0  # they divide a proportion's squares by k, not k - 1
        assert moments.variance * factor == pytest.approx(variance, rel=rough)


@pytest.mark.parametrize("name", CASES)
def test_sequences_and_their_p_values_are_those_of_gbstats(name: str) -> None:
    control, treated = arms(name)
    difference, error, n = treated.mean - control.mean, sqrt(control.variance + treated.variance), control.k + treated.k
    for test in KEEP["cases"][name]["ratio"]["tests"]:
        if test["difference"] == "relative":
            continue
        planned, rel = planned_for(test["tuned"]), 1e-3 if name == "far_from_zero" else 1e-7
        half = radius(error, n, test["alpha"], planned)
        assert [difference - half, difference + half] == pytest.approx(test["always"], rel=rel)
        assert difference / error == pytest.approx(test["z"], rel=rel)
        assert p_value(difference / error, n, planned) == pytest.approx(test["always_p"], rel=20 * rel)


@pytest.mark.parametrize("name", LARGE)
def test_the_relative_change_is_that_of_gbstats(name: str) -> None:
    """Theirs is the delta method's: symmetric. Fieller's leans to the side where control's mean is smaller, the more the wider it is."""
    control, treated = arms(name)
    n = control.k + treated.k
    for test in KEEP["cases"][name]["ratio"]["tests"]:
        if test["difference"] == "absolute":
            continue
        always = relative(control, treated, kind(name), test["alpha"], planned_for(test["tuned"]), False).change
        assert always.value == pytest.approx(test["value"], rel=1e-9)
        limit = critical(n, test["alpha"], planned_for(test["tuned"]))
        lean = limit * sqrt(control.variance) / abs(control.mean)  # how far control's mean may be from what was seen, as a part of it
        assert near(always, test["always"], 0.02 + lean)
        z = NormalDist().inv_cdf(1.0 - test["alpha"] / 2.0)
        once = relative(control, treated, kind(name), alpha_of(z, n, n), n, False).change
        assert near(once, test["fixed"], 0.02 + lean * z / limit)


@pytest.mark.parametrize("name", SINGLE)
def test_history_takes_away_what_it_does_in_gbstats(name: str) -> None:
    """They take the slope over both arms as one sample, we the one that leaves the difference least variance."""
    theirs = KEEP["cases"][name]["cuped"]
    control, treated, _ = sides(*arms(name), "log", True)  # log: a plain mean, with no smoothing
    error = sqrt(sum(theirs["variances"]))
    assert sqrt(control.variance + treated.variance) == pytest.approx(error, rel=0.005)
    assert abs(treated.mean - control.mean - (theirs["means"][1] - theirs["means"][0])) < 0.05 * error


@pytest.mark.parametrize("name", SINGLE)
def test_history_takes_away_what_regression_in_statsmodels_does(name: str) -> None:
    difference, error = KEEP["cases"][name]["statsmodels"]["with_history"]
    control, treated, _ = sides(*arms(name), "log", True)
    assert sqrt(control.variance + treated.variance) == pytest.approx(error, rel=0.01)
    assert abs(treated.mean - control.mean - difference) < 0.03 * error


@pytest.mark.parametrize("name", SINGLE)
def test_the_difference_of_means_is_that_of_statsmodels(name: str) -> None:
    control, treated = arms(name)
    difference, half = treated.mean - control.mean, Z * sqrt(control.variance + treated.variance)
    assert [difference - half, difference + half] == pytest.approx(KEEP["cases"][name]["statsmodels"]["difference"], rel=1e-6)
    n = control.k + treated.k
    logs = relative(control, treated, "log", alpha_of(Z, n, n), n, False).change  # which is exp(difference) - 1
    assert logs.lo is not None and logs.hi is not None
    assert near(Estimate(None, log(1.0 + logs.lo), log(1.0 + logs.hi)), KEEP["cases"][name]["statsmodels"]["difference"], 0.01)


@pytest.mark.parametrize("name", ["share", "rare", "uneven"])
def test_the_ratio_of_shares_is_near_the_score_interval_of_statsmodels(name: str) -> None:
    control, treated = arms(name)
    n = control.k + treated.k
    change = relative(control, treated, "boolean", alpha_of(Z, n, n), n, False).change
    low, high = KEEP["cases"][name]["statsmodels"]["ratio"]
    assert near(change, [low - 1.0, high - 1.0], 0.12 if name == "rare" else 0.03)


@pytest.mark.parametrize("name", [name for name in CASES if name not in SINGLE])
def test_errors_by_units_are_the_clustered_ones_of_statsmodels(name: str) -> None:
    for moments, (mean, error) in zip(arms(name), KEEP["cases"][name]["statsmodels"]["clustered"], strict=True):
        assert moments.mean == pytest.approx(mean, rel=1e-9)
        assert sqrt(moments.variance * (moments.k - 1) / moments.k) == pytest.approx(error, rel=1e-9)


@pytest.mark.parametrize("name", SINGLE)
def test_an_arms_own_mean_is_that_of_gbstats(name: str) -> None:
    moments, theirs = arms(name)[0], KEEP["cases"][name]["plain"]
    found = own(moments, kind(name), 0.05, 4000)
    half = radius(sqrt(theirs["variances"][0]), moments.k, 0.05, 4000)
    assert near(found, [theirs["means"][0] - half, theirs["means"][0] + half], 0.15 if name == "rare" else 0.04)


@pytest.mark.parametrize("name", COUNTS)
def test_the_fixed_horizon_ratio_test_is_that_of_scipy(name: str) -> None:
    counts, weights = COUNTS[name]
    ours = fixed(dict(zip("abc", weights, strict=False)), dict(zip("abc", counts, strict=False)))
    assert ours == pytest.approx(KEEP["split"][name], rel=1e-9)


def test_the_kept_numbers_are_what_those_programs_say_now() -> None:
    pytest.importorskip("gbstats", reason="gbstats is not installed: its kept numbers alone are compared")
    pytest.importorskip("statsmodels", reason="statsmodels is not installed: its kept numbers alone are compared")
    from tests.routing.experiments.make_agreement import numbers

    now = numbers()
    for part in ("cases", "split"):
        same(now[part], KEEP[part])


def same(now: Any, kept: Any) -> None:
    if isinstance(kept, dict):
        assert now.keys() == kept.keys()
        for key in kept:
            same(now[key], kept[key])
    elif isinstance(kept, list):
        assert len(now) == len(kept)
        for one, other in zip(now, kept, strict=True):
            same(one, other)
    elif isinstance(kept, float):
        assert now == pytest.approx(kept, rel=1e-6, abs=1e-9)
    else:
        assert now == kept
