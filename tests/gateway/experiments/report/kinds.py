"""Results of the other kinds, made from the full one."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import msgspec

from routing.experiments.words import ArmResult, Audit, Comparison, Estimate, Metric, Outlook, Point, Ratio, Result, Shadowed
from tests.gateway.experiments.report.made import DAY, METRICS, NASTY, NOW, arm, compared, decided, history, shadowed

replace = msgspec.structs.replace


def empty() -> Result:
    """Planned: nothing is there at all."""
    return Result("new", "chat", "test", "planned", NOW, None, "latency", 0.05, 0.05, 0, 0, [], [], None, Outlook(), "", [])


def early() -> Result:
    """Running for minutes: arms without intervals."""
    arms = [ArmResult("control", 0.9, True, 4, 9, {"latency": Estimate(1.2)}), ArmResult("candidate", 0.1, False, 0, 0)]
    return replace(
        decided(), status="running", arms=arms, units=4, requests=9, winner=None, feedback=0, comments=[], shadows=[], crossed=0, left=0,
        comparisons=[Comparison("candidate", "latency", "primary", Estimate(), None, 0.05, "unsure"),
                     Comparison("candidate", "error", "guardrail", Estimate(), None, 0.05, "unsure")],
        ratio=Ratio({"control": 4, "candidate": 0}, {"control": 0.9, "candidate": 0.1}, 1.0, False),
        outlook=Outlook(3900, None, 4.0, 974.0),
        headline="too early to say: each arm needs 100 users first", words=["4 users so far."], started=NOW - 600,
        points=[], audit=[Audit(NOW - 600, "command line", "started", "")],
    )  # fmt: skip


def alone() -> Result:
    """One arm, and one point."""
    full = decided()
    return replace(
        full, arms=full.arms[:1], comparisons=[], winner=None, shadows=[replace(shadowed(), pairs=0, similarity=Estimate(), left_out={})],
        points=[Point(NOW, 120, "candidate", Estimate(0.03, -0.04, 0.10))], ratio=None, words=[],
        headline="only one arm: nothing to compare",
    )  # fmt: skip


@cache
def five() -> Result:
    """Control and four candidates of long names; one of them is out of the picture."""
    names = {"quantised-to-four-bits-with-imatrix": -0.118, "q2": 0.21, "prompt-b": 0.01, "fast": -0.03}
    arms = [arm("control", 0.2, control=True)]
    arms += [arm(n, 0.2, 1 + c, 0.0021 - 0.0004 * i, 0.71 - 0.03 * i) for i, (n, c) in enumerate(names.items())]
    verdicts = iter(("better", "worse", "same", "unsure"))
    primary = [compared(n, "latency", "primary", c, 0.035 if n != "fast" else 0.06, next(verdicts)) for n, c in names.items()]  # type: ignore[arg-type]
    guards = [compared(n, "error", "guardrail", 0.02 + (n == "q2") * 4.4, 0.2, "worse" if n == "q2" else "unsure") for n in names]
    return replace(
        decided(), arms=arms, comparisons=primary + guards, points=history(names), winner=None, status="stopped", units=10_731,
        ratio=Ratio({a.name: a.units for a in arms}, {a.name: 2150.0 for a in arms}, 0.9, False),
        headline="q2 hurts a guardrail: failed requests", words=["q2 fails 442 % more often (between 422 % and 462 %)."],
    )  # fmt: skip


def bandit() -> Result:
    """Learning which of three is best; no test."""
    arms = [arm("control", 0.08, control=True, best=0.031), arm("b", 0.7, 0.9, best=0.902), arm("c", 0.22, 0.95, best=0.067)]
    lift = {"b": -0.1, "c": -0.05}
    rows = [compared(n, "latency", "primary", c, 0.06, "better" if n == "b" else "unsure", None) for n, c in lift.items()]
    return replace(
        decided(), mode="bandit", arms=arms, comparisons=rows, points=history(lift), winner=None, shadows=[], comments=[],
        headline="b is most likely the best (90 %) and gets most of the users", words=["c is still tried on 22 % of users."],
    )  # fmt: skip


def leaking() -> Result:
    """The sample ratio is broken."""
    ratio = Ratio({"control": 2610, "candidate": 1700}, {"control": 0.5, "candidate": 0.5}, 3.2e-41, True)
    return replace(decided(), ratio=ratio, winner=None, headline="do not trust this yet: users are not split as they should be")


def extreme() -> Result:
    """Numbers of all sizes, infinities among them."""
    full = decided()
    arms = [
        replace(full.arms[0], units=3_000_000_000_000, requests=9_007_199_254_740_991, weight=1.0,
                metrics={"latency": Estimate(1e-9, 0.0, 1e-8), "cost": Estimate(1e-12, 0.0, 2e-12)},
                quantiles={"latency": {"p50": Estimate(1e-7)}}, buckets={"latency": [(1e-7, 5), (2e5, 1), (math.inf, 1)]}),
        replace(full.arms[1], weight=0.0, metrics={"latency": Estimate(4e6, 1e6, math.inf), "cost": Estimate(1e7, math.nan, math.inf)}),
    ]  # fmt: skip
    rows = [
        compared("candidate", "latency", "primary", 4e15, 1e15, "worse", 0.0),
        Comparison("candidate", "cost", "guardrail", Estimate(1e19, None, math.inf), 1.0, 1e-7, "worse", 1.0),
        compared("candidate", "error", "secondary", 1e-7, 2e-7, "same", 1.0),
    ]
    points = [Point(NOW + i, i, "candidate", Estimate(10.0**i, -1.0, math.inf if i % 2 else 1e30)) for i in range(20)]
    return replace(
        full,
        arms=arms,
        comparisons=rows,
        points=points,
        status="rolled_back",
        winner=None,
        effect=1e-6,
        outlook=Outlook(10**15, 9.0, 1e-9, 1e24),
    )


def nasty() -> Result:
    """Names, words and comments that are HTML."""
    full = decided()
    named = {"control": "control", "candidate": NASTY}
    return replace(
        full, name=NASTY, route=NASTY, headline=NASTY, words=[NASTY], comments=[NASTY] * 12, winner=NASTY,
        primary=NASTY, metrics={**METRICS, NASTY: Metric(NASTY, "mean", "higher", NASTY, NASTY)},
        arms=[replace(a, name=named[a.name], metrics={**a.metrics, NASTY: Estimate(3.0, 2.0, 4.0)}) for a in full.arms],
        comparisons=[replace(c, arm=NASTY, words=NASTY, metric=NASTY if c.role == "primary" else c.metric) for c in full.comparisons],
        points=[replace(p, arm=NASTY) for p in full.points], audit=[Audit(NOW - DAY, NASTY, NASTY, NASTY)],
        ratio=Ratio({"control": 5, NASTY: 6}, {"control": 0.5, NASTY: 0.5}, 0.5, False),
        shadows=[Shadowed(NASTY, 3, left_out={NASTY: 2})],
    )  # fmt: skip


KINDS: dict[str, Callable[[], Result]] = {
    "decided": decided, "empty": empty, "early": early, "alone": alone, "five": five, "bandit": bandit, "leaking": leaking,
    "extreme": extreme, "nasty": nasty,
    "promoted": lambda: replace(decided(), status="promoted"),
    "no design": lambda: replace(decided(), metrics={}, effect=0.0, ratio=Ratio({}, {}, 1.0, False)),
}  # fmt: skip
