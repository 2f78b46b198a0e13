"""Where an event ends, and what it is."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends import sse
from backends.sse import What

lines = st.lists(st.sampled_from([b"data: x", b": c", b"event: e", b"data:", b"id: 1"]), min_size=1, max_size=3)
eols = st.sampled_from([b"\n", b"\r\n"])


@st.composite
def event_list(draw: st.DrawFn) -> list[bytes]:
    """Events with line ends of either kind, mixed within one event too."""
    return [b"".join(line + draw(eols) for line in draw(lines)) + draw(eols) for _ in range(draw(st.integers(0, 5)))]


@given(event_list(), st.binary(max_size=10))
def test_events_are_found_whole(events: list[bytes], rest: bytes) -> None:
    data = b"".join(events)
    assert sse.split(data) == (data, b"")
    assert sse.events(data) == events
    partial = b"data: " + rest.replace(b"\n", b"").replace(b"\r", b"")
    assert sse.split(data + partial) == (data, partial)
    assert sse.events(data + partial) == [*events, partial]


@given(st.lists(st.sampled_from([b"\n", b"\r\n", b"\r", b"data: x", b":"]), max_size=12).map(b"".join))
def test_nothing_is_lost_or_looped_over(data: bytes) -> None:
    whole, rest = sse.split(data)
    assert whole + rest == data
    found = sse.events(whole)
    assert b"".join(found) == whole and all(found)


MARKED = [
    (b'data: {"error":{}}\n\n', False),
    (b'data: {"finish_reason":"stop"}\n\n', False),
    (b'data: {"finish_reason": "stop"}\n\n', False),
    (b"data: [DONE]\n\n", False),
    (b"event: x\ndata: {}\n\n", False),
    (b'data: {"finish_reason":null,"x":"\\"error\\""}\n\n', True),
    (b": ping\n\n", True),
]


@pytest.mark.parametrize(("event", "plain"), MARKED)
def test_plain(event: bytes, plain: bool) -> None:
    assert sse.plain(event) is plain


@given(st.lists(st.sampled_from(MARKED), max_size=6))
def test_a_run_is_plain_when_all_of_it_is(marked: list[tuple[bytes, bool]]) -> None:
    assert sse.plain(b"".join(event for event, _ in marked)) == all(plain for _, plain in marked)


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (b"data: a\ndata:b\n\n", (b"", b"a\nb")),
        (b"event: error\r\ndata:  {} \r\n\r\n", (b"error", b"{}")),
        (b": c\nid: 7\nretry: 1\n\n", (b"", b"")),
    ],
)
def test_payload(event: bytes, expected: tuple[bytes, bytes]) -> None:
    assert sse.payload(event) == expected


def data(doc: Any) -> bytes:
    return b"data: " + json.dumps(doc).encode() + b"\n\n"


def choice(**fields: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, **fields}]}


USAGE = {"prompt_tokens": 1}
LOOKS: list[tuple[bytes, What]] = [
    (b"data: [DONE]\n\n", What.DONE),
    (b"event: done\ndata:[DONE]\r\n\r\n", What.DONE),
    (b": ping\n\n", What.OTHER),
    (b"\n\n", What.OTHER),
    (b"event: ping\ndata: {}\n\n", What.OTHER),
    (b"data: garbage\n\n", What.OTHER),
    (b'data: {"choices":"x"}\n\n', What.OTHER),
    (b'data: {"choices":[' + b"[" * 100_000 + b"\n\n", What.OTHER),
    (b'data: {"choices":[{"text":"\xff"}]}\n\n', What.OTHER),
    (b"event: error\n\n", What.ERROR),
    (b"event: error\ndata: went wrong\n\n", What.ERROR),
    (b'event: error\ndata: {"message":"x"}\n\n', What.ERROR),
    (data({"error": {"message": "x"}}), What.ERROR),
    (data({"error": "x"}), What.ERROR),
    (data({"object": "error", "message": "x", "code": 400}), What.ERROR),
    (data({"type": "error", "error": {"type": "overloaded_error"}}), What.ERROR),
    (data({"error": None, **choice(delta={"content": "x"})}), What.CONTENT),
    (data(choice(delta={"role": "assistant"})), What.OTHER),
    (data(choice(delta={"role": "assistant", "content": ""})), What.OTHER),
    (data(choice(delta={"content": None, "tool_calls": [], "refusal": None, "x": {}})), What.OTHER),
    (data(choice(delta=None)), What.OTHER),
    (data(choice()), What.OTHER),
    (data(choice(text="")), What.OTHER),
    (data(choice(text="x")), What.CONTENT),
    (data(choice(delta={"content": "x"})), What.CONTENT),
    (data(choice(delta={"reasoning_content": "x"})), What.CONTENT),
    (data(choice(delta={"tool_calls": [{"index": 0}]})), What.CONTENT),
    (data(choice(delta={}, finish_reason="stop")), What.FINISH),
    (data({"choices": [{"delta": {"content": "x"}}, {"finish_reason": "length"}]}), What.FINISH),
    (data({"choices": [], "usage": USAGE}), What.USAGE),
    (data({"choices": [], "usage": None}), What.OTHER),
    (data({"usage": USAGE}), What.OTHER),
    (data({"choices": [], "x": 1}), What.OTHER),
]


@pytest.mark.parametrize(("event", "what"), LOOKS)
def test_look(event: bytes, what: What) -> None:
    assert sse.look(event).what is what


@pytest.mark.parametrize(("event", "what"), LOOKS)
def test_what_is_plain_needs_no_look(event: bytes, what: What) -> None:
    if sse.plain(event):
        assert what not in (What.ERROR, What.FINISH, What.DONE)


def test_look_keeps_the_error_and_the_usage() -> None:
    assert sse.look(data({"error": {"message": "x"}})).error == {"message": "x"}
    assert sse.look(b"event: error\ndata: went \xff wrong\n\n").error == "went \ufffd wrong"
    assert sse.look(b"event: error\ndata: " + b"x" * 9999 + b"\n\n").error == "x" * 500
    assert sse.look(b"event: error\n\n").error == {}
    assert sse.look(data({"object": "error", "message": "m", "type": "t", "code": 1})).error == {"message": "m", "type": "t", "code": 1}
    with_usage = {**choice(delta={"content": "x"}), "usage": USAGE}
    assert sse.look(data(with_usage)).usage == json.dumps(with_usage).encode()
    assert sse.look(data({"usage": USAGE})).usage is not None
    assert sse.look(data(choice(text="x"))).usage is None


@given(st.binary(max_size=60))
def test_no_event_makes_it_fail(event: bytes) -> None:
    assert isinstance(sse.look(b"data: " + event).what, What)
