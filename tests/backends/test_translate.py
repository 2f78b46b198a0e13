"""The link that translates: the order of calls, ends of all kinds, and nothing after an end."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from backends import translate, wire
from backends.dialects.types import Context, Facts, Note, Request
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
    with pytest.raises(Fault, match="does not take embeddings; it takes: chat"):
        link(carrier).send(call(api="embeddings"), Target("far", "own"), None, Seen())
    with pytest.raises(Fault, match="No"):
        link(carrier).send(call({"bad": 1}), Target("far", "own"), None, Seen())
    with pytest.raises(Fault) as pending:
        link(carrier, auth=Locked()).send(call(), Target("far", "own"), None, Seen())
    assert pending.value.code == "credentials_pending"
    with pytest.raises(ValueError, match=r"^backend 'far': a header has a line break in it$"):
        link(carrier, headers={"a": "b\r\nc: d"})
    assert not carrier.sent
    link(carrier).send(call(), Target("far", "own", strict=False), Timeouts(idle=4.0), Seen())
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
    assert seen.headers == {b"content-type": b"application/json", b"request-id": b"r1", b"x-pointsman-parameters": b"user=dropped"}


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
