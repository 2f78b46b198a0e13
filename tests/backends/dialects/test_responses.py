"""Answers of Responses beyond the golden cases: all the ways of engines, state that comes back, errors, bounds."""

from __future__ import annotations

import base64
import json
import zlib
from typing import Any

import pytest
from hypothesis import given as drawn
from hypothesis import strategies as st

from backends import wire
from backends.dialects import responses_answer, responses_state, responses_stream
from backends.dialects.responses import Responses
from backends.dialects.types import Context
from backends.types import Fault

CONTEXT = Context("req-1", 1_700_000_000, "m", True)


def doc(**keys: Any) -> wire.Doc:
    return wire.parse(wire.encode({"model": "m", "input": "x"} | keys))


def chunk(delta: dict[str, Any], finish: str | None = None, **keys: Any) -> bytes:
    return b"data: " + wire.encode({"choices": [{"index": 0, "delta": delta, "finish_reason": finish}], **keys}) + b"\n\n"


def streamed(*data: bytes, **keys: Any) -> tuple[list[dict[str, Any]], bytes | None]:
    """The events of a whole stream, and what is stored of it."""
    stream = Responses().stream(doc(stream=True, **keys), CONTEXT)
    out = b"".join(stream.feed(part) for part in data) + stream.close()
    events = [json.loads(event.split(b"data: ", 1)[1]) for event in out.split(b"\n\n") if event]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    return events, stream.final


def output(*data: bytes, **keys: Any) -> list[dict[str, Any]]:
    events, final = streamed(*data, **keys)
    assert final is not None and json.loads(final) == events[-1]["response"]
    items: list[dict[str, Any]] = events[-1]["response"]["output"]
    return items


