"""What is decided from texts and learned times."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.slots.ride import Truth, truth
from backends.slots.store import Kept
from backends.slots.table import Computing, Speed, Table, choose, common, nearest, text_of
from backends.wire import parse


@given(st.binary(max_size=300), st.binary(max_size=50), st.binary(max_size=50))
def test_common_is_the_common_prefix(shared: bytes, one: bytes, other: bytes) -> None:
    a, b = shared + one, shared + other
    assert common(a, b) == next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def doc(**fields: Any) -> Any:
    return parse(json.dumps(fields, separators=(",", ":")).encode())


def test_the_text_of_a_prompt() -> None:
    user = {"role": "user", "content": "hi"}
    text = text_of("chat", doc(messages=[user], tools=[{"a": 1}], temperature=1))
    assert text == b'[{"a":1}][{"role":"user","content":"hi"}'
    longer = text_of("chat", doc(messages=[user, user], tools=[{"a": 1}]))
    assert longer is not None and longer.startswith(text)
    assert text_of("completions", doc(prompt="abc")) == b'"abc'
    refused: list[tuple[str, dict[str, Any]]] = [
        ("completions", {"prompt": [1]}), ("completions", {"prompt": ["a", "b"]}), ("embeddings", {"input": "x"}), ("rerank", {}),
        ("chat", {"messages": [user], "n": 2}), ("chat", {"messages": [user], "id_slot": 0}), ("chat", {"messages": [user], "lora": []}),
        ("chat", {"messages": [{"content": [{"type": "image_url"}]}]}), ("chat", {"messages": [user], "cache_prompt": False}),
    ]  # fmt: skip
    assert [text_of(api, doc(**fields)) for api, fields in refused] == [None] * len(refused)


def test_the_slot_that_holds_most_else_the_one_to_lose() -> None:
    table = Table(3)
    a, b, c = table.slots
    assert table.nearest(b"x" * 1000, 0.0) == (a, 0)
    a.text, b.text, a.used, b.used = b"x" * 500 + b"a", b"x" * 700 + b"b", 5.0, 4.0
    assert table.nearest(b"x" * 1000, 9.0) == (b, 700)
    assert table.nearest(b"y" * 1000, 9.0) == (c, 0)  # the empty one
    table.take(b)
    assert table.nearest(b"x" * 1000, 9.0) == (a, 500)
    assert table.sibling(b"x" * 1000) == 700  # also of one that is taken
    c.text, c.used = b"z" * 600, 3.0
    assert table.spare(9.0) is c  # used longest ago
    c.until = 10.0
    assert table.spare(9.0) is a and table.spare(11.0) is c  # one that the engine has not left yet comes last
    table.take(a)
    table.take(c)
    assert table.spare(9.0) is None and table.nearest(b"x", 9.0) == (None, 0)
    table.free(a, 20.0)
    assert table.spare(21.0) is a and a.used == 20.0


def test_short_texts_share_their_form_and_not_a_slot() -> None:
    table = Table(2)
    table.slots[0].text = b'[{"role":"user","content":"' + b"x" * 1000
    assert table.nearest(b'[{"role":"user","content":"hi"', 0.0) == (table.slots[1], 0)


def speed() -> Speed:
    found = Speed()
    found.prefill, found.ratio, found.density = 1e-3, 1.0, 1e4
    return found


def entry(text: bytes, tokens: int, near: bool = True) -> Kept:
    kept = Kept("n", text, tokens, tokens * 10_000)
    kept.near = near
    return kept


def test_computing_restoring_or_waiting() -> None:
    kept = entry(b"x" * 1000, 1000)
    assert choose(1020, 0, None, 0, None, speed()) == "run"
    assert choose(1020, 0, kept, 1000, None, speed()) == "restore"
    assert choose(1020, 1010, kept, 1000, None, speed()) == "run"  # its slot holds as much
    assert choose(20, 0, kept, 20, None, speed()) == "run"  # not worth the trip
    now = Computing(1000, 0.5, True)
    assert choose(1020, 0, None, 0, now, speed()) == "wait"
    assert choose(1020, 0, kept, 1000, now, speed()) == "restore"  # what the store has is here already
    assert choose(1020, 1015, None, 0, now, speed()) == "run"
    assert choose(1020, 0, None, 0, Computing(1000, 1.1, False), speed()) == "wait"  # on another engine: no more than a little later
    assert choose(1020, 0, None, 0, Computing(1000, 5.0, False), speed()) == "run"
    assert choose(1020, 0, None, 0, Computing(1000, 5.0, True), speed()) == "wait"  # the same engine computes that first anyway


def test_disk_is_slower_than_memory_and_entries_hold_what_they_hold() -> None:
    assert speed().loaded(entry(b"x", 1000, near=False)) > speed().loaded(entry(b"x", 1000))
    half = entry(b"x" * 1000, 500)  # saved before it was computed to its end
    assert nearest([half, entry(b"x" * 100, 100)], b"x" * 1000, 1.0) == (half, 500)
    assert nearest([half], b"y" * 1000, 1.0) == (None, 0)


def test_what_is_learned() -> None:
    found = Speed()
    found.expect(8_000_000_000, 4)
    assert found.prefill == pytest.approx(0.2)
    found.learn("prefill", 0.1)
    found.learn("prefill", 0.2)
    assert found.prefill == pytest.approx(0.125)
    found.expect(1, 1)  # what was measured is known better
    assert found.knows("prefill") and found.prefill == pytest.approx(0.125) and not found.knows("ratio")


def test_what_the_engine_tells() -> None:
    told = b'data: {"choices":[],"timings":{"cache_n":7,"prompt_n":3,"prompt_ms":12.5,"predicted_n":1}}\n\n'
    assert truth(told) == Truth(7, 3, 0.0125)
    assert truth(b'{"choices":[]}') is None and truth(b'{"timings":{"other":1}}') is None


def test_one_move_that_was_held_up_does_not_end_all_moving() -> None:
    found = speed()
    kept = entry(b"x" * 1000, 1000)
    usual = found.loaded(kept)
    found.moved("load", 100.0, kept.size)
    assert found.loaded(kept) == usual
    for _ in range(3):
        found.moved("load", 100.0, kept.size)
    assert choose(1020, 0, kept, 1000, None, found) == "run"  # so it is now
    for _ in range(200):
        found.spurn()
    assert choose(1020, 0, kept, 1000, None, found) == "restore"  # and is tried again
