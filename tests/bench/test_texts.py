"""Numbers, times and levels as people read them."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.bench import texts
from benchmarks.bench.words import Profile, Slo


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (1, "1.00"), (9.996, "10.0"), (99.95, "100"), (12.34, "12.3"), (123.4, "123"), (1234.5, "1,234"), (0.01234, "0.0123"),
     (None, "–"), (math.nan, "–"), (math.inf, "–"), (-2.5, "-2.50"), (1e-7, "1.00e-07")],
)  # fmt: skip
def test_numbers_have_three_significant_digits(value: float | None, text: str) -> None:
    assert texts.number(value) == text


@given(st.floats(1e-4, 1e12))
def test_a_number_says_what_it_is(value: float) -> None:
    said = texts.number(value)
    assert float(said.replace(",", "")) == pytest.approx(value, rel=0.0051)
    assert len(said.replace(",", "").replace(".", "").lstrip("0")) >= 3


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0, "0 s"), (0.0000123, "12.3 µs"), (0.0123, "12.3 ms"), (1.0, "1.00 s"), (90.0, "90.0 s"), (180.0, "3.00 min"), (9000.0, "2.50 h"),
     (None, "–")],
)  # fmt: skip
def test_times_have_the_unit_that_suits_them(seconds: float | None, text: str) -> None:
    assert texts.duration(seconds) == text


def test_short_times_lose_zeros_but_no_tens() -> None:
    assert [texts.duration(v, short=True) for v in (0.1, 1.0, 0.25, 20.0)] == ["100 ms", "1 s", "250 ms", "20 s"]


@given(st.floats(0, 1))
def test_a_share_that_is_not_all_or_nothing_is_never_said_to_be(share: float) -> None:
    said = texts.percent(share)
    assert (said == "100 %") == (share == 1.0)
    assert (said == "0 %") == (share == 0.0)


def test_levels_are_named_as_the_command_line_does() -> None:
    profiles = [Profile("sync"), Profile("concurrent", 8.0), Profile("rate", 2.5), Profile("trace", source="/a/b.jsonl", speed=2.0)]
    assert [texts.option(p) for p in profiles] == ["sync", "concurrent=8", "rate=2.5", "trace=b.jsonlx2"]
    assert [texts.in_words(p) for p in profiles] == ["one at a time", "8 at once", "2.5 requests/s", "trace b.jsonl, 2 times as fast"]


def test_a_service_level_in_words() -> None:
    said = texts.slo_words(Slo("chat", ttft=0.5, tpot=0.03, share=0.95))
    assert said == "first token ≤ 500 ms, per token ≤ 30 ms, for 95 % of requests"


def test_what_several_levels_say_is_said_once() -> None:
    notes = texts.merged([("a", "3 failed."), ("b", "3 failed."), ("c", "4 failed."), ("", "It is old."), ("a", ""), ("a", "3 failed.")])
    assert [str(n) for n in notes] == ["3 failed. [a, b; alike: c]", "It is old."]
    many = texts.merged((f"rate={i}", "Slow.") for i in range(20))
    assert str(many[0]).endswith("rate=7 and 12 more]")


@given(st.text())
def test_nothing_moves_the_cursor(text: str) -> None:
    assert all(c.isprintable() for c in texts.visible(text))


def test_sizes_and_counts() -> None:
    assert [texts.size(v) for v in (2**20, 5 * 2**30, None)] == ["1.00 MiB", "5.00 GiB", "–"]
    assert [texts.compact(v) for v in (0, 999, 1200, 3.4e6)] == ["0", "999", "1.2k", "3.4M"]
    assert texts.count(12345.6) == "12,346"