def back(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The messages that these items become when a client sends them back."""
    chat, _ = Responses().request(doc(input=[*items, {"role": "user", "content": "y"}]))
    messages: list[dict[str, Any]] = json.loads(bytes(chat["messages"]))
    return messages[:-1]


def google(signature: str) -> dict[str, Any]:
    return {"google": {"thought_signature": signature}}


def call(index: int, id_: str | None, name: str | None, arguments: Any, **keys: Any) -> dict[str, Any]:
    return {"index": index, "id": id_, "function": {"name": name, "arguments": arguments}, **keys}


def test_signatures_come_back_wherever_they_came() -> None:
    items = output(
        chunk({"content": "A"}),
        chunk({"tool_calls": [call(0, "c1", "look", "{}", extra_content=google("early"))]}),
        chunk({"tool_calls": [call(1, "c2", "look", "{}")]}),
        chunk({"tool_calls": [{"index": 1, "extra_content": google("late")}], "extra_content": google("text")}),
        chunk({"extra_content": {}, "tool_calls": [{"index": 1, "extra_content": 3}]}, "tool_calls"),
    )
    assert [item["type"] for item in items] == ["message", "reasoning", "function_call", "function_call", "reasoning"]
    (message,) = back(items)
    assert message["content"] == "A" and message["extra_content"] == google("text")
    assert [c["extra_content"] for c in message["tool_calls"]] == [google("early"), google("late")]


def test_thinking_blocks_come_back_whole_and_in_order() -> None:
    blocks = [{"type": "redacted_thinking", "data": "r"}, {"type": "thinking", "thinking": "", "signature": "s"}]
    items = output(
        chunk({"thinking_blocks": blocks}),
        chunk({"thinking_blocks": [{"type": "unknown"}, 3]}),
        chunk({"content": "A"}),
        chunk({"reasoning_content": "B"}),
        chunk({"thinking_blocks": [{"type": "thinking", "thinking": "B"}]}),
        chunk({"tool_calls": [call(0, "c1", "look", {"q": 1})]}, "tool_calls"),
    )
    first, second = back(items)
    assert first["thinking_blocks"] == blocks and "reasoning_content" not in first
    assert second["thinking_blocks"] == [{"type": "thinking", "thinking": "B"}] and second["reasoning_content"] == "B"
    assert second["tool_calls"][0]["function"]["arguments"] == '{"q":1}'


def test_reasoning_comes_back_from_clients_that_do_not_send_its_text() -> None:
    items = output(chunk({"reasoning_content": 'Hm\u00e9"m\n'}), chunk({"content": "A"}, "stop"))
    items[0]["content"] = None
    assert back(items)[0]["reasoning_content"] == 'Hm\u00e9"m\n'


@drawn(
    st.text(max_size=2000), st.lists(st.tuples(st.text(), st.text() | st.none())),
    st.dictionaries(st.text(), st.dictionaries(st.text(), st.text(), min_size=1)),
)  # fmt: skip
def test_state_survives_a_round_trip(text: str, blocks: list[tuple[str, str | None]], calls: dict[str, dict[str, str]]) -> None:
    state = responses_state.State(
        r=text or None,
        b=[responses_state.Thinking(a, b) if b is not None else responses_state.Redacted(a) for a, b in blocks],
        c={key: {k: wire.raw(v) for k, v in extra.items()} for key, extra in calls.items()},
    )
    sealed = responses_state.encode(state)
    assert sealed is None if state == responses_state.State() else responses_state.decode(str(sealed)) == state


@drawn(st.text() | st.binary().map(lambda b: "pm0." + base64.urlsafe_b64encode(b).decode()) | st.text().map(lambda t: "pm1." + t))
def test_state_that_was_altered_is_not_ours(content: str) -> None:
    found = responses_state.decode(content)
    assert found is None or isinstance(found, responses_state.State)


def packed(data: bytes, mark: str = "pm1.") -> str:
    return mark + base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def test_state_has_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    assert responses_state.decode(packed(zlib.compress(b'{"r":"' + b"x" * (5 << 20) + b'"}'))) is None
    assert responses_state.decode(packed(zlib.compress(b'{"r":"x"}')[:-1])) is None
    assert responses_state.decode(packed(b"[" * 100_000, "pm0.")) is None
    assert responses_state.decode("pm0." + "A" * responses_state.MOST_ENCODED) is None
    long = responses_state.State(r="x" * 5000, b=[responses_state.Redacted("d")])
    sealed = responses_state.encode(long)
    assert sealed is not None and sealed.startswith("pm1.") and responses_state.decode(sealed) == long
    monkeypatch.setattr(responses_state, "MOST", 4000)
    sealed = responses_state.encode(long)  # too long with its text, which is in the item anyway
    assert sealed is not None and responses_state.decode(sealed) == responses_state.State(b=long.b)
    assert responses_state.encode(responses_state.State(r="x" * 5000)) is None
    monkeypatch.setattr(responses_state, "MOST_ENCODED", 10)
    assert responses_state.encode(responses_state.State(b=long.b)) is None


@pytest.mark.parametrize("id_", ["req-1", "a_b", "weird/\u00e9", "x" * 80])
def test_ids_are_plain_and_name_their_response(id_: str) -> None:
    whole = responses_state.response_id(id_)
    assert whole.isascii() and len(whole) < 80 and "/" not in whole and whole == responses_state.response_id(id_)
    for item in (f"msg_{responses_state.base(id_)}_0", f"fc_{responses_state.base(id_)}_i12"):
        assert responses_state.response_of(item) == whole
    assert responses_state.response_of("nothing") is None and responses_state.response_of("a_b") is None


def test_a_call_may_come_in_all_the_ways_that_engines_have() -> None:
    without_index = {"function": {"name": "look", "arguments": '{"q":'}}
    items = output(
        chunk({"tool_calls": [without_index]}),
        chunk({"tool_calls": [{"function": {"arguments": "1}"}}]}),
        chunk({"tool_calls": [call(1, "c2", "look", '{"q":'), call(1, "c2", "look", "2}")]}),  # id and name again and again
        chunk({"tool_calls": [call(2, "c3", "look", None)]}, "tool_calls"),
    )
    assert [(item["call_id"], item["arguments"]) for item in items] == [
        ("call_req-1_0", '{"q":1}'), ("c2", '{"q":2}'), ("c3", "{}"),
    ]  # fmt: skip


def test_arguments_of_nothing_are_an_error() -> None:
    events, _ = streamed(chunk({"tool_calls": [{"index": 0, "function": {"arguments": "{}"}}]}), chunk({}, "stop"))
    assert [event["type"] for event in events[-2:]] == ["error", "response.failed"]


def test_content_in_parts_is_joined_and_other_content_is_an_error() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert output(chunk({"content": parts}, "stop"))[0]["content"][0]["text"] == "ab"
    events, _ = streamed(chunk({"content": [{"type": "image"}]}))
    assert events[-1]["type"] == "response.failed"
    assert "no text" in events[-1]["response"]["error"]["message"]


def test_text_and_refusal_are_two_parts_of_one_message() -> None:
    (item,) = output(chunk({"content": "a"}), chunk({"refusal": "b"}), chunk({"content": "c"}, "stop"))
    assert [part["type"] for part in item["content"]] == ["output_text", "refusal", "output_text"]


def test_citations_without_text_or_without_a_url_are_left_out() -> None:
    place = {"url": "https://example.org", "start_index": 0, "end_index": 1, "title": "t"}
    cited = {"annotations": [{"type": "url_citation", "url_citation": place}, {"type": "file_citation"}]}
    assert output(chunk(cited), chunk({"refusal": "a"}), chunk(cited, "stop"))[0]["content"] == [{"type": "refusal", "refusal": "a"}]
    assert output(chunk({"content": "a"}), chunk(cited, "stop"))[0]["content"][0]["annotations"] == [{"type": "url_citation", **place}]


def test_what_follows_the_finish_is_still_part_of_the_answer() -> None:
    finish = b'data: {"choices":[{"finish_reason":"stop"}]}\n\n'
    items = output(chunk({"content": "a"}), finish, chunk({"content": "b"}), b"data: [DONE]\n\n", b"data: nonsense\n\n")
    assert [item["content"][0]["text"] for item in items] == ["a", "b"]


def test_other_choices_are_not_mixed_in() -> None:
    other = b'data: {"choices":[{"index":1,"delta":{"content":"b"},"finish_reason":"stop"}]}\n\n'
    assert len(output(chunk({"content": "a"}), other, chunk({}, "stop"))) == 1


@pytest.mark.parametrize("end", [b"data: [DONE]\n\n", b"data: [DONE]"])
def test_an_answer_may_be_empty(end: bytes) -> None:
    events, _ = streamed(end)
    assert [event["type"] for event in events] == ["response.created", "response.in_progress", "response.completed"]


NO_CHUNKS = [b"data: {nonsense}\n\n", b"data: 3\n\n", b'data: {"choices":[{"delta":{"tool_calls":3}}]}\n\n', b"data: [[["]


@pytest.mark.parametrize("data", NO_CHUNKS)
def test_what_is_no_chunk_ends_the_stream_with_an_error(data: bytes) -> None:
    events, final = streamed(data)
    assert [event["type"] for event in events[-2:]] == ["error", "response.failed"]
    assert events[-2]["message"] == events[-2]["error"]["message"] and final is not None


@pytest.mark.parametrize(
    ("event", "code", "told"),
    [
        (b'event: error\ndata: {"message":"m"}\n\n', "server_error", "m"),
        (b"event: error\n\n", "server_error", "The backend reported an error and gave no message."),
        (b"event: error\ndata: burnt\n\n", "server_error", "burnt"),
        (b'data: {"object":"error","message":"m","code":429}\n\n', "rate_limit_exceeded", "m"),
        (b'data: {"error":"text"}\n\n', "server_error", "text"),
        (b'data: {"error":{"message":"m","code":"context_length_exceeded"}}\n\n', "context_length_exceeded", "m"),
    ],
)
def test_every_kind_of_error_event(event: bytes, code: str, told: str) -> None:
    events, _ = streamed(chunk({"content": "a"}), event)
    assert events[-1]["response"]["error"] == {"code": code, "message": told}
    assert events[-1]["response"]["output"][0]["status"] == "incomplete"


def test_fail_ends_a_stream_once() -> None:
    stream = Responses().stream(doc(stream=True), CONTEXT)
    out = stream.fail(Fault("too_large", "No.", param="p"))
    kinds = [line.split(b": ")[1] for line in out.splitlines() if line.startswith(b"event")]
    assert kinds == [b"response.created", b"response.in_progress", b"error", b"response.failed"]
    assert b'"code":"invalid_prompt"' in out
    assert stream.fail(Fault("timeout", "x")) == stream.feed(chunk({"content": "a"})) == stream.close() == b""


def test_events_that_spread_over_lines_and_comments_within() -> None:
    data = b': note\r\ndata: {"choices":\r\ndata: [{"delta":{"content":"a"},"finish_reason":"stop"}]}\r\n\r\n: bye\r\n\r\n'
    stream = Responses().stream(doc(stream=True), CONTEXT)
    out = stream.feed(data)
    assert out.endswith(b": bye\n\n") and b'"delta":"a"' in out


def test_answers_have_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(responses_answer, "MOST", 100)
    monkeypatch.setattr(responses_answer, "MOST_ITEMS", 3)
    monkeypatch.setattr(responses_stream, "MOST_EVENT", 1000)
    plain = [chunk({"content": "x" * 40})] * 3
    calls = [chunk({"tool_calls": [call(i, f"c{i}", "look", "")]}) for i in range(4)]
    for data in (plain, calls, [b"data: " + b"x" * 2000]):
        events, _ = streamed(*data)
        assert events[-1]["type"] == "response.failed"
        assert "more than" in events[-2]["message"] or "exceeds" in events[-2]["message"]


def test_text_that_only_looks_like_the_last_chunk_is_read() -> None:
    """Chunks of the same shape are not parsed; these differ from it by a hair."""
    same = chunk({"content": "one"})
    texts = ["two", 'th"ree', "fo\\ur", "", "\n", "six", "\u00e9"]
    data = [same, *(chunk({"content": text}) for text in texts), same + same, same[:-2].replace(b"one", b"se\nven") + b"\n\n"]
    events, _ = streamed(*data[:-1], chunk({}, "stop"))
    assert [e["delta"] for e in events if e["type"].endswith("text.delta")] == ["one", *filter(None, texts), "one", "one"]
    events, _ = streamed(*data)
    assert events[-1]["type"] == "response.failed"
    thoughts = [chunk({key: text}) for key, text in zip(["reasoning_content"] * 2 + ["content", "reasoning_content"], "abac", strict=True)]
    assert [item["type"] for item in output(*thoughts, chunk({}, "stop"))] == ["reasoning", "message", "reasoning"]
    both = chunk({"content": "x", "reasoning": "x"})  # the text stands there twice: no shape
    assert len(output(both, both, chunk({}, "stop"))) == 4
    twice = chunk({"content": "m"}, model="m")
    assert output(twice, twice.replace(b'"content":"m"', b'"content":"n"'), chunk({}, "stop"))[0]["content"][0]["text"] == "mn"


def test_tier_and_model_are_the_backends() -> None:
    events, final = streamed(chunk({"content": "a"}, model="real", service_tier="flex"), chunk({}, "stop"), service_tier="auto")
    assert events[-1]["response"]["model"] == "real" and events[-1]["response"]["service_tier"] == "flex"
    assert events[0]["response"]["service_tier"] == "auto" and final is not None


@pytest.mark.parametrize("body", [b"", b"nonsense", b'{"choices":[]}', b'{"choices":[{"message":{}}]}', b'{"error":{"message":"m"}}'])
def test_what_is_no_answer_is_the_backends_fault(body: bytes) -> None:
    with pytest.raises(Fault) as e:
        Responses().reply(body, doc(), CONTEXT)
    assert e.value.origin == "backend"


def test_settings_are_told_back_even_when_they_are_no_settings() -> None:
    """The request with them was refused; answers must hold nevertheless."""
    bad = doc(tools=3, text=3, reasoning="x", include=3, tool_choice=None, temperature=None, metadata=None, store=None)
    answer = json.loads(Responses().reply(b'{"choices":[{"message":{"content":"a"},"finish_reason":"stop"}]}', bad, CONTEXT))
    assert (answer["tools"], answer["text"], answer["tool_choice"]) == ([], {"format": {"type": "text"}}, "auto")
    assert (answer["metadata"], answer["store"], answer["temperature"]) == ({}, True, None)


def test_text_that_is_no_utf8_breaks_nothing() -> None:
    """The bytes of a string are not looked into; what must be read and cannot stays as it is."""
    stream = Responses().stream(doc(stream=True, tools=[{"type": "custom", "name": "patch"}]), CONTEXT)
    out = stream.feed(chunk({"reasoning_content": "X"}).replace(b"X", b"\xff"))
    out += stream.feed(chunk({"tool_calls": [call(0, "c", "patch", "X")]}, "stop").replace(b"X", b"\xff")) + stream.close()
    assert out.count(b'"input":"\xff"') == 3 and b'"encrypted_content":null' in out and b"response.completed" in out


def test_errors_have_the_usual_envelope() -> None:
    body = json.loads(Responses().fault(Fault("bad_request", "No.", param="input"), "req-1"))
    assert (body["error"]["message"], body["error"]["param"]) == ("No.", "input")
