"""What each client left of a run, as a `Run`. Pure; BenchError where it is not what that client writes.

Sources: guidellm 0.8.1, its JSON output (schemas/base/request_stats.py and info.py say what the times are); aiperf 0.13.0,
profile_export_aiperf.json and profile_export.jsonl (metrics/types/ say how each figure is computed).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Any, TypeVar

import msgspec

from benchmarks.agreement.judge import ours_of
from benchmarks.agreement.words import Load, Run
from benchmarks.bench.errors import BenchError
from benchmarks.bench.words import Result, Timed

T = TypeVar("T")
_MS, _NS = 1e-3, 1e-9


class _Distribution(msgspec.Struct):
    mean: float
    median: float


class _ByStatus(msgspec.Struct):
    successful: _Distribution


class _GuideTimes(msgspec.Struct):
    request_start: float | None = None
    first_token_iteration: float | None = None
    last_token_iteration: float | None = None
    request_end: float | None = None


class _GuideInfo(msgspec.Struct):
    timings: _GuideTimes
    error: str | None = None


class _GuideRequest(msgspec.Struct):
    info: _GuideInfo
    output_tokens: int | None = None


class _GuideRequests(msgspec.Struct):
    successful: list[_GuideRequest] | None = None
    errored: list[_GuideRequest] | None = None
    incomplete: list[_GuideRequest] | None = None


class _GuideMetrics(msgspec.Struct):
    time_to_first_token_ms: _ByStatus
    inter_token_latency_ms: _ByStatus
    request_latency: _ByStatus
    requests_per_second: _ByStatus
    output_tokens_per_second: _ByStatus


class _GuideBenchmark(msgspec.Struct):
    metrics: _GuideMetrics
    requests: _GuideRequests


class _Guide(msgspec.Struct):
    benchmarks: list[_GuideBenchmark]


class _Metric(msgspec.Struct):
    """One of aiperf's; a list of values for what a request has many of."""

    unit: str
    value: float | list[float] = 0.0
    avg: float = 0.0
    p50: float | None = None


class _Meta(msgspec.Struct):
    request_start_ns: int
    request_end_ns: int
    benchmark_phase: str = "profiling"


class _AiRecord(msgspec.Struct):
    metadata: _Meta
    metrics: dict[str, _Metric] = {}
    error: Any = None


class _Ai(msgspec.Struct):
    time_to_first_token: _Metric
    inter_token_latency: _Metric
    inter_chunk_latency: _Metric
    request_latency: _Metric
    request_throughput: _Metric
    output_token_throughput: _Metric


def _decoded(data: bytes, kind: type[T], what: str) -> T:
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BenchError(f"{what} is not what this reads ({error}); was it written by the version that is pinned here?") from None


def ours(result: Result, load: Load, repeat: int, trouble: str = "") -> Run:
    """Of `pointsman bench --repeats 1`; `trouble`: why it did not end with 0, if it did not. BenchError: nothing was measured."""
    if not result.levels:
        raise BenchError(f"pointsman bench measured nothing of {load.name}: {' '.join(result.warnings)}")
    found = result.levels[0].repeats[0]
    return Run("pointsman", load, repeat, ours_of(found), failed=found.failed, trouble=found.health.trouble or trouble)


def guidellm(data: bytes, load: Load, repeat: int) -> Run:
    """Of its JSON output. BenchError: it is something else, or it has no benchmark. Its own figures leave out its warm-up; the list of
    requests has it too, so that the first `load.warm` of them are marked."""
    found = _decoded(data, _Guide, "guidellm's JSON")
    if not found.benchmarks:
        raise BenchError(f"guidellm measured nothing of {load.name}")
    one = found.benchmarks[0]
    good, bad = one.requests.successful or [], [*(one.requests.errored or []), *(one.requests.incomplete or [])]
    timed = _sorted([_guide(each, "") for each in good] + [_guide(each, each.info.error or "not whole") for each in bad], load.warm)
    metrics = one.metrics
    said = {
        **_both("TTFT", metrics.time_to_first_token_ms, _MS),
        **_both("TPOT", metrics.inter_token_latency_ms, _MS),
        **_both("E2E", metrics.request_latency, 1.0),
        "requests/s": metrics.requests_per_second.successful.mean,
        "tokens/s": metrics.output_tokens_per_second.successful.mean,
    }
    return Run("guidellm", load, repeat, said, timed, failed=len(bad))


