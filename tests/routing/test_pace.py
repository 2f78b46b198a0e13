"""The pace of a replica: what is learned from first tokens and ends, and what is predicted from it."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routing.pace import UNKNOWN, Line, Pace, Paces, Sent


def taught(a: float, b: float, xs: list[float], seconds: float = 1.0, noise: float = 0.0) -> tuple[Line, float]:
    line, now, rng = Line(), 0.0, random.Random(1)
    for x in xs:
        now += seconds
        line.learn(x, (a + b * x) * (1 + noise * (rng.random() - 0.5)), now)
    return line, now


def test_a_line_is_found() -> None:
    rng = random.Random(2)
    line, now = taught(0.3, 0.5, [rng.random() * 8 for _ in range(60)], noise=0.2)
    for x in (0.1, 1, 4, 8):
        assert line.mean(x) == pytest.approx(0.3 + 0.5 * x, rel=0.15)
        assert line.believed(x, now) == line.mean(x)


def test_one_answer_is_believed() -> None:
    line = Line()
    line.learn(1.0, 4.0, 0.0)
    assert line.mean(1.0) == pytest.approx(4.0)
    line.learn(0.0, 0.5, 1.0)
    line.learn(1.0, 4.0, 2.0)
    assert line.mean(0.0) == pytest.approx(0.5, rel=0.5) and line.mean(1.0) == pytest.approx(4.0, rel=0.2)


def test_what_was_slow_once_is_tried_again() -> None:
    line, now = taught(5.0, 0.1, [1.0] * 40)
    assert line.believed(1.0, now) == pytest.approx(5.1)
    assert line.believed(1.0, now + 60) > 4.0
    assert line.believed(1.0, now + 1000) < 2.0
    line.learn(1.0, 0.2, now + 1000)
    assert line.believed(1.0, now + 1000) < 1.0, "one answer after a long time outweighs forty before it"


def test_the_slope_is_remembered_longer_than_the_constant() -> None:
    rng = random.Random(3)
    line, now = taught(0.2, 20.0, [rng.random() * 4 for _ in range(50)])  # a prompt of 8,000 tokens takes 160 s here
    assert line.believed(8.0, now + 600) > 60, "the hardware is the same ten minutes later"


def test_a_change_is_followed() -> None:
    line, now = taught(0.2, 0.1, [1.0, 2.0, 3.0] * 20)
    for i in range(30):
        line.learn(2.0, 3.0, now + i)
    assert line.mean(2.0) == pytest.approx(3.0, rel=0.2)


def test_a_single_freak_moves_little() -> None:
    line, now = taught(0.5, 0.2, [1.0, 2.0, 3.0] * 20, noise=0.2)
    before = line.mean(2.0)
    line.learn(2.0, 600.0, now + 1)
    assert line.mean(2.0) < 2 * before


@given(st.lists(st.tuples(st.floats(0, 200), st.floats(-1, 4000), st.floats(0, 1e5)), max_size=60), st.floats(0, 300), st.floats(0, 1e6))
def test_whatever_is_learned_predictions_are_sane(seen: list[tuple[float, float, float]], x: float, later: float) -> None:
    line, now = Line(), 0.0
    for where, seconds, wait in seen:
        now += wait
        line.learn(where, seconds, now)
        assert line.a >= 0.0 and line.b >= 0.0
    told = line.believed(x, now + later)
    assert 0.0 <= told <= line.mean(x) + 1e-9
    assert line.believed(x, now + later + 100.0) <= told, "time only takes away"


def test_nonsense_is_left_out() -> None:
    line = Line()
    for x, y in ((1.0, -1.0), (1.0, float("nan")), (1.0, 1e9), (float("nan"), 1.0)):
        line.learn(x, y, 0.0)
    assert line.seen == 0 and "of 0" in repr(line)


def test_answers_in_no_time_at_all_are_answers_too() -> None:
    line = Line()
    for i in range(8000):
        line.learn(0.0, 0.0, float(i))
    assert line.mean(5.0) == pytest.approx(0.0, abs=1e-6)


def test_of_a_new_replica_nothing_is_known_until_somebody_finds_out() -> None:
    pace = Pace()
    assert pace.ttft(100, 0, 0.0) is None and pace.tpot(0, 0.0) is None
    first = pace.sent(100, 0, 0.0)
    assert pace.ttft(100, 1, 0.0) == 2 * UNKNOWN
    pace.sent(100, 1, 0.0)
    assert pace.ttft(100, 2, 0.0) == 3 * UNKNOWN, "not everybody goes and finds out"
    pace.first(first, 0.4)
    assert pace.ttft(100, 1, 0.4) is not None and not pace.idle and "1 waiting" in repr(pace)


def test_prompts_that_are_still_to_be_read_come_first() -> None:
    pace, now = Pace(), 0.0
    for tokens in (1000, 4000, 2000, 3000) * 10:
        now += 100.0
        sent = pace.sent(tokens, 0, now)
        pace.first(sent, now + 0.1 + tokens / 1000)
    alone = pace.ttft(1000, 0, now)
    assert alone == pytest.approx(1.1, rel=0.3)
    others = [pace.sent(3000, i, now) for i in range(3)]
    behind = pace.ttft(1000, 3, now)
    assert behind is not None and behind == pytest.approx(10.1, rel=0.3)
    for sent in others:
        pace.lost(sent, now)
        pace.lost(sent, now)  # idempotent
    assert pace.idle and pace.ttft(1000, 0, now) == alone


def test_calls_beyond_the_slots_wait_for_one() -> None:
    pace = Pace(slots=2)
    for i in range(8):
        sent = pace.sent(100, 0, 100.0 * i)
        pace.first(sent, 100.0 * i + 0.1)
        pace.rest(sent, 100, 0, 100.0 * i + 8.0)
    now = 800.0
    free, full, fuller = pace.ttft(100, 1, now), pace.ttft(100, 2, now), pace.ttft(100, 4, now)
    assert free is not None and full is not None and fuller is not None
    assert free < 0.2 and full - free == pytest.approx(4.0) and fuller - free == pytest.approx(12.0)
    waits = pace.sent(100, 2, now)
    pace.first(waits, now + 4.1)
    assert pace.ttft(100, 1, now + 4.1) == pytest.approx(free, abs=0.1), "the wait is not taken for slowness"


def test_time_between_tokens_grows_with_company() -> None:
    pace, now = Pace(), 0.0
    for company in [0, 3, 1, 7, 5] * 6:
        sent = pace.sent(10, company, now)
        pace.first(sent, now + 0.1)
        pace.rest(sent, 101, company, now + 0.1 + 100 * (0.02 + 0.01 * company))
        now += 60
    assert pace.tpot(0, now) == pytest.approx(0.02, rel=0.4)
    assert pace.tpot(7, now) == pytest.approx(0.09, rel=0.3)


def test_answers_in_one_piece_teach_the_sum() -> None:
    pace, now = Pace(), 0.0
    for tokens, output in [(1000, 100), (4000, 10), (100, 400), (2000, 200)] * 15:
        sent = pace.sent(tokens, 0, now)
        pace.whole(sent, output, now + 0.1 + 0.5 * tokens / 1000 + 0.02 * output)
        now += 30
    start, gap = pace.ttft(2000, 0, now), pace.tpot(0, now)
    assert start is not None and gap is not None
    assert start + 200 * gap == pytest.approx(5.1, rel=0.35)


def test_an_embedding_is_all_first_token() -> None:
    pace = Pace()
    for i in range(10):
        pace.whole(pace.sent(500, 0, 10.0 * i), 0, 10.0 * i + 0.25)
    one = pace.sent(500, 0, 95.0)
    pace.first(one, 95.25)
    pace.rest(one, 1, 0, 95.25)  # a single token has nothing between
    assert pace.ttft(500, 0, 100.0) == pytest.approx(0.25, rel=0.2) and pace.tpot(0, 100.0) is None


def test_who_gave_up_waiting_tells_that_it_was_long() -> None:
    pace = Pace()
    for i in range(5):
        pace.first(pace.sent(100, 0, 10.0 * i), 10.0 * i + 0.2)
    before = pace.ttft(100, 0, 50.0)
    pace.lost(pace.sent(100, 0, 50.0), 50.01)  # at once: says nothing
    assert pace.ttft(100, 0, 50.0) == before
    for i in range(5):
        pace.lost(pace.sent(100, 0, 60.0 + i), 90.0 + i)
    after = pace.ttft(100, 0, 95.0)
    assert before is not None and after is not None and after > 3 * before


def test_paces_are_kept_by_replica_and_model_and_dropped_with_them() -> None:
    paces = Paces()
    one = paces.of("r1", "m", 4)
    assert paces.of("r1", "m") is one and one.slots is None
    paces.of("r2", "m")
    paces.keep([("r1", "m"), ("r3", "m")])
    assert len(paces) == 1 and paces.of("r1", "m") is one
    assert isinstance(one.sent(1, 0, 0.0), Sent)
