"""Medians, spreads and ratios, with exact expectations."""

from __future__ import annotations

import pytest

from benchmarks.overhead.stats import Figure, clean, figure, median, minus, ratio, row, rows, undisturbed
from tests.benchmarks.samples import CPU, one_round, result, small


def test_a_figure_is_a_median_with_its_range() -> None:
    assert Figure.of([3.0, 1.0, 10.0]) == Figure(3.0, 1.0, 10.0)
    assert Figure.of([1.0, 2.0]) == Figure(1.5, 1.0, 2.0)
    assert Figure.of([]) is None


@pytest.mark.parametrize(
    ("foreign0", "foreign1", "expected"), [(0.0, 0.0, True), (0.049, 0.049, True), (0.05, 0.0, False), (0.0, 0.05, False)]
)
def test_a_phase_is_disturbed_from_a_twentieth_of_either_core(foreign0: float, foreign1: float, expected: bool) -> None:
    assert clean({**CPU, "foreign0": foreign0, "foreign1": foreign1}) is expected


def test_medians_leave_disturbed_rounds_out_where_one_was_not() -> None:
    bad = {"foreign0": 0.5}
    rounds = [one_round(100, 10, c1=bad), one_round(300, 10), one_round(500, 10)]
    assert figure(rounds, "c1", "rps") == Figure(400.0, 300.0, 500.0)
    assert figure(rounds, "c16", "rps") == Figure(300.0, 100.0, 500.0)
    all_bad = [one_round(100, 10, c1=bad), one_round(300, 10, c1=bad)]
    assert figure(all_bad, "c1", "rps") == Figure(200.0, 100.0, 300.0)
    assert len(undisturbed(all_bad, "c1")) == 2


def test_a_phase_without_an_answer_has_no_cpu_an_answer() -> None:
    silent = one_round(100, 10)
    silent["phases"]["c64"] |= {"requests": 0.0, "rps": 0.0}
    del silent["phases"]["c64"]["cpu_us_per_req"]
    rounds = [silent, one_round(100, 10)]
    assert median(rounds, "c64", "cpu_us_per_req") == 5000.0
    assert row("x", result({"x": rounds})).silent == ("c64",)
    alone = row("x", result({"x": [silent]}))
    assert alone.cpu_us is None and alone.whole["c64"].cpu_us is None and alone.whole["c64"].rps.median == 0.0


@pytest.mark.parametrize(
    ("a", "b", "expected"), [(1.0, 4.0, 0.25), (0.0, 4.0, 0.0), (None, 4.0, None), (1.0, None, None), (1.0, 0.0, None)]
)
def test_ratio(a: float | None, b: float | None, expected: float | None) -> None:
    assert ratio(a, b) == expected


@pytest.mark.parametrize(("a", "b", "expected"), [(1.0, 4.0, -3.0), (None, 4.0, None), (1.0, None, None)])
def test_minus(a: float | None, b: float | None, expected: float | None) -> None:
    assert minus(a, b) == expected


def test_direct_comes_first_and_the_rest_by_speed() -> None:
    assert [r.name for r in rows(small())] == ["direct", "nginx", "pointsman"]
    empty = small()
    empty["rounds"]["gone"] = []
    assert [r.name for r in rows(empty)] == ["direct", "nginx", "pointsman"]


def test_the_row_of_a_gateway() -> None:
    ours = row("pointsman", small())
    assert ours.best == Figure(42_000, 40_000, 44_000)
    assert (ours.of_nginx, ours.of_direct) == (0.84, 0.42)
    assert ours.whole["c64"].rps == Figure(40_000, 40_000, 40_000)  # its second round was disturbed
    assert ours.cpu_us == pytest.approx(12.5)  # 1.5 s over 120,000 requests
    assert ours.cap == 84_000  # 42,000 at half of the core
    c1 = ours.whole["c1"]
    assert (c1.p50, c1.p99, c1.bound, c1.few) == (0.2, 0.8, False, False)
    assert c1.added_p50 == pytest.approx(0.15)
    assert c1.added_p99 == pytest.approx(0.7)
    assert (ours.cold_s, ours.rss_idle, ours.rss_peak, ours.errors) == (0.25, 30.0, 40.0, 0)
    assert (ours.rounds, ours.clean, ours.phases, ours.never_clean, ours.silent) == (2, 15, 16, (), ())
    most = ours.streams["sse1000"]
    assert (most.chunks, most.of_direct, most.of_nginx, most.lost) == (Figure(25_000, 25_000, 25_000), 0.5, 0.5, 0)
    assert (most.ttft, most.gap, most.relay) == ((1.0, 4.0), (20.0, 25.0), (0.5, 2.0))
    assert (most.utilisation, most.cap, most.streams_s) == (0.5, 50_000, 10)
    assert most.cpu_us == pytest.approx(20.0)


def test_the_row_of_the_mock_itself() -> None:
    direct = row("direct", small())
    assert direct.direct and direct.of_direct == 1.0 and direct.of_nginx == 2.0
    assert direct.cpu_us is direct.cap is direct.rss_idle is direct.rss_peak is direct.cold_s is None
    assert direct.whole["c1"].added_p50 is None and direct.whole["c1"].bound is False


def test_without_direct_and_nginx_there_are_no_ratios() -> None:
    ours = row("pointsman", result({"pointsman": [one_round(100, 10)]}))
    assert ours.of_nginx is ours.of_direct is ours.whole["c1"].added_p50 is ours.streams["sse0"].of_nginx is None


def test_a_full_load_core_makes_a_lower_bound() -> None:
    bound = row("x", result({"x": [one_round(100, 10, c64={"core0": 0.6, "core1": 0.97})]}))
    assert bound.whole["c64"].bound and not bound.whole["c16"].bound
    both = row("x", result({"x": [one_round(100, 10, c64={"core0": 0.97, "core1": 0.97})]}))
    assert not both.whole["c64"].bound


def test_few_answers_errors_and_disturbance_are_kept() -> None:
    bad = {"foreign1": 0.3}
    rounds = [one_round(1000, 10, c1={"requests": 999.0, **bad}, c16={"bad_status": 2.0, "sock_err": 1.0}), one_round(1000, 10, c1=bad)]
    found = row("x", result({"x": rounds}))
    assert found.whole["c1"].few and not found.whole["c16"].few
    assert (found.errors, found.clean, found.never_clean) == (3, 14, ("c1",))


def test_a_stream_that_had_no_event_has_no_times() -> None:
    nothing = {"ttft_n": 0.0, "gap_n": 0.0, "relay_n": 0.0}
    found = row("x", result({"x": [one_round(100, 10, sse500=nothing)]})).streams["sse500"]
    assert found.ttft is found.gap is found.relay is None
