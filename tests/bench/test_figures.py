"""From requests made by hand to figures."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.bench.figures import DEFINITIONS, figures
from benchmarks.bench.times import gaps, told, tpot
from benchmarks.bench.words import Figures, Health, Profile, Sample, Slo, Spread, Timed
from tests.bench.seen import answer, failure, stage

RATE = Profile("rate", value=2)


def test_one_answer_by_hand() -> None:
    """Sent at 1, content at 1.5, 1.6, 1.9, last byte at 2.0."""
    found = figures(stage([answer(sent=1.0, stamps=(1.5, 1.6, 1.9), tokens=3, done=2.0, prompt_tokens=10)]), [])
    assert found.ttft.mean == pytest.approx(0.5)
    assert found.tpot.mean == pytest.approx(0.2)
    assert (found.itl.count, found.itl.mean, found.itl.most) == (2, pytest.approx(0.2), pytest.approx(0.3))
    assert found.e2e.mean == pytest.approx(0.9)  # to the last content, not to [DONE]
    assert found.seconds == found.concurrency == pytest.approx(1.0)
    assert (found.request_rate, found.input_rate, found.output_rate) == (pytest.approx(1), pytest.approx(10), pytest.approx(3))
    assert found.ttft_due == found.e2e_due == Spread(0)  # a closed loop has no schedule


def test_latencies_from_the_schedule_show_the_stall() -> None:
    """Due once a second, sent when a stall of three seconds was over: who waited is to be seen, whatever the send hides."""
    timed = [answer(i, sent=4.0, stamps=(4.1, 4.2), due=float(due)) for i, due in enumerate((1, 2, 3, 4))]
    found = figures(stage(timed, RATE), [Slo("x", ttft=0.2, share=0.5)])
    assert found.ttft.most == pytest.approx(0.1)
    assert found.ttft_due.most == pytest.approx(3.1)
    assert found.e2e_due.mean == pytest.approx(1.7)
    assert found.offered_rate == pytest.approx(1.0)
    assert (found.goodput[0].share, found.goodput[0].held) == (0.25, False)


def test_a_bundle_of_tokens_is_as_many_gaps() -> None:
    """Chunks that brought 1, 4 and 1 tokens: four gaps of 0.1 and one of 0.2, not a gap of 0.4."""
    timed = answer(sent=0.5, stamps=(1.0, 1.4, 1.6), tokens=6, counts=(1, 5, 6))
    assert told(timed)
    assert [(round(gap, 9), k) for gap, k in gaps(timed)] == [(0.1, 4), (0.2, 1)]
    found = figures(stage([timed] * 10), [])
    assert (found.itl.count, found.itl.p50) == (50, pytest.approx(0.1))
    assert found.tpot.p50 == pytest.approx(0.12)
    assert any("Chunks are not tokens: 2 tokens a chunk" in text and "as the server told them" in text for text in found.warnings)


def test_tokens_that_were_not_told_as_they_came_are_spread_evenly() -> None:
    timed = answer(sent=0.5, stamps=(1.0, 1.4, 1.6), tokens=6)
    assert [(round(gap, 9), k) for gap, k in gaps(timed)] == [(0.2, 2), (0.1, 2)]
    found = figures(stage([timed]), [])
    assert any("spread evenly" in text for text in found.warnings)


def test_a_chunk_without_a_new_token_adds_its_time_to_the_next() -> None:
    timed = answer(stamps=(1.0, 1.1, 1.3, 1.4), tokens=2, counts=(1, 1, 2, 2))
    assert [(round(gap, 9), k) for gap, k in gaps(timed)] == [(0.3, 1)]


def test_without_usage_a_chunk_counts_as_a_token_and_it_is_said() -> None:
    timed = answer(stamps=(1.0, 1.1, 1.3), tokens=None)
    assert [k for _, k in gaps(timed)] == [1, 1]
    found = figures(stage([timed]), [])
    assert (found.tpot.count, found.output_rate, found.output_share) == (0, 0, None)
    assert any("no usage for 1 of 1" in text for text in found.warnings)


def test_an_end_token_without_text_is_no_bundle() -> None:
    found = figures(stage([answer(stamps=(1.5, 1.6, 1.7), tokens=4)]), [])
    assert not any("Chunks" in text for text in found.warnings)


def test_an_answer_in_one_piece_has_no_tpot() -> None:
    found = figures(stage([answer(stamps=(2.0,), tokens=50, done=2.0)]), [])
    assert (found.tpot.count, found.itl.count, found.e2e.mean) == (0, 0, pytest.approx(1.0))
    assert any("came in one piece" in text for text in found.warnings)
    assert figures(stage([answer(stamps=(2.0,), tokens=1)]), []).tpot.count == 0


def test_failures_are_sent_and_in_no_latency() -> None:
    timed = [answer(0), answer(1, error="stream ended early"), failure(2), failure(3, sent=0.0, done=0.0, status=0, error="refused")]
    found = figures(stage(timed), [Slo("any", e2e=60.0, share=0.25), Slo("more", e2e=60.0, share=0.3)])
    assert (found.sent, found.good, found.failed) == (4, 1, 3)
    assert found.ttft.count == found.e2e.count == 1
    assert found.errors == {"stream ended early": 1, "overloaded": 1, "refused": 1}
    assert [(one.share, one.held) for one in found.goodput] == [(0.25, True), (0.25, False)]
    assert any("3 of 4 requests failed (75 %)" in text for text in found.warnings)
    assert found.concurrency == pytest.approx((1.0 + 1.0 + 0.2) / 1.0)


def test_the_warm_up_counts_nowhere() -> None:
    cold = [answer(0, sent=5.0, stamps=(5.5, 6.0))]
    warm = [answer(1, sent=0.1, stamps=(4.0, 4.5), warm=True), failure(2, sent=0.2)]
    warm[1].warm = True
    assert figures(stage(warm + cold), [Slo("x", ttft=1.0)]) == figures(stage(cold), [Slo("x", ttft=1.0)])


def test_many_kinds_of_errors_are_bounded() -> None:
    found = figures(stage([failure(i, error=f"error {i} " + 1000 * "x") for i in range(100)]), [])
    assert len(found.errors) == 20
    assert sum(found.errors.values()) == 100
    assert max(map(len, found.errors)) <= 160


def test_shares_of_the_cache_and_of_the_length() -> None:
    timed = [
        answer(0, prompt_tokens=100, cached_tokens=96, asked_output=4),
        answer(1, prompt_tokens=100, cached_tokens=90, asked_output=4),
        answer(2, prompt_tokens=100),
    ]
    found = figures(stage(timed), [])
    assert found.cached_share == pytest.approx(0.93)
    assert found.output_share == pytest.approx(0.5)
    assert any("93 % of prompt tokens" in text for text in found.warnings)
    assert any("50 % of the tokens asked for" in text for text in found.warnings)


def test_what_is_known_of_the_stage_is_said() -> None:
    made = stage([answer()], cut="interrupted", cut_off=3, held=2, health=Health(lag_p99=0.02))
    made.samples = [Sample(0.0, 1, {"server": 5}), Sample(1.0, 1, {"server": 9, "other": 1}), Sample(2.0, 1, {"server": 7})]
    found = figures(made, [])
    assert found.memory_most == {"server": 9, "other": 1}
    for text in ("ended: 3", "connection: 2", "before its time: interrupted", "late by 20.0 ms", "Good answers: 1, too few"):
        assert any(text in warning for warning in found.warnings), text
    assert not found.saturated  # a closed loop
    assert figures(stage([answer(due=0.5)], RATE, cut="saturated"), []).saturated
    trouble = figures(stage([answer()], health=Health(lag_p99=0.02, trouble="the client was busy")), [])
    assert trouble.warnings[0] == "the client was busy"


def test_nothing_at_all() -> None:
    found = figures(stage([]), [Slo("x", ttft=1.0)])
    assert (found.sent, found.request_rate, found.offered_rate, found.concurrency) == (0, 0, 0, 0)
    assert not found.goodput[0].held
    assert found.warnings == ["Nothing was sent that counts: no figure of this stage says anything."]
    failed = figures(stage([failure(sent=0.0, done=0.0, status=0)], RATE), [])
    assert (failed.seconds, failed.failed) == (0.0, 1)


def test_the_rate_between_answers_is_that_of_the_schedule_when_it_is_kept() -> None:
    """Answers take long against the stage: its ends count in `request_rate`, not in `answered_rate`."""
    timed = [answer(i, sent=i / 2 + 1, stamps=(i / 2 + 6, i / 2 + 11), due=i / 2 + 1) for i in range(20)]
    found = figures(stage(timed, RATE), [])
    assert found.offered_rate == found.answered_rate == pytest.approx(2.0)
    assert found.request_rate == pytest.approx(20 / 19.5)
    assert not any("answered well" in text for text in found.warnings)


def test_a_rate_that_is_not_kept_is_said() -> None:
    timed = [answer(i, sent=i / 2 + 1, stamps=(i + 1.1, i + 2.0), due=i / 2 + 1) for i in range(20)]
    assert any("Of 2 requests a second only 1 were answered well." in text for text in figures(stage(timed, RATE), []).warnings)


STREAM = st.builds(
    lambda index, sent, steps, extra, counted: answer(
        index,
        sent,
        [sent + sum(steps[: i + 1]) for i in range(len(steps))],
        len(steps) + extra,
        [*range(1, len(steps)), len(steps) + extra] if counted and extra >= 0 else None,
    ),
    st.integers(0, 1000), st.floats(0.1, 50), st.lists(st.floats(0.001, 2), min_size=2, max_size=12), st.integers(-1, 30), st.booleans(),
)  # fmt: skip


@given(STREAM)
def test_gaps_cover_the_stream_and_have_no_more_tokens_than_it(timed: Timed) -> None:
    found = list(gaps(timed))
    covered = sum(gap * k for gap, k in found)
    assert covered <= timed.stamps[-1] - timed.stamps[0] + 1e-9
    assert sum(k for _, k in found) <= timed.completion_tokens
    if told(timed):
        assert covered == pytest.approx(timed.stamps[-1] - timed.stamps[0])
        assert covered / sum(k for _, k in found) == pytest.approx(tpot(timed))


@given(st.lists(STREAM, min_size=1, max_size=12), st.randoms(use_true_random=False), st.floats(0.25, 8))
def test_order_does_not_matter_and_time_scales(timed: list[Timed], rng: object, factor: float) -> None:
    slos = [Slo("x", ttft=1.0, tpot=0.5)]
    once = figures(stage(timed), slos)
    other = timed.copy()
    rng.shuffle(other)  # type: ignore[attr-defined]
    assert figures(stage(other), slos) == once
    for one in timed:
        one.sent, one.done, one.stamps = one.sent * factor, one.done * factor, [at * factor for at in one.stamps]
    longer = figures(stage(timed), [])
    assert longer.e2e.mean == pytest.approx(once.e2e.mean * factor)
    assert longer.concurrency == pytest.approx(once.concurrency)
    assert longer.request_rate == pytest.approx(once.request_rate / factor)


def test_every_latency_and_rate_has_its_definition() -> None:
    assert set(DEFINITIONS) >= {
        name for name in Figures.__struct_fields__ if name not in ("profile", "repeat", "errors", "health", "warnings", "memory_most")
    }
    assert all(text.endswith(".") and text.count(". ") == 0 for text in DEFINITIONS.values())
