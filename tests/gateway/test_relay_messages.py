"""A stream of Messages that needs no translation: the same however it is cut, and never more than it may."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends import wire
from backends.types import Usage
from gateway.relay_events import EventRelay
from gateway.relay_messages import MessagesRelay, usage_of

LIMIT = 1 << 20


def event(kind: str, **fields: Any) -> str:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}"


def block(index: int, **content: Any) -> str:
    return event("content_block_start", index=index, content_block=content)


def delta(index: int, **content: Any) -> str:
    return event("content_block_delta", index=index, delta=content)


USAGE = {"input_tokens": 25, "cache_read_input_tokens": 100, "cache_creation_input_tokens": 7, "output_tokens": 1}
START = event("message_start", message={"id": "msg_1", "type": "message", "role": "assistant", "content": [], "model": "c", "usage": USAGE})
PING = event("ping")
COMMENT = ": keep-alive"
STOP = event("content_block_stop", index=0)
EMPTY = block(0, type="text", text="")
TEXT = delta(0, type="text_delta", text="Hé \U0001f44b")
TRICKY = [
    delta(0, type="text_delta", text=text)
    for text in ('{"type":"message_stop"}', "event: error", '"error"', 'data: {"type":"error"}\n\n', "message_delta", "event: message_stop")
]
FINISH = event("message_delta", delta={"stop_reason": "end_turn", "stop_sequence": None}, usage={"output_tokens": 12})
END = event("message_stop")
ERROR = event("error", error={"type": "overloaded_error", "message": "boom"})
ERRORS = [ERROR, "event: error\ndata: boom", 'data: {"type": "error", "error": {"message": "boom"}}', "event:error\ndata: boom"]

# Whole answers as Anthropic's documentation shows them.
GOLDEN = {
    "text": [START, PING, EMPTY, TEXT, *TRICKY, PING, STOP, FINISH, END],
    "thinking": [
        START, block(0, type="thinking", thinking="", signature=""), delta(0, type="thinking_delta", thinking="hm"),
        delta(0, type="signature_delta", signature="c2ln"), STOP, block(1, type="redacted_thinking", data="eHg="), STOP, EMPTY, TEXT, STOP,
        FINISH, END,
    ],
    "signature only": [
        START, block(0, type="thinking", thinking="", signature=""), delta(0, type="signature_delta", signature="c2ln"), STOP, FINISH, END,
    ],
    "tool": [
        START, block(0, type="tool_use", id="toolu_1", name="f", input={}), delta(0, type="input_json_delta", partial_json=""),
        delta(0, type="input_json_delta", partial_json='{"error": "message_'), delta(0, type="input_json_delta", partial_json='x"}'), STOP,
        event("message_delta", delta={"stop_reason": "tool_use", "stop_sequence": None}, usage={**USAGE, "output_tokens": 12}), END,
    ],
    "nothing said": [START, PING, FINISH, END],
    "server tool": [
        START, block(0, type="server_tool_use", id="srvtoolu_1", name="web_search", input={}), STOP,
        block(1, type="web_search_tool_result", tool_use_id="srvtoolu_1", content=[]), STOP, event("new_event", x=1), FINISH, END,
    ],
}  # fmt: skip
CASES = [pytest.param(events, id=name) for name, events in GOLDEN.items()]


def wired(events: list[str], eol: str = "\n") -> bytes:
    return "".join(event.replace("\n", eol) + eol + eol for event in events).encode()


def run(stream: bytes, cuts: list[int], limit: int = LIMIT) -> tuple[bytes, MessagesRelay]:
    """What comes out when `stream` is fed in parts cut at those places, up to a fault or its close."""
    relay = MessagesRelay("claude", limit)
    out = b""
    for start, end in itertools.pairwise([0, *sorted({c % (len(stream) + 1) for c in cuts}), len(stream)]):
        if start < end:
            out += relay.feed(stream[start:end])
            if relay.fault is not None:
                return out, relay
    return out + relay.close(), relay


def splits(size: int) -> list[list[int]]:
    return [[], list(range(size)), *([at] for at in range(1, size))]


@pytest.mark.parametrize("eol", ["\n", "\r\n"])
@pytest.mark.parametrize("events", CASES)
def test_every_split_gives_the_same_bytes(events: list[str], eol: str) -> None:
    stream = wired(events, eol)
    for cuts in splits(len(stream)):
        out, relay = run(stream, cuts)
        assert (out, relay.fault, relay.committed, relay.finished) == (stream, None, True, True)
        assert relay.usage_event is not None and wire.usage(relay.usage_event) == Usage(25, 100, 7, 12)


@pytest.mark.parametrize("events", CASES)
def test_a_cut_stream_is_a_prefix_of_whole_events_and_a_fault(events: list[str]) -> None:
    stream = wired(events)
    for size in range(len(stream) - len(wired(["}"])) + 1):  # all but the last event's last brace
        for cuts in ([], [size // 2, size - 5]):
            out, relay = run(stream[:size], cuts)
            assert relay.fault is not None and relay.fault.code == "stream_cut" and relay.fault.retry
            assert stream.startswith(out) and (not out or out.endswith(b"\n\n")) and not out.endswith(wired([END]))


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("events", CASES)
def test_an_error_anywhere_is_a_fault_and_nothing_after_it_leaks(events: list[str], error: str) -> None:
    for at in range(len(events)):
        stream = wired([*events[:at], error, *events[at:]])
        for cuts in ([], list(range(len(stream)))):
            out, relay = run(stream, cuts)
            assert relay.fault is not None and relay.fault.message == "boom" and relay.fault.origin == "backend"
            assert out == (wired(events[:at]) if relay.committed else b"")


def test_an_overloaded_backend_may_be_tried_elsewhere() -> None:
    _, relay = run(wired([START, ERROR]), [])
    assert relay.fault is not None and (relay.fault.status, relay.fault.retry, relay.fault.type) == (503, True, "overloaded_error")


def test_nothing_is_sent_before_content_and_comments_are_dropped() -> None:
    relay = MessagesRelay("claude", LIMIT)
    assert relay.feed(wired([COMMENT, START, PING, EMPTY, COMMENT, delta(0, type="text_delta", text="")])) == b""
    assert not relay.committed
    out = relay.feed(wired([TEXT, COMMENT]))
    assert relay.committed and out == wired([START, PING, EMPTY, delta(0, type="text_delta", text=""), TEXT, COMMENT])


def test_the_end_is_held_until_the_close_and_nothing_follows_it() -> None:
    relay = MessagesRelay("claude", LIMIT)
    assert relay.feed(wired([START, EMPTY, TEXT, STOP, FINISH, END])) == wired([START, EMPTY, TEXT, STOP, FINISH])
    assert relay.feed(wired([TEXT, ERROR])) == b"" and relay.fault is None
    assert relay.close() == wired([END])


@pytest.mark.parametrize("missing", ["\n", "\n\n", "\r\n", "\n\r\n", "\r\n\r\n"])
def test_a_last_event_without_its_empty_line(missing: str) -> None:
    eol = "\r\n" if "\r" in missing else "\n"
    events = GOLDEN["text"]
    out, relay = run(wired(events, eol).removesuffix(missing.encode()), [])
    assert relay.fault is None and out == wired(events, eol)
    out, relay = run(wired([*events[:4], ERROR], eol).removesuffix(missing.encode()), [])
    assert relay.fault is not None and relay.fault.message == "boom"
    out, relay = run(wired([START, EMPTY, TEXT, FINISH], eol).removesuffix(missing.encode()), [])
    assert relay.fault is not None and relay.fault.code == "stream_cut" and out == wired([START, EMPTY, TEXT], eol)


def test_an_end_twice_without_its_last_line() -> None:
    out, relay = run(wired([START, EMPTY, TEXT, FINISH, END]) + END.encode(), [])
    assert relay.fault is None and out == wired([START, EMPTY, TEXT, FINISH, END])


def test_bounds() -> None:
    _, relay = run(wired([START])[:-1] * 50, [], limit=4000)
    assert relay.fault is not None and relay.fault.code == "event_too_large"
    _, relay = run(wired([PING]) * 500, [], limit=4000)
    assert relay.fault is not None and relay.fault.code == "event_too_large"
    assert sum(map(len, relay.held)) < 8000
    _, relay = run(wired([START, TEXT]) + b"data: " + b"x" * 5000, [], limit=4000)
    assert relay.fault is not None and relay.fault.code == "event_too_large"


@pytest.mark.parametrize(
    "odd",
    [
        "data: [1]", "data: {bad", "event: message_start", 'data: {"type": "message_start"}', 'data: {"type": 5}',
        'data: {"type": "message_start", "message": 1}',
        'data: {"type": "content_block_start", "content_block": 1}', 'data: {"type": "content_block_delta", "delta": null}',
        'data: {"type": "message_delta", "usage": [1], "delta": 3}', 'data: {"type": "message_delta", "delta": {"stop_reason": null}}',
    ],
)  # fmt: skip
def test_odd_events_pass_and_say_nothing(odd: str) -> None:
    relay = MessagesRelay("claude", LIMIT)
    assert relay.feed(wired([odd])) == b"" and relay.fault is None and not relay.committed
    assert relay.feed(wired([TEXT, odd])) == wired([odd, TEXT, odd])
    assert relay.usage_event is None


def test_an_error_without_anything_is_an_error() -> None:
    _, relay = run(wired(["event: error"]), [])
    assert relay.fault is not None
    _, relay = run(wired(['event: error\ndata: {"type": "error"}']), [])
    assert relay.fault is not None


def test_usage_counts_what_was_told_so_far() -> None:
    _, relay = run(wired([START, EMPTY, TEXT]), [])
    assert relay.usage_event is not None and wire.usage(relay.usage_event) == Usage(25, 100, 7, 1)
    told = {"output_tokens": 9, "output_tokens_details": {"thinking_tokens": 4}, "input_tokens": None, "cache_read_input_tokens": "x"}
    _, relay = run(wired([START, EMPTY, TEXT, event("message_delta", delta={"stop_reason": "end_turn"}, usage=told), END]), [])
    assert relay.usage_event is not None and wire.usage(relay.usage_event) == Usage(25, 0, 7, 5, 4)


def test_usage_of_a_whole_answer() -> None:
    tail = usage_of(json.dumps({"content": [{"text": '"usage":{"input_tokens":1}'}], "usage": USAGE, "model": "c"}).encode())
    assert tail is not None and wire.usage(tail) == Usage(25, 100, 7, 1)
    for body in (b"{}", b"[]", b"", b'{"usage":3}', b"{\xff}"):
        assert usage_of(body) is None


def test_a_dialect_must_say_what_its_events_are() -> None:
    class Mute(EventRelay):
        mark, events = MessagesRelay.mark, MessagesRelay.events

    with pytest.raises(NotImplementedError):
        Mute("x", LIMIT).look(b"data: {}\n\n")


ANY = st.sampled_from([START, PING, COMMENT, EMPTY, TEXT, *TRICKY, STOP, FINISH, END, ERROR])


@given(st.lists(ANY, max_size=8), st.lists(st.integers(0, 9999)))
def test_whatever_comes_is_the_same_however_it_is_cut(events: list[str], cuts: list[int]) -> None:
    stream = wired(events)
    whole, relay = run(stream, [])
    for places in (cuts, list(range(len(stream)))):
        out, other = run(stream, places)
        assert out == whole and repr(other.fault) == repr(relay.fault) and other.committed is relay.committed
    assert wired([event for event in events if event != ERROR]).startswith(whole) or COMMENT in events