def _both(name: str, found: _ByStatus, unit: float) -> dict[str, float]:
    return {f"{name} p50": found.successful.median * unit, f"{name} mean": found.successful.mean * unit}


def _guide(request: _GuideRequest, error: str) -> Timed:
    times = request.info.timings
    stamps = [each for each in (times.first_token_iteration, times.last_token_iteration) if each is not None]
    sent, done = times.request_start or 0.0, times.request_end or 0.0
    if not error and not (sent and done):
        raise BenchError("guidellm's JSON has a whole answer without its times; was it written by the version that is pinned here?")
    return _timed(sent, stamps, done, request.output_tokens, error)


def aiperf(summary: bytes, lines: bytes, load: Load, repeat: int) -> Run:
    """Of profile_export_aiperf.json and profile_export.jsonl. BenchError: one is something else. Its warm-up is in neither figure."""
    found = _decoded(summary, _Ai, "aiperf's summary")
    records = [_decoded(line, _AiRecord, f"aiperf's record {at}") for at, line in enumerate(lines.splitlines(), 1)]
    counted = [record for record in records if record.metadata.benchmark_phase != "warmup"]
    timed = _sorted([_record(record) for record in counted], 0)
    said = {
        **_p50_mean("TTFT", found.time_to_first_token),
        **_p50_mean("TPOT", found.inter_token_latency),
        **_p50_mean("ITL", found.inter_chunk_latency),
        **_p50_mean("E2E", found.request_latency),
        "requests/s": found.request_throughput.avg,
        "tokens/s": found.output_token_throughput.avg,
    }
    return Run("aiperf", load, repeat, said, timed, failed=sum(not each.good for each in timed))


def _p50_mean(name: str, found: _Metric) -> dict[str, float]:
    if found.unit != "ms" or found.p50 is None:
        raise BenchError(f"aiperf's summary tells its {name} in {found.unit!r} or without a median; this reads version 0.13.0")
    return {f"{name} p50": found.p50 * _MS, f"{name} mean": found.avg * _MS}


def _record(record: _AiRecord) -> Timed:
    """Times of an answer, from when it was sent: its start is by the wall clock, what follows by a monotonic one."""
    meta = record.metadata
    sent, done = meta.request_start_ns * _NS, meta.request_end_ns * _NS
    if record.error is not None:
        return _timed(sent, [], done, None, str(record.error)[:300])
    first = sent + _value(record, "time_to_first_token") * _MS
    stamps = [first, *(first + each * _MS for each in accumulate(_gaps(record)))]
    return _timed(sent, stamps, done, round(_value(record, "output_sequence_length")), "")


def _value(record: _AiRecord, name: str) -> float:
    metric = record.metrics.get(name)
    if metric is None or isinstance(metric.value, list):
        raise BenchError(f"aiperf's record of a whole answer has no {name}; this reads version 0.13.0 with --streaming")
    return metric.value


def _gaps(record: _AiRecord) -> Sequence[float]:
    """Milliseconds between its chunks; an answer of one chunk has none."""
    metric = record.metrics.get("inter_chunk_latency")
    return metric.value if metric is not None and isinstance(metric.value, list) else []


def _timed(sent: float, stamps: list[float], done: float, tokens: int | None, error: str) -> Timed:
    return Timed(index=0, due=0.0, sent=sent, stamps=stamps, done=done, status=0 if error else 200, error=error, completion_tokens=tokens)


def _sorted(found: Iterable[Timed], warm: int) -> list[Timed]:
    """In the order in which they were sent, numbered, times from the first one on (as a stage's, they begin a little after 0), the first
    `warm` marked."""
    ranked = sorted(found, key=lambda each: each.sent)
    start = (ranked[0].sent if ranked else 0.0) - 1.0
    return [
        msgspec.structs.replace(
            each, index=at, sent=each.sent - start, stamps=[stamp - start for stamp in each.stamps], done=each.done - start, warm=at < warm
        )
        for at, each in enumerate(ranked)
    ]
