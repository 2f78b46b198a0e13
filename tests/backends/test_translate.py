"""The link that translates, and its fan of several choices: the order of calls, ends of all kinds, and nothing after an end."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from backends import translate, wire
from backends.dialects.types import Context, Facts, Note, Request
from backends.fanout import MAX_CHOICES, Fan, joined, summed
from backends.origin import Origin
from backends.translate import TranslatedLink, Translating, Unsigned
from backends.types import Call, Fault, Flight, Receiver, Target, Timeouts
from routing.types import Link
from tests.backends.seen import Seen

Doc = dict[str, Any]
SSE = {b"content-type": b"text/event-stream; charset=utf-8", b"content-length": b"9", b"request-id": b"r1"}
AWS = {b"content-type": b"application/vnd.amazon.eventstream"}
JSON = {b"content-type": b"application/json", b"content-encoding": b"gzip", b"request-id": b"r1"}
DONE = b"data: [DONE]\n\n"


class Upper:
    """A dialect whose provider speaks in upper case: `reply` and `stream` are easy to follow. A body with `!` cannot be translated."""

    name = "upper"

    def request(self, doc: wire.Doc, context: Context) -> Request:
        if "bad" in doc:
            raise wire.bad("No.", param="bad")
        body = wire.encode({**doc, "model": context.model, "strict": context.strict})
        return Request("/say?x=1", body, (("x-version", "7"),), (Note("user", "dropped", "nobody"),))

    def reply(self, body: bytes, request: Request, context: Context) -> bytes:
        if b"!" in body:
            raise Fault("upstream", "No answer.", origin="backend", retry=True)
        return body.lower()

    def stream(self, request: Request, context: Context) -> Lower:
        return Lower()


class Lower:
    """Holds what has no end of line, gives the rest in lower case, and says goodbye."""

    def __init__(self) -> None:
        self.rest = b""

    def feed(self, data: bytes) -> bytes:
        whole, end, self.rest = (self.rest + data).rpartition(b"\n\n")
        return (whole + end).lower()

    def close(self) -> bytes:
        return self.rest.lower()


class Wire:
    """A carrier that keeps what is sent and hands out the receivers. After `refuse` sends it raises."""

    def __init__(self, url: str = "https://h:1/base", refuse: int = 99) -> None:
        self.name, self.origin = "far", Origin(url)
        self.sent: list[tuple[bytes, bytes, Timeouts]] = []
        self.receivers: list[Receiver] = []
        self.flights: list[Kept] = []
        self.refuse, self.dropped = refuse, 0

    def send(self, payload: tuple[bytes, bytes], receiver: Receiver, timeouts: Timeouts) -> Flight:
        if len(self.sent) == self.refuse:
            raise Fault("unavailable", "full")
        self.sent.append((*payload, timeouts))
        self.receivers.append(receiver)
        self.flights.append(Kept())
        return self.flights[-1]

    def drop(self) -> None:
        self.dropped += 1


class Kept:
    """A flight that remembers what was asked of it."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def pause(self) -> None:
        self.asked.append("pause")

    def resume(self) -> None:
        self.asked.append("resume")

    def cancel(self) -> None:
        self.asked.append("cancel")


class Leaving(Seen):
    """A receiver that cancels its flight as soon as it has data, as one does when an event is an error."""

    flight: Flight

    def on_data(self, data: bytes) -> None:
        super().on_data(data)
        self.flight.cancel()
        self.ended = True


def link(carrier: Wire, *, many: bool = False, **more: Any) -> TranslatedLink:
    return TranslatedLink(carrier, Upper(), more.pop("auth", Unsigned()), lambda model: Facts(many=many), **more)


def call(doc: Doc | None = None, api: str = "chat", headers: dict[bytes, bytes] | None = None) -> Call:
    body = {"model": "m", **(doc or {})}
    return Call(b"req-1", api, "m", bool(body.get("stream")), wire.parse(json.dumps(body).encode()), "", headers or {}, 0.0)


