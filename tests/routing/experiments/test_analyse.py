"""From what was seen to the result, the decision and the action that is due."""

from __future__ import annotations

import random
from collections.abc import Callable

import msgspec
import pytest

from routing.experiments.analyse import Action, analyse, answered, design_effect, due, point
from routing.experiments.ledger import Ledger
from routing.experiments.moments import Moments
from routing.experiments.quantile import Sketch
from routing.experiments.words import BEFORE, Comparison, Design, Guardrail, Point, Result, Seen

DESIGN = Design("bigger", "chat", ("small", "large"), (1.0, 1.0), guardrails=(Guardrail("error", 0.1),), planned=1000, effect=0.1)
START = 1_700_000_000.0
Draw = Callable[[random.Random, str], dict[str, object]]


def filled(
    design: Design, draw: Draw, *, units: int = 1000, requests: int = 2, seed: int = 1, history: bool = False, split: float = 0.5
) -> Ledger:
    rng = random.Random(seed)
    ledger = Ledger(design)
    for unit in range(1, units + 1):
        arm = design.arms[0] if rng.random() < split else rng.choice(design.arms[1:])
        level = rng.gauss(0.0, 0.5)
        for i in range(requests):
            if history:
                ledger.take(Seen(START - 100.0, design.name, 0, BEFORE, unit, seconds=2.0**level * rng.lognormvariate(0.0, 0.2)))
            ledger.take(Seen(START + unit + i, design.name, 0, arm, unit, **{"seconds": 2.0**level, **draw(rng, arm)}))  # type: ignore[arg-type]
    return ledger


def alike(rng: random.Random, arm: str) -> dict[str, object]:
    return {
        "seconds": rng.lognormvariate(0.0, 0.5),
        "cost": rng.expovariate(1000.0),
        "output": rng.randint(10, 500),
        "error": rng.random() < 0.02,
    }


def faster(rng: random.Random, arm: str) -> dict[str, object]:
    return {**alike(rng, arm), "seconds": rng.lognormvariate(-0.3 if arm == "large" else 0.0, 0.5)}


def failing(rng: random.Random, arm: str) -> dict[str, object]:
    return {**faster(rng, arm), "error": arm == "large" and rng.random() < 0.1}


def looked(design: Design, ledger: Ledger, **more: object) -> Result:
    terms = {"unix": START + 2 * 86400, "started": START, "rng": random.Random(5), **more}
    return analyse(design, ledger, **terms)  # type: ignore[arg-type]


def of(result: Result, role: str) -> Comparison:
    return next(c for c in result.comparisons if c.role == role)


def test_a_faster_arm_wins() -> None:
    result = looked(DESIGN, filled(DESIGN, faster))
    primary = of(result, "primary")
    assert (primary.verdict, result.winner, primary.alpha) == ("better", "large", 0.05)
    assert primary.change.lo is not None and primary.change.hi is not None and primary.change.value is not None
    assert primary.change.lo < 2.718281828**-0.3 - 1.0 < primary.change.hi < 0.0
    assert primary.p is not None and primary.p < 0.05
    assert (
        result.headline.startswith("large answers ")
        and " % faster (between " in result.headline
        and result.headline.endswith("; 1,000 users.")
    )
    assert (result.units, result.requests) == (1000, 2000)
    assert result.ratio is not None and not result.ratio.bad
    assert result.outlook.rate == pytest.approx(500.0)


def test_nothing_is_decided_where_nothing_differs() -> None:
    result = looked(DESIGN, filled(DESIGN, alike))
    assert result.winner is None
    assert {c.verdict for c in result.comparisons} <= {"unsure", "same"}


def test_a_guardrail_is_hurt_also_where_control_never_fails() -> None:
    result = looked(DESIGN, filled(DESIGN, failing))
    guard = of(result, "guardrail")
    assert guard.verdict == "worse"
    assert guard.change.hi is None and guard.change.lo is not None and guard.change.lo > 0.1
    assert of(result, "primary").verdict == "better"
    assert result.winner is None
    assert "guardrail" in result.headline and "at least" in result.headline


def test_a_bad_split_decides_nothing() -> None:
    result = looked(DESIGN, filled(DESIGN, faster, split=0.3))
    assert result.ratio is not None and result.ratio.bad
    assert result.winner is None
    assert result.headline.startswith("Do not trust this yet: users are not split as they should be")
    assert due(msgspec.structs.replace(DESIGN, promote=True, stop=True), result) is None


