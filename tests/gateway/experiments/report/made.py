"""Made-up results of all kinds."""

from __future__ import annotations

import math
import random
from functools import cache

from routing.experiments.words import (
    ArmResult,
    Audit,
    Comparison,
    Estimate,
    Metric,
    Outlook,
    Point,
    Ratio,
    Result,
    Role,
    Shadowed,
    Verdict,
)

DAY = 86400.0
NOW = 1_790_000_000.0
NASTY = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&</style>\u2028]]>"
HELPFUL = Metric("feedback:helpful", "boolean", "higher", "answers called helpful")
METRICS = {
    "latency": Metric("latency", "log", "lower", "time to the whole answer", "s"),
    "ttft": Metric("ttft", "log", "lower", "time to first token", "s"),
    "error": Metric("error", "boolean", "lower", "failed requests"),
    "cost": Metric("cost", "mean", "lower", "cost of a request", "$"),
    "output_tokens": Metric("output_tokens", "mean", "lower", "output tokens", "tokens"),
    "feedback:helpful": HELPFUL,
}


def around(value: float, half: float) -> Estimate:
    """Relative half-width."""
    return Estimate(value, value * (1 - half), value * (1 + half))


@cache
def _buckets(name: str, middle: float) -> tuple[tuple[float, int], ...]:
    return tuple(buckets(random.Random(name), middle))


def buckets(rng: random.Random, middle: float, sigma: float = 0.6, n: int = 4000) -> list[tuple[float, int]]:
    """A lognormal in buckets of a tenth of a decade."""
    counted: dict[int, int] = {}
    for _ in range(n):
        i = math.ceil(10 * math.log10(rng.lognormvariate(math.log(middle), sigma)))
        counted[i] = counted.get(i, 0) + 1
    return [(10 ** (i / 10), c) for i, c in sorted(counted.items())]


def arm(
    name: str, weight: float, speed: float = 1.0, cost: float = 0.0021, helpful: float = 0.71, units: int = 2150, **more: object
) -> ArmResult:
    """One arm with everything. `speed`: its latencies over those of others."""
    wait = 1.84 * speed

    def quantiles(middle: float, half: float) -> dict[str, Estimate]:
        return {q: around(middle * math.exp(z * 0.6), half * w) for q, z, w in (("p50", 0.0, 1), ("p95", 1.64, 2), ("p99", 2.33, 4))}

    return ArmResult(
        name=name,
        weight=weight,
        control=bool(more.get("control", False)),
        units=units,
        requests=units * 5 + 37,
        metrics={
            "latency": around(wait, 0.03),
            "ttft": around(0.312 * speed, 0.05),
            "error": around(0.0041, 0.4),
            "cost": around(cost, 0.04),
            "output_tokens": around(311.4, 0.02),
            "feedback:helpful": around(helpful, 0.04),
        },
        quantiles={"latency": quantiles(wait, 0.03), "ttft": quantiles(0.312 * speed, 0.05)},
        buckets={"latency": list(_buckets(name, wait)), "ttft": list(_buckets(name, 0.312 * speed))},
        best=more.get("best"),  # type: ignore[arg-type]
    )


def compared(name: str, metric: str, role: Role, value: float, half: float, verdict: Verdict, p: float | None = 0.0123) -> Comparison:
    """One comparison."""
    words = f"{name}: {metric} changes by {value:+.1%}."
    return Comparison(name, metric, role, Estimate(value, value - half, value + half), p, 0.05, verdict, 0.31, words)


def history(names: dict[str, float], days: int = 14, start: float = 1.2) -> list[Point]:
    """Points that close in on each arm's change."""
    rng, out = random.Random(7), []
    for i in range(days * 6):
        for name, end in names.items():
            half = start / (i + 1) ** 0.72
            value = end + rng.gauss(0, half / 4)
            out.append(Point(NOW - (days * 6 - 1 - i) * DAY / 6, 40 * (i + 1), name, Estimate(value, value - half, value + half)))
    return out


@cache
def decided() -> Result:
    """Two arms, a clear winner, everything there."""
    lift = {"candidate": -0.118}
    return Result(
        name="q4-or-q8",
        route="chat",
        mode="test",
        status="running",
        unix=NOW,
        started=NOW - 14 * DAY,
        primary="latency",
        alpha=0.05,
        effect=0.05,
        units=4310,
        requests=21_624,
        arms=[arm("control", 0.5, control=True), arm("candidate", 0.5, 0.882, 0.0013, 0.705, 2160)],
        comparisons=[
            compared("candidate", "latency", "primary", -0.118, 0.035, "better", 0.00002),
            compared("candidate", "error", "guardrail", 0.02, 0.31, "unsure", 0.81),
            compared("candidate", "cost", "guardrail", -0.38, 0.06, "better", 1e-9),
            compared("candidate", "ttft", "secondary", -0.09, 0.06, "better", 0.004),
            compared("candidate", "output_tokens", "secondary", 0.004, 0.02, "same", 0.6),
            compared("candidate", "feedback:helpful", "secondary", -0.012, 0.055, "unsure", 0.5),
        ],
        ratio=Ratio({"control": 2150, "candidate": 2160}, {"control": 2155.0, "candidate": 2155.0}, 0.87, False),
        outlook=Outlook(3900, 0.036, 308.2, 0.0),
        headline="candidate answers 12 % faster (between 8 % and 15 %)",
        words=[
            "4,310 users took part; each arm has more than 2,000 of them.",
            "No guardrail is hurt: failed requests have not become more as far as can be seen.",
            "Users are split as they should be.",
        ],
        metrics=METRICS,
        points=history(lift),
        audit=[
            Audit(NOW - 14 * DAY, "command line", "started", ""),
            Audit(NOW - 9.4 * DAY, "ops-key", "weights", "control 0.5, candidate 0.5 (was 0.9, 0.1)"),
            Audit(NOW - 3.2 * DAY, "gateway", "decided", "candidate is better: the interval excludes 0"),
        ],
        shadows=[shadowed()],
        winner="candidate",
        crossed=3,
        left=112,
        feedback=940,
        comments=["Much snappier than last week.", "The second answer ignored half of my question…\nAsked twice.", "ok"],
    )


def shadowed() -> Shadowed:
    """A mirrored candidate."""
    return Shadowed(
        "q2-shadow", 1210, Estimate(0.62, 0.58, 0.66), Estimate(0.91, 0.86, 0.95), Estimate(), Estimate(0.38, 0.31, 0.46),
        around(0.71, 0.04), around(1.08, 0.05), 1.37, 12, {"busy": 88, "large": 3},
    )  # fmt: skip