def sent(doc: Doc | None = None, seen: Seen | None = None) -> tuple[Wire, Seen, Any]:
    """A call under way: its carrier, what the client sees, and its flight."""
    carrier, seen = Wire(), seen or Seen()
    flight = link(carrier).send(call(doc), Target("far", "own"), None, seen)
    return carrier, seen, flight


class Signing:
    def lines(self, method: str, path: str, body: bytes) -> bytes:
        assert method == "POST" and path == "/base/say?x=1" and body.startswith(b"{")
        return b"x-signature: s\r\n"


class Locked:
    def lines(self, method: str, path: str, body: bytes) -> bytes:
        raise Fault("unavailable", "No credentials yet.", retry=True, code="credentials_pending")


def test_the_head() -> None:
    carrier = Wire()
    one: Link = link(carrier, auth=Signing(), headers={"X-Team": "red"}, timeouts=Timeouts(idle=3.0))
    traced = {b"traceparent": b"00-1", b"tracestate": b"v", b"authorization": b"Bearer theirs"}
    flight = one.send(call({"x": 1}, headers=traced), Target("far", "own"), None, Seen())
    head, body, timeouts = carrier.sent[0]
    assert head == (
        b"POST /base/say?x=1 HTTP/1.1\r\nhost: h:1\r\nuser-agent: pointsman\r\ncontent-type: application/json\r\n"
        b"accept-encoding: identity\r\nX-Team: red\r\nx-version: 7\r\ntraceparent: 00-1\r\ntracestate: v\r\nx-signature: s\r\n"
        b"x-request-id: req-1\r\ncontent-length: %d\r\n\r\n" % len(body)
    )
    assert json.loads(body) == {"model": "own", "x": 1, "strict": True} and timeouts.idle == 3.0
    assert isinstance(flight, Translating) and flight.notes == (Note("user", "dropped", "nobody"),)
    one.close()
    assert carrier.dropped == 1
    asyncio.run(link(carrier).stop())
    assert carrier.dropped == 2


def test_what_is_not_sent() -> None:
    carrier = Wire()
    with pytest.raises(Fault, match="chat completions only, not embeddings"):
        link(carrier).send(call(api="embeddings"), Target("far", "own"), None, Seen())
    with pytest.raises(Fault, match="No"):
        link(carrier).send(call({"bad": 1}), Target("far", "own"), None, Seen())
    with pytest.raises(Fault) as pending:
        link(carrier, auth=Locked()).send(call(), Target("far", "own"), None, Seen())
    assert pending.value.code == "credentials_pending"
    with pytest.raises(ValueError, match=r"^backend 'far': a header has a line break in it$"):
        link(carrier, headers={"a": "b\r\nc: d"})
    assert not carrier.sent
    link(carrier).send(call(), Target("far", "own"), Timeouts(idle=4.0), Seen(), strict=False)
    assert b'"strict":false' in carrier.sent[0][1] and carrier.sent[0][2].idle == 4.0


@pytest.mark.parametrize("path", ["/a b", "/a\r\nx: y", "/modèle"])
def test_a_path_that_cannot_be_sent(path: str) -> None:
    one = link(Wire())
    with pytest.raises(Fault, match="correct the target") as failure:
        one.written(Request(path, b""), call())
    assert failure.value.kind == "not_found"


def test_a_whole_answer() -> None:
    carrier, seen, _ = sent()
    carrier.receivers[0].on_whole(200, JSON, b"HELLO")
    assert (seen.calls, seen.body) == (["whole"], b"hello")
    assert seen.headers == {b"content-type": b"application/json", b"request-id": b"r1"}


def test_a_whole_answer_in_parts() -> None:
    carrier, seen, _ = sent()
    to = carrier.receivers[0]
    to.on_head(200, JSON)
    to.on_data(b"HEL")
    to.on_data(b"LO")
    assert not seen.calls
    to.on_end()
    assert (seen.calls, seen.body) == (["whole"], b"hello")


