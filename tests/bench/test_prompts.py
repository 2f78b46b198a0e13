"""Texts: the same for the same key, different otherwise, and as long as was asked for, whatever the tokenizer is."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Callable
from itertools import combinations, takewhile
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.bench import prompts
from benchmarks.bench.errors import BenchError
from benchmarks.bench.prompts import Calibration, Texts, calibrate, on_target, tokenize_url, words_per_token
from benchmarks.bench.vocabulary import WORDS
from benchmarks.bench.words import Target, Timed

PLAIN = Texts(1, "salt", 1.0)


def by_words(text: str) -> int:
    return len(text.split()) + text.count(".")


def by_letters(text: str) -> int:
    return len(text)


def by_four_bytes(text: str) -> int:
    return -(-len(text) // 4)


def by_pieces(text: str) -> int:
    """One that knows some words whole and others in two or three pieces, as a small vocabulary does."""
    return sum(1 + hashlib.md5(word.lower().encode()).digest()[0] % 3 for word in text.replace(".", "").split()) + text.count(".")


COUNTERS = [by_words, by_letters, by_four_bytes, by_pieces]


@given(st.integers(0, 5000), st.integers(0, 3), st.text(max_size=5))
def test_a_text_follows_from_seed_salt_and_key(tokens: int, seed: int, salt: str) -> None:
    one, again = Texts(seed, salt, 1.0), Texts(seed, salt, 1.0)
    assert one.text(tokens, key=("a", 1)) == again.text(tokens, key=("a", 1))
    assert abs(by_words(one.text(tokens, key=0)) - tokens) <= 1


def test_texts_do_not_depend_on_the_process() -> None:
    """A run can be repeated elsewhere: no hash of Python's own, no order of a set."""
    found = hashlib.sha256("|".join(PLAIN.text(n, key=("x", n)) for n in (3, 50, 700)).encode()).hexdigest()
    assert found[:16] == "6d1b169ac06c9659"


def test_no_two_texts_begin_alike() -> None:
    many = [Texts(seed, salt, 1.0).text(60, key=key) for seed in (1, 2) for salt in ("a", "b") for key in range(40)]
    many += [PLAIN.part(part).text(60, key=0) for part in (0, 1, (0, 1), "0")]
    shared = [
        len(list(takewhile(lambda pair: pair[0] == pair[1], zip(a.split(), b.split(), strict=False)))) for a, b in combinations(many, 2)
    ]
    assert max(shared) <= 3  # of 13,000 pairs some share a word or two
    assert sum(shared) / len(shared) < 0.01


def test_texts_look_like_english() -> None:
    text = PLAIN.text(400, key=1)
    sentences = text.split(". ")
    assert all(sentence[0].isupper() for sentence in sentences[:-1])
    assert {word.strip(".").lower() for word in text.split()} <= set(WORDS)
    assert len(set(WORDS)) == len(WORDS) >= 500
    assert all(word.isascii() and word.isalpha() and word.islower() for word in WORDS)


def test_a_shorter_text_of_a_key_begins_like_a_longer_one() -> None:
    """A partial block of a trace shares its beginning with the whole one."""
    whole, part = PLAIN.text(512, key=1), PLAIN.text(300, key=1)
    alike = takewhile(lambda pair: pair[0] == pair[1], zip(whole, part, strict=False))
    assert len(list(alike)) > 0.9 * len(part)


def test_none_and_too_many() -> None:
    assert PLAIN.text(0, key=1) == PLAIN.text(-5, key=1) == ""
    assert by_words(PLAIN.text(1, key=1)) == 1
    with pytest.raises(BenchError, match="too long"):
        PLAIN.text(prompts.MOST + 1, key=1)
    for per_token, letter in ((0.0, 0.0), (-1.0, 0.0), (float("nan"), 0.0), (float("inf"), 0.0), (1.0, 1.0), (1.0, -0.1)):
        with pytest.raises(BenchError, match="calibration"):
            Texts(1, "", per_token, per_letter=letter)


@pytest.mark.parametrize("count", COUNTERS)
@pytest.mark.parametrize("tokenizes", [True, False])
@pytest.mark.parametrize("template", [0, 9])
def test_prompts_have_the_wanted_length_whatever_the_tokenizer(count: Callable[[str], int], tokenizes: bool, template: int) -> None:
    async def usage(text: str) -> int:
        return count(text) + template

    async def alone(text: str) -> int:
        return count(text)

    found = asyncio.run(words_per_token(usage, alone if tokenizes else None))
    assert found.source == ("tokenize" if tokenizes else "usage")
    assert abs(found.offset - template) <= (0 if tokenizes else 8 if count is by_pieces else 1)
    texts = found.texts(5, "s")
    timed = []
    for index, wanted in enumerate([32, 100, 256, 1000, 8000] * 8):
        told = asyncio.run(usage(texts.text(wanted - texts.offset, key=index)))
        timed.append(Timed(index, 0.0, prompt_tokens=told, asked_prompt=wanted))
        if count is not by_pieces:  # its words differ in ways that letters do not tell
            assert abs(told - wanted) <= 3 + 0.01 * wanted
    share = on_target(timed)
    assert share is not None and share >= (0.85 if count is by_pieces else 1.0)


