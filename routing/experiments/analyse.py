"""From an experiment's sums to its result: every arm, every comparison, the sample ratio, the outlook, the decision. Pure: the time and the
randomness are given. A few milliseconds an arm; in bandit mode some more.

Errors of all comparisons of one role together stay below the experiment's alpha (Bonferroni): the primary metric's and each secondary
one's at alpha / (arms - 1), guardrails each one-sided at alpha / (guardrails * (arms - 1)). Secondary metrics are not corrected for their
number: they are told as hints.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import log
from random import Random
from typing import Literal, NamedTuple

import msgspec

from routing.experiments import verdict
from routing.experiments.bandit import Posterior, best
from routing.experiments.compare import own, relative
from routing.experiments.ledger import Ledger
from routing.experiments.moments import Moments
from routing.experiments.power import outlook
from routing.experiments.quantile import LAST, Sketch
from routing.experiments.sequence import two_sided
from routing.experiments.srm import ratio
from routing.experiments.words import (
    FEEDBACK,
    ArmResult,
    Audit,
    Comparison,
    Design,
    Estimate,
    Outlook,
    Point,
    Ratio,
    Result,
    Role,
    Shadowed,
    Status,
)

QUANTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
BARS = 60  # of a latency distribution
_DAY = 86400.0
_LEAST_DAYS = 1.0 / 24.0  # before a rate is told
_WINDOW = 7.0  # days back that the rate is taken over


class Action(NamedTuple):
    """What is due: `promote` an arm, `rollback` to control because of an arm, or `stop`. `reason`: for the audit trail."""

    kind: Literal["stop", "promote", "rollback"]
    arm: str | None
    reason: str


def analyse(
    design: Design,
    ledger: Ledger,
    *,
    unix: float,
    started: float | None,
    status: Status = "running",
    weights: Mapping[int, Mapping[str, float]] | None = None,
    before: Result | None = None,
    points: Sequence[Point] = (),
    audit: Sequence[Audit] = (),
    shadows: Sequence[Shadowed] = (),
    winner: str | None = None,
    rng: Random,
) -> Result:
    """All that is known. `weights`: of the arms by epoch (the latest are in force); epochs without any had the design's. `before`: the last
    result, whose sample ratio may have been worse. `points`: of the past, for the rate. `winner`: of an experiment that was decided by
    hand. `rng`: for a bandit's probabilities. Brings the ledger's sums up to date and changes nothing else."""
    moments, units = ledger.moments, ledger.units
    planned = dict(zip(design.arms, design.weights, strict=True))
    epochs = {epoch: (weights or {}).get(epoch) or planned for epoch in {0, *ledger.first, *(weights or {})}}
    total = sum(units[arm] for arm in design.arms)
    compared = _comparisons(design, moments, planned)
    sound = _ratio(design, ledger, epochs, before)
    cuped = max((c.cuped for c in compared if c.role == "primary"), default=0.0)
    rate = _rate(total, unix, started, points)
    decided = winner if winner is not None else _winner(design, compared, sound)
    future = outlook(design, moments[design.arms[0]][design.primary], total, rate, cuped) if design.mode == "test" else Outlook(rate=rate)
    result = Result(
        name=design.name,
        route=design.route,
        mode=design.mode,
        status=status,
        unix=unix,
        started=started,
        primary=design.primary,
        alpha=design.alpha,
        effect=design.effect,
        units=total,
        requests=sum(ledger.requests[arm] for arm in design.arms),
        arms=_arms(design, ledger, moments, planned, epochs[max(epochs)], rng),
        comparisons=compared,
        ratio=sound,
        outlook=future,
        headline="",
        words=[],
        metrics={name: design.metric(name) for name in ledger.metrics if _named(design, name, moments)},
        points=list(points),
        audit=list(audit),
        shadows=list(shadows),
        winner=decided,
        crossed=ledger.crossed,
        left=ledger.left,
        feedback=ledger.fed,
        comments=ledger.comments,
    )
    words = verdict.reasons(design, result)
    if ledger.level:
        words.append(f"There are more users than are kept: one in {2**ledger.level} counts, drawn by a hash.")
    return msgspec.structs.replace(result, headline=verdict.headline(design, result), words=words)


def due(design: Design, result: Result) -> Action | None:
    """What is to be done without asking, as far as the design allows it: roll back when a guardrail is hurt, promote the winner, stop when
    the question is answered. Only while it runs; when users are not split as they should be, nothing but a rollback."""
    if result.status != "running":
        return None
    hurt = next((c for c in result.comparisons if c.role == "guardrail" and c.verdict == "worse"), None)
    if hurt is not None and design.rollback:
        return Action("rollback", hurt.arm, f"guardrail hurt: {hurt.words}")
    if result.ratio is not None and result.ratio.bad:
        return None
    if result.winner is not None and design.promote:
        return Action("promote", result.winner, result.headline)
    if design.stop and (hurt is not None or answered(result)):
        return Action("stop", None, result.headline)
    return None


def answered(result: Result) -> bool:
    """Whether the primary question is: one arm won, or every arm's comparison came to an end."""
    primary = [c for c in result.comparisons if c.role == "primary"]
    return result.winner is not None or (bool(primary) and all(c.verdict != "unsure" for c in primary))


