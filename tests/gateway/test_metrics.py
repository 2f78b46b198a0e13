"""The Prometheus text, read back by the reference client's own parser."""

from __future__ import annotations

import json
import math
import os

import pytest
from prometheus_client.parser import text_string_to_metric_families

from backends.types import Usage
from gateway.metrics import CODES, LABEL_CHARS, Metrics
from gateway.process import measure
from gateway.record import Record


def record(**over: object) -> Record:
    fields: dict[str, object] = {
        "id": "r", "unix": 1.0, "api": "chat", "route": "m", "backend": "b", "replica": "http://x", "tenant": "t", "stream": True,
        "status": 200, "duration": 1.0, "ttft": 0.25, "attempts": 1, "chunks": 3, "bytes_out": 100, "usage": Usage(7, 3, 1, 15, 1),
    }  # fmt: skip
    return Record(**(fields | over))  # type: ignore[arg-type]


def read(metrics: Metrics) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Every sample by name and labels, as the reference parser sees it."""
    samples: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}
    for family in text_string_to_metric_families(metrics.render()):
        assert family.documentation and family.type != "unknown", family.name
        for sample in family.samples:
            key = (sample.name, frozenset(sample.labels.items()))
            assert key not in samples, f"{key} twice"
            samples[key] = sample.value
    return samples


def value(metrics: Metrics, name: str, **labels: str) -> float:
    """The sum of the samples with that name that have these labels."""
    return sum(v for (n, have), v in read(metrics).items() if n == name and frozenset(labels.items()) <= have)


def test_each_count_is_read_back() -> None:
    metrics = Metrics()
    metrics.observe(record())
    metrics.observe(record(status=502, fault="upstream", origin="backend", usage=None, ttft=None, attempts=3))
    here = {"route": "m", "backend": "b", "api": "chat"}
    assert value(metrics, "pointsman_requests_total", code="200", **here) == 1
    assert value(metrics, "pointsman_requests_total", code="502", **here) == 1
    assert value(metrics, "pointsman_request_errors_total", kind="upstream", origin="backend", **here) == 1
    assert value(metrics, "pointsman_retries_total", **here) == 2
    assert value(metrics, "pointsman_response_bytes_total", **here) == 200
    assert value(metrics, "pointsman_response_chunks_total", **here) == 6
    kinds = {"input": 7, "cached": 3, "cache_write": 1, "output": 15, "reasoning": 1}
    assert {kind: value(metrics, "pointsman_tokens_total", type=kind, **here) for kind in kinds} == kinds


def test_histograms_are_cumulative_and_add_up() -> None:
    metrics = Metrics()
    for seconds in (0.0001, 0.25, 0.3, 5.0, 1e9):
        metrics.observe(record(ttft=seconds, duration=seconds))
    for name in ("time_to_first_token", "request_duration"):
        full = f"pointsman_{name}_seconds"
        edges = sorted((float(dict(labels)["le"]), v) for (n, labels), v in read(metrics).items() if n == f"{full}_bucket")
        assert [v for _, v in edges] == sorted(v for _, v in edges)
        assert edges[-1] == (math.inf, 5) and value(metrics, f"{full}_count") == 5
        assert value(metrics, f"{full}_sum") == pytest.approx(1e9 + 5.5501)
        assert dict(edges)[0.25] == 2, "a value at a bound is within it"


def test_time_per_token_is_that_of_streams_only() -> None:
    metrics = Metrics()
    metrics.observe(record(duration=3.0, ttft=1.5))  # 16 tokens, 15 gaps: 0.1 s
    metrics.observe(record(stream=False))
    metrics.observe(record(usage=Usage(5, 0, 0, 1)))
    metrics.observe(record(duration=1.0, ttft=1.1))  # clocks read in another order: never below zero
    assert value(metrics, "pointsman_time_per_output_token_seconds_count") == 2
    assert value(metrics, "pointsman_time_per_output_token_seconds_sum") == pytest.approx(0.1)


@pytest.mark.parametrize("name", ['a"b', "a\\b", "a\nb", "a\\nb", "ü✓", "x" * 500, "half \ud800 pair", "", 'm",code="1'])
def test_any_label_survives_the_way(name: str) -> None:
    metrics = Metrics()
    metrics.observe(record(backend=name))
    labels = [dict(have) for (n, have) in read(metrics) if n == "pointsman_requests_total"]
    assert [row["backend"] for row in labels] == [name[:LABEL_CHARS].replace("\ud800", "?")]


def test_invented_names_do_not_fill_the_table() -> None:
    metrics = Metrics(known=["m"])
    for i in range(1000):
        metrics.observe(record(route=f"junk-{i}", backend="", status=404, fault="not_found", origin="client"))
    metrics.observe(record())
    assert value(metrics, "pointsman_requests_total", route="unknown") == 1000
    assert value(metrics, "pointsman_requests_total", route="m") == 1
    guessing = Metrics()
    guessing.observe(record(route="junk", backend="", status=404, fault="not_found", origin="client"))
    assert value(guessing, "pointsman_requests_total", route="unknown") == 1


def test_rows_codes_and_kinds_are_capped_and_nothing_is_lost() -> None:
    metrics = Metrics(rows=5)
    for i in range(50):
        metrics.observe(record(route=f"r{i}"))
    assert value(metrics, "pointsman_requests_total") == 50
    assert value(metrics, "pointsman_requests_total", route="other") == 45
    wild = Metrics()
    for i in range(500):
        wild.observe(record(status=100 + i, fault=f"kind{i}", origin=f"who{i}"))
    assert value(wild, "pointsman_requests_total") == 500 == value(wild, "pointsman_request_errors_total")
    assert value(wild, "pointsman_requests_total", code="other") == 500 - CODES
    assert len(wild.render()) < 100_000


def test_workers_merged_are_one_worker_that_saw_all() -> None:
    workers = [Metrics(), Metrics(), Metrics()]
    alone = Metrics()
    for i in range(60):
        seen = record(route=f"m{i % 4}", status=200 if i % 5 else 502, fault="" if i % 5 else "upstream", origin="backend", duration=i / 7)
        workers[i % 3].observe(seen)
        alone.observe(seen)
    for i, worker in enumerate(workers):
        worker.callback("pointsman_inflight_requests", "Under way.", lambda i=i: [({"replica": "a"}, i + 1), ({"replica": f"own{i}"}, 1)])
        worker.callback("pointsman_build_info", "Version.", lambda: 1, merge="max")
    merged = Metrics.merge(json.loads(json.dumps([worker.snapshot() for worker in workers])))
    got, wanted = read(merged), read(alone)
    assert {key: got[key] for key in wanted} == pytest.approx(wanted)
    assert value(merged, "pointsman_inflight_requests", replica="a") == 6
    assert value(merged, "pointsman_inflight_requests", replica="own2") == 1
    assert value(merged, "pointsman_build_info") == 1
    assert read(Metrics.merge([merged.snapshot()])) == got, "a merge can be merged again"


def test_callbacks_of_both_shapes() -> None:
    metrics = Metrics()
    numbers = [1.5]
    metrics.callback("pointsman_a", "One\nline \\ only.", lambda: numbers[0])
    labelled = [({"x": 'q"'}, 2), ({"x": "z"}, math.inf), ({"x": "n"}, math.nan)]
    metrics.callback("pointsman_b_total", "Labelled.", lambda: labelled, kind="counter")
    assert value(metrics, "pointsman_a") == 1.5
    numbers[0] = 2e15
    assert value(metrics, "pointsman_a") == 2e15
    assert value(metrics, "pointsman_b_total", x='q"') == 2 and value(metrics, "pointsman_b_total", x="z") == math.inf
    assert math.isnan(value(metrics, "pointsman_b_total", x="n"))


def test_a_merge_keeps_to_its_cap_too() -> None:
    workers = []
    for i in range(3):
        worker = Metrics()
        for j in range(200):
            worker.observe(record(route=f"w{i}-{j}"))
        workers.append(worker.snapshot())
    merged = Metrics.merge(workers)
    assert value(merged, "pointsman_requests_total") == 600
    assert value(merged, "pointsman_requests_total", route="other") == 600 - 256
    assert "257 of 256 rows" in repr(merged)


def test_the_process_itself() -> None:
    metrics = Metrics()
    measure(metrics, "1.2.3", 1_790_000_000.5)
    assert value(metrics, "pointsman_build_info", version="1.2.3") == 1
    assert value(metrics, "process_start_time_seconds") == 1_790_000_000.5
    assert value(metrics, "process_cpu_seconds_total") > 0
    if os.path.exists("/proc/self/statm"):
        assert value(metrics, "process_resident_memory_bytes") > 1 << 20 and value(metrics, "process_open_fds") >= 3


@pytest.mark.parametrize("name", ["pointsman_requests_total", "twice", "1a", "a-b", "", "ä"])
def test_a_name_that_cannot_be_is_refused(name: str) -> None:
    metrics = Metrics()
    metrics.callback("twice", "Taken.", lambda: 0)
    with pytest.raises(ValueError, match="metric"):
        metrics.callback(name, "No.", lambda: 0)
