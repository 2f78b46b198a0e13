"""n choices from a target that gives one: whole answers joined, streams interleaved, and every bad end of one the end of all."""

from __future__ import annotations

import json
from typing import Any

import pytest

from backends.fanout import MAX_CHOICES, Fan, joined, summed
from backends.translate import Translating
from backends.types import Fault, Target
from tests.backends.seen import Seen
from tests.backends.test_translate import DONE, JSON, SSE, Leaving, Wire, call, link, sent


def chunk(text: str, id: str = "c", **more: Any) -> bytes:
    delta = {"index": 0, "delta": {"content": text}, "finish_reason": None}
    return b"data: " + json.dumps({"id": id, "choices": [delta], **more}).encode() + b"\n\n"


def usage_event(output: int) -> bytes:
    usage = {"prompt_tokens": 5, "completion_tokens": output, "total_tokens": 5 + output}
    return b"data: " + json.dumps({"id": "c", "choices": [], "usage": usage}).encode() + b"\n\n"


def fan(n: int = 2, seen: Seen | None = None, stream: bool = True) -> tuple[Wire, Seen, Fan]:
    carrier, seen, flight = sent({"n": n, "stream": stream}, seen)
    assert isinstance(flight, Fan) and len(carrier.sent) == n
    assert all(b'"n"' not in body for _, body, _ in carrier.sent)
    assert flight.notes[-1].param == "n" and flight.notes[-1].fate == "emulated"
    return carrier, seen, flight


def events(seen: Seen) -> list[Any]:
    return [e if e == b"[DONE]" else json.loads(e) for e in (p[6:] for p in seen.body.split(b"\n\n")[:-1])]


@pytest.mark.parametrize("n", [0, -1, MAX_CHOICES + 1, "two", 1.5, [2]])
def test_how_many_choices_may_be_asked(n: Any) -> None:
    with pytest.raises(Fault, match=f"'n' must be a whole number from 1 to {MAX_CHOICES}") as failure:
        sent({"n": n})
    assert failure.value.param == "n"


@pytest.mark.parametrize("n", [1, None])
def test_one_choice_is_no_fan(n: Any) -> None:
    carrier, _, flight = sent({"n": n})
    assert isinstance(flight, Translating) and b'"n"' not in carrier.sent[0][1]


def test_a_target_that_can_is_asked_once() -> None:
    carrier = Wire()
    link(carrier, many=True).send(call({"n": 3}), Target("far", "own"), None, Seen())
    assert len(carrier.sent) == 1 and b'"n":3' in carrier.sent[0][1]


def test_streams_are_interleaved() -> None:
    carrier, seen, flight = fan()
    flight.pause()
    flight.resume()
    a, b = flight.legs
    for leg in (b, a):
        leg.on_head(200, SSE)
    b.on_data(chunk("B1", "first") + b": comment\n\n")
    a.on_data(chunk("A1", "second"))
    a.on_data(usage_event(3) + DONE)
    a.on_end()
    assert not seen.over
    b.on_data(chunk("B2"))
    b.on_data(usage_event(4))
    b.on_data(DONE)
    b.on_end()
    assert seen.calls == ["head", "data", "data", "data", "data", "end"]
    found = [p for p in seen.body.split(b"\n\n") if p.startswith(b"data: {")]
    told = [json.loads(p[6:]) for p in found]
    assert [(c["index"], c["delta"]["content"]) for t in told[:-1] for c in t["choices"]] == [(1, "B1"), (0, "A1"), (1, "B2")]
    assert {t["id"] for t in told[:-1]} == {"first"} and seen.body.count(b"[DONE]") == 1 and b": comment\n\n" in seen.body
    assert told[-1]["usage"] == {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12}
    assert all(f.asked == ["pause", "resume"] for f in carrier.flights)


def test_streams_without_usage() -> None:
    _, seen, flight = fan()
    for leg in flight.legs:
        leg.on_head(200, SSE)
    for leg in flight.legs:
        leg.on_data(b'data: {"id":"x"}\n\n' + DONE)
        leg.on_end()
    assert [e for e in events(seen)] == [{"id": "x", "choices": []}] * 2 + [b"[DONE]"] and seen.outcome == "ok"


def test_a_stream_in_one_piece_among_others() -> None:
    _, seen, flight = fan()
    flight.legs[0].on_whole(200, {b"content-type": b"text/event-stream"}, chunk("A") + DONE)
    flight.legs[1].on_whole(200, {b"content-type": b"text/event-stream"}, b"")
    assert seen.outcome == "stream_cut"


