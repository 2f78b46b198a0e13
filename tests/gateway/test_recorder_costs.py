"""What answers cost, and counts of tokens that cannot be true: from the queue to the figures."""

from __future__ import annotations

from backends.types import Target
from gateway.metrics import Metrics
from gateway.recorder import Recorder
from routing.types import Decision
from tests.gateway.parts import NO_PART
from tests.gateway.test_metrics import record
from tests.gateway.test_recorder import sample
from tests.routing.made import replica

PRICED = Target("b", "m", price=lambda usage: usage.output * 0.5)
BILLED = b'{"usage":{"prompt_tokens":5,"completion_tokens":%d,"total_tokens":%d,"cost":0.25}}'


def test_what_answers_cost() -> None:
    metrics = Metrics()
    recorder = Recorder(metrics)
    recorder.put(record(usage=None), BILLED % (4, 9), PRICED)
    recorder.put(record(usage=None), BILLED % (4, 9))
    recorder.put(record(usage=None), b'{"usage":{"prompt_tokens":5,"completion_tokens":4}}', PRICED)
    for target in (PRICED, Target("b", "m")):
        choice = Decision(replica("b"), target, "weighted")
        for output in (2, 6):
            recorder.put_plain((choice, "m", "t", "chat", b"id", 1.0, 0.5, 10, BILLED % (output, 5 + output), *NO_PART))
    recorder.drain()
    costs = sorted((r.cost or 0.0, r.cost_reported or 0.0) for r in recorder.recent(99))
    assert costs == [(0.0, 0.25), (0.0, 0.25), (0.0, 0.25), (1.0, 0.25), (2.0, 0.0), (2.0, 0.25), (3.0, 0.25)]
    assert sample(metrics, "pointsman_cost_dollars_total") == 2 + 2 + 1 + 3
    assert sample(metrics, "pointsman_cost_reported_dollars_total") == 6 * 0.25
    merged = Metrics.merge([metrics.snapshot(), metrics.snapshot()])
    assert sample(merged, "pointsman_cost_dollars_total") == 16 and sample(merged, "pointsman_cost_reported_dollars_total") == 3
    assert recorder.untrue == {}
    free = Metrics()
    free.observe(record())
    assert "pointsman_cost_dollars_total{" not in free.render()


def test_counts_that_cannot_be_true_are_counted() -> None:
    metrics = Metrics()
    recorder = Recorder(metrics)
    lies = [
        b'{"usage":{"prompt_tokens":5,"completion_tokens":4,"total_tokens":99}}',
        b'{"usage":{"prompt_tokens":5,"completion_tokens":4,"total_tokens":9,"prompt_tokens_details":{"cached_tokens":6}}}',
        b'{"usage":{"prompt_tokens":5,"completion_tokens":4,"total_tokens":9,"completion_tokens_details":{"reasoning_tokens":6}}}',
    ]
    truths = [b'{"usage":{"prompt_tokens":5,"completion_tokens":4,"total_tokens":9}}', b'{"usage":{"prompt_tokens":5}}', b'{"usage":{}}']
    choice = Decision(replica("b"), Target("b", "m"), "weighted")
    for tail in lies + truths:
        recorder.put(record(usage=None), tail)
        recorder.put_plain((choice, "m", "t", "chat", b"id", 1.0, 0.5, 10, tail, *NO_PART))
    recorder.drain()
    assert recorder.untrue == {"total": 2, "cached": 2, "reasoning": 2}
    assert sample(metrics, "pointsman_usage_untrue_total") == 6
