"""What is sent: bodies, lengths, shared beginnings, and when."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator
from itertools import islice, pairwise
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.bench import bodies
from benchmarks.bench.captures import MOST
from benchmarks.bench.errors import BenchError
from benchmarks.bench.prompts import Texts
from benchmarks.bench.traces import Counts, Cut
from benchmarks.bench.words import Ask, Profile, Target
from benchmarks.bench.workload import Length, Lengths, Workload, parse_length

TARGET = Target("http://x/v1", "m")
FIXED = Lengths(Length("fixed", 100), Length("fixed", 10))
SYNC = Profile("sync")


def made(shape: Lengths = FIXED, profile: Profile = SYNC, count: int | None = 20, seed: int = 1, **more: Any) -> list[Ask]:
    texts = more.pop("texts", None) or Texts(1, "s", 1.0, offset=more.pop("offset", 0))
    workload = Workload(more.pop("target", TARGET), shape, texts, exact=more.pop("exact", False), continuous=False, **more)
    return list(workload.asks(profile, count, random.Random(seed)))


def text(ask: Ask) -> str:
    body = json.loads(ask.body)
    found: str = body["prompt"] if "prompt" in body else body["messages"][0]["content"]
    return found


def words(ask: Ask) -> int:
    return len(text(ask).split()) + text(ask).count(".")


def test_a_body_for_chat() -> None:
    assert json.loads(bodies.body(TARGET, "Hi", 7, seed=3)) == {
        "model": "m", "messages": [{"role": "user", "content": "Hi"}], "stream": True, "stream_options": {"include_usage": True},
        "max_tokens": 7, "temperature": 0, "seed": 3,
    }  # fmt: skip
    exact = json.loads(bodies.body(TARGET, "Hi", 7, exact=True, continuous=True, greedy=False))
    assert exact["stream_options"] == {"include_usage": True, "continuous_usage_stats": True}
    assert (exact["max_tokens"], exact["min_tokens"], exact["ignore_eos"]) == (7, 7, True)
    assert "temperature" not in exact and "seed" not in exact


def test_a_body_for_completions_without_a_stream() -> None:
    target = Target("http://x/v1", "m", api="completions", stream=False)
    assert json.loads(bodies.body(target, "Hi", 7)) == {"model": "m", "prompt": "Hi", "stream": False, "max_tokens": 7, "temperature": 0}


def test_extra_fields_replace_ours_and_null_takes_them_away() -> None:
    target = Target("http://x/v1", "m", extra={"max_tokens": None, "max_completion_tokens": 9, "temperature": 1, "top_k": None})
    found = json.loads(bodies.body(target, "Hi", 7))
    assert "max_tokens" not in found and "top_k" not in found
    assert (found["max_completion_tokens"], found["temperature"]) == (9, 1)


def test_requests_follow_from_the_seed() -> None:
    shape = Lengths(Length("lognormal", 200, 100), Length("uniform", 5, 50), prefix=30, groups=3)
    profile = Profile("rate", 5.0, 0.5)
    assert made(shape, profile) == made(shape, profile)
    other = made(shape, profile, seed=2)
    assert [ask.due for ask in other] != [ask.due for ask in made(shape, profile)]
    salted = made(shape, profile, texts=Texts(1, "other", 1.0))
    assert [(ask.due, ask.prompt_tokens, ask.output_tokens) for ask in salted] == [
        (ask.due, ask.prompt_tokens, ask.output_tokens) for ask in made(shape, profile)
    ]
    assert not {text(ask)[:20] for ask in salted} & {text(ask)[:20] for ask in made(shape, profile)}


def test_prompts_have_the_length_with_the_template() -> None:
    for ask in made(offset=9):
        assert abs(words(ask) + 9 - 100) <= 1
        assert (ask.prompt_tokens, ask.output_tokens, ask.origin) == (100, 10, -1)
    tiny = made(Lengths(Length("fixed", 3), Length("fixed", 1)), offset=9)
    assert all(words(ask) == 1 for ask in tiny)


def test_groups_share_their_prefix_and_nothing_else() -> None:
    asks = made(Lengths(Length("fixed", 50), Length("fixed", 1), prefix=64, groups=4), count=100)
    assert all(ask.prompt_tokens == 114 and abs(words(ask) - 114) <= 2 for ask in asks)
    starts = {" ".join(text(ask).split()[:50]) for ask in asks}
    assert len(starts) == 4
    assert len({text(ask) for ask in asks}) == 100


def test_the_most_that_the_model_takes() -> None:
    shape = Lengths(Length("uniform", 10, 100), Length("fixed", 1), prefix=20, most=60)
    workload = Workload(TARGET, shape, Texts(1, "s", 1.0), exact=False, continuous=False)
    sizes = [ask.prompt_tokens for ask in workload.asks(SYNC, 200, random.Random(1))]
    assert max(sizes) == 59  # and a token of the answer
    assert 0 < workload.counts.clipped <= sum(size == 59 for size in sizes)
    assert workload.counts.taken == 200


def test_when_requests_are_due() -> None:
    assert [ask.due for ask in made(profile=Profile("rate", 4.0, math.inf), count=4)] == [0.25, 0.5, 0.75, 1.0]
    assert made(profile=Profile("rate", 4.0), count=50)[-1].due == 12.5
    assert {ask.due for ask in made(profile=Profile("concurrent", 8.0))} == {0.0}
    endless = Workload(TARGET, FIXED, Texts(1, "s", 1.0), exact=False, continuous=False).asks(
        Profile("rate", 100.0), None, random.Random(1)
    )
    dues = [ask.due for ask in islice(endless, 500)]
    assert all(a <= b for a, b in pairwise(dues))
    assert 4 < dues[-1] < 6
    assert [ask.index for ask in made(count=5)] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    "profile",
    [Profile("rate", 0.0), Profile("rate", math.nan), Profile("trace"), Profile("trace", source="x", speed=0.0), Profile("capture")],
)
def test_profiles_that_say_nothing_are_refused(profile: Profile) -> None:
    with pytest.raises(BenchError):
        made(profile=profile)


def test_lengths_are_read() -> None:
    assert parse_length("512") == Length("fixed", 512)
    assert parse_length(" 10-20 ") == Length("uniform", 10, 20)
    assert parse_length("512:100") == Length("lognormal", 512, 100)


@given(st.text("0123456789-: x.e", max_size=10))
def test_what_is_no_length_is_refused_in_a_sentence(given_text: str) -> None:
    try:
        length = parse_length(given_text)
    except BenchError as error:
        assert error.usage and "MEAN:DEVIATION" in str(error)
    else:
        assert all(1 <= length.draw(random.Random(seed)) <= MOST for seed in range(3))


@pytest.mark.parametrize("wrong", ["0", "5-4", "-5", "5-", "", "5:", "1.5", "99999999", "1-99999999", "0:5", "٣"])
def test_near_misses_are_refused(wrong: str) -> None:
    with pytest.raises(BenchError):
        parse_length(wrong)


def test_lengths_have_the_mean_and_the_deviation_that_were_asked_for() -> None:
    rng = random.Random(5)
    drawn = [Length("lognormal", 400, 200).draw(rng) for _ in range(20_000)]
    assert abs(fmean(drawn) - 400) < 5 * 200 / math.sqrt(20_000)
    assert abs(stdev(drawn) - 200) < 20
    even = [Length("uniform", 3, 5).draw(rng) for _ in range(100)]
    assert set(even) == {3, 4, 5}
    assert {Length("lognormal", 7, 0).draw(rng), Length("fixed", 7).draw(rng)} == {7}


# -- traces and captures ------------------------------------------------------------------------------------------------------------------


def trace(path: Path, *rows: tuple[int, int, int, list[int]]) -> Profile:
    named = ("timestamp", "input_length", "output_length", "hash_ids")
    path.write_text("".join(json.dumps(dict(zip(named, row, strict=True))) + "\n" for row in rows))
    return Profile("trace", source=str(path))


def test_equal_prefixes_of_a_trace_are_equal_text(tmp_path: Path) -> None:
    profile = trace(tmp_path / "t", (0, 1024, 5, [1, 2]), (500, 1536, 0, [1, 2, 3]), (1000, 1024, 5, [4, 2]), (2000, 700, 5, [1, 9]))
    one, two, three, four = made(profile=profile, count=None)
    assert text(two).startswith(text(one) + " ")
    assert text(three) != text(one) and text(three).split()[-400:] == text(one).split()[-400:]
    block = text(one).split()[: 512 - 80]
    assert text(four).split()[: len(block)] == block
    assert [ask.prompt_tokens for ask in (one, two, three, four)] == [1024, 1536, 1024, 700]
    assert all(abs(words(ask) - ask.prompt_tokens) <= 3 for ask in (one, two, three, four))
    assert [(ask.due, ask.origin, ask.output_tokens) for ask in (one, two, three, four)] == [(0, 1, 5), (0.5, 2, 1), (1, 3, 5), (2, 4, 5)]


def test_the_template_takes_its_tokens_from_the_end(tmp_path: Path) -> None:
    profile = trace(tmp_path / "t", (0, 1024, 5, [1, 2]), (0, 1030, 5, [1, 2, 3]), (0, 5, 5, [1]))
    one, two, three = made(profile=profile, count=None, offset=20)
    assert abs(words(one) - 1004) <= 2 and abs(words(two) - 1010) <= 2
    assert words(three) == 1
    assert text(one).split()[:400] == text(two).split()[:400]


def test_prompts_without_blocks_are_their_own(tmp_path: Path) -> None:
    profile = trace(tmp_path / "t", (0, 600, 5, []), (0, 600, 5, []), (0, 600, 5, [1]), (0, 600, 5, [1]))
    found = [text(ask) for ask in made(profile=profile, count=None)]
    assert len(set(found)) == 4
    assert all(abs(len(each.split()) + each.count(".") - 600) <= 2 for each in found)
    assert found[2].split()[:400] == found[3].split()[:400]


def test_a_trace_is_replayed_faster_in_part_or_at_a_rate(tmp_path: Path) -> None:
    profile = trace(tmp_path / "t", *((at * 1000, 10, 1, []) for at in range(10)))
    fast = Profile("trace", source=profile.source, speed=4.0)
    assert [ask.due for ask in made(profile=fast, count=None, cut=Cut(start=4.0, stop=7.0))] == [0.0, 0.25, 0.5]
    assert len(made(profile=profile, count=3)) == 3
    rate = Profile("rate", 2.0, math.inf, profile.source)
    assert [ask.due for ask in made(profile=rate, count=3)] == [0.5, 1.0, 1.5]
    assert len(made(profile=rate, count=30)) == len(made(profile=rate, count=None)) == 10
    assert {ask.due for ask in made(profile=Profile("concurrent", 2.0, source=profile.source))} == {0.0}


def test_what_became_of_the_lines_is_counted_anew_for_each_stage(tmp_path: Path) -> None:
    profile = trace(tmp_path / "t", (0, 10, 1, []), (0, 5000, 1, []))
    workload = Workload(TARGET, FIXED, Texts(1, "s", 1.0), exact=False, continuous=False, cut=Cut(max_input=100))
    for _ in range(2):
        assert len(list(workload.asks(profile, None, random.Random(1)))) == 1
        assert workload.counts == Counts(taken=1, too_long=1)


def captured(path: Path, *rows: dict[str, Any]) -> Profile:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Profile("capture", source=str(path))


CHAT = {
    "model": "gpt",
    "messages": [{"role": "system", "content": "S"}, {"role": "user", "content": "Hi"}],
    "tools": [1],
    "max_completion_tokens": 4,
    "stream_options": {"x": 1},
}


def test_captured_requests_go_to_the_target_as_they_were(tmp_path: Path) -> None:
    profile = captured(tmp_path / "t", {"at": 3, "body": CHAT, "headers": {"X-A": "b"}}, {"at": 4, "body": CHAT, "output_tokens": 2})
    one, two = made(profile=profile, count=None, fresh=False)
    assert json.loads(one.body) == {**CHAT, "model": "m", "stream": True, "stream_options": {"include_usage": True}}
    assert (one.due, two.due, one.headers, one.output_tokens, two.output_tokens, two.origin) == (0.0, 1.0, {"X-A": "b"}, 4, 2, 2)
    target = Target("http://x/v1", "m", stream=False, extra={"tools": None})
    _, exact = (json.loads(ask.body) for ask in made(profile=profile, count=None, fresh=False, target=target, exact=True))
    assert (exact["max_tokens"], exact["min_tokens"], exact["ignore_eos"], exact["stream"]) == (2, 2, True, False)
    assert not {"tools", "stream_options", "max_completion_tokens"} & set(exact)


def test_captured_prompts_are_new_to_each_stage_and_share_what_they_shared(tmp_path: Path) -> None:
    profile = captured(tmp_path / "t", {"at": 0, "body": CHAT}, {"at": 0, "body": CHAT})

    def asks(salt: str) -> Iterator[str]:
        for ask in made(profile=profile, count=None, texts=Texts(1, salt, 1.0)):
            messages = json.loads(ask.body)["messages"]
            assert messages[0]["content"].endswith("\n\nS") and messages[1] == CHAT["messages"][1]  # type: ignore[index]
            yield messages[0]["content"]

    assert len({*asks("a")}) == 1
    assert {*asks("a")} != {*asks("b")}


@pytest.mark.parametrize(
    ("messages", "marked"),
    [
        ([{"role": "user", "content": [{"type": "image_url"}, {"type": "text", "text": "x"}]}], "#x"),
        ([{"role": "assistant", "content": None}, {"role": "user", "content": "x"}], "#x"),
        ([{"role": "user", "content": None}], None),
        ([3, None], None),
        ({"a": 1}, None),
    ],
)
def test_the_mark_goes_before_the_first_text(messages: Any, marked: str | None) -> None:
    before = json.dumps(messages)
    found = json.loads(bodies.replayed(TARGET, json.dumps({"messages": messages}).encode(), 0, mark="#"))["messages"]
    assert json.dumps(messages) == before
    assert json.dumps(found) == (before if marked is None else before.replace('"x"', json.dumps(marked)))


def test_captured_prompts_of_completions(tmp_path: Path) -> None:
    target = Target("http://x/v1", "m", api="completions")
    profile = captured(tmp_path / "t", {"at": 0, "body": {"prompt": "x"}}, {"at": 1, "body": {"prompt": [1, 2]}}, {"at": 2, "body": CHAT})
    asks = Workload(target, FIXED, Texts(1, "s", 1.0), exact=True, continuous=False).asks(profile, None, random.Random(1))
    assert text(next(asks)).endswith("\n\nx")
    assert json.loads(next(asks).body)["prompt"] == [1, 2]
    with pytest.raises(BenchError, match="line 3 of t has messages and the target is asked for completions; use --api chat"):
        next(asks)
    with pytest.raises(BenchError, match="line 1 of t has prompt and the target is asked for chat; use --api completions"):
        made(profile=profile)


def test_captures_without_times_are_sent_at_a_rate_or_refused(tmp_path: Path) -> None:
    profile = captured(tmp_path / "t", CHAT, CHAT)
    with pytest.raises(BenchError, match="t has no times to replay"):
        made(profile=profile, count=None)
    assert [ask.due for ask in made(profile=Profile("rate", 1.0, math.inf, profile.source), count=2)] == [1.0, 2.0]
    assert len(made(profile=Profile("sync", source=profile.source))) == 2


def test_prefixes_that_are_none_are_refused() -> None:
    for prefix, groups in ((-1, 1), (1, 0), (MOST + 1, 1)):
        with pytest.raises(BenchError, match="prefix"):
            made(Lengths(Length("fixed", 1), Length("fixed", 1), prefix=prefix, groups=groups))