def point(result: Result) -> list[Point]:
    """The primary metric's change of each arm at this time, for the plot; none of arms of which nothing can be said yet."""
    return [
        Point(result.unix, result.units, c.arm, c.change) for c in result.comparisons if c.role == "primary" and c.change.lo is not None
    ]


def _comparisons(design: Design, moments: Mapping[str, Mapping[str, Moments]], planned: Mapping[str, float]) -> list[Comparison]:
    control, others = design.arms[0], design.arms[1:]
    if not others:
        return []
    alpha = design.alpha / len(others)
    asked: list[tuple[str, Role, float, float]] = [(design.primary, "primary", alpha, 0.0)]
    for guard in design.guardrails:
        # Each side of a two-sided interval errs half as often; but what is published never holds less surely than the experiment says.
        side = min(design.alpha, two_sided(min(alpha / len(design.guardrails), 0.49)))
        asked.append((guard.metric, "guardrail", side, guard.margin))
    asked += [(name, "secondary", alpha, 0.0) for name in design.secondary if name != design.primary]
    whole = sum(planned.values()) or 1.0
    out = []
    for name, role, level, margin in asked:
        for arm in others:
            share = (planned[control] + planned[arm]) / whole or 1.0
            out.append(_compared(design, moments[control][name], moments[arm][name], (arm, name, role, level, margin), share))
    return out


def _compared(design: Design, control: Moments, treated: Moments, asked: tuple[str, str, Role, float, float], share: float) -> Comparison:
    arm, name, role, alpha, margin = asked
    metric = design.metric(name)
    change, p, cuped = Estimate(), None, 0.0
    if min(control.k, treated.k) >= design.least:
        change, p, cuped = relative(control, treated, metric.kind, alpha, design.planned * share, design.history)
        if change.lo is not None and change.lo < -1.0 and (metric.kind == "boolean" or not name.startswith(FEEDBACK)):
            change = msgspec.structs.replace(change, lo=-1.0)  # what is never below 0 cannot fall by more than all of it
    found = Comparison(arm, name, role, change, p, alpha, verdict.judge(change, metric, role, design.effect, margin), cuped)
    return msgspec.structs.replace(found, words=verdict.words(design, found))


def _winner(design: Design, compared: Sequence[Comparison], sound: Ratio | None) -> str | None:
    """The arm that is surely better in the primary metric, hurts no guardrail, and came to its users by a sound split; of several the one
    with the largest change."""
    if sound is None or sound.bad:
        return None
    hurt = {c.arm for c in compared if c.role == "guardrail" and c.verdict == "worse"}
    better = [c for c in compared if c.role == "primary" and c.verdict == "better" and c.arm not in hurt]
    return max(better, key=lambda c: abs(c.change.value or 0.0)).arm if better else None