def test_the_worst_sample_ratio_is_remembered() -> None:
    bad = looked(DESIGN, filled(DESIGN, alike, split=0.3))
    good = looked(DESIGN, filled(DESIGN, alike), before=bad)
    assert good.ratio is not None and bad.ratio is not None
    assert (good.ratio.p, good.ratio.bad) == (bad.ratio.p, True)


def test_too_few_units_say_nothing() -> None:
    result = looked(DESIGN, filled(DESIGN, faster, units=120))
    assert all(c.change.lo is None and c.p is None and c.verdict == "unsure" for c in result.comparisons)
    assert result.headline.startswith("Too early to say: every arm needs at least 100 users")
    assert point(result) == []


def test_an_experiment_that_nobody_saw_has_a_result_too() -> None:
    for mode in ("test", "bandit"):
        design = msgspec.structs.replace(DESIGN, mode=mode)
        result = looked(design, Ledger(design), started=None)
        assert (result.units, result.ratio, result.winner, result.outlook.rate) == (0, None, None, None)
        assert "Too early to say" in result.headline
        assert msgspec.json.decode(msgspec.json.encode(result), type=Result) == result


def test_one_arm_alone_is_compared_with_nothing() -> None:
    design = Design("alone", "chat", ("only",), (1.0,))
    result = looked(design, filled(design, alike, split=1.1))
    assert (result.comparisons, result.winner) == ([], None)
    assert "Too early" in result.headline or "only" in result.headline


def test_several_arms_share_alpha_and_the_largest_change_wins() -> None:
    design = Design(
        "three",
        "chat",
        ("a", "b", "c"),
        (2.0, 1.0, 1.0),
        secondary=("cost",),
        guardrails=(Guardrail("error"), Guardrail("output_tokens")),
        planned=1500,
    )

    def draw(rng: random.Random, arm: str) -> dict[str, object]:
        return {**alike(rng, arm), "seconds": rng.lognormvariate({"a": 0.0, "b": -0.4, "c": -0.8}[arm], 0.5)}

    result = looked(design, filled(design, draw, units=1500))
    assert [(c.arm, c.role) for c in result.comparisons] == [
        (arm, role) for role, times in (("primary", 1), ("guardrail", 2), ("secondary", 1)) for _ in range(times) for arm in ("b", "c")
    ]
    assert {c.alpha for c in result.comparisons if c.role != "guardrail"} == {0.025}
    guard = of(result, "guardrail").alpha
    assert 0.0125 < guard < 0.025
    assert result.winner == "c"


def test_history_takes_variance_away() -> None:
    def level(rng: random.Random, arm: str) -> dict[str, object]:
        return {}

    ledger = filled(DESIGN, level, history=True)
    with_it, without = looked(DESIGN, ledger), looked(msgspec.structs.replace(DESIGN, history=False), ledger)
    one, two = of(with_it, "primary"), of(without, "primary")
    assert one.cuped > 0.7 and two.cuped == 0.0
    assert one.change.lo is not None and one.change.hi is not None and two.change.lo is not None and two.change.hi is not None
    assert one.change.hi - one.change.lo < 0.6 * (two.change.hi - two.change.lo)
    assert any("before the experiment" in text for text in with_it.words)


def test_arms_have_their_means_quantiles_and_bars() -> None:
    result = looked(DESIGN, filled(DESIGN, alike), weights={0: {"small": 1.0, "large": 1.0}, 1: {"small": 3.0, "large": 1.0}})
    small = result.arms[0]
    assert (small.control, small.weight, small.best) == (True, 0.75, None)
    assert {"latency", "cost", "error", "output_tokens", "fallback"} <= set(small.metrics) <= set(result.metrics)
    median = small.quantiles["latency"]["p50"]
    assert median.lo is not None and median.hi is not None and median.lo < 1.0 < median.hi
    assert sum(number for _, number in small.buckets["latency"]) <= small.requests
    mean = small.metrics["latency"]
    assert mean.lo is not None and mean.hi is not None and mean.lo < 1.0 < mean.hi


