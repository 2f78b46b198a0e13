"""Repeats as one level."""

from __future__ import annotations

import msgspec
import pytest

from benchmarks.bench.figures import figures
from benchmarks.bench.paired import level
from benchmarks.bench.words import Figures, Health, Level, Profile, Slo
from tests.bench.seen import answer, failure, stage

SLO = Slo("x", ttft=0.25, share=0.5)


def repeat(number: int, wait: float, *, failed: int = 0, asked: int = 0) -> Figures:
    timed = [answer(i, i + 1.0, (i + 1.0 + wait, i + 1.5), asked_output=asked) for i in range(20)]
    timed += [failure(100 + i, i + 1.0, i + 1.1) for i in range(failed)]
    return figures(stage(timed, Profile("rate", value=1), repeat=number), [SLO])


def test_medians_of_latencies_and_sums_of_counts() -> None:
    repeats = [repeat(0, 0.1), repeat(1, 0.3, failed=5), repeat(2, 0.2)]
    found = level(repeats)
    assert isinstance(found, Level) and found.repeats == repeats
    assert found.median.ttft.p50 == pytest.approx(0.2)
    assert found.median.ttft.most == pytest.approx(0.3)
    assert (found.median.sent, found.median.good, found.median.failed) == (65, 60, 5)
    assert found.median.seconds == pytest.approx(sum(one.seconds for one in repeats))
    assert found.median.request_rate == pytest.approx(repeats[0].request_rate)
    assert found.median.errors == {"overloaded": 5}
    assert found.spread["ttft_p50"] == pytest.approx(1.0)
    assert found.spread["request_rate"] == pytest.approx(0.0)
    assert "ttft_p99" not in found.spread and "e2e_p99" not in found.spread
    assert (found.median.goodput[0].share, found.median.goodput[0].held) == (1.0, True)
    assert any("Repeats differ by up to 1e+02 %" in text or "Repeats differ by up to 100 %" in text for text in found.median.warnings)


def test_the_worst_client_and_the_most_memory_are_shown() -> None:
    repeats = [repeat(i, 0.1) for i in range(3)]
    repeats[1].health = Health(lag_p99=0.02, cpu=0.95, trouble="the client was busy")
    repeats[0].memory_most, repeats[2].memory_most = {"server": 5}, {"server": 7, "other": 1}
    repeats[2].saturated = True
    found = level(repeats).median
    assert (found.health.lag_p99, found.health.cpu, found.health.trouble) == (0.02, 0.95, "the client was busy")
    assert found.memory_most == {"server": 7, "other": 1}
    assert not found.saturated
    repeats[0].saturated = True
    assert level(repeats).median.saturated


def test_warnings_that_differ_in_numbers_only_are_one() -> None:
    found = level([repeat(i, 0.1, failed=failed) for i, failed in enumerate((0, 1, 2))]).median
    assert sum("failed" in text for text in found.warnings) == 1
    assert any(text.endswith("(2 of 3 repeats)") and text.startswith("1 of 21 requests failed") for text in found.warnings)


def test_one_repeat_is_itself() -> None:
    one = repeat(0, 0.1)
    found = level([one])
    assert found.median == one
    assert found.spread == {}
    with pytest.raises(ValueError, match="at least one"):
        level([])


def test_errors_of_all_repeats_are_bounded() -> None:
    repeats = [msgspec.structs.replace(repeat(i, 0.1), errors={f"{i} {j}": 1 for j in range(15)}) for i in range(3)]
    found = level(repeats).median.errors
    assert len(found) == 20 and sum(found.values()) == 45


def test_what_some_repeats_lack() -> None:
    repeats = [repeat(0, 0.1, asked=2), repeat(1, 0.1), repeat(2, 0.1)]
    assert level(repeats).median.output_share is None
    assert level(repeats[:2]).median.output_share == 1.0
    empty = figures(stage([], Profile("rate", value=1)), [SLO])
    found = level([empty, empty])
    assert (found.median.sent, found.median.ttft.p50, found.spread) == (0, None, {})