@settings(max_examples=40)
@given(st.lists(st.integers(-5, 10**9) | st.none(), min_size=8, max_size=8))
def test_whatever_a_server_counts_gives_texts(counts: list[int | None]) -> None:
    answers = iter(counts)

    async def ask(text: str) -> int | None:
        return next(answers, None)

    found = asyncio.run(words_per_token(ask, ask))
    assert found.offset >= 0
    assert found.texts(1, "").text(10, key=1)


def test_a_server_that_tells_nothing_is_guessed() -> None:
    async def nothing(text: str) -> None:
        return None

    assert asyncio.run(words_per_token(nothing)) == Calibration(1.0, 0.0, 0, "guess")


class Server:
    """A tokenizer behind answers like a server's. `knows`: the paths that it has."""

    def __init__(self, *knows: str, least: int = 1) -> None:
        self.knows, self.least = knows, least
        self.asked: list[tuple[str, dict[str, Any]]] = []

    async def post(self, url: str, data: bytes) -> tuple[int, bytes]:
        asked = json.loads(data)
        path = url.split("://", 1)[1].split("/", 1)[1]
        self.asked.append((path, asked))
        if path not in self.knows:
            return 404, b'{"error": {"message": "no such path"}}'
        if path.endswith("tokenize"):
            return 200, json.dumps({"tokens": list(range(by_words(asked["content"])))}).encode()
        if asked["max_tokens"] < self.least:
            return 400, b"{}"
        text = asked["prompt"] if "prompt" in asked else asked["messages"][0]["content"]
        return 200, json.dumps({"usage": {"prompt_tokens": by_words(text) + 7}}).encode()


@pytest.mark.parametrize(
    ("server", "api", "source"),
    [
        (Server("tokenize", "v1/chat/completions"), "chat", "tokenize"),
        (Server("v1/chat/completions"), "chat", "usage"),
        (Server("v1/completions", least=16), "completions", "usage"),
    ],
)
def test_servers_are_asked_in_their_own_ways(server: Server, api: str, source: str) -> None:
    target = Target("http://x/v1", "m", api=api, extra={"top_k": 1})  # type: ignore[arg-type]
    found = asyncio.run(calibrate(target, server.post))
    assert (found.source, found.offset) == (source, 7)
    assert found.per_token == pytest.approx(1.0)
    answered = [asked for path, asked in server.asked if path in server.knows and not path.endswith("tokenize")]
    assert all(asked["top_k"] == 1 and asked["stream"] is False for asked in answered)


def test_a_model_with_little_room_is_asked_for_less() -> None:
    async def usage(text: str) -> int | None:
        return by_words(text) + 3 if by_words(text) < 100 else None

    found = asyncio.run(words_per_token(usage))
    assert (found.per_token, found.offset, found.source) == (1.0, 3, "usage")


def test_a_server_that_answers_nonsense_is_guessed() -> None:
    for answer in (b"", b"[]", b"null", b'{"usage": 3}', b'{"usage": {"prompt_tokens": true}}', b'{"count": -1}', b"[" * 100_000, b"\xff"):

        async def post(url: str, data: bytes, answer: bytes = answer) -> tuple[int, bytes]:
            return 200, answer

        assert asyncio.run(calibrate(Target("http://x/v1", "m"), post)).source == "guess"

    async def gone(url: str, data: bytes) -> tuple[int, bytes]:
        return 0, b""

    assert asyncio.run(calibrate(Target("http://x/v1", "m"), gone)).source == "guess"


def test_where_tokens_are_counted() -> None:
    assert tokenize_url(Target("http://h:1/v1", "m")) == "http://h:1/tokenize"
    assert tokenize_url(Target("https://h/under/v1/", "m")) == "https://h/under/tokenize"
    assert tokenize_url(Target("http://h:1", "m")) == "http://h:1/tokenize"


def test_the_share_on_target() -> None:
    def told(asked: int, count: int | None) -> Timed:
        return Timed(0, 0.0, prompt_tokens=count, asked_prompt=asked)

    assert on_target([told(100, 90), told(100, 110), told(100, 111), told(100, 89), told(100, None), told(0, 5)]) == 0.5
    assert on_target([told(100, None)]) is None
    assert on_target([]) is None