def test_whole_answers_are_joined() -> None:
    _, seen, flight = fan(stream=False)
    for leg, output in zip(flight.legs, (3, 4), strict=True):
        body = {"id": f"c{output}", "choices": [{"index": 0}], "usage": {"prompt_tokens": 5, "completion_tokens": output}}
        assert not seen.calls
        leg.on_whole(200, JSON, json.dumps(body).encode())
    assert json.loads(seen.body) == {
        "id": "c3", "choices": [{"index": 0}, {"index": 1}], "usage": {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12},
    }  # fmt: skip
    flight.legs[0].on_whole(200, JSON, b"{}")
    assert seen.calls == ["whole"]


def test_what_joining_finds_no_usage_in() -> None:
    assert json.loads(joined([b'{"id":"a"}', b'{"choices":[{}]}'])) == {"id": "a", "choices": [{"index": 0}]}
    details = {"completion_tokens_details": {"reasoning_tokens": 2, "x": None}}
    assert summed([details, {"completion_tokens": 3}, details]) == {
        "completion_tokens": 3, "total_tokens": 3, "completion_tokens_details": {"reasoning_tokens": 4, "x": 0},
    }  # fmt: skip


def test_one_that_fails_ends_all() -> None:
    carrier, seen, flight = fan(3)
    flight.legs[1].on_head(200, SSE)
    flight.legs[2].on_fault(Fault("timeout", "late", code="idle_timeout"))
    flight.legs[0].on_fault(Fault("timeout", "late"))
    flight.legs[0].on_head(200, SSE)
    flight.legs[1].on_data(chunk("x"))
    flight.legs[1].on_end()
    assert seen.calls == ["head", "fault"] and seen.outcome == "idle_timeout"
    assert all("cancel" in f.asked for f in carrier.flights)


def test_the_first_error_answer_goes_on_alone() -> None:
    carrier, seen, flight = fan(3, stream=False)
    flight.legs[1].on_whole(429, JSON, b"SLOW")
    flight.legs[0].on_head(500, JSON)
    assert (seen.calls, seen.status, seen.body) == (["head", "data", "end"], 429, b"SLOW")
    assert [f.asked for f in carrier.flights] == [["cancel"], [], ["cancel"]]
    _, seen, flight = fan(2, stream=False)
    flight.legs[0].on_whole(503, JSON, b"")
    assert seen.calls == ["head", "end"]
    _, seen, flight = fan(2, stream=False)
    flight.legs[0].on_head(503, JSON)
    flight.legs[1].on_head(500, JSON)
    flight.legs[0].on_data(b"A")
    flight.legs[0].on_end()
    assert (seen.status, seen.body, seen.ended) == (503, b"A", True)


def test_an_error_answer_after_a_stream_has_begun() -> None:
    _, seen, flight = fan()
    flight.legs[0].on_head(200, SSE)
    flight.legs[1].on_head(429, JSON)
    assert seen.outcome == "choice_failed" and "status 429" in str(seen.fault)


def test_an_error_event_stops_the_others() -> None:
    carrier, seen, flight = fan()
    for leg in flight.legs:
        leg.on_head(200, SSE)
    flight.legs[0].on_data(chunk("A") + b'data: {"error":{"message":"x"}}\n\n' + chunk("late"))
    assert seen.body.endswith(b'data: {"error":{"message":"x"}}\n\n') and carrier.flights[1].asked == ["cancel"]


def test_streams_and_whole_answers_do_not_mix() -> None:
    for first in (0, 1):
        _, seen, flight = fan()
        flight.legs[first].on_whole(200, JSON, b"{}") if first else flight.legs[first].on_head(200, SSE)
        flight.legs[1 - first].on_head(200, SSE) if first else flight.legs[1 - first].on_whole(200, JSON, b"{}")
        assert seen.outcome == "choice_failed"


def test_a_receiver_that_cancels_with_the_last_event_of_all() -> None:
    leaving = Leaving()
    _, _, flight = fan(seen=leaving)
    leaving.flight = flight
    for leg in flight.legs:
        leg.on_head(200, SSE)
        leg.on_data(DONE)
    for leg in flight.legs:
        leg.on_end()
    assert leaving.calls == ["head", "data"]
    for leg in flight.legs:
        leg.on_end()


def test_a_fan_that_cannot_be_sent_whole_is_taken_back() -> None:
    carrier = Wire(refuse=2)
    with pytest.raises(Fault, match="full"):
        link(carrier).send(call({"n": 3}), Target("far", "own"), None, Seen())
    assert [f.asked for f in carrier.flights] == [["cancel"], ["cancel"]]
    unsent = Fan(2, Seen(), (), "far")
    unsent.pause()
    unsent.resume()
