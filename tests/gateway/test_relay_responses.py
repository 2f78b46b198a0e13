"""A stream of Responses that needs no translation: the same however it is cut, and never more than it may."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest

from backends import wire
from backends.types import Usage
from gateway.relay_responses import ResponsesRelay, usage_of

LIMIT = 1 << 20


def event(kind: str, **fields: Any) -> str:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, 'sequence_number': 0, **fields})}"


USAGE = {
    "input_tokens": 30, "input_tokens_details": {"cached_tokens": 20, "cache_write_tokens": 3}, "output_tokens": 9,
    "output_tokens_details": {"reasoning_tokens": 4}, "total_tokens": 39,
}  # fmt: skip
RESPONSE: dict[str, Any] = {"id": "resp_1", "object": "response", "status": "in_progress", "error": None, "output": [], "usage": None}
CREATED = event("response.created", response=RESPONSE)
PROGRESS = event("response.in_progress", response=RESPONSE)
ITEM = event("response.output_item.added", output_index=0, item={"type": "message", "content": []})
REASONING = event("response.output_item.added", output_index=0, item={"type": "reasoning", "summary": []})
CALL = event("response.output_item.added", output_index=1, item={"type": "function_call", "name": "f", "arguments": ""})
PART = event("response.content_part.added", item_id="i", output_index=0, content_index=0, part={"type": "output_text", "text": ""})
TEXT = event("response.output_text.delta", item_id="i", output_index=0, content_index=0, delta="Hé \U0001f44b", logprobs=[])
NOTHING = event("response.output_text.delta", item_id="i", output_index=0, content_index=0, delta="", logprobs=[])
TRICKY = [
    event("response.output_text.delta", item_id="i", output_index=0, content_index=0, delta=text)
    for text in ('{"type":"response.completed"}', "event: error", '"error"', 'data: {"type":"error"}\n\n', "response.failed")
]
THOUGHT = event("response.reasoning_summary_text.delta", item_id="i", output_index=0, summary_index=0, delta="hm")
ARGS = event("response.function_call_arguments.delta", item_id="i", output_index=1, delta='{"error": "x"}')
TEXT_DONE = event("response.output_text.done", item_id="i", output_index=0, content_index=0, text="Hé")
ITEM_DONE = event("response.output_item.done", output_index=0, item={"type": "message"})
END = event("response.completed", response={**RESPONSE, "status": "completed", "usage": USAGE})
SHORT = event("response.incomplete", response={**RESPONSE, "incomplete_details": {"reason": "max_output_tokens"}, "usage": USAGE})
FAILED = event("response.failed", response={**RESPONSE, "error": {"code": "server_error", "message": "boom"}, "usage": USAGE})
ERRORS = [
    event("error", code="server_error", message="boom", param=None), "event: error\ndata: boom", FAILED,
    'data: {"error": {"message": "boom"}}',
]  # fmt: skip
COMMENT = ": keep-alive"
GOLDEN = {
    "text": [CREATED, PROGRESS, ITEM, PART, TEXT, *TRICKY, NOTHING, TEXT_DONE, ITEM_DONE, END],
    "reasoning and a call": [CREATED, PROGRESS, REASONING, THOUGHT, ITEM_DONE, CALL, ARGS, ITEM_DONE, END],
    "incomplete": [CREATED, ITEM, PART, TEXT, SHORT],
    "nothing said": [CREATED, PROGRESS, END],
    "new events": [CREATED, event("response.new_thing.happened"), event("response.output_item.added"), TEXT, END],
}
CASES = [pytest.param(events, id=name) for name, events in GOLDEN.items()]


def wired(events: list[str], eol: str = "\n") -> bytes:
    return "".join(event.replace("\n", eol) + eol + eol for event in events).encode()


def run(stream: bytes, cuts: list[int], limit: int = LIMIT) -> tuple[bytes, ResponsesRelay]:
    """What comes out when `stream` is fed in parts cut at those places, up to a fault or its close."""
    relay = ResponsesRelay("gpt", limit)
    out = b""
    for start, end in itertools.pairwise([0, *sorted({c % (len(stream) + 1) for c in cuts}), len(stream)]):
        if start < end:
            out += relay.feed(stream[start:end])
            if relay.fault is not None:
                return out, relay
    return out + relay.close(), relay


@pytest.mark.parametrize("eol", ["\n", "\r\n"])
@pytest.mark.parametrize("events", CASES)
def test_every_split_gives_the_same_bytes(events: list[str], eol: str) -> None:
    stream = wired(events, eol)
    for cuts in ([], list(range(len(stream))), *([at] for at in range(1, len(stream)))):
        out, relay = run(stream, cuts)
        assert (out, relay.fault, relay.committed, relay.finished) == (stream, None, True, True)
        assert relay.usage_event is not None and wire.usage(relay.usage_event) == Usage(7, 20, 3, 5, 4)


@pytest.mark.parametrize("events", CASES)
def test_a_cut_stream_is_a_prefix_of_whole_events_and_a_fault(events: list[str]) -> None:
    stream = wired(events)
    for size in range(len(stream) - len(wired(["}"])) + 1):  # all but the last event's last brace
        for cuts in ([], [size // 2, size - 5]):
            out, relay = run(stream[:size], cuts)
            assert relay.fault is not None and relay.fault.code == "stream_cut" and relay.fault.retry
            assert stream.startswith(out) and (not out or out.endswith(b"\n\n")) and not out.endswith(wired(events[-1:]))


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("events", CASES)
def test_an_error_anywhere_is_a_fault_and_nothing_after_it_leaks(events: list[str], error: str) -> None:
    for at in range(len(events)):
        stream = wired([*events[:at], error, *events[at:]])
        for cuts in ([], list(range(len(stream)))):
            out, relay = run(stream, cuts)
            assert relay.fault is not None and relay.fault.message == "boom" and relay.fault.origin == "backend"
            assert out == (wired(events[:at]) if relay.committed else b"")


def test_a_failure_is_kept_for_a_stream_that_has_begun() -> None:
    out, relay = run(wired([CREATED, TEXT, FAILED]), [])
    assert out == wired([CREATED, TEXT]) and relay.done == wired([FAILED])
    assert relay.fault is not None and relay.fault.code == "server_error"
    assert relay.usage_event is not None and wire.usage(relay.usage_event) == Usage(7, 20, 3, 5, 4)
    _, relay = run(wired(['data: {"type": "response.failed", "response": {"usage": 3}}']), [])
    assert relay.fault is not None and relay.fault.message == "The response failed without a reason." and relay.usage_event is None


def test_nothing_is_sent_before_content_and_comments_are_dropped() -> None:
    relay = ResponsesRelay("gpt", LIMIT)
    assert relay.feed(wired([COMMENT, CREATED, PROGRESS, ITEM, PART, NOTHING, COMMENT])) == b"" and not relay.committed
    assert relay.feed(wired([TEXT, COMMENT])) == wired([CREATED, PROGRESS, ITEM, PART, NOTHING, TEXT, COMMENT])
    assert relay.committed


def test_the_end_is_held_until_the_close_and_nothing_follows_it() -> None:
    relay = ResponsesRelay("gpt", LIMIT)
    assert relay.feed(wired([CREATED, TEXT, END])) == wired([CREATED, TEXT])
    assert relay.feed(wired(["data: [DONE]", TEXT, ERRORS[0]])) == b"" and relay.fault is None
    assert relay.close() == wired([END])


@pytest.mark.parametrize("missing", ["\n", "\n\n"])
def test_a_last_event_without_its_empty_line(missing: str) -> None:
    for events in (GOLDEN["text"], GOLDEN["nothing said"]):
        out, relay = run(wired(events).removesuffix(missing.encode()), [])
        assert relay.fault is None and out == wired(events)
    out, relay = run(wired([CREATED, TEXT, FAILED]).removesuffix(missing.encode()), [])
    assert relay.fault is not None and relay.fault.message == "boom" and out == wired([CREATED, TEXT])


@pytest.mark.parametrize("odd", ["data: [1]", "data: {bad", "event: x", 'data: {"type": 5}', ITEM])
def test_odd_events_pass_and_say_nothing(odd: str) -> None:
    relay = ResponsesRelay("gpt", LIMIT)
    assert relay.feed(wired([odd])) == b"" and relay.fault is None and not relay.committed
    assert relay.feed(wired([TEXT, odd])) == wired([odd, TEXT, odd])


def test_an_error_without_anything_is_an_error() -> None:
    _, relay = run(wired(["event: error"]), [])
    assert relay.fault is not None


def test_usage_that_makes_no_sense_is_bounded() -> None:
    usage = {"input_tokens": 3, "input_tokens_details": {"cached_tokens": 9}, "output_tokens": "x"}
    tail = usage_of(json.dumps({"usage": usage}).encode())
    assert tail is not None and wire.usage(tail) == Usage(0, 3)
    tail = usage_of(b'{"usage":{"input_tokens":3,"output_tokens":2}}')
    assert tail is not None and wire.usage(tail) == Usage(3, output=2)
    for body in (b"{}", b"[]", b"", b'{"usage":3}'):
        assert usage_of(body) is None