def test_an_answer_that_cannot_be_translated() -> None:
    for parts in (False, True):
        carrier, seen, _ = sent()
        to = carrier.receivers[0]
        if parts:
            to.on_head(200, JSON)
            to.on_data(b"!")
            to.on_end()
        else:
            to.on_whole(200, JSON, b"!")
        assert seen.calls == ["fault"] and seen.fault is not None and seen.fault.retry


def test_an_answer_that_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(translate, "MAX_ANSWER", 10)
    carrier, seen, _ = sent()
    to = carrier.receivers[0]
    to.on_head(200, JSON)
    to.on_data(b"x" * 11)
    to.on_data(b"x")
    to.on_end()
    assert seen.outcome == "answer_too_large" and carrier.flights[0].asked == ["cancel"]


@pytest.mark.parametrize("headers", [SSE, AWS])
def test_a_stream(headers: dict[bytes, bytes]) -> None:
    carrier, seen, _ = sent({"stream": True})
    to = carrier.receivers[0]
    to.on_head(200, headers)
    assert seen.headers[b"content-type"] == b"text/event-stream" and b"content-length" not in seen.headers
    to.on_data(b"DA")
    assert seen.calls == ["head"]
    to.on_data(b"TA: A\n\nDATA: ")
    assert seen.body == b"data: a\n\n"
    to.on_data(b"B")
    to.on_end()
    assert (seen.calls, seen.body) == (["head", "data", "data", "end"], b"data: a\n\ndata: b")


def test_a_stream_in_one_piece_and_one_without_a_tail() -> None:
    carrier, seen, _ = sent()
    carrier.receivers[0].on_whole(200, SSE, b"DATA: A\n\nB")
    assert (seen.calls, seen.body) == (["whole"], b"data: a\n\nb") and seen.headers[b"content-type"] == b"text/event-stream"
    carrier, seen, _ = sent()
    carrier.receivers[0].on_head(200, SSE)
    carrier.receivers[0].on_end()
    assert seen.calls == ["head", "end"]


def test_an_error_answer_passes_untouched() -> None:
    carrier, seen, _ = sent()
    carrier.receivers[0].on_whole(429, JSON, b"SLOW")
    assert (seen.status, seen.headers, seen.body) == (429, JSON, b"SLOW")
    carrier, seen, _ = sent()
    to = carrier.receivers[0]
    to.on_head(500, JSON)
    to.on_data(b"OH")
    to.on_end()
    assert (seen.calls, seen.status, seen.body) == (["head", "data", "end"], 500, b"OH")


def test_faults_and_what_is_asked_of_a_flight_go_through() -> None:
    carrier, seen, flight = sent()
    flight.pause()
    flight.resume()
    carrier.receivers[0].on_fault(Fault("timeout", "late", code="idle_timeout"))
    assert seen.outcome == "idle_timeout" and carrier.flights[0].asked == ["pause", "resume"]
    unsent = Translating(Upper(), Request("/", b""), Context("i", 0, "m"), Seen())
    for ask in (unsent.pause, unsent.resume, unsent.cancel):
        ask()  # before there is a connection


def test_nothing_is_called_after_a_cancel() -> None:
    carrier, seen, flight = sent()
    flight.cancel()
    to = carrier.receivers[0]
    to.on_whole(200, JSON, b"X")
    to.on_head(200, SSE)
    to.on_data(b"X")
    to.on_end()
    to.on_fault(Fault("timeout", "late"))
    assert not seen.calls and carrier.flights[0].asked == ["cancel"]


def test_a_receiver_that_cancels_while_it_is_told_the_last() -> None:
    leaving = Leaving()
    carrier, _, flight = sent({"stream": True}, leaving)
    leaving.flight = flight
    to = carrier.receivers[0]
    to.on_head(200, SSE)
    to.on_data(b"TAIL")
    to.on_end()
    assert leaving.calls == ["head", "data"]


# --- several choices


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
