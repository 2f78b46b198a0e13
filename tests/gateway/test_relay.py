"""From an upstream answer to what the client sees: the same however it is cut, never more than it may."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.types import Fault
from gateway.relay import DONE, StreamRelay, WholeAnswer, check_whole

LIMIT = 1 << 20


def data(doc: Any) -> str:
    return f"data: {json.dumps(doc)}"


def delta(**fields: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": fields, "finish_reason": None}]}


ROLE = data(delta(role="assistant", content=""))
COMMENT = ": keep-alive"
TEXTS = [data(delta(content=text)) for text in ("a", "b\n\nc", "é", '"error"', "[DONE", 'data: {"error":1}', '"finish_reason":"stop"')]
OTHER_FINISH = data({"choices": [{"index": 1, "delta": {}, "finish_reason": "length"}]})
FINISH = data({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
USAGE = data({"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}})
ERRORS = [data({"error": {"message": "boom", "code": 503}}), "event: error\ndata: boom", data({"object": "error", "message": "boom"})]
END = "data: [DONE]"


def wired(events: list[str], eol: str = "\n") -> bytes:
    return "".join(event.replace("\n", eol) + eol + eol for event in events).encode()


def run(stream: bytes, cuts: list[int], *, strip: bool = True, limit: int = LIMIT) -> tuple[bytes, StreamRelay]:
    """What comes out when `stream` is fed in parts cut at those places, up to a fault or its close."""
    relay = StreamRelay("gpu", strip, limit)
    out = b""
    places = [0, *sorted({c % (len(stream) + 1) for c in cuts}), len(stream)]
    for start, end in itertools.pairwise(places):
        if start < end:
            out += relay.feed(stream[start:end])
            if relay.fault is not None:
                return out, relay
    return out + relay.close(), relay


eols = st.sampled_from(["\n", "\r\n"])
cut_lists = st.lists(st.integers(0, 10_000), max_size=12)
starts = st.lists(st.sampled_from([ROLE, COMMENT]), max_size=3)
middles = st.lists(st.sampled_from([*TEXTS, COMMENT, ROLE]), max_size=6)
ends = st.sampled_from(
    [[FINISH, END], [FINISH, USAGE, END], [FINISH], [OTHER_FINISH, TEXTS[0], FINISH, COMMENT, USAGE, END], [FINISH, END, TEXTS[0]]]
)


@given(starts, middles, ends, eols, cut_lists, st.booleans())
def test_the_same_bytes_however_they_come(
    start: list[str], middle: list[str], end: list[str], eol: str, cuts: list[int], strip: bool
) -> None:
    events = start + middle + end
    stream = wired(events, eol)
    whole, relay = run(stream, [], strip=strip)
    assert relay.fault is None and relay.committed
    an_event_a_read = [len(wired(events[:i], eol)) for i in range(len(events))]
    for cut in (cuts, an_event_a_read, list(range(len(stream)))):
        assert run(stream, cut, strip=strip)[0] == whole
    content = next(i for i, e in enumerate(events) if e in (FINISH, OTHER_FINISH) or e in TEXTS)
    last = events.index(END) if END in events else len(events)
    seen = [e for i, e in enumerate(events[:last]) if not (e == COMMENT and i < content) and not (e == USAGE and strip)]
    assert whole == wired(seen, eol) + (wired([END], eol) if END in events else DONE)
    assert (relay.usage_event is None) == (USAGE not in events)


@given(starts, middles, st.sampled_from(ERRORS), middles, st.booleans(), eols, cut_lists)
def test_an_error_anywhere_is_a_fault_and_nothing_after_it_leaks(
    start: list[str], middle: list[str], error: str, after: list[str], finished: bool, eol: str, cuts: list[int]
) -> None:
    before = start + middle + ([FINISH, END] if finished else [])
    stream = wired([*before, error, *after, FINISH, END], eol)
    for cut in ([], cuts, list(range(len(stream)))):
        out, relay = run(stream, cut)
        assert relay.fault is not None and relay.fault.message == "boom" and relay.fault.origin == "backend"
        committed = finished or any(e in TEXTS for e in middle)
        assert relay.committed is committed
        content = next((i for i, e in enumerate(before) if e in TEXTS or e == FINISH), len(before))
        seen = [e for i, e in enumerate(before) if e != END and not (e == COMMENT and i < content)]
        assert out == (wired(seen, eol) if committed else b"")


@given(starts, middles, eols, cut_lists, st.integers(0, 10_000))
def test_an_end_without_a_finish_is_a_fault_and_only_whole_events_pass(
    start: list[str], middle: list[str], eol: str, cuts: list[int], at: int
) -> None:
    stream = wired([*start, *middle, FINISH], eol)
    stream = stream[: at % (stream.rindex(b"finish_reason") + 1)]
    for cut in ([], cuts, list(range(len(stream)))):
        out, relay = run(stream, cut)
        assert relay.fault is not None and relay.fault.code == "stream_cut" and relay.fault.retry
        allowed = [e for i, e in enumerate([*start, *middle]) if e != COMMENT or i > content_at([*start, *middle])]
        assert wired(allowed, eol).startswith(out)
        assert not out or out.endswith((eol + eol).encode())


def content_at(events: list[str]) -> int:
    return next((i for i, e in enumerate(events) if e in TEXTS), len(events))


@given(middles, eols)
def test_done_is_held_until_the_close(middle: list[str], eol: str) -> None:
    relay = StreamRelay("gpu", True, LIMIT)
    out = relay.feed(wired([*middle, FINISH, END], eol))
    assert END.encode() not in out
    assert relay.close() == wired([END], eol)


@pytest.mark.parametrize("missing", ["\n", "\n\n", "\r\n", "\n\r\n", "\r\n\r\n"])
@pytest.mark.parametrize("last", [TEXTS[0], FINISH, END, USAGE])
def test_a_last_event_without_its_empty_line_counts_when_it_is_whole(last: str, missing: str) -> None:
    eol = "\r\n" if "\r" in missing else "\n"
    events = [TEXTS[0], FINISH, last]
    stream = wired(events, eol).removesuffix(missing.encode())
    out, relay = run(stream, [])
    assert relay.fault is None
    assert out == wired([e for e in events if e not in (USAGE, END)], eol) + (wired([END], eol) if last == END else DONE)


def test_a_last_event_that_was_cut_is_dropped() -> None:
    for rest in ('data: {"choices": [{"del', "data", ": comm", "event: pi", ROLE + "\r"):
        out, relay = run(wired([TEXTS[0]]) + rest.encode(), [])
        assert out == wired([TEXTS[0]]) and relay.fault is not None and relay.fault.code == "stream_cut"
    out, relay = run(wired([TEXTS[0]]) + b"event: error\ndata: bo", [])
    assert out == wired([TEXTS[0]]) and relay.fault is not None and relay.fault.message == "bo"


def test_only_done_is_no_answer() -> None:
    out, relay = run(wired([ROLE, END]), [])
    assert out == b"" and relay.fault is not None and relay.fault.code == "stream_empty" and relay.fault.retry


def test_blank_lines_between_events_do_no_harm() -> None:
    stream = wired([TEXTS[0]]) + b"\n\n\n" + wired([TEXTS[1]]) + b"\n" + wired([FINISH, END])
    for cuts in ([], list(range(len(stream)))):
        out, relay = run(stream, cuts)
        assert relay.fault is None and b"".join(out.split(b"\n")) == b"".join(wired([TEXTS[0], TEXTS[1], FINISH, END]).split(b"\n"))


def test_a_comment_with_data_is_an_event() -> None:
    event = COMMENT + "\n" + ROLE
    assert run(wired([event, TEXTS[0], FINISH, END]), [])[0] == wired([event, TEXTS[0], FINISH, END])


def test_a_finish_that_only_the_close_finds() -> None:
    spaced = FINISH.replace('"finish_reason": ', '"finish_reason" :  ')
    out, relay = run(wired([TEXTS[0], spaced]), [])
    assert out == wired([TEXTS[0], spaced]) + DONE and relay.fault is None


def test_events_and_held_bytes_are_bounded() -> None:
    for cuts in ([], list(range(900))):
        out, relay = run(wired([TEXTS[0]]) + b"data: " + b"x" * 300, cuts, limit=200)
        assert relay.fault is not None and relay.fault.code == "event_too_large" and relay.fault.retry
        assert out == wired([TEXTS[0]])
    out, relay = run(wired([ROLE] * 4), [], limit=3 * len(ROLE))
    assert out == b"" and relay.fault is not None and "without any content" in relay.fault.message
    out, relay = run(wired([ERRORS[0]]) + b"x" * 999, [], limit=200)
    assert relay.fault is not None and relay.fault.message == "boom"  # the first fault stands


# --- whole answers


def test_a_whole_answer_is_gathered_under_a_cap() -> None:
    answer = WholeAnswer("gpu", 5)
    assert answer.body() == b""
    assert answer.feed(b"ab") is None and answer.body() == b"ab"
    assert answer.feed(b"cde") is None and answer.body() == b"abcde"
    fault = answer.feed(b"f")
    assert fault is not None and fault.code == "answer_too_large" and not fault.retry


@pytest.mark.parametrize(
    ("body", "headers", "good", "cut"),
    [
        (b'{"a":{}', {}, True, True),
        (b'{"a":{}}', {}, True, False),
        (b"[" * 100_000, {}, True, True),
        (b'{"a":{}', {b"content-length": b"7"}, True, False),
        (b'{"a":{}', {b"transfer-encoding": b"chunked"}, True, False),
        (b"<html>", {}, False, False),
    ],
)
def test_an_unframed_answer_must_be_whole_json(body: bytes, headers: dict[bytes, bytes], good: bool, cut: bool) -> None:
    answer = WholeAnswer("gpu", LIMIT, good)
    answer.feed(body)
    fault = answer.cut(headers)
    assert (fault is not None) is cut
    assert fault is None or (fault.code == "connection_lost" and fault.retry)


PRETTY = json.dumps({"error": {"message": "boom", "code": 429}}, indent=2).encode()


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"error":{"message":"boom"}}', "boom"),
        (b'{"object":"error","message":"x","error":"boom"}', "boom"),
        (PRETTY, "boom"),
        (b" \r\n" + PRETTY.replace(b"\n", b"\r\n") + b"\n", "boom"),
        (b"<html>502</html>", "answered 200 with something that is not JSON"),
        (b"", "answered 200 with something that is not JSON"),
        (b'{"cut', "answered 200 with something that is not JSON"),
    ],
)
def test_a_200_that_is_none(body: bytes, message: str) -> None:
    fault = check_whole(body, "gpu")
    assert isinstance(fault, Fault) and message in fault.message and fault.origin == "backend"


@pytest.mark.parametrize(
    "body",
    [
        b'{"choices":[{"message":{"content":"error"}}]}',
        b'{"error":null,"data":[]}',
        b'{"choices":[],"error":{"message":"x"}}',
        b'{"results":[{"document":{"text":"error"}}]}',
        b"[]",
        b"  {}\n",
    ],
)
def test_a_200_that_is_one(body: bytes) -> None:
    assert check_whole(body, "gpu") is None
