"""Any result at all gives a well-formed page, and so does one that the statistics made."""

from __future__ import annotations

import json
import random
import re

import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.experiments.report import page
from routing.experiments.analyse import analyse, point
from routing.experiments.ledger import Ledger
from routing.experiments.words import (
    ArmResult,
    Audit,
    Comparison,
    Design,
    Estimate,
    Guardrail,
    Metric,
    Outlook,
    Point,
    Ratio,
    Result,
    Seen,
    Shadowed,
)
from tests.gateway.experiments.report.test_page import read

NAMES = st.sampled_from(["control", "b", "<c>", "", "a rather long name of an arm that goes on and on"])
METRIC = st.sampled_from(["latency", "error", "cost", "output_tokens", "feedback:x"])
FLOATS = st.floats()
NUMBERS = st.one_of(st.none(), FLOATS, st.floats(-1, 1), st.sampled_from([0.0, -0.0, 1e-300, 1.0]))
ESTIMATES = st.builds(Estimate, NUMBERS, NUMBERS, NUMBERS)
COUNTS = st.integers(0, 2**53)
LATENCIES = st.dictionaries(METRIC, st.dictionaries(st.sampled_from(["p50", "p95", "p99"]), ESTIMATES, max_size=3), max_size=2)
BUCKETS = st.dictionaries(METRIC, st.lists(st.tuples(FLOATS, COUNTS), max_size=5), max_size=2)
ARMS = st.builds(
    ArmResult, NAMES, FLOATS, st.booleans(), COUNTS, COUNTS, st.dictionaries(METRIC, ESTIMATES, max_size=4), LATENCIES, BUCKETS, NUMBERS
)
VERDICTS = st.sampled_from(["better", "worse", "same", "unsure"])
ROLES = st.sampled_from(["primary", "secondary", "guardrail"])
RESULTS = st.builds(
    Result,
    name=st.text(max_size=5),
    route=st.just("chat"),
    mode=st.sampled_from(["test", "bandit"]),
    status=st.sampled_from(["planned", "running", "stopped", "promoted", "rolled_back"]),
    unix=FLOATS,
    started=NUMBERS,
    primary=METRIC,
    alpha=FLOATS,
    effect=FLOATS,
    units=COUNTS,
    requests=COUNTS,
    arms=st.lists(ARMS, max_size=7, unique_by=lambda a: a.name),
    comparisons=st.lists(st.builds(Comparison, NAMES, METRIC, ROLES, ESTIMATES, NUMBERS, FLOATS, VERDICTS, FLOATS), max_size=6),
    ratio=st.none() | st.builds(Ratio, st.dictionaries(NAMES, COUNTS), st.dictionaries(NAMES, FLOATS), FLOATS, st.booleans()),
    outlook=st.builds(Outlook, st.none() | COUNTS, NUMBERS, NUMBERS, NUMBERS),
    headline=st.text(max_size=8),
    words=st.lists(st.text(max_size=8), max_size=8),
    metrics=st.just({"feedback:x": Metric("feedback:x", "mean", "higher", "", "")}),
    points=st.lists(st.builds(Point, FLOATS, COUNTS, NAMES, ESTIMATES), max_size=6),
    audit=st.lists(st.builds(Audit, FLOATS, NAMES, NAMES, NAMES), max_size=3),
    shadows=st.lists(
        st.builds(Shadowed, NAMES, COUNTS, ESTIMATES, ESTIMATES, ESTIMATES, ESTIMATES, ESTIMATES, ESTIMATES, NUMBERS), max_size=2
    ),
    winner=st.none() | NAMES,
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(RESULTS)
def test_any_result_gives_a_page(made: Result) -> None:
    reader = read(page(made))
    for tag, found in reader.seen:
        for name in ("x", "y", "x1", "x2", "y1", "y2", "cx", "cy", "width", "height", "points"):
            assert not re.search("nan|inf", found.get(name) or ""), (tag, found)
        if tag == "rect":
            assert not (found["width"] or "").startswith("-") and not (found["height"] or "").startswith("-")


def test_a_result_of_the_statistics_is_drawn_as_it_is() -> None:
    design = Design("real", "chat", ("small", "large"), (1.0, 1.0), secondary=("cost",), guardrails=(Guardrail("error", 0.1),), least=50)
    rng, ledger = random.Random(3), Ledger(design)
    for unit in range(600):
        arm = design.arms[unit % 2]
        taken = rng.lognormvariate(-0.3 * (unit % 2), 0.5)
        ledger.take(Seen(1.7e9 + unit, "real", 0, arm, unit, seconds=taken, error=rng.random() < 0.05, cost=0.002 + taken / 1e4, output=90))
    first = analyse(design, ledger, unix=1.7e9 + 86400, started=1.7e9, rng=random.Random(1))
    points = point(first)
    made = msgspec.structs.replace(first, points=list(points) if isinstance(points, (list, tuple)) else [points])
    text = page(made)
    reader = read(text)
    assert made.headline in text and "large" in made.headline
    told = {(a["data-arm"], a["data-metric"]): a["data-value"] for a in reader.having("data-p", "data-alpha")}
    assert told == {(c.arm, c.metric): "" if c.change.value is None else repr(c.change.value) for c in made.comparisons}
    (block,) = re.findall(r'id="result">(.*?)</script>', text)
    assert msgspec.json.decode(json.dumps(json.loads(block)), type=Result) == msgspec.json.decode(msgspec.json.encode(made), type=Result)
