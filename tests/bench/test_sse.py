"""Events are the same whatever pieces they come in; the oracle reads the whole text line by line, as the standard says it."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.bench.sse import MOST, Splitter, TooLong, data_of

PIECES = st.sampled_from(
    [b"data: a", b"data:b", b"data", b"data:  c", b": hello", b"event: error", b"id: 7", b"x", b"\n", b"\r\n", b"\r", b"\n\n"]
)
ENDED = st.lists(PIECES, max_size=40).map(b"".join)


def by_the_book(text: bytes) -> tuple[list[tuple[bytes, bytes]], bytes]:
    """Data and type of each event that has data, and the data of what was left without an end."""
    found: list[tuple[bytes, bytes]] = []
    data: list[bytes] = []
    kind = b""
    text = text.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    *lines, last = text.split(b"\n")
    for line in [*lines, None]:
        if line == b"":
            found.append((b"\n".join(data), kind))
            data, kind = [], b""
            continue
        if line is None:
            line = last
        name, _, value = line.partition(b":")
        if name == b"data":
            data.append(value.removeprefix(b" "))
        elif name == b"event":
            kind = value.removeprefix(b" ")
    return [each for each in found if each[0]], b"\n".join(data)


def read(pieces: list[bytes]) -> tuple[list[tuple[bytes, bytes]], bytes]:
    splitter = Splitter()
    events = [data_of(event) for piece in pieces for event in splitter.feed(piece)]
    return [each for each in events if each[0]], data_of(splitter.rest())[0]


def cut(text: bytes, at: list[int]) -> list[bytes]:
    edges = [0, *sorted(min(each, len(text)) for each in at), len(text)]
    return [text[a:b] for a, b in itertools.pairwise(edges)]


@given(ENDED, st.lists(st.integers(0, 200), max_size=12))
def test_events_are_those_of_the_standard_wherever_reads_end(text: bytes, at: list[int]) -> None:
    assert read(cut(text, at)) == by_the_book(text)


@given(ENDED)
def test_byte_by_byte_is_the_same(text: bytes) -> None:
    assert read([bytes([each]) for each in text]) == by_the_book(text)


@pytest.mark.parametrize("at", range(5))
def test_a_byte_order_mark_is_passed_over(at: int) -> None:
    text = b"\xef\xbb\xbfdata: a\n\n"
    assert read([text[:at], text[at:]]) == ([(b"a", b"")], b"")


def test_an_event_without_an_end_is_not_gathered_for_ever() -> None:
    splitter = Splitter()
    with pytest.raises(TooLong):
        for _ in range(MOST // 65536 + 1):
            splitter.feed(b"data: " + b"x" * 65530)


def test_nothing_is_left_after_the_rest() -> None:
    splitter = Splitter()
    assert splitter.feed(b"data: a") == []
    assert splitter.rest() == b"data: a"
    assert splitter.rest() == b""
