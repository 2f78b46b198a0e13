"""Service levels: read, and kept or not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.bench.errors import BenchError
from benchmarks.bench.slo import PRESETS, describe, keeps, parse
from benchmarks.bench.words import Slo
from tests.bench.seen import answer, failure


def test_limits_are_in_milliseconds() -> None:
    assert parse(" ttft:500, tpot:30 ") == Slo("ttft:500, tpot:30", ttft=0.5, tpot=0.03)
    assert parse("itl:100,e2e:2000,share:0.95") == Slo("itl:100,e2e:2000,share:0.95", itl=0.1, e2e=2.0, share=0.95)


def test_levels_of_others_have_names_and_sources() -> None:
    found = parse("Llama-3.1-8B-Interactive")
    assert (found.ttft, found.tpot, found.share) == (0.5, 0.03, 0.99)
    assert parse("chat") == Slo("chat", ttft=0.2, tpot=0.05)
    assert all(preset.source and preset.slo.name == name for name, preset in PRESETS.items())
    assert describe(parse("rag")) == "TTFT <= 300 ms and TPOT <= 100 ms and E2E <= 3000 ms for 99 % of requests"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "neither limits"),
        ("fast", "llama-3.1-8b-server"),
        ("ttft:500,foo:3", "'foo' is no limit"),
        ("ttft:500,ttft:3", "given twice"),
        ("ttft:-1", "above 0"),
        ("ttft:nan", "above 0"),
        ("ttft:inf", "above 0"),
        ("ttft:1e9", "at most an hour"),
        ("ttft:", "milliseconds"),
        ("share:0.9", "limits nothing"),
        ("ttft:5,share:95", "share:0.99"),
        ("ttft:5,", "'' is no limit"),
    ],
)
def test_what_is_wrong_is_said(text: str, said: str) -> None:
    with pytest.raises(BenchError, match=said) as caught:
        parse(text)
    assert caught.value.usage


@given(st.text(max_size=30))
def test_any_text_is_a_level_or_a_sentence(text: str) -> None:
    try:
        found = parse(text)
    except BenchError as error:
        assert str(error)
    else:
        assert 0 < found.share <= 1


def test_every_limit_must_be_kept() -> None:
    timed = answer(sent=1.0, stamps=(1.5, 1.6, 1.9), tokens=3, counts=(1, 2, 3))  # TTFT 0.5, TPOT 0.2, ITL at most 0.3, E2E 0.9
    assert keeps(Slo("x", ttft=0.5, tpot=0.21, itl=0.31, e2e=0.91), timed)
    for name, value in {"ttft": 0.49, "tpot": 0.19, "itl": 0.29, "e2e": 0.89}.items():
        assert not keeps(Slo("x", **{name: value}), timed), name
    assert keeps(Slo("nothing asked"), timed)


def test_the_schedule_counts_where_there_is_one() -> None:
    timed = answer(sent=3.0, stamps=(3.5, 3.6), due=1.0)
    assert not keeps(Slo("x", ttft=2.0), timed)
    assert keeps(Slo("x", ttft=2.6, e2e=2.7), timed)


def test_failures_keep_nothing() -> None:
    assert not keeps(Slo("x"), failure())
    assert not keeps(Slo("x"), answer(error="stream ended early"))


def test_what_cannot_be_checked_is_not_kept() -> None:
    assert not keeps(Slo("x", tpot=1.0), answer(stamps=(1.5,), tokens=20))  # in one piece
    assert not keeps(Slo("x", tpot=1.0), answer(tokens=None))
    assert not keeps(Slo("x", itl=1.0), answer(stamps=(1.5,), tokens=20))
    assert not keeps(Slo("x", ttft=1.0), answer(stamps=(), tokens=0))
    assert keeps(Slo("x", ttft=1.0, tpot=0.001, itl=0.001), answer(stamps=(1.5,), tokens=1))  # one token has no gap
