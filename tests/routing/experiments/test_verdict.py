"""Words: verdicts from intervals, numbers that people read, the headline of every state."""

from __future__ import annotations

import re

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from routing.experiments import verdict
from routing.experiments.words import (
    METRICS,
    ArmResult,
    Comparison,
    Design,
    Estimate,
    Guardrail,
    Metric,
    Outlook,
    Ratio,
    Result,
    Role,
    Shadowed,
    Verdict,
)

DESIGN = Design(
    "e",
    "chat",
    ("control", "candidate"),
    (1.0, 1.0),
    secondary=("cost", "feedback:stars"),
    guardrails=(Guardrail("error", 0.1),),
    metrics={
        "feedback:stars": Metric("feedback:stars", "mean", "higher", "stars {given}"),
        "feedback:right": Metric("feedback:right", "boolean", "higher", "right"),
    },
)
LOWER, HIGHER = METRICS["latency"], METRICS["schema_valid"]


def compared(metric: str, lo: float | None, hi: float | None, role: Role = "primary", cuped: float = 0.0) -> Comparison:
    value = (lo + hi) / 2 if lo is not None and hi is not None else None
    change = Estimate(value, lo, hi)
    judged = verdict.judge(change, DESIGN.metric(metric), role, DESIGN.effect, 0.1 if role == "guardrail" else 0.0)
    found = Comparison("candidate", metric, role, change, 0.01234, 0.05, judged, cuped)
    return msgspec.structs.replace(found, words=verdict.words(DESIGN, found))


def result(*comparisons: Comparison, **more: object) -> Result:
    arms = [ArmResult("control", 0.5, True, 2155, 5000), ArmResult("candidate", 0.5, False, 2155, 5000)]
    base = Result(
        "e", "chat", "test", "running", 0.0, 0.0, "latency", 0.05, 0.05, 4310, 10_000, arms, list(comparisons), None, Outlook(), "", []
    )
    return msgspec.structs.replace(base, **more)


@pytest.mark.parametrize(
    ("metric", "role", "lo", "hi", "expected"),
    [
        (LOWER, "primary", -0.15, -0.08, "better"),
        (LOWER, "primary", 0.01, 0.08, "worse"),
        (HIGHER, "primary", 0.01, 0.08, "better"),
        (HIGHER, "secondary", -0.15, -0.08, "worse"),
        (LOWER, "primary", -0.04, 0.04, "same"),
        (LOWER, "primary", -0.04, 0.06, "unsure"),
        (LOWER, "primary", None, None, "unsure"),
        (LOWER, "guardrail", 0.05, 0.2, "unsure"),
        (LOWER, "guardrail", 0.11, 0.2, "worse"),
        (HIGHER, "guardrail", -0.2, -0.11, "worse"),
        (HIGHER, "guardrail", -0.2, -0.05, "unsure"),
        (LOWER, "guardrail", 3.0, None, "worse"),
        (HIGHER, "primary", 3.0, None, "better"),
        (LOWER, "guardrail", -0.5, None, "unsure"),
    ],
)
def test_verdicts_follow_from_the_interval(metric: Metric, role: Role, lo: float | None, hi: float | None, expected: Verdict) -> None:
    assert verdict.judge(Estimate(0.0, lo, hi), metric, role, 0.05, 0.1) == expected


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (0.1234, "12 %"),
        (0.1, "10 %"),
        (0.09949, "9.9 %"),
        (0.0996, "10 %"),
        (0.05, "5 %"),
        (0.0034, "0.3 %"),
        (0.00012, "0.01 %"),
        (0.000001, "0 %"),
        (0.0, "0 %"),
        (-0.25, "-25 %"),
        (1.5, "150 %"),
        (12.345, "1,234 %"),
        (-1e-9, "0 %"),
    ],
)
def test_percentages_have_two_digits_that_count(share: float, text: str) -> None:
    assert verdict.percent(share) == text


@given(st.floats(-1, 1e6))
def test_percentages_are_near_what_they_say(share: float) -> None:
    text = verdict.percent(share)
    number = float(text.removesuffix(" %").replace(",", ""))
    assert number == pytest.approx(share * 100, rel=0.5 if abs(share) < 0.01 else 0.055, abs=0.0011)
    assert verdict.signed(share).lstrip("+") == text


def test_words_say_what_changed_for_users() -> None:
    assert compared("latency", -0.15, -0.08).words == "candidate answers 12 % faster (between 8 % and 15 %)"
    assert compared("latency", 0.08, 0.16).words == "candidate answers 12 % slower (between 8 % and 16 %)"
    assert compared("error", 0.2, 0.3, "guardrail").words == "candidate fails 25 % more often (between 20 % and 30 %)"
    assert compared("error", -0.2, 0.3, "guardrail").words == "candidate: no harm shown yet in failed requests (between -20 % and +30 %)"
    assert (
        compared("error", -0.2, 0.09, "guardrail").words
        == "candidate: any harm is less than allowed in failed requests (between -20 % and +9 %)"
    )
    assert compared("error", 3.0, None, "guardrail").words == "candidate fails at least 300 % more often"
    assert compared("error", -0.3, None, "guardrail").words == "candidate: too little was seen of failed requests"
    assert (
        compared("cost", -0.2, 0.3, "secondary").words
        == "no difference between candidate and control shown yet in the cost of a request (between -20 % and +30 %)"
    )
    assert compared("cost", None, None, "secondary").words == "candidate: too little was seen of the cost of a request"
    same = compared("latency", -0.01, 0.02).words
    assert same == "candidate does not differ from control in the time to the whole answer by 5 % or more (between -1 % and +2 %)"
    assert compared("feedback:right", -0.03, -0.01, "secondary").words == "candidate is rated right 2 % less often (between 1 % and 3 %)"
    assert compared("feedback:stars", 0.08, 0.16, "secondary").words == "candidate has 12 % more of stars {given} (between 8 % and 16 %)"