def test_a_bandit_tells_how_probably_each_arm_is_best() -> None:
    design = msgspec.structs.replace(DESIGN, mode="bandit")
    result = looked(design, filled(design, faster))
    assert [arm.best for arm in result.arms] == [pytest.approx(0.0, abs=0.01), pytest.approx(1.0, abs=0.01)]


def test_the_rate_is_that_of_the_last_week() -> None:
    ledger = filled(DESIGN, alike)
    now = START + 30 * 86400
    past = [
        Point(now - days * 86400, units, "large", result.change)
        for days, units in ((20, 100), (5, 600), (0.5, 900))
        for result in [_some()]
    ]
    assert looked(DESIGN, ledger, unix=now, points=past).outlook.rate == pytest.approx(80.0)
    assert looked(DESIGN, ledger, unix=START + 60.0).outlook.rate is None


def _some() -> Comparison:
    return of(looked(DESIGN, filled(DESIGN, alike, units=10)), "primary")


def test_what_is_due_depends_on_what_is_allowed() -> None:
    won, hurt, open_ = (looked(DESIGN, filled(DESIGN, draw)) for draw in (faster, failing, alike))

    def may(result: Result, **allowed: bool) -> Action | None:
        return due(msgspec.structs.replace(DESIGN, **allowed), result)

    assert may(won) is None and may(hurt) is None
    assert may(won, promote=True, stop=True) == Action("promote", "large", won.headline)
    assert may(won, stop=True, rollback=True) == Action("stop", None, won.headline)
    rollback = may(hurt, promote=True, stop=True, rollback=True)
    assert rollback is not None and (rollback.kind, rollback.arm) == ("rollback", "large") and "fails" in rollback.reason
    assert may(hurt, promote=True) is None
    assert may(hurt, stop=True) == Action("stop", None, hurt.headline)
    unsure = msgspec.structs.replace(open_, comparisons=[msgspec.structs.replace(c, verdict="unsure") for c in open_.comparisons])
    assert not answered(unsure) and may(unsure, promote=True, stop=True, rollback=True) is None
    assert may(msgspec.structs.replace(won, status="stopped"), promote=True, stop=True, rollback=True) is None


def test_points_are_of_the_primary_metric() -> None:
    result = looked(DESIGN, filled(DESIGN, faster))
    assert point(result) == [Point(result.unix, 1000, "large", of(result, "primary").change)]


def test_a_promotion_by_hand_is_told() -> None:
    result = looked(DESIGN, filled(DESIGN, alike), status="promoted", winner="large")
    assert result.winner == "large" and result.headline.startswith("large was promoted")


def test_requests_of_one_unit_count_for_less_where_they_are_alike() -> None:
    rng = random.Random(3)
    same, free = (Sketch(), Moments()), (Sketch(), Moments())
    for _ in range(500):
        level = rng.gauss(0.0, 1.0)
        for (sketch, moments), logs in ((same, [level] * 8), (free, [rng.gauss(0.0, 1.0) for _ in range(8)])):
            for value in logs:
                sketch.add(2.718281828**value)
            moments.change(0, 0.0, 8, sum(logs))
    assert design_effect(*same) == pytest.approx(8.0, rel=0.01)
    assert design_effect(*free) == pytest.approx(1.0, rel=0.2)
    assert design_effect(Sketch(), Moments()) == 1.0


def test_a_change_below_nothing_is_not_told() -> None:
    def rare(rng: random.Random, arm: str) -> dict[str, object]:
        return {**alike(rng, arm), "error": rng.random() < (0.03 if arm == "small" else 0.002)}

    design = msgspec.structs.replace(DESIGN, primary="error", guardrails=())
    found = of(looked(design, filled(design, rare, units=600)), "primary").change
    assert found.lo is not None and found.lo >= -1.0


def test_a_bandit_warns_and_a_full_ledger_says_how_many_count() -> None:
    design = msgspec.structs.replace(DESIGN, mode="bandit")
    ledger = Ledger(design, limit=200)
    for unit in range(1, 400):
        mixed = unit * 0x9E3779B97F4A7C15 % 2**64
        ledger.take(Seen(START + unit, design.name, 0, design.arms[unit % 2], mixed, seconds=1.0 + unit % 7))
    said = " ".join(looked(design, ledger).words)
    assert "A bandit's shares follow its results" in said and f"one in {2**ledger.level} counts" in said and ledger.level > 0
