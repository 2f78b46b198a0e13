"""Answers that go on elsewhere: one stream for the client, whatever the pieces; nothing told twice, nothing lost; or a plain error."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.types import Fault
from gateway.continuation import SURE
from gateway.exchange import Exchange
from routing.plan import Continues
from tests.gateway.parts import JSON, SSE, FakeFlight, FakeSink
from tests.gateway.planned import DONE, HEAD, Planned, event, lost, read, text, usage
from tests.gateway.test_exchange import ANSWER, BOOM

LATER: Any = {"id": "chatcmpl-9", "created": 99, "model": "other"}
ROLE = event({"role": "assistant", "content": ""})
END = event({}, "stop")


def begun(world: Planned, *parts: str, doc: dict[str, Any] | None = None) -> tuple[FakeSink, FakeFlight]:
    """A stream that has told `parts`."""
    sink, _ = world.ask({"messages": [{"role": "user", "content": "hi"}], **(doc or {})}, stream=True)
    flight = world.flight
    flight.head(200, SSE)
    flight.data(ROLE)
    flight.data(text(*parts))
    return sink, flight


def asked(flight: FakeFlight) -> dict[str, Any]:
    return {key: json.loads(bytes(value)) for key, value in flight.call.doc.items()}


def test_a_stream_goes_on_with_another_replica() -> None:
    world = Planned(mode="flag")
    sink, first = begun(world, "Hello", " wor", doc={"max_tokens": 10, "seed": 1})
    first.fail(lost())
    second = world.flight
    assert second.replica != first.replica and not sink.done
    doc = asked(second)
    assert doc["messages"][-1] == {"role": "assistant", "content": "Hello wor"} and len(doc["messages"]) == 2
    assert doc["continue_final_message"] is True and doc["add_generation_prompt"] is False
    assert doc["max_tokens"] == 8 and doc["seed"] == 1
    second.head(200, SSE)
    second.data(event({"role": "assistant", "content": ""}, **LATER))
    second.data(text("ld", "!", **LATER))
    second.data(event({}, "stop", **LATER) + usage(20, 3, **LATER) + DONE)
    second.end()
    said, chunks = read(sink.body)
    assert said == "Hello world!"
    assert all({key: chunk[key] for key in HEAD} == HEAD for chunk in chunks)
    roles = [c for chunk in chunks for c in chunk["choices"] if c["delta"].get("role")]
    assert len(roles) == 1
    assert sink.body.endswith(b": continued on %b\n\n" % second.replica.encode() + DONE)
    world.check_idle(1)
    assert world.record.continued == 1 and world.record.attempts == 2 and world.record.fault == "" and world.record.status == 200
    tail = json.loads(world.recorder.tails[-1] or b"{}")["usage"]
    assert (tail["prompt_tokens"], tail["completion_tokens"], tail["total_tokens"]) == (18, 5, 23)
    assert tail["prompt_tokens_details"]["cached_tokens"] == 18


@pytest.mark.parametrize("how", ["lost", "cut", "error event", "idle", "slow close"])
def test_whatever_ends_it(how: str) -> None:
    world = Planned(mode="flag")
    sink, first = begun(world, "a", "b")
    if how == "lost":
        first.fail(lost())
    elif how == "idle":
        first.fail(Fault("timeout", "nothing", origin="backend", code="idle_timeout", retry=True))
    elif how == "cut":
        first.end()
    elif how == "slow close":
        first.data(text("c")[:-20])  # the beginning of an event that is never whole
        first.end()
    else:
        first.data(BOOM)
    world.flight.whole(text("c", **LATER) + END, headers=SSE)
    assert read(sink.body)[0] == "abc"
    world.check_idle(1)


def test_twice_and_usage_for_who_asked() -> None:
    world = Planned(3, mode="flag")
    sink, first = begun(world, "a", "b", doc={"stream_options": {"include_usage": True}, "max_completion_tokens": 9})
    first.fail(lost())
    second = world.flight
    second.head(200, SSE)
    second.data(text("c", "d", **LATER))
    second.fail(lost())
    third = world.flight
    assert asked(third)["messages"][-1]["content"] == "abcd" and asked(third)["max_completion_tokens"] == 5
    third.whole(text("e", **LATER) + END + usage(14, 1, **LATER) + DONE, headers=SSE)
    said, chunks = read(sink.body)
    assert said == "abcde" and chunks[-1]["usage"]["prompt_tokens"] == 10 and chunks[-1]["usage"]["completion_tokens"] == 5
    assert sink.body.endswith(f": continued on {second.replica}, {third.replica}\n\n".encode() + DONE)
    world.check_idle(1)
    assert world.record.continued == 2


@pytest.mark.parametrize("how", ["503", "400", "json", "refused", "silent"])
def test_an_heir_that_fails_is_followed_by_the_next(how: str) -> None:
    world = Planned(3, mode="flag")
    sink, first = begun(world, "a")
    if how == "refused":
        for link in world.links[:3]:
            if link.name != first.replica:
                link.refuse = Fault("unavailable", "no", origin="backend")
        first.fail(lost())
        assert sink.done and sink.error["code"] == "connection_lost"
        world.check_idle(1)
        return
    first.fail(lost())
    second = world.flight
    if how == "503":
        second.whole(b"{}", 503)
    elif how == "json":
        second.whole(ANSWER, headers=JSON)
    elif how == "400":
        second.whole(b'{"error":{"message":"no prefill here"}}', 400)
    else:
        second.whole(ROLE, headers=SSE)
    world.flight.whole(text("b") + END, headers=SSE)
    assert read(sink.body)[0] == "ab"
    world.check_idle(1)


def test_with_nobody_left_the_client_is_told() -> None:
    world = Planned(2, mode="flag")
    sink, first = begun(world, "a")
    first.fail(lost())
    world.flight.fail(lost())
    assert sink.error["code"] == "connection_lost" and sink.body.startswith(ROLE + text("a")) and DONE not in sink.body
    world.check_idle(1)


REASONED = event({"reasoning_content": "hm"})
CALLS = event({"tool_calls": [{"index": 0, "id": "c", "function": {"name": "f", "arguments": "{"}}]})
SCORED = b'data: {"choices":[{"index":0,"delta":{"content":"a"},"logprobs":{"content":[]}}]}\n\n'
SECOND = b'data: {"choices":[{"index":1,"delta":{"content":"a"}}]}\n\n'


@pytest.mark.parametrize("told", [REASONED, REASONED + text("a"), CALLS, text("a") + CALLS, SCORED, SECOND], ids=range(6))
def test_what_is_not_continued(told: bytes) -> None:
    world = Planned(mode="flag")
    sink, _ = world.ask({"messages": [{"role": "user", "content": "hi"}]}, stream=True)
    flight = world.flight
    flight.head(200, SSE)
    flight.data(told)
    flight.fail(lost())
    assert sink.error["code"] == "connection_lost" and sink.body.startswith(told)
    world.check_idle(1)


@pytest.mark.parametrize(
    "doc",
    [
        {"n": 2}, {"logprobs": True}, {"top_logprobs": 2}, {"response_format": {"type": "json_object"}}, {"guided_json": {"a": 1}},
        {"modalities": ["text", "audio"]}, {"structured_outputs": {"regex": "a"}}, {"messages": []}, {"messages": "x"},
        {"messages": [{"role": "assistant", "tool_calls": []}]}, {"messages": [{"role": "assistant", "content": [{"type": "text"}]}]},
    ],
    ids=str,
)  # fmt: skip
def test_requests_that_are_not_continued(doc: dict[str, Any]) -> None:
    world = Planned(mode="flag")
    sink, flight = begun(world, "a", doc=doc)
    flight.fail(lost())
    assert sink.error["code"] == "connection_lost"
    world.check_idle(1)


@pytest.mark.parametrize(
    "doc", [{"n": 1}, {"logprobs": False}, {"response_format": {"type": "text"}}, {"tools": []}, {"top_logprobs": None}]
)
def test_requests_that_are(doc: dict[str, Any]) -> None:
    world = Planned(mode="flag")
    sink, flight = begun(world, "a", doc=doc)
    flight.fail(lost())
    world.flight.whole(text("b") + CALLS + event({}, "tool_calls"), headers=SSE)
    assert read(sink.body)[0] == "ab" and b'"tool_calls"' in sink.body
    world.check_idle(1)


def test_a_clients_own_prefill_is_gone_on_with() -> None:
    world = Planned(mode="prefill")
    sink, flight = begun(world, "b", doc={"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "a"}]})
    flight.fail(lost())
    doc = asked(world.flight)
    assert doc["messages"][1:] == [{"role": "assistant", "content": "ab"}] and "continue_final_message" not in doc
    world.flight.whole(text("c") + END, headers=SSE)
    assert read(sink.body)[0] == "bc"
    world.check_idle(1)


@pytest.mark.parametrize("prompt", ["Once", [1, 2]])
def test_legacy_completions_go_on_by_their_prompt(prompt: Any) -> None:
    world, sink = Planned(mode="prefill"), FakeSink()
    chunk = b'data: {"id":"cmpl-1","choices":[{"index":0,"text":"%b","finish_reason":%b}]}\n\n'
    body = json.dumps({"model": "m", "stream": True, "prompt": prompt}).encode()
    Exchange(world.core, sink, "completions", {b"host": b"localhost"}).start(body)
    flight = world.flight
    flight.head(200, SSE)
    flight.data(chunk % (b" upon", b"null"))
    flight.fail(lost())
    if prompt == "Once":
        assert asked(world.flight)["prompt"] == "Once upon"
        world.flight.whole(chunk % (b" a", b"null") + chunk % (b"", b'"stop"'), headers=SSE)
        datas = [json.loads(e[6:]) for e in sink.body.split(b"\n\n") if e.startswith(b"data: {")]
        assert [c["text"] for one in datas for c in one["choices"]] == [" upon", " a", ""]
    else:
        assert sink.error["code"] == "connection_lost"
    world.check_idle(1)


@pytest.mark.parametrize("stop", [True, False])
def test_an_answer_that_was_told_whole_only_ends(stop: bool) -> None:
    world = Planned(mode="flag")
    sink, flight = begun(world, "a", "b", doc={"max_tokens": 2})
    if stop:
        flight.data(END)
    flight.fail(lost())
    said, chunks = read(sink.body)
    assert said == "ab" and sink.body.endswith(DONE) and chunks[-1]["choices"][0]["finish_reason"] == ("stop" if stop else "length")
    world.check_idle(1)
    assert world.record.fault == "" and world.record.continued == 0


def test_an_answer_begun_anew_is_an_error() -> None:
    world = Planned(mode="flag")
    sink, flight = begun(world, "a")
    flight.fail(lost())
    world.flight.whole(REASONED + text("anew") + END, headers=SSE)
    assert sink.error["code"] == "connection_lost" and read(sink.body)[0] == "a"  # why it ended; not that nobody could mend it
    world.check_idle(1)


LONG = "It was the best of times, it was the worst of times, "


@pytest.mark.parametrize(
    ("mode", "told", "rest", "said"),
    [
        ("prefill", LONG, [LONG, "it was"], LONG + "it was"),  # an echo
        ("prefill", LONG, [LONG[:20], LONG[20:] + "it was"], LONG + "it was"),
        ("prefill", LONG, ["It was the end"], LONG + "It was the end"),  # begins alike and is none
        ("prefill", LONG, ["It was the", " age"], LONG + "It was the age"),
        ("prefill", LONG, [LONG[:9]], LONG + LONG[:9]),  # ends before it is known
        ("prefill", "ha ", ["ha "], "ha ha "),  # too short to be sure
        ("flag", LONG, [LONG], LONG + LONG),  # these never repeat
        ("trimmed", "Hello ", [" world"], "Hello world"),
        ("trimmed", "Hello ", ["world"], "Hello world"),
        ("trimmed", "a\n\n", ["\n", "\n", "b"], "a\n\nb"),
        ("trimmed", "a\n\n", ["\n", "b"], "a\n\nb"),
        ("trimmed", LONG, [LONG.rstrip(), " it was"], LONG + "it was"),
    ],
)
def test_what_the_client_has_is_not_told_again(mode: Continues, told: str, rest: list[str], said: str) -> None:
    assert len(LONG.rstrip()) >= SURE
    world = Planned(mode=mode)
    sink, flight = begun(world, told)
    flight.fail(lost())
    assert asked(world.flight)["messages"][-1]["content"] == (told.rstrip() if mode == "trimmed" else told)
    world.flight.head(200, SSE)
    for part in rest:
        world.flight.data(text(part, **LATER))
    world.flight.data(END)
    world.flight.end()
    assert read(sink.body)[0] == said
    world.check_idle(1)


words = st.lists(st.text(max_size=6), min_size=1, max_size=12).filter(lambda x: any(x))


@given(words, st.data())
def test_any_answer_cut_anywhere_is_whole(parts: list[str], data: st.DataObject) -> None:
    """Events cut into reads at any place, the upstream dying at any place, any number of times: the text is the text."""
    world = Planned(4, mode="flag", retries=3)
    sink, _ = world.ask({"messages": [{"role": "user", "content": "x"}]}, stream=True)
    whole = "".join(parts)
    while world.flights:
        flight = world.flight
        doc = asked(flight)
        last = doc["messages"][-1]
        sent = last["content"] if last["role"] == "assistant" else ""
        assert whole.startswith(sent)
        rest = whole[len(sent) :]
        at = data.draw(st.integers(0, len(rest)))
        stream = ROLE + text(*(p for p in (rest[:at], rest[at:]) if p)) + END + DONE
        dies = len(world.replicas) - 2 > len([f for link in world.links for f in link.flights]) and data.draw(st.booleans())
        upto = data.draw(st.integers(0, len(stream) - len(END + DONE))) if dies else len(stream)
        cut = data.draw(st.integers(0, upto))
        flight.head(200, SSE)
        for piece in (stream[:cut], stream[cut:upto]):
            if piece and not flight.over:
                flight.data(piece)
        if not flight.over:
            if dies:
                flight.fail(lost())
            else:
                flight.end()
    assert read(sink.body)[0] == whole and sink.body.endswith(DONE)
    world.check_idle(1)
