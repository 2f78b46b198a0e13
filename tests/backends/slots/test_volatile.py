"""A line that changes is found where it is one, and nothing else is called so."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from backends.slots import volatile
from backends.slots.table import text_of
from backends.slots.volatile import Volatile, Watch
from backends.wire import parse

RULES = "\n".join(f"Rule {i}: always say {i * 7 % 13}." for i in range(60))


def text(system: str, *turns: str, **more: Any) -> bytes:
    messages = [{"role": "system", "content": system}, *({"role": "user", "content": turn} for turn in turns)]
    found = text_of("chat", parse(json.dumps({"messages": messages, **more}).encode()))
    assert found is not None
    return found


def told(*texts: bytes) -> list[Volatile]:
    watch = Watch()
    for each in texts:
        watch.see("m", "t", each)
    return [*watch.told(1.0)]


def test_a_time_in_the_first_lines_is_found() -> None:
    texts = [text(f"You are an agent.\nCurrent time: 2026-01-01 10:0{i}\n{RULES}", f"question {i}") for i in range(6)]
    (found,) = told(*texts)
    start = texts[0].index(b"Current time")
    assert (found.model, found.tenant, found.stable, found.times, found.prompts) == ("m", "t", start, 5, 6)
    assert found.examples == ("Current time: 2026-01-01 10:05", "Current time: 2026-01-01 10:04", "Current time: 2026-01-01 10:03")
    assert len(RULES) <= found.lost <= len(texts[0]) and found.pattern == "Current time: 2026-01-01 10:0…"
    said = found.sentence(True)
    assert said.startswith(
        f"The first {start} tokens are stable; then a line changes (5 times in 6 prompts): 'Current time: 2026-01-01 10:0…'."
    )
    assert "Current time" not in found.sentence(False) and f"The first {start} tokens" in found.sentence(False)


def test_a_line_of_another_length_and_several_lines() -> None:
    texts = [text(f"x-billing: cch={'ab' * i};\nsession {i}\n{RULES}", "question") for i in range(1, 6)]
    (found,) = told(*texts)
    assert (
        found.times == 4
        and found.examples[0].startswith("x-billing: cch=ababababab; session 5")
        and found.pattern.startswith("x-billing: cch=ab")
    )


def test_within_one_tenant_sessions_that_take_turns() -> None:
    texts = []
    for i in range(8):
        texts.append(text(f"Agent {i % 2}, at {i} o'clock.\n{RULES}", f"question {i}"))
    found = told(*texts)
    assert sum(each.times for each in found) >= 5


def test_questions_and_conversations_are_none() -> None:
    assert not told(*(text(RULES, f"question {i}" * 40) for i in range(9)))
    turns = [f"turn {i} " * 30 for i in range(9)]
    assert not told(*(text(RULES, *turns[:i]) for i in range(1, 9)))
    assert not told(*(text(RULES, "the same") for _ in range(9)))
    assert not told(*(text(f"{i} short", "q") for i in range(9)))


def test_twice_is_no_habit() -> None:
    assert not told(*(text(f"time {i}\n{RULES}", "q") for i in range(3)))


def test_tools_and_salts() -> None:
    tools = [{"type": "function", "function": {"name": "f", "description": RULES}}]
    texts = [text(f"It is {i}.\n{RULES}", "q", tools=tools, cache_salt=f"salt {i % 2}") for i in range(6)]
    (found,) = told(*texts)
    assert found.stable > len(RULES) and found.pattern == "It is …" and found.times == 5


def test_what_is_kept_is_bounded() -> None:
    watch = Watch()
    for i in range(200):
        watch.see(f"m{i}", "t", text(RULES, "q" * 100_000))
    assert len(watch.recent) == volatile.KEYS
    for i in range(100):
        watch.see("m", "t", text(f"{i}\n{RULES * (1 + i % 20)}" + "x" * 100_000, "q"))
    kept = watch.recent["m", "t"]
    assert len(kept.texts) == volatile.TEXTS and max(map(len, kept.texts)) <= volatile.TEXT and len(kept.spots) <= volatile.SPOTS
    assert all(len(each) <= volatile.LONGEST for found in watch.told(1.0) for each in found.examples)


@given(st.lists(st.text(max_size=40), min_size=2, max_size=8), st.text(min_size=1, max_size=60))
def test_whatever_is_said_nothing_fails(lines: list[str], own: str) -> None:
    texts = [text(f"{own}\n{line}\n{RULES}", own, line) for line in lines]
    for found in told(*texts, *texts):
        assert found.stable >= 0 and found.times >= volatile.RECURS and found.sentence(True) and found.sentence(False)
