"""Numbers as texts, axes, and what plots are made of."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.experiments.report import figures, forest, frontier, latency, scale
from gateway.experiments.report.frame import Frame, apart
from gateway.experiments.report.markup import Markup, attributes, join, sentence, tag
from routing.experiments.words import METRICS, Comparison, Estimate
from tests.gateway.experiments.report.made import decided

ANY = st.floats() | st.none()


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (figures.number(1234.5), "1,234"),
        (figures.number(-0.01234), "−0.0123"),
        (figures.number(1.5e12), "1.50×10¹²"),
        (figures.number(2e-7), "2.00×10⁻⁷"),
        (figures.number(math.nan), "–"),
        (figures.count(4310.4), "4,310"),
        (figures.percent(0.0), "0 %"),
        (figures.percent(0.1234), "12.3 %"),
        (figures.percent(0.00412), "0.41 %"),
        (figures.percent(0.99931), "99.93 %"),
        (figures.change(-0.1184), "−11.8 %"),
        (figures.change(0.0), "0.0 %"),
        (figures.change(1e-17), "0.0 %"),
        (figures.change(0.00042), "+0.042 %"),
        (figures.change(4.42), "+442 %"),
        (figures.change(11.0), "×12.0"),
        (figures.seconds(0.0123), "12.3 ms"),
        (figures.seconds(1.842), "1.84 s"),
        (figures.seconds(7.5e-5), "75.0 µs"),
        (figures.seconds(600), "10.0 min"),
        (figures.dollars(12.345), "$12.35"),
        (figures.dollars(-0.0021), "−$0.00210"),
        (figures.value_of(METRICS["output_tokens"], 311.4), "311 tokens"),
        (figures.value_of(METRICS["error"], None), "–"),
        (figures.changes_of(Estimate(0.1, 0.05, None)), "+5.0 % and more"),
        (figures.changes_of(Estimate(0.1, None, 0.15)), "up to +15.0 %"),
        (figures.chance(3e-9), "< 0.0001"),
        (figures.chance(0.04567), "0.046"),
        (figures.moment(1_790_000_000), "21 Sep 2026, 14:13 UTC"),
        (figures.moment(1e300), "–"),
        (figures.iso(0), "1970-01-01T00:00:00Z"),
        (figures.short("2.500 s"), "2.5 s"),
        (figures.short("$0.00210"), "$0.0021"),
        (figures.short("100 ms"), "100 ms"),
        (figures.short("+20.0 %"), "+20 %"),
    ],
)
def test_numbers_as_people_read_them(made: str, expected: str) -> None:
    assert made == expected


@given(ANY)
def test_every_number_has_a_text(value: float | None) -> None:
    makers = (
        figures.number,
        figures.count,
        figures.percent,
        figures.change,
        figures.seconds,
        figures.dollars,
        figures.moment,
    )
    for make in makers:
        text = make(value)
        assert text and len(text) < 40 and "nan" not in text and "inf" not in text and not text.startswith("-")


@given(st.floats(-1e15, 1e15), st.floats(1e-6, 1e15), st.integers(2, 8))
def test_linear_ticks_lie_within_and_are_evenly_apart(lo: float, size: float, wanted: int) -> None:
    hi = lo + size
    if hi - lo < 1e-9 * max(abs(lo), abs(hi)):
        return
    ticks = scale.linear_ticks(lo, hi, wanted)
    room = (hi - lo) * 1e-6
    assert 1 <= len(ticks) <= wanted + 1 and all(lo - room <= t <= hi + room for t in ticks)
    assert ticks == sorted(ticks)


@given(st.floats(1e-6, 1e6), st.floats(1.2, 1e9), st.integers(2, 8))
def test_log_ticks_lie_within(lo: float, ratio: float, wanted: int) -> None:
    ticks = scale.log_ticks(lo, lo * ratio, wanted)
    assert 1 <= len(ticks) <= wanted + 1 and all(lo * 0.999 <= t <= lo * ratio * 1.001 for t in ticks)


@given(st.lists(ANY, max_size=8), st.booleans(), st.booleans())
def test_an_axis_holds_its_values(values: list[float | None], log: bool, flip: bool) -> None:
    made = scale.span(values, log=log, flip=flip)
    known = [v for v in values if v is not None and abs(v) <= figures.MOST and (v >= scale.LEAST or not log)]
    assert (made is None) is (not known)
    if made is None:
        return
    assert all(-1e-6 <= made.at(v) <= 100 + 1e-6 for v in known)


def test_an_axis_of_changes_leaves_out_what_lies_far_off() -> None:
    assert scale.around_zero([0.1, 0.12, 0.2], 0.05).hi == pytest.approx(0.2 * 1.12)
    assert scale.around_zero([0.1, 0.1, 0.12, 90.0], 0.05).hi == pytest.approx(0.4 * 1.12)
    far = scale.around_zero([8.0], 0.05)
    assert far.lo == pytest.approx(-1 - 8.96 / 20) and far.hi == pytest.approx(8.96)
    assert scale.around_zero([], 0.0).hi > 0


def test_ticks_of_a_plot_do_not_touch() -> None:
    axis = scale.Scale(0.03, 3.0, True)
    places = [axis.at(v) for v in apart(axis)]
    assert min(b - a for a, b in pairwise(places)) >= 13


def test_a_frame_puts_greater_values_higher_unless_flipped() -> None:
    up, down = (Frame(scale.Scale(0, 1), scale.Scale(0, 10, flip=f), 200, str, str) for f in (False, True))
    assert (up.top(10), up.top(0), down.top(10), down.top(0)) == (0, 200, 200, 0)
    assert up.spot(0.5, 2.5) == "50.000,75.000" and up.held(99) == 0


@pytest.mark.parametrize(
    ("change", "arrows"),
    [
        (Estimate(0.1, 0.05, 0.15), 0),
        (Estimate(0.1, -0.4, 0.15), 1),
        (Estimate(0.1, 0.05, None), 1),
        (Estimate(0.1, -9.0, 9.0), 2),
        (Estimate(4.0, 3.0, 5.0), 1),
        (Estimate(4.0, None, math.inf), 1),
        (Estimate(), 0),
    ],
)
def test_what_lies_beyond_the_axis_is_an_arrow(change: Estimate, arrows: int) -> None:
    comparison = Comparison("b", "latency", "primary", change, None, 0.05, "unsure")
    drawn = forest.drawing(scale.Scale(-0.3, 0.3), 0.05, comparison)
    assert drawn.count('class="arrow"') == arrows
    assert ("too early to say" in drawn) is (change.value is None)


def test_comparisons_come_by_role_and_metric() -> None:
    found = forest.groups(decided())
    assert [m for _, m, _ in found] == ["latency", "error", "cost", "ttft", "output_tokens", "feedback:helpful"]
    assert [len(rows) for _, _, rows in found] == [1] * 6


def test_buckets_add_up_to_a_curve() -> None:
    assert latency.cumulated([(2.0, 1), (1.0, 2), (4.0, 0), (math.inf, 1)]) == [(1.0, 0.5), (2.0, 0.75)]
    assert latency.cumulated([]) == [] and latency.cumulated([(1.0, 0)]) == []
    assert latency.where([(1.0, 0.0), (4.0, 1.0)], 0.5) == pytest.approx(2.0)
    assert latency.where([(1.0, 0.0), (4.0, 0.4)], 0.5) is None


def spot(arm: str, cost: float, quality: float, half: float = 0.01) -> frontier.Spot:
    """An arm in the plot of cost and quality."""
    return frontier.Spot(arm, Estimate(cost, cost - half, cost + half), Estimate(quality, quality - half, quality + half))


def test_the_frontier_has_the_arms_that_none_beats() -> None:
    found = [spot("a", 1.0, 0.5), spot("b", 2.0, 0.9), spot("c", 2.5, 0.8), spot("d", 1.0, 0.4)]
    assert [s.arm for s in frontier.frontier(found, lower=False)] == ["a", "b"]
    assert [s.arm for s in frontier.frontier(found, lower=True)] == ["d"]
    said = frontier.conclusion(frontier.frontier(found, False), found)
    assert said.endswith("a, b from the cheapest up. These cost no less and give no more: c, d.")
    wide = [spot("a", 1.0, 0.5, 2.0), spot("b", 2.0, 0.9, 2.0)]
    assert "no difference in quality or in cost" in frontier.conclusion(wide, wide)
    assert frontier.conclusion(found[:1], found[:1]) == "Only one arm can be drawn yet."


def test_names_of_near_arms_stand_at_different_sides() -> None:
    found = [spot(name, 1.0, 1.0) for name in ("one", "two", "three", "four")]
    frame = Frame(scale.Scale(0, 2), scale.Scale(0, 2), 240, str, str)
    assert len(set(frontier.sides(frame, found))) == 4


def test_text_and_attributes_are_escaped_once() -> None:
    assert (
        tag("b", "<&>", Markup("<i></i>"), title='"&', hidden=True, lang=None) == '<b title="&quot;&amp;" hidden>&lt;&amp;&gt;<i></i></b>'
    )
    assert join(["<", None, tag("b", "&")]) == "&lt;<b>&amp;</b>"
    assert sentence("<5 %") == '&lt;<span class="whole">5 %</span>' and sentence("none") == "none"
    assert attributes({"data_value": 0.1 + 0.2, "class_": "x"}) == ' data-value="0.30000000000000004" class="x"'
