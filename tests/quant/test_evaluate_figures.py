"""Figures and their intervals: against values from tables, by hand, and by drawing."""

from __future__ import annotations

import math
import random

import pytest

from quant.evaluate_figures import Estimate, of_the_source, ratio, scores, share, t_quantile, task_scores
from quant.evaluate_jobs import Figures

ONE = Figures("one", (0.1, 0.3), 1, 1, 2.0, 1.0, 1, 0.04)
TWO = Figures("two", (0.1, 0.0, 0.2), 3, 2, 5.0, 6.0, 0, 0.05)


def test_students_t_is_that_of_the_tables() -> None:
    for freedom, wanted in ((1, 12.7062), (2, 4.3027), (3, 3.1824), (4, 2.7764), (5, 2.5706), (10, 2.2281), (19, 2.0930), (60, 2.0003)):
        assert t_quantile(0.975, freedom) == pytest.approx(wanted, rel=4e-3 if freedom == 3 else 1e-3)
    assert t_quantile(0.975, 10**6) == pytest.approx(1.959966, rel=1e-5)


def test_wilsons_interval_is_that_of_the_paper() -> None:
    found = share(0, 10)
    assert (found.value, found.low) == (0.0, 0.0) and found.high == pytest.approx(0.2775, abs=1e-4)
    found = share(15, 20)
    assert found.low == pytest.approx(0.5313, abs=1e-4) and found.high == pytest.approx(0.8881, abs=1e-4)
    assert share(7, 7).high == 1.0


def test_a_ratio_by_hand() -> None:
    found = ratio([2.0, 4.0, 3.0], [10, 10, 10])
    # the mean of 0.2, 0.4, 0.3; its standard error is 0.1 / sqrt(3), and t with 2 degrees of freedom 4.3027
    assert found.value == pytest.approx(0.3)
    assert found.high is not None and found.high - 0.3 == pytest.approx(4.3027 * 0.1 / math.sqrt(3), rel=1e-4)
    assert ratio([5.0], [10]) == Estimate(0.5)
    assert ratio([0.0, 10.0], [10, 10], 0.0, 1.0) == Estimate(0.5, 0.0, 1.0)


def test_intervals_hold_what_they_promise() -> None:
    rng, held = random.Random(4), 0
    for _ in range(600):
        counts = [rng.randrange(100, 400) for _ in range(12)]
        sums = [count * max(0.0, rng.gauss(0.3, 0.05)) for count in counts]  # tokens of a text are as one
        found = ratio(sums, counts)
        assert found.low is not None and found.high is not None
        held += found.low <= 0.3 <= found.high
    assert 0.93 <= held / 600 <= 0.98


def test_scores_of_two_texts() -> None:
    found = scores([ONE, TWO, Figures("empty", (), 0, 0, 0.0, 0.0, 0, 0.0)], compared=True)
    assert found is not None and (found.texts, found.tokens) == (2, 5)
    assert found.kld is not None and found.kld.value == pytest.approx(0.14)
    assert found.same is not None and found.same.value == 0.8
    assert found.flips is not None and found.flips.value == pytest.approx(1 / 3)
    assert found.perplexity.value == pytest.approx(math.exp(7 / 3))
    assert found.source_perplexity is not None and found.source_perplexity.value == pytest.approx(math.exp(7 / 3))
    assert found.ratio is not None and found.ratio.value == pytest.approx(1.0)
    assert found.moved == pytest.approx(math.sqrt(0.09 / 3))
    assert (found.kld_99, found.kld_worst, found.worst_text) == (0.3, 0.3, "one")


def test_what_nothing_can_be_said_of() -> None:
    assert scores([], compared=True) is None and of_the_source([Figures("empty", (), 0, 0, 0.0, 0.0, 0, 0.0)]) is None
    alone = scores([ONE], compared=False)
    assert alone is not None and alone.kld is None and alone.perplexity == Estimate(math.exp(2.0))
    huge = scores([Figures("huge", (0.0,), 1, 1, 9000.0, 9000.0, 0, 0.0)] * 2, compared=False)
    assert huge is not None and math.isfinite(huge.perplexity.value)


def test_the_source_has_its_own_perplexity() -> None:
    found = of_the_source([ONE, TWO])
    assert found is not None and found.perplexity.value == pytest.approx(math.exp(7 / 3)) and found.kld is None


def test_questions() -> None:
    assert task_scores([], None) is None
    alone = task_scores([True, False], None)
    assert alone is not None and alone.right.value == 0.5 and alone.flips is None
    both = task_scores([True, False, False, True], [True, True, False, False])
    assert both is not None and both.source_right is not None and both.flips is not None
    assert (both.right.value, both.source_right.value, both.flips.value) == (0.5, 0.5, 0.5)