def test_every_metric_has_its_phrase() -> None:
    for metric in METRICS.values():
        less, more = verdict.said(metric, -0.1), verdict.said(metric, 0.1)
        assert less != more and "10 %" in less and "10 %" in more and "{" not in less + more


def test_headlines_of_every_state() -> None:
    won = result(compared("latency", -0.15, -0.08), winner="candidate")
    assert verdict.headline(DESIGN, won) == "candidate answers 12 % faster (between 8 % and 15 %); 4,310 users."
    lost = result(compared("latency", 0.08, 0.16))
    assert verdict.headline(DESIGN, lost) == "control is best: candidate answers 12 % slower (between 8 % and 16 %); 4,310 users."
    same = verdict.headline(DESIGN, result(compared("latency", -0.01, 0.02)))
    assert same.startswith("No arm is better than control: candidate does not differ")
    early = result(compared("latency", -0.1, 0.02), outlook=Outlook(9000, 0.08, 500.0, 9.4))
    assert verdict.headline(DESIGN, early) == (
        "Too early to say: no difference between candidate and control shown yet in the time to the whole answer (between -10 % and +2 %); "
        "about 9 days to go; 4,310 users."
    )
    hours = verdict.headline(DESIGN, msgspec.structs.replace(early, outlook=Outlook(9000, 0.08, 500.0, 0.03)))
    assert "about 1 hour to go" in hours
    hurt = result(compared("latency", -0.15, -0.08), compared("error", 0.2, 0.3, "guardrail"))
    assert verdict.headline(DESIGN, hurt) == "candidate fails 25 % more often (between 20 % and 30 %): a guardrail is hurt; 4,310 users."
    rolled = msgspec.structs.replace(hurt, status="rolled_back")
    assert verdict.headline(DESIGN, rolled).startswith("Rolled back to control: candidate fails 25 % more often")
    promoted = msgspec.structs.replace(won, status="promoted")
    assert (
        verdict.headline(DESIGN, promoted) == "candidate was promoted: candidate answers 12 % faster (between 8 % and 15 %); 4,310 users."
    )
    split = Ratio({"control": 3000, "candidate": 1310}, {"control": 2155.0, "candidate": 2155.0}, 1e-9, True)
    bad = msgspec.structs.replace(won, ratio=split, winner=None)
    assert verdict.headline(DESIGN, bad) == (
        "Do not trust this yet: users are not split as they should be (3,000 / 1,310 instead of 2,155 / 2,155); 4,310 users."
    )
    assert verdict.reasons(DESIGN, bad)[0].startswith("Users should be split 2,155 / 2,155 and are split 3,000 / 1,310.")


def test_reasons_are_whole_sentences_without_jargon() -> None:
    full = result(
        compared("latency", -0.04, -0.01, cuped=0.4),
        compared("error", 0.2, 0.3, "guardrail"),
        compared("cost", 0.1, 0.2, "secondary"),
        compared("feedback:stars", None, None, "secondary"),
        crossed=1,
        outlook=Outlook(9000, 0.03, 500.0, 9.4),
    )
    texts = verdict.reasons(DESIGN, full)
    assert texts == [
        "candidate answers 2.5 % faster (between 1 % and 4 %). That is less than the 5 % that matter here.",
        "candidate fails 25 % more often (between 20 % and 30 %). That is more harm than the guardrail allows (10 %).",
        "candidate costs 15 % more (between 10 % and 20 %). This was looked at beside the main question: take it as a hint.",
        "candidate: too little was seen of stars {given}.",
        "What was seen of users before the experiment took away up to 40 % of the noise.",
        "1 user came to more than one arm and counts for none.",
        "To find a change of 5 %, about 9,000 users are needed: about 9 days more at the present rate.",
        "With the users seen so far a change of about 3 % or more would show.",
    ]
    assert not re.search(r"alpha|p value|sigma|CUPED|confidence", " ".join([*texts, verdict.headline(DESIGN, full)]))


def test_intervals_without_ends_are_said_too() -> None:
    assert verdict.between(LOWER, Estimate(None, None, 0.2)) == "not known how much"
    assert verdict.between(LOWER, Estimate(None, 0.2, None)) == "at least +20 %"


def test_what_only_mirrors_says_so() -> None:
    alone = msgspec.structs.replace(DESIGN, arms=("control",), weights=(1.0,))
    shadows = [Shadowed("other", 1), Shadowed("third", 2000)]
    said = verdict.headline(alone, result(arms=[ArmResult("control", 1.0, True, 4310, 5000)], shadows=shadows))
    assert said == "Nothing is compared with control but what it mirrors; 1 answer by other; 2,000 answers by third; 4,310 users."