def _ratio(design: Design, ledger: Ledger, epochs: Mapping[int, Mapping[str, float]], before: Result | None) -> Ratio | None:
    first = ledger.first
    counted = [
        ({arm: epochs[epoch].get(arm, 0.0) for arm in design.arms}, {arm: counts.get(arm, 0) for arm in design.arms})
        for epoch, counts in first.items()
    ]
    if not any(sum(counts.values()) for _, counts in counted):
        return None
    found = ratio(counted)
    if before is not None and before.ratio is not None and before.ratio.p < found.p:
        return msgspec.structs.replace(found, p=before.ratio.p, bad=before.ratio.bad)
    return found


def _rate(units: int, unix: float, started: float | None, points: Sequence[Point]) -> float | None:
    """New units a day, over the last week as far as there are points, else since the start."""
    recent = [(point.unix, point.units) for point in points if unix - _WINDOW * _DAY <= point.unix <= unix - _DAY]
    since, had = min(recent) if recent else (started, 0)
    if since is None or unix - since < _LEAST_DAYS * _DAY:
        return None
    return max(0, units - had) / ((unix - since) / _DAY)


def _arms(
    design: Design,
    ledger: Ledger,
    moments: Mapping[str, Mapping[str, Moments]],
    planned: Mapping[str, float],
    now: Mapping[str, float],
    rng: Random,
) -> list[ArmResult]:
    whole, all_planned = sum(now.get(arm, 0.0) for arm in design.arms) or 1.0, sum(planned.values()) or 1.0
    chances = _chances(design, moments, rng) if design.mode == "bandit" else {}
    out = []
    for arm in design.arms:
        found = {name: m for name, m in moments[arm].items() if m.n}
        tuned = max(1.0, design.planned * planned[arm] / all_planned)
        sketches = {name: sketch for name, sketch in ledger.sketches[arm].items() if sketch.total}
        out.append(
            ArmResult(
                name=arm,
                weight=now.get(arm, 0.0) / whole,
                control=arm == design.arms[0],
                units=ledger.units[arm],
                requests=ledger.requests[arm],
                metrics={name: own(m, design.metric(name).kind, design.alpha, tuned) for name, m in found.items()},
                quantiles={name: _quantiles(sketch, moments[arm][name], design.alpha) for name, sketch in sketches.items()},
                buckets={name: sketch.buckets(BARS) for name, sketch in sketches.items()},
                best=chances.get(arm),
            )
        )
    return out


def _chances(design: Design, moments: Mapping[str, Mapping[str, Moments]], rng: Random) -> dict[str, float]:
    metric = design.metric(design.primary)
    found = {arm: posterior(moments[arm][design.primary]) for arm in design.arms}
    return best(found, metric.kind, metric.better, rng)


def posterior(moments: Moments) -> Posterior:
    """What the bandit is told of an arm's metric."""
    known = moments.k >= 2
    return Posterior(moments.k, moments.mean if moments.n else 0.0, moments.variance if known else 0.0)


def _quantiles(sketch: Sketch, logs: Moments, alpha: float) -> dict[str, Estimate]:
    effect = design_effect(sketch, logs)
    return {label: sketch.estimate(p, alpha, effect) for label, p in QUANTILES.items()}


def design_effect(sketch: Sketch, logs: Moments) -> float:
    """How many requests of alike units tell as much as one independent request (Kish 1965, Survey Sampling, section 5.4): the variance of
    the mean log latency by units over that if all requests were independent; at least 1, at most as if all requests of a unit were one."""
    if logs.k < 2:
        return 1.0
    bars = [(log(edge), number) for edge, number in sketch.buckets(LAST + 1)]
    middle = sum(at * number for at, number in bars) / sketch.total
    spread = sum((at - middle) ** 2 * number for at, number in bars) / sketch.total
    return min(max(1.0, logs.variance * sketch.total / spread), logs.nn / logs.n) if spread > 0.0 else 1.0


def _named(design: Design, name: str, moments: Mapping[str, Mapping[str, Moments]]) -> bool:
    asked = {design.primary, *design.secondary, *(guard.metric for guard in design.guardrails)}
    return name in asked or any(moments[arm][name].n for arm in design.arms)
